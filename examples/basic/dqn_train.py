"""Trains an agent on a classic-control task: films it before and after, evaluates it, saves it, and plots how it
learned.

# CartPole-v1, well under a minute on two CPU cores
python examples/basic/dqn_train.py
python examples/basic/dqn_train.py --env MountainCar-v0 --steps 300000
"""

import argparse
import os
import pathlib
import shlex
import sys

# TensorFlow reports a GPU that is not there as an error. It asks for this when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import gymnasium
import keras

from sota_dqn import DQNInference, DQNTrainer, callbacks, plots


def build_model(env_id):
    """Returns a small network from observations to one value per action."""
    env = gymnasium.make(env_id)
    discrete = isinstance(env.action_space, gymnasium.spaces.Discrete)
    outputs = int(env.action_space.n) if discrete else 1  # which the agent refuses
    inputs = env.observation_space.shape or (int(getattr(env.observation_space, "n", 1)),)  # a number comes one-hot
    layers = [keras.Input(inputs)]
    for _ in range(2):
        layers += [keras.layers.Dense(128), keras.layers.LayerNormalization(), keras.layers.Activation("relu")]
    return keras.Sequential([*layers, keras.layers.Dense(outputs)])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="CartPole-v1", help="environment id (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=50_000, help="environment steps, at most in all (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="from which all chance is made (default: %(default)s)")
    parser.add_argument("--run", type=pathlib.Path, help="directory of the run (default: runs/ENV)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the run's directory")
    options = parser.parse_args()
    run = options.run or pathlib.Path("runs") / options.env.split("/")[-1]
    if options.steps < 1:
        parser.error("--steps must be at least 1.")
    if options.resume and not (run / "config.json").exists():
        parser.error(f"{run} holds no run to go on with.")

    if options.resume:
        trainer = DQNTrainer.load(run)
        print(f"Going on from {run} after {trainer.steps:,} steps.")
    else:
        keras.utils.set_random_seed(options.seed)
        model = build_model(options.env)
        score = DQNInference(model, env=options.env, epsilon=1).record(run / "random.gif", every=2, scale=0.5)
        print(f"A random agent scores {score:.0f}: {run / 'random.gif'}")
        plots.model_diagram(model, run / "model.png")
        trainer = DQNTrainer(options.env, model, seed=options.seed)

    every = min(2_000, options.steps)
    evaluation = callbacks.Evaluation(
        every,
        episodes=10,
        best_model=run / "best.keras",
        stop_at=gymnasium.spec(options.env).reward_threshold,  # solved: three times in a row at the threshold
        consecutive=3,
    )
    curve = callbacks.LearningCurve(run / "learning-curve.png")
    try:
        if trainer.steps < options.steps:
            trainer.train(options.steps - trainer.steps, callbacks=[evaluation, curve, callbacks.Checkpoint(run)])
    except KeyboardInterrupt:
        command = shlex.join(sys.argv + ["--resume"] * (not options.resume))
        print(f"\nStopped after {trainer.steps:,} steps. To go on from the last checkpoint: python {command}")
        return

    best = DQNInference(run / "best.keras", env=options.env)
    result = best.evaluate(episodes=20)
    score = f"{result['return_mean']:.1f} +- {result['return_std']:.1f}"
    if evaluation.solved:
        print(f"Solved: {evaluation.consecutive} evaluations in a row reached {evaluation.stop_at:g}.")
    print(f"{trainer.steps:,} steps in all. The best model scores {score} ({result['protocol']}).")
    best.record(run / "trained.gif", every=2, scale=0.5)
    print(f"Everything is in {run}: the films, learning-curve.png, model.png, best.keras and a checkpoint.")
    print(f"Next: python examples/basic/dqn_inference.py {run / 'best.keras'} --env {options.env}")


if __name__ == "__main__":
    main()
