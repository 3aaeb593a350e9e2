"""Asynchronous one-step Q-learning and SARSA: targets and gradients by hand, one worker against a plain loop, many
workers without a lost update."""

import functools
import os
import pathlib
import re
import signal
import threading

import gymnasium
import keras
import numpy as np
import pytest
from environments import Counting
from gymnasium import spaces
from keras import ops

from sota_dqn import DQNInference, OneStepTrainer, callbacks
from sota_dqn.environments import Outcome, episode_seed, episode_seeds
from sota_dqn.one_step import METHODS, OneStepLearner
from sota_dqn.reporting import Clock
from sota_dqn.schedules import constant
from sota_dqn.shared import Shared
from sota_dqn.workers import Segment, Worker

METHOD_NAMES = ("q", "sarsa")


def linear_model(kernel, optimizer=None):
    """Returns a compiled model `Q(s) = s W`."""
    kernel = np.array(kernel, "float32")
    model = keras.Sequential(
        [keras.Input((kernel.shape[0],)), keras.layers.Dense(kernel.shape[1], use_bias=False, name="values")]
    )
    model.set_weights([kernel])
    model.compile(optimizer=optimizer or keras.optimizers.SGD(0.1), loss="mse")
    return model


def network(inputs=4, outputs=2, optimizer=None):
    """Returns a small compiled network."""
    layers = [keras.layers.Flatten(), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(outputs)]
    model = keras.Sequential([keras.Input((inputs,)), *layers])
    model.compile(optimizer=optimizer or keras.optimizers.RMSprop(1e-2, rho=0.9, epsilon=0.1), loss="mse")
    return model


def make(env="CartPole-v1", model=None, **settings):
    """Returns a trainer whose epochs have 50 steps."""
    settings = {"workers": 3, "target_network_update": 20, "epsilon_anneal": 100, "report_every": 50, **settings}
    return OneStepTrainer(env, network() if model is None else model, **settings)


def make_learner(model, method="q"):
    """Returns a learner, and the weights that are shared."""
    shared = Shared(model, model.optimizer, target_update=1000)
    return OneStepLearner(model, shared, method=METHODS[method], stacked=False), shared


def values(arrays):
    return [ops.convert_to_numpy(array) for array in arrays]


def random_segment(random, *, steps=5, features=3, num_actions=2):
    """A segment of `steps` steps that each bootstrap from the next state."""
    return Segment(
        observation=random.normal(size=(steps + 1, features)).astype("float32"),
        action=random.integers(num_actions, size=steps + 1, dtype="int32"),
        returns=random.normal(size=steps).astype("float32"),
        discount=np.full(steps, 0.9, "float32"),
        bootstrap=np.arange(1, steps + 1, dtype="int32"),
        mask=np.ones(steps, "float32"),
    )


def single_steps(segment):
    """Yields segments of one step each, of the same size: what follows the step is masked."""
    for i in range(len(segment.mask)):
        first = np.arange(len(segment.mask)) == 0
        order = [i, i + 1, *[0] * (len(segment.mask) - 1)]
        yield Segment(
            segment.observation[order],
            segment.action[order],
            np.where(first, segment.returns[i], 0).astype("float32"),
            np.where(first, segment.discount[i], 0).astype("float32"),
            first.astype("int32"),
            first.astype("float32"),
        )


# Gradients and targets


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_gradient_of_five_steps_is_the_sum_of_five_gradients(method, random):
    model = network(3, 2)
    learner, shared = make_learner(model, method)
    segment = random_segment(random)
    weights = shared.read()
    together = values(learner._gradient(*weights, *segment)[0])
    singles = [values(learner._gradient(*weights, *single)[0]) for single in single_steps(segment)]
    for i, gradient in enumerate(together):
        np.testing.assert_allclose(gradient, sum(single[i] for single in singles), rtol=1e-4, atol=1e-6)
    assert learner._gradient.compilations() == 1


def test_gradient_is_applied_once(random):
    model = network(3, 2, optimizer=keras.optimizers.SGD(0.1))
    learner, shared = make_learner(model)
    segment = random_segment(random)
    before, gradients = values(shared.weights), values(learner._gradient(*shared.read(), *segment)[0])
    learner.learn(segment)
    assert shared.updates == 1
    for i, variable in enumerate(model.variables):
        np.testing.assert_allclose(
            ops.convert_to_numpy(variable.value), before[i] - 0.1 * gradients[i], rtol=1e-5, atol=1e-6
        )
        np.testing.assert_array_equal(values(shared.weights)[i], ops.convert_to_numpy(variable.value))


