"""The actor: chooses actions, steps the environments, and collects what they said as rows for the replay."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from sota_dqn import backend
from sota_dqn.models import is_recurrent, model_inputs, previous_inputs
from sota_dqn.recurrent import Recurrent
from sota_dqn.storage import merge_frames
from sota_dqn.types import Steps

__all__ = ["Actor", "Choice", "Episode", "Frames"]

RETURNS_BLOCK = 1024  # returns to go are written in pieces of one size, so that they compile once


class Episode(NamedTuple):
    """An episode that has ended."""

    stream: int
    episode_return: float
    episode_length: int  # environment steps
    policy: str | None = None  # the one of a mixture that played it


class Choice:
    """The compiled way from observations to actions: model, then policy.

    Args:
        model: A Keras model, `[B, *O]` to `[B, A]`.
        policy: A function `(values [B, A], uniform [B], step []) -> [B]` int32, or a `Selection` of such.
        random: The `numpy.random.Generator` that draws the uniform numbers.
        convolutions: Whether the model convolves.
        stacked: Whether observations come as `[B, k, *O]` stacks of frames.
        recurrent: The `Recurrent` of a recurrent model; None makes one, with which episodes begin at zero.
        clip_rewards: Whether a model that sees the reward before sees it clipped to [-1, 1].
    """

    def __init__(self, model, policy, *, random, convolutions, stacked, recurrent=None, clip_rewards=False):
        self.random = random
        self.clip_rewards = clip_rewards
        self.recurrent = Recurrent(model) if recurrent is None and is_recurrent(model) else recurrent
        self.previous = bool(previous_inputs(model))
        self.actions: Any = None  # the last ones, `[B]` int32
        self.before: list = []  # the states of a recurrent model before the last step, `[B, units]` each
        self.after: list = []  # and after it

        def choose(observations, uniform, step, which, begun, states, last):
            if stacked:
                observations = merge_frames(observations)
            if self.previous:
                observations = model_inputs(model, observations, action=last[0], reward=last[1], begun=begun)
            before = after = []
            if self.recurrent is None:
                values = model(observations, training=False)
            else:
                before = self.recurrent.begin(states, begun)
                values, after = self.recurrent.step(observations, before)
            values = ops.cast(values, "float32")  # whatever it computes in
            if isinstance(which, tuple):
                return ops.cast(policy(values, uniform, step), "int32"), before, after
            actions = ops.stack([ops.cast(part(values, uniform, step), "int32") for part in policy.parts])
            return ops.take_along_axis(actions, which[None], axis=0)[0], before, after

        variables = [*model.variables, *(self.recurrent.initial if self.recurrent else [])]
        program = backend.Program(variables, [], backend.plan(convolutions=convolutions))
        self._choose = program.compile(choose)

    @property
    def remembers(self):
        """Whether the actions depend on earlier calls, which are then to be told of `begun` and `rewards`."""
        return self.recurrent is not None or self.previous

    def __call__(self, observations, step, *, begun=None, rewards=None, which=()):
        """Returns actions, `[B]` int32, still on the device.

        Args:
            observations: `[B, ...]`, what the model sees.
            step: The environment step, for schedules.
            begun: `[B]` bool, where an episode begins. What `remembers` needs it, and takes the calls for the steps of
                B streams.
            rewards: `[B]`, what the last actions brought, where the model sees it.
            which: `[B]` int32, which part of a `Selection` acts; empty for other policies.
        """
        uniform = self.random.random(len(observations), dtype="float32")
        size = len(observations)
        if self.recurrent is not None and (not self.after or len(self.after[0]) != size):
            self.after = [ops.convert_to_numpy(state) for state in self.recurrent.zeros(size)]
        last = self._last(size, rewards) if self.previous else ()
        told = begun if self.remembers else ()
        made = self._choose(observations, uniform, np.float32(step), which, told, self.after, last)
        self.actions, self.before, self.after = made
        return self.actions

    def _last(self, size, rewards):
        """Returns the last actions and what they brought, `[B]` each; zeros where there are none."""
        actions = np.zeros(size, "int32") if self.actions is None or len(self.actions) != size else self.actions
        rewards = np.zeros(size, "float32") if rewards is None else np.asarray(rewards, "float32")
        return actions, np.clip(rewards, -1.0, 1.0) if self.clip_rewards else rewards


class Frames:
    """The last k frames of each stream, `[E, k, *O]`, oldest first; without a stack, the frames as they are.

    Args:
        frame_stack: k, or None.
        padding: What stands before an episode's first frame: `"reset"` repeats it, `"zero"` is zeros.
    """

    def __init__(self, frame_stack, padding):
        self.frame_stack = frame_stack
        self.padding = padding
        self.stack = None

    def __call__(self, observation, begun):
        """Returns what to act on after `observation` (`[E, *O]`); where `begun` (`[E]`), it is an episode's first."""
        if self.frame_stack is None:
            return observation
        if self.stack is None:
            self.stack = np.zeros((len(observation), self.frame_stack, *observation.shape[1:]), observation.dtype)
        self.stack[:, :-1] = self.stack[:, 1:]
        self.stack[:, -1] = observation
        if begun.any():
            self.stack[begun, :-1] = observation[begun, None] if self.padding == "reset" else 0
        return self.stack.copy()  # the device may still be reading the last one


