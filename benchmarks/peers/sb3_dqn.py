"""One training run of stable-baselines3's DQN, with the tuned hyper-parameters of its zoo. Prints one JSON line.

`benchmarks.classic_control` starts it; by hand:
`python -m benchmarks.peers.sb3_dqn --task CartPole-v1 --seed 0 --cap 100000`.
"""

import argparse

from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from benchmarks.process import report, seconds_since_start
from benchmarks.tasks import CONSECUTIVE, EPISODES, TASKS, Evaluation, add_arguments, passed

PACKAGES = ("stable_baselines3", "torch", "gymnasium", "numpy")

# Values of rl-baselines3-zoo, hyperparams/dqn.yml, commit ce95481b041fe5314c1b2f1a53940d169b9253fc; those of
# LunarLander-v2 are taken for v3. `gradient_steps=-1` is one update per environment step. Other arguments are DQN's own
# defaults.
HYPERPARAMETERS = {
    "CartPole-v1": {
        "learning_rate": 2.3e-3,
        "batch_size": 64,
        "buffer_size": 100_000,
        "learning_starts": 1_000,
        "gamma": 0.99,
        "target_update_interval": 10,
        "train_freq": 256,
        "gradient_steps": 128,
        "exploration_final_eps": 0.04,
    },
    "Acrobot-v1": {
        "learning_rate": 6.3e-4,
        "batch_size": 128,
        "buffer_size": 50_000,
        "learning_starts": 0,
        "gamma": 0.99,
        "target_update_interval": 250,
        "train_freq": 4,
        "gradient_steps": -1,
        "exploration_final_eps": 0.1,
    },
    "MountainCar-v0": {
        "learning_rate": 4e-3,
        "batch_size": 128,
        "buffer_size": 10_000,
        "learning_starts": 1_000,
        "gamma": 0.98,
        "target_update_interval": 600,
        "train_freq": 16,
        "gradient_steps": 8,
        "exploration_final_eps": 0.07,
    },
    "LunarLander-v3": {
        "learning_rate": 6.3e-4,
        "batch_size": 128,
        "buffer_size": 50_000,
        "learning_starts": 0,
        "gamma": 0.99,
        "target_update_interval": 250,
        "train_freq": 4,
        "gradient_steps": -1,
        "exploration_final_eps": 0.1,
    },
}
UNITS = [256, 256]

# The zoo anneals epsilon over a fraction of its own `n_timesteps`. Its steps are kept, whatever the cap is here.
EXPLORATION_STEPS = {
    "CartPole-v1": int(0.16 * 50_000),
    "Acrobot-v1": int(0.12 * 100_000),
    "MountainCar-v0": int(0.2 * 120_000),
    "LunarLander-v3": int(0.12 * 100_000),
}


class Evaluate(BaseCallback):
    """Evaluates greedily at intervals, and stops the training once the task is solved.

    Args:
        task: A `Task`.
        environments: The vector environment to evaluate in, one environment per episode.
    """

    def __init__(self, task, environments):
        super().__init__()
        self.task = task
        self.environments = environments
        self.evaluations = []

    def _on_step(self):
        if self.num_timesteps % self.task.evaluate_every:
            return True
        mean, _ = evaluate_policy(self.model, self.environments, n_eval_episodes=EPISODES, deterministic=True)
        self.evaluations.append(Evaluation(self.num_timesteps, seconds_since_start(), float(mean)))
        return passed(self.evaluations, self.task.threshold, CONSECUTIVE) is None


def train(task, *, seed, cap):
    """Trains on `task` until it is solved, at most `cap` environment steps.

    Returns:
        The `Evaluation`s.
    """
    model = DQN(
        "MlpPolicy",
        make_vec_env(task.environment, n_envs=1, seed=seed),
        exploration_fraction=min(1.0, EXPLORATION_STEPS[task.environment] / cap),
        policy_kwargs={"net_arch": UNITS},
        seed=seed,
        **HYPERPARAMETERS[task.environment],
    )
    # As many environments as episodes, so that the peer's network is called once for all of them, as ours is.
    evaluate = Evaluate(task, make_vec_env(task.environment, n_envs=EPISODES, seed=1_000_000 + seed))
    model.learn(cap, callback=evaluate)
    return evaluate.evaluations


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    options = parser.parse_args()
    evaluations = train(TASKS[options.task], seed=options.seed, cap=options.cap)
    report({"evaluations": evaluations}, packages=PACKAGES)


if __name__ == "__main__":
    main()