def test_published_weights_never_change(random):
    model = network(3, 2)
    learner, shared = make_learner(model)
    published = [shared.weights]
    copies = [[array.copy() for array in values(shared.weights)]]
    for _ in range(3):
        learner.learn(random_segment(random))
        published.append(shared.weights)
        copies.append([array.copy() for array in values(shared.weights)])
    for arrays, copied in zip(published, copies, strict=True):
        for array, copy in zip(values(arrays), copied, strict=True):
            np.testing.assert_array_equal(array, copy)
    assert not np.array_equal(copies[0][0], copies[1][0])


class Script:
    """Stands in for `Environments`: plays outcomes that are written down, `(observation, reward, how it ends)`."""

    action_space = spaces.Discrete(2)

    def __init__(self, *outcomes):
        self.outcomes = iter(outcomes)
        self.episodes = np.ones(1, "int64")
        self.taken = []

    def reset(self):
        return np.float32([[1.0, 0.0]])

    def step(self, actions):
        self.taken.append(int(actions[0]))
        observation, reward, end = next(self.outcomes)
        over = np.array([end in ("terminated", "truncated")])
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

    def greedy(self, weights, observations):
        return int(np.argmax(observations @ self.kernel))

    def learn(self, segment):
        self.segments.append(segment)


class Count:
    """Stands in for what is shared: counts the steps."""

    weights = None

    def __init__(self):
        self.episodes = []

    def finish(self, episode):
        self.episodes.append(episode)


def play(script, kernel, *, method="q", **settings):
    """Returns the segments of a worker that plays the script, acting greedily, and the worker."""
    settings = {"n_step": 1, "discount": 0.5, "max_steps": 3, "clip_rewards": False, **settings}
    worker = Worker(
        0,
        script,
        lambda observations: observations.copy(),
        frame_stack=None,
        looks_ahead=method == "sarsa",
        epsilon=settings.pop("epsilon", constant(0.0)),
        random=np.random.default_rng(0),
        **settings,
    )
    tape, count = Tape(kernel), Count()
    for step, _ in enumerate(list(script.outcomes_left())):
        worker.step(tape, count, Clock(False), step)
    return tape.segments, worker, count


def scripted(*outcomes):
    script = Script(*outcomes)
    script.outcomes_left = lambda: outcomes
    return script


KERNEL = [[1.0, 2.0], [3.0, -1.0]]  # Q(s) = s W: the features' values
TARGET = [[10.0, 20.0], [30.0, -10.0]]


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
        # s1 = (0, 1): Q-(s1) = (30, -10). s2 = (1, 1): Q-(s2) = (40, 10). Greedy actions: 1, 0, 0.
        ("q", "", [1 + 0.5 * 30, 2 + 0.5 * 40]),
        ("q", "terminated", [1 + 0.5 * 30, 2]),
        ("q", "life", [1 + 0.5 * 30, 2]),
        ("q", "truncated", [1 + 0.5 * 30, 2 + 0.5 * 40]),
        ("sarsa", "", [1 + 0.5 * 30, 2 + 0.5 * 40]),
        ("sarsa", "terminated", [1 + 0.5 * 30, 2]),
        ("sarsa", "life", [1 + 0.5 * 30, 2]),
        ("sarsa", "truncated", [1 + 0.5 * 30, 2 + 0.5 * 40]),
    ],
)
def test_targets_by_hand(method, end, y):
    script = scripted(([0, 1], 1.0, ""), ([1, 1], 2.0, end))
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
    script = scripted(*outcomes)
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
    script = scripted(*outcomes)
    segments, _, _ = play(script, KERNEL, method="sarsa", epsilon=random_half)
    drawn = [int(segment.action[1]) for segment in segments]
    assert set(drawn) == {0, 1}
    assert drawn[:-1] != script.taken[1:]
    for segment, action in zip(segments, drawn, strict=True):
        assert targets_of(segment, "sarsa") == [0.5 * [40, 10][action]]


