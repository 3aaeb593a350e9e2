"""Learners on rows that are written by hand, without an environment."""

import keras
import numpy as np

from sota_dqn import losses, targets
from sota_dqn.dqn import DQNLearner
from sota_dqn.returns import longest
from sota_dqn.types import Steps

STREAMS, ROWS, CAPACITY = 2, 24, 64
BATCH, UPDATES = 6, 4


def linear_model(kernel):
    """Returns a model `q = observation @ kernel`."""
    model = keras.Sequential([keras.Input((len(kernel),)), keras.layers.Dense(len(kernel[0]), use_bias=False)])
    model.set_weights([np.float32(kernel)])
    return model


class Masked(keras.layers.Layer):
    """Puts `value` in the place of the last action's, and of every action's where a feature is beyond `limit`.

    So does a model that knows which actions are legal: in a state that terminates an episode there may be none.
    """

    def __init__(self, value, *, feature=0, limit=5.0):
        super().__init__()
        self.value = value
        self.feature = feature
        self.limit = limit

    def call(self, values, observation):
        over = keras.ops.abs(observation[..., self.feature : self.feature + 1]) > self.limit
        last = keras.ops.arange(values.shape[-1]) == values.shape[-1] - 1
        return keras.ops.where(keras.ops.logical_or(over, last), self.value, values)


def make_learner(model, replay, *, optimizer=None, observation=(3,), rows=None, returns=None, **changes):
    """Returns a learner whose replay holds `rows`, `Steps` `[E, T, ...]`, and the returns to go `[E, T]`, if any."""
    settings = {
        "target": targets.maximum,
        "loss": losses.huber,
        "n_step": 1,
        "discount": 0.9,
        "rescaling": None,
        "bounds": None,
        "penalty": None,
        "target_update": None,
        "batch_size": BATCH,
        "updates_per_call": UPDATES,
        "random": np.random.default_rng(1),
        **changes,
    }
    bounds = settings["bounds"]
    after = max(longest(settings["n_step"]), bounds.horizons + 1 if bounds else 0)
    streams, times = rows.reward.shape
    replay.build(
        streams,
        observation_shape=observation,
        observation_dtype="float32",
        after=after,
        before=bounds.horizons + 1 if bounds and bounds.upper else 0,
        return_to_go=returns is not None,
    )
    learner = DQNLearner(model, optimizer or keras.optimizers.SGD(0.1), replay, **settings)
    stream, time = (x.ravel() for x in np.indices((streams, times)))
    places = replay.storage.places(stream, time)
    flat = Steps(*(np.reshape(field, (-1, *field.shape[2:])) for field in rows))
    learner.add(places, flat, np.full(streams, times, "int32"))
    if returns is not None:
        learner.set_returns(places, returns.ravel().astype("float32"))
    return learner


def random_rows(random, *, features=3, num_actions=3):
    """Rows of two streams in which episodes terminate and are cut off by time limits."""
    shape = (STREAMS, ROWS)
    terminated, valid = np.zeros(shape, "uint8"), np.ones(shape, "uint8")
    terminated[0, 5] = 1
    terminated[0, 14] = terminated[1, 3] = 1
    for stream, final in ((0, 6), (0, 15), (1, 4), (1, 9), (1, 17)):  # those of stream 1 at 9 and 17 are time limits
        valid[stream, final] = 0
    return Steps(
        observation=random.normal(size=(*shape, features)).astype("float32"),
        action=random.integers(num_actions, size=shape, dtype="int32"),
        reward=random.normal(size=shape).astype("float32"),
        terminated=terminated,
        valid=valid,
    )


def one_row(*, reward=1.0, terminated=0, final=False):
    """A window of one step: features 1 and 2, one action of two, and a second row that it may bootstrap from."""
    valid = [1, 0 if final else 1]
    return Steps(
        observation=np.float32([[[1.0], [2.0]]]),
        action=np.int32([[0, 1]]),
        reward=np.float32([[reward, 0.0]]),
        terminated=np.uint8([[terminated, 0]]),
        valid=np.uint8([valid]),
    )
