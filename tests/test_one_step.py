"""Asynchronous one-step Q-learning and SARSA: gradients, one worker against a plain loop, many workers, bad input."""

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
from learners import Masked
from one_step_runs import (
    METHOD_NAMES,
    linear_model,
    make,
    make_learner,
    network,
    random_segment,
    single_steps,
    state_of,
    values,
)
from runs import fix_seeds

from sota_dqn import DQNInference, OneStepTrainer, callbacks
from sota_dqn.checkpoint import Checkpoint
from sota_dqn.seeds import episode_seed, episode_seeds


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


def test_regularization_is_part_of_the_gradient(random):
    model = linear_model(np.ones((3, 2)))
    model.layers[0].kernel_regularizer = keras.regularizers.L2(0.5)
    model.layers[0].kernel.regularizer = keras.regularizers.L2(0.5)
    learner, shared = make_learner(model)
    nothing = random_segment(random)._replace(mask=np.float32([1, 0, 0, 0, 0]))
    plain, _ = make_learner(linear_model(np.ones((3, 2))))
    (with_it,), (without,) = (values(one._gradient(*shared.read(), *nothing)[0]) for one in (learner, plain))
    np.testing.assert_allclose(with_it - without, np.ones((3, 2)), rtol=1e-4)  # of 0.5 w^2


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_actions_of_minus_infinity_are_as_if_they_were_not_there(method, random):
    """The gradient is that of a model that gives them a very low value instead."""
    segment = random_segment(random)
    kernel = random.normal(size=(3, 2)).astype("float32")
    segment.action[:] = 0
    segment.observation[2:, 0] = 9.0  # a state that terminates the episode, in which no action is legal
    segment.mask[2:] = segment.returns[2:] = segment.discount[1:] = 0
    found = []
    for value in (-np.inf, -1e9):
        observation = keras.Input((3,))
        masked = Masked(value)(keras.layers.Dense(2, use_bias=False)(observation), observation)
        model = keras.Model(observation, masked)
        model.set_weights([kernel])
        model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
        learner, shared = make_learner(model, method)
        gradients, _, metrics = learner._gradient(*shared.read(), *segment)
        found.append([*values(gradients), *values(metrics.values())])
    for ours, expected in zip(*found, strict=True):
        assert np.isfinite(ours).all()
        np.testing.assert_allclose(ours, expected, rtol=1e-5)
    assert found[0][0].any()


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


def test_one_worker_is_determined_by_the_seed():
    states = []
    for seed in (1, 1, 2):
        fix_seeds()
        trainer = make(workers=1, seed=seed)
        trainer.train(120, verbose=0)
        states.append(state_of(trainer))
        trainer.close()
    np.testing.assert_equal(states[0], states[1])
    assert not np.array_equal(states[0]["model"][0], states[2]["model"][0])


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


def test_a_reward_that_is_too_large(in_a_directory_of_its_own):
    """It would be infinite in single precision, in which it is learned from."""

    class Large(gymnasium.Wrapper):
        def step(self, action):
            observation, _, *rest = self.env.step(action)
            return observation, 1e39, *rest

    trainer = make(lambda: Large(gymnasium.make("CartPole-v1")))
    with pytest.raises(ValueError, match=r"The reward of worker \d is infinite at step 1 of its episode 1\."):
        trainer.train(100, verbose=0)
    trainer.close()


def test_ctrl_c_keeps_a_checkpoint_and_training_goes_on(tmp_path):
    def press():
        os.kill(os.getpid(), signal.SIGINT)

    trainer = make(fails_at(30, press))
    with pytest.raises(KeyboardInterrupt, match=r"train\(\) goes on .*so does OneStepTrainer\.load\('.+'\)\."):
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


