import numpy as np
import pytest
import reference
from keras import ops
from transforms import compiled

from sota_dqn import policies, schedules

# The step is their setting, so that one program serves every setting.
EPSILON_GREEDY = policies.EpsilonGreedy(lambda step: step)
BOLTZMANN = policies.Boltzmann(lambda step: step)
ALMOST_ONE = np.float32(1 - 2**-24)  # the largest float32 below 1


def act(policy, values, uniform, step=0.0):
    """Returns the actions of the compiled policy."""
    arguments = [ops.convert_to_tensor(argument, "float32") for argument in (values, uniform, step)]
    actions = ops.convert_to_numpy(compiled(policy)(*arguments))
    assert actions.dtype == "int32"
    assert actions.shape == (len(values),)
    return actions


def repeated(row, times):
    return np.tile(np.float32(row), (times, 1))


def grid(size):
    """Returns the midpoints of `size` equal parts of [0, 1): a share of them is a probability."""
    return ((np.arange(size) + 0.5) / size).astype("float32")


def test_greedy(random):
    values = random.normal(size=(20, 4))
    np.testing.assert_array_equal(act(policies.Greedy(), values, random.random(20)), np.argmax(values, axis=-1))
    np.testing.assert_array_equal(act(policies.Greedy(), repeated([1, 3, 3], 1), [0.9]), [1])


def test_epsilon_greedy_by_hand():
    # Of the lowest 0.4, a tenth goes to each of the four actions; above, to action 2.
    uniform = [0, 0.09, 0.11, 0.19, 0.21, 0.31, 0.39, 0.41, 0.99]
    actions = act(policies.EpsilonGreedy(0.4), repeated([0, 1, 5, 2], 9), uniform)
    np.testing.assert_array_equal(actions, [0, 0, 1, 1, 2, 3, 3, 2, 2])


@pytest.mark.parametrize("epsilon", [0.05, 0.6, 1.0])
def test_epsilon_greedy_probabilities(epsilon):
    actions = act(EPSILON_GREEDY, repeated([1, 4, 3], 60_000), grid(60_000), step=epsilon)
    share = np.bincount(actions, minlength=3) / 60_000
    np.testing.assert_allclose(share, [epsilon / 3, 1 - epsilon * 2 / 3, epsilon / 3], atol=1e-4)


def test_epsilon_at_its_ends():
    values, uniform = repeated([1, 0, 0, 0, 2], 3), [0, 0.5, ALMOST_ONE]
    np.testing.assert_array_equal(act(EPSILON_GREEDY, values, uniform, step=0), [4, 4, 4])
    np.testing.assert_array_equal(act(EPSILON_GREEDY, values, uniform, step=1), [0, 2, 4])


def test_random_actions_stay_in_range():
    # Just below epsilon, uniform / epsilon rounds to 1. The schedule gives each stream an epsilon of its own.
    epsilon = np.linspace(0.001, 1, 500, dtype="float32")
    policy = policies.EpsilonGreedy(lambda step: ops.convert_to_tensor(epsilon))
    np.testing.assert_array_equal(act(policy, repeated([9, 0, 0], 500), np.nextafter(epsilon, np.float32(0))), 2)


def test_epsilon_follows_its_schedule():
    policy = policies.EpsilonGreedy(schedules.linear(1, 0, steps=100))
    assert policy.epsilon(25) == 0.75
    values, uniform = repeated([0, 9], 2), [0.1, 0.3]
    np.testing.assert_array_equal(act(policy, values, uniform, step=0), [0, 0])
    np.testing.assert_array_equal(act(policy, values, uniform, step=75), [0, 1])
    np.testing.assert_array_equal(act(policy, values, uniform, step=100), [1, 1])


def test_epsilon_of_a_number_is_a_schedule_too():
    assert policies.EpsilonGreedy(0.25).epsilon(10) == 0.25


