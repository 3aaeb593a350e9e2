import keras
import numpy as np
import pytest
import reference
from keras import ops
from transforms import compiled, gradient

from sota_dqn import losses

INF = float("inf")


def tensors(*numbers):
    return [ops.convert_to_tensor(number, "float32") for number in numbers]


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def random_arguments(random, batch=300):
    """Returns q, target, lower and upper, with every combination of violated, kept and infinite bounds."""
    q, target, lower, upper = random.normal(scale=2, size=(4, batch)).astype("float32")
    lower[random.random(batch) < 0.2] = -INF
    upper[random.random(batch) < 0.2] = INF
    return q, target, lower, upper


def test_squared():
    np.testing.assert_allclose(numpy(losses.squared(*tensors([1, 5], [3, 5]))), [4, 0])
    np.testing.assert_allclose(gradient(lambda q: losses.squared(*tensors([1]), q), [3]), [4])


def test_huber_clips_the_error():
    target, q = tensors([0, 0, 0, 0, 0], [0, 0.5, 1, 3, -3])
    np.testing.assert_allclose(numpy(losses.huber(target, q)), [0, 0.125, 0.5, 2.5, 2.5])
    np.testing.assert_allclose(gradient(lambda q: losses.huber(target, q), q), [0, 0.5, 1, 1, -1])


@pytest.mark.parametrize(
    ("lower", "upper", "weight", "blended"),
    [
        # The target is 2 and q is 1. One violated bound: (2 + 4 * 3) / (1 + 4) = 2.8.
        (3, INF, 4, 2.8),
        # (2 + 4 * 0) / (1 + 4) = 0.4.
        (-INF, 0, 4, 0.4),
        # Both: (2 + 3 + 0) / (1 + 1 + 1).
        (3, 0, 1, 5 / 3),
        # None, and bounds that q touches.
        (-INF, INF, 4, 2),
        (1, 1, 4, 2),
        # No weight.
        (3, 0, 0, 2),
    ],
)
def test_lower_bound_by_hand(lower, upper, weight, blended):
    penalty = losses.lower_bound(weight, loss=losses.squared)
    for function in (penalty, compiled(penalty)):
        loss = function(*tensors([1], [2], [lower], [upper]))
        np.testing.assert_allclose(numpy(loss), [(blended - 1) ** 2], rtol=1e-6)


@pytest.mark.parametrize("weight", [0.25, 4])
def test_lower_bound_agrees_with_the_reference(random, weight):
    arguments = random_arguments(random)
    expected = [reference.lower_bound_penalty(*sample, weight) for sample in zip(*arguments, strict=True)]
    loss = losses.lower_bound(weight)(*tensors(*arguments))
    np.testing.assert_allclose(numpy(loss), expected, rtol=1e-5, atol=1e-6)


def test_lower_bound_has_the_papers_gradient_rescaled(random):
    weight = 4.0
    q, target, lower, upper = random_arguments(random)

    def paper(q):
        squares = ops.square(q - target) + weight * ops.square(ops.relu(lower - q))
        return squares + weight * ops.square(ops.relu(q - upper))

    num_violated = (q < lower).astype("float32") + (q > upper)
    penalty = losses.lower_bound(weight, loss=losses.squared)
    result = gradient(lambda q: penalty(q, target, lower, upper), q)
    np.testing.assert_allclose(result, gradient(paper, q) / (1 + weight * num_violated), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("penalty", [losses.lower_bound(4.0), losses.linear_lower_bound()])
def test_infinite_bounds_leave_the_loss(random, penalty):
    q, target, _, _ = random_arguments(random)
    nothing = np.full_like(q, INF)
    np.testing.assert_array_equal(numpy(penalty(q, target, -nothing, nothing)), numpy(losses.huber(target, q)))
    np.testing.assert_array_equal(
        gradient(lambda q: penalty(q, target, -nothing, nothing), q), gradient(lambda q: losses.huber(target, q), q)
    )


def test_the_weight_does_not_change_the_size_of_the_gradient():
    # Target and bound agree, so the weight only moves importance between equals.
    q, target, lower, upper = tensors([0.0, 0.5], [0.6, 0.9], [0.6, 0.9], [INF, INF])
    for weight in (0, 0.25, 4, 1000):
        penalty = losses.lower_bound(weight)
        result = gradient(lambda q: penalty(q, target, lower, upper), q)  # noqa: B023 - used at once
        np.testing.assert_allclose(result, [-0.6, -0.4], rtol=1e-5)


def test_linear_lower_bound_by_hand():
    # q is 1. Below the bound 3 the loss is the distance, 2, with a gradient of -1; else it is (4 - 1)^2, gradient -6.
    penalty = losses.linear_lower_bound(loss=losses.squared)
    target, lower, upper = tensors([4, 4, 4], [3, 0, 1], [-9, -9, -9])
    for function in (penalty, compiled(penalty)):
        np.testing.assert_allclose(numpy(function(*tensors([1, 1, 1]), target, lower, upper)), [2, 9, 9])
    np.testing.assert_allclose(gradient(lambda q: penalty(q, target, lower, upper), [1, 1, 1]), [-1, -6, -6])


def test_linear_lower_bound_agrees_with_the_reference(random):
    arguments = random_arguments(random)
    expected = [reference.linear_lower_bound_penalty(*sample[:3]) for sample in zip(*arguments, strict=True)]
    loss = losses.linear_lower_bound()(*tensors(*arguments))
    np.testing.assert_allclose(numpy(loss), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("penalty", [losses.lower_bound(4.0), losses.linear_lower_bound()])
def test_target_and_bounds_are_constants(random, penalty):
    arguments = tensors(*random_arguments(random))

    def of(position, x):
        return penalty(*arguments[:position], x, *arguments[position + 1 :])

    assert np.all(np.isfinite(gradient(lambda x: of(0, x), arguments[0])))
    for position in (1, 2, 3):
        result = gradient(lambda x: of(position, x), arguments[position])  # noqa: B023 - used at once
        np.testing.assert_array_equal(result, np.zeros_like(result))


class HalfSquare(keras.losses.Loss):
    """A user's loss, which does not average over the last axis."""

    def call(self, y_true, y_pred):
        return 0.5 * ops.square(y_true - y_pred)


def distance(y_true, y_pred):
    return ops.abs(y_true - y_pred)


def mean_square(y_true, y_pred):
    return ops.mean(ops.square(y_true - y_pred))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        # Errors of 0.5 and -3.
        ("mse", [0.25, 9]),
        ("MeanAbsoluteError", [0.5, 3]),
        ("huber", [0.125, 2.5]),
        (keras.losses.mean_absolute_error, [0.5, 3]),
        (keras.losses.MeanSquaredError, [0.25, 9]),
        (keras.losses.MeanSquaredError(reduction="sum"), [0.25, 9]),
        (keras.losses.Huber(delta=2.0), [0.125, 4]),
        (HalfSquare(), [0.125, 4.5]),
        (distance, [0.5, 3]),
    ],
)
def test_from_keras(loss, expected):
    elementwise = losses.from_keras(loss)
    for function in (elementwise, compiled(elementwise)):
        result = function(*tensors([1, 1], [0.5, 4]))
        assert result.shape == (2,)
        np.testing.assert_allclose(numpy(result), expected, rtol=1e-6)


