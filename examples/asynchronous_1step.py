"""Trains by asynchronous one-step Q-learning or SARSA: workers in parallel, each with a game of its own, and no replay.

The flags and their defaults are those of the system that this example succeeds; the games need the extra `atari`
(`pip install -e ".[atari]"`). What a preset changes is printed, and what else is given counts more than the preset.

python examples/asynchronous_1step.py --preset cartpole                   # minutes
python examples/asynchronous_1step.py --preset breakout --method sarsa    # hours
python examples/asynchronous_1step.py                                     # Breakout as it was: 80 million steps
python examples/asynchronous_1step.py --preset cartpole --resume          # after Ctrl-C or a crash
"""

import argparse
import os
import pathlib
import re
import shlex
import sys

import gymnasium
import keras

from sota_dqn import Atari, DQNInference, OneStepTrainer, backend, callbacks

FRAME_STACK = 4  # of pictures

SETTINGS = {  # name: (default, what it is)
    "game": ("Breakout-v0", "environment id; an Atari game's old id stands for that of ALE/...-v5"),
    "random_seed": (123, "from which all chance is made"),
    "parallel_agents": (8, "workers, each a thread with an environment of its own"),
    "global_max_steps": (80_000_000, "environment steps of all workers together, those before --resume included"),
    "local_max_steps": (5, "environment steps of a worker whose gradients are added up before they are applied"),
    "target_network_update": (40_000, "environment steps of all workers between two copies into the target network"),
    "frame_skip": (0, "frames that are skipped after each: an action lasts so many frames and one (Atari)"),
    "no_op_max": (0, "most actions without effect at the beginning of a game (Atari)"),
    "gamma": (0.99, "discount per environment step"),
    "epsilon_anneal": (4_000_000, "environment steps in which epsilon falls from 1 to each worker's final one"),
    "learning_rate": (1e-4, "of the optimizer"),
    "learning_rate_anneal": (0, "environment steps in which the learning rate falls to zero; 0 keeps it"),
    "rms_decay": (0.99, "of the mean of squared gradients, per update (rmsprop)"),
    "rms_epsilon": (0.1, "what is added to that mean (rmsprop)"),
    "evaluate_every": (0, "environment steps between two evaluations, which end a run that is good enough; 0: none"),
    "test_runs": (100, "games of an evaluation"),
    "test_epsilon": (0.0, "probability of a random action in evaluations and in the window"),
}
CHOICES = {
    "method": (["q", "sarsa"], "what a step's target bootstraps from: the best action, or the one taken next"),
    "optimizer": (["rmsprop", "adam", "sgd"], "its statistics are shared by all workers"),
}
SWITCHES = {
    "use_gpu": "compute on a GPU; without, on the CPU even where there is a GPU",
    "log": "keep the figures of every epoch in log.csv and run.json",
    "evaluate_model": "evaluate the trained model",
    "display": "show a game of the trained model in a window",
}
PRESETS = {
    "cartpole": {
        "game": "CartPole-v1",
        "global_max_steps": 800_000,
        "target_network_update": 2_000,
        "epsilon_anneal": 50_000,
        "learning_rate": 1e-3,
        "learning_rate_anneal": 800_000,
        "optimizer": "adam",
        "evaluate_every": 10_000,
        "evaluate_model": True,
        "test_runs": 20,
    },
    "breakout": {
        "frame_skip": 3,
        "no_op_max": 30,
        "global_max_steps": 2_000_000,
        "target_network_update": 10_000,
        "epsilon_anneal": 400_000,
        "learning_rate": 7e-4,
        "learning_rate_anneal": 2_000_000,
        "evaluate_every": 100_000,
        "evaluate_model": True,
        "test_runs": 20,
        "test_epsilon": 0.01,
    },
}


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, help="settings that go together")
    for name, (default, text) in SETTINGS.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"{text} (default: %(default)s)")
    for name, (choices, text) in CHOICES.items():
        parser.add_argument(f"--{name}", choices=choices, default=choices[0], help=f"{text} (default: %(default)s)")
    for name, text in SWITCHES.items():
        parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=False, help=text)
    parser.add_argument("--run", type=pathlib.Path, help="directory of the run (default: runs/1step-GAME-METHOD)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the run's directory")
    preset = PRESETS.get(parser.parse_known_args()[0].preset, {})
    parser.set_defaults(**preset)
    options = parser.parse_args()
    for name in preset:
        value = getattr(options, name)  # what is given counts more
        print(f"--{name if value is not False else f'no-{name}'}", *([] if isinstance(value, bool) else [value]))
    if options.run is None:
        options.run = pathlib.Path("runs", f"1step-{options.game.split('/')[-1]}-{options.method}")
    if not options.resume and (options.run / "config.json").exists():
        parser.error(f"{options.run} holds a run already: go on by --resume, or begin another by --run DIRECTORY.")
    return options


