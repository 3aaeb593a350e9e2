"""Deep Q-learning for Keras 3, on TensorFlow and on JAX."""

from sota_dqn import (
    backend,
    callbacks,
    layers,
    losses,
    plots,
    policies,
    preprocessing,
    returns,
    samplers,
    schedules,
    targets,
)
from sota_dqn.actor_pool import Actors
from sota_dqn.atari import Atari
from sota_dqn.dqn import DQNTrainer
from sota_dqn.inference import DQNInference
from sota_dqn.one_step import OneStepTrainer
from sota_dqn.ray_actors import RayActors
from sota_dqn.replay import Replay
from sota_dqn.sequences import Sequences
from sota_dqn.version import __version__

__all__ = [
    "Actors",
    "Atari",
    "DQNInference",
    "DQNTrainer",
    "RayActors",
    "OneStepTrainer",
    "Replay",
    "Sequences",
    "__version__",
    "backend",
    "callbacks",
    "layers",
    "losses",
    "plots",
    "policies",
    "preprocessing",
    "returns",
    "samplers",
    "schedules",
    "targets",
]
