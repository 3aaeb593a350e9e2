"""Floor 0: what differs between TensorFlow and JAX, and nothing else.

Each backend file offers the same few names: `Program` (compile, repeat, gradient, apply, fused), `read_rows`,
`write_rows`, `assign_slices`, `device_kind`, `device_memory`, `AllocationError`, `wait` and `asynchronous`. Everything
above them is plain stateful Keras, written once. How a program is compiled is decided here, by `plan`. To support
another Keras backend, write its file and add it below.
"""

import os
from typing import NamedTuple

import keras

BACKEND = keras.config.backend()

if BACKEND == "tensorflow":
    from sota_dqn.backend import tensorflow as _backend
elif BACKEND == "jax":
    from sota_dqn.backend import jax as _backend  # type: ignore[no-redef]
else:
    raise ImportError(
        "sota_dqn runs on Keras's TensorFlow and JAX backends. Set the environment variable KERAS_BACKEND to "
        f"'tensorflow' or 'jax' before Keras is imported. Received: KERAS_BACKEND={BACKEND}"
    )

AllocationError = _backend.AllocationError
Program = _backend.Program
assign_slices = _backend.assign_slices
asynchronous = _backend.asynchronous
device_kind = _backend.device_kind
read_rows = _backend.read_rows
wait = _backend.wait
write_rows = _backend.write_rows


class Plan(NamedTuple):
    """How a program is compiled."""

    xla: bool  # compiled by XLA; otherwise the plain graph (TensorFlow only)
    fused: bool  # repetitions become a loop inside the program; otherwise they are unrolled
    threads: bool  # one operation may use several CPU threads


def plan(*, convolutions, backend=BACKEND, device=None):
    """Returns the fastest way to compile a program, as measured by `benchmarks/updates.py`.

    Dense networks and accelerators: XLA, with the repetitions fused. XLA's CPU backend runs a convolution inside a loop
    20 times slower than outside it, so there JAX unrolls and TensorFlow takes the plain graph. Small dense operations
    lose more to waking threads than they win, and the other core is busy with the environments.

    Args:
        convolutions: Whether the program runs convolutions.
        backend: `"tensorflow"` or `"jax"`.
        device: `"cpu"` or `"gpu"`; None asks the backend.

    Returns:
        A `Plan`.
    """
    on_cpu = (device or device_kind()) == "cpu"
    slow_loop = on_cpu and convolutions
    return Plan(
        xla=not (slow_loop and backend == "tensorflow"),
        fused=not (slow_loop and backend == "jax"),
        threads=convolutions or not on_cpu,
    )


def memory_available():
    """Returns the bytes that the device can still allocate, or None where the system does not tell."""
    if device_kind() != "cpu":
        return _backend.device_memory()
    try:
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
