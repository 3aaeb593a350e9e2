"""Policies: functions `(values [E, A], uniform [E], step []) -> [E]` int32, the action of each stream.

`values` are the model's action values, `uniform` one random number in [0, 1) per stream, drawn on the host, and
`step` the environment steps made so far. A value of -inf says that an action is not legal, and no policy here takes
it where another is. A policy runs inside a compiled program and must draw nothing itself: all its chance comes from
`uniform`, so that both backends act alike and a run can be repeated. To write your own, pass any function of the
three, made of `keras.ops`:

    def second_best_sometimes(values, uniform, step):
        order = keras.ops.argsort(-values, axis=-1)
        return keras.ops.cast(keras.ops.where(uniform < 0.1, order[:, 1], order[:, 0]), "int32")

To add one here, write a class with `__call__`, decorated with `recorded` so that a checkpoint can name it. Where a
policy has the attribute `epsilon`, a number or a schedule, the trainer logs it; where it has `streams`, an actor
process sets it to the number of its first stream and that of all; where it has `hold`, an integer of at least 1, a
stream's uniform number stays the same for up to so many steps.

`Switching`, `AdvSwitch` and `Mixture`, from mixtures.py, are made of such policies.
"""

import numpy as np
from keras import ops

from sota_dqn.checks import check_count, check_number, check_probability
from sota_dqn.mixtures import AdvSwitch, Mixture, Switching
from sota_dqn.schedules import as_schedule
from sota_dqn.targets import is_legal
from sota_dqn.types import recorded

__all__ = [
    "AdvSwitch",
    "ApeX",
    "Boltzmann",
    "Certainty",
    "EpsilonGreedy",
    "Greedy",
    "Mixture",
    "Random",
    "Switching",
]


@recorded
class Greedy:
    """The action of the highest value, the first of equals."""

    def __call__(self, values, uniform, step):
        return ops.cast(ops.argmax(values, axis=-1), "int32")


@recorded
class EpsilonGreedy:
    """Any legal action with probability epsilon, else the action of the highest value.

    With `hold`, what is drawn stays for k steps, k with a probability proportional to 1 / k^2: a stream that explores
    repeats its action, and gets further than where every step is drawn anew. After the temporally extended exploration
    of Dabney et al. 2021, with a difference: epsilon stays the share of steps that explore, whatever their number.

    Args:
        epsilon: A number in [0, 1] or a schedule.
        hold: The most steps that are repeated; 1 draws every step anew.
    """

    def __init__(self, epsilon, *, hold=1):
        self.epsilon = as_schedule(epsilon, "epsilon")
        if not callable(epsilon):
            check_probability(epsilon=epsilon)
        check_count(1, hold=hold)
        self.hold = int(hold)

    def __call__(self, values, uniform, step):
        return _epsilon_greedy(values, uniform, self.epsilon(step))


@recorded
class ApeX:
    """Epsilon-greedy with an epsilon of its own for each stream, `epsilon^(1 + i alpha / (E - 1))` for stream i of E.

    After Horgan et al. 2018. From the first stream's, which explores most, it falls to `epsilon^(1 + alpha)`.

    Args:
        epsilon: That of the first stream, in (0, 1); of the only one, where there is one.
        alpha: How much less the last one explores, at least 0.
    """

    streams: tuple[int, int] | None = None  # the first here and the number of all, where actor processes share them

    def __init__(self, epsilon=0.4, alpha=7.0):
        check_probability(epsilon=epsilon)
        if epsilon in (0, 1):
            raise ValueError(f"Argument `epsilon` must be above 0 and below 1. Received: epsilon={epsilon!r}")
        check_number(least=0, alpha=alpha)
        self.base = epsilon
        self.alpha = alpha

    def __call__(self, values, uniform, step):
        first, total = self.streams or (0, values.shape[0])
        streams = first + np.arange(values.shape[0])
        exponents = 1.0 + streams * self.alpha / max(1, total - 1)
        return _epsilon_greedy(values, uniform, (self.base**exponents).astype("float32"))


@recorded
class Random:
    """Any legal action, with equal probabilities."""

    def __call__(self, values, uniform, step):
        return _any_action(values, uniform)


@recorded
class Boltzmann:
    """An action with probability `softmax(values / temperature)`.

    Args:
        temperature: A number or a schedule, at least 0, in the unit of the values. 0 is the limit: one of the best
            actions.
    """

    def __init__(self, temperature):
        self.temperature = as_schedule(temperature, "temperature")
        if not callable(temperature):
            check_number(least=0, temperature=temperature)

    def __call__(self, values, uniform, step):
        temperature = ops.maximum(self.temperature(step), 1e-30)
        weights = ops.exp((values - ops.max(values, axis=-1, keepdims=True)) / temperature)  # [E, A]
        return _draw(weights, uniform)


@recorded
class Certainty:
    """An action with a probability proportional to `max(0, value - best value + margin) + base`.

    What is nearly as good as the best is taken nearly as often; what is worse by `margin` or more, hardly ever.

    Args:
        margin: In the unit of the values, above 0.
        base: The weight that any legal action has, at least 0; that of the best is `margin + base`.
    """

    def __init__(self, margin=1.0, base=0.02):
        check_number(above=0, margin=margin)
        check_number(least=0, base=base)
        self.margin = margin
        self.base = base

    def __call__(self, values, uniform, step):
        distance = values - ops.max(values, axis=-1, keepdims=True)
        base = ops.where(is_legal(values), self.base, 0.0)
        return _draw(ops.maximum(distance + self.margin, 0.0) + base, uniform)


def _any_action(values, uniform):
    """Returns legal actions that `uniform` (`[E]`, in [0, 1)) draws with equal probabilities: `[E]` int32."""
    counted = ops.cumsum(ops.cast(is_legal(values), "int32"), axis=-1)  # [E, A], how many are legal so far
    number = ops.cast(counted[:, -1], "float32")
    drawn = ops.cast(ops.minimum(uniform * number, number - 1.0), "int32")
    return ops.cast(ops.argmax(ops.cast(counted > drawn[:, None], "int32"), axis=-1), "int32")


def _epsilon_greedy(values, uniform, epsilon):
    """Returns epsilon-greedy actions, `[E]` int32; `epsilon`: `[]` or `[E]`."""
    # Where uniform < epsilon, uniform / epsilon is uniform in [0, 1) again: one number serves both draws.
    random = _any_action(values, uniform / ops.maximum(epsilon, 1e-9))
    return ops.where(uniform < epsilon, random, ops.cast(ops.argmax(values, axis=-1), "int32"))


def _draw(weights, uniform):
    """Returns actions that `uniform` (`[E]`) draws with probabilities proportional to `weights` (`[E, A]`)."""
    # Rounding must not choose an action that has no probability. A parallel sum may grow at a weight of zero, so
    # such actions reach nowhere; and a number that was rounded to 1 stays below the sum.
    reach = ops.where(weights > 0, ops.cumsum(weights, axis=-1), 0.0)
    drawn = uniform * (1.0 - 1e-6) * ops.max(reach, axis=-1)  # [E]
    return ops.cast(ops.argmax(ops.cast(reach > drawn[:, None], "int32"), axis=-1), "int32")
