"""A trial: one run with other settings, on a task of classic control or a game of MinAtar. Prints its evaluations.

`python -m benchmarks.trial --task LunarLander-v3 --seed 1 --settings "n_step=1, target=targets.maximum"`
`python -m benchmarks.trial --task freeway --settings "n_step=schedules.linear(3, 1, steps=20_000)" --cap 200000`
"""

import argparse
import random

import keras

import sota_dqn
from benchmarks import learning, minatar_run
from benchmarks.process import seconds_since_start
from benchmarks.tasks import EPISODES, TASKS, area_under_curve, passed
from examples.minatar.games import GAMES, Game
from sota_dqn import DQNTrainer, callbacks

GAME_STEPS = 500_000  # unless told otherwise


def settings_of(text):
    """Returns the dict of keyword arguments written as in Python, with the names of `sota_dqn` and `keras`."""
    return eval(f"dict({text})", {**vars(sota_dqn), "keras": keras})


def describe(evaluations, threshold):
    """Returns in words the area under the curve; the share of the evaluations at the `threshold`, of those from the
    first one there on; and after how many steps the task was solved."""
    there = [evaluation.return_mean >= threshold for evaluation in evaluations]
    share = sum(there) / len(there[there.index(True) :]) if any(there) else 0.0
    solved = passed(evaluations, threshold)
    end = f"solved after {solved.steps:,} steps" if solved else "not solved"
    return f"area {area_under_curve(evaluations):.1f}, {share:.0%} at {threshold:g}, {end}"


class Progress(learning.Evaluations):
    """Keeps the evaluations and prints each."""

    def on_epoch_end(self, epoch, logs=None):
        before = len(self.found)
        super().on_epoch_end(epoch, logs)
        for evaluation in self.found[before:]:
            print(f"{evaluation.steps:>9,} steps  {evaluation.return_mean:8.1f}", flush=True)


def train(task, *, seed, cap=None, settings="", model="", adam=""):
    """Trains on `task` with the library's defaults, but for what is said.

    Args:
        task: A name in `tasks.TASKS`, or a game of MinAtar.
        seed: Of the weights and of the run.
        cap: Environment steps; None for the benchmark's.
        settings: Those of `DQNTrainer` that are not to be the default, as in Python.
        model: Those of `learning.build_model`, for a task of classic control.
        adam: Those of `keras.optimizers.Adam`.

    Returns:
        The `tasks.Evaluation`s.
    """
    random.seed(seed)  # Keras's initializers draw from it, as in `learning.train`
    if task in TASKS:
        env, every, cap = TASKS[task].environment, TASKS[task].evaluate_every, cap or TASKS[task].cap
        network = learning.build_model(env, **settings_of(model))
    else:
        env, every, cap = Game(task), minatar_run.EVALUATE_EVERY, cap or GAME_STEPS
        network = minatar_run.build_model(env, **settings_of(model))
    if adam:
        optimizer = keras.optimizers.Adam(**{"learning_rate": 1e-3, "global_clipnorm": 10.0} | settings_of(adam))
        network.compile(optimizer=optimizer, loss="mse")
    trainer = DQNTrainer(env, network, seed=seed, **settings_of(settings))
    progress = Progress(every)
    trainer.train(steps=cap, callbacks=[callbacks.Evaluation(every, episodes=EPISODES), progress], verbose=0)
    return progress.found


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=[*TASKS, *GAMES], required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cap", type=int, help="environment steps; default: the benchmark's, 500,000 for a game")
    parser.add_argument("--settings", default="", help="arguments of DQNTrainer, as in Python")
    parser.add_argument("--model", default="", help="arguments of the benchmark's build_model, such as dueling=True")
    parser.add_argument("--adam", default="", help="arguments of keras.optimizers.Adam, such as epsilon=1e-3")
    options = parser.parse_args()
    evaluations = train(**vars(options))
    if options.task in TASKS:
        print(describe(evaluations, TASKS[options.task].threshold))
    print(f"{seconds_since_start():.0f} s")


if __name__ == "__main__":
    main()
