"""How soon classic control is solved with the defaults, beside stable-baselines3 with the tuned values of its zoo.

`python -m benchmarks.classic_control` runs what `results/classic_control.jsonl` lacks, and writes the tables.
"""

import argparse
import statistics
import sys

from benchmarks import common
from benchmarks.common import Run, select
from benchmarks.tables import describe, median, render_number, render_table, write_markdown
from benchmarks.tasks import TASKS, Evaluation, passed

NAME = "classic_control"
OURS = "sota_dqn"
PEER = "stable-baselines3"


def plan(options):
    """Returns the runs: for each seed and task ours and the peer's alternate, so that the machine's load hits both."""
    peer = common.peer_python(options.peer_python) if options.peers else None
    runs = []
    for seed in range(options.seeds):
        for name in options.tasks:
            cap = options.cap or TASKS[name].cap
            arguments = ["--task", name, "--seed", str(seed), "--cap", str(cap)]
            key = {"task": name, "agent": OURS, "backend": None, "seed": seed, "cap": cap}
            for backend in common.backends(options.backend):
                command = [sys.executable, "-m", "benchmarks.learning", *arguments, "--stop"]
                runs.append(Run({**key, "backend": backend}, command, {"KERAS_BACKEND": backend}))
            if peer and (options.peer_seeds is None or seed < options.peer_seeds):
                command = [peer, "-m", "benchmarks.peers.sb3_dqn", *arguments]
                runs.append(Run({**key, "agent": PEER, "backend": "torch"}, command, {}))
    return runs


def outcome(record):
    """Returns what one run reached.

    Returns:
        A dict of steps and seconds of the first single pass, and of three in a row, None where it was not reached. The
        seconds of the latter are those of the whole process, from its start to its exit.
    """
    threshold = TASKS[record["task"]].threshold
    evaluations = [Evaluation(*values) for values in record["evaluations"]]
    first, solved = passed(evaluations, threshold, 1), passed(evaluations, threshold)
    return {
        "first_steps": first and first.steps,
        "first_seconds": first and first.seconds,
        "solved_steps": solved and solved.steps,
        "solved_seconds": solved and record["process_seconds"],
    }


def label(record):
    """Returns who made a record, for a table."""
    return f"{record['agent']}, {record['backend']}"


def summary(records):
    """Returns the table of medians over the seeds, one row per task and agent."""
    rows = []
    for name, task in TASKS.items():
        for who in dict.fromkeys(label(record) for record in records):
            found = [record for record in select(records, task=name) if label(record) == who]
            if not found:
                continue
            outcomes = [outcome(record) for record in found]
            solved = sum(o["solved_steps"] is not None for o in outcomes)
            middle = {key: median([o[key] for o in outcomes]) for key in outcomes[0]}
            rows.append(
                [
                    f"{name} ({task.threshold:g})",
                    who,
                    f"{solved} of {len(found)}",
                    render_number(middle["solved_seconds"]),
                    render_number(middle["solved_steps"], 0),
                    render_number(middle["first_seconds"]),
                    render_number(middle["first_steps"], 0),
                    render_number(statistics.median(record["process_seconds"] for record in found)),
                ]
            )
    header = ["task (threshold)", "agent", "solved", "seconds to solved", "steps to solved"]
    return render_table([*header, "seconds to first pass", "steps to first pass", "seconds of the process"], rows)


def render_moment(seconds, steps):
    """Returns when something was reached; None is a dash."""
    return "–" if steps is None else f"{render_number(seconds)} s, {render_number(steps, 0)}"


def seeds_table(records, name):
    """Returns the table of every seed of one task: seconds and steps of each agent to solved and to the first pass."""
    agents = list(dict.fromkeys(label(record) for record in records))
    rows = []
    for seed in sorted({record["seed"] for record in records}):
        row = [seed]
        for who in agents:
            found = [record for record in select(records, seed=seed) if label(record) == who]
            reached = (
                outcome(found[0])
                if found
                else dict.fromkeys(("solved_seconds", "solved_steps", "first_seconds", "first_steps"))
            )
            row.append(render_moment(reached["solved_seconds"], reached["solved_steps"]))
            row.append(render_moment(reached["first_seconds"], reached["first_steps"]))
        rows.append(row)
    header = [cell for who in agents for cell in (f"{who}: solved", "first pass")]
    return f"### {name}\n\n" + render_table(["seed", *header], rows)


def write(records, path):
    """Writes the results as Markdown."""
    parts = ["## Medians over the seeds\n", summary(records), "## Every seed\n"]
    for name in TASKS:
        found = select(records, task=name)
        if found:
            parts.append(seeds_table(found, name))
    cores = ", ".join(sorted({str(len(record["cores"])) for record in records}))
    parts.append(f"Seconds and environment steps; a dash: not reached within the cap. Cores a process: {cores}.\n")
    write_markdown(path, "Classic control", [*parts, "## How it was measured\n", describe(records)])


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    common.add_options(parser, seeds=10, tasks=TASKS, backend="both")
    common.add_peers(parser)
    parser.add_argument("--peer-seeds", type=int, help="fewer seeds for the peer, which takes longer; default: as many")
    options = parser.parse_args()
    results = options.results / f"{NAME}.jsonl"
    records = common.run_all(plan(options), results, groups=common.core_groups(options.jobs))
    write(records, options.results / f"{NAME}.md")


if __name__ == "__main__":
    main()
