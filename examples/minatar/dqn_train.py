"""Trains an agent on one of MinAtar's five games, small Atari games of 10 by 10 cells: films it before and after,
evaluates it, saves it, and plots how it learned. Needs `pip install -e ".[minatar]"`.

# Breakout, minutes on two CPU cores
python examples/minatar/dqn_train.py
python examples/minatar/dqn_train.py --game freeway --steps 1000000
"""

import argparse
import pathlib
import shlex
import sys

import keras
from games import GAMES, Game

from sota_dqn import DQNInference, DQNTrainer, Replay, callbacks, plots

FILM = 500  # steps of a film at most: a good agent plays for thousands


def build_model(game):
    """Returns a small convolutional network from observations to one value per action."""
    env = game()
    return keras.Sequential(
        [
            keras.Input(env.observation_space.shape),  # bool in the replay, float32 from here on
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(int(env.action_space.n)),
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", choices=GAMES, default="breakout", help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=500_000, help="environment steps in all (default: %(default)s)")
    parser.add_argument("--envs", type=int, default=16, help="games played side by side (default: %(default)s)")
    parser.add_argument("--replay", type=int, default=100_000, help="steps in the replay (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="from which all chance is made (default: %(default)s)")
    parser.add_argument("--run", type=pathlib.Path, help="directory of the run (default: runs/minatar-GAME)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the run's directory")
    options = parser.parse_args()
    run = options.run or pathlib.Path("runs") / f"minatar-{options.game}"
    if options.steps < 1:
        parser.error("--steps must be at least 1.")
    if options.resume and not (run / "config.json").exists():
        parser.error(f"{run} holds no run to go on with.")
    if not options.resume and (run / "config.json").exists():
        parser.error(f"{run} holds a run already: go on by --resume, or begin another by --run DIRECTORY.")
    game = Game(options.game)

    if options.resume:
        trainer = DQNTrainer.load(run, env=game)
        print(f"Going on from {run} after {trainer.steps:,} steps, with the settings that it began with.")
    else:
        keras.utils.set_random_seed(options.seed)
        model = build_model(game)
        trainer = DQNTrainer(game, model, num_envs=options.envs, replay=Replay(options.replay), seed=options.seed)
        score = DQNInference(model, env=game, epsilon=1).record(run / "random.gif", max_steps=FILM)
        print(f"A random agent scores {score:.0f}: {run / 'random.gif'}")
        plots.model_diagram(model, run / "model.png")
        trainer.save(run, replay=False)  # from here on --resume finds a run

    every = min(20_000, options.steps)
    evaluation = callbacks.Evaluation(every, best_model=run / "best.keras")
    curve = callbacks.LearningCurve(run / "learning-curve.png")
    try:
        if trainer.steps < options.steps:
            saving = callbacks.Checkpoint(run, save_every=every)
            trainer.train(options.steps - trainer.steps, callbacks=[evaluation, curve, saving])
    except KeyboardInterrupt:
        command = shlex.join(sys.argv + ["--resume"] * (not options.resume))
        print(f"\nStopped after {trainer.steps:,} steps. To go on from the last checkpoint: python {command}")
        return

    best = DQNInference(run / "best.keras", env=game)
    result = best.evaluate(episodes=20)
    score = f"{result['return_mean']:.1f} +- {result['return_std']:.1f}"
    print(f"{trainer.steps:,} steps in all. The best model scores {score} ({result['protocol']}).")
    best.record(run / "trained.gif", max_steps=FILM)
    print(f"Everything is in {run}: the films, learning-curve.png, model.png, best.keras and a checkpoint.")
    print(f"Next: python examples/minatar/dqn_inference.py --game {options.game} {run / 'best.keras'}")


if __name__ == "__main__":
    main()
