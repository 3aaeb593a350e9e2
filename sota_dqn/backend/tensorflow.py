"""TensorFlow: stateful Keras code inside `tf.function`, which XLA compiles where the plan says so."""

import contextlib

import tensorflow as tf

from sota_dqn.types import Compiled

AllocationError = tf.errors.ResourceExhaustedError  # what a variable that does not fit into the memory raises


class Program:
    """Variables, and the functions over them that are compiled.

    Args:
        reads: The `keras.Variable`s that the functions only read.
        writes: Those that they may assign.
        plan: A `Plan`.
    """

    def __init__(self, reads, writes, plan):
        self.reads = list(reads)
        self.writes = list(writes)
        self.plan = plan

    def compile(self, function):
        """Returns `function` compiled: it takes arrays, may assign `writes`, and returns a structure of arrays."""
        programs = {}  # by shapes and dtypes: TensorFlow binds arguments to a program more slowly than many a one runs

        def trace(tensors, structure):
            def flat(*values):
                return function(*tf.nest.pack_sequence_as(structure, values))

            compiled = tf.function(flat, jit_compile=self.plan.xla, autograph=False)
            concrete = compiled.get_concrete_function(*tensors)
            return concrete.inference_fn, concrete.captured_inputs, concrete  # which owns the two

        def call(*arguments):
            arrays = tf.nest.flatten(arguments)
            signature = tuple([(array.shape, array.dtype) for array in arrays])
            tensors = [_as_tensor(array) for array in arrays]
            if signature not in programs:
                programs[signature] = trace(tensors, tf.nest.map_structure(lambda _: 0, arguments))
            program, captured, _ = programs[signature]
            return program.call_preflattened(tensors + captured)

        return Compiled(call, lambda: len(programs))

    def repeat(self, function, inputs, names):
        """Calls `function(*inputs[i])`, which returns a float32 scalar for each of `names`, for every i along the first
        axis.

        Returns:
            A dict of each name's values, `[times]`.
        """
        times = tf.nest.flatten(inputs)[0].shape[0]

        def call(i):
            outputs = function(*tf.nest.map_structure(lambda x: tf.gather(x, i), inputs))
            return [outputs[name] for name in names]

        def body(i, arrays):
            return i + 1, [array.write(i, value) for array, value in zip(arrays, call(i), strict=True)]

        if self.plan.fused:
            arrays = [tf.TensorArray("float32", times, element_shape=()) for _ in names]
            _, arrays = tf.while_loop(lambda i, _: i < times, body, (tf.constant(0), arrays), maximum_iterations=times)
            values = [array.stack() for array in arrays]
        else:
            values = [tf.stack(column) for column in zip(*[call(i) for i in range(times)], strict=True)]
        return dict(zip(names, values, strict=True))

    def value_and_grad(self, function, variables):
        """Returns `((loss, auxiliary), gradients)` of `function() -> (loss, auxiliary)` over `variables`."""
        values = [variable.value for variable in variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            loss, auxiliary = function()
        gradients = tape.gradient(loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return (loss, auxiliary), gradients

    def apply(self, optimizer, gradients, variables):
        """Changes `variables` by their gradients, as the Keras optimizer does."""
        self.fused(lambda given: optimizer.apply(given, variables))(gradients)

    def fused(self, function):
        """Returns `function` compiled by XLA, in a program that is a plain graph for the sake of its convolutions.

        The many small operations of sampling and the passes over all weights then cost what they cost elsewhere.
        """
        return function if self.plan.xla else tf.function(function, jit_compile=True, autograph=False)


def read_rows(variable, rows):
    """Returns `variable[rows]` along the first axis; `rows`: `[...]` int32."""
    return variable.value.sparse_read(rows)


def write_rows(variable, rows, values):
    """Assigns `variable[rows] = values` in place; `rows`: `[M]`, or `[M, 2]` for single elements of a matrix; int32."""
    if len(rows.shape) == 2:
        variable.value.scatter_nd_update(rows, values)
    else:
        variable.value.scatter_update(tf.IndexedSlices(values, rows))


def call_host(function, shape, dtype, *arguments):
    """Returns what `function` of arrays on the host returns: one array, or nothing where `shape` is None.

    Calls are made in the order of the program, and of the programs that are called after each other.
    """
    if shape is None:
        tf.numpy_function(function, arguments, [])
        return None
    return tf.ensure_shape(tf.numpy_function(function, arguments, dtype), shape)


def device_kind():
    """Returns `"cpu"` or `"gpu"`, whatever kind of accelerator it is."""
    return "gpu" if tf.config.list_logical_devices("GPU") else "cpu"


def device_memory():
    """Returns the free bytes of the accelerator; None, since TensorFlow does not tell."""
    return None


def wait(tensors):
    """Returns once the tensors are computed."""
    for tensor in tf.nest.flatten(tensors):
        tensor.numpy()


@contextlib.contextmanager
def asynchronous():
    """A context in which calls of programs return before the device is done. It holds for the whole process."""
    before = tf.config.experimental.get_synchronous_execution()
    tf.config.experimental.set_synchronous_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.set_synchronous_execution(before)


def single_threaded():
    """Has programs on the CPU run in the thread that calls them."""
    tf.config.threading.set_intra_op_parallelism_threads(1)  # RuntimeError if it is too late
    tf.config.threading.set_inter_op_parallelism_threads(1)


def assign_slices(variable, values, size):
    """Assigns a large array on the host to `variable`, `size` rows at a time, without a second copy of it."""
    for begin in range(0, len(values), size):
        rows = tf.range(begin, min(begin + size, len(values)))
        write_rows(variable, rows, tf.convert_to_tensor(values[begin : begin + size]))


def _as_tensor(array):
    return array if isinstance(array, tf.Tensor) else tf.convert_to_tensor(array)  # a test is ten times as fast