def test_n_step_targets_reach_as_far_as_the_segment():
    script = scripted(([0, 1], 1.0, ""), ([1, 1], 2.0, ""), ([2, 0], 4.0, ""))
    (segment,), _, _ = play(script, KERNEL, n_step=2)
    # Q-(s2) = (40, 10), Q-(s3) = (20, 40)
    expected = [1 + 0.5 * 2 + 0.25 * 40, 2 + 0.5 * 4 + 0.25 * 40, 4 + 0.5 * 40]
    np.testing.assert_allclose(targets_of(segment, "q"), expected)
    script = scripted(([0, 1], 1.0, ""), ([1, 1], 2.0, "terminated"))
    (segment,), _, _ = play(script, KERNEL, n_step=2)
    assert targets_of(segment, "q") == [1 + 0.5 * 2, 2]
    np.testing.assert_array_equal(segment.mask, [1, 1, 0])


def test_rewards_are_clipped_for_learning_alone():
    script = scripted(([0, 1], 7.0, ""), ([1, 1], -3.0, "terminated"))
    (segment,), _, count = play(script, KERNEL, clip_rewards=True)
    np.testing.assert_array_equal(segment.returns, [1, -1, 0])
    assert count.episodes[-1].episode_return == 4.0


# One worker


class Recording(gymnasium.Wrapper):
    """Keeps the actions that it takes."""

    def __init__(self, actions, **settings):
        super().__init__(gymnasium.make("CartPole-v1", **settings))
        self.actions = actions

    def step(self, action):
        self.actions.append(int(action))
        return self.env.step(action)


class Weights(callbacks.Callback):
    """Keeps the model's weights after every epoch."""

    def __init__(self):
        super().__init__()
        self.found = []

    def on_epoch_end(self, epoch, logs=None):
        self.found.append(self.model.get_weights()[0])


RATE, RHO, EPSILON, GAMMA = 0.05, 0.9, 0.1, 0.9
LIMIT = 14  # environment steps of an episode
INTERVAL, LOCAL, ANNEAL = 17, 4, 60


def plain(method, n_step, steps, kernel, seed=0):
    """Algorithm 1 of Mnih et al., 2016, with one worker and `Q(s) = s W`, in NumPy.

    Returns:
        The actions taken and the weights after every step.
    """
    (worker_seed,) = episode_seeds([seed, 2**32 - 2], 1)
    random = np.random.default_rng(worker_seed)
    final = [0.1, 0.01, 0.5][random.choice(3, p=[0.4, 0.3, 0.3])]
    env = gymnasium.make("CartPole-v1", max_episode_steps=LIMIT)
    theta, velocity = np.array(kernel, "float64"), np.zeros_like(kernel, "float64")
    theta_minus = theta.copy()

    def behave(state, step):
        fraction = min(step / ANNEAL, 1.0)
        if random.random() < (1 - fraction) + fraction * final:
            return int(random.integers(2))
        return int(np.argmax(state @ theta))

    episode = 0
    state, action = env.reset(seed=episode_seed(worker_seed, 0, episode))[0], None
    actions, weights, segment = [], [], []
    for step in range(steps):
        action = behave(state, step) if action is None else action
        next_state, reward, terminated, truncated, _ = env.step(action)
        actions.append(action)
        next_action = behave(next_state, step + 1) if method == "sarsa" and not terminated else None
        segment.append((state, action, reward, next_state, next_action))
        if (step + 1) % INTERVAL == 0:
            theta_minus = theta.copy()
        if terminated or truncated or len(segment) == LOCAL:
            gradient = np.zeros_like(theta)
            for t, (s, a, *_) in enumerate(segment):
                window = segment[t : t + n_step]
                y = sum(GAMMA**k * r for k, (_, _, r, _, _) in enumerate(window))
                *_, reached, following = window[-1]
                if not (terminated and t + n_step >= len(segment)):
                    q_minus = reached @ theta_minus
                    y += GAMMA ** len(window) * (q_minus.max() if method == "q" else q_minus[following])
                gradient[:, a] += -2 * (y - s @ theta[:, a]) * s  # of (y - Q(s, a))^2
            velocity = RHO * velocity + (1 - RHO) * gradient**2
            theta = theta - RATE * gradient / np.sqrt(velocity + EPSILON)
            segment = []
        weights.append(theta.copy())
        state, action = next_state, next_action
        if terminated or truncated:
            episode += 1
            state, action = env.reset(seed=episode_seed(worker_seed, 0, episode))[0], None
    env.close()
    return actions, weights


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("method", METHOD_NAMES)
def test_one_worker_equals_a_plain_loop_step_by_step(method, n_step, random):
    kernel = random.normal(size=(4, 2)).astype("float32")
    actions, weights = [], Weights()
    trainer = make(
        functools.partial(Recording, actions, max_episode_steps=LIMIT),
        linear_model(kernel, keras.optimizers.RMSprop(RATE, rho=RHO, epsilon=EPSILON)),
        method=method,
        workers=1,
        n_step=n_step,
        discount=GAMMA,
        local_max_steps=LOCAL,
        target_network_update=INTERVAL,
        epsilon_anneal=ANNEAL,
        report_every=1,
    )
    trainer.train(150, callbacks=[weights], verbose=0)
    expected_actions, expected = plain(method, n_step, 150, kernel)
    assert actions == expected_actions
    np.testing.assert_allclose(weights.found, expected, rtol=1e-3, atol=1e-4)
    assert trainer.shared.refreshes == 150 // INTERVAL
    ends = np.array(trainer.history["episode_length"])
    assert (ends == LIMIT).any() and (ends < LIMIT).any()  # of both kinds
    trainer.close()


