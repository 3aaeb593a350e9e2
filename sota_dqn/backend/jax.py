"""JAX: variable values threaded through `keras.StatelessScope`, which make stateful Keras code a pure function."""

import contextlib
import functools
import importlib.util
import os
import sys
import types

import jax
import jax.numpy as jnp
import keras
from jax.experimental import io_callback

from sota_dqn.backend.host import HostRows
from sota_dqn.types import Compiled

AllocationError = jax.errors.JaxRuntimeError  # what a variable that does not fit into the memory raises

# On the CPU XLA's library of kernels, YNNPACK, computes matrix products alone. By default it computes
# convolutions too in JAX 0.10.2 (not in 0.10.0), which is slower (`python -m benchmarks.plans`).
KERNELS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


@functools.cache
def _known_kernels():
    """Returns `KERNELS`, or nothing where this version of XLA does not know the option."""
    try:
        jax.jit(lambda: 0, compiler_options=KERNELS)()
    except jax.errors.JaxRuntimeError:
        return {}
    return KERNELS


class _TensorFlow(types.ModuleType):
    """TensorFlow, which is imported when more is asked for than its types.

    Until then no value can be of one of them.
    """

    def __getattr__(self, name):
        if sys.modules.get("tensorflow", self) is self:
            if name in ("TensorShape", "DType", "TypeSpec"):
                return _OfTensorFlow
            sys.modules.pop("tensorflow", None)
        return getattr(importlib.import_module("tensorflow"), name)


class _OfTensorFlow:
    """No value is of this type."""


def _defer_tensorflow():
    """Keeps Keras from importing TensorFlow whenever it describes or saves a model, which takes seconds of a core.

    It does so to ask whether a value is of one of TensorFlow's types, and asks the module that it finds the first time.
    """
    if "tensorflow" in sys.modules or importlib.util.find_spec("tensorflow") is None:
        return
    sys.modules["tensorflow"] = deferred = _TensorFlow("tensorflow")
    try:
        keras.saving.serialize_keras_object(keras.initializers.Zeros())
    finally:
        if sys.modules.get("tensorflow") is deferred:
            del sys.modules["tensorflow"]


_defer_tensorflow()


class Program:
    """Variables, and the functions over them that are compiled.

    Args:
        reads: The `keras.Variable`s that the functions only read; `HostRows` are left out.
        writes: Those that they may assign. Their old values are donated: whoever holds one outside loses it.
        plan: A `Plan`.
    """

    def __init__(self, reads, writes, plan):
        written = {id(variable) for variable in writes}
        self.reads = [x for x in reads if id(x) not in written and not isinstance(x, HostRows)]
        self.writes = [x for x in writes if not isinstance(x, HostRows)]
        self.plan = plan
        for variable in [*self.reads, *self.writes]:
            if variable.value.weak_type:  # as of `keras.Variable(1.0)`: what is assigned later would compile anew
                variable.assign(jax.lax.convert_element_type(variable.value, variable.value.dtype))

    def compile(self, function):
        """Returns `function` compiled: it takes arrays, may assign `writes`, and returns a structure of arrays."""

        traces = []

        def pure(written, read, arguments):
            traces.append(1)  # runs only where it is traced, to be compiled
            mapping = [*zip(self.writes, written, strict=True), *zip(self.reads, read, strict=True)]
            with keras.StatelessScope(mapping) as scope:
                outputs = function(*arguments)
            self._check(scope, read)
            return outputs, [scope.get_current_value(variable) for variable in self.writes]

        on_cpu = device_kind() == "cpu"
        options = {"xla_cpu_multi_thread_eigen": self.plan.threads, **_known_kernels()} if on_cpu else None
        compiled = jax.jit(pure, donate_argnums=0, compiler_options=options)

        def call(*arguments):
            written = [variable.value for variable in self.writes]
            read = [variable.value for variable in self.reads]
            outputs, values = compiled(written, read, arguments)
            for variable, value in zip(self.writes, values, strict=True):
                variable.assign(value)
            return outputs

        return Compiled(call, lambda: len(traces))

    def repeat(self, function, inputs, names):
        """Calls `function(*inputs[i])`, which returns a float32 scalar for each of `names`, for every i along the first
        axis.

        Returns:
            A dict of each name's values, `[times]`.
        """
        if not self.plan.fused:
            times = jax.tree.leaves(inputs)[0].shape[0]
            outputs = [function(*jax.tree.map(lambda x, i=i: x[i], inputs)) for i in range(times)]
            return {name: jnp.stack([output[name] for output in outputs]) for name in names}

        def body(written, inputs_i):
            with keras.StatelessScope(self._mapping(self.writes, written)) as scope:
                outputs = function(*inputs_i)
            self._check(scope, [variable.value for variable in self.reads])
            values = [scope.get_current_value(variable) for variable in self.writes]
            return values, {name: outputs[name] for name in names}

        values, outputs = jax.lax.scan(body, [variable.value for variable in self.writes], inputs)
        for variable, value in zip(self.writes, values, strict=True):
            variable.assign(value)
        return outputs

    def value_and_grad(self, function, variables):
        """Returns `((loss, auxiliary), gradients)` of `function() -> (loss, auxiliary)` over `variables`."""
        trained = {id(variable) for variable in variables}
        others = [variable for variable in self.writes if id(variable) not in trained]

        def loss_of(values):
            # What layers add to the loss, as activity regularizers do, is kept in the scope, and only if asked for.
            with keras.StatelessScope(self._mapping(variables, values), collect_losses=True) as scope:
                loss, auxiliary = function()
            self._check(scope, [variable.value for variable in self.reads])
            return loss, (auxiliary, [scope.get_current_value(variable) for variable in others])

        values = [variable.value for variable in variables]
        (loss, (auxiliary, assigned)), gradients = jax.value_and_grad(loss_of, has_aux=True)(values)
        for variable, value in zip(others, assigned, strict=True):
            variable.assign(value)
        return (loss, auxiliary), gradients

    def apply(self, optimizer, gradients, variables):
        """Changes `variables` by their gradients, as the Keras optimizer does."""
        if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            optimizer.apply(gradients, variables)
            return
        # Its `apply` assigns inside a condition, which JAX makes a function of its own.
        values = [[variable.value for variable in group] for group in (optimizer.variables, variables)]
        trained, states = optimizer.stateless_apply(values[0], gradients, values[1])
        for variable, value in zip([*variables, *optimizer.variables], [*trained, *states], strict=True):
            variable.assign(value)

    def fused(self, function):
        """Returns `function`, which XLA compiles with the program around it."""
        return function

    def _check(self, scope, read):
        """Raises RuntimeError where a variable that is only read was assigned: what it was assigned would be lost."""
        for variable, value in zip(self.reads, read, strict=True):
            if scope.get_current_value(variable) is not value:
                raise RuntimeError(f"A program assigned a variable that it may only read. Received: {variable.path}")

    def _mapping(self, variables, values):
        """The values of all variables as they are now, but for those given."""
        now = [(variable, variable.value) for variable in [*self.reads, *self.writes]]
        return [*now, *zip(variables, values, strict=True)]


