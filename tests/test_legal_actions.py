"""An environment in which not every action is legal, and a model that says which are."""

import gymnasium
import keras
import numpy as np
import pytest
from keras import ops

from sota_dqn import DQNInference, DQNTrainer, OneStepTrainer, policies


class Doors(gymnasium.Env):
    """Sees which of four doors are open, and raises ValueError where another is taken. The last open one pays."""

    observation_space = gymnasium.spaces.MultiBinary(4)
    action_space = gymnasium.spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.step_number = 0
        return self._see(), {}

    def step(self, action):
        if not self.open[action]:
            raise ValueError(f"Door {action} is shut.")
        reward = float(action == np.flatnonzero(self.open)[-1])
        self.step_number += 1
        return self._see(), reward, self.step_number == 10, False, {}

    def _see(self):
        self.open = np.zeros(4, "int8")
        self.open[self.np_random.choice(4, 2, replace=False)] = 1
        return self.open.copy()


def make_model():
    """Returns a model that gives -inf to the doors that are shut, made of Keras's own operations alone."""
    seen = keras.Input((4,))
    values = keras.layers.Dense(4)(keras.layers.Dense(16, activation="relu")(seen))
    return keras.Model(seen, ops.where(seen > 0, values, -float("inf")))


@pytest.mark.parametrize("policy", [None, policies.ApeX(0.6), policies.Certainty(), policies.Boltzmann(0.5)])
def test_only_legal_actions_are_taken_and_learned(policy, tmp_path):
    trainer = DQNTrainer(Doors, make_model(), num_envs=4, learning_starts=100, policy=policy)
    history = trainer.train(steps=800, verbose=0).history
    assert all(np.isfinite(history[name]).all() for name in ("loss", "q", "td_error"))
    assert all(np.isfinite(weight).all() for weight in trainer.model.get_weights())
    assert trainer.evaluate(4, epsilon=1)["lengths"] == [10] * 4
    trainer.save(tmp_path)
    assert DQNInference(tmp_path, env=Doors, epsilon=0.5).evaluate(4)["lengths"] == [10] * 4


@pytest.mark.parametrize("method", ["q", "sarsa"])
def test_only_legal_actions_are_taken_without_a_replay(method):
    trainer = OneStepTrainer(Doors, make_model(), method=method, workers=2, epsilon_anneal=200)
    trainer.train(steps=400, verbose=0)
    assert all(np.isfinite(weight).all() for weight in trainer.model.get_weights())
    assert trainer.evaluate(4, epsilon=1)["lengths"] == [10] * 4
    trainer.close()
