import numpy as np
import pytest
import reference
from keras import ops
from transforms import compiled

from sota_dqn import returns
from sota_dqn.types import Steps


def rows(reward, terminated=None, valid=None):
    """Returns `Steps` `[B, T, ...]` of the fields given, with nothing terminated and all valid otherwise."""
    reward = np.atleast_2d(np.float32(reward))
    terminated = np.zeros_like(reward) if terminated is None else np.atleast_2d(terminated)
    valid = np.ones_like(reward) if valid is None else np.atleast_2d(valid)
    action = np.zeros_like(reward, "int32")
    observation = np.zeros((*reward.shape, 2), "float32")
    fields = observation, action, reward, terminated.astype("uint8"), valid.astype("uint8")
    return Steps(*map(ops.convert_to_tensor, fields))


def random_rows(random, batch, length):
    """Rows that end in every way: in the middle, twice, at the edge, and with life going on after a termination."""
    valid = random.random((batch, length)) < 0.85
    valid[:, 0] = True
    return rows(random.normal(size=(batch, length)) - 0.5, random.random((batch, length)) < 0.15, valid)


def numpy(*tensors):
    return [ops.convert_to_numpy(tensor) for tensor in tensors]


def partial_returns(window, discount):
    """Returns what the compiled function gives, as NumPy arrays."""
    return numpy(*compiled(lambda window: returns.partial_returns(window, discount))(window))


@pytest.mark.parametrize(
    ("terminated", "valid", "expected"),
    [
        # Rewards 1, 2, 4 at a discount of 1/2 add 1 each; the fourth row is only bootstrapped from.
        ([0, 0, 0, 0], [1, 1, 1, 1], ([0, 1, 2, 3], [1, 1 / 2, 1 / 4, 1 / 8], [0, 1, 2, 3])),
        # Row 1 terminates, and the final observation follows.
        ([0, 1, 0, 0], [1, 1, 0, 1], ([0, 1, 2, 2], [1, 1 / 2, 0, 0], [0, 1, 2, 2])),
        # Row 1 loses a life, and the game goes on.
        ([0, 1, 0, 0], [1, 1, 1, 1], ([0, 1, 2, 2], [1, 1 / 2, 0, 0], [0, 1, 2, 2])),
        # Row 2 is the final observation of an episode that was cut off: bootstrap there.
        ([0, 0, 0, 0], [1, 1, 0, 1], ([0, 1, 2, 2], [1, 1 / 2, 1 / 4, 1 / 4], [0, 1, 2, 2])),
        # What terminates after the end is another episode's.
        ([0, 0, 0, 1], [1, 0, 1, 1], ([0, 1, 1, 1], [1, 1 / 2, 1 / 2, 1 / 2], [0, 1, 1, 1])),
        # The last row's own ending does not concern the returns that bootstrap from it.
        ([0, 0, 0, 1], [1, 1, 1, 0], ([0, 1, 2, 3], [1, 1 / 2, 1 / 4, 1 / 8], [0, 1, 2, 3])),
        # A first row that terminates.
        ([1, 0, 0, 0], [1, 1, 1, 1], ([0, 1, 1, 1], [1, 0, 0, 0], [0, 1, 1, 1])),
    ],
)
def test_partial_returns_by_hand(terminated, valid, expected):
    window = rows([1, 2, 4, 8], terminated, valid)
    for function in (returns.partial_returns, compiled(returns.partial_returns)):
        results = numpy(*function(window, 0.5))
        for result, dtype, numbers in zip(results, ("float32", "float32", "int32"), expected, strict=True):
            assert result.dtype == dtype
            np.testing.assert_allclose(result, [numbers], rtol=1e-6)


@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
def test_partial_returns_agree_with_the_reference(random, discount):
    window = random_rows(random, batch=200, length=7)
    results = partial_returns(window, discount)
    fields = numpy(window.reward, window.terminated, window.valid)
    for sample, row in enumerate(zip(*fields, strict=True)):
        for horizon in range(7):
            expected = reference.n_step(*row, horizon, discount)
            np.testing.assert_allclose([result[sample, horizon] for result in results], expected, rtol=1e-5, atol=1e-6)


def test_rewards_after_the_end_leave_no_trace():
    window = rows([1, 2, 1e30, 1e30], valid=[1, 1, 0, 1])
    values, _, _ = partial_returns(window, 0.5)
    np.testing.assert_array_equal(values, [[0, 1, 2, 2]])


@pytest.mark.parametrize("n", [1, 2, 5])
def test_n_step_is_a_column(random, n):
    window = random_rows(random, batch=50, length=6)
    columns = [column[:, n] for column in partial_returns(window, 0.9)]
    results = compiled(lambda window: returns.n_step(window, n, 0.9))(window)
    for result, column in zip(numpy(*results), columns, strict=True):
        np.testing.assert_array_equal(result, column)


