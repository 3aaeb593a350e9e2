"""Updates per second of stable-baselines3's plain DQN: `train` on a full buffer of CartPole. Prints one JSON line."""

import argparse

import gymnasium
from stable_baselines3 import DQN

from benchmarks.process import rate, report

PACKAGES = ("stable_baselines3", "torch", "gymnasium", "numpy")


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--capacity", type=int, required=True, help="transitions, all of them filled")
    parser.add_argument("--seconds", type=float, required=True, help="how long to measure")
    options = parser.parse_args()
    model = DQN(
        "MlpPolicy",
        gymnasium.make("CartPole-v1"),
        policy_kwargs={"net_arch": [64, 64]},  # ReLU is DQN's default
        batch_size=64,
        buffer_size=options.capacity,
        learning_starts=options.capacity,  # random actions until then
        seed=0,
    )
    model.learn(options.capacity)
    if not model.replay_buffer.full:
        raise RuntimeError(f"The buffer must be full. Received: {model.replay_buffer.size()} transitions")
    updates = 500
    seconds = rate(lambda: model.train(gradient_steps=updates, batch_size=64), seconds=options.seconds)
    report({"updates_per_second": updates / seconds}, packages=PACKAGES)


if __name__ == "__main__":
    main()
