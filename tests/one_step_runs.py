"""Small models, learners, segments and runs of asynchronous workers, and all that makes up the state of one."""

import keras
import numpy as np
from keras import ops

from sota_dqn import OneStepTrainer
from sota_dqn.one_step import METHODS, OneStepLearner
from sota_dqn.shared import Shared
from sota_dqn.workers import Segment

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