def state_of(trainer):
    """Returns all that one worker's run consists of, without clock readings."""
    clock = ("steps_per_second", "updates_per_second", "seconds")
    worker = trainer.workers[0]
    return {
        "model": trainer.model.get_weights(),
        "optimizer": values(x.value for x in trainer.model.optimizer.variables),
        "target": values(trainer.shared.target),
        "worker": worker.state(),
        "arrays": worker.arrays(),
        "episode": (worker.episode_return, worker.episode_length),
        "totals": (trainer.steps, trainer.updates, trainer.episodes, trainer.shared.refreshes),
        "history": {name: found for name, found in trainer.history.items() if name not in clock},
    }


def test_one_worker_is_determined_by_the_seed():
    states = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(0)
        trainer = make(workers=1, seed=seed)
        trainer.train(120, verbose=0)
        states.append(state_of(trainer))
        trainer.close()
    np.testing.assert_equal(states[0], states[1])
    assert not np.array_equal(states[0]["model"][0], states[2]["model"][0])


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_one_worker_resumes_bit_for_bit(method, tmp_path):
    def stacked():
        keras.utils.set_random_seed(0)
        layers = [keras.Input((4, 2)), keras.layers.Flatten(), keras.layers.Dense(8, activation="tanh")]
        model = keras.Sequential([*layers, keras.layers.Dense(2)])
        model.compile(optimizer=keras.optimizers.Adam(1e-2), loss="mse")
        settings = {"frame_stack": 2, "method": method, "learning_rate_anneal": 300, "report_every": 1}
        return make(model=model, workers=1, **settings)

    stopped = stacked()
    stopped.train(70, verbose=0)
    worker = stopped.workers[0]
    while not (worker.length and worker.episode_length):  # in the middle of a segment and of an episode
        stopped.train(1, verbose=0)
    through = stacked()
    through.train(130, verbose=0)
    stopped.save(tmp_path)
    resumed = OneStepTrainer.load(tmp_path)
    assert resumed.run == stopped.run
    np.testing.assert_equal(state_of(resumed), state_of(stopped))
    resumed.train(130 - resumed.steps, verbose=0)
    np.testing.assert_equal(state_of(resumed), state_of(through))
    for trainer in (through, stopped, resumed):
        trainer.close()


def test_learning_rate_falls_to_zero():
    trainer = make(workers=1, learning_rate_anneal=100)
    trainer.train(50, verbose=0)
    assert float(trainer.model.optimizer.learning_rate) == pytest.approx(1e-2 * 0.5, rel=0.1)
    trainer.train(70, verbose=0)
    assert float(trainer.model.optimizer.learning_rate) == 0.0
    before = trainer.model.get_weights()
    trainer.train(30, verbose=0)
    np.testing.assert_equal(trainer.model.get_weights(), before)
    trainer.close()


# Many workers


def counted(trainer):
    """Keeps the gradients that are sent to be applied."""
    sent, apply = [], trainer.shared.apply

    def keep(gradients, others, metrics):
        sent.append(values(gradients))
        apply(gradients, others, metrics)

    trainer.shared.apply = keep
    return sent


