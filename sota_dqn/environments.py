"""Environments: built from whatever the user has, and stepped the same way whatever their autoreset mode."""

import contextlib
import functools
import inspect
import multiprocessing.connection
import signal
import threading
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from sota_dqn.checks import check_distinct, check_id
from sota_dqn.seeds import episode_seed
from sota_dqn.spaces import check_spaces

__all__ = [
    "Environments",
    "Outcome",
    "closing_on_error",
    "ended_of",
    "envs_of",
    "is_vector",
    "make_factory",
    "make_vector",
]

MODES = ("sync", "async", "vector_entry_point")
NUM_ENVS = 16  # where the user names no number


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


def make_factory(env, argument="env"):
    """Returns a function of `render_mode` that makes one environment like `env`, or None where that cannot be.

    Args:
        env: An id, a callable that returns a `gymnasium.Env` (it takes `render_mode` when films are made), a
            `gymnasium.Env`, or a `gymnasium.vector.VectorEnv`.
        argument: What the user's argument is called, for the error.

    Raises:
        ValueError: If the id is not registered.
        TypeError: If `env` is none of these.
    """
    if isinstance(env, str):
        check_id(env)
        name = f"ale_py:{env}" if env.startswith("ALE/") else env  # a worker process has yet to import its games
        return functools.partial(gymnasium.make, name, disable_env_checker=True)
    if is_vector(env):
        return None
    if isinstance(env, gymnasium.Env):
        spec = _recipe(env)
        return spec and functools.partial(gymnasium.make, spec, disable_env_checker=True)
    if callable(env) and not hasattr(env, "trainable_variables"):  # a model in its place
        factory = functools.partial(_call, env)
        if hasattr(env, "make_vector"):
            factory.make_vector = env.make_vector  # type: ignore[attr-defined]
        return factory
    raise TypeError(
        f"Argument `{argument}` must be an id, a callable, a gymnasium.Env or a gymnasium VectorEnv. "
        f"Received: {argument}={env!r}"
    )


def make_vector(env, *, num_envs=None, mode=None):
    """Returns a vector environment.

    Args:
        env: As in `make_factory`. An object with a method `make_vector(num_envs)`, such as `Atari`, makes its own.
        num_envs: E; None for 16, or for what a ready environment has.
        mode: None is `"sync"`, which steps in this process; `"async"` has a worker process for each environment,
            `"vector_entry_point"` uses the vector environment that the id is registered with.

    Raises:
        ValueError: If the arguments do not fit together.
    """
    if hasattr(env, "make_vector"):
        if mode is not None:
            raise ValueError(
                "This environment brings its own way of being stepped side by side: leave `vectorization_mode` out. "
                f"Received: env={env!r}, vectorization_mode={mode!r}"
            )
        return env.make_vector(NUM_ENVS if num_envs is None else num_envs)
    mode = "sync" if mode is None else mode
    if mode not in MODES:
        raise ValueError(f"Argument `vectorization_mode` must be one of {MODES}. Received: vectorization_mode={mode!r}")
    factory = make_factory(env)
    if is_vector(env):
        if num_envs not in (None, env.num_envs):
            raise ValueError(
                f"Argument `num_envs` must be that of the vector environment, {env.num_envs}. Received: "
                f"num_envs={num_envs}"
            )
        return env
    if factory is None:
        if num_envs != 1 or mode != "sync":
            raise ValueError(
                "This environment cannot be built again: pass num_envs=1 and vectorization_mode='sync', or a callable "
                f"that makes it. Received: num_envs={num_envs}, vectorization_mode={mode!r}"
            )
        return SyncVectorEnv([lambda: env], autoreset_mode=AutoresetMode.DISABLED)
    num_envs = NUM_ENVS if num_envs is None else num_envs
    if mode == "vector_entry_point":
        if not isinstance(env, str):
            raise ValueError(
                f"`vectorization_mode='vector_entry_point'` needs an environment id. Received: env={env!r}"
            )
        if gymnasium.spec(env).vector_entry_point is None:
            raise ValueError(f"The id is registered without a vector environment of its own. Received: env={env!r}")
        return gymnasium.make_vec(env, num_envs=num_envs, vectorization_mode=mode)
    if callable(env):
        factory = env  # without this package around it, which workers would have to import, and Keras with it
    if mode == "sync":
        vector = SyncVectorEnv([factory] * num_envs, autoreset_mode=AutoresetMode.DISABLED)
        check_distinct(vector.envs)
        return vector
    return _make_async(factory, num_envs)