def test_one_step_is_the_reward_itself(random):
    window = random_rows(random, batch=50, length=2)
    value, discount, length = numpy(*compiled(lambda window: returns.n_step(window, 1, 0.9))(window))
    reward, terminated = numpy(window.reward, window.terminated)
    np.testing.assert_array_equal(value, reward[:, 0])
    np.testing.assert_allclose(discount, 0.9 * (1 - terminated[:, 0]), rtol=1e-6)
    assert length.dtype == "int32"
    np.testing.assert_array_equal(length, 1)


def test_lower_bound_by_hand():
    # Rewards 1, 0, 2 at a discount of 1/2, values 4 and 2 two and three steps on:
    # L_1 = 1 + 0 + 4/4 = 2 and L_2 = 1 + 0 + 2/4 + 2/8 = 1.75.
    values, discounts, _ = partial_returns(rows([1, 0, 2, 9]), 0.5)
    arguments = values[:, 2:], discounts[:, 2:], np.float32([[4, 2]])
    np.testing.assert_allclose(numpy(returns.lower_bound(*arguments)), [[2]])
    np.testing.assert_allclose(numpy(returns.lower_bound(*arguments, np.float32([3]))), [[3]])
    np.testing.assert_allclose(numpy(returns.lower_bound(*arguments, np.float32([-np.inf]))), [[2]])


def test_lower_bound_at_a_time_limit_bootstraps():
    # Two rewards of -1 and the end of time at a state of value -2: -1 - 1/2 - 2/4, not the -1.5 that were seen.
    values, discounts, _ = partial_returns(rows([-1, -1, 0, 0], valid=[1, 1, 0, 1]), 0.5)
    bound = returns.lower_bound(values[:, 2:], discounts[:, 2:], np.float32([[-2, -2]]))
    np.testing.assert_allclose(numpy(bound), [[-2]])


def test_lower_bound_of_an_episode_that_terminated_is_its_return():
    # The values of what follows the termination do not count.
    values, discounts, _ = partial_returns(rows([-1, -1, 5, 5], terminated=[0, 1, 0, 0]), 0.5)
    bound = returns.lower_bound(values[:, 2:], discounts[:, 2:], np.float32([[100, 100]]))
    np.testing.assert_allclose(numpy(bound), [[-1.5]])


def test_lower_bound_agrees_with_the_reference(random):
    horizons, batch = 4, 200
    window = random_rows(random, batch, horizons + 2)
    row_values = random.normal(size=(batch, horizons + 2)).astype("float32")
    return_to_go = np.where(random.random(batch) < 0.5, random.normal(size=batch), -np.inf).astype("float32")

    values, discounts, lengths = partial_returns(window, 0.9)
    values_there = np.take_along_axis(row_values, lengths, axis=1)[:, 2:]
    bounds = compiled(returns.lower_bound)(values[:, 2:], discounts[:, 2:], values_there, return_to_go)

    fields = numpy(window.reward, window.terminated, window.valid)
    expected = [
        reference.lower_bound(*row, row_values[i], horizons, 0.9, return_to_go[i])
        for i, row in enumerate(zip(*fields, strict=True))
    ]
    assert bounds.shape == (batch,)
    np.testing.assert_allclose(numpy(bounds)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("connected", "terminated", "values", "expected"),
    [
        # Rewards 1, 2, 4 at a discount of 1/2. From the row before the last: (6 - 2) / 0.5 = 8, (8 - 4) / 0.5 = 8.
        # From the oldest: (10 - 1) / 0.5 = 18, (18 - 2) / 0.5 = 32, (32 - 4) / 0.5 = 56.
        ([1, 1, 1], [0, 0, 0], [10, 6], 8),
        # From the oldest: (3 - 1) / 0.5 = 4, (4 - 2) / 0.5 = 4, (4 - 4) / 0.5 = 0.
        ([1, 1, 1], [0, 0, 0], [3, 6], 0),
        ([0, 1, 1], [0, 0, 0], [3, 6], 8),
        ([0, 0, 1], [0, 0, 0], [3, 6], np.inf),
        ([0, 0, 0], [0, 0, 0], [3, 6], np.inf),
        # A life lost in the same game: what was expected before says nothing of the value after.
        ([1, 1, 1], [1, 0, 0], [3, 6], 8),
        ([1, 1, 1], [0, 1, 0], [3, 6], np.inf),
        ([1, 1, 1], [0, 0, 1], [3, 6], np.inf),
    ],
)
def test_upper_bound_by_hand(connected, terminated, values, expected):
    past = rows([1, 2, 4], terminated)
    arguments = np.float32([connected]), np.float32([values]), np.float32(0.5)
    for function in (returns.upper_bound, compiled(returns.upper_bound)):
        np.testing.assert_allclose(numpy(function(past, *arguments)), [[expected]], atol=1e-5)


