"""One run of `OneStepTrainer`, or of `DQNTrainer` beside it, in a process of its own. Prints one JSON line.

`benchmarks.one_step` starts it; by hand: `python -m benchmarks.one_step_run speed --task CartPole-v1 --workers 2` or
`python -m benchmarks.one_step_run learn --task CartPole-v1 --agent q --seed 0 --steps 400000`.
"""

import argparse
import json
import random
import subprocess
import sys
import time

import keras

from benchmarks.learning import PACKAGES, Evaluations, build_model
from benchmarks.process import report
from benchmarks.tasks import BREAKOUT, EPISODES, TASKS
from sota_dqn import Atari, DQNInference, DQNTrainer, OneStepTrainer, callbacks

EPSILON = 0.01  # of evaluations of the game: a greedy agent may never serve the ball
WARM_UP = 100  # steps before the clock: the first update compiles
FRAME_STACK = 4
RANDOM_GAMES = 100  # by which a random agent is measured


def build_network(task):
    """Returns the network of Mnih et al. 2013 for the game, and that of `benchmarks.learning` for all else."""
    if task != BREAKOUT:
        return build_model(task)
    return keras.Sequential(
        [
            keras.Input((84, 84, FRAME_STACK), dtype="uint8"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(16, 8, strides=4, activation="relu"),
            keras.layers.Conv2D(32, 4, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dense(4),
        ]
    )


def make_one_step(task, *, method, steps, workers=8, seed=0):
    """Returns a trainer: annealed over `steps`, all else the same for all classic-control tasks."""
    model = build_network(task)
    if task == BREAKOUT:
        model.compile(optimizer=keras.optimizers.RMSprop(7e-4, rho=0.99, epsilon=0.1), loss="mse")
        env = Atari(BREAKOUT, num_threads=1)
        settings = {"target_network_update": 10_000, "epsilon_anneal": max(1, steps // 5), "frame_stack": FRAME_STACK}
    else:
        model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="mse")
        env = task
        settings = {"target_network_update": 2_000, "epsilon_anneal": max(1, steps // 16)}
    return OneStepTrainer(env, model, method=method, workers=workers, learning_rate_anneal=steps, seed=seed, **settings)


def measure(task, *, workers, seconds):
    """Returns the environment steps per second of training, over at least so many seconds after a warm-up."""
    trainer = make_one_step(task, method="q", steps=1, workers=workers)  # every epsilon is soon a worker's final one
    trainer.train(WARM_UP, verbose=0)
    begun, steps = time.perf_counter(), trainer.steps
    while (elapsed := time.perf_counter() - begun) < seconds:
        trainer.train(2 * WARM_UP, verbose=0)
    trainer.close()
    return {"steps_per_second": (trainer.steps - steps) / elapsed}


def measure_processes(task, *, processes, workers, seconds):
    """Returns the same of so many processes at the same time, each with `workers` of its own: the sum."""
    if processes == 1:
        return measure(task, workers=workers, seconds=seconds)
    arguments = ["--task", task, "--workers", str(workers), "--seconds", str(seconds)]
    command = [sys.executable, "-m", "benchmarks.one_step_run", "speed", *arguments]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    said = [process.communicate()[0] for process in running]
    return {"steps_per_second": sum(json.loads(text.splitlines()[-1])["steps_per_second"] for text in said)}


def learn(task, *, agent, seed, steps, evaluate_every):
    """Trains an agent, on a task until its first pass, on the game to the end.

    Returns:
        A dict of its evaluations and, of the game, the mean return of a random agent.
    """
    random.seed(seed)  # Keras's initializers draw from it; `keras.utils.set_random_seed` imports TensorFlow, on JAX too
    if agent == "dqn":
        trainer = DQNTrainer(task, build_network(task), seed=seed)
    else:
        trainer = make_one_step(task, method=agent, steps=steps, seed=seed)
    epsilon = EPSILON if task == BREAKOUT else 0.0
    evaluations = Evaluations(evaluate_every)
    threshold = None if task == BREAKOUT else TASKS[task].threshold
    evaluation = callbacks.Evaluation(evaluate_every, episodes=EPISODES, epsilon=epsilon, stop_at=threshold)
    trainer.train(steps=steps, callbacks=[evaluation, evaluations], verbose=0)
    result = {"evaluations": evaluations.found, "steps": trainer.steps, "updates": trainer.updates}
    trainer.close()
    if task == BREAKOUT:
        playing = DQNInference(trainer.model, env=Atari(BREAKOUT), frame_stack=FRAME_STACK, epsilon=1)
        result["random"] = playing.evaluate(RANDOM_GAMES)["return_mean"]
    return result


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    speed, learning = commands.add_parser("speed"), commands.add_parser("learn")
    for command in (speed, learning):
        command.add_argument("--task", choices=[*TASKS, BREAKOUT], required=True)
    speed.add_argument("--workers", type=int, required=True)
    speed.add_argument("--processes", type=int, default=1, help="that run at the same time, sharing nothing")
    speed.add_argument("--seconds", type=float, default=10.0, help="how long to measure")
    learning.add_argument("--agent", choices=["q", "sarsa", "dqn"], required=True)
    learning.add_argument("--seed", type=int, required=True)
    learning.add_argument("--steps", type=int, required=True, help="environment steps")
    learning.add_argument("--evaluate-every", type=int, default=10_000, help="environment steps")
    options = vars(parser.parse_args())
    what, task = options.pop("what"), options.pop("task")
    result = measure_processes(task, **options) if what == "speed" else learn(task, **options)
    report(result, packages=(*PACKAGES, *(["ale-py"] if task == BREAKOUT else []), keras.config.backend()))


if __name__ == "__main__":
    main()
