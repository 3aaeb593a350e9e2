import keras
import numpy as np
import pytest

from sota_dqn.models import check_model, differs_in_training, has_convolutions


def sequential(*inside, shape=(4,)):
    return keras.Sequential([keras.Input(shape), *inside])


class Plain(keras.Model):
    """A model whose `call` takes nothing but the observations."""

    def __init__(self, units=2):
        super().__init__()
        self.dense = keras.layers.Dense(units)

    def call(self, inputs):
        return self.dense(inputs)


class Block(keras.layers.Layer):
    """A user's own layer around others."""

    def __init__(self, inner):
        super().__init__()
        self.parts = {"inner": inner}

    def call(self, inputs):
        return self.parts["inner"](inputs)


class Stem(keras.layers.Conv2D):
    """A user's own kind of convolution."""


def functional():
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(2)(inputs))


@pytest.mark.parametrize(
    "model",
    [
        lambda: sequential(keras.layers.Dense(2)),
        functional,
        lambda: sequential(sequential(keras.layers.Dense(3)), keras.layers.Dense(2)),
        lambda: keras.Sequential([keras.layers.Dense(2)]),  # built by the check
        Plain,
    ],
)
def test_models_that_fit(model):
    model = model()
    for _ in range(2):  # not built, perhaps, and built
        check_model(model, np.zeros((3, 4), "float32"), 2)
    assert len(model.variables) >= 2


def test_bytes_of_any_size_fit():
    inside = keras.layers.Rescaling(1 / 255), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)
    check_model(sequential(*inside, shape=(None, None, 1)), np.zeros((3, 8, 8, 1), "uint8"), 2)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: sequential(keras.layers.Dense(3)), r"one value for each of the 2 actions\. Received: \(3,\)"),
        (lambda: Plain(units=5), r"one value for each of the 2 actions\. Received: \(5,\)"),
        (lambda: sequential(keras.layers.Reshape((4, 1)), keras.layers.Dense(2)), r"Received: \(4, 2\)"),
        (lambda: sequential(keras.layers.Dense(2), shape=(5,)), r"have shape \(4,\)\. Received: input_shape=\(5,\)"),
        (
            lambda: sequential(keras.layers.Dense(2), shape=(4, 1)),
            r"have shape \(4,\)\. Received: input_shape=\(4, 1\)",
        ),
        (lambda: sequential(keras.layers.Lambda(abs, name="size")), r"Lambda layer, 'size', .*Rescaling"),
        (lambda: sequential(sequential(keras.layers.Lambda(abs, name="deep"))), r"Lambda layer, 'deep'"),
        (
            lambda: sequential(keras.layers.Dense(2, activation=lambda x: x, name="odd")),
            r"with a lambda as the `activation` of the layer 'odd': pass a function with a name",
        ),
        (lambda: sequential(Block(keras.layers.Lambda(abs, name="inside"))), r"Lambda layer, 'inside'"),
    ],
)
def test_models_that_do_not_fit(model, message):
    with pytest.raises(ValueError, match=message):
        check_model(model(), np.zeros((3, 4), "float32"), 2)


def test_a_layer_is_no_model():
    with pytest.raises(TypeError, match=r"Argument `model` must be a Keras model\. Received: model=<Dense"):
        check_model(keras.layers.Dense(2), np.zeros((3, 4), "float32"), 2)


def test_the_reason_of_a_model_that_cannot_be_called_is_kept():
    class Wrong(keras.Model):
        def call(self, inputs):
            raise RuntimeError("no such thing")

    with pytest.raises(ValueError, match="input does not match") as error:
        check_model(Wrong(), np.zeros((3, 4), "float32"), 2)
    assert "no such thing" in str(error.value.__cause__)


def test_layers_that_differ_in_training():
    lstm = keras.layers.LSTM(2, return_sequences=True)
    assert not differs_in_training(sequential(lstm, keras.layers.Dense(2), shape=(None, 4)))
    assert differs_in_training(sequential(keras.layers.LSTM(2, dropout=0.1), shape=(None, 4)))
    assert differs_in_training(sequential(sequential(keras.layers.Dropout(0.1))))
    assert differs_in_training(sequential(keras.layers.BatchNormalization()))


def test_convolutions_are_found_however_deep():
    inner = sequential(keras.layers.Conv2D(2, 3), keras.layers.Flatten(), shape=(8, 8, 1))
    assert has_convolutions(sequential(inner, keras.layers.Dense(2), shape=(8, 8, 1)))
    repeated = keras.layers.TimeDistributed(keras.layers.Conv1D(2, 3))
    assert has_convolutions(sequential(repeated, shape=(5, 8, 1)))
    assert has_convolutions(sequential(Block(keras.layers.Conv2D(2, 3)), shape=(8, 8, 1)))
    assert has_convolutions(sequential(Stem(2, 3), shape=(8, 8, 1)))
    assert not has_convolutions(sequential(keras.layers.Flatten(), keras.layers.Dense(2), shape=(8, 8, 1)))
