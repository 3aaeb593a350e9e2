"""Floor 0: what differs between TensorFlow and JAX, and nothing else.

Each backend file offers the same few names: `Program` (compile, repeat, gradient, apply, fused), `read_rows`,
`write_rows`, `assign_slices`, `call_host`, `device_kind`, `device_memory`, `AllocationError`, `wait`, `asynchronous`
and `single_threaded`. Everything above them is plain stateful Keras, written once. How a program is compiled is decided
here, by `plan` and `WRITING`, and so is whether rows are on the device or the host. To support another Keras backend,
write its file and add it below.
"""

import math
import os
import pathlib
import re
from typing import NamedTuple

SUPPORTED = (
    "sota_dqn runs on Keras's TensorFlow and JAX backends. Set the environment variable KERAS_BACKEND to 'tensorflow' "
    "or 'jax' before Keras is imported. Received: KERAS_BACKEND="
)

try:
    import keras
except (ImportError, ValueError) as error:
    raise ImportError(f"{SUPPORTED}{os.environ.get('KERAS_BACKEND')}, with which Keras says: {error}") from error

from sota_dqn.backend.host import HostRows  # noqa: E402 - Keras first, whose errors are not so clear

BACKEND = keras.config.backend()

if BACKEND == "tensorflow":
    from sota_dqn.backend import tensorflow as _backend
elif BACKEND == "jax":
    from sota_dqn.backend import jax as _backend  # type: ignore[no-redef]
else:
    raise ImportError(f"{SUPPORTED}{BACKEND}")

CONTAINERS = (  # where Linux's control groups, version 2 and 1, tell the limit, the use, and pages of files in it
    ("memory.max", "memory.current", (".", "inactive_file")),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", ("memory", "total_inactive_file")),
)

AllocationError = _backend.AllocationError
Program = _backend.Program
asynchronous = _backend.asynchronous
device_kind = _backend.device_kind
wait = _backend.wait


class Plan(NamedTuple):
    """How a program is compiled."""

    xla: bool  # compiled by XLA; otherwise the plain graph (TensorFlow only)
    fused: bool  # repetitions become a loop inside the program; otherwise they are unrolled
    threads: bool  # one operation may use several CPU threads


WRITING = Plan(xla=False, fused=True, threads=False)  # for programs that only write: XLA has nothing to fuse there


def plan(*, convolutions, host_rows=False, backend=BACKEND, device=None):
    """Returns the fastest way to compile a program, as measured by `python -m benchmarks.plans`.

    Dense networks and accelerators: XLA, with the repetitions fused. XLA's CPU backend runs a convolution inside a loop
    ten times slower than outside it, so there JAX unrolls and TensorFlow takes the plain graph. Small dense operations
    lose more to waking threads than they win, and the other core is busy with the environments. XLA on
    TensorFlow cannot call the host.

    Args:
        convolutions: Whether the program runs convolutions.
        host_rows: Whether it reads rows in host memory.
        backend: `"tensorflow"` or `"jax"`.
        device: `"cpu"` or `"gpu"`; None asks the backend.

    Returns:
        A `Plan`.
    """
    on_cpu = (device or device_kind()) == "cpu"
    slow_loop = on_cpu and convolutions
    return Plan(
        xla=not ((slow_loop or host_rows) and backend == "tensorflow"),
        fused=not (slow_loop and backend == "jax"),
        threads=convolutions or not on_cpu,
    )


def single_threaded():
    """Has everything that this process computes on the CPU run in the thread that asks for it, on one core.

    For the workers of `OneStepTrainer`, which fill the cores by themselves: without, they wait in line for the threads
    that share out each other's work. `DQNTrainer` would lose the overlap of acting and learning.

    Raises:
        RuntimeError: If something has been computed already, such as a model's first weights.
    """
    try:
        _backend.single_threaded()
    except RuntimeError as error:
        raise RuntimeError("It is too late for single_threaded(): call it before anything is computed.") from error


def make_rows(shape, dtype, name, *, host=False):
    """Returns rows of zeros, `[rows, *O]`: a variable on the device, or `HostRows`."""
    if host:
        return HostRows(shape, dtype, name)
    return keras.Variable("zeros", shape=shape, dtype=dtype, trainable=False, autocast=False, name=name)


def read_rows(variable, rows):
    """Returns `variable[rows]` along the first axis; `rows`: `[...]` int32."""
    if isinstance(variable, HostRows):
        shape = (*rows.shape, *variable.shape[1:])
        return _backend.call_host(variable.read, shape, variable.dtype, rows)
    return _backend.read_rows(variable, rows)


def write_rows(variable, rows, values):
    """Assigns `variable[rows] = values` in place; `rows`: `[M]`, or `[M, 2]` for single elements of a matrix; int32."""
    if isinstance(variable, HostRows):
        _backend.call_host(variable.write, None, None, rows, values)
    else:
        _backend.write_rows(variable, rows, values)


def assign_slices(variable, values, size):
    """Assigns a large array on the host to `variable`, without a second copy of it; `size` rows at a time."""
    if isinstance(variable, HostRows):
        variable.assign(values)
    else:
        _backend.assign_slices(variable, values, size)


def _left_to_container(directory="/sys/fs/cgroup"):
    """Returns the bytes that the container of this process may still take; infinity where it has no limit."""
    for limit, used, cached in CONTAINERS:
        try:
            most, taken = (int(pathlib.Path(directory, name).read_text()) for name in (limit, used))
            folder, field = cached
            pages = re.search(rf"^{field} (\d+)$", pathlib.Path(directory, folder, "memory.stat").read_text(), re.M)
            return most - taken + (int(pages[1]) if pages else 0)  # pages of files can be dropped
        except (OSError, ValueError):  # no such files, or "max"
            continue
    return math.inf


def memory_available(*, host=False):
    """Returns the bytes that the device, or the host, can still allocate, or None where the system does not tell."""
    if device_kind() != "cpu" and not host:
        return _backend.device_memory()
    try:
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":", 1) for line in file)
        return min(int(fields["MemAvailable"].split()[0]) * 1024, _left_to_container())
    except (OSError, KeyError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
