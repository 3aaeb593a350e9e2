"""One training run of sota_dqn on a task that needs memory, in a process of its own. Prints one JSON line.

`benchmarks.memory` starts it; by hand:
`python -m benchmarks.memory_run --task tmaze --corridor 10 --memory lstm --seed 0 --cap 20000`.
"""

import argparse
import functools
import random

import keras

from benchmarks.learning import PACKAGES, Evaluations
from benchmarks.process import report
from benchmarks.tasks import EPISODES
from examples.memory import cartpole
from examples.memory.agents import MEMORIES, THRESHOLD, build_model, settings
from examples.memory.tmaze import TMaze
from sota_dqn import DQNTrainer, callbacks

EVALUATE_EVERY = {"tmaze": 1_000, "cartpole": 4_000}  # environment steps
FINAL_EPISODES = 100  # of the model at the end
FINAL_SEED = 1_000_000  # of those, plus the run's: no evaluation during training plays them
CONSECUTIVE = {"tmaze": 2, "cartpole": 1}  # evaluations at the threshold, after which a run stops


def train(task, *, corridor, memory, seed, cap):
    """Trains on a task with the settings of the example.

    Args:
        task: `"tmaze"` or `"cartpole"`.
        corridor: Cells of the T-maze; None for the other.
        memory: `"lstm"` or `"none"`.
        seed: Of the weights and of the run.
        cap: Environment steps.

    Returns:
        The trainer and the `tasks.Evaluation`s.
    """
    random.seed(seed)  # Keras's initializers draw from it; `keras.utils.set_random_seed` imports TensorFlow, on JAX too
    env = functools.partial(TMaze, corridor) if task == "tmaze" else cartpole.make
    changed = settings(task, memory, corridor=corridor)
    trainer = DQNTrainer(env, build_model(env(), memory), seed=seed, **changed)
    evaluation = callbacks.Evaluation(
        EVALUATE_EVERY[task], episodes=EPISODES, stop_at=THRESHOLD[task], consecutive=CONSECUTIVE[task]
    )
    evaluations = Evaluations(EVALUATE_EVERY[task])
    trainer.train(steps=cap, callbacks=[evaluation, evaluations], verbose=0)
    return trainer, evaluations.found


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=THRESHOLD, required=True)
    parser.add_argument("--corridor", type=int, help="of the T-maze")
    parser.add_argument("--memory", choices=MEMORIES, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--cap", type=int, required=True, help="environment steps at most")
    options = parser.parse_args()
    trainer, evaluations = train(
        options.task, corridor=options.corridor, memory=options.memory, seed=options.seed, cap=options.cap
    )
    final = trainer.evaluate(FINAL_EPISODES, seed=FINAL_SEED + options.seed)
    report(
        {
            "evaluations": evaluations,
            "final": final["return_mean"],
            "steps": trainer.steps,
            "updates": trainer.updates,
        },
        packages=(*PACKAGES, keras.config.backend()),
    )


if __name__ == "__main__":
    main()