@pytest.mark.parametrize("discount", [0.9, 1.0])
def test_upper_bound_agrees_with_the_reference(random, discount):
    horizons, batch = 4, 200
    past = random_rows(random, batch, horizons + 1)
    values = random.normal(size=(batch, horizons)).astype("float32")
    first = random.integers(horizons + 2, size=(batch, 1))
    connected = (np.arange(horizons + 1) >= first).astype("float32")
    bounds = compiled(returns.upper_bound)(past, connected, values, np.float32(discount))

    reward, terminated = numpy(past.reward, past.terminated)
    expected = [
        reference.upper_bound(reward[i], terminated[i], connected[i], values[i], discount) for i in range(batch)
    ]
    assert bounds.shape == (batch,)
    np.testing.assert_allclose(numpy(bounds)[0], expected, rtol=1e-5, atol=1e-5)


def test_bounds_are_tight_on_the_true_values(random):
    # On one endless trajectory whose values are its returns, every bound is the value itself.
    discount, num_rows, row = 0.9, 400, 5
    reward = random.normal(size=num_rows)
    value = np.zeros(num_rows + 1)
    for i in reversed(range(num_rows)):
        value[i] = reward[i] + discount * value[i + 1]

    sums, discounts, _ = partial_returns(rows(reward[row : row + 6]), discount)
    lower = returns.lower_bound(sums[:, 2:], discounts[:, 2:], np.float32([value[row + 2 : row + 6]]))
    past = rows(reward[row - 5 : row])
    upper = returns.upper_bound(past, np.ones((1, 5), "float32"), np.float32([value[row - 5 : row - 1]]), discount)
    np.testing.assert_allclose(numpy(lower, upper), np.full((2, 1), value[row]), rtol=1e-4)


def test_no_value_counts_after_a_termination():
    """Not even that of a state without legal actions."""
    found = numpy(*compiled(lambda *given: (returns.bootstrapped(*given), returns.lower_bound(*given)))(
        np.float32([[1, 2]]), np.float32([[0, 0.5]]), np.float32([[-np.inf, 3]])
    ))  # fmt: skip
    np.testing.assert_array_equal(found[0], [[1, 3.5]])
    np.testing.assert_array_equal(found[1], [3.5])


def test_bounds_hold_what_they_were_given():
    bounds = returns.Bounds(3, upper=True)
    assert (bounds.horizons, bounds.upper, bounds.return_to_go) == (3, True, False)
    assert bounds.recipe == (returns.Bounds, {"horizons": 3, "upper": True, "return_to_go": False})


@pytest.mark.parametrize(
    ("horizons", "error", "message"),
    [
        (0, ValueError, r"Argument `horizons` must be at least 1. Received: horizons=0"),
        (1.5, TypeError, r"Argument `horizons` must be an integer. Received: horizons=1.5"),
        (True, TypeError, r"Argument `horizons` must be an integer. Received: horizons=True"),
    ],
)
def test_bad_arguments(horizons, error, message):
    with pytest.raises(error, match=message):
        returns.Bounds(horizons)
    with pytest.raises(TypeError, match="Argument `upper` must be True or False. Received: upper='no'"):
        returns.Bounds(upper="no")


@pytest.mark.parametrize("epsilon", [1e-3, 1e-2])
def test_rescaling(epsilon):
    rescaling = returns.Rescaling(epsilon)
    x = np.concatenate([-np.geomspace(1e5, 1e-3, 40), [0.0], np.geomspace(1e-3, 1e5, 40)])
    (squashed,) = numpy(rescaling.squash(x.astype("float32")))
    np.testing.assert_allclose(squashed, reference.squash(x, epsilon), rtol=1e-5, atol=1e-7)
    (plain,) = numpy(rescaling.unsquash(squashed))
    np.testing.assert_allclose(plain, x, rtol=1e-4, atol=1e-6)
    assert (np.diff(squashed) > 0).all()
    (ends,) = numpy(rescaling.squash(np.float32([-np.inf, np.inf])))
    np.testing.assert_array_equal(ends, [-np.inf, np.inf])


def test_rescaling_by_hand():
    rescaling = returns.Rescaling(0.01)
    (found,) = numpy(rescaling.squash(np.float32([3, -8, 0])))
    np.testing.assert_allclose(found, [1.03, -2.08, 0], rtol=1e-6)
    with pytest.raises(ValueError, match="Argument `epsilon` must be finite and above 0. Received: epsilon=0"):
        returns.Rescaling(0)
    with pytest.raises(TypeError, match="Argument `epsilon` must be a number. Received: epsilon='a'"):
        returns.Rescaling("a")
