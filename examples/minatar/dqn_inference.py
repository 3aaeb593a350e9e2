"""Loads an agent that was trained on one of MinAtar's games, evaluates it and films it, or plays in a window.

python examples/minatar/dqn_inference.py                                        # the best model of dqn_train.py's run
python examples/minatar/dqn_inference.py --game freeway --film freeway.mp4
python examples/minatar/dqn_inference.py --game freeway runs/minatar-freeway --window       # where the training ended
"""

import argparse
import pathlib
import sys

from games import GAMES, Game

from sota_dqn import DQNInference


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "source",
        nargs="?",
        type=pathlib.Path,
        help="a checkpoint's directory or a .keras file (default: runs/minatar-GAME/best.keras)",
    )
    parser.add_argument("--game", choices=GAMES, default="breakout", help="default: %(default)s")
    parser.add_argument("--episodes", type=int, default=20, help="to evaluate (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes (default: %(default)s)")
    parser.add_argument(
        "--film", type=pathlib.Path, help="a .gif or .mp4 of a whole game to write (default: film.gif in the run)"
    )
    parser.add_argument("--window", action="store_true", help="play one episode in a window instead of filming")
    options = parser.parse_args()
    run = pathlib.Path("runs") / f"minatar-{options.game}"

    try:
        agent = DQNInference(options.source or run / "best.keras", env=Game(options.game))
    except FileNotFoundError as error:
        sys.exit(f"{error} Train an agent first: python examples/minatar/dqn_train.py --game {options.game}")
    result = agent.evaluate(options.episodes, seed=options.seed)
    print(f"{result['return_mean']:.1f} +- {result['return_std']:.1f} ({result['protocol']})")
    if options.window:
        print(f"Score in the window: {agent.play(seed=options.seed)[0]:.0f}")
        return
    film = options.film or run / "film.gif"
    print(f"{film} shows a score of {agent.record(film, seed=options.seed):.0f}.")


if __name__ == "__main__":
    main()
