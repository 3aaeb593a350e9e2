"""Environments that are stepped the same way whatever their autoreset mode."""

import contextlib
import multiprocessing.connection
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from sota_dqn.seeds import episode_seed
from sota_dqn.spaces import check_spaces

__all__ = ["Environments", "Outcome", "ended_of", "in_float32"]


class Outcome(NamedTuple):
    """One step of all environments."""

    observation: Any  # [E, ...] what to act on next: a new episode's first observation where one has begun
    reward: Any  # [E]
    terminated: Any  # [E] bool
    truncated: Any  # [E] bool
    valid: Any  # [E] bool, False where the environment ignored the action, to reset itself
    ended: Any  # [E] bool, where the episode is over; after a lost life that terminates for learning, it is not
    begun: Any  # [E] bool, True where `observation` begins an episode
    final_observation: Any  # [E, ...] what the step led to, where `begun`; None where nothing was reset on the spot


class Environments:
    """A vector environment whose streams are seeded one by one, as far as it lets itself be reset so.

    In the disabled autoreset mode each ended stream is reset on the spot, as a rule with a seed made from (run seed,
    stream, episode). An environment's state is then its seed and the actions since, so `state` and `restore` need no
    pickle.

    Where a seed costs more than many steps, as with Atari games, which are loaded anew for one, not every episode gets
    one: a stream goes on with its own chance until it has made `seed_every` steps since its seed. Then its state is
    that seed, the actions since, and where it was reset between them.

    Args:
        vector: A `gymnasium.vector.VectorEnv`; its `seed_every`, if it has one, is the least number of steps of a
            stream between two seeds.
        seed: The run's seed.
        first: The run's number of the first stream here, where actor processes share the streams.
    """

    def __init__(self, vector, *, seed, first=0):
        self.vector = vector
        self.seed = seed
        self.first = first
        self.num_envs = vector.num_envs
        self.observation_space = vector.single_observation_space
        self.action_space = vector.single_action_space
        check_spaces(self.observation_space, self.action_space)
        self.mode = AutoresetMode(vector.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self.exact = self.mode == AutoresetMode.DISABLED
        # Whether others than this thread step them. The class tells: a wrapper would lend what is within it.
        self.concurrent = getattr(type(vector), "concurrent", type(vector) is AsyncVectorEnv)
        self._unwrapped = getattr(vector, "unwrapped", vector)  # has the worker processes, if there are any
        self._stepping = False  # whether `begin` has been called, and `step` has not
        self.episodes = np.zeros(self.num_envs, "int64")  # begun so far
        self.seed_every = getattr(vector, "seed_every", 0)
        # Since a stream's seed, where they can be replayed, and after how many of them it was reset without one.
        self.actions: list[list[int]] = [[] for _ in range(self.num_envs)]
        self.resets: list[list[int]] = [[] for _ in range(self.num_envs)]
        self._ended = np.zeros(self.num_envs, bool)
        self._lives = np.zeros(self.num_envs, int) if type(self._unwrapped).__module__.startswith("ale_py") else None

    def reset(self):
        """Begins an episode in every stream and returns the first observations, `[E, ...]`."""
        self._ended[:] = False
        every = np.ones(self.num_envs, bool)
        return self._reset(every, every, masked=False)

    def begin(self, actions):
        """Has every environment stepped in processes or threads of its own, if it is `concurrent`, until `step`.

        Args:
            actions: `[E]` integers, counted from 0.

        Raises:
            RuntimeError: If a worker process has died.
        """
        if self.concurrent:
            self._call(self.vector.step_async, actions + int(self.action_space.start))
            self._stepping = True

    def step(self, actions):
        """Steps every environment, or waits for what `begin` has begun.

        Args:
            actions: `[E]` integers, counted from 0.

        Returns:
            An `Outcome`.

        Raises:
            RuntimeError: If a worker process has died, or Ctrl-C has ended it.
            ValueError: If ale-py's own vector environment ends games with a life.
        """
        if self._stepping:
            outcome = self._call(self.vector.step_wait)
            self._stepping = False
        else:
            outcome = self._call(self.vector.step, actions + int(self.action_space.start))
        observation, reward, terminated, truncated, info = outcome
        reward, terminated, truncated = np.array(reward, "float64"), np.array(terminated), np.array(truncated)
        self._check_lives(terminated, info)
        ended = ended_of(terminated, truncated, info)
        valid = np.ones(self.num_envs, bool)
        begun = ended.copy()
        final_observation = None
        if self.mode == AutoresetMode.NEXT_STEP:
            valid = ~self._ended
            begun = self._ended
            self._ended = ended & valid
            self.episodes += begun
        elif self.mode == AutoresetMode.SAME_STEP:
            if ended.any():
                final_observation = np.array(observation)
                for i in np.flatnonzero(ended):
                    final_observation[i] = info["final_obs"][i]
                self.episodes += ended
        else:
            for stream in range(self.num_envs):
                self.actions[stream].append(int(actions[stream]))
            if ended.any():
                final_observation = np.array(observation)
                seeded = np.array([len(actions) >= self.seed_every for actions in self.actions])
                observation = self._reset(ended, seeded)
        return Outcome(
            np.array(observation), reward, terminated, truncated, valid, ended & valid, begun, final_observation
        )

    def state(self):
        """Returns what `restore` needs, as plain lists of numbers."""
        actions, resets = ([list(numbers) for numbers in kept] for kept in (self.actions, self.resets))
        return {"episodes": self.episodes.tolist(), "actions": actions, "resets": resets}

    def restore(self, state):
        """Brings every stream back to where it was, by replaying its actions since its seed.

        The streams are at different steps since then: each is seeded as many steps before the end as it has made.

        Args:
            state: What `state` returned, from as many streams in the disabled mode.

        Returns:
            The observations `[E, ...]` and for each stream the rewards of its episode. The observations are None where
            an episode has ended at another time: the environment is not deterministic under its seed.
        """
        lengths = np.array([len(actions) for actions in state["actions"]])
        resets = [set(times) for times in state.get("resets", [[] for _ in lengths])]
        self.episodes = np.array(state["episodes"], "int64") - 1 - [len(times) for times in resets]
        every, none = np.ones(self.num_envs, bool), np.zeros(self.num_envs, bool)
        observation = self._reset(every, every, masked=False)
        longest = lengths.max()
        begin = longest - lengths  # each stream's own seed comes just before its first replayed action
        rewards: list[list[float]] = [[] for _ in range(self.num_envs)]
        for time in range(longest):
            starting = begin == time
            if starting.any() and time:
                self.episodes -= starting
                observation = self._reset(starting, every)
            playing = begin <= time
            taken = np.array([state["actions"][e][time - begin[e]] if playing[e] else 0 for e in range(self.num_envs)])
            outcome = self._call(self.vector.step, taken + int(self.action_space.start))
            observation = np.array(outcome[0])
            for stream in np.flatnonzero(playing):
                rewards[stream].append(float(outcome[1][stream]))
            ended = ended_of(*outcome[2:])
            again = playing & [time + 1 - begin[e] in resets[e] for e in range(self.num_envs)]
            if (playing & (ended != again)).any():
                return None, rewards
            if ended.any():  # of those that wait for their turn too
                self.episodes -= ended & ~playing
                observation = self._reset(ended, none)
            for stream in np.flatnonzero(again):
                rewards[stream] = []
        late = (begin == longest) if longest else none  # no step made since their seed
        if late.any():
            self.episodes -= late
            observation = self._reset(late, every)
        self.actions = [list(actions) for actions in state["actions"]]
        self.resets = [sorted(times) for times in resets]
        return observation, rewards

    def close(self, *, terminate=False):
        """Closes the environments and their worker processes; `terminate` does not wait for the workers' consent."""
        if terminate and self._workers():
            self._terminate()
        elif not getattr(self.vector, "closed", False):
            if self._stepping:
                with contextlib.suppress(Exception):  # nobody waits for what they say
                    self.vector.step_wait()
            self.vector.close()

    def _workers(self):
        """Returns the worker processes."""
        return self._unwrapped.processes if isinstance(self._unwrapped, AsyncVectorEnv) else []

    def _terminate(self):
        """Stops all worker processes, whatever they are doing."""
        for process in self._workers():
            process.terminate()
            process.join()
        self._unwrapped.closed = True

    def _reset(self, mask, seeded, *, masked=True):
        """Begins an episode in the streams of `mask`, with a seed in those of `seeded`, and returns all observations.

        `masked` is False for the reset of all streams that comes before anything else.
        """
        for streams, with_seed in ((mask & seeded, True), (mask & ~seeded, False)):
            if not streams.any():
                continue
            options = {"reset_mask": streams.copy()} if masked else None
            observation, _ = self._call(self.vector.reset, seed=self._seeds(streams, with_seed), options=options)
            for stream in np.flatnonzero(streams):
                if with_seed:
                    self.actions[stream], self.resets[stream] = [], []
                else:
                    self.resets[stream].append(len(self.actions[stream]))
        self.episodes += mask
        return np.array(observation)

    def _check_lives(self, terminated, info):
        """Raises ValueError where a game of ale-py's own vector environment has ended with a life, and goes on."""
        if self._lives is None:
            return
        if (terminated & (0 < info["lives"]) & (info["lives"] < self._lives)).any():  # a new game has no fewer
            raise ValueError(
                "An AtariVectorEnv with life_loss_info=True calls a lost life the end of a game that goes on. Pass "
                "sota_dqn.Atari with life_loss=True, which tells them apart, or life_loss_info=False."
            )
        self._lives = np.array(info["lives"])

    def _seeds(self, streams, with_seed):
        """Returns the seeds of the episodes that begin in `streams`, as environments take them."""
        if not with_seed:
            return None
        if not self.exact:  # one seed for all streams: native environments take no list
            return episode_seed(self.seed, self.first, int(self.episodes.sum()))
        return [
            episode_seed(self.seed, self.first + stream, int(self.episodes[stream])) if begins else None
            for stream, begins in enumerate(streams)
        ]

    def _call(self, method, *arguments, **keywords):
        """Calls `method`; where a worker process has died, or ended by Ctrl-C, stops the others and says so."""
        try:
            return method(*arguments, **keywords)
        except KeyboardInterrupt as error:
            # Gymnasium raises here what a worker raised, and forgets its pipe; a second Ctrl-C leaves all of them.
            interrupted = [i for i, _ in enumerate(self._workers()) if self._unwrapped.parent_pipes[i] is None]
            if not interrupted:
                raise
            self._terminate()
            raise RuntimeError(
                f"Ctrl-C reached the worker process of environment {', '.join(map(str, interrupted))} too, which "
                "ended by it. What was learned up to then is intact. Workers that vectorization_mode='async' makes, of "
                "an id or a callable, leave it to this process."
            ) from error
        except (EOFError, ConnectionError) as error:
            # Gymnasium forgets the pipe of a worker whose environment has raised: such an error is passed on.
            workers = {i: w for i, w in enumerate(self._workers()) if self._unwrapped.parent_pipes[i] is not None}
            ended = multiprocessing.connection.wait([w.sentinel for w in workers.values()], timeout=1.0)
            dead = [i for i, worker in workers.items() if worker.sentinel in ended]
            if not dead:
                raise
            self._terminate()
            raise RuntimeError(
                f"The worker process of environment {', '.join(map(str, dead))} died (exit code "
                f"{', '.join(str(workers[i].exitcode) for i in dead)}). What was learned up to then is intact."
            ) from error


def ended_of(terminated, truncated, info):
    """Returns where an episode is over, `[E]` bool; Atari's lost lives are terminations that end nothing."""
    terminated, truncated = np.asarray(terminated), np.asarray(truncated)
    return (terminated & ~info["life_lost"] | truncated) if "life_lost" in info else terminated | truncated


def in_float32(rewards, learned):
    """Returns `rewards` (`[E]`), infinite where float32 cannot hold what is `learned` (`[E]`) of them."""
    with np.errstate(over="ignore"):
        stored = learned.astype("float32")
    return np.where(np.isfinite(stored), rewards, stored)
