"""Checks of arguments that more than one part takes, and of what a user's functions and environments return.

The former take arguments under the names by which the user knows them, and raise TypeError where one is of the wrong
type, ValueError where it is out of range. To add one, write such a function.
"""

import difflib
import importlib
import math
import numbers
import types

import gymnasium
import numpy as np
from keras import backend, ops

__all__ = [
    "check_bool",
    "check_bool_or_none",
    "check_count",
    "check_count_or_none",
    "check_distinct",
    "check_id",
    "check_named",
    "check_number",
    "check_probability",
    "flaw_of",
    "is_integer",
    "is_number",
    "one_per_sample",
]


def is_integer(value):
    """Returns whether `value` is an integer, NumPy's among them; True and False are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value):
    """Returns whether `value` is a real number, NumPy's among them; True and False are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_count(least, /, **counts):
    """Raises TypeError or ValueError where one of `counts` is no integer of at least `least`."""
    for name, value in counts.items():
        if not is_integer(value):
            raise TypeError(f"Argument `{name}` must be an integer. Received: {name}={value!r}")
        if value < least:
            raise ValueError(f"Argument `{name}` must be at least {least}. Received: {name}={value!r}")


def check_count_or_none(least, /, **counts):
    """Raises as `check_count` does, but lets None pass."""
    check_count(least, **_given(counts))


def check_number(*, least=-math.inf, above=-math.inf, **given):
    """Raises TypeError or ValueError where one of the `given` is no finite number that is at least `least` and above
    `above`."""
    bounds = [("at least", least), ("above", above)]
    wanted = " and ".join(["finite", *(f"{word} {bound}" for word, bound in bounds if bound > -math.inf)])
    for name, value in given.items():
        if not is_number(value):
            raise TypeError(f"Argument `{name}` must be a number. Received: {name}={value!r}")
        if not (math.isfinite(value) and least <= value and value > above):
            raise ValueError(f"Argument `{name}` must be {wanted}. Received: {name}={value!r}")


def check_probability(**probabilities):
    """Raises TypeError or ValueError where one of `probabilities` is no number in [0, 1]."""
    for name, value in probabilities.items():
        if not is_number(value):
            raise TypeError(f"Argument `{name}` must be a number. Received: {name}={value!r}")
        if not 0 <= value <= 1:
            raise ValueError(f"Argument `{name}` must be between 0 and 1. Received: {name}={value!r}")


def check_bool(**flags):
    """Raises TypeError where one of `flags` is neither True nor False."""
    for name, value in flags.items():
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"Argument `{name}` must be True or False. Received: {name}={value!r}")


def check_bool_or_none(**flags):
    """Raises as `check_bool` does, but lets None pass."""
    check_bool(**_given(flags))


def check_named(function, what):
    """Raises ValueError where a function of the user's is a lambda, which Keras saves but does not load."""
    if isinstance(function, types.FunctionType) and function.__name__ == "<lambda>":
        if not function.__module__.startswith("keras."):
            raise ValueError(
                f"A checkpoint could not be loaded safely with a lambda as {what}: pass a function with a name, "
                "registered with keras.saving.register_keras_serializable."
            )


def check_distinct(envs):
    """Raises ValueError where two environments are one."""
    if len({id(env.unwrapped) for env in envs}) < len(envs):
        raise ValueError(
            "An environment's callable must make a new one at every call, and this one returns the same again: pass "
            "the id, or a callable such as `lambda: gymnasium.make(...)`."
        )


def check_id(env):
    """Raises ValueError where the id is not registered, with the nearest ones, TypeError where it is no string, and
    ImportError where ale-py is missing.

    Atari games are registered here: ale-py does so when it is imported.
    """
    if not isinstance(env, str):
        raise TypeError(f"An environment's id must be a string. Received: {env!r}")
    missing = ""
    if env.startswith("ALE/") or env not in gymnasium.registry:
        try:
            importlib.import_module("ale_py")
        except ImportError as error:
            missing = ' Atari games need ale-py: install it by `pip install "sota_dqn[atari]"`.'
            if env.startswith("ALE/") or "NoFrameskip" in env:
                raise ImportError(f"{missing.strip()} Received: env={env!r}") from error
    if ":" in env:
        raise ValueError(f"Import the module that registers the id, and pass the id alone. Received: env={env!r}")
    try:
        gymnasium.spec(env)
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        near = difflib.get_close_matches(env, gymnasium.registry, n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else missing
        raise ValueError(f"Unknown environment id.{hint} Received: env={env!r} ({error})") from error


def flaw_of(values):
    """Returns "NaN" or "infinite" where an array, or a number of NumPy, holds such, None where all is finite."""
    if (values.dtype.kind != "f" and values.dtype.name != "bfloat16") or np.isfinite(values).all():
        return None
    return "NaN" if np.isnan(values).any() else "infinite"


def one_per_sample(found, size, argument, *, integer=False):
    """Returns as a tensor what a function of the user's has found for so many samples, `[size]`.

    Args:
        found: What it returned.
        size: How many samples it was given.
        argument: What the user's argument is called, for the error.
        integer: Whether it must be integers; booleans are.

    Raises:
        ValueError: If it is something else.
    """
    tensor = ops.convert_to_tensor(found)
    shape, dtype = tuple(tensor.shape), backend.standardize_dtype(tensor.dtype)
    if shape != (size,) or (integer and backend.is_float_dtype(dtype)):
        kind = "integer" if integer else "number"
        raise ValueError(
            f"Argument `{argument}` must be a function that returns one {kind} per sample, of shape {(size,)}. "
            f"Received: shape={shape}, dtype={dtype}"
        )
    return tensor


def _given(arguments):
    return {name: value for name, value in arguments.items() if value is not None}
