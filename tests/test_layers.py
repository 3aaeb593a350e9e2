import keras
import numpy as np
import pytest
from keras import ops
from transforms import compiled, gradient

from sota_dqn.layers import Dueling, NoisyDense


def plain(layer, weights, x):
    """Returns `V + A - mean A` from the eight weights of a layer with relu, without any scaling of gradients."""
    value_kernel, value_bias, value_head, value_head_bias, kernel, bias, head, head_bias = weights
    value = ops.relu(x @ value_kernel + value_bias) @ value_head + value_head_bias
    advantage = ops.relu(x @ kernel + bias) @ head + head_bias
    return value + advantage - ops.mean(advantage, axis=-1, keepdims=True)


def built(num_actions=3, units=8, features=4):
    layer = Dueling(num_actions, units)
    layer.build((None, features))
    return layer


def test_by_hand():
    # One feature x = 1 and one hidden unit each, of weight 1: V = 2 and A = 1, 2, 6 with mean 3, so Q = 0, 1, 5.
    layer = built(num_actions=3, units=1, features=1)
    layer.value_hidden.kernel.assign([[1.0]])
    layer.value.kernel.assign([[2.0]])
    layer.advantage_hidden.kernel.assign([[1.0]])
    layer.advantage.kernel.assign([[1.0, 2.0, 6.0]])
    np.testing.assert_allclose(ops.convert_to_numpy(layer(np.float32([[1]]))), [[0, 1, 5]], atol=1e-6)


def test_agrees_with_the_formula(random):
    layer = built()
    x = ops.convert_to_tensor(random.normal(size=(6, 4)), "float32")
    weights = [weight.value for weight in layer.weights]
    expected = ops.convert_to_numpy(compiled(lambda x: plain(layer, weights, x))(x))
    np.testing.assert_allclose(ops.convert_to_numpy(compiled(layer)(x)), expected, rtol=1e-5, atol=1e-6)


def test_gradient_into_the_trunk_is_scaled(random):
    layer = built()
    x = random.normal(size=(6, 4)).astype("float32")
    factors = ops.convert_to_tensor(random.normal(size=(6, 3)), "float32")
    weights = [weight.value for weight in layer.weights]
    unscaled = gradient(lambda x: factors * plain(layer, weights, x), x)
    scaled = gradient(lambda x: factors * layer(x), x)
    assert np.any(unscaled)
    np.testing.assert_allclose(scaled, unscaled / np.sqrt(2), rtol=1e-4, atol=1e-6)


def test_gradient_of_its_own_weights_is_not_scaled(random):
    layer = built()
    x = ops.convert_to_tensor(random.normal(size=(6, 4)), "float32")
    factors = ops.convert_to_tensor(random.normal(size=(6, 3)), "float32")
    weights = [weight.value for weight in layer.weights]
    for i, weight in enumerate(weights):

        def replaced(value, i=i):
            return [*weights[:i], value, *weights[i + 1 :]]

        result = gradient(lambda w: factors * layer.stateless_call(replaced(w), [], x)[0], weight)
        expected = gradient(lambda w: factors * plain(layer, replaced(w), x), weight)
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_streams_start_different():
    layer = built()
    hidden = [ops.convert_to_numpy(dense.kernel) for dense in (layer.value_hidden, layer.advantage_hidden)]
    assert np.any(hidden[0] != hidden[1])


def test_defaults_are_the_papers():
    layer = Dueling(6)
    assert layer.units == 512
    assert layer.activation is keras.activations.relu


@pytest.mark.parametrize("shape", [(None, 4), (None, 7, 4)])
def test_output_shape(shape):
    assert Dueling(3, 8)(keras.KerasTensor(shape)).shape == (*shape[:-1], 3)


def test_config_makes_the_same_layer():
    layer = Dueling(3, 8, activation="tanh", name="head")
    config = layer.get_config()
    assert {key: config[key] for key in ("num_actions", "units", "activation", "name")} == {
        "num_actions": 3,
        "units": 8,
        "activation": "tanh",
        "name": "head",
    }
    assert Dueling.from_config(config).get_config() == config


def test_saved_model_loads(tmp_path, random):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5), Dueling(3, 8, activation="tanh")])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = random.normal(size=(6, 4)).astype("float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded(x)), ops.convert_to_numpy(model(x)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0,), ValueError, "Argument `num_actions` must be at least 1. Received: num_actions=0"),
        ((2.0,), TypeError, "Argument `num_actions` must be an integer. Received: num_actions=2.0"),
        ((True,), TypeError, "Argument `num_actions` must be an integer. Received: num_actions=True"),
        ((2, 0), ValueError, "Argument `units` must be at least 1. Received: units=0"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Dueling(*arguments)


def test_numbers_of_numpy_can_be_saved():
    assert [type(Dueling(np.int64(2), np.int32(3)).get_config()[name]) for name in ("num_actions", "units")] == [
        int
    ] * 2


# NoisyDense


def noisy(units=3, features=4, **arguments):
    layer = NoisyDense(units, **arguments)
    layer.build((None, features))
    return layer


def test_noise_is_as_in_the_formula(random):
    layer = noisy(activation="relu")
    x = random.normal(size=(6, 4)).astype("float32")
    state = ops.copy(layer.seed_generator.state.value)
    found = ops.convert_to_numpy(layer(x))
    layer.seed_generator.state.assign(state)
    drawn = ops.convert_to_numpy(keras.random.normal((7,), seed=layer.seed_generator))
    p, q = np.split(np.sign(drawn) * np.sqrt(np.abs(drawn)), [4])
    kernel, bias, kernel_sigma, bias_sigma = layer.get_weights()
    expected = x @ (kernel + kernel_sigma * np.outer(p, q)) + bias + bias_sigma * q
    np.testing.assert_allclose(found, np.maximum(expected, 0), rtol=1e-4, atol=1e-5)


def test_every_call_draws_and_one_noise_is_for_the_batch():
    layer = noisy()
    first, second = (ops.convert_to_numpy(layer(np.ones((5, 4), "float32"))) for _ in range(2))
    assert not np.isclose(first, second).any()
    np.testing.assert_allclose(first, first[:1].repeat(5, axis=0), rtol=1e-5)


def test_noise_starts_as_in_the_paper():
    kernel, bias, kernel_sigma, bias_sigma = noisy(units=200, features=25).get_weights()
    for start in (kernel, bias):
        assert np.abs(start).max() <= 0.2 and np.abs(start).mean() == pytest.approx(0.1, rel=0.15)
    assert not np.isclose(kernel[0], bias).all()  # drawn independently
    assert np.all(kernel_sigma == np.float32(0.1)) and np.all(bias_sigma == np.float32(0.1))  # 0.5 / sqrt(25)


def test_a_noisy_model_is_saved_and_loaded(tmp_path):
    model = keras.Sequential([keras.Input((None, 4)), NoisyDense(5, "relu"), NoisyDense(3, sigma=0.1, name="head")])
    assert model.output_shape == (None, None, 3)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [layer.get_config() for layer in loaded.layers] == [layer.get_config() for layer in model.layers]
    for one, other in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"units": 0}, "Argument `units` must be at least 1. Received: units=0"),
        ({"units": 2, "sigma": 0}, "Argument `sigma` must be finite and above 0. Received: sigma=0"),
    ],
)
def test_bad_arguments_of_a_noisy_layer(arguments, message):
    with pytest.raises(ValueError, match=message):
        NoisyDense(**arguments)
