"""Loads a trained Ms. Pacman agent, evaluates it and films it, or plays in a window.

python examples/cnn/dqn_inference.py                                  # the best model of dqn_train.py's run
python examples/cnn/dqn_inference.py runs/MsPacman --film last.mp4    # its checkpoint, where the training ended
python examples/cnn/dqn_inference.py --window
"""

import argparse
import pathlib
import sys

from sota_dqn import Atari, DQNInference, preprocessing

# As in training. A checkpoint knows them, a .keras file does not.
GAME = Atari("ALE/MsPacman-v5")
PREPROCESS = [preprocessing.crop(bottom=38), preprocessing.grayscale, preprocessing.resize(84, 84)]
FRAME_STACK = 4


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "source",
        nargs="?",
        type=pathlib.Path,
        default=pathlib.Path("runs/MsPacman/best.keras"),
        help="a checkpoint's directory or a .keras file (default: %(default)s)",
    )
    parser.add_argument("--episodes", type=int, default=10, help="games to evaluate (default: %(default)s)")
    parser.add_argument(
        "--epsilon", type=float, default=0.01, help="probability of a random action (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the games (default: %(default)s)")
    parser.add_argument(
        "--film", type=pathlib.Path, help="a .gif or .mp4 to write (default: film.gif beside the source)"
    )
    parser.add_argument("--film-steps", type=int, default=600, help="of the film, at most (default: %(default)s)")
    parser.add_argument("--window", action="store_true", help="play one game in a window instead of filming")
    options = parser.parse_args()

    try:
        agent = DQNInference(
            options.source, env=GAME, preprocess=PREPROCESS, frame_stack=FRAME_STACK, epsilon=options.epsilon
        )
    except FileNotFoundError as error:
        sys.exit(f"{error} Train an agent first: python examples/cnn/dqn_train.py")
    result = agent.evaluate(options.episodes, seed=options.seed)
    print(f"{result['return_mean']:,.1f} +- {result['return_std']:,.1f} ({result['protocol']})")
    if options.window:
        print(f"Score in the window: {agent.play(seed=options.seed)[0]:,.0f}")
        return
    directory = options.source.parent if options.source.suffix == ".keras" else options.source
    film = options.film or directory / "film.gif"
    score = agent.record(film, seed=options.seed, every=2, max_steps=options.film_steps)
    print(f"{film} shows a score of {score:,.0f} in the first {options.film_steps} steps.")
    print(f"Next: python examples/cnn/dqn_inference.py {options.source} --window")


if __name__ == "__main__":
    main()
