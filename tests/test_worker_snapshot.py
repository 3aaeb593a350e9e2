"""Runs of asynchronous workers that are saved and go on."""

import gymnasium
import keras
import numpy as np
import probes
import pytest
from one_step_runs import METHOD_NAMES, make, network, state_of
from runs import fix_seeds

from sota_dqn import OneStepTrainer


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_one_worker_resumes_bit_for_bit(method, tmp_path):
    def stacked():
        fix_seeds()
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


def test_a_run_that_learning_has_stopped_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the rescued run is written

    def fail(segment):
        raise MemoryError("no room")

    trainer = make(workers=1)
    trainer.train(50, verbose=0)
    trainer.learner.learn = fail
    with pytest.raises(MemoryError) as caught:
        trainer.train(50, verbose=0)
    trainer.close()
    resumed = OneStepTrainer.load(caught.value.__notes__[0].split("'")[1])
    assert (resumed.steps, resumed.updates) == (trainer.steps, trainer.updates)
    resumed.train(50, verbose=0)
    assert resumed.steps == trainer.steps + 50
    resumed.close()


def test_a_step_that_was_cut_short_is_not_learned_from(tmp_path, monkeypatch):
    """All observations are equal: where the environment is does not tell that it is a step ahead."""
    monkeypatch.chdir(tmp_path)

    class NoNumber(probes.TimeLimit):
        def move(self, action):
            return float("nan") if self.length == 2 else 1.0, False, self.length == 4

    trainer = make(NoNumber, network(1), workers=1)
    with pytest.raises(ValueError, match="is NaN at step 2 of its episode 1") as caught:
        trainer.train(50, verbose=0)
    trainer.close()
    resumed = OneStepTrainer.load(caught.value.__notes__[0].split("'")[1], env=probes.TimeLimit)
    assert (resumed.workers[0].length, resumed.workers[0].episode_length) == (0, 0)
    resumed.train(50, verbose=0)
    assert all(np.isfinite(array).all() for array in resumed.model.get_weights())
    resumed.close()
