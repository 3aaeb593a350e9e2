"""Loads a trained agent, evaluates it and films it, or plays in a window.

python examples/basic/dqn_inference.py                                 # the best model of dqn_train.py's run
python examples/basic/dqn_inference.py runs/CartPole-v1 --film last.mp4    # its checkpoint, where the training ended
python examples/basic/dqn_inference.py runs/MountainCar-v0/best.keras --env MountainCar-v0 --window
"""

import argparse
import os
import pathlib
import sys

# TensorFlow reports a GPU that is not there as an error. It asks for this when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from sota_dqn import DQNInference


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "source",
        nargs="?",
        type=pathlib.Path,
        default=pathlib.Path("runs/CartPole-v1/best.keras"),
        help="a checkpoint's directory or a .keras file (default: %(default)s)",
    )
    parser.add_argument("--env", help="environment id (default: the checkpoint's, or CartPole-v1 for a file)")
    parser.add_argument("--episodes", type=int, default=20, help="to evaluate (default: %(default)s)")
    parser.add_argument(
        "--epsilon", type=float, default=0.0, help="probability of a random action (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the episodes (default: %(default)s)")
    parser.add_argument(
        "--film", type=pathlib.Path, help="a .gif or .mp4 to write (default: film.gif beside the source)"
    )
    parser.add_argument("--window", action="store_true", help="play one episode in a window instead of filming")
    options = parser.parse_args()

    try:
        env = options.env or ("CartPole-v1" if options.source.suffix == ".keras" else None)
        agent = DQNInference(options.source, env=env, epsilon=options.epsilon)
    except FileNotFoundError as error:
        sys.exit(f"{error} Train an agent first: python examples/basic/dqn_train.py")
    result = agent.evaluate(options.episodes, seed=options.seed)
    print(f"{result['return_mean']:.1f} +- {result['return_std']:.1f} ({result['protocol']})")
    if options.window:
        print(f"Score in the window: {agent.play(seed=options.seed)[0]:.0f}")
        return
    directory = options.source.parent if options.source.suffix == ".keras" else options.source
    film = options.film or directory / "film.gif"
    score = agent.record(film, seed=options.seed, every=2, scale=0.5)
    print(f"{film} shows a score of {score:.0f}.")
    print(f"Next: python examples/basic/dqn_inference.py {options.source} --window" + (f" --env {env}" if env else ""))


if __name__ == "__main__":
    main()
