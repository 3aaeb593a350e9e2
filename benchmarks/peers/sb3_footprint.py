"""The memory of stable-baselines3's DQN on stacks of four pictures of 84 by 84. Prints one JSON line."""

import argparse

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3 import DQN

from benchmarks.process import Anonymous, report

PACKAGES = ("stable_baselines3", "torch", "gymnasium", "numpy")


class Noise(gymnasium.Env):
    """Stacks of noise, channels first as stable-baselines3 wants them."""

    observation_space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    action_space = spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        """Begins an episode."""
        return self.observation_space.sample(), {}

    def step(self, action):
        """Makes a step that leads nowhere."""
        return self.observation_space.sample(), 0.0, False, False, {}


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--capacity", type=int, required=True, help="transitions, all of them filled")
    parser.add_argument("--saving", action="store_true", help="its memory-saving mode")
    options = parser.parse_args()
    saving = {"handle_timeout_termination": False} if options.saving else {}
    peaks = {}
    with Anonymous() as memory:
        model = DQN(
            "CnnPolicy",
            Noise(),
            batch_size=32,
            buffer_size=options.capacity,
            learning_starts=0,
            optimize_memory_usage=options.saving,
            replay_buffer_kwargs=saving,
        )
        model.learn(8)
        peaks["building"] = memory.peak()
        buffer = model.replay_buffer
        for stored in (buffer.observations, getattr(buffer, "next_observations", None)):
            for row in stored if stored is not None else ():
                row[:] = 1  # every page of it is then there
        buffer.full = True
        peaks["filling"] = memory.peak()
        model.train(gradient_steps=50, batch_size=32)
        peaks["training"] = memory.peak()
    report({"peaks": peaks}, packages=PACKAGES)


if __name__ == "__main__":
    main()
