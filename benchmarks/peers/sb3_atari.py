"""Training stable-baselines3's DQN on Breakout with its zoo's settings. Prints one JSON line.

The settings are those of `hyperparams/dqn.yml` in rl-baselines3-zoo, `atari`: `AtariWrapper`, stacks of four, batch 32,
an update every 4 steps, a buffer of 100,000; one environment.
"""

import argparse
import time

import ale_py
import gymnasium
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack

from benchmarks.process import Anonymous, report

PACKAGES = ("stable_baselines3", "torch", "gymnasium", "numpy", "ale-py")
WARM_UP = 2_000  # steps before the clock, half of them without updates


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, required=True, help="environment steps that are measured")
    parser.add_argument("--replay", type=int, default=100_000, help="transitions")
    options = parser.parse_args()
    gymnasium.register_envs(ale_py)
    with Anonymous() as memory:
        model = DQN(
            "CnnPolicy",
            VecFrameStack(make_atari_env("BreakoutNoFrameskip-v4", n_envs=1, seed=0), 4),
            learning_rate=1e-4,
            batch_size=32,
            buffer_size=options.replay,
            learning_starts=WARM_UP // 2,
            target_update_interval=1_000,
            train_freq=4,
            gradient_steps=1,
            exploration_fraction=1e-6,
            exploration_initial_eps=0.1,
            exploration_final_eps=0.1,
            seed=0,
        )
        model.learn(WARM_UP)
        begun = time.perf_counter()
        model.learn(options.steps, reset_num_timesteps=False)
        seconds = time.perf_counter() - begun
        report({"steps_per_second": options.steps / seconds, "peak": memory.peak()}, packages=PACKAGES)


if __name__ == "__main__":
    main()