def make_game(options):
    """Returns what is played: an `Atari` game for the id of one, old or new, else the id."""
    match = re.fullmatch(r"(?:ALE/)?(\w+?)(?:Deterministic|NoFrameskip)?-v[045]", options.game)
    name = match and f"ALE/{match[1]}-v5"
    known = gymnasium.registry.get(options.game)  # games may be registered, as ale-py's, or not yet
    if name is None or (known is not None and "ale_py" not in str(known.entry_point)):
        return options.game
    game = Atari(name, frameskip=options.frame_skip + 1, noop_max=options.no_op_max)
    print(f"{options.game} is played as {name} with frame_skip {options.frame_skip}: {game.protocol}.")
    return game


def build_model(game):
    """Returns the network of Mnih et al. 2013 for pictures, and one of two normalized layers for all else."""
    env = game() if isinstance(game, Atari) else gymnasium.make(game)
    num_actions = int(env.action_space.n)
    if isinstance(game, Atari):
        layers = [
            keras.Input((84, 84, FRAME_STACK), dtype="uint8"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(16, 8, strides=4, activation="relu"),
            keras.layers.Conv2D(32, 4, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(256, activation="relu"),
        ]
    else:
        layers = [keras.Input(env.observation_space.shape)]
        for _ in range(2):
            layers += [keras.layers.Dense(128), keras.layers.LayerNormalization(), keras.layers.Activation("relu")]
    env.close()
    return keras.Sequential([*layers, keras.layers.Dense(num_actions)])


def make_optimizer(options):
    if options.optimizer == "rmsprop":
        return keras.optimizers.RMSprop(options.learning_rate, rho=options.rms_decay, epsilon=options.rms_epsilon)
    return {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}[options.optimizer](options.learning_rate)


def make_trainer(game, options):
    """Returns a new trainer."""
    keras.utils.set_random_seed(options.random_seed)
    model = build_model(game)
    model.compile(optimizer=make_optimizer(options), loss="mse")
    return OneStepTrainer(
        game,
        model,
        method=options.method,
        workers=options.parallel_agents,
        frame_stack=FRAME_STACK if isinstance(game, Atari) else None,
        local_max_steps=options.local_max_steps,
        target_network_update=options.target_network_update,
        discount=options.gamma,
        epsilon_anneal=options.epsilon_anneal,
        learning_rate_anneal=options.learning_rate_anneal or None,
        report_every=max(1, min(10_000, options.global_max_steps // 20)),
        seed=options.random_seed,
    )


def main():
    options = parse_options()
    if not options.use_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # read when the first array is made
        backend.single_threaded()  # the workers fill the cores
    elif not keras.distribution.list_devices("gpu"):
        sys.exit("There is no GPU that Keras's backend can use: leave --use_gpu out.")
    run = options.run
    game = make_game(options)
    if options.resume:
        trainer = OneStepTrainer.load(run)
        print(f"Going on from {run} after {trainer.steps:,} steps.")
    else:
        trainer = make_trainer(game, options)
        trainer.save(run)  # from here on --resume finds a run
    listeners = [callbacks.LearningCurve(run / "learning-curve.png"), callbacks.Checkpoint(run, save_every=100_000)]
    if options.evaluate_every:
        evaluation = callbacks.Evaluation(
            options.evaluate_every,
            episodes=options.test_runs,
            epsilon=options.test_epsilon,
            best_model=run / "best.keras",
            stop_at=gymnasium.spec(game.id if isinstance(game, Atari) else game).reward_threshold,
        )
        listeners.append(evaluation)
    if options.log:
        run.mkdir(parents=True, exist_ok=True)
        csv = keras.callbacks.CSVLogger(run / "log.csv", append=options.resume)
        listeners += [csv, callbacks.RunLog(run)]
    try:
        if trainer.steps < options.global_max_steps:
            trainer.train(options.global_max_steps - trainer.steps, callbacks=listeners)
    except KeyboardInterrupt:
        command = shlex.join(sys.argv + ["--resume"] * (not options.resume))
        print(f"\nStopped after {trainer.steps:,} steps. To go on from the last checkpoint: python {command}")
        return
    finally:
        trainer.close()
    print(f"{trainer.steps:,} steps in all. The checkpoint and learning-curve.png are in {run}.")
    agent = DQNInference(run, epsilon=options.test_epsilon)
    if options.evaluate_model:
        result = agent.evaluate(options.test_runs, seed=options.random_seed)
        print(f"It scores {result['return_mean']:,.1f} +- {result['return_std']:,.1f} ({result['protocol']}).")
    if options.display:
        print(f"Score in the window: {agent.play(seed=options.random_seed)[0]:,.0f}")


if __name__ == "__main__":
    main()
