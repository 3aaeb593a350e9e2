"""Checks of arguments that more than one part takes."""

import numpy as np

__all__ = ["check_positive"]


def check_positive(**numbers):
    """Raises ValueError or TypeError for a number that is given and is not an integer of at least 1."""
    for name, value in numbers.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, np.integer))):
            raise TypeError(f"Argument `{name}` must be an integer. Received: {name}={value!r}")
        if value is not None and value < 1:
            raise ValueError(f"Argument `{name}` must be at least 1. Received: {name}={value}")
