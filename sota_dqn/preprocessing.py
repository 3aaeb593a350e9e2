"""Preprocessing: callables on a batch of observations, `[E, ...]` to `[E, *O]`, on the host.

What they return is what the replay stores and the model sees. To add one, write a function of a batch.
"""

import numpy as np
from gymnasium import spaces

__all__ = ["Preprocessing", "one_hot"]


class Preprocessing:
    """The way from what an environment returns to what is stored: one-hot for discrete spaces, then the user's
    callables.

    float64 becomes float32 and int64 becomes int32, the widest that the devices compute with.

    Args:
        functions: None, a callable on a batch of observations, or a list of them, applied in order.
        space: The observation space of one environment.

    Raises:
        TypeError: If a function is not callable.
    """

    def __init__(self, functions, space):
        functions = [] if functions is None else functions if isinstance(functions, (list, tuple)) else [functions]
        for function in functions:
            if not callable(function):
                raise TypeError(
                    "Argument `preprocess` must be a callable on a batch of observations or a list of such callables. "
                    f"Received: {function!r}"
                )
        self.functions = [one_hot(space), *functions] if isinstance(space, spaces.Discrete) else list(functions)
        self.shape = None
        self.dtype = None

    def __call__(self, observations):
        """Returns the observations to store: `[E, *O]`.

        Raises:
            ValueError: If a callable changes the number of observations, or their shape or dtype from one call to the
                next.
        """
        batch = len(observations)
        for function in self.functions:
            observations = function(observations)
        observations = np.array(observations)  # a copy: a callable may fill one array of its own again and again
        if observations.dtype in (np.float64, np.int64):
            observations = observations.astype("float32" if observations.dtype == np.float64 else "int32")
        if observations.shape[:1] != (batch,):
            raise ValueError(
                f"Preprocessing must return as many observations as it is given, {batch}. "
                f"Received: shape={observations.shape}"
            )
        if self.shape is None:
            self.shape, self.dtype = observations.shape[1:], observations.dtype.name
        elif (observations.shape[1:], observations.dtype.name) != (self.shape, self.dtype):
            raise ValueError(
                f"Preprocessing must return the same shape and dtype at every call, {self.shape} of {self.dtype} so "
                "far. "
                f"Received: {observations.shape[1:]} of {observations.dtype.name}"
            )
        return observations


def one_hot(space):
    """Returns a function from observations of a `Discrete` space, `[E]`, to one-hot vectors, `[E, n]` float32."""
    identity = np.eye(int(space.n), dtype="float32")

    def encode(observations):
        return identity[np.asarray(observations) - int(space.start)]

    return encode
