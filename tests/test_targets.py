import numpy as np
import pytest
import reference
from keras import ops
from transforms import compiled, gradient

from sota_dqn import schedules, targets
from sota_dqn.types import NextState

# The model prefers action 2, the target model action 0.
HAND = NextState(np.float32([[1, 2, 4]]), np.float32([[7, 0, 5]]), np.float32(0))


def random_state(random, batch=16, num_actions=5, step=0.0):
    values, target_values = random.normal(size=(2, batch, num_actions)).astype("float32")
    return NextState(values, target_values, np.float32(step))


def check(target, state, expected):
    """The compiled `target` gives the numbers `expected` as `[B]` float32."""
    result = ops.convert_to_numpy(compiled(target)(NextState(*map(ops.convert_to_tensor, state))))
    assert result.shape == (len(state.values),)
    assert result.dtype == "float32"
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_value_of(random):
    values = random.normal(size=(4, 3, 5)).astype("float32")
    action = random.integers(5, size=(4, 3)).astype("int32")
    expected = [[values[i, j, action[i, j]] for j in range(3)] for i in range(4)]
    np.testing.assert_array_equal(ops.convert_to_numpy(targets.value_of(values, action)), expected)


def test_value_of_selects():
    """A model may give -inf to actions that are not legal."""
    values, action = np.float32([[1, -np.inf], [-np.inf, 2]]), np.int32([0, 1])
    np.testing.assert_array_equal(ops.convert_to_numpy(compiled(targets.value_of)(values, action)), [1, 2])
    legal = values > -np.inf
    slope = gradient(lambda x: targets.value_of(ops.where(legal, x, -np.inf), action) ** 2, np.zeros((2, 2)) + 3)
    np.testing.assert_array_equal(slope, [[6, 0], [0, 6]])


def test_targets_of_actions_that_are_not_legal():
    state = HAND._replace(values=np.float32([[1, -np.inf, 4]]), target_values=np.float32([[7, -np.inf, 5]]))
    check(targets.maximum, state, [7])
    check(targets.double, state, [5])
    check(targets.mellowmax(1), state, [7 + np.log((1 + np.exp(-2)) / 2)])  # likewise
    check(targets.expected_sarsa(0), state, [5])
    check(targets.expected_sarsa(0.5), state, [0.5 * 5 + 0.5 * 6])  # the mean of the two that are legal


def test_maximum(random):
    check(targets.maximum, HAND, [7])
    state = random_state(random)
    check(targets.maximum, state, [max(row) for row in state.target_values])


def test_double(random):
    check(targets.double, HAND, [5])
    state = random_state(random)
    check(targets.double, state, [reference.double(*rows) for rows in zip(*state[:2], strict=True)])


def test_double_without_target_model_is_maximum(random):
    state = random_state(random)
    state = state._replace(target_values=state.values)
    check(targets.double, state, ops.convert_to_numpy(targets.maximum(state)))


def test_mellowmax_by_hand():
    # omega 1: log((e^0 + e^log(3)) / 2) = log(2).
    check(targets.mellowmax(1), HAND._replace(target_values=np.float32([[0, np.log(3)]])), [np.log(2)])
    # omega 2: log((1 + 9) / 2) / 2.
    check(targets.mellowmax(2), HAND._replace(target_values=np.float32([[0, np.log(3)]])), [np.log(5) / 2])


@pytest.mark.parametrize("omega", [1e-4, 0.3, 5, 30])
def test_mellowmax_agrees_with_the_reference(random, omega):
    state = random_state(random)
    check(targets.mellowmax(omega), state, [reference.mellowmax(row, omega) for row in state.target_values])


def test_mellowmax_goes_from_mean_to_maximum(random):
    state = random_state(random)
    check(targets.mellowmax(1e-6), state, np.mean(state.target_values, axis=-1))
    check(targets.mellowmax(1e7), state, np.max(state.target_values, axis=-1))


def test_mellowmax_is_over_the_legal_actions():
    # log((e^0 + e^log(3)) / 2) = log(2); of no action it is that of the maximum.
    values = np.float32([[0, -np.inf, np.log(3)], [-np.inf] * 3])
    check(targets.mellowmax(1), NextState(values, values, np.float32(0)), [np.log(2), -np.inf])


def test_mellowmax_of_large_values_does_not_overflow():
    # The second action weighs e^-1000 of the first: log(1/2) / 100 below the maximum remain.
    state = HAND._replace(target_values=np.float32([[10_000, 9_990], [-10_000, -9_990]]), values=np.zeros((2, 2)))
    check(targets.mellowmax(100), state, [10_000 - np.log(2) / 100, -9_990 - np.log(2) / 100])


def test_expected_sarsa_by_hand():
    # Greedy is action 2, of value 5, and the mean is 4: 0.7 * 5 + 0.3 * 4.
    check(targets.expected_sarsa(0.3), HAND, [4.7])


@pytest.mark.parametrize("epsilon", [0.0, 0.15, 1.0])
def test_expected_sarsa_agrees_with_the_reference(random, epsilon):
    state = random_state(random)
    expected = [reference.expected_sarsa(*rows, epsilon) for rows in zip(*state[:2], strict=True)]
    check(targets.expected_sarsa(epsilon), state, expected)


def test_expected_sarsa_asks_its_schedule_at_the_step(random):
    schedule = schedules.linear(1.0, 0.0, steps=100)
    state = random_state(random, step=75)
    check(targets.expected_sarsa(schedule), state, ops.convert_to_numpy(targets.expected_sarsa(0.25)(state)))


def test_expected_sarsa_where_no_action_is_legal():
    nothing = np.full((1, 2), -np.inf, "float32")
    check(targets.expected_sarsa(0.25), NextState(nothing, nothing, np.float32(0)), [-np.inf])


def test_expected_sarsa_of_a_greedy_policy_is_double(random):
    state = random_state(random)
    check(targets.expected_sarsa(0), state, ops.convert_to_numpy(targets.double(state)))


@pytest.mark.parametrize("target", [targets.maximum, targets.double, targets.mellowmax(5), targets.expected_sarsa(0.1)])
def test_compiled_or_not_the_values_are_the_same(random, target):
    state = random_state(random)
    check(target, state, ops.convert_to_numpy(target(state)))


def test_targets_remember_how_they_were_made():
    assert targets.mellowmax(5).recipe == (targets.mellowmax, {"omega": 5})
    assert targets.expected_sarsa(0.1).recipe == (targets.expected_sarsa, {"epsilon": 0.1})


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: targets.mellowmax(0), ValueError, r"Argument `omega` must be finite and above 0. Received: omega=0"),
        (lambda: targets.mellowmax(np.inf), ValueError, r"Argument `omega` must be finite and above 0. .*omega=inf"),
        (lambda: targets.mellowmax("5"), TypeError, r"Argument `omega` must be a number. Received: omega='5'"),
        (lambda: targets.expected_sarsa(1.1), ValueError, r"Argument `epsilon` must be between 0 and 1. .*=1.1"),
        (lambda: targets.expected_sarsa(None), TypeError, r"Argument `epsilon` must be a number. .*=None"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()
