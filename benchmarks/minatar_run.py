"""One training run of sota_dqn on one of MinAtar's games, in a process of its own. Prints one JSON line.

`benchmarks.minatar` starts it; by hand: `python -m benchmarks.minatar_run --game breakout --seed 0 --steps 100000`.
"""

import argparse
import random

import keras

from benchmarks.learning import PACKAGES, Evaluations
from benchmarks.process import report
from benchmarks.tasks import EPISODES
from examples.minatar.games import GAMES, Game
from sota_dqn import DQNTrainer, callbacks, schedules

EVALUATE_EVERY = 20_000  # environment steps


def build_model(game):
    """Returns the network of the benchmark: 16 filters of 3 by 3, a hidden layer of 128, both with ReLU."""
    env = game()
    return keras.Sequential(
        [
            keras.Input(env.observation_space.shape),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(int(env.action_space.n)),
        ]
    )


def train(game, *, seed, steps, evaluate_every=EVALUATE_EVERY, **settings):
    """Trains on `game` with the library's defaults.

    Args:
        game: A `Game`.
        seed: Of the weights and of the run.
        steps: Environment steps.
        evaluate_every: Environment steps.
        **settings: What is not to be the default of `DQNTrainer`.

    Returns:
        The trainer and the `tasks.Evaluation`s.
    """
    random.seed(seed)  # Keras's initializers draw from it; `keras.utils.set_random_seed` imports TensorFlow, on JAX too
    trainer = DQNTrainer(game, build_model(game), seed=seed, **settings)
    evaluations = Evaluations(evaluate_every)
    evaluation = callbacks.Evaluation(evaluate_every, episodes=EPISODES)
    trainer.train(steps=steps, callbacks=[evaluation, evaluations], verbose=0)
    return trainer, evaluations.found


def n_step_of(text):
    """Returns the `n_step` of an argument: of `"3"` the number, of `"5-1/900"` a line from 5 to 1 in 900 steps."""
    first, _, rest = text.partition("-")
    final, _, steps = rest.partition("/")
    return schedules.linear(int(first), int(final), steps=int(steps)) if rest else int(first)


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--game", choices=GAMES, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True, help="environment steps")
    parser.add_argument("--n-step", type=n_step_of, help="in place of the default")
    options = parser.parse_args()
    game = Game(options.game)
    settings = {"n_step": options.n_step} if options.n_step else {}
    trainer, evaluations = train(game, seed=options.seed, steps=options.steps, **settings)
    report(
        {"protocol": game.protocol, "evaluations": evaluations, "updates": trainer.updates},
        packages=(*PACKAGES, "minatar", keras.config.backend()),
    )


if __name__ == "__main__":
    main()
