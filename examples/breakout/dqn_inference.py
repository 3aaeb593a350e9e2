"""Loads a trained Breakout agent, evaluates it and films it, or plays in a window.

python examples/breakout/dqn_inference.py                                         # the best model of dqn_train.py's run
python examples/breakout/dqn_inference.py runs/Breakout-none-4 --film last.mp4    # where the training ended
python examples/breakout/dqn_inference.py --memory lstm --stack 1 --window
"""

import argparse
import pathlib
import sys

from sota_dqn import Atari, DQNInference


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "source",
        nargs="?",
        type=pathlib.Path,
        help="a checkpoint's directory or a .keras file (default: runs/Breakout-MEMORY-STACK/best.keras)",
    )
    parser.add_argument("--memory", choices=("lstm", "none"), default="none", help="of the default (%(default)s)")
    parser.add_argument(
        "--stack", type=int, choices=(1, 4), default=4, help="frames seen at once (default: %(default)s)"
    )
    parser.add_argument(
        "--sticky",
        type=float,
        default=0.25,
        help="probability that the action before is taken once more, where the source is a .keras file "
        "(default: %(default)s)",
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
    source = options.source or pathlib.Path("runs") / f"Breakout-{options.memory}-{options.stack}" / "best.keras"

    game = stack = None  # a checkpoint knows both, a .keras file neither
    if source.suffix == ".keras":
        game = Atari("ALE/Breakout-v5", repeat_action_probability=options.sticky, use_fire_reset=True)
        stack = options.stack
    try:
        agent = DQNInference(source, env=game, frame_stack=stack, epsilon=options.epsilon)
    except FileNotFoundError as error:
        sys.exit(f"{error} Train an agent first: python examples/breakout/dqn_train.py")
    result = agent.evaluate(options.episodes, seed=options.seed)
    print(f"{result['return_mean']:,.1f} +- {result['return_std']:,.1f} ({result['protocol']})")
    if options.window:
        print(f"Score in the window: {agent.play(seed=options.seed)[0]:,.0f}")
        return
    directory = source.parent if source.suffix == ".keras" else source
    film = options.film or directory / "film.gif"
    score = agent.record(film, seed=options.seed, every=2, max_steps=options.film_steps)
    print(f"{film} shows a score of {score:,.0f} in the first {options.film_steps} steps.")
    told = f"--stack {options.stack} --sticky {options.sticky:g}"
    print(f"Next: python examples/breakout/dqn_inference.py {told} {source} --window")


if __name__ == "__main__":
    main()
