"""Schedules: functions `step -> number`, where `step` counts environment steps over all streams since the start.

A schedule is asked on the host, with a Python number, and inside compiled programs, with a tensor `[]`; the ones here
answer in kind. To add one, write a function that returns a function of `step`, decorated with `recorded` so that a
checkpoint can name it. Any function of one number serves as a schedule without being listed here.
"""

import math
import numbers

from keras import ops

from sota_dqn.types import recorded

__all__ = ["as_schedule", "constant", "exponential", "linear"]


@recorded
def constant(value):
    """Returns a schedule that is always `value`."""
    value = _finite("value", value)
    return lambda step: value


@recorded
def linear(initial, final, *, steps, start=0):
    """Returns a schedule that goes from `initial` to `final` in a straight line and stays there.

    `(1 - f) initial + f final` with `f = clip((step - start) / steps, 0, 1)`.

    Args:
        initial: The value until step `start`.
        final: The value from step `start + steps` on.
        steps: Environment steps between the two, above 0.
        start: The environment step at which the line begins, at least 0.
    """
    initial, final = _finite("initial", initial), _finite("final", final)
    steps, start = _positive("steps", steps), _finite("start", start)
    if start < 0:
        raise ValueError(f"Argument `start` must be at least 0. Received: start={start}")

    def schedule(step):
        if isinstance(step, numbers.Real):
            fraction = min(max((step - start) / steps, 0.0), 1.0)
        else:
            fraction = ops.clip((ops.cast(step, "float32") - start) / steps, 0.0, 1.0)
        return (1.0 - fraction) * initial + fraction * final  # exact at both ends

    return schedule


@recorded
def exponential(initial, final, *, half_life):
    """Returns a schedule that halves its distance to `final` every `half_life` steps.

    `final + (initial - final) 2^(-step / half_life)`.

    Args:
        initial: The value at step 0.
        final: The value that is approached.
        half_life: Environment steps, above 0.
    """
    initial, final = _finite("initial", initial), _finite("final", final)
    half_life = _positive("half_life", half_life)

    def schedule(step):
        if isinstance(step, numbers.Real):
            remaining = 0.5 ** (step / half_life)
        else:
            remaining = ops.power(0.5, ops.cast(step, "float32") / half_life)
        return final + (initial - final) * remaining

    return schedule


def as_schedule(value, name="value"):
    """Returns `value` itself where it is a function, and `constant(value)` where it is a number.

    Args:
        value: A number or a function `step -> number`.
        name: What the caller's argument is called, for the error's text.

    Raises:
        TypeError: If `value` is neither.
    """
    if callable(value):
        return value
    if isinstance(value, numbers.Real):
        return constant(value)
    raise TypeError(f"Argument `{name}` must be a number or a function of the step. Received: {name}={value!r}")


def _finite(name, value):
    if not isinstance(value, numbers.Real):
        raise TypeError(f"Argument `{name}` must be a number. Received: {name}={value!r}")
    if not math.isfinite(value):
        raise ValueError(f"Argument `{name}` must be finite. Received: {name}={value}")
    return float(value)


def _positive(name, value):
    value = _finite(name, value)
    if value <= 0:
        raise ValueError(f"Argument `{name}` must be above 0. Received: {name}={value}")
    return value
