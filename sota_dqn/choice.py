"""From observations to actions: frame stacks, then the model and the policy in one compiled program."""

import contextlib
from typing import Any

import keras
import numpy as np
from keras import ops

from sota_dqn import backend
from sota_dqn.checks import one_per_sample
from sota_dqn.models import is_recurrent, model_inputs, noise_of, previous_inputs
from sota_dqn.recurrent import Recurrent
from sota_dqn.storage import merge_frames

__all__ = ["Choice", "Frames"]


class Choice:
    """The compiled way from observations to actions: model, then policy.

    Args:
        model: A Keras model, `[B, *O]` to `[B, A]`.
        policy: A function `(values [B, A], uniform [B], step []) -> [B]` int32, or a `Selection` of such.
        random: The `numpy.random.Generator` that draws the uniform numbers, and seeds for layers that draw.
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
        self.values: Any = None  # `[B, A]`, of the last step, still on the device
        self.actions: Any = None  # the last ones, `[B]` int32
        self.before: list = []  # the states of a recurrent model before the last step, `[B, units]` each
        self.after: list = []  # and after it
        self.held: Any = None  # where a policy holds: the last uniform numbers, `[B]`, and for how many steps they stay
        self._holds = np.array([getattr(part, "hold", 1) for part in getattr(policy, "parts", [policy])])
        self._noise = noise_of(model)
        variables = [*model.variables, *(self.recurrent.initial if self.recurrent else [])]

        def choose(observations, uniform, step, which, begun, states, last, seeds):
            with self._drawing(variables, seeds):
                values, before, after = evaluate(observations, begun, states, last)

            def act(part):
                actions = one_per_sample(part(values, uniform, step), values.shape[0], "policy", integer=True)
                return ops.cast(actions, "int32")

            if isinstance(which, tuple):
                return act(policy), values, before, after
            actions = ops.stack([act(part) for part in policy.parts])
            return ops.take_along_axis(actions, which[None], axis=0)[0], values, before, after

        def evaluate(observations, begun, states, last):
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
            return ops.cast(values, "float32"), before, after  # whatever it computes in

        program = backend.Program(variables, [], backend.plan(convolutions=convolutions))
        self._choose = program.compile(choose)

    @property
    def remembers(self):
        """Whether the actions depend on earlier calls, which are then to be told of `begun` and `rewards`."""
        return self.recurrent is not None or self.previous

    @property
    def memory(self):
        """What is kept from one call to the next: the last actions, the states after them, and the state of chance."""
        return self.actions, self.after, self.held, self.random.bit_generator.state

    @memory.setter
    def memory(self, memory):
        self.actions, self.after, self.held, self.random.bit_generator.state = memory

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
        size = len(observations)
        uniform = self._uniform(size, which)
        if self.recurrent is not None and (not self.after or len(self.after[0]) != size):
            self.after = self.recurrent.zeros(size)
        last = self._last(size, rewards) if self.previous else ()
        told = begun if self.remembers else ()
        seeds = [self.random.integers(2**31, size=tuple(x.shape)).astype(x.dtype) for x in self._noise]
        made = self._choose(observations, uniform, np.float32(step), which, told, self.after, last, seeds)
        self.actions, self.values, self.before, self.after = made
        return self.actions

    def _drawing(self, variables, seeds):
        """A context in which layers draw from `seeds`, and not from what the learner draws from too: what is chosen,
        in an evaluation say, changes nothing of the training."""
        if not seeds:
            return contextlib.nullcontext()
        given = dict(zip(map(id, self._noise), seeds, strict=True))
        return keras.StatelessScope([(variable, given.get(id(variable), variable.value)) for variable in variables])

    def _uniform(self, size, which):
        """Returns `[B]` random numbers in [0, 1), in each stream the last one as long as its policy holds it."""
        uniform = self.random.random(size, dtype="float32")
        if (self._holds == 1).all():
            return uniform
        steps = self.random.zipf(2.0, size)  # k with a probability proportional to 1 / k^2
        held, left = (uniform, np.zeros(size, "int64")) if self.held is None or len(self.held[0]) != size else self.held
        most = self._holds[np.asarray(which)] if len(which) else self._holds[0]
        drawn = (left <= 0) | (most == 1)
        self.held = np.where(drawn, uniform, held), np.minimum(np.where(drawn, steps, left), most) - 1
        return self.held[0]

    def _last(self, size, rewards):
        """Returns the last actions and what they brought, `[B]` each; zeros where there are none."""
        actions = ops.zeros(size, "int32") if self.actions is None or len(self.actions) != size else self.actions
        rewards = np.zeros(size) if rewards is None else np.asarray(rewards)
        return actions, (np.clip(rewards, -1.0, 1.0) if self.clip_rewards else rewards).astype("float32")


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
        self._spare: Any = None  # the stack before, which the device has read when the one after this is asked for

    def __call__(self, observation, begun):
        """Returns what to act on after `observation` (`[E, *O]`); where `begun` (`[E]`), it is an episode's first."""
        if self.frame_stack is None:
            return observation
        if self.stack is None:
            self.stack = np.zeros((len(observation), self.frame_stack, *observation.shape[1:]), observation.dtype)
        if self._spare is None:
            self._spare = np.zeros_like(self.stack)
        self.stack, self._spare = self._spare, self.stack
        self.stack[:, :-1] = self._spare[:, 1:]
        self.stack[:, -1] = observation
        if begun.any():
            self.stack[begun, :-1] = observation[begun, None] if self.padding == "reset" else 0
        return self.stack
