"""Keras layers for action values that Keras itself lacks.

To add one, write a `keras.layers.Layer` registered under the package "sota_dqn", with a `get_config` that gives its
constructor back, so that a saved model loads wherever sota_dqn is imported.
"""

import math

import keras
from keras import ops

from sota_dqn.checks import check_count, check_number

__all__ = ["Dueling", "NoisyDense"]


@keras.saving.register_keras_serializable(package="sota_dqn")
class Dueling(keras.layers.Layer):
    """Two streams, one for the state and one for the actions: `Q = V + A - mean_a A`, `[B, F] -> [B, A]`.

    After Wang et al., 2016. Each stream is a hidden layer and a linear one. The gradient that enters the layers below
    is scaled by 1 / sqrt(2), as both streams send theirs. The paper also clips the gradient's norm to 10, which is
    the optimizer's matter.

    Args:
        num_actions: A, at least 1.
        units: Width of the hidden layer of each stream, at least 1. The default is the paper's.
        activation: Of the hidden layers, anything that `keras.layers.Dense` takes.
        **kwargs: Of `keras.layers.Layer`.
    """

    def __init__(self, num_actions, units=512, activation="relu", **kwargs):
        check_count(1, num_actions=num_actions, units=units)
        super().__init__(**kwargs)
        self.num_actions = num_actions = int(num_actions)  # neither Keras's layers nor JSON know those of NumPy
        self.units = units = int(units)
        self.activation = keras.activations.get(activation)
        self.value_hidden = keras.layers.Dense(units, activation, dtype=self.dtype_policy, name="value_hidden")
        self.value = keras.layers.Dense(1, dtype=self.dtype_policy, name="value")
        self.advantage_hidden = keras.layers.Dense(units, activation, dtype=self.dtype_policy, name="advantage_hidden")
        self.advantage = keras.layers.Dense(num_actions, dtype=self.dtype_policy, name="advantage")

    def build(self, input_shape):
        hidden_shape = (*input_shape[:-1], self.units)
        self.value_hidden.build(input_shape)
        self.value.build(hidden_shape)
        self.advantage_hidden.build(input_shape)
        self.advantage.build(hidden_shape)

    def call(self, inputs):
        scaled = inputs / math.sqrt(2)
        features = scaled + ops.stop_gradient(inputs - scaled)
        value = self.value(self.value_hidden(features))  # [B, 1]
        advantage = self.advantage(self.advantage_hidden(features))  # [B, A]
        return value + advantage - ops.mean(advantage, axis=-1, keepdims=True)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.num_actions)

    def get_config(self):
        return {
            **super().get_config(),
            "num_actions": self.num_actions,
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
        }


@keras.saving.register_keras_serializable(package="sota_dqn")
class NoisyDense(keras.layers.Layer):
    """A dense layer whose noise explores: `y = (M + S * E) x + m + s * e`, `[..., F] -> [..., units]`.

    NoisyNet with factorised noise, after Fortunato et al., 2018: `E = f(p) f(q)^T` and `e = f(q)` with
    `f(x) = sign(x) sqrt(|x|)`, where p, of one number per input, and q, of one per unit, are drawn from a normal
    distribution at every call, in training, acting and evaluation alike, once for the batch. How strong the noise is,
    S and s, is learned. With it in the place of the last dense layers, `policy=policies.Greedy()` explores.

    Args:
        units: How many outputs, at least 1.
        activation: Anything that `keras.layers.Dense` takes; None for a linear layer.
        sigma: The noise at first, times sqrt(F), above 0. The default is the paper's.
        **kwargs: Of `keras.layers.Layer`.
    """

    def __init__(self, units, activation=None, *, sigma=0.5, **kwargs):
        check_count(1, units=units)
        check_number(above=0, sigma=sigma)
        super().__init__(**kwargs)
        self.units = int(units)
        self.activation = keras.activations.get(activation)
        self.sigma = float(sigma)
        self.seed_generator = keras.random.SeedGenerator()

    def build(self, input_shape):
        features = input_shape[-1]
        limit = 1 / math.sqrt(features)
        # One for each: an initializer that is called again draws the same numbers again.
        start, start_bias = (keras.initializers.RandomUniform(-limit, limit) for _ in range(2))
        spread = keras.initializers.Constant(self.sigma * limit)
        self.kernel = self.add_weight(shape=(features, self.units), initializer=start, name="kernel")
        self.bias = self.add_weight(shape=(self.units,), initializer=start_bias, name="bias")
        self.kernel_sigma = self.add_weight(shape=(features, self.units), initializer=spread, name="kernel_sigma")
        self.bias_sigma = self.add_weight(shape=(self.units,), initializer=spread, name="bias_sigma")

    def call(self, inputs):
        features = inputs.shape[-1]
        normal = keras.random.normal((features + self.units,), dtype="float32", seed=self.seed_generator)
        noise = ops.cast(ops.sign(normal) * ops.sqrt(ops.abs(normal)), self.compute_dtype)
        before, after = noise[:features], noise[features:]
        kernel = self.kernel + self.kernel_sigma * before[:, None] * after
        return self.activation(ops.matmul(inputs, kernel) + self.bias + self.bias_sigma * after)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
            "sigma": self.sigma,
        }
