"""Updates per second of stable-baselines3's plain DQN: `train` on a full buffer. Prints one JSON line."""

import argparse

import gymnasium
import numpy as np
from stable_baselines3 import DQN

from benchmarks.peers.sb3_footprint import Noise
from benchmarks.process import rate, report

PACKAGES = ("stable_baselines3", "torch", "gymnasium", "numpy")


def make_full_cartpole(capacity):
    """Returns an agent with an MLP 64-64 whose buffer is full of CartPole played at random."""
    model = DQN(
        "MlpPolicy",
        gymnasium.make("CartPole-v1"),
        policy_kwargs={"net_arch": [64, 64]},  # ReLU is DQN's default
        batch_size=64,
        buffer_size=capacity,
        learning_starts=capacity,  # random actions until then
        seed=0,
    )
    model.learn(capacity)
    return model


def make_full_noise(capacity):
    """Returns an agent with the network of Mnih et al. 2015 whose buffer is full of noise."""
    model = DQN("CnnPolicy", Noise(), batch_size=32, buffer_size=capacity, learning_starts=capacity, seed=0)
    model.learn(8)
    buffer, random = model.replay_buffer, np.random.default_rng(0)
    for stored in (buffer.observations, buffer.next_observations):
        for begin in range(0, len(stored), 1_000):
            piece = stored[begin : begin + 1_000]
            piece[:] = random.integers(0, 256, piece.shape, "uint8")
    buffer.full = True
    return model


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", choices=["mlp", "nature"], default="mlp")
    parser.add_argument("--capacity", type=int, required=True, help="transitions, all of them filled")
    parser.add_argument("--seconds", type=float, required=True, help="how long to measure")
    options = parser.parse_args()
    model = make_full_cartpole(options.capacity) if options.net == "mlp" else make_full_noise(options.capacity)
    if not model.replay_buffer.full:
        raise RuntimeError(f"The buffer must be full. Received: {model.replay_buffer.size()} transitions")
    updates = 500 if options.net == "mlp" else 10
    batch_size = model.batch_size
    seconds = rate(lambda: model.train(gradient_steps=updates, batch_size=batch_size), seconds=options.seconds)
    report({"updates_per_second": updates / seconds}, packages=PACKAGES)


if __name__ == "__main__":
    main()
