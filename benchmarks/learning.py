"""One training run of sota_dqn on one task, in a process of its own. Prints one JSON line.

`benchmarks.classic_control` and `benchmarks.ablation` start it; by hand:
`python -m benchmarks.learning --task CartPole-v1 --seed 0 --cap 100000 --stop`.
"""

import argparse
import random

import gymnasium
import keras

from benchmarks.process import report, seconds_since_start
from benchmarks.tasks import CONSECUTIVE, EPISODES, TASKS, Evaluation, add_arguments
from benchmarks.variants import DEFAULTS, FACTORS
from sota_dqn import DQNTrainer, callbacks, layers

PACKAGES = ("keras", "gymnasium", "numpy")
UNITS = 128


class Evaluations(callbacks.Callback):
    """Keeps the outcome of each evaluation with the clock.

    Args:
        evaluate_every: That of the `callbacks.Evaluation` whose logs it reads, in environment steps.
    """

    def __init__(self, evaluate_every):
        super().__init__()
        self.evaluate_every = evaluate_every
        self.found = []

    def on_epoch_end(self, epoch, logs=None):
        steps = self.trainer.steps
        before = self.found[-1].steps if self.found else 0
        if steps // self.evaluate_every > before // self.evaluate_every:
            self.found.append(Evaluation(steps, round(seconds_since_start(), 3), logs["eval_return"]))


def build_model(environment, *, layer_norm=True, dueling=False, learning_rate=None, loss=None):
    """Returns the network of the benchmark: two hidden layers of 128, each normalized, then ReLU.

    Args:
        environment: A Gymnasium id.
        layer_norm: Whether the hidden layers are normalized.
        dueling: Whether the linear output is replaced by a dueling head, with a hidden layer of 128 in each stream.
        learning_rate: Of Adam; None leaves the model to the trainer, which compiles it.
        loss: The name of a Keras loss, with `learning_rate`.
    """
    env = gymnasium.make(environment)
    num_actions = int(env.action_space.n)
    model = keras.Sequential([keras.Input(env.observation_space.shape)])
    env.close()
    for _ in range(2):
        model.add(keras.layers.Dense(UNITS))
        if layer_norm:
            model.add(keras.layers.LayerNormalization())
        model.add(keras.layers.Activation("relu"))
    model.add(layers.Dueling(num_actions, units=UNITS) if dueling else keras.layers.Dense(num_actions))
    if learning_rate is not None:
        model.compile(optimizer=keras.optimizers.Adam(learning_rate, global_clipnorm=10.0), loss=loss)
    return model


def train(task, *, seed, cap, factor=None, level=None, stop=False):
    """Trains on `task` with the library's defaults.

    Args:
        task: A `Task`.
        seed: Of the weights and of the run.
        cap: Environment steps.
        factor: A name in `variants.FACTORS` that is set to `level`; None for the defaults alone.
        level: One of its levels.
        stop: Whether to stop once the task is solved.

    Returns:
        The trainer and the `Evaluation`s.
    """
    model_settings, settings = ({}, {}) if factor is None else FACTORS[factor][level]()
    random.seed(seed)  # Keras's initializers draw from it; `keras.utils.set_random_seed` imports TensorFlow, on JAX too
    trainer = DQNTrainer(task.environment, build_model(task.environment, **model_settings), seed=seed, **settings)
    evaluation = callbacks.Evaluation(
        task.evaluate_every, episodes=EPISODES, stop_at=task.threshold if stop else None, consecutive=CONSECUTIVE
    )
    evaluations = Evaluations(task.evaluate_every)
    trainer.train(steps=cap, callbacks=[evaluation, evaluations], verbose=0)
    return trainer, evaluations.found


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--factor", choices=DEFAULTS, help="what is changed; default: nothing")
    parser.add_argument("--level", help="to what")
    parser.add_argument("--stop", action="store_true", help="stop once the task is solved")
    options = parser.parse_args()
    trainer, evaluations = train(
        TASKS[options.task],
        seed=options.seed,
        cap=options.cap,
        factor=options.factor,
        level=options.level,
        stop=options.stop,
    )
    report(
        {"evaluations": evaluations, "steps": trainer.steps, "updates": trainer.updates},
        packages=(*PACKAGES, keras.config.backend()),
    )


if __name__ == "__main__":
    main()
