"""The tasks, and when one counts as solved. Pure Python: the peers' interpreter imports it too.

To add a task, add a line to `TASKS`.
"""

from typing import NamedTuple

__all__ = [
    "BREAKOUT",
    "CONSECUTIVE",
    "EPISODES",
    "TASKS",
    "Evaluation",
    "Task",
    "add_arguments",
    "area_under_curve",
    "passed",
]

BREAKOUT = "ALE/Breakout-v5"
EPISODES = 20  # greedy episodes in one evaluation
CONSECUTIVE = 3  # evaluations in a row at the threshold that count as solved


class Task(NamedTuple):
    """An environment and its protocol."""

    environment: str  # Gymnasium's id
    threshold: float  # mean return of an evaluation that passes
    evaluate_every: int  # environment steps
    cap: int  # environment steps after which a run is given up


class Evaluation(NamedTuple):
    """The outcome of one evaluation during training."""

    steps: int  # environment steps before it
    seconds: float  # since the process was started, this evaluation included
    return_mean: float  # over `EPISODES` greedy episodes


TASKS = {
    task.environment: task
    for task in (
        Task("CartPole-v1", 475.0, 2_000, 100_000),
        Task("Acrobot-v1", -100.0, 4_000, 200_000),
        Task("MountainCar-v0", -110.0, 8_000, 300_000),
        Task("LunarLander-v3", 200.0, 8_000, 300_000),
    )
}


def passed(evaluations, threshold, consecutive=CONSECUTIVE):
    """Returns the first evaluation that ends a row of `consecutive` ones at the threshold.

    Args:
        evaluations: `Evaluation`s in the order of their steps.
        threshold: Least `return_mean` that passes.
        consecutive: Length of the row; 1 finds the first single pass.

    Returns:
        An `Evaluation`, or None where there is no such row.
    """
    row = 0
    for evaluation in evaluations:
        row = row + 1 if evaluation.return_mean >= threshold else 0
        if row == consecutive:
            return evaluation
    return None


def area_under_curve(evaluations):
    """Returns the mean height of the curve of `return_mean` over steps, by the trapezoidal rule, in units of return.

    Args:
        evaluations: At least one `Evaluation`, in the order of their steps.
    """
    if len(evaluations) == 1:
        return evaluations[0].return_mean
    area = 0.0
    for left, right in zip(evaluations, evaluations[1:], strict=False):
        area += (right.steps - left.steps) * (left.return_mean + right.return_mean) / 2
    return area / (evaluations[-1].steps - evaluations[0].steps)


def add_arguments(parser):
    """Adds the command-line arguments of a process that trains one agent on one task."""
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--cap", type=int, required=True, help="environment steps at most")