@contextlib.contextmanager
def closing_on_error(env, close):
    """Calls `close` where the block raises, unless `env` is the user's own environment, which may be used again.

    Args:
        env: What `make_vector` was given.
        close: A function that closes what it returned.
    """
    try:
        yield
    except BaseException:
        if hasattr(env, "make_vector") or make_factory(env) is not None:
            close()
        raise


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
        self.episodes = np.zeros(self.num_envs, "int64")  # begun so far
        self.seed_every = getattr(vector, "seed_every", 0)
        # Since a stream's seed, where they can be replayed, and after how many of them it was reset without one.
        self.actions: list[list[int]] = [[] for _ in range(self.num_envs)]
        self.resets: list[list[int]] = [[] for _ in range(self.num_envs)]
        self._ended = np.zeros(self.num_envs, bool)

    def reset(self):
        """Begins an episode in every stream and returns the first observations, `[E, ...]`."""
        self._ended[:] = False
        every = np.ones(self.num_envs, bool)
        return self._reset(every, every, masked=False)

    def step(self, actions):
        """Steps every environment.

        Args:
            actions: `[E]` integers, counted from 0.

        Returns:
            An `Outcome`.

        Raises:
            RuntimeError: If a worker process has died.
        """
        taken = actions + int(self.action_space.start)
        observation, reward, terminated, truncated, info = self._call(self.vector.step, taken)
        reward, terminated, truncated = np.array(reward, "float64"), np.array(terminated), np.array(truncated)
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
            self.vector.close()

    def _workers(self):
        """Returns the worker processes."""
        return self.vector.processes if isinstance(self.vector, AsyncVectorEnv) else []

    def _terminate(self):
        """Stops all worker processes, whatever they are doing."""
        for process in self._workers():
            process.terminate()
            process.join()
        self.vector.closed = True

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
        """Calls `method`; where a worker process has died, stops the others and says so."""
        try:
            return method(*arguments, **keywords)
        except (EOFError, ConnectionError) as error:
            # Gymnasium forgets the pipe of a worker whose environment has raised: such an error is passed on.
            workers = {i: w for i, w in enumerate(self._workers()) if self.vector.parent_pipes[i] is not None}
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


def envs_of(vector):
    """Returns the environments of a vector environment that steps them in this process, one by one; else none."""
    vector = getattr(vector, "unwrapped", vector)
    return list(vector.envs) if isinstance(vector, SyncVectorEnv) else []


def is_vector(env):
    """Returns whether `env` steps several environments at once; EnvPool's objects do without being a `VectorEnv`."""
    return isinstance(env, VectorEnv) or (hasattr(env, "num_envs") and hasattr(env, "single_observation_space"))


def _call(function, render_mode=None):
    """Makes one environment with the user's callable, which needs to know of `render_mode` only for films."""
    if render_mode is None:
        return function()
    parameters = inspect.signature(function).parameters.values()
    if not any(p.name == "render_mode" or p.kind == p.VAR_KEYWORD for p in parameters):
        raise TypeError(f"An environment's callable must take `render_mode` for films. Received: env={function!r}")
    return function(render_mode=render_mode)


def _recipe(env):
    """Returns the spec from which `env` can be built again, its wrappers included, or None."""
    spec = env.spec
    known = spec is not None and all(wrapper.kwargs is not None for wrapper in spec.additional_wrappers)
    return spec if known else None


def _make_async(factory, num_envs):
    """Returns worker processes that leave Ctrl-C to this process, which then finishes its step first."""
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main else None
    try:
        return AsyncVectorEnv([factory] * num_envs, context="spawn", autoreset_mode=AutoresetMode.DISABLED)
    except (EOFError, ConnectionError) as error:
        raise RuntimeError(
            "The worker processes did not start. A script that uses vectorization_mode='async' must keep its work "
            'under `if __name__ == "__main__":`, since each worker imports it.'
        ) from error
    finally:
        if in_main:
            signal.signal(signal.SIGINT, before)