def test_no_update_and_no_step_is_lost():
    trainer = make(model=network(optimizer=keras.optimizers.SGD(1e-2)), workers=4, target_network_update=7)
    before, sent = trainer.model.get_weights(), counted(trainer)
    episodes = []
    target, record = trainer.shared.target, keras.callbacks.LambdaCallback()
    record.on_episode_end = lambda number, logs: episodes.append((number, logs["steps"], logs["episode_length"]))
    trainer.train(403, callbacks=[record], verbose=0)
    assert trainer.steps == trainer.shared.steps == 403
    assert (
        sum(len(worker.environments.actions[0]) for worker in trainer.workers)
        + sum(length for _, _, length in episodes)
        == 403
    )
    assert trainer.shared.refreshes == 403 // 7 and trainer.shared.target is not target
    assert trainer.updates == len(sent) > 60
    for i, variable in enumerate(trainer.model.trainable_variables):
        moved = ops.convert_to_numpy(variable.value) - before[i]
        np.testing.assert_allclose(moved, -1e-2 * sum(gradients[i] for gradients in sent), rtol=1e-3, atol=1e-5)
    assert trainer.episodes == len(episodes) and [number for number, *_ in episodes] == list(range(len(episodes)))
    assert [steps for _, steps, _ in episodes] == sorted(steps for _, steps, _ in episodes)
    assert trainer.learner._gradient.compilations() == trainer.learner._greedy.compilations() == 1
    trainer.close()


class Blocked(gymnasium.Wrapper):
    """CartPole whose every step first calls a function."""

    def __init__(self, before_step):
        super().__init__(gymnasium.make("CartPole-v1"))
        self.before_step = before_step

    def step(self, action):
        self.before_step()
        return self.env.step(action)


def test_no_worker_waits_for_the_environment_of_another():
    made, others = threading.Event(), []

    def wait():
        assert made.wait(timeout=120)

    def count():
        others.append(1)
        if len(others) == 60:
            made.set()

    hooks = iter([wait, count, count])
    trainer = make(lambda: Blocked(next(hooks, lambda: None)), report_every=1000)
    trainer.train(100, verbose=0)
    assert trainer.steps == 100
    trainer.close()


def test_no_worker_waits_for_the_gradient_of_another():
    trainer = make(report_every=1000)
    applied, held = threading.Event(), []
    gradient, apply = trainer.learner._gradient, trainer.shared.apply

    def hold_the_first(*arguments):
        if not held:
            held.append(1)
            assert applied.wait(timeout=120)
        return gradient(*arguments)

    def tell(*arguments):
        apply(*arguments)
        if trainer.updates == 8:
            applied.set()

    trainer.learner._gradient, trainer.shared.apply = hold_the_first, tell
    trainer.train(150, verbose=0)
    assert trainer.steps == 150
    trainer.close()


class Fails(gymnasium.Wrapper):
    """CartPole in which something happens at its step of that number."""

    def __init__(self, number, act):
        super().__init__(gymnasium.make("CartPole-v1"))
        self.left = number
        self.act = act

    def step(self, action):
        self.left -= 1
        if self.left == 0:
            self.act()
        return self.env.step(action)


def fails_at(number, act):
    """A callable whose second environment, that of worker 1, calls `act` in its step `number`."""
    numbers = iter([0, number])
    return lambda: Fails(next(numbers, 0), act)


def lose():
    raise KeyError("lost")


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("sota_dqn-worker")]


@pytest.fixture
def in_a_directory_of_its_own(tmp_path, monkeypatch):
    """Rescued runs are written to the current directory."""
    monkeypatch.chdir(tmp_path)


def test_a_worker_that_raises_stops_the_training(in_a_directory_of_its_own):
    trainer = make(fails_at(30, lose))
    with pytest.raises(KeyError, match="lost") as caught:
        trainer.train(100_000, verbose=0)
    assert "lose" in [entry.name for entry in caught.traceback]
    assert not threads()
    assert trainer.steps == trainer.shared.steps < 10_000
    (note,) = caught.value.__notes__
    path = re.fullmatch(r"What was learned so far is in (.*): OneStepTrainer\.load\('\1'\) goes on\.", note)[1]
    totals = (trainer.steps, trainer.updates, trainer.episodes)
    with pytest.raises(RuntimeError, match="Go on from a checkpoint"):
        trainer.train(10, verbose=0)
    trainer.close()
    resumed = OneStepTrainer.load(pathlib.Path(path), env="CartPole-v1")
    assert (resumed.steps, resumed.updates, resumed.episodes) == totals
    assert totals == (trainer.steps, trainer.updates, trainer.episodes)
    resumed.train(100, verbose=0)
    assert resumed.steps == trainer.steps + 100
    resumed.close()