def read_rows(variable, rows):
    """Returns `variable[rows]` along the first axis; `rows`: `[...]` int32."""
    return jnp.take(variable.value, rows, axis=0, mode="clip")


def write_rows(variable, rows, values):
    """Assigns `variable[rows] = values` in place; `rows`: `[M]`, or `[M, 2]` for single elements of a matrix; int32."""
    where = (rows[:, 0], rows[:, 1]) if rows.ndim == 2 else rows
    variable.assign(variable.value.at[where].set(values))


def call_host(function, shape, dtype, *arguments):
    """Returns what `function` of arrays on the host returns: one array, or nothing where `shape` is None.

    Calls are made in the order of the program, and of the programs that are called after each other.
    """
    result = None if shape is None else jax.ShapeDtypeStruct(shape, dtype)
    return io_callback(function, result, *arguments, ordered=True)


def device_kind():
    """Returns `"cpu"` or `"gpu"`, whatever kind of accelerator it is."""
    return "cpu" if jax.default_backend() == "cpu" else "gpu"


def device_memory():
    """Returns the free bytes of the accelerator, or None where it does not tell."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" not in statistics:
        return None
    return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)


def wait(tensors):
    """Returns once the tensors are computed."""
    jax.block_until_ready(tensors)


def asynchronous():
    """A context in which calls of programs return before the device is done. JAX's always do."""
    return contextlib.nullcontext()


def single_threaded():
    """Has programs on the CPU run in the thread that calls them."""
    if not jax.config.read("jax_cpu_enable_async_dispatch"):
        return
    devices = jax.config.jax_num_cpu_devices  # type: ignore[attr-defined, unused-ignore]  # JAX 0.12 knows it
    for number in (devices + 2, devices):  # a change raises RuntimeError if it is too late
        jax.config.update("jax_num_cpu_devices", number)
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    before = os.environ.get("NPROC")
    os.environ["NPROC"] = "1"  # the threads that XLA shares a program out to
    try:
        jax.devices()
    finally:
        del os.environ["NPROC"]
        if before is not None:
            os.environ["NPROC"] = before


def assign_slices(variable, values, size):
    """Assigns a large array on the host to `variable`, without a second copy of it on the device."""
    del size  # the old array is dropped before the new one is allocated
    variable.value.delete()
    variable.assign(jnp.asarray(values))
