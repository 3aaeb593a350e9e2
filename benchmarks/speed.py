"""How fast sota_dqn updates, in a process of its own. Prints one JSON line.

`benchmarks.updates` starts it; by hand: `python -m benchmarks.speed update --updates-per-call 32 --capacity 100000`.
"""

import argparse

import keras
import numpy as np

from benchmarks.process import rate, report
from sota_dqn import DQNTrainer, Replay, backend, policies, samplers

PACKAGES = ("keras", "gymnasium", "numpy")
BATCH_SIZE = 64
LEAVES = 2**20
PAIRS = 64  # of sampling and updating, in one compiled call


def filled_trainer(*, capacity, updates_per_call):
    """Returns a trainer whose replay is full of CartPole played at random: prioritized, the rest as by default."""
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(2),
        ]
    )
    trainer = DQNTrainer(
        "CartPole-v1",
        model,
        replay=Replay(capacity, sampler=samplers.Prioritized()),
        policy=policies.EpsilonGreedy(1.0),
        batch_size=BATCH_SIZE,
        updates_per_call=updates_per_call,
        learning_starts=2 * capacity,  # no update while the replay is filled
    )
    trainer.train(steps=capacity, verbose=0)
    return trainer


def learn(trainer, calls):
    """Makes `calls` compiled calls of `trainer.updates_per_call` updates, and waits for the last."""
    with backend.asynchronous():  # as while training
        for _ in range(calls):
            metrics = trainer.learner.learn(trainer.steps)
        backend.wait(metrics)


def updates_per_second(*, capacity, updates_per_call, seconds):
    """Returns how many full updates are made in a second, from the host's random numbers to the new priorities."""
    trainer = filled_trainer(capacity=capacity, updates_per_call=updates_per_call)
    calls = max(1, 512 // updates_per_call)
    return calls * updates_per_call / rate(lambda: learn(trainer, calls), seconds=seconds)


def sum_tree_microseconds(*, seconds):
    """Returns the microseconds of drawing 64 of 2^20 leaves and writing 64, in a fused loop of 64 such pairs."""
    random = np.random.default_rng(0)
    tree = samplers.SumTree(LEAVES)
    program = backend.Program([], tree.levels, backend.Plan(xla=True, fused=True, threads=False))
    program.compile(tree.write)(np.arange(LEAVES, dtype="int32"), random.random(LEAVES, dtype="float32"))

    def pair(uniform):
        leaves, values = tree.find(samplers.stratify(uniform))
        tree.write(leaves, 1.0 - values)
        return {"drawn": keras.ops.sum(values)}

    pairs = program.compile(lambda uniform: program.repeat(pair, (uniform,), ("drawn",)))
    uniform = random.random((PAIRS, BATCH_SIZE), dtype="float32")
    return rate(lambda: backend.wait(pairs(uniform)), seconds=seconds) / PAIRS * 1e6


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["update", "sum_tree"])
    parser.add_argument("--capacity", type=int, default=100_000, help="rows, all of them filled")
    parser.add_argument("--updates-per-call", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to measure")
    options = parser.parse_args()
    if options.what == "update":
        result = {
            "updates_per_second": updates_per_second(
                capacity=options.capacity, updates_per_call=options.updates_per_call, seconds=options.seconds
            )
        }
    else:
        result = {"microseconds": sum_tree_microseconds(seconds=options.seconds)}
    report(result, packages=(*PACKAGES, keras.config.backend()))


if __name__ == "__main__":
    main()