def test_a_reward_that_is_not_a_number(in_a_directory_of_its_own):
    class NoNumber(gymnasium.Wrapper):
        def step(self, action):
            observation, _, *rest = self.env.step(action)
            return observation, float("nan"), *rest

    trainer = make(lambda: NoNumber(gymnasium.make("CartPole-v1")))
    with pytest.raises(ValueError, match=r"The reward of worker \d is NaN at step 1 of its episode 1\."):
        trainer.train(100, verbose=0)
    trainer.close()


def test_ctrl_c_keeps_a_checkpoint_and_training_goes_on(tmp_path):
    def press():
        os.kill(os.getpid(), signal.SIGINT)

    trainer = make(fails_at(30, press))
    with pytest.raises(KeyboardInterrupt, match=r"train\(\) goes on from there"):
        trainer.train(100_000, callbacks=[callbacks.Checkpoint(tmp_path)], verbose=0)
    assert not threads()
    assert trainer.steps == trainer.shared.steps < 10_000
    resumed = OneStepTrainer.load(tmp_path, env="CartPole-v1")
    assert resumed.steps == trainer.steps
    for one in (trainer, resumed):
        before = one.steps
        one.train(100, verbose=0)
        assert one.steps == before + 100
        one.close()


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adam"])
def test_many_workers_resume(optimizer, tmp_path):
    made = {
        "sgd": lambda: keras.optimizers.SGD(1e-2, momentum=0.9),
        "rmsprop": lambda: keras.optimizers.RMSprop(1e-3, rho=0.99, epsilon=0.1),
        "adam": lambda: keras.optimizers.Adam(1e-3, global_clipnorm=10.0),
    }[optimizer]()
    trainer = make(model=network(optimizer=made))
    trainer.train(130, verbose=0)
    trainer.save(tmp_path)
    resumed = OneStepTrainer.load(tmp_path)
    for before, after in zip(trainer.workers, resumed.workers, strict=True):
        np.testing.assert_equal(after.state(), before.state())
        np.testing.assert_equal(after.arrays(), before.arrays())
        np.testing.assert_equal(after.seen, before.seen)
    one, other = state_of(trainer), state_of(resumed)
    np.testing.assert_equal(other, one)
    assert any(np.any(value) for value in other["optimizer"][2:])  # its statistics
    resumed.train(70, verbose=0)
    assert (resumed.steps, resumed.shared.refreshes) == (200, 10)
    assert resumed.updates > trainer.updates
    for one in (trainer, resumed):
        one.close()


def test_environments_that_are_not_deterministic_begin_fresh_episodes(tmp_path, capsys):
    class Unseeded(gymnasium.Wrapper):
        def reset(self, **options):
            return self.env.reset()

    trainer = make(lambda: Unseeded(gymnasium.make("CartPole-v1")))
    trainer.train(101, verbose=0)
    trainer.save(tmp_path)
    resumed = OneStepTrainer.load(tmp_path, env=lambda: Unseeded(gymnasium.make("CartPole-v1")))
    assert "fresh episodes" in capsys.readouterr().out
    assert {worker.length for worker in resumed.workers} == {worker.episode_length for worker in resumed.workers} == {0}
    resumed.train(100, verbose=0)
    for one in (trainer, resumed):
        one.close()


def test_a_checkpoint_is_of_so_many_workers(tmp_path):
    trainer = make()
    trainer.save(tmp_path)
    with pytest.raises(ValueError, match="`workers` must be that of the checkpoint .*, 3. Received: workers=2"):
        OneStepTrainer.load(tmp_path, workers=2)
    trainer.close()


# Exploration, callbacks, observations


