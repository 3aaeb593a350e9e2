"""Trains an agent on a task that needs memory: films it before and after, evaluates it, saves it, and plots how it
learned.

# A T-maze with a corridor of 10 cells, minutes on two CPU cores
python examples/memory/dqn_train.py
python examples/memory/dqn_train.py --memory none
python examples/memory/dqn_train.py --task cartpole
python -m sota_dqn.plot lstm=runs/tmaze-10-lstm none=runs/tmaze-10-none --out runs/tmaze.png
"""

import argparse
import functools
import pathlib
import shlex
import sys

import cartpole
import keras
from agents import MEMORIES, STEPS, THRESHOLD, build_model, run_of, settings
from tmaze import TMaze

from sota_dqn import DQNInference, DQNTrainer, callbacks, plots


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=STEPS, default="tmaze", help="default: %(default)s")
    parser.add_argument("--memory", choices=MEMORIES, default="lstm", help="default: %(default)s")
    parser.add_argument("--corridor", type=int, default=10, help="cells of the T-maze (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="environment steps, at most in all (20000; cartpole: 200000)")
    parser.add_argument("--seed", type=int, default=0, help="from which all chance is made (default: %(default)s)")
    parser.add_argument("--run", type=pathlib.Path, help="directory of the run (default: as runs/tmaze-10-lstm)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the run's directory")
    options = parser.parse_args()
    options.run = options.run or run_of(options.task, options.memory, corridor=options.corridor)
    options.steps = options.steps or STEPS[options.task]
    if not options.resume and (options.run / "config.json").exists():
        parser.error(f"{options.run} holds a run already: go on by --resume, or begin another by --run DIRECTORY.")
    return options


def main():
    options = parse_options()
    run = options.run
    env = functools.partial(TMaze, options.corridor) if options.task == "tmaze" else cartpole.make
    film = {"every": 2, "scale": 0.5} if options.task == "cartpole" else {}

    if options.resume:
        trainer = DQNTrainer.load(run, env=env)
        print(f"Going on from {run} after {trainer.steps:,} steps.")
    else:
        keras.utils.set_random_seed(options.seed)
        model = build_model(env(), options.memory)
        score = DQNInference(model, env=env, epsilon=1).record(run / "random.gif", **film)
        print(f"A random agent scores {score:.0f}: {run / 'random.gif'}")
        plots.model_diagram(model, run / "model.png")
        changed = settings(options.task, options.memory, corridor=options.corridor)
        trainer = DQNTrainer(env, model, seed=options.seed, **changed)
        trainer.save(run, replay=False)  # from here on --resume finds a run

    evaluation = callbacks.Evaluation(
        min(trainer.report_every, options.steps),
        best_model=run / "best.keras",
        stop_at=THRESHOLD[options.task],
        consecutive=2,
    )
    curve = callbacks.LearningCurve(run / "learning-curve.png")
    log = callbacks.RunLog(run)  # for python -m sota_dqn.plot
    try:
        if trainer.steps < options.steps:
            listeners = [evaluation, curve, callbacks.Checkpoint(run), log]
            trainer.train(options.steps - trainer.steps, callbacks=listeners)
    except KeyboardInterrupt:
        command = shlex.join(sys.argv + ["--resume"] * (not options.resume))
        print(f"\nStopped after {trainer.steps:,} steps. To go on from the last checkpoint: python {command}")
        return

    best = DQNInference(run / "best.keras", env=env)
    result = best.evaluate(episodes=100)
    score = f"{result['return_mean']:.2f} +- {result['return_std']:.2f}"
    print(f"{trainer.steps:,} steps in all. The best model scores {score} ({result['protocol']}).")
    best.record(run / "trained.gif", **film)
    print(f"Everything is in {run}: the films, learning-curve.png, model.png, best.keras and a checkpoint.")
    maze = f" --corridor {options.corridor}" if options.task == "tmaze" else ""
    print(f"Next: python examples/memory/dqn_inference.py --task {options.task}{maze} {run / 'best.keras'}")


if __name__ == "__main__":
    main()
