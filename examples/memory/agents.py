"""What learns the two tasks: a model with or without memory, and the settings of its trainer.

The example and `benchmarks.memory` take them from here. To add a task, add its numbers to `STEPS` and `settings`.
"""

import pathlib

import keras

from sota_dqn import Sequences, policies, schedules, targets

__all__ = ["MEMORIES", "STEPS", "THRESHOLD", "build_model", "run_of", "settings"]

MEMORIES = ("lstm", "none")
STEPS = {"tmaze": 20_000, "cartpole": 200_000}  # environment steps of a run, at most
THRESHOLD = {"tmaze": 0.95, "cartpole": 475.0}  # mean return that counts as solved


def build_model(env, memory):
    """Returns a model of two hidden layers of 64, of which the second remembers or not.

    Args:
        env: An environment.
        memory: `"lstm"` for a model `[B, T, *O]` to `[B, T, A]`, `"none"` for one from `[B, *O]` to `[B, A]`.
    """
    recurrent = memory == "lstm"
    model = keras.Sequential(
        [
            keras.Input((*(None,) * recurrent, *env.observation_space.shape)),  # time is left open
            keras.layers.Dense(64, activation="relu"),
            keras.layers.LSTM(64, return_sequences=True) if recurrent else keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(int(env.action_space.n)),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(5e-4, global_clipnorm=10.0), loss="mse")
    return model


def run_of(task, memory, *, corridor):
    """Returns the directory of a run where none is given, one for each corridor of the T-maze."""
    return pathlib.Path("runs", f"tmaze-{corridor}-{memory}" if task == "tmaze" else f"{task}-{memory}")


def settings(task, memory, *, corridor=10):
    """Returns the arguments of `DQNTrainer` that differ from its defaults: a dict.

    Args:
        task: `"tmaze"` or `"cartpole"`.
        memory: `"lstm"` or `"none"`.
        corridor: Cells of the T-maze, over which the cue has to be remembered; the other task has none.
    """
    length = corridor + 10 if task == "tmaze" else 20  # a gradient reaches from the junction to the cue
    exploring = {"tmaze": 10_000, "cartpole": 20_000}  # environment steps
    return {
        **({"sequences": Sequences(length, burn_in=5)} if memory == "lstm" else {}),
        "policy": policies.EpsilonGreedy(schedules.linear(1.0, 0.05, steps=exploring[task])),
        "discount": {"tmaze": 0.98, "cartpole": 0.99}[task],
        "target": targets.double,
        "n_step": 5,
        "bounds": None,
        "batch_size": 32,
        "updates_per_step": 0.25,
        "report_every": {"tmaze": 1_000, "cartpole": 2_000}[task],
    }
