"""Trains a convolutional network to play Ms. Pacman from the screen: films it before and after, evaluates it, saves it,
and plots how it learns.

Needs the extra `atari` (`pip install -e ".[atari]"`), and for a million steps better a GPU.

python examples/cnn/dqn_train.py
python examples/cnn/dqn_train.py --steps 5_000_000 --replay 500_000
python examples/cnn/dqn_train.py --steps 5_000_000 --replay 500_000 --resume  # after Ctrl-C or a crash
"""

import argparse
import os
import pathlib
import shlex
import sys

# Convolutions on a CPU: TensorFlow leaves its faster ones off on some processors, and asks when it is imported.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras

from sota_dqn import (
    Atari,
    DQNInference,
    DQNTrainer,
    Replay,
    callbacks,
    plots,
    policies,
    preprocessing,
    samplers,
    targets,
)
from sota_dqn.schedules import linear

GAME = Atari("ALE/MsPacman-v5")
# From the screens [E, 210, 160, 3] to what is stored, [E, 84, 84]. Below the maze are only lives and score. A function
# of your own goes into the list like these.
PREPROCESS = [preprocessing.crop(bottom=38), preprocessing.grayscale, preprocessing.resize(84, 84)]
FRAME_STACK = 4


def build_model(num_actions):
    """Returns the network of Mnih et al. 2015, from four frames to one value per action."""
    model = keras.Sequential(
        [
            keras.Input((84, 84, FRAME_STACK), dtype="uint8"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(32, 8, strides=4, activation="relu"),
            keras.layers.Conv2D(64, 4, strides=2, activation="relu"),
            keras.layers.Conv2D(64, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(512, activation="relu"),
            keras.layers.Dense(num_actions),
        ]
    )
    # After Hessel et al. 2018; their learning rate, 6.25e-5, is raised for a run that is shorter than theirs.
    optimizer = keras.optimizers.Adam(1e-4, epsilon=1.5e-4, global_clipnorm=10.0)
    model.compile(optimizer=optimizer, loss=keras.losses.Huber())
    return model


def make_trainer(model, options):
    """Returns a new trainer whose schedules fit the length of the run."""
    return DQNTrainer(
        GAME,
        model,
        num_envs=options.envs,
        preprocess=PREPROCESS,
        frame_stack=FRAME_STACK,
        replay=Replay(options.replay, sampler=samplers.Prioritized(0.5, linear(0.4, 1.0, steps=options.steps))),
        policy=policies.EpsilonGreedy(linear(1.0, 0.01, steps=max(1, options.steps // 10))),
        target=targets.double,
        n_step=3,
        bounds=None,  # which would take three more passes of the network in every update
        batch_size=32,
        updates_per_step=0.25,
        target_update=2_000,  # updates, which take 8,000 steps
        learning_starts=max(options.replay // 20, 5 * options.envs, 32),
        report_every=min(10_000, options.evaluate_every),
        seed=options.seed,
    )


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, text in (
        ("steps", 1_000_000, "environment steps in all, with those made before --resume"),
        ("envs", 16, "games played side by side"),
        ("replay", 100_000, "steps in the replay; each takes 7 kB of the device's memory and of the checkpoint"),
        ("seed", 0, "from which all chance is made"),
        ("evaluate-every", 50_000, "environment steps between two evaluations"),
        ("episodes", 10, "games in an evaluation"),
        ("epsilon", 0.01, "probability of a random action in evaluations and films"),
        ("film-steps", 600, "environment steps of a film, at most; 600 take 40 seconds"),
        ("run", pathlib.Path("runs/MsPacman"), "directory of the run"),
    ):
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"{text} (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the run's directory")
    options = parser.parse_args()
    if min(options.steps, options.envs, options.replay, options.evaluate_every, options.episodes) < 1:
        parser.error("Numbers of steps, games and episodes must be at least 1.")
    if options.resume and not (options.run / "config.json").exists():
        parser.error(f"{options.run} holds no run to go on with.")
    if not options.resume and (options.run / "config.json").exists():
        parser.error(f"{options.run} holds a run already: go on by --resume, or begin another by --run DIRECTORY.")
    return options


def main():
    options = parse_options()
    run = options.run
    playing = {"env": GAME, "preprocess": PREPROCESS, "frame_stack": FRAME_STACK}
    film = {"every": 2, "max_steps": options.film_steps}
    print(f"Scores of evaluations: epsilon {options.epsilon:g}, {options.episodes} whole games; {GAME.protocol}.")
    if options.resume:
        trainer = DQNTrainer.load(run, preprocess=PREPROCESS)
        print(f"Going on from {run} after {trainer.steps:,} steps, with the settings that it began with.")
    else:
        keras.utils.set_random_seed(options.seed)
        model = build_model(num_actions=int(GAME().action_space.n))
        trainer = make_trainer(model, options)
        score = DQNInference(model, **playing, epsilon=1).record(run / "random.gif", **film)
        print(f"A random agent scores {score:,.0f} in its first {options.film_steps} steps: {run / 'random.gif'}")
        plots.model_diagram(model, run / "model.png")
        trainer.save(run, replay=False)  # from here on --resume finds a run

    evaluation = callbacks.Evaluation(
        min(options.evaluate_every, options.steps),
        episodes=options.episodes,
        epsilon=options.epsilon,  # a greedy agent may wait for ever
        best_model=run / "best.keras",
    )
    curve = callbacks.LearningCurve(run / "learning-curve.png", title="Ms. Pacman")
    saving = callbacks.Checkpoint(run, save_every=50_000)  # with the whole replay
    log = callbacks.RunLog(run)  # for python -m sota_dqn.plot
    try:
        if trainer.steps < options.steps:
            trainer.train(options.steps - trainer.steps, callbacks=[evaluation, curve, saving, log])
    except KeyboardInterrupt:
        command = shlex.join(sys.argv + ["--resume"] * (not options.resume))
        print(f"\nStopped after {trainer.steps:,} steps. To go on from the last checkpoint: python {command}")
        return

    best = DQNInference(run / "best.keras", **playing, epsilon=options.epsilon)
    result = best.evaluate(options.episodes)
    score = f"{result['return_mean']:,.1f} +- {result['return_std']:,.1f}"
    print(f"{trainer.steps:,} steps in all. The best model scores {score} ({result['protocol']}).")
    score = best.record(run / "trained.gif", **film)
    print(f"It scores {score:,.0f} in its first {options.film_steps} steps: {run / 'trained.gif'}")
    print(f"Everything is in {run}: the films, learning-curve.png, model.png, best.keras and a checkpoint.")
    print(f"Next: python examples/cnn/dqn_inference.py {run / 'best.keras'}")


if __name__ == "__main__":
    main()