class Actor:
    """Steps the environments with the policy, and keeps rows until they are flushed to the learner.

    Args:
        environments: An `Environments`.
        preprocess: A `Preprocessing`.
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
        self.learner: Any = None
        self.choice: Any = None
        self.selection: Any = None
        self.begun = np.ones(num_envs, bool)  # where the next action is an episode's first
        self.rewards = np.zeros(num_envs)  # what the last actions brought
        self._rewards: list[list[float]] = [
            [] for _ in range(num_envs)
        ]  # since the last termination, where returns to go are stored
        self._pending: list[tuple] = []  # (places, returns) of terminated episodes
        self._rows = 0
        self._torn = False  # whether an error has cut a step short

    def start(self):
        """Resets the environments."""
        self._begin(self.environments.reset())

    def connect(self, learner, choice, *, selection=None, steps_per_chunk):
        """Tells where rows go and how actions are chosen.

        Args:
            learner: A `Learner`.
            choice: A function `(observations [E, ...], step) -> [E]`.
            selection: The `Selection` whose decisions `choice` takes too, or None.
            steps_per_chunk: Steps of all environments between two writes.
        """
        num_envs = self.environments.num_envs
        self.learner = learner
        self.choice = choice
        self.selection = selection
        self._recurrent = getattr(choice, "recurrent", None) is not None
        size = num_envs * (steps_per_chunk + 1)
        stored = learner.replay.storage.state if self._recurrent else []
        self._states = [np.zeros((size, *variable.shape[1:]), "float32") for variable in stored]
        shape, dtype = self.preprocess.shape, self.preprocess.dtype
        self._steps = Steps(
            observation=np.zeros((size, *shape), dtype),
            action=np.zeros(size, "int32"),
            reward=np.zeros(size, "float32"),
            terminated=np.zeros(size, "uint8"),
            valid=np.zeros(size, "uint8"),
        )
        self._streams = np.zeros(size, "int64")
        self._times = np.zeros(size, "int64")

    def choose(self, step):
        """Returns the actions to take, `[E]`, still on the device."""
        told = getattr(self.choice, "remembers", False)
        settings: dict[str, Any] = {"begun": self.begun, "rewards": self.rewards} if told else {}
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
            ValueError: If a reward or an observation is NaN; it names the environment, the episode and the step.
            RuntimeError: If an earlier step has raised, and the environments are in the middle of it.
        """
        if self._torn:
            raise RuntimeError(
                "An error has stopped the environments in the middle of a step. Go on from a checkpoint: load(path)."
            )
        self._torn = True
        outcome = self.environments.step(actions)
        observation = self.preprocess(outcome.observation)
        final = None if outcome.final_observation is None else self.preprocess(outcome.final_observation)
        self._check(outcome.reward, observation, final, outcome.begun)
        if self._rows + 2 * len(actions) > len(self._times):
            self.flush()
        every = np.arange(len(actions))
        learned = self._learned(outcome.reward)
        states = [ops.convert_to_numpy(state) for state in self.choice.before] if self._states else []
        self._append(every, self.observation, actions, learned, outcome.terminated, outcome.valid, states)
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

    def close(self):
        """Closes the environments; worker processes are killed where they may be in the middle of a step."""
        self.environments.close(terminate=self._torn)

    def flush(self):
        """Writes the rows kept so far to the replay."""
        if self._rows:
            self._times[self._rows :] = -1
            self._steps.valid[self._rows :] = 0  # what pads the chunk must never be drawn
            places = self.learner.replay.storage.places(self._streams, self._times)
            # The device may read these arrays after this returns, and they are filled again meanwhile.
            steps = Steps(*(field.copy() for field in self._steps))
            self.learner.add(places, steps, self.count.astype("int32"), *(state.copy() for state in self._states))
            self._rows = 0
        for stream, times, returns in self._pending:
            self._write_returns(stream, times, returns)
        self._pending.clear()

    def state(self):
        """Returns what `restore` needs: the environments' state, counters and the current observations."""
        return {
            "environments": self.environments.state(),
            "count": self.count.tolist(),
            "begun": self.begun.tolist(),
            "selection": None if self.selection is None else self.selection.state(),
        }

    def restore(self, state, observation, stack):
        """Brings the environments back to where they were, or begins fresh episodes where that cannot be.

        Args:
            state: What `state` returned.
            observation: `[E, *O]`, the current observations then.
            stack: `[E, k, *O]`, the frames then; None without a frame stack.

        Returns:
            Whether the environments are back to where they were.
        """
        self.count = np.array(state["count"], "int64")
        if self.selection is not None and state["selection"] is not None:
            self.selection.restore(state["selection"])
        if self.environments.exact:
            replayed, rewards = self.environments.restore(state["environments"])
            if replayed is not None and np.array_equal(self.preprocess(replayed), observation):
                self._resume(observation, rewards)
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

    def _resume(self, observation, rewards):
        """Takes note of episodes that go on."""
        self.observation = observation
        self._rewards = [self._learned(np.array(gained)).tolist() for gained in rewards]
        self.rewards = np.array([gained[-1] if gained else 0.0 for gained in rewards])
        if getattr(self.choice, "previous", False):
            taken = [actions[-1] if actions else 0 for actions in self.environments.actions]
            self.choice.actions = np.array(taken, "int32")
        for stream, gained in enumerate(rewards):
            self.lengths[stream] = len(gained)
            for reward in gained:
                self.returns[stream] += reward

    def _append(self, streams, observation, action, reward, terminated, valid, states=()):
        """Keeps one row for each of `streams`, and the `states` of a recurrent model before it, zero if not given."""
        rows = slice(self._rows, self._rows + len(streams))
        values = (observation, action, reward, terminated, valid)
        for field, value in zip(self._steps, values, strict=True):
            field[rows] = value
        for i, field in enumerate(self._states):
            field[rows] = states[i] if states else 0.0
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

    def _write_returns(self, stream, times, returns):
        """Stores the returns to go of a stream's rows, but for those that later ones have overwritten meanwhile."""
        storage = self.learner.replay.storage
        stored = times >= max(self.count[stream] - storage.rows_per_stream, 0)
        places = storage.places(np.full(stored.sum(), stream), times[stored])
        for begin in range(0, len(places), RETURNS_BLOCK):
            piece = slice(begin, begin + RETURNS_BLOCK)
            size = len(places[piece])
            block = np.full(RETURNS_BLOCK, storage.bin, "int32"), np.zeros(RETURNS_BLOCK, "float32")
            block[0][:size], block[1][:size] = places[piece], returns[stored][piece]
            self.learner.set_returns(*block)

    def _check(self, reward, observation, final, begun):
        """Raises ValueError where a number is NaN. Step 0 of an episode is its first observation."""
        made = self.environments.episodes - begun, self.lengths + 1  # episode and step that have just been made
        now = self.environments.episodes, np.where(begun, 0, self.lengths + 1)
        for what, values, (episodes, steps) in (
            ("reward", reward, made),
            ("observation", final, made),
            ("observation", observation, now),
        ):
            if values is None or values.dtype.kind != "f" or not np.isnan(values).any():
                continue
            stream = int(np.flatnonzero(np.isnan(values).reshape(len(values), -1).any(axis=1))[0])
            raise ValueError(
                f"The {what} of environment {stream} is NaN at step {int(steps[stream])} of its episode "
                f"{int(episodes[stream])}. The steps before it are kept."
            )
