"""How well tasks are learned that need memory, with an LSTM and without: a T-maze, and CartPole without velocities.

`python -m benchmarks.memory` runs what `results/memory.jsonl` lacks, and writes the tables and the plot.
"""

import argparse
import statistics
import sys

from matplotlib.figure import Figure

from benchmarks import common
from benchmarks.common import Run, select
from benchmarks.tables import describe, median, render_number, render_table, write_markdown
from benchmarks.tasks import EPISODES, Evaluation, passed

NAME = "memory"
TASKS = {  # what the process is told, the environment steps of a run, and the least return that passes
    "tmaze-10": (("tmaze", 10), 20_000, 0.95),
    "tmaze-30": (("tmaze", 30), 20_000, 0.95),
    "cartpole": (("cartpole", None), 200_000, 475.0),
}
MOST = {"tmaze-10": 0.2, "tmaze-30": 0.2, "cartpole": 150.0}  # the return that is expected without memory, at most
MEMORIES = ("lstm", "none")


def plan(options):
    """Returns the runs, a seed of everything before the next seed."""
    runs = []
    for seed in range(options.seeds):
        for name in options.tasks:
            (task, corridor), steps, _ = TASKS[name]
            cap = options.cap or steps
            for memory in options.memories:
                for backend in common.backends(options.backend):
                    arguments = ["--task", task, "--memory", memory, "--seed", str(seed), "--cap", str(cap)]
                    arguments += ["--corridor", str(corridor)] if corridor else []
                    key = {"task": name, "memory": memory, "backend": backend, "seed": seed, "cap": cap}
                    command = [sys.executable, "-m", "benchmarks.memory_run", *arguments]
                    runs.append(Run(key, command, {"KERAS_BACKEND": backend}))
    return runs


def outcome(record):
    """Returns what one run reached: final and best return, steps to the first evaluation that passed or None, seconds
    of the whole process."""
    evaluations = [Evaluation(*values) for values in record["evaluations"]]
    first = passed(evaluations, TASKS[record["task"]][2], 1)
    return {
        "final": record["final"],
        "best": max(evaluation.return_mean for evaluation in evaluations),
        "first": first and first.steps,
        "seconds": record["process_seconds"],
    }


def reached(record):
    """Returns whether one run did what is expected of it.

    With memory: the T-maze at the end over 100 episodes, CartPole in one evaluation. Without: neither at the end, nor
    for CartPole in any evaluation.
    """
    found, task = outcome(record), record["task"]
    value = found["best" if task == "cartpole" else "final"]
    return value >= TASKS[task][2] if record["memory"] == "lstm" else value <= MOST[task]


def groups(records):
    """Yields task, memory, backend and the records of all seeds of each."""
    for key in dict.fromkeys((r["task"], r["memory"], r["backend"]) for r in records):
        yield *key, select(records, task=key[0], memory=key[1], backend=key[2])


def summary(records):
    """Returns the table over the seeds, one row per task, memory and backend."""
    rows = []
    for task, memory, backend, found in groups(records):
        outcomes = [outcome(record) for record in found]
        final, best = [o["final"] for o in outcomes], [o["best"] for o in outcomes]
        aim = f"at least {TASKS[task][2]:g}" if memory == "lstm" else f"at most {MOST[task]:g}"
        rows.append(
            [
                f"{task}, {memory}, {backend}",
                aim,
                f"{sum(map(reached, found))} of {len(found)}",
                render_number(statistics.mean(final), 2),
                f"{render_number(min(final), 2)} to {render_number(max(final), 2)}",
                f"{render_number(min(best), 2)} to {render_number(max(best), 2)}",
                render_number(median(o["first"] for o in outcomes), 0),
                render_number(statistics.median(o["seconds"] for o in outcomes), 0),
                render_number(max(o["seconds"] for o in outcomes), 0),
            ]
        )
    header = ["task", "aim", "seeds", "final return", "of the seeds", "best evaluation", "median steps"]
    return render_table([*header, "median seconds", "most seconds"], rows)


def seeds_table(records):
    """Returns the table of every run."""
    rows = []
    for record in records:
        found = outcome(record)
        name = f"{record['task']}, {record['memory']}, {record['backend']}"
        returns = [render_number(found["final"], 2), render_number(found["best"], 2)]
        steps = [render_number(found["first"], 0), render_number(record["steps"], 0)]
        rows.append([name, record["seed"], *returns, *steps, render_number(found["seconds"], 0)])
    header = ["task", "seed", "final return", "best evaluation", "first passed at", "steps", "seconds"]
    return render_table(header, rows)


def plot(records, path):
    """Draws the evaluations of every seed over steps, one panel per task; a run that passed is stopped."""
    tasks = list(dict.fromkeys(record["task"] for record in records))
    figure = Figure(figsize=(3.6 * len(tasks), 2.8), layout="constrained")
    for axis, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        for record in select(records, task=task):
            number = MEMORIES.index(record["memory"])
            steps, _, values = zip(*record["evaluations"], strict=True)
            first = record is select(records, task=task, memory=record["memory"])[0]
            label = record["memory"] if first else None
            axis.plot(steps, values, color=f"C{number}", linewidth=1, alpha=0.7, label=label)
            axis.plot(steps[-1], values[-1], "o", color=f"C{number}", markersize=3)
        axis.axhline(TASKS[task][2], color="black", linewidth=0.5, linestyle=":")
        axis.set_title(task, fontsize=9)
        axis.set_xlabel("environment steps", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.locator_params(axis="x", nbins=4)
        axis.legend(fontsize=7, frameon=False)
    figure.axes[0].set_ylabel("greedy return", fontsize=8)
    figure.savefig(path, dpi=100)


def write(records, folder):
    """Writes the results as Markdown, with the plot beside it."""
    plot(records, folder / f"{NAME}.png")
    cores = ", ".join(sorted({str(len(record["cores"])) for record in records}))
    parts = [
        f"An evaluation is {EPISODES} greedy episodes, every 1,000 steps of the T-maze and every 4,000 of CartPole. A "
        "run stops when two in a row (CartPole: one) reach the aim of the LSTM. The final return is that of the model "
        "then, or at the cap, over 100 episodes that no evaluation played. Without memory the aim is an upper limit: "
        "for the T-maze on the final return, for CartPole on every evaluation. Seconds are those of the whole process, "
        f"evaluations included. Cores a process: {cores}.\n",
        f"![Greedy return of every seed over steps]({NAME}.png)\n",
        "## Over the seeds\n",
        summary(records),
        "## Every seed\n",
        seeds_table(records),
        "## How it was measured\n",
        describe(records),
    ]
    write_markdown(folder / f"{NAME}.md", "Tasks that need memory", parts)


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    common.add_options(parser, seeds=5, tasks=TASKS, backend="jax")
    parser.add_argument("--memories", nargs="+", choices=MEMORIES, default=list(MEMORIES), help="default: both")
    options = parser.parse_args()
    cores = common.core_groups(options.jobs)
    results = options.results / f"{NAME}.jsonl"
    common.run_all(plan(options), results, groups=cores)
    write(common.read_results(results), options.results)


if __name__ == "__main__":
    main()
