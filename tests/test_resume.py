"""A run that is saved and loaded, killed and resumed, is bit for bit the run that was never stopped."""

import importlib.util
import itertools
import json
import math
import os
import pathlib
import subprocess
import sys

import gymnasium
import keras
import killed_run
import numpy as np
import pytest
from environments import Counting
from gymnasium import spaces
from keras import ops
from runs import SaveAt, assert_same, fix_seeds, make, network, state_of

from sota_dqn import (
    DQNTrainer,
    Replay,
    callbacks,
    forkserver,
    layers,
    losses,
    policies,
    returns,
    samplers,
    schedules,
    targets,
)

TESTS = pathlib.Path(__file__).parent


def noisy_network():
    """Layers with a random state and with statistics of their own, a regularizer, and a scheduled learning rate."""
    fix_seeds()
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="relu", kernel_regularizer="l2"),
            keras.layers.Dropout(0.5),
            keras.layers.BatchNormalization(),
            layers.NoisyDense(2),
        ]
    )
    model.compile(optimizer=keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 200), 0.9), loss="mse")
    return model


def own_loss_network():
    model = network(4, 2)
    model.compile(optimizer=keras.optimizers.RMSprop(1e-2), loss=keras.losses.Huber(delta=0.3))
    return model


SCENARIOS = {
    "cartpole, a loss of one's own": dict(model=own_loss_network),
    "uniform, copied target, softmax": dict(
        num_envs=7,
        updates_per_step=0.3,
        replay=lambda: Replay(210, sampler=samplers.Uniform()),
        policy=policies.Boltzmann(schedules.exponential(1.0, 0.1, half_life=100)),
        target=targets.maximum,
        target_update=10,
        n_step=1,
        bounds=None,
    ),
    "returns to go": dict(
        bounds=returns.Bounds(2, upper=True, return_to_go=True),
        target=targets.expected_sarsa(0.1),
        rescaling=returns.Rescaling(1e-2),
    ),
    "acrobot, frames": dict(
        env="Acrobot-v1", model=lambda: network(6, 3, stack=3), num_envs=3, frame_stack=3, preprocess=None
    ),
    "mountain car, no target model": dict(
        env="MountainCar-v0",
        model=lambda: network(2, 3),
        num_envs=1,
        target=targets.mellowmax(5.0),
        target_update=None,
        bounds=returns.Bounds(2),
        penalty=losses.linear_lower_bound(),
    ),
    "dropout, statistics, 3 updates a call": dict(model=noisy_network, updates_per_call=3),
    "held exploration, 12 updates a call": dict(policy=policies.EpsilonGreedy(0.5, hold=20), updates_per_call=12),
}


def build(scenario):
    """Builds the trainer of a scenario, whose values that are functions of nothing make a new one for each trainer."""
    settings = {name: value() if name in ("model", "replay") else value for name, value in SCENARIOS[scenario].items()}
    return make(**settings)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_saved_and_loaded(scenario, tmp_path):
    never_stopped = build(scenario)
    epoch = math.lcm(60, never_stopped.num_envs)  # so that epochs end with a step of all environments
    never_stopped.report_every = epoch
    save = SaveAt(tmp_path, steps=4 * epoch if epoch < 100 else epoch)
    never_stopped.train(600 if epoch < 100 else 2 * epoch, callbacks=[save], verbose=0)
    storage = never_stopped.replay.storage
    assert min(never_stopped.actor.count) > storage.rows_per_stream  # it has been overwritten
    assert save.saved_at and never_stopped.updates > 50

    resumed = DQNTrainer.load(tmp_path, report_every=epoch)
    assert resumed.steps == save.saved_at
    resumed.train(never_stopped.steps - resumed.steps, verbose=0)
    assert_same(never_stopped, resumed)
    assert never_stopped.evaluate(3) == resumed.evaluate(3)
    assert resumed.learner.compilations() == 1


def test_saving_and_stopping_between_epochs_change_nothing(tmp_path):
    plain, saved = make(), make()
    plain.train(600, verbose=0)
    for steps in (60, 240, 300):
        saved.train(steps, verbose=0)
        saved.save(tmp_path)
    assert_same(plain, saved)


def test_saved_in_the_middle_of_an_epoch(tmp_path):
    never_stopped = make(report_every=240)
    save = SaveAt(tmp_path, episode=20)
    never_stopped.train(960, callbacks=[save], verbose=0)
    assert save.saved_at % 240
    resumed = DQNTrainer.load(tmp_path)
    resumed.train(960 - resumed.steps, verbose=0)
    assert_same(never_stopped, resumed)


