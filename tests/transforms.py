"""What tests do to functions of tensors, on either backend: compile them and take their gradient."""

import functools

import keras
from keras import ops

from sota_dqn import backend


@functools.cache
def compiled(function):
    """Returns `function` as one compiled program of tensors."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function, jit_compile=True)


def gradient(function, x):
    """Returns the gradient of the sum of `function(x)` with respect to `x`, as a NumPy array."""
    x = ops.convert_to_tensor(x, "float32")
    if keras.backend.backend() == "jax":
        import jax

        result = jax.jit(jax.grad(lambda x: ops.sum(function(x))))(x)
    else:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(x)
            total = ops.sum(function(x))
        result = tape.gradient(total, x, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return ops.convert_to_numpy(result)


def evaluated(function, *arguments, variables=()):
    """Returns `function(*arguments)`, compiled into one program that may assign `variables`: NumPy arrays.

    On JAX that is much quicker than one small program for each operation.
    """
    program = backend.Program([], variables, backend.Plan(xla=False, fused=True, threads=False))
    outputs = program.compile(function)(*arguments)
    return keras.tree.map_structure(lambda x: None if x is None else ops.convert_to_numpy(x), outputs)
