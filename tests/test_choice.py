"""Random numbers that a policy holds for several steps."""

import keras
import numpy as np
import pytest
from keras import ops
from runs import make

from sota_dqn import policies
from sota_dqn.choice import Choice

STREAMS = 50


def choice(policy):
    """Returns a `Choice` of two actions, seen and valued zero each, that draws from a generator of seed 0."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, kernel_initializer="zeros")])
    return Choice(model, policy, random=np.random.default_rng(0), convolutions=False, stacked=False)


def numbers(policy, steps, which=()):
    """Returns the uniform numbers of so many steps, `[steps, STREAMS]`."""
    chooses = choice(policy)
    return np.stack([chooses._uniform(STREAMS, which).copy() for _ in range(steps)])


def runs_of(column):
    """Returns how often each number of one stream comes in a row, without the last, which may go on."""
    ends = np.flatnonzero(np.diff(column))
    return np.diff(np.concatenate([[-1], ends]))


def test_every_step_is_drawn_anew_where_nothing_is_held():
    drawn = np.random.default_rng(0)
    expected = [drawn.random(STREAMS, dtype="float32") for _ in range(20)]
    np.testing.assert_array_equal(numbers(policies.EpsilonGreedy(0.3), 20), expected)


def test_how_long_numbers_are_held():
    found = numbers(policies.EpsilonGreedy(0.3, hold=5), 2_000)
    lengths = np.concatenate([runs_of(column) for column in found.T])
    share = np.bincount(lengths, minlength=7)[1:] / len(lengths)
    weights = 1 / np.arange(1, 100_000) ** 2.0
    weights /= weights.sum()
    expected = [*weights[:4], weights[4:].sum(), 0.0]  # what would be longer ends at the most
    np.testing.assert_allclose(share, expected, atol=0.01)
    assert abs((found < 0.3).mean() - 0.3) < 0.01  # of the steps, so many explore


def test_the_action_is_that_of_the_held_number():
    chooses = choice(policies.EpsilonGreedy(1.0, hold=50))
    for step in range(30):
        actions = np.asarray(chooses(np.zeros((STREAMS, 1), "float32"), step))
        np.testing.assert_array_equal(actions, (chooses.held[0] >= 0.5).astype("int32"))


def test_only_the_part_that_holds_holds():
    mixture = policies.Mixture({"long": policies.EpsilonGreedy(0.3, hold=9), "short": policies.EpsilonGreedy(0.3)})
    which = np.arange(STREAMS, dtype="int32") % 2
    found = numbers(mixture, 200, which)
    lengths = [runs_of(column) for column in found.T]
    assert max(np.concatenate(lengths[1::2])) == 1
    assert max(np.concatenate(lengths[::2])) == 9


def test_what_is_remembered_brings_the_numbers_back():
    chooses = choice(policies.EpsilonGreedy(0.3, hold=9))
    chooses._uniform(STREAMS, ())
    memory = chooses.memory
    first = [chooses._uniform(STREAMS, ()) for _ in range(5)]
    chooses.memory = memory
    np.testing.assert_array_equal([chooses._uniform(STREAMS, ()) for _ in range(5)], first)


@pytest.mark.parametrize("hold", [0, 2.5, "long"])
def test_bad_hold(hold):
    def own(values, uniform, step):
        return policies.Greedy()(values, uniform, step)

    own.hold = hold
    for fails in (lambda: policies.EpsilonGreedy(0.1, hold=hold), lambda: make(policy=own)):
        with pytest.raises((TypeError, ValueError), match="hold"):
            fails()


@pytest.mark.parametrize(
    "policy, message",
    [
        (lambda values, uniform, step: uniform * 2, r"shape=\(3,\), dtype=float32"),
        (lambda values, uniform, step: ops.argmax(values, axis=-1, keepdims=True), r"shape=\(3, 1\), dtype=int"),
        (lambda values, uniform, step: ops.argmax(values), r"shape=\(\), dtype=int"),
    ],
)
@pytest.mark.parametrize("mixed", [False, True])
def test_what_is_not_an_integer_each(policy, message, mixed):
    which = np.array([0, 1, 1], "int32") if mixed else ()
    chooses = choice(policies.Switching(policies.Greedy(), policy, 0.5) if mixed else policy)
    with pytest.raises(
        ValueError, match=r"`policy` must be a function that returns one integer per .* \(3,\). .*" + message
    ):
        chooses(np.zeros((3, 1), "float32"), 0, which=which)
