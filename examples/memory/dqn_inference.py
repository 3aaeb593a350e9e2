"""Loads an agent that was trained on a task that needs memory, evaluates it and films it.

python examples/memory/dqn_inference.py                                    # the best model of dqn_train.py's run
python examples/memory/dqn_inference.py --corridor 20                      # a longer way than the 10 of that run
python examples/memory/dqn_inference.py --task cartpole --window           # the best model of that run, live
"""

import argparse
import functools
import pathlib
import sys

import cartpole
from agents import STEPS, run_of
from tmaze import TMaze

from sota_dqn import DQNInference


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "source",
        nargs="?",
        type=pathlib.Path,
        help="a checkpoint's directory or a .keras file (default: best.keras of the run that remembers)",
    )
    parser.add_argument("--task", choices=STEPS, default="tmaze", help="default: %(default)s")
    parser.add_argument("--corridor", type=int, default=10, help="cells of the T-maze (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=100, help="to evaluate (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes (default: %(default)s)")
    parser.add_argument("--film", type=pathlib.Path, help="a .gif or .mp4 to write (default: film.gif in the run)")
    parser.add_argument("--window", action="store_true", help="play one episode in a window instead (cartpole alone)")
    options = parser.parse_args()
    if options.window and options.task == "tmaze":
        parser.error("The T-maze has no window: leave --window away, and a film is written.")
    source = options.source or run_of(options.task, "lstm", corridor=10) / "best.keras"

    env = functools.partial(TMaze, options.corridor) if options.task == "tmaze" else cartpole.make
    try:
        agent = DQNInference(source, env=env)
    except FileNotFoundError as error:
        sys.exit(f"{error} Train an agent first: python examples/memory/dqn_train.py --task {options.task}")
    result = agent.evaluate(options.episodes, seed=options.seed)
    print(f"{result['return_mean']:.2f} +- {result['return_std']:.2f} ({result['protocol']})")
    if options.window:
        print(f"Score in the window: {agent.play(seed=options.seed)[0]:.0f}")
        return
    directory = source.parent if source.suffix == ".keras" else source
    film = options.film or directory / "film.gif"
    options_of_film = {"every": 2, "scale": 0.5} if options.task == "cartpole" else {}
    score = agent.record(film, seed=options.seed, **options_of_film)
    print(f"{film} shows a score of {score:.0f}.")


if __name__ == "__main__":
    main()
