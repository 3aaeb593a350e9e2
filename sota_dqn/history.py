"""Reading a run's history: a dict of lists, a value for each epoch, NaN for what was not known."""

import math

__all__ = ["evaluations", "last", "number", "reported_steps"]


def evaluations(history):
    """Yields the results of the evaluations in `history`, whose other epochs repeat the last one."""
    before = 0
    for made, value in zip(history.get("evaluations", ()), history.get("eval_return", ()), strict=False):
        if made > before:  # which NaN is not
            yield value
            before = made


def reported_steps(history):
    """Returns the total steps at the end of the last epoch, which may lie before those of a training cut short."""
    return number(last(history, "steps"), 0)


def last(history, name):
    """Returns the value of the last epoch, NaN where there is none."""
    values = history.get(name)
    return values[-1] if values else math.nan


def number(value, default=None):
    """Returns `value`, or `default` where it is not a finite number."""
    try:
        return value if math.isfinite(value) else default
    except TypeError:
        return default
