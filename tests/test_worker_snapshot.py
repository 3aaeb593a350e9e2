"""Runs of asynchronous workers that are saved and go on."""

import gymnasium
import keras
import numpy as np
import pytest
from one_step_runs import METHOD_NAMES, make, network, state_of

from sota_dqn import OneStepTrainer


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
