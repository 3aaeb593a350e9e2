r"""Trains a convolutional network to play Breakout from the emulator's own grey-scale pictures: films it before and
after, evaluates it, saves it, and plots how it learns.

Needs the extra `atari` (`pip install -e ".[atari]"`), and for a million steps better a GPU.

python examples/breakout/dqn_train.py
python examples/breakout/dqn_train.py --steps 5_000_000 --replay 500_000
python examples/breakout/dqn_train.py --steps 5_000_000 --replay 500_000 --resume  # after Ctrl-C or a crash

On a GPU large batches cost little: many games, and each step trained on 16 times instead of 8. Seeds are given rarely
there, since all games wait while one is loaded anew for a seed:

python examples/breakout/dqn_train.py --steps 6_000_000 --envs 128 --batch-size 256 --updates-per-step 0.0625 \
    --replay 1_000_000 --no-save-replay --sticky 0 --seed-every 50_000 --evaluate-every 1_000_000 --save-every 2_000_000

A single picture does not tell where the ball flies: a stack of four does, or a memory. All four runs, and their plot:

python examples/breakout/dqn_train.py --memory none --stack 4
python examples/breakout/dqn_train.py --memory none --stack 1
python examples/breakout/dqn_train.py --memory lstm --stack 4
python examples/breakout/dqn_train.py --memory lstm --stack 1
python -m sota_dqn.plot "none, 4=runs/Breakout-none-4" "none, 1=runs/Breakout-none-1" \
    "LSTM, 4=runs/Breakout-lstm-4" "LSTM, 1=runs/Breakout-lstm-1" --out runs/breakout.png
"""

import argparse
import os
import pathlib
import shlex
import sys

# Convolutions on a CPU: TensorFlow leaves its faster ones off on some processors, and asks when it is imported.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras

from sota_dqn import Atari, DQNInference, DQNTrainer, Replay, Sequences, callbacks, plots, policies, samplers, targets
from sota_dqn.schedules import linear


def make_game(options):
    """Returns the game, whose pictures, [E, 84, 84], are made where it is emulated."""
    return Atari(
        "ALE/Breakout-v5",
        repeat_action_probability=options.sticky,  # now and then the action before is taken once more
        life_loss=True,  # learning takes a lost life for the end, scores do not
        use_fire_reset=True,  # FIRE serves the first ball; the others are the agent's to serve
        seed_every=options.seed_every,
    )


def build_model(num_actions, *, memory, stack, learning_rate=1e-4):
    """Returns the network of Mnih et al. 2015, from `stack` frames to one value per action.

    With memory it maps sequences of them, `[B, T, 84, 84, stack]`, to `[B, T, A]`, and an LSTM stands for its hidden
    layer (Hausknecht and Stone 2015).
    """
    picture = keras.Input((84, 84, stack), dtype="uint8")
    features = [
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(32, 8, strides=4, activation="relu"),
        keras.layers.Conv2D(64, 4, strides=2, activation="relu"),
        keras.layers.Conv2D(64, 3, activation="relu"),
        keras.layers.Flatten(),
    ]
    if memory == "lstm":
        layers = [
            keras.Input((None, 84, 84, stack), dtype="uint8"),
            keras.layers.TimeDistributed(keras.Sequential([picture, *features])),
            keras.layers.LSTM(512, return_sequences=True),
        ]
    else:
        layers = [picture, *features, keras.layers.Dense(512, activation="relu")]
    model = keras.Sequential([*layers, keras.layers.Dense(num_actions)])
    # After Hessel et al. 2018; their learning rate, 6.25e-5, is raised for a run that is shorter than theirs.
    optimizer = keras.optimizers.Adam(learning_rate, epsilon=1.5e-4, global_clipnorm=10.0)
    model.compile(optimizer=optimizer, loss=keras.losses.Huber())
    return model


