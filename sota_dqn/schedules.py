"""Schedules: functions `step -> number`, where `step` counts environment steps over all streams since the start.

A schedule is asked on the host, with a Python number, and inside compiled programs, with a tensor `[]`; the ones here
answer in kind. To add one, write a function that returns a function of `step`, decorated with `recorded` so that a
checkpoint can name it. Any function of one number serves as a schedule without being listed here.
"""

import numbers

from keras import ops

from sota_dqn.checks import check_number, is_number
from sota_dqn.types import recorded

__all__ = ["as_schedule", "constant", "exponential", "linear"]


@recorded
def constant(value):
    """Returns a schedule that is always `value`."""
    check_number(value=value)
    value = float(value)
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
    check_number(initial=initial, final=final)
    check_number(above=0, steps=steps)
    check_number(least=0, start=start)
    initial, final, steps, start = float(initial), float(final), float(steps), float(start)

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
    check_number(initial=initial, final=final)
    check_number(above=0, half_life=half_life)
    initial, final, half_life = float(initial), float(final), float(half_life)

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
        ValueError: If it is a number that is not finite.
    """
    if callable(value):
        return value
    if not is_number(value):
        raise TypeError(f"Argument `{name}` must be a number or a function of the step. Received: {name}={value!r}")
    check_number(**{name: value})
    return constant(value)
