import keras
import numpy as np
import pytest

from sota_dqn.models import check_model, has_convolutions


def sequential(*inside, shape=(4,)):
    return keras.Sequential([keras.Input(shape), *inside])


class Plain(keras.Model):
    """A model whose `call` takes nothing but the observations."""

    def __init__(self, units=2):
        super().__init__()
        self.dense = keras.layers.Dense(units)

    def call(self, inputs):
        return self.dense(inputs)


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


def test_convolutions_are_found_however_deep():
    inner = sequential(keras.layers.Conv2D(2, 3), keras.layers.Flatten(), shape=(8, 8, 1))
    assert has_convolutions(sequential(inner, keras.layers.Dense(2), shape=(8, 8, 1)))
    repeated = keras.layers.TimeDistributed(keras.layers.Conv1D(2, 3))
    assert has_convolutions(sequential(repeated, shape=(5, 8, 1)))
    assert not has_convolutions(sequential(keras.layers.Flatten(), keras.layers.Dense(2), shape=(8, 8, 1)))
