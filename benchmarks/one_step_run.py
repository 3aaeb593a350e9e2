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
from sota_dqn import Atari, DQNInference, DQNTrainer, OneStepTrainer, backend, callbacks

EPSILON = 0.01  # of evaluations of the game: a greedy agent may never serve the ball
WARM_UP = 100  # steps before the clock: the first update compiles
STRETCH = 400  # steps between two looks at the clock, for which workers meet
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


def make_one_step(task, *, method, steps, n_step=1, workers=8, seed=0):
    """Returns a trainer: annealed over `steps`, all else the same for all classic-control tasks."""
    model = build_network(task)
    if task == BREAKOUT:
        model.compile(optimizer=keras.optimizers.Adam(3e-4, epsilon=1e-5), loss="mse")
        env = Atari(BREAKOUT, num_threads=1)
        settings = {"target_network_update": 10_000, "epsilon_anneal": max(1, steps // 5), "frame_stack": FRAME_STACK}
    else:
        model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="mse")
        env = task
        settings = {"target_network_update": 2_000, "epsilon_anneal": max(1, steps // 16)}
    settings |= {"method": method, "workers": workers, "n_step": n_step, "seed": seed}
    return OneStepTrainer(env, model, learning_rate_anneal=steps, **settings)


def measure(task, *, workers, rounds, seconds):
    """Returns the environment steps per second of training with each number of workers, by it.

    They take turns, in this process, so that whatever else the machine does hits all of them.

    Args:
        task: A task.
        workers: Numbers of workers.
        rounds: How often each has its turn.
        seconds: Of a turn, at least.
    """
    trainers = {}
    for count in workers:  # with `steps=1` every epsilon is a worker's final one from the second step on
        trainers[count] = make_one_step(task, method="q", steps=1, workers=count)
        trainers[count].train(WARM_UP, verbose=0)
    steps, elapsed = dict.fromkeys(workers, 0), dict.fromkeys(workers, 0.0)
    for _ in range(rounds):
        for count, trainer in trainers.items():
            begun, before = time.perf_counter(), trainer.steps
            while time.perf_counter() - begun < seconds:
                trainer.train(STRETCH, verbose=0)
            steps[count] += trainer.steps - before
            elapsed[count] += time.perf_counter() - begun
    for trainer in trainers.values():
        trainer.close()
    return {"steps_per_second": {str(count): steps[count] / elapsed[count] for count in workers}}


def compare(task, *, seconds):
    """Returns the steps per second of two workers beside two processes of one worker, and of one process and of two.

    The first two numbers are measured at the same time. The others, one after the other, show what the machine makes
    of a second process that shares nothing with the first.
    """
    two, *ones = _at_once(task, "211", seconds)
    (before,), pair, (after,) = (_at_once(task, workers, seconds) for workers in ("1", "11", "1"))
    return {"threads": two, "processes": sum(ones), "one_process": (before + after) / 2, "two_processes": sum(pair)}


def _at_once(task, workers, seconds):
    """Returns the steps per second of processes that run at the same time, with so many workers each."""
    command = [sys.executable, "-m", "benchmarks.one_step_run", "speed", "--task", task, "--rounds", "1"]
    command += ["--seconds", str(seconds), "--workers"]
    running = [subprocess.Popen([*command, count], stdout=subprocess.PIPE, text=True) for count in workers]
    said = [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]
    return [next(iter(result["steps_per_second"].values())) for result in said]


def learn(task, *, agent, seed, steps, evaluate_every, n_step=1):
    """Trains an agent, on a task until its first pass, on the game to the end.

    Returns:
        A dict of its evaluations and, of the game, the mean return of a random agent.
    """
    random.seed(seed)  # Keras's initializers draw from it; `keras.utils.set_random_seed` imports TensorFlow, on JAX too
    if agent == "dqn":
        trainer = DQNTrainer(task, build_network(task), seed=seed)
    else:
        trainer = make_one_step(task, method=agent, steps=steps, n_step=n_step, seed=seed)
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
    speed, comparison, learning = (commands.add_parser(name) for name in ("speed", "compare", "learn"))
    for command in (speed, comparison, learning):
        command.add_argument("--task", choices=[*TASKS, BREAKOUT], required=True)
    speed.add_argument("--workers", type=int, nargs="+", required=True, help="numbers of workers, which take turns")
    speed.add_argument("--rounds", type=int, default=4, help="turns of each, default %(default)s")
    for command in (speed, comparison):
        command.add_argument("--seconds", type=float, default=5.0, help="of a turn, default %(default)s")
    learning.add_argument("--agent", choices=["q", "sarsa", "dqn"], required=True)
    learning.add_argument("--seed", type=int, required=True)
    learning.add_argument("--steps", type=int, required=True, help="environment steps")
    learning.add_argument(
        "--n-step", type=int, default=1, help="steps of reward before the bootstrap, default %(default)s"
    )
    learning.add_argument("--evaluate-every", type=int, default=10_000, help="environment steps")
    options = vars(parser.parse_args())
    what, task = options.pop("what"), options.pop("task")
    if options.get("agent") != "dqn":
        backend.single_threaded()
    result = {"speed": measure, "compare": compare, "learn": learn}[what](task, **options)
    report(result, packages=(*PACKAGES, *(["ale-py"] if task == BREAKOUT else []), keras.config.backend()))


if __name__ == "__main__":
    main()