def test_a_callback_that_raises_loses_no_episode(in_a_directory_of_its_own):
    class Raises(callbacks.Callback):
        def on_episode_end(self, episode, logs=None):
            raise ZeroDivisionError

    trainer = make(report_every=200)
    with pytest.raises(ZeroDivisionError) as caught:
        trainer.train(200, callbacks=[Raises()], verbose=0)
    path = caught.value.__notes__[0].split("'")[1]
    found = Checkpoint(path)
    assert found.config["episodes"] == trainer.episodes == len(found.state["epoch"]["returns"]) > 1
    resumed = OneStepTrainer.load(path)
    assert resumed.epoch.state() == found.state["epoch"]  # they are in the next line of the log
    for one in (trainer, resumed):
        one.close()


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
        ({"discount": None}, TypeError, "`discount` must be a number. Received: discount=None"),
        ({"discount": True}, TypeError, "`discount` must be a number. Received: discount=True"),
        ({"report_every": None}, TypeError, "`report_every` must be an integer"),
        ({"clip_rewards": "yes"}, TypeError, "`clip_rewards` must be True or False. Received: clip_rewards='yes'"),
        ({"final_epsilons": {}}, ValueError, "`final_epsilons` must be a dict"),
        ({"final_epsilons": {2.0: 1.0}}, ValueError, "`final_epsilons` must be a dict"),
        ({"final_epsilons": 0.1}, ValueError, "`final_epsilons` must be a dict"),
        ({"final_epsilons": {True: 1.0}}, ValueError, "`final_epsilons` must be a dict"),
        ({"seed": -1}, ValueError, "`seed` must be at least 0"),
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


@pytest.mark.parametrize("settings", [{"model": network(2, 5)}, {"preprocess": 5}, {"learning_rate_anneal": 100}])
def test_environments_are_closed_where_the_trainer_is_not_made(settings):
    closed = []

    class Closing(Counting):
        def close(self):
            closed.append(1)

    with pytest.raises(ValueError, match="`use_ema=True` keeps an average"):
        make(model=network(optimizer=keras.optimizers.SGD(0.1, use_ema=True)))
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    settings = {"model": network(2, 3, optimizer=keras.optimizers.SGD(rate)), **settings}
    with pytest.raises((ValueError, TypeError)):
        make(Closing, workers=3, **settings)
    assert len(closed) == 3
    with pytest.raises((ValueError, TypeError)):
        make(Closing(), workers=1, eval_env=Counting, **settings)
    assert len(closed) == 3  # the user's own may be used again


@pytest.mark.parametrize("workers", [1, 3])
def test_an_environment_that_is_handed_out_again(workers):
    env = Counting()
    with pytest.raises(ValueError, match="callable must make a new one at every call, and this one returns the same"):
        make(lambda: env, network(2, 3), workers=workers)
    with pytest.raises(ValueError, match="`eval_env` must be another environment than the one trained in"):
        make(env, network(2, 3), workers=1, eval_env=lambda: env)


def test_an_environment_to_evaluate_in_that_is_unlike():
    closed = []

    class Closing(Counting):
        def close(self):
            closed.append(1)

    with pytest.raises(ValueError, match=r"`eval_env` must have the actions of .* Received: .*Discrete\(3, start=1\)"):
        make(Closing, network(2, 3), workers=2, eval_env=lambda: Closing(start=1))
    assert len(closed) == 3
    with pytest.raises(ValueError, match=r"`eval_env` must give observations like .*eval_env='MountainCar-v0'"):
        make("Acrobot-v1", network(6, 3), eval_env="MountainCar-v0")
    make(Closing, network(2, 3), workers=2, eval_env=Counting(longest=3)).close()


def test_a_recurrent_model_is_refused():
    layers = [keras.Input((None, 4)), keras.layers.LSTM(4, return_sequences=True), keras.layers.Dense(2)]
    with pytest.raises(ValueError, match="recurrent model is not supported here: use DQNTrainer"):
        make(model=keras.Sequential(layers))


@pytest.mark.parametrize("name", ["previous_action", "previous_reward"])
def test_a_model_that_sees_the_step_before_is_refused(name):
    inputs = [keras.Input((4,)), keras.Input((2 if name == "previous_action" else 1,), name=name)]
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Concatenate()(inputs)))
    with pytest.raises(ValueError, match=rf"inputs \['{name}'\] of the model are not supported here: use DQNTrainer"):
        make(model=model)


def test_optimizers():
    with pytest.raises(ValueError, match="Could not interpret optimizer identifier: fastest"):
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


def test_a_model_that_is_compiled_anew(tmp_path):
    trainer = OneStepTrainer("CartPole-v1", network(), workers=1, epsilon_anneal=10)
    trainer.model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse")
    for go_on in (lambda: trainer.train(10, verbose=0), lambda: trainer.save(tmp_path / "run")):
        with pytest.raises(ValueError, match="was compiled anew"):
            go_on()
