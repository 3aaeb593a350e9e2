"""The actor: chooses actions, steps the environments, and collects what they said as rows for the replay."""

import math
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from sota_dqn.checks import flaw_of
from sota_dqn.environments import in_float32
from sota_dqn.types import Steps

__all__ = ["Actor", "Episode"]


class Episode(NamedTuple):
    """An episode that has ended."""

    stream: int
    episode_return: float
    episode_length: int  # environment steps
    policy: str | None = None  # the one of a mixture that played it


class Actor:
    """Steps the environments with the policy, and keeps rows until they are flushed to the learner.

    Args:
        environments: An `Environments`.
        preprocess: A `Preprocessing`.
        frames: A `Frames`.
        discount: gamma, for the returns to go; None where they are not stored.
        clip_rewards: Whether rewards are stored clipped to [-1, 1].
    """

    def __init__(self, environments, preprocess, *, frames, discount, clip_rewards=False):
        self.environments = environments
        self.preprocess = preprocess
        self.frames = frames
        self.discount = discount
        self.clip_rewards = clip_rewards
        num_envs = environments.num_envs
        self.observation = None  # [E, *O], stored with the action that comes next
        self.stacked = None  # [E, k, *O] or the same, what the model sees
        self.count = np.zeros(num_envs, "int64")  # rows that each stream has produced
        self.returns = np.zeros(num_envs)  # of the running episodes
        self.lengths = np.zeros(num_envs, "int64")
        self.writer: Any = None
        self.choice: Any = None
        self.selection: Any = None
        self.begun = np.ones(num_envs, bool)  # where the next action is an episode's first
        self.rewards = np.zeros(num_envs)  # what the last actions brought
        # Since the last termination, where returns to go are stored.
        self._rewards: list[list[float]] = [[] for _ in range(num_envs)]
        self._pending: list[tuple] = []  # (stream, times, returns) of terminated episodes
        self._rows = 0
        self.last_step = math.inf  # an actor in the learner's process makes no step that it is not asked for
        self._torn = False  # whether an error has cut a step short
        self._chosen: Any = None  # actions that wait for `step`, and what `_memory` was after them

    def start(self):
        """Resets the environments."""
        self._begin(self.environments.reset())

    def connect(self, writer, choice, *, selection=None, steps_per_chunk, first_errors=None):
        """Tells where rows go and how actions are chosen.

        Args:
            writer: A `Writer`.
            choice: A `Choice`.
            selection: The `Selection` whose decisions `choice` takes too, or None.
            steps_per_chunk: Steps of all environments between two writes.
            first_errors: A `FirstErrors`, where rows come with their first priorities, or None.
        """
        num_envs = self.environments.num_envs
        self.writer = writer
        self.choice = choice
        self.selection = selection
        self.first_errors = first_errors
        size = num_envs * (steps_per_chunk + 1)
        shapes = writer.state_shapes if choice.recurrent is not None else []
        self._states = [np.zeros((size, *shape), "float32") for shape in shapes]
        shape, dtype = self.preprocess.shape, self.preprocess.dtype
        self._steps = Steps(
            observation=np.zeros((size, *shape), dtype),
            action=np.zeros(size, "int32"),
            reward=np.zeros(size, "float32"),
            terminated=np.zeros(size, "uint8"),
            valid=np.zeros(size, "uint8"),
        )
        self._errors = np.zeros(size if first_errors else 0, "float32")
        self._streams = np.zeros(size, "int64")
        self._times = np.zeros(size, "int64")

    def advance(self, step, learn, clock):
        """Steps every environment once, while the device learns.

        Where environments are stepped by others than this thread, they are at it while it hands over the updates.

        Args:
            step: Environment steps made so far.
            learn: A function that hands the updates that are due to the device. The actions are chosen before them.
            clock: A `Clock`.

        Returns:
            How many environment steps were made, and the `Episode`s that ended.
        """
        if self._chosen is None:  # an error in `learn` leaves them for the next time
            before = self._memory()
            with clock("act"):
                actions = self.choose(step)
            if self.environments.concurrent:
                with clock("idle"):
                    actions = ops.convert_to_numpy(actions)
                with clock("environment"):
                    self._begin_step(actions)
            self._chosen = actions, self._memory()
            self._recall(before)  # a checkpoint written while it learns, or after an error there, is of before them
        learn()
        actions, after = self._chosen
        self._chosen = None
        self._recall(after)
        with clock("idle"):
            actions = ops.convert_to_numpy(actions)
        with clock("environment"):
            return len(actions), self.step(actions)

    def _begin_step(self, actions):
        """Has the environments stepped by `actions` (`[E]`) while this thread goes on, until `step`."""
        self._check_ready(actions)
        self._torn = True
        self.environments.begin(actions)
        self._torn = False

    def _memory(self):
        """Returns what choosing actions changes."""
        selection = self.selection and (self.selection.random.bit_generator.state, self.selection.state())
        return self.choice.memory, selection

    def _recall(self, memory):
        """Brings back what `_memory` returned."""
        self.choice.memory, selection = memory
        if self.selection is not None:
            self.selection.random.bit_generator.state = selection[0]
            self.selection.restore(selection[1])

    @property
    def full(self):
        """Whether the next step may not find room for its rows, and would write those kept so far."""
        return self._rows + 2 * len(self.count) > len(self._times)

    def choose(self, step):
        """Returns the actions to take, `[E]`, still on the device."""
        settings: dict[str, Any] = {"begun": self.begun, "rewards": self.rewards} if self.choice.remembers else {}
        if self.selection is not None:
            settings["which"] = self.selection.select(self.begun, self.lengths, step)
        return self.choice(self.stacked, step, **settings)

    def step(self, actions):
        """Steps every environment and keeps the rows.

        Args:
            actions: `[E]` int32, on the host.

        Returns:
            The `Episode`s that ended.

        Raises:
            ValueError: If one of them is no action, or if a reward or an observation is not finite; it then names the
                environment, the episode and the step.
            RuntimeError: If an earlier step has raised, and the environments are in the middle of it.
        """
        self._check_ready(actions)
        self._torn = True
        outcome = self.environments.step(actions)
        observation = self.preprocess(outcome.observation)
        final = None if outcome.final_observation is None else self.preprocess(outcome.final_observation)
        learned = self._learned(outcome.reward)
        self._check(in_float32(outcome.reward, learned), observation, final, outcome.begun)
        if self.full:
            self.flush()
        every = np.arange(len(actions))
        states = [ops.convert_to_numpy(state) for state in self.choice.before] if self._states else []
        row = (self.observation, actions, learned, outcome.terminated, outcome.valid)
        self._append(every, *row, states, self._values(actions))
        self.returns += outcome.reward * outcome.valid
        self.lengths += outcome.valid
        episodes = self._end(outcome)
        if final is not None:
            ended = np.flatnonzero(outcome.begun)
            self._append(ended, final[ended], 0, 0.0, False, False)
        self.observation = observation
        self.stacked = self.frames(observation, outcome.begun)
        self.begun = outcome.begun
        self.rewards = outcome.reward
        self._torn = False
        return episodes

    def _check_ready(self, actions):
        """Raises RuntimeError where the environments are in the middle of a step that an error has stopped, ValueError
        where one of the `actions` is none of theirs."""
        if self._torn:
            raise RuntimeError(
                "An error has stopped the environments in the middle of a step. Go on from a checkpoint: load(path)."
            )
        last = int(self.environments.action_space.n) - 1
        if actions.min() < 0 or actions.max() > last:
            raise ValueError(f"Argument `policy` must return actions from 0 to {last}. Received: {actions.tolist()}")

    def close(self):
        """Closes the environments; worker processes are killed where they may be in the middle of a step."""
        self.environments.close(terminate=self._torn)

    def flush(self):
        """Writes the rows kept so far to the replay."""
        if self._rows:
            self._times[self._rows :] = -1
            self._steps.valid[self._rows :] = 0  # what pads the chunk must never be drawn
            # The device may read these arrays after this returns, and they are filled again meanwhile.
            steps = Steps(*(field.copy() for field in self._steps))
            states = [state.copy() for state in self._states]
            errors = self._errors.copy() if self.first_errors else ()
            self.writer.write(self._streams, self._times, steps, self.count, states, errors)
            self._rows = 0
        for stream, times, returns in self._pending:
            self.writer.write_returns(stream, times, returns, int(self.count[stream]))
        self._pending.clear()

    @property
    def num_envs(self):
        """E, how many streams there are."""
        return self.environments.num_envs

    def logs(self):
        """Returns nothing more than what every run logs."""
        return {}

    def arrays(self):
        """Returns the arrays that `restore` needs, by name: observations, frames, the states of a recurrent model, the
        random numbers that a policy holds."""
        arrays = {"actor_observation": self.observation}
        if self.frames.stack is not None:
            arrays["actor_frames"] = self.frames.stack
        for i, carried in enumerate(self.choice.after):
            arrays[f"actor_state_{i}"] = ops.convert_to_numpy(carried)
        if self.choice.held is not None:
            arrays["actor_held"], arrays["actor_held_steps"] = self.choice.held
        return arrays

    def state(self):
        """Returns what `restore` needs: the environments' state, counters and the current observations."""
        return {
            "environments": self.environments.state(),
            "count": self.count.tolist(),
            "begun": self.begun.tolist(),
            "unreturned": [len(rewards) for rewards in self._rewards],
            "selection": None if self.selection is None else self.selection.state(),
        }

    def restore(self, state, arrays):
        """Brings the environments back to where they were, or begins fresh episodes where that cannot be.

        Args:
            state: What `state` returned, here or of an `ActorPool`.
            arrays: What `arrays` returned.

        Returns:
            Whether the environments are back to where they were.
        """
        self.count = np.array(state["count"], "int64")
        if "environments" not in state:
            self.writer.cut(np.arange(self.num_envs), self.count)
            for random in (self.choice.random, self.selection and self.selection.random):
                if random is not None:
                    random.bit_generator.advance(2**64)  # the first of the actors has drawn what came next
            self.environments.episodes[:] = state["episodes"]
            self._begin(self.environments.reset())
            return False
        observation, stack = arrays["actor_observation"], arrays.get("actor_frames")
        carried = sum(name.startswith("actor_state_") for name in arrays)
        self.choice.after = [ops.convert_to_tensor(arrays[f"actor_state_{i}"]) for i in range(carried)]
        if "actor_held" in arrays:
            self.choice.held = arrays["actor_held"], arrays["actor_held_steps"]
        if self.selection is not None and state["selection"] is not None:
            self.selection.restore(state["selection"])
        if self.environments.exact:
            replayed, rewards = self.environments.restore(state["environments"])
            if replayed is not None and np.array_equal(self.preprocess(replayed), observation):
                self._resume(observation, rewards, state.get("unreturned", map(len, rewards)))
                self.begun = np.array(state["begun"])
                self.frames.stack = stack
                self.stacked = observation if stack is None else stack.copy()
                return True
        self.observation = observation
        every = np.arange(len(observation))
        self._append(every, observation, 0, 0.0, False, False)  # closes the episodes that cannot go on
        self.flush()
        self.environments.episodes[:] = state["environments"]["episodes"]
        self._begin(self.environments.reset())
        return False

    def _begin(self, observation):
        """Takes note of first observations."""
        self.observation = self.preprocess(observation)
        self.begun = np.ones(len(observation), bool)
        self._check(np.zeros(len(observation)), self.observation, None, self.begun)
        self.stacked = self.frames(self.observation, self.begun)

    def _learned(self, reward):
        """Returns the rewards that are learned from."""
        return np.clip(reward, -1.0, 1.0) if self.clip_rewards else reward

    def _resume(self, observation, rewards, unreturned):
        """Takes note of episodes that go on: of each the `rewards`, and how many came after its last termination."""
        self.observation = observation
        newest = [gained[len(gained) - number :] for gained, number in zip(rewards, unreturned, strict=True)]
        self._rewards = [self._learned(np.array(gained)).tolist() for gained in newest]
        self.rewards = np.array([gained[-1] if gained else 0.0 for gained in rewards])
        if self.choice.previous:
            taken = [actions[-1] if actions else 0 for actions in self.environments.actions]
            self.choice.actions = np.array(taken, "int32")
        for stream, gained in enumerate(rewards):
            self.lengths[stream] = len(gained)
            for reward in gained:
                self.returns[stream] += reward

    def _values(self, actions):
        """Returns the values of `actions` (`[E]`) and of the best ones, for first priorities."""
        if not self.first_errors:
            return {}
        values = ops.convert_to_numpy(self.choice.values)
        return {"taken": values[np.arange(len(actions)), actions], "best": values.max(axis=-1)}

    def _append(self, streams, observation, action, reward, terminated, valid, states=(), seen=None):
        """Keeps one row for each of `streams`, the `states` of a recurrent model before it, zero if not given, and the
        error that it completes, from the values `seen` with it, if any were."""
        rows = slice(self._rows, self._rows + len(streams))
        values = (observation, action, reward, terminated, valid)
        for field, value in zip(self._steps, values, strict=True):
            field[rows] = value
        for i, field in enumerate(self._states):
            field[rows] = states[i] if states else 0.0
        if self.first_errors:
            self._errors[rows] = self.first_errors.add(streams, reward, terminated, valid, **(seen or {}))
        self._streams[rows] = streams
        self._times[rows] = self.count[streams]
        self.count[streams] += 1
        self._rows = rows.stop

    def _end(self, outcome):
        """Takes note of the episodes that ended, and returns them."""
        if self.discount is not None:
            self._collect_returns(outcome)
        ended = outcome.ended
        episodes = [self._episode(stream) for stream in np.flatnonzero(ended)]
        self.returns[ended] = 0.0
        self.lengths[ended] = 0
        return episodes

    def _episode(self, stream):
        """Returns the episode that ended in a stream."""
        length, policy = int(self.lengths[stream]), None
        if self.selection is not None:
            policy = self.selection.name(stream)
            self.selection.ended(stream, length)
        return Episode(int(stream), float(self.returns[stream]), length, policy)

    def _collect_returns(self, outcome):
        """Computes the returns to go of the rows that a termination ends."""
        for stream in np.flatnonzero(outcome.valid):
            self._rewards[stream].append(float(self._learned(outcome.reward[stream])))
        for stream in np.flatnonzero(outcome.terminated & outcome.valid):
            returns = np.array(self._rewards[stream])
            for i in range(len(returns) - 2, -1, -1):
                returns[i] += self.discount * returns[i + 1]
            times = self.count[stream] - np.arange(len(returns), 0, -1)
            self._pending.append((stream, times, returns))
        for stream in np.flatnonzero(outcome.begun | outcome.terminated | outcome.truncated):
            self._rewards[stream] = []

    def _check(self, reward, observation, final, begun):
        """Raises ValueError where a number is not finite. Step 0 of an episode is its first observation."""
        made = self.environments.episodes - begun, self.lengths + 1  # episode and step that have just been made
        now = self.environments.episodes, np.where(begun, 0, self.lengths + 1)
        for what, values, (episodes, steps) in (
            ("reward", reward, made),
            ("observation", final, made),
            ("observation", observation, now),
        ):
            if values is None or flaw_of(values) is None:
                continue
            stream, flaw = next((i, flaw_of(value)) for i, value in enumerate(values) if flaw_of(value))
            raise ValueError(
                f"The {what} of environment {self.environments.first + stream} is {flaw} at step {int(steps[stream])} "
                f"of its episode {int(episodes[stream])}. The steps before it are kept."
            )