def test_every_worker_draws_its_final_epsilon():
    trainer = make(workers=40, epsilon_anneal=100)
    found = [worker.epsilon(100) for worker in trainer.workers]
    assert set(found) == {0.1, 0.01, 0.5}
    assert [worker.epsilon(0) for worker in trainer.workers] == [1.0] * 40
    np.testing.assert_allclose([worker.epsilon(50) for worker in trainer.workers], (1 + np.array(found)) / 2)
    actions = [worker.random.integers(1000) for worker in trainer.workers]
    assert len(set(actions)) > 30
    trainer.close()
    trainer = make(final_epsilons={0.2: 1.0})
    assert {worker.epsilon(1000) for worker in trainer.workers} == {0.2}
    trainer.close()


def test_callbacks_hear_of_everything(tmp_path):
    class Heard(callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.batches = self.episodes = 0

        def on_train_batch_end(self, batch, logs=None):
            self.batches += 1
            assert set(logs) == {"loss", "q", "td_error"} and np.isfinite(list(logs.values())).all()

        def on_episode_end(self, episode, logs=None):
            assert episode == self.episodes
            self.episodes += 1

    heard = Heard()
    log = tmp_path / "log.csv"
    trainer = make()
    history = trainer.train(
        200, callbacks=[heard, keras.callbacks.CSVLogger(log), callbacks.Evaluation(100, episodes=2)], verbose=0
    )
    assert (heard.batches, heard.episodes) == (trainer.updates, trainer.episodes)
    assert trainer.history["steps"] == [50, 100, 150, 200] == history.history["steps"]
    assert len(log.read_text().splitlines()) == 5
    assert np.isfinite(trainer.history["eval_return"][-1]) and trainer.history["epsilon"][0] > 0.5
    trainer.close()


def test_what_a_callback_sets_counts():
    def stop(epoch, logs):
        trainer.model.set_weights([np.ones_like(array) for array in trainer.model.get_weights()])
        trainer.model.optimizer.learning_rate = 0.0
        trainer.model.stop_training = epoch == 1

    trainer = make()
    trainer.train(500, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=stop)], verbose=0)
    assert trainer.steps == 100
    assert all((array == 1).all() for array in values(trainer.shared.weights))
    trainer.close()


def test_episodes_end_the_training():
    trainer = make(workers=1)
    trainer.train(episodes=7, verbose=0)
    assert trainer.episodes == 7 and trainer.workers[0].episode_length == 0
    trainer.close()


def test_profile(capsys):
    trainer = make()
    trainer.train(100, verbose=0, profile=True)
    assert all(trainer.profile[phase] > 0 for phase in ("environment", "act", "learn"))
    assert "environment" in capsys.readouterr().out
    trainer.close()


def test_pictures_in_stacks_are_preprocessed_everywhere(tmp_path):
    class Pictures(gymnasium.Env):
        """Pictures that show the step."""

        observation_space = spaces.Box(0, 255, (6, 6, 3), "uint8")
        action_space = spaces.Discrete(3, start=1)

        def __init__(self, render_mode=None):
            self.render_mode = render_mode

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.time = 0
            return np.zeros((6, 6, 3), "uint8"), {}

        def step(self, action):
            assert self.action_space.contains(action)
            self.time += 1
            return np.full((6, 6, 3), self.time, "uint8"), 1.0, self.time == 9, False, {}

    def smaller(frames):
        return frames[:, ::2, ::2, 0]

    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(4, 2), keras.layers.Flatten(), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((3, 3, 4), dtype="uint8"), *layers])
    settings = {"preprocess": smaller, "frame_stack": 4}
    trainer = make(Pictures, model, workers=2, **settings)
    segments, learn = [], trainer.learner.learn

    def keep(segment):
        segments.append(segment)
        learn(segment)

    trainer.learner.learn = keep
    trainer.train(100, verbose=0)
    for segment in segments:
        assert segment.observation.shape == (6, 4, 3, 3)
        length = int(segment.mask.sum())
        shown = segment.observation[: length + 1, :, 0, 0].astype(int)
        np.testing.assert_array_equal(shown[:, 3], shown[0, 3] + np.arange(length + 1))
        np.testing.assert_array_equal(shown[:, 0], np.maximum(shown[:, 3] - 3, 0))
    assert trainer.evaluate(episodes=2)["returns"] == [9.0, 9.0]
    trainer.save(tmp_path)
    agent = DQNInference(tmp_path, env=Pictures, preprocess=smaller)
    assert agent.evaluate(episodes=2)["returns"] == [9.0, 9.0]
    trainer.close()