def test_boltzmann_by_hand():
    # Values 0, log 2 and log 5 have the probabilities 1/8, 2/8 and 5/8.
    values = repeated([0, np.log(2), np.log(5)], 6)
    actions = act(policies.Boltzmann(1), values, [0, 0.12, 0.13, 0.37, 0.38, ALMOST_ONE])
    np.testing.assert_array_equal(actions, [0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize("temperature", [0.3, 1.0, 20.0])
def test_boltzmann_probabilities(random, temperature):
    values = random.normal(size=6)
    actions = act(BOLTZMANN, repeated(values, 20_000), grid(20_000), step=temperature)
    share = np.bincount(actions, minlength=6) / 20_000
    np.testing.assert_allclose(share, reference.boltzmann(values, temperature), atol=2e-4)


@pytest.mark.parametrize(
    "values", [[-1000, 0, -1000], [0, -1000, 0], [0, 0, -np.inf], [-5000, -5000, 7e4], [-3, 2, -9]]
)
@pytest.mark.parametrize("temperature", [0, 1e-3, 0.01])
def test_boltzmann_never_takes_an_action_of_no_probability(values, temperature):
    uniform = np.append(grid(1000), [0, ALMOST_ONE]).astype("float32")
    actions = act(BOLTZMANN, repeated(values, 1002), uniform, step=temperature)
    assert set(actions) == set(np.flatnonzero(np.float32(values) == max(values)))


def test_boltzmann_bears_a_number_rounded_to_one(random):
    values = random.normal(size=(500, 18))
    values[:, :3] = values[:, -3:] = -1e6
    for uniform in (ALMOST_ONE, 1.0):
        actions = act(BOLTZMANN, values, np.full(500, uniform), step=1)
        assert 3 <= np.min(actions) and np.max(actions) < 15


def test_boltzmann_bears_a_sum_that_grows_at_zero(monkeypatch):
    monkeypatch.setattr(ops, "cumsum", lambda x, axis: ops.convert_to_tensor([[1.0, 1.25, 2.0]]))  # of 1, 0, 1
    actions = policies.Boltzmann(1)(*map(ops.convert_to_tensor, (np.float32([[0, -1000, 0]]), np.float32([0.6]))), 0)
    np.testing.assert_array_equal(ops.convert_to_numpy(actions), [2])


def test_temperature_follows_its_schedule():
    policy = policies.Boltzmann(schedules.linear(1, 0, steps=100))
    values = repeated([0, np.log(3)], 1)  # 1/4 and 3/4 at first
    assert act(policy, values, [0.2], step=0) == [0]
    assert act(policy, values, [0.2], step=100) == [1]


@pytest.mark.parametrize("policy", [policies.Greedy(), policies.EpsilonGreedy(0.5), policies.Boltzmann(0.7)])
def test_compiled_or_not_the_actions_are_the_same(random, policy):
    values, uniform = random.normal(size=(64, 5)).astype("float32"), random.random(64).astype("float32")
    actions = ops.convert_to_numpy(policy(values, uniform, 0))
    assert actions.dtype == "int32"
    np.testing.assert_array_equal(actions, act(policy, values, uniform))


def test_policies_remember_how_they_were_made():
    assert policies.Greedy().recipe == (policies.Greedy, {})
    assert policies.EpsilonGreedy(0.1).recipe == (policies.EpsilonGreedy, {"epsilon": 0.1, "hold": 1})
    assert policies.Boltzmann(0.1).recipe == (policies.Boltzmann, {"temperature": 0.1})


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: policies.EpsilonGreedy(1.5), ValueError, r"Argument `epsilon` must be between 0 and 1. .*epsilon=1.5"),
        (lambda: policies.EpsilonGreedy(np.nan), ValueError, r"Argument `epsilon` must be finite. .*epsilon=nan"),
        (lambda: policies.EpsilonGreedy(True), TypeError, r"Argument `epsilon` must be a number or .*epsilon=True"),
        (lambda: policies.EpsilonGreedy("x"), TypeError, r"Argument `epsilon` must be a number or a function .*='x'"),
        (lambda: policies.Boltzmann(-1), ValueError, r"Argument `temperature` must be finite and at least 0. .*=-1"),
        (lambda: policies.Boltzmann(np.nan), ValueError, r"Argument `temperature` must be finite. .*temperature=nan"),
        (lambda: policies.Boltzmann(None), TypeError, r"Argument `temperature` must be a number or .*temperature=None"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_random():
    actions = act(policies.Random(), repeated([9, 0, 0, 0], 8), [0, 0.24, 0.26, 0.49, 0.51, 0.74, 0.76, ALMOST_ONE])
    np.testing.assert_array_equal(actions, [0, 0, 1, 1, 2, 2, 3, 3])


def test_apex_explores_less_from_stream_to_stream():
    # 0.4^1, 0.4^4.5, 0.4^8 for three streams; half of what explores takes action 1.
    epsilon = 0.4 ** np.array([1, 4.5, 8])
    for below, expected in ((0.99, 1), (1.01, 0)):
        np.testing.assert_array_equal(act(policies.ApeX(), repeated([9, 0], 3), epsilon * below), [expected] * 3)
    np.testing.assert_array_equal(act(policies.ApeX(0.3), repeated([9, 0], 1), [0.29]), [1])
    np.testing.assert_array_equal(act(policies.ApeX(0.3), repeated([9, 0], 1), [0.31]), [0])


def test_certainty_by_hand():
    # Within 2 of the best are the second, by 0.5, and the best itself.
    values = repeated([-7, 4.5, 6, 3.9], 65_000)
    share = np.bincount(act(policies.Certainty(margin=2, base=0.5), values, grid(65_000)), minlength=4) / 65_000
    np.testing.assert_allclose(share, np.array([0.5, 1.0, 2.5, 0.5]) / 4.5, atol=1e-4)
    assert set(act(policies.Certainty(1, base=0), repeated([0, -5, 0.5], 100), grid(100))) == {0, 2}


@pytest.mark.parametrize("policy", [policies.EpsilonGreedy(0.6), policies.Random(), policies.Certainty(1, base=0.5)])
def test_actions_of_minus_infinity_are_as_if_they_were_not_there(random, policy):
    legal = random.normal(size=(500, 3)).astype("float32")
    values = np.full((500, 6), -np.inf, "float32")
    values[:, [1, 2, 4]] = legal
    uniform = np.append(grid(498), [0, ALMOST_ONE])
    np.testing.assert_array_equal(act(policy, values, uniform), np.array([1, 2, 4])[act(policy, legal, uniform)])


@pytest.mark.parametrize("policy", [policies.Greedy(), policies.ApeX(0.9), policies.Random(), policies.Boltzmann(1)])
def test_where_no_action_is_legal_the_first_is_taken(policy):
    np.testing.assert_array_equal(act(policy, repeated([-np.inf] * 3, 4), grid(4)), 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: policies.ApeX(epsilon=0), "`epsilon` must be above 0 and below 1. Received: epsilon=0"),
        (lambda: policies.ApeX(alpha=-1), "`alpha` must be finite and at least 0. Received: alpha=-1"),
        (lambda: policies.Certainty(margin=0), "`margin` must be finite and above 0. Received: margin=0"),
        (lambda: policies.Certainty(base=-0.1), "`base` must be finite and at least 0. Received: base=-0.1"),
    ],
)
def test_bad_settings_of_the_others(make, message):
    with pytest.raises(ValueError, match=message):
        make()