def make_trainer(model, options):
    """Returns a new trainer whose schedules fit the length of the run.

    With memory an update trains 16 sequences of 20 steps instead of 32 single ones, so that there is one for ten: every
    step is trained on as often.
    """
    sparse, rows = (10, 40) if options.memory == "lstm" else (1, 5)  # rows of each game that make one to learn from
    updates_per_step = options.updates_per_step / sparse
    return DQNTrainer(
        make_game(options),
        model,
        num_envs=options.envs,
        frame_stack=options.stack,
        sequences=Sequences(20, burn_in=5) if options.memory == "lstm" else None,
        replay=Replay(options.replay, sampler=samplers.Prioritized(0.5, linear(0.4, 1.0, steps=options.steps))),
        policy=policies.EpsilonGreedy(linear(1.0, 0.01, steps=max(1, options.steps // 10))),
        target=targets.double,
        n_step=3,
        bounds=None,  # which would take three more passes of the network in every update
        batch_size=options.batch_size // (2 if options.memory == "lstm" else 1),
        updates_per_step=updates_per_step,
        target_update=max(1, round(8_000 * updates_per_step)),  # counted in updates, which take 8,000 steps
        learning_starts=max(options.replay // 20, rows * options.envs, options.batch_size),
        report_every=min(10_000, options.evaluate_every),
        seed=options.seed,
    )


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, text in (
        ("steps", 1_000_000, "environment steps in all, with those made before --resume"),
        ("envs", 16, "games played side by side"),
        ("replay", 100_000, "steps in the replay; each takes 7 kB of the device's memory and of the checkpoint"),
        ("batch-size", 32, "steps in an update"),
        ("updates-per-step", 0.25, "updates per environment step"),
        ("learning-rate", 1e-4, "of Adam"),
        ("sticky", 0.25, "probability that the action before is taken once more; a resumed run keeps its own"),
        ("seed-every", 5_000, "steps of one game, at least, between two seeds; a resumed run plays them again"),
        ("save-every", 50_000, "environment steps between two checkpoints"),
        ("seed", 0, "from which all chance is made"),
        ("evaluate-every", 50_000, "environment steps between two evaluations"),
        ("episodes", 10, "games in an evaluation"),
        ("epsilon", 0.01, "probability of a random action in evaluations and films"),
        ("film-steps", 600, "environment steps of a film, at most; 600 take 40 seconds"),
    ):
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"{text} (default: %(default)s)")
    parser.add_argument("--memory", choices=("lstm", "none"), default="none", help="default: %(default)s")
    parser.add_argument(
        "--stack", type=int, choices=(1, 4), default=4, help="frames seen at once (default: %(default)s)"
    )
    parser.add_argument(
        "--save-replay",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether checkpoints hold the replay; without, they are small, and --resume fills a new one first",
    )
    parser.add_argument("--run", type=pathlib.Path, help="directory of the run (default: runs/Breakout-MEMORY-STACK)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the run's directory")
    options = parser.parse_args()
    options.run = options.run or pathlib.Path("runs") / f"Breakout-{options.memory}-{options.stack}"
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
    game = make_game(options)
    playing = {"env": game, "frame_stack": options.stack}
    film = {"every": 2, "max_steps": options.film_steps}
    if options.resume:
        trainer = DQNTrainer.load(run)
        playing = {"env": trainer.recipe[1]["env"], "frame_stack": trainer.frame_stack}  # that the run began with
        print(f"Going on from {run} after {trainer.steps:,} steps, with the settings that it began with.")
    else:
        keras.utils.set_random_seed(options.seed)
        model = build_model(
            int(game().action_space.n), memory=options.memory, stack=options.stack, learning_rate=options.learning_rate
        )
        trainer = make_trainer(model, options)
        score = DQNInference(model, **playing, epsilon=1).record(run / "random.gif", **film)
        print(f"A random agent scores {score:,.0f} in its first {options.film_steps} steps: {run / 'random.gif'}")
        plots.model_diagram(model, run / "model.png")
        trainer.save(run, replay=False)  # from here on --resume finds a run

    protocol = playing["env"].protocol
    print(f"Scores of evaluations: epsilon {options.epsilon:g}, {options.episodes} whole games; {protocol}.")
    evaluation = callbacks.Evaluation(
        min(options.evaluate_every, options.steps),
        episodes=options.episodes,
        epsilon=options.epsilon,  # a greedy agent may never serve the ball
        best_model=run / "best.keras",
    )
    curve = callbacks.LearningCurve(run / "learning-curve.png", title="Breakout")
    saving = callbacks.Checkpoint(run, save_every=options.save_every, replay=options.save_replay)
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
    told = f"--stack {trainer.frame_stack} --sticky {playing['env'].settings['repeat_action_probability']:g}"
    print(f"Next: python examples/breakout/dqn_inference.py {told} {run / 'best.keras'}")


if __name__ == "__main__":
    main()
