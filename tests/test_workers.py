"""Workers that play what is written down: segments and targets by hand."""

import numpy as np
import pytest
from gymnasium import spaces
from keras import ops
from one_step_runs import linear_model, make_learner

from sota_dqn.environments import Outcome
from sota_dqn.reporting import Clock
from sota_dqn.schedules import constant
from sota_dqn.workers import Worker


class Script:
    """Stands in for `Environments`: plays outcomes that are written down, `(observation, reward, how it ends)`."""

    action_space = spaces.Discrete(2)

    def __init__(self, *outcomes):
        self.outcomes = outcomes
        self.episodes = np.ones(1, "int64")
        self.taken = []

    def reset(self):
        return np.float32([[1.0, 0.0]])

    def step(self, actions):
        self.taken.append(int(actions[0]))
        observation, reward, end = self.outcomes[len(self.taken) - 1]
        over = np.array([end in ("terminated", "truncated")])
        self.episodes += over
        observation = np.float32([observation])
        return Outcome(
            observation=np.float32([[5.0, 5.0]]) if over[0] else observation,
            reward=np.array([reward]),
            terminated=np.array([end in ("terminated", "life")]),
            truncated=np.array([end == "truncated"]),
            valid=np.ones(1, bool),
            ended=over,
            begun=over,
            final_observation=observation if over[0] else None,
        )


class Tape:
    """Stands in for a learner: acts greedily on `s W` and keeps the segments."""

    def __init__(self, kernel):
        self.kernel = np.array(kernel)
        self.segments = []

    def values(self, weights, observations):
        return observations[0] @ self.kernel

    def learn(self, segment):
        self.segments.append(segment)


class Count:
    """Stands in for what is shared: counts the steps."""

    weights = None

    def __init__(self):
        self.episodes = []

    def finish(self, episode):
        self.episodes.append(episode)


def make_worker(script, *, method="q", **settings):
    settings = {"n_step": 1, "discount": 0.5, "max_steps": 3, "clip_rewards": False, **settings}
    return Worker(
        0,
        script,
        lambda observations: observations.copy(),
        frame_stack=None,
        looks_ahead=method == "sarsa",
        epsilon=settings.pop("epsilon", constant(0.0)),
        random=np.random.default_rng(0),
        **settings,
    )


def play(script, kernel, **settings):
    """Returns the segments of a worker that plays the script, acting greedily, and the worker."""
    worker = make_worker(script, **settings)
    tape, count = Tape(kernel), Count()
    for step in range(len(script.outcomes)):
        worker.step(tape, count, Clock(False), step)
    return tape.segments, worker, count


KERNEL = [[1.0, 2.0], [3.0, -1.0]]  # Q(s) = s W: the features' values
TARGET = [[10.0, 20.0], [14.0, 30.0]]


def targets_of(segment, method):
    """Returns y of every step, as the learner computes it with `TARGET` for theta-: what SGD moves the values to."""
    model = linear_model(np.zeros((2, 2)))
    learner, shared = make_learner(model, method)
    theta_minus = [ops.convert_to_tensor(np.float32(TARGET))]
    found = []
    for i in np.flatnonzero(segment.mask):
        alone = segment._replace(mask=(np.arange(len(segment.mask)) == i).astype("float32"))
        _, _, metrics = learner._gradient(shared.weights, theta_minus, *alone)
        loss, td_error = (ops.convert_to_numpy(metrics[name]) for name in ("loss", "td_error"))
        assert loss.shape == (1,)  # Q is 0, so that y^2 is the loss and |y| the error
        np.testing.assert_allclose(loss, td_error**2, rtol=1e-6)
        found.append(float(td_error[0]))
    return found


@pytest.mark.parametrize(
    ("method", "end", "y"),
    [
        # s1 = (0, 1): Q-(s1) = (14, 30). s2 = (1, 1): Q-(s2) = (24, 50). Greedy actions of theta: 1, 0, 0.
        ("q", "", [1 + 0.5 * 30, 2 + 0.5 * 50]),
        ("q", "terminated", [1 + 0.5 * 30, 2]),
        ("q", "life", [1 + 0.5 * 30, 2]),
        ("q", "truncated", [1 + 0.5 * 30, 2 + 0.5 * 50]),
        ("sarsa", "", [1 + 0.5 * 14, 2 + 0.5 * 24]),
        ("sarsa", "terminated", [1 + 0.5 * 14, 2]),
        ("sarsa", "life", [1 + 0.5 * 14, 2]),
        ("sarsa", "truncated", [1 + 0.5 * 14, 2 + 0.5 * 24]),
    ],
)
def test_targets_by_hand(method, end, y):
    script = Script(([0, 1], 1.0, ""), ([1, 1], 2.0, end))
    (segment,), worker, count = play(script, KERNEL, method=method, max_steps=2)
    assert script.taken == [1, 0]
    np.testing.assert_array_equal(segment.observation, [[1, 0], [0, 1], [1, 1]])
    np.testing.assert_allclose(targets_of(segment, method), y)
    over = end in ("terminated", "truncated")
    np.testing.assert_array_equal(worker.seen, [[5, 5]] if over else [[1, 1]])
    episode = count.episodes[-1]
    assert (episode and (episode.episode_return, episode.episode_length)) == ((3.0, 2) if over else None)


