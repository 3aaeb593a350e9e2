"""Keras layers for action values that Keras itself lacks.

To add one, write a `keras.layers.Layer` registered under the package "sota_dqn", with a `get_config` that gives its
constructor back, so that a saved model loads wherever sota_dqn is imported.
"""

import math

import keras
from keras import ops

from sota_dqn.checks import check_count

__all__ = ["Dueling"]


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
