"""Checks of arguments that more than one part takes."""

import difflib
import importlib
import numbers
import types

import gymnasium
import numpy as np

__all__ = ["check_distinct", "check_epsilon", "check_id", "check_named", "check_positive", "check_seed"]


def check_positive(**numbers):
    """Raises ValueError or TypeError for a number that is given and is not an integer of at least 1."""
    for name, value in numbers.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, np.integer))):
            raise TypeError(f"Argument `{name}` must be an integer. Received: {name}={value!r}")
        if value is not None and value < 1:
            raise ValueError(f"Argument `{name}` must be at least 1. Received: {name}={value}")


def check_epsilon(epsilon):
    """Raises ValueError unless `epsilon` is a probability."""
    if not isinstance(epsilon, numbers.Real) or not 0 <= float(epsilon) <= 1:
        raise ValueError(f"Argument `epsilon` must be between 0 and 1. Received: epsilon={epsilon!r}")


def check_seed(seed):
    """Raises ValueError unless a run's seed is an integer of at least 0."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"Argument `seed` must be an integer of at least 0. Received: seed={seed!r}")


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
    if env.startswith("ALE/") or env not in gymnasium.registry:
        try:
            importlib.import_module("ale_py")
        except ImportError as error:
            if env.startswith("ALE/") or "NoFrameskip" in env:
                raise ImportError(
                    f'Atari games need ale-py: install it by `pip install "sota_dqn[atari]"`. Received: env={env!r}'
                ) from error
    if ":" in env:
        raise ValueError(f"Import the module that registers the id, and pass the id alone. Received: env={env!r}")
    try:
        gymnasium.spec(env)
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        near = difflib.get_close_matches(env, gymnasium.registry, n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"Unknown environment id.{hint} Received: env={env!r} ({error})") from error