@pytest.mark.parametrize("policy", [None, policies.Switching(policies.Greedy(), policies.EpsilonGreedy(1.0), 0.2)])
def test_saved_while_it_learns(policy, tmp_path):
    """The actions of the step are chosen by then, with chance that the resumed run must draw again."""

    class Saves(callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if self.trainer.steps == 204:
                self.trainer.save(tmp_path)

    never_stopped = make(policy=policy, updates_per_step=1)
    never_stopped.train(600, callbacks=[Saves()], verbose=0)
    resumed = DQNTrainer.load(tmp_path)
    assert resumed.steps == 204
    resumed.train(600 - resumed.steps, verbose=0)
    assert_same(never_stopped, resumed)


def test_saved_when_an_epoch_is_complete_but_not_reported(tmp_path):
    """The last step of the epoch ends an episode, and more than one environment ends its episode there."""
    never_stopped = make(always_ending, num_envs=4, report_every=40, eval_env="CartPole-v1")
    save = SaveAt(tmp_path, episode=37)  # the second of the four that end at step 40
    never_stopped.train(120, callbacks=[save], verbose=0)
    assert save.saved_at == 40 and never_stopped.history["episodes"] == [40, 80, 120]
    resumed = DQNTrainer.load(tmp_path, env=always_ending)
    resumed.train(80, verbose=0)
    assert_same(never_stopped, resumed)


def test_saved_before_the_first_step(tmp_path):
    never_stopped = make()
    never_stopped.save(tmp_path)
    never_stopped.train(240, verbose=0)
    resumed = DQNTrainer.load(tmp_path)
    resumed.train(240, verbose=0)
    assert_same(never_stopped, resumed)


def test_evaluations_and_the_best_model_go_on(tmp_path):
    def evaluation(name):
        return callbacks.Evaluation(120, episodes=2, best_model=tmp_path / f"{name}.keras")

    never_stopped = make()
    save = SaveAt(tmp_path / "run", steps=240)
    never_stopped.train(480, callbacks=[save, evaluation("one")], verbose=0)
    resumed = DQNTrainer.load(tmp_path / "run")
    resumed.train(240, callbacks=[evaluation("other")], verbose=0)
    assert_same(never_stopped, resumed)
    assert len(resumed.history["eval_return"]) == 8 and resumed.evaluations == 4


def test_without_the_replay(tmp_path, capsys):
    trainer = make()
    trainer.train(300, verbose=0)
    trainer.save(tmp_path, replay=False)
    assert not list(tmp_path.rglob("replay_*.npy"))
    before = state_of(trainer)

    resumed = DQNTrainer.load(tmp_path)
    assert "fresh episodes" not in capsys.readouterr().out
    after = state_of(resumed)
    kept = [name for name in before if not name.startswith("replay") and name != "actor"]
    assert_same({name: before[name] for name in kept}, {name: after[name] for name in kept})
    np.testing.assert_equal(after["actor"][0], before["actor"][0])

    resumed.train(40, verbose=0)  # `learning_starts`
    assert resumed.updates == trainer.updates
    resumed.train(80, verbose=0)
    assert resumed.updates == trainer.updates + 36  # those that 76 steps are worth, in calls of 4
    assert not np.array_equal(state_of(resumed)["model 0"], before["model 0"])


def test_a_preprocessing_and_an_environment_of_ones_own_are_given_again(tmp_path):
    def double(observations):
        return 2 * observations

    def make_env(render_mode=None):
        return gymnasium.make("CartPole-v1", render_mode=render_mode)

    never_stopped = make(make_env, preprocess=[double], learning_starts=1000)
    never_stopped.train(120, verbose=0)
    never_stopped.save(tmp_path)
    never_stopped.train(120, verbose=0)
    with pytest.raises(ValueError, match=r"cannot hold `env` \(.*make_env\). Pass it again, as an argument: env="):
        DQNTrainer.load(tmp_path)
    with pytest.raises(ValueError, match=r"cannot hold `preprocess` \(.*double\)"):
        DQNTrainer.load(tmp_path, env=make_env)
    resumed = DQNTrainer.load(tmp_path, env=make_env, preprocess=[double])
    resumed.train(120, verbose=0)
    assert_same(never_stopped, resumed)


def test_on_the_other_backend(tmp_path):
    other = {"tensorflow": "jax", "jax": "tensorflow"}[keras.backend.backend()]
    if importlib.util.find_spec(other) is None:
        pytest.skip(f"{other} is not installed")
    trainer = make()
    trainer.train(240, verbose=0)
    trainer.save(tmp_path)
    script = (
        "import json, sys; from runs import *; trainer = DQNTrainer.load(sys.argv[1]); state = state_of(trainer);"
        "q = trainer.model(np.eye(4, dtype='float32'));"
        "state = {n: v.tolist() for n, v in state.items() if isinstance(v, np.ndarray)};"
        "trainer.train(60, verbose=0);"
        "print(json.dumps([keras.backend.backend(), ops.convert_to_numpy(q).tolist(), state, trainer.updates]))"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(
        command, cwd=TESTS, env={**os.environ, "KERAS_BACKEND": other}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    backend, q, state, updates = json.loads(done.stdout.splitlines()[-1])
    assert backend == other
    for name, values in state.items():
        np.testing.assert_array_equal(np.asarray(values), state_of(trainer)[name].tolist(), err_msg=name)
    np.testing.assert_allclose(q, trainer.model(np.eye(4, dtype="float32")), rtol=1e-5, atol=1e-6)
    trainer.train(60, verbose=0)
    assert updates == trainer.updates


# Environments that cannot be brought back


class Ending(gymnasium.Env):
    """Every step ends an episode."""

    observation_space = spaces.Box(-9, 9, (4,), "float32")
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.normal(size=4).clip(-9, 9).astype("float32"), {}

    def step(self, action):
        return np.zeros(4, "float32"), 1.0, bool(action), not action, {}


def always_ending():
    return Ending()


class Unseeded(gymnasium.Env):
    """Nothing depends on the seed: episodes are numbered as they begin, and their lengths come from that number.

    Observations are the episode's number and step. No step may follow the last.
    """

    observation_space = spaces.Box(0, 1e6, (2,), "float32")
    action_space = spaces.Discrete(2)
    numbers = itertools.count()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number, self.time = next(self.numbers), 0
        return self._observation(), {}

    def step(self, action):
        length = 2 + self.number % 7
        assert self.time < length
        self.time += 1
        ended = self.time == length
        return self._observation(), 1.0, ended and self.number % 2 == 0, ended and self.number % 2 == 1, {}

    def _observation(self):
        return np.array([self.number, self.time], "float32")


def test_an_environment_that_is_not_deterministic_begins_fresh_episodes(tmp_path, capsys):
    settings = {"replay": Replay(400, sampler=samplers.Uniform())}
    trainer = make(Unseeded, network(2, 2), **settings)
    trainer.train(200, verbose=0)
    running = trainer.actor.observation
    assert running[:, 1].any()  # in the middle of episodes
    trainer.save(tmp_path)

    capsys.readouterr()
    resumed = DQNTrainer.load(tmp_path, env=Unseeded)
    assert "training goes on with fresh episodes" in capsys.readouterr().out
    assert (resumed.actor.observation[:, 1] == 0).all()
    assert resumed.actor.environments.episodes.tolist() == [n + 1 for n in trainer.actor.environments.episodes]
    resumed.train(100, verbose=0)
    assert_windows_within_episodes(resumed, cut=running)


def assert_windows_within_episodes(trainer, cut):
    """Asserts that no window leads out of its episode, nor over the observations `cut`, before which rows are drawn."""
    replay = trainer.replay
    steps = ops.convert_to_numpy(replay.storage.observation.value)
    sample = replay.sample(ops.convert_to_tensor(np.random.default_rng(0).random(800, "float32")), np.float32(0))
    _, discounts, lengths = returns.n_step(sample.window, 3, 0.99)
    drawn = replay.observe(sample.rows), replay.observe(sample.rows, lengths), lengths, ops.equal(discounts, 0)
    rows, following, lengths, terminated = map(ops.convert_to_numpy, drawn)
    bootstraps = ~terminated
    np.testing.assert_array_equal(following[bootstraps, 0], rows[bootstraps, 0])
    np.testing.assert_array_equal(following[bootstraps, 1], rows[bootstraps, 1] + lengths[bootstraps])
    for number, time in cut:  # the window before the cut bootstraps from the observation at the cut
        if time:
            last = (rows[:, 0] == number) & (rows[:, 1] == time - 1)
            assert last.any() and (lengths[last] == 1).all() and bootstraps[last].all()
        at_the_cut = (rows[:, 0] == number) & (rows[:, 1] == time)
        assert not at_the_cut.any() and (steps == [number, time]).all(axis=1).any()


def test_a_native_vector_environment_begins_fresh_episodes(tmp_path, capsys):
    trainer = make(vectorization_mode="vector_entry_point", replay=Replay(800))
    assert not trainer.actor.environments.exact
    trainer.train(200, verbose=0)
    trainer.save(tmp_path)
    before = state_of(trainer)
    resumed = DQNTrainer.load(tmp_path)
    assert "training goes on with fresh episodes" in capsys.readouterr().out
    after = state_of(resumed)
    for name in before:
        if name.startswith(("model", "optimizer", "target", "random", "history")):
            np.testing.assert_equal(after[name], before[name], err_msg=name)
    streams = np.arange(4)
    cut = resumed.replay.storage.places(streams, trainer.actor.count)
    variables = resumed.replay.storage
    np.testing.assert_array_equal(ops.convert_to_numpy(variables.observation.value)[cut], trainer.actor.observation)
    assert not ops.convert_to_numpy(variables.read(ops.convert_to_tensor(cut)).valid).any()
    np.testing.assert_array_equal(resumed.actor.count, trainer.actor.count + 1)
    resumed.train(100, verbose=0)
    assert resumed.updates > trainer.updates


# Killed


@pytest.fixture(scope="module")
def never_killed():
    trainer = killed_run.make_trainer()
    trainer.train(killed_run.STEPS, verbose=0)
    return state_of(trainer)


@pytest.mark.skipif(not forkserver.AVAILABLE, reason="there is no fork server here")
def test_killed_in_training_and_while_saving(never_killed, tmp_path, monkeypatch):
    """One run, killed three times: between two saves, before and after the new directory gets its name."""
    monkeypatch.chdir(tmp_path)
    server, steps = forkserver.ForkServer("killed_run", "run"), []
    for moment in ("episode:12", "os.rename:3", "os.rename:2"):
        assert server.fork([], {"MOMENT": moment}).wait(120) == -9
        steps.append(json.loads((tmp_path / "config.json").read_text())["steps"])
    server.close()
    assert len(list(tmp_path.glob("step-*"))) == 2  # one of them without a config.json that names it
    assert 0 < steps[0] < steps[1] == steps[2] < killed_run.STEPS
    resumed = DQNTrainer.load(tmp_path)
    resumed.train(killed_run.STEPS - resumed.steps, callbacks=[killed_run.checkpoints(tmp_path)], verbose=0)
    assert_same(never_killed, resumed)
    assert len(list(tmp_path.glob("step-*"))) == 1
    assert_same(never_killed, DQNTrainer.load(tmp_path))


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A checkpoint after 200 steps, of which updates are due for all but the first 64."""
    path = tmp_path_factory.mktemp("pace") / "run"
    trainer = make(model=network(4, 2), num_envs=4, updates_per_step=0.5, learning_starts=64)
    trainer.train(200, verbose=0)
    trainer.save(path)
    return path, trainer.updates


@pytest.mark.parametrize("updates_per_step", [0.25, 2.0])
def test_another_pace_counts_from_the_checkpoint_on(updates_per_step, learned):
    path, before = learned
    resumed = DQNTrainer.load(path, updates_per_step=updates_per_step)
    assert resumed.updates == before
    resumed.train(200, verbose=0)
    assert abs(resumed.updates - before - 200 * updates_per_step) <= resumed.updates_per_call + 8


def test_learning_may_start_later_than_in_the_checkpoint(learned):
    path, before = learned
    resumed = DQNTrainer.load(path, learning_starts=300)
    resumed.train(96, verbose=0)
    assert resumed.updates == before
    resumed.train(100, verbose=0)
    assert resumed.updates > before


def test_longer_windows_than_in_the_checkpoint_are_complete(tmp_path):
    """What was let in for windows of two rows, and one before them, is not drawn for longer ones before its time."""
    settings = {"num_envs": 2, "learning_starts": 400}
    trainer = make(env=Counting, model=network(2, 3), n_step=1, bounds=None, **settings)
    trainer.train(300, verbose=0)
    trainer.save(tmp_path)
    longer = {"n_step": 5, "bounds": returns.Bounds(2, upper=True)}
    resumed = DQNTrainer.load(tmp_path, env=Counting, **longer)
    expected = make(env=Counting, model=network(2, 3), **settings, **longer)
    expected.train(300, verbose=0)
    expected.actor.flush()
    for _ in range(3):
        drawn = [drawable(one) for one in (trainer, resumed, expected)]
        np.testing.assert_array_equal(drawn[1], drawn[2])
        assert drawn[1].sum() < drawn[0].sum()
        for one in (resumed, expected):
            one.train(2, verbose=0)
            one.actor.flush()


def drawable(trainer):
    """Returns which rows may be drawn, `[rows]` bool."""
    leaves = ops.convert_to_numpy(trainer.replay.sampler.tree.levels[0].value).ravel()
    return leaves[: trainer.replay.storage.bin] > 0


def test_a_replay_with_another_sampler(learned):
    path, _ = learned
    sampler = {type(x): x for x in (samplers.Uniform(), samplers.Prioritized())}
    sampler.pop(type(DQNTrainer.load(path).replay.sampler))
    with pytest.raises(ValueError, match="of a replay with another sampler"):
        DQNTrainer.load(path, replay=Replay(160, sampler=next(iter(sampler.values()))))
