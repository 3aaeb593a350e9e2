"""The memory of a run on pictures of 84 by 84, in a process of its own. Prints one JSON line.

`benchmarks.footprint` starts it; by hand: `python -m benchmarks.footprint_run --capacity 100000`.
"""

import argparse
import json
import subprocess
import sys
import tempfile

import keras

from benchmarks.noise import NUM_ACTIONS, Noise, Unplayed
from benchmarks.process import Anonymous, report
from sota_dqn import DQNTrainer, Replay, policies, samplers, targets

PACKAGES = ("keras", "gymnasium", "numpy")


def build_model():
    """Returns a small convolutional network, whose own memory is little beside a replay's."""
    return keras.Sequential(
        [
            keras.Input((84, 84, 4), dtype="uint8"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(8, 8, 4, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(NUM_ACTIONS),
        ]
    )


def measure(capacity, directory, *, updates):
    """Returns the peak of this process's own memory in bytes, by phase, of a run whose replay has `capacity` rows, and
    which is saved to `directory`."""
    peaks = {}
    with Anonymous() as memory:
        trainer = DQNTrainer(
            Noise(),
            build_model(),
            eval_env=Unplayed,
            frame_stack=4,
            target=targets.double,
            n_step=5,
            bounds=None,
            batch_size=32,
            replay=Replay(capacity, sampler=samplers.Prioritized()),
            policy=policies.EpsilonGreedy(1.0),
            updates_per_step=1 / 16,
            updates_per_call=1,
            learning_starts=capacity,
        )
        peaks["building"] = memory.peak()
        trainer.train(capacity, verbose=0)
        peaks["filling"] = memory.peak()
        trainer.train(16 * updates, verbose=0)
        peaks["training"] = memory.peak()
        trainer.save(directory)
        peaks["saving"] = memory.peak()
    return peaks


def measure_loading(directory):
    """Returns the peak of this process's own memory in bytes while it loads a checkpoint and goes on."""
    with Anonymous() as memory:
        trainer = DQNTrainer.load(directory, env=Noise(), eval_env=Unplayed)
        trainer.train(16, verbose=0)
        return {"loading": memory.peak()}


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--capacity", type=int, help="rows, all of them filled")
    what.add_argument("--load", metavar="DIRECTORY", help="a checkpoint of this program, to measure loading alone")
    parser.add_argument("--updates", type=int, default=50, help="made on the full replay")
    options = parser.parse_args()
    if options.load:
        peaks = measure_loading(options.load)
    else:
        with tempfile.TemporaryDirectory() as directory:
            peaks = measure(options.capacity, directory, updates=options.updates)
            command = [sys.executable, "-m", "benchmarks.footprint_run", "--load", directory]  # not beside the old one
            loaded = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks |= json.loads(loaded.stdout.splitlines()[-1])["peaks"]
    report({"peaks": peaks}, packages=(*PACKAGES, keras.config.backend()))


if __name__ == "__main__":
    main()
