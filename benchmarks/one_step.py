"""Asynchronous one-step methods: how speed grows with workers, and how they learn beside `DQNTrainer`.

`python -m benchmarks.one_step` runs what `results/one_step.jsonl` lacks, and writes the tables and the plot.
"""

import argparse
import statistics
import sys

from matplotlib.figure import Figure

from benchmarks import common
from benchmarks.classic_control import outcome
from benchmarks.common import Run, select
from benchmarks.minatar import curve
from benchmarks.tables import describe, median, render_number, render_table, write_markdown
from benchmarks.tasks import BREAKOUT, EPISODES, TASKS

NAME = "one_step"
WORKERS = (1, 2, 4, 8)
SPEED_TASKS = (BREAKOUT, "CartPole-v1")
STEPS = {"CartPole-v1": 800_000, "Acrobot-v1": 800_000}  # environment steps of the one-step methods, at most
BREAKOUT_STEPS = 800_000  # environment steps; `--game-steps`
EVALUATE_EVERY = {"CartPole-v1": 10_000, "Acrobot-v1": 10_000, BREAKOUT: 100_000}
AGENTS = ("q", "sarsa", "dqn")
PARTS = ("speed", "learning", "game")


def plan(options):
    """Returns the runs of the parts that are asked for: all configurations once before they are repeated."""
    runs = []
    if "speed" in options.parts:
        runs += speed_runs(options)
    if "learning" in options.parts:
        runs += learning_runs(options)
    if "game" in options.parts and BREAKOUT in options.tasks:
        for backend in common.backends(options.backend):
            every, n_step = EVALUATE_EVERY[BREAKOUT], options.game_n_step
            runs.append(learning_run(BREAKOUT, "q", options.game_steps, every, backend, 0, n_step=n_step))
    return runs


def speed_runs(options):
    """Returns the runs that measure steps per second: with all numbers of workers, and beside two processes."""
    runs = []
    for repetition in range(options.repetitions):
        for task in [task for task in SPEED_TASKS if task in options.tasks]:
            for backend in common.backends(options.backend):
                for what in ("speed", "compare"):
                    key = {"what": what, "task": task, "backend": backend, "repetition": repetition}
                    arguments = ["--task", task, "--seconds", str(options.seconds)]
                    if what == "speed":
                        arguments += ["--workers", *map(str, WORKERS)]
                    command = [sys.executable, "-m", "benchmarks.one_step_run", what, *arguments]
                    runs.append(Run(key, command, {"KERAS_BACKEND": backend}))
    return runs


def learning_runs(options):
    """Returns the runs that learn classic control: for each seed all agents alternate."""
    runs = []
    for seed in range(options.seeds):
        for task in [task for task in STEPS if task in options.tasks]:
            for agent in options.agents:
                own = agent != "dqn"
                steps = (options.steps or STEPS[task]) if own else TASKS[task].cap
                every = EVALUATE_EVERY[task] if own else TASKS[task].evaluate_every
                for backend in common.backends(options.backend):
                    runs.append(learning_run(task, agent, steps, every, backend, seed))
    return runs


def learning_run(task, agent, steps, evaluate_every, backend, seed, n_step=1):
    """Returns one run that learns."""
    key = {"what": "learn", "task": task, "agent": agent, "backend": backend, "seed": seed, "cap": steps}
    arguments = ["--task", task, "--agent", agent, "--seed", str(seed), "--steps", str(steps)]
    if n_step > 1:
        key["agent"] = f"{n_step}-step {agent}"
        arguments += ["--n-step", str(n_step)]
    arguments += ["--evaluate-every", str(evaluate_every)]
    command = [sys.executable, "-m", "benchmarks.one_step_run", "learn", *arguments]
    return Run(key, command, {"KERAS_BACKEND": backend})


def speed_table(records):
    """Returns the table of medians of steps per second, and what a second worker or process brings."""
    rows = []
    for task, backend in dict.fromkeys((r["task"], r["backend"]) for r in records):
        found = select(records, task=task, backend=backend)
        speeds = [record["steps_per_second"] for record in select(found, what="speed")]
        compared = select(found, what="compare")
        beside, machine = (
            median([record[over] / record[under] for record in compared if over in record] or [None])
            for over, under in (("threads", "processes"), ("two_processes", "one_process"))
        )
        cells = [render_number(median([speed[str(count)] for speed in speeds]), 0) for count in WORKERS]
        ratio = median([speed["2"] / speed["1"] for speed in speeds])
        rows.append([f"{task}, {backend}", *cells, *(render_number(value, 2) for value in (ratio, machine, beside))])
    header = ["", *(f"{count} worker{'s' if count > 1 else ''}" for count in WORKERS)]
    ratios = ["2 workers against 1", "2 processes against 1", "2 workers against 2 processes at the same time"]
    return render_table([*header, *ratios], rows)


def groups(records):
    """Yields task, agent, backend and the records of all seeds of each."""
    for task, agent, backend, cap in dict.fromkeys((r["task"], r["agent"], r["backend"], r["cap"]) for r in records):
        yield task, agent, backend, select(records, task=task, agent=agent, backend=backend, cap=cap)


