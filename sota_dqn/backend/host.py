"""Rows in host memory, for what is too large for the accelerator: compiled programs call out to them."""

import numpy as np

__all__ = ["HostRows"]


class HostRows:
    """Stands in for a `keras.Variable` whose rows are in host memory. No program takes it as an argument.

    Args:
        shape: `[rows, *O]`.
        dtype: Its dtype.
        name: What errors call it.
    """

    def __init__(self, shape, dtype, name):
        self.value = np.zeros(shape, dtype)  # the system hands out pages as they are first written
        self.shape = tuple(shape)
        self.dtype = dtype
        self.path = name

    def read(self, rows):
        """Returns `value[rows]`; `rows`: `[...]` int32."""
        return np.take(self.value, np.asarray(rows), axis=0, mode="clip")

    def write(self, rows, values):
        """Sets `value[rows]`; `rows`: `[M]` int32."""
        self.value[np.asarray(rows)] = values

    def assign(self, values):
        """Sets all rows."""
        np.copyto(self.value, values)
