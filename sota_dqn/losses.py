"""Losses, functions `(target, q) -> [B]`, and penalties, functions `(q, target, lower, upper) -> [B]`.

Both give one number per sample; the learner weighs and averages them. A penalty combines the loss with bounds on q
(`returns.lower_bound`, `returns.upper_bound`). To add a loss, write a function of `target` and `q`; to add a penalty,
a function that takes its settings and returns a function of the four, decorated with `recorded` so that a checkpoint
can name it.
"""

import keras
from keras import ops

from sota_dqn.checks import check_named, check_number, one_per_sample
from sota_dqn.types import recorded

__all__ = ["checked", "from_keras", "huber", "linear_lower_bound", "lower_bound", "squared"]


def checked(function, argument):
    """Returns a loss or a penalty that raises ValueError unless it finds one number per sample, `[B]`.

    Args:
        function: The loss or the penalty. Its first argument is `[B]`.
        argument: What the user's argument is called, for the error.
    """

    def call(first, *others):
        return one_per_sample(function(first, *others), first.shape[0], argument)

    return call


def squared(target, q):
    """Returns `(target - q)^2`, `[B]`. Its gradient is twice that of `huber` near zero."""
    return ops.square(target - q)


def huber(target, q):
    """Returns `e^2 / 2` where `|e| <= 1` and `|e| - 1/2` elsewhere, `e = target - q`, `[B]`.

    The squared error whose gradient is clipped to [-1, 1], after Mnih et al., 2015.
    """
    error = ops.abs(target - q)
    clipped = ops.minimum(error, 1.0)
    return 0.5 * ops.square(clipped) + error - clipped


@recorded
def lower_bound(weight=4.0, *, loss=huber):
    """Returns the penalty of optimality tightening (after He, Liu, Schwing and Peng, 2017).

    The paper minimises `(q - y)^2 + weight (L - q)_+^2 + weight (q - U)_+^2`. With n bounds violated that is, up to a
    constant, `(1 + weight n) (q - blended)^2`, where

    `blended = (y + weight L [L > q] + weight U [q > U]) / (1 + weight n)`.

    As in the authors' derivation the factor is dropped, so that a gradient is of the same size with and without a
    violated bound, and what is returned is `loss(blended, q)`. The bounds are constants.

    Args:
        weight: lambda, at least 0. The default is the paper's; the authors' released code amounts to 0.25.
        loss: A function `(target, q) -> [B]`.

    Returns:
        A function `(q, target, lower, upper) -> [B]`. A bound of -inf or +inf bounds nothing.
    """
    check_number(least=0, weight=weight)
    loss = checked(_check_loss(loss), "loss")

    def penalty(q, target, lower, upper):
        too_low, too_high = ops.less(q, lower), ops.greater(q, upper)
        active = ops.cast(too_low, "float32") + ops.cast(too_high, "float32")
        bounds = ops.where(too_low, lower, 0.0) + ops.where(too_high, upper, 0.0)  # infinite bounds are never selected
        blended = (target + weight * bounds) / (1.0 + weight * active)
        return loss(ops.stop_gradient(blended), q)

    return penalty


@recorded
def linear_lower_bound(*, loss=huber):
    """Returns the one-sided penalty of FastDeepQLearning: `[v = 0] loss(y, q) + v` with `v = max(0, L - q)`.

    Where the lower bound is violated the loss is switched off and q rises at a gradient of 1. The upper bound is
    ignored.

    Args:
        loss: A function `(target, q) -> [B]`.

    Returns:
        A function `(q, target, lower, upper) -> [B]`. A lower bound of -inf bounds nothing.
    """
    loss = checked(_check_loss(loss), "loss")

    def penalty(q, target, lower, upper):
        del upper
        lower = ops.stop_gradient(lower)
        return ops.where(ops.less(q, lower), lower - q, loss(ops.stop_gradient(target), q))

    return penalty


@recorded
def from_keras(loss):
    """Returns a Keras loss as a function `(target, q) -> [B]`.

    Args:
        loss: What `model.compile(loss=...)` takes for a model of one output: a name, a function `(y_true, y_pred)`, or
            a `keras.losses.Loss`. Its reduction is not used: the learner weighs and averages the samples itself.

    Raises:
        TypeError: If `loss` is none of these.
        ValueError: If it is a lambda, which no checkpoint can hold.
    """
    check_named(loss, "the loss")
    found = keras.losses.get(loss) if isinstance(loss, (str, type)) else loss
    if isinstance(found, keras.losses.Loss):
        found = found.call
    if not callable(found):
        raise TypeError(
            "Argument `loss` must be the name of a Keras loss, a function or a `keras.losses.Loss`. "
            f"Received: loss={loss!r}"
        )

    def elementwise(target, q):
        result = found(target[:, None], q[:, None])
        if len(result.shape) == 0:
            raise ValueError(
                f"Argument `loss` must give one number per sample, not their mean. Received: loss={loss!r}"
            )
        return ops.reshape(result, (-1,))

    return checked(elementwise, "loss")


def _check_loss(loss):
    """Returns `loss`, and raises TypeError where it is none of ours."""
    if not callable(loss) or isinstance(loss, keras.losses.Loss):
        raise TypeError(
            "Argument `loss` must be a function `(target, q) -> [B]`; `from_keras` makes one of a Keras loss. "
            f"Received: loss={loss!r}"
        )
    return loss