def learning_table(records):
    """Returns the table of medians over the seeds, one row per task and agent; what was not reached is a dash."""
    rows = []
    for task, agent, backend, found in groups(records):
        outcomes = [outcome(record) for record in found]
        passed = sum(o["first_steps"] is not None for o in outcomes)
        middle = {name: median([o[name] for o in outcomes]) for name in ("first_steps", "first_seconds")}
        rows.append(
            [
                f"{task} ({TASKS[task].threshold:g}), {agent}, {backend}",
                f"{passed} of {len(found)}",
                render_number(middle["first_steps"], 0),
                render_number(middle["first_seconds"], 0),
                render_number(max(record["steps"] for record in found), 0),
                render_number(statistics.median(record["process_seconds"] for record in found), 0),
            ]
        )
    header = ["task (threshold), agent", "passed", "steps to the first pass", "seconds to it", "most steps"]
    return render_table([*header, "seconds of the process"], rows)


def game_table(records):
    """Returns the table of the game: a row per run."""
    rows = []
    for record in records:
        returns = [value for _, _, value in record["evaluations"]]
        rows.append(
            [
                f"{record['task']}, {record['agent']}, {record['backend']}",
                render_number(record["steps"], 0),
                render_number(record["random"], 2),
                render_number(returns[-1], 2),
                render_number(max(returns), 2),
                render_number(record["process_seconds"], 0),
            ]
        )
    return render_table(["", "steps", "random agent", "last evaluation", "best evaluation", "seconds"], rows)


def plot(records, path):
    """Draws the returns of each task over steps and over seconds: a line for each seed."""
    tasks = list(dict.fromkeys(record["task"] for record in records))
    figure = Figure(figsize=(8.4, 2.5 * len(tasks)), layout="constrained")
    panels = figure.subplots(len(tasks), 2, squeeze=False, sharey="row")
    for row, task in zip(panels, tasks, strict=True):
        for number, (_, agent, backend, found) in enumerate(groups(select(records, task=task))):
            for column, panel in enumerate(row):
                for i, record in enumerate(found):
                    points = curve([record])
                    label = f"{agent}, {backend}" if i == 0 else None
                    panel.plot(points[:, column], points[:, 2], color=f"C{number}", linewidth=1, label=label)
                panel.set_xlabel(("environment steps", "seconds since the process started")[column], fontsize=8)
                panel.tick_params(labelsize=8)
                panel.grid(linewidth=0.3)
        row[0].set_ylabel("return of an evaluation", fontsize=8)
        row[0].set_title(task, fontsize=9, loc="left")
        row[0].legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=100)


def write(records, folder):
    """Writes the results as Markdown, with the plot beside it."""
    learned = select(records, what="learn")
    speed = [record for record in records if record["what"] != "learn"]
    game = select(learned, task=BREAKOUT)
    classic = [record for record in learned if record["task"] != BREAKOUT]
    parts = []
    if speed:
        parts += ["## Environment steps per second of training\n", speed_table(speed)]
    if classic:
        parts += ["## Classic control\n", learning_table(classic)]
        parts.append(
            f"A run ends at its first pass, one evaluation of {EPISODES} greedy episodes at the threshold: partly "
            "luck. Seconds count from the start of the process.\n"
        )
    if game:
        parts += ["## Breakout\n", game_table(game)]
        parts.append(f"An evaluation is {EPISODES} whole games at epsilon 0.01.\n")
    if learned:
        plot(learned, folder / f"{NAME}.png")
        parts.append(f"![Return over steps and over seconds]({NAME}.png)\n")
    cores = ", ".join(sorted({str(len(record["cores"])) for record in records}))
    parts += [f"Cores a process: {cores}.\n", "## How it was measured\n", describe(records)]
    write_markdown(folder / f"{NAME}.md", "Asynchronous one-step methods", parts)


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    tasks = [*STEPS, BREAKOUT]
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=tasks, help="default: all")
    parser.add_argument("--agents", nargs="+", choices=AGENTS, default=list(AGENTS), help="that learn; default: all")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to N-1, default %(default)s")
    parser.add_argument("--steps", type=int, help="environment steps of the one-step methods; default: the protocol's")
    parser.add_argument("--game-steps", type=int, default=BREAKOUT_STEPS, help="of the game, default %(default)s")
    parser.add_argument("--game-n-step", type=int, default=5, help="steps of reward in the game, default %(default)s")
    parser.add_argument("--repetitions", type=int, default=3, help="of each speed, default %(default)s")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a turn in measuring speed, default %(default)s")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time, on equal shares of the cores")
    common.add_backend(parser, default="both")
    options = parser.parse_args()
    results = options.results / f"{NAME}.jsonl"
    common.run_all(plan(options), results, groups=common.core_groups(options.jobs))
    write(common.read_results(results), options.results)


if __name__ == "__main__":
    main()
