"""Short runs, and all that makes up the state of one, to compare it bit for bit with another."""

import random

import keras
import numpy as np
from keras import ops

from sota_dqn import DQNTrainer, Replay, backend, callbacks, samplers

CLOCK = ("steps_per_second", "updates_per_second", "seconds")  # what two equal runs may differ in


def fix_seeds():
    """Fixes the seeds from which weights are initialized: Python's, and NumPy's.

    `keras.utils.set_random_seed` would import TensorFlow on JAX too.
    """
    random.seed(0)
    np.random.seed(0)


def network(inputs, outputs, *, stack=None):
    """Returns a small network whose weights are always the same."""
    fix_seeds()
    shape = (inputs,) if stack is None else (inputs, stack)
    layers = [keras.layers.Flatten(), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(outputs)]
    return keras.Sequential([keras.Input(shape), *layers])


def make(env="CartPole-v1", model=None, **settings):
    """Returns a trainer whose epochs have 60 steps, and whose replay overwrites its oldest rows soon."""
    settings = {
        "num_envs": 4,
        "batch_size": 8,
        "learning_starts": 40,
        "report_every": 60,
        "updates_per_call": 4,
        "replay": Replay(160, sampler=samplers.Prioritized()),
        **settings,
    }
    return DQNTrainer(env, network(4, 2) if model is None else model, **settings)


class SaveAt(callbacks.Callback):
    """Saves when the epoch that ends at `steps`, or the episode of that number, has ended."""

    def __init__(self, path, *, steps=None, episode=None, **options):
        super().__init__()
        self.path = path
        self.at_steps = steps
        self.at_episode = episode
        self.options = options
        self.saved_at = None

    def on_epoch_end(self, epoch, logs=None):
        if self.trainer.steps == self.at_steps:
            self._save()

    def on_episode_end(self, episode, logs=None):
        if episode == self.at_episode:
            self._save()

    def _save(self):
        assert self.saved_at is None
        self.trainer.save(self.path, **self.options)
        self.saved_at = self.trainer.steps


def state_of(trainer):
    """Returns everything that a run consists of, by name."""
    trainer.actor.flush()
    actor, learner = trainer.actor, trainer.learner
    groups = {
        "trained": learner.trained(),
        "model": learner.model_variables,
        "optimizer": learner.optimizer.variables,
        "target": learner.target_variables,
        "average": learner.average_variables,
        "replay": trainer.replay.variables,
    }
    state = {}
    for group, variables in groups.items():
        for i, variable in enumerate(variables):
            if isinstance(variable, backend.HostRows):  # as the programs that are still running will leave it
                rows = np.arange(variable.shape[0], dtype="int32")
                values = ops.convert_to_numpy(backend.read_rows(variable, rows))
            else:
                values = ops.convert_to_numpy(getattr(variable, "value", variable))
            if group == "replay" and values.shape[:1] == (trainer.replay.storage.bin + 1,):
                values = values[:-1]  # the last place takes what pads a chunk, and nothing reads it
            state[f"{group} {i}"] = values
    state |= {f"history {name}": values for name, values in trainer.history.items() if name not in CLOCK}
    state |= {f"random {name}": generator.bit_generator.state for name, generator in trainer.random.items()}
    state |= {"steps": trainer.steps, "updates": trainer.updates, "episodes": trainer.episodes}
    state |= {"evaluations": trainer.evaluations, "environments": actor.environments.state()}
    state |= {"actor": [actor.observation, actor.stacked, actor.count, actor.returns, actor.lengths]}
    return state


def assert_same(one, other):
    """Asserts that two states, or trainers, are equal bit for bit."""
    one, other = (x if isinstance(x, dict) else state_of(x) for x in (one, other))
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_equal(other[name], one[name], err_msg=name)