def test_moving_averages_are_shared_too(random):
    layers = [keras.layers.BatchNormalization(momentum=0.5), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    learner, shared = make_learner(model)
    segment = random_segment(random)
    for _ in range(12):
        learner.learn(segment)
    mean = ops.convert_to_numpy(model.layers[0].moving_mean.value)
    np.testing.assert_allclose(mean, segment.observation[:-1].mean(axis=0), atol=1e-3)
    for variable, published in zip(model.variables, values(shared.weights), strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable.value), published)


def test_regularization_is_part_of_the_gradient(random):
    model = linear_model(np.ones((3, 2)))
    model.layers[0].kernel_regularizer = keras.regularizers.L2(0.5)
    model.layers[0].kernel.regularizer = keras.regularizers.L2(0.5)
    learner, shared = make_learner(model)
    nothing = random_segment(random)._replace(mask=np.float32([1, 0, 0, 0, 0]))
    plain, _ = make_learner(linear_model(np.ones((3, 2))))
    (with_it,), (without,) = (values(one._gradient(*shared.read(), *nothing)[0]) for one in (learner, plain))
    np.testing.assert_allclose(with_it - without, np.ones((3, 2)), rtol=1e-4)  # of 0.5 w^2


# Bad input


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"workers": 0}, ValueError, "`workers` must be at least 1. Received: workers=0"),
        ({"workers": None}, TypeError, "`workers` must be an integer"),
        ({"method": "td"}, ValueError, r"`method` must be one of \('q', 'sarsa'\). Received: method='td'"),
        ({"n_step": 6}, ValueError, "`n_step` must be at most `local_max_steps`, 5. Received: n_step=6"),
        ({"local_max_steps": 0}, ValueError, "`local_max_steps` must be at least 1"),
        ({"target_network_update": 0}, ValueError, "`target_network_update` must be at least 1"),
        ({"discount": 1.5}, ValueError, "`discount` must be between 0 and 1"),
        ({"final_epsilons": {}}, ValueError, "`final_epsilons` must be a dict"),
        ({"final_epsilons": {2.0: 1.0}}, ValueError, "`final_epsilons` must be a dict"),
        ({"final_epsilons": 0.1}, ValueError, "`final_epsilons` must be a dict"),
        ({"seed": -1}, ValueError, "`seed` must be an integer"),
        ({"frame_stack": 0}, ValueError, "`frame_stack` must be at least 1"),
        ({"env": "Pendulum-v1"}, ValueError, "needs a Discrete action space; Box is not supported"),
        ({"env": gymnasium.make_vec("CartPole-v1", 2)}, ValueError, "Each worker needs an environment of its own"),
        ({"model": network(5)}, ValueError, "input does not match the preprocessed observations"),
        ({"model": "mlp"}, TypeError, "`model` must be a Keras model"),
    ],
)
def test_bad_arguments(settings, error, message):
    with pytest.raises(error, match=message):
        make(**settings)


def test_an_environment_that_cannot_be_built_again_is_for_one_worker():
    with pytest.raises(ValueError, match="pass an id, or a callable that makes one"):
        make(Counting(), network(2, 3))
    trainer = make(Counting(), network(2, 3), workers=1, eval_env=Counting)
    trainer.train(50, verbose=0)
    assert trainer.steps == 50
    trainer.close()


def test_a_recurrent_model_is_refused():
    layers = [keras.Input((None, 4)), keras.layers.LSTM(4, return_sequences=True), keras.layers.Dense(2)]
    with pytest.raises(ValueError, match="recurrent model is not supported here: use DQNTrainer"):
        make(model=keras.Sequential(layers))


def test_optimizers():
    with pytest.raises(ValueError, match="Unknown|Could not interpret|not"):
        network(optimizer="fastest")
    with pytest.raises(ValueError, match="LossScaleOptimizer is not supported"):
        make(model=network(optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))))
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    with pytest.raises(ValueError, match="`learning_rate_anneal` needs an optimizer whose learning rate is a number"):
        make(model=network(optimizer=keras.optimizers.SGD(rate)), learning_rate_anneal=100)
    trainer = make(model=keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))
    optimizer = trainer.model.optimizer
    assert isinstance(optimizer, keras.optimizers.RMSprop) and (optimizer.rho, optimizer.epsilon) == (0.99, 0.1)
    trainer.close()
