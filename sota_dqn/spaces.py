"""Observation and action spaces: which are supported, and how a checkpoint keeps them."""

import numpy as np
from gymnasium import spaces

__all__ = ["check_spaces", "describe_space", "is_supported", "space_from"]


def describe_space(space):
    """Returns an observation space as plain numbers and strings, as far as acting needs to know it."""
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    return {"type": "Box", "shape": list(space.shape), "dtype": space.dtype.name}


def space_from(description):
    """Returns the space that `describe_space` described, with the limits of its dtype in the place of its own."""
    if description["type"] == "Discrete":
        return spaces.Discrete(description["n"], start=description["start"])
    dtype = np.dtype(description["dtype"])
    if dtype.kind == "f":
        low, high = -np.inf, np.inf
    else:
        low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return spaces.Box(low, high, tuple(description["shape"]), dtype)


def is_supported(observation_space):
    """Returns whether observations of such a space can be learned from."""
    return isinstance(observation_space, (spaces.Box, spaces.Discrete, spaces.MultiBinary))


def check_spaces(observation_space, action_space):
    """Raises ValueError where a space is not supported."""
    if not isinstance(action_space, spaces.Discrete):
        raise ValueError(
            f"Deep Q-learning needs a Discrete action space; {type(action_space).__name__} is not supported. "
            "gymnasium.wrappers.TransformAction can number the actions that it is to choose from. "
            f"Received: action_space={action_space}"
        )
    if not is_supported(observation_space):
        raise ValueError(
            f"Observation spaces may be Box, MultiBinary or Discrete; {type(observation_space).__name__} is not "
            "supported. gymnasium.wrappers.FlattenObservation makes a Box of the numbers in it. "
            f"Received: observation_space={observation_space}"
        )