def random_half(step):
    """Epsilon: what is explored differs from what is greedy in every second step or so."""
    return 0.5


def test_sarsa_bootstraps_from_the_action_that_is_taken():
    outcomes = [([0, 1], 0.0, ""), ([1, 0], 0.0, ""), ([1, 1], 0.0, "")] * 8
    script = Script(*outcomes)
    segments, worker, _ = play(script, KERNEL, method="sarsa", max_steps=5, epsilon=random_half)
    taken = [*script.taken, worker.action]
    assert len({tuple(taken[i : i + 3]) for i in range(0, 24, 3)}) > 1  # not always the greedy ones
    for number, segment in enumerate(segments):
        np.testing.assert_array_equal(segment.action, taken[5 * number : 5 * number + 6])
        next_values = segment.observation[1:] @ np.float32(TARGET)
        y = 0.5 * next_values[np.arange(5), segment.action[1:]]
        np.testing.assert_allclose(targets_of(segment, "sarsa"), np.abs(y))


def test_sarsa_draws_an_action_at_a_time_limit_and_does_not_take_it():
    outcomes = [([1, 1], 0.0, "truncated")] * 12
    script = Script(*outcomes)
    segments, _, _ = play(script, KERNEL, method="sarsa", epsilon=random_half)
    drawn = [int(segment.action[1]) for segment in segments]
    assert set(drawn) == {0, 1}
    assert drawn[:-1] != script.taken[1:]
    for segment, action in zip(segments, drawn, strict=True):
        assert targets_of(segment, "sarsa") == [0.5 * [24, 50][action]]


def test_n_step_targets_reach_as_far_as_the_segment():
    script = Script(([0, 1], 1.0, ""), ([1, 1], 2.0, ""), ([2, 0], 4.0, ""))
    (segment,), _, _ = play(script, KERNEL, n_step=2)
    # Q-(s2) = (24, 50), Q-(s3) = (20, 40)
    expected = [1 + 0.5 * 2 + 0.25 * 50, 2 + 0.5 * 4 + 0.25 * 40, 4 + 0.5 * 40]
    np.testing.assert_allclose(targets_of(segment, "q"), expected)
    script = Script(([0, 1], 1.0, ""), ([1, 1], 2.0, "terminated"))
    (segment,), _, _ = play(script, KERNEL, n_step=2)
    assert targets_of(segment, "q") == [1 + 0.5 * 2, 2]
    np.testing.assert_array_equal(segment.mask, [1, 1, 0])
    np.testing.assert_array_equal(segment.observation, [[1, 0], [0, 1], [1, 1], [1, 1]])  # no rows of older segments


def test_rewards_are_clipped_for_learning_alone():
    script = Script(([0, 1], 7.0, ""), ([1, 1], -3.0, "terminated"))
    (segment,), _, count = play(script, KERNEL, clip_rewards=True)
    np.testing.assert_array_equal(segment.returns, [1, -1, 0])
    assert count.episodes[-1].episode_return == 4.0


def test_observations_of_a_segment_need_no_other_copy():
    """They are the segment's own, and where JAX takes them as they are."""
    script = Script(*(([step, 1], 0.0, "") for step in range(9)))
    segments, worker, _ = play(script, KERNEL)
    np.testing.assert_array_equal(segments[1].observation[:, 0], [2, 3, 4, 5])
    for segment in segments:
        assert segment.observation.ctypes.data % 64 == 0
        assert not np.shares_memory(segment.observation, worker.observations)


def test_a_segment_is_over_where_learning_raises():
    class Full(Tape):
        def learn(self, segment):
            raise MemoryError

    worker = make_worker(Script(*(([step, 1], 0.0, "") for step in range(9))), max_steps=2)
    worker.step(Full(KERNEL), Count(), Clock(False), 0)
    with pytest.raises(MemoryError):
        worker.step(Full(KERNEL), Count(), Clock(False), 1)
    assert worker.length == 0
    tape = Tape(KERNEL)
    for step in range(2):
        worker.step(tape, Count(), Clock(False), 2 + step)
    np.testing.assert_array_equal(tape.segments[0].observation[:, 0], [1, 2, 3])


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("outcomes", "what", "how"),
    [
        ([([0, 1], NAN, "")], "reward", "NaN at step 1 of its episode 1"),
        ([([0, 1], NAN, "terminated")], "reward", "NaN at step 1 of its episode 1"),
        ([([0, 1], -INFINITE, "truncated")], "reward", "infinite at step 1 of its episode 1"),
        ([([0, 1], 0.0, ""), ([0, NAN], 0.0, "life")], "observation", "NaN at step 2 of its episode 1"),
        ([([0, INFINITE], 0.0, "terminated")], "observation", "infinite at step 1 of its episode 1"),
        ([([0, 1], 0.0, "truncated"), ([1, NAN], 0.0, "")], "observation", "NaN at step 1 of its episode 2"),
    ],
)
def test_numbers_that_are_not_finite(outcomes, what, how):
    with pytest.raises(ValueError, match=rf"The {what} of worker 0 is {how}\."):
        play(Script(*outcomes), KERNEL)
