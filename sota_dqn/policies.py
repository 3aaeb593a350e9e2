"""Policies: functions `(values [E, A], uniform [E], step []) -> [E]` int32, the action of each stream.

`values` are the model's action values, `uniform` one random number in [0, 1) per stream, drawn on the host, and
`step` the environment steps made so far. A policy runs inside a compiled program and must draw nothing itself: all
its chance comes from `uniform`, so that both backends act alike and a run can be repeated. To write your own, pass
any function of the three, made of `keras.ops`:

    def second_best_sometimes(values, uniform, step):
        order = keras.ops.argsort(-values, axis=-1)
        return keras.ops.cast(keras.ops.where(uniform < 0.1, order[:, 1], order[:, 0]), "int32")

To add one here, write a class with `__call__`, decorated with `recorded` so that a checkpoint can name it. Where a
policy has the attribute `epsilon`, a schedule, the trainer logs it.
"""

from keras import ops

from sota_dqn.schedules import as_schedule
from sota_dqn.types import recorded

__all__ = ["Boltzmann", "EpsilonGreedy", "Greedy"]


@recorded
class Greedy:
    """The action of the highest value, the first of equals."""

    def __call__(self, values, uniform, step):
        return ops.cast(ops.argmax(values, axis=-1), "int32")


@recorded
class EpsilonGreedy:
    """Any action with probability epsilon, else the action of the highest value.

    Args:
        epsilon: A number in [0, 1] or a schedule.
    """

    def __init__(self, epsilon):
        self.epsilon = as_schedule(epsilon, "epsilon")
        if not callable(epsilon) and not 0 <= epsilon <= 1:
            raise ValueError(f"Argument `epsilon` must be in [0, 1]. Received: epsilon={epsilon}")

    def __call__(self, values, uniform, step):
        epsilon = self.epsilon(step)
        num_actions = values.shape[-1]
        # Where uniform < epsilon, uniform / epsilon is uniform in [0, 1) again: one number serves both draws.
        position = uniform / ops.maximum(epsilon, 1e-9) * num_actions
        random = ops.cast(ops.minimum(position, num_actions - 1), "int32")
        return ops.where(uniform < epsilon, random, ops.cast(ops.argmax(values, axis=-1), "int32"))


@recorded
class Boltzmann:
    """An action with probability `softmax(values / temperature)`.

    Args:
        temperature: A number or a schedule, at least 0, in the unit of the values. 0 is the limit: one of the best
            actions.
    """

    def __init__(self, temperature):
        self.temperature = as_schedule(temperature, "temperature")
        if not callable(temperature) and temperature < 0:
            raise ValueError(f"Argument `temperature` must be at least 0. Received: temperature={temperature}")

    def __call__(self, values, uniform, step):
        temperature = ops.maximum(self.temperature(step), 1e-30)
        weights = ops.exp((values - ops.max(values, axis=-1, keepdims=True)) / temperature)  # [E, A]
        # Rounding must not choose an action that has no probability. A parallel sum may grow at a weight of zero, so
        # such actions reach nowhere; and a number that was rounded to 1 stays below the sum.
        reach = ops.where(weights > 0, ops.cumsum(weights, axis=-1), 0.0)
        drawn = uniform * (1.0 - 1e-6) * ops.max(reach, axis=-1)  # [E]
        return ops.cast(ops.argmax(ops.cast(reach > drawn[:, None], "int32"), axis=-1), "int32")