def test_from_keras_takes_the_loss_of_a_compiled_model():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(loss=keras.losses.Huber())
    target, q = tensors([0, 0, 0], [0.5, 3, -3])
    result = losses.from_keras(model.loss)(target, q)
    np.testing.assert_allclose(numpy(result), numpy(losses.huber(target, q)), rtol=1e-6)


def test_from_keras_refuses_a_loss_that_averages():
    mean = losses.from_keras(mean_square)
    with pytest.raises(ValueError, match="Argument `loss` must give one number per sample, not their mean. Received"):
        mean(*tensors([1, 1], [0, 0]))


def test_from_keras_refuses_what_a_checkpoint_cannot_hold():
    with pytest.raises(ValueError, match="could not be loaded safely with a lambda as the loss: pass a function"):
        losses.from_keras(lambda y_true, y_pred: ops.abs(y_true - y_pred))


@pytest.mark.parametrize("make", [losses.lower_bound, losses.linear_lower_bound])
def test_a_loss_that_averages_is_refused(make):
    """`keras.losses.huber` takes the mean over the last axis, of which there is but one here."""
    q = ops.ones(4)
    with pytest.raises(ValueError, match=r"`loss` must be a function that .* of shape \(4,\). Received: shape=\(\)"):
        make(loss=keras.losses.huber)(q, q, q, q)


def test_from_keras_refuses_a_loss_of_pairs():
    def pairs(y_true, y_pred):
        return y_true - ops.transpose(y_pred)

    with pytest.raises(ValueError, match=r"`loss` must be a function that .* of shape \(4,\). Received: shape=\(16,\)"):
        losses.from_keras(pairs)(ops.ones(4), ops.ones(4))


def test_penalties_remember_how_they_were_made():
    assert losses.lower_bound().recipe == (losses.lower_bound, {"weight": 4.0, "loss": losses.huber})
    assert losses.linear_lower_bound().recipe == (losses.linear_lower_bound, {"loss": losses.huber})
    assert losses.from_keras("mse").recipe == (losses.from_keras, {"loss": "mse"})


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: losses.lower_bound(-1), ValueError, r"Argument `weight` must be finite and at least 0. .*weight=-1"),
        (lambda: losses.lower_bound(INF), ValueError, r"Argument `weight` must be finite and at least 0. .*weight=inf"),
        (lambda: losses.lower_bound("4"), TypeError, r"Argument `weight` must be a number. Received: weight='4'"),
        (lambda: losses.lower_bound(loss="mse"), TypeError, r"Argument `loss` must be a function .*loss='mse'"),
        (lambda: losses.linear_lower_bound(loss=keras.losses.Huber()), TypeError, r"Argument `loss` .*`from_keras`"),
        (lambda: losses.from_keras(["mse"]), TypeError, r"Argument `loss` must be the name of a Keras .*=\['mse'\]"),
        (lambda: losses.from_keras(None), TypeError, r"Argument `loss` must be the name of a Keras loss.*loss=None"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()
