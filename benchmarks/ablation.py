"""What each part of the algorithm is worth: every one switched alone against the defaults, over several seeds.

`python -m benchmarks.ablation` runs what `results/ablation.jsonl` lacks, and writes the tables and the plot.
"""

import argparse
import os
import sys

from matplotlib.figure import Figure

from benchmarks import common
from benchmarks.common import Run
from benchmarks.tables import bootstrap_interval, describe, render_number, render_table, write_markdown
from benchmarks.tasks import TASKS, Evaluation, area_under_curve
from benchmarks.variants import DEFAULTS, variants

NAME = "ablation"
MEASURES = {"area under the curve": "area", "final evaluation": "final"}


def plan(options):
    """Returns the runs, a seed of everything before the next seed."""
    wanted = [(factor, level) for factor, level in variants() if factor is None or factor in options.factors]
    runs = []
    for seed in range(options.seeds):
        for name in options.tasks:
            cap = options.cap or TASKS[name].cap
            for factor, level in wanted:
                arguments = ["--task", name, "--seed", str(seed), "--cap", str(cap)]
                if factor is not None:
                    arguments += ["--factor", factor, "--level", level]
                for backend in common.backends(options.backend):
                    key = {"task": name, "factor": factor, "level": level, "backend": backend, "seed": seed, "cap": cap}
                    command = [sys.executable, "-m", "benchmarks.learning", *arguments]
                    runs.append(Run(key, command, {"KERAS_BACKEND": backend}))
    return runs


def label(factor, level):
    """Returns a variant's name."""
    return "defaults" if factor is None else f"{factor}: {level}"


def measures(records):
    """Returns, for the runs of one variant on one task, each measure's value of every seed: dict of lists."""
    curves = [[Evaluation(*values) for values in record["evaluations"]] for record in records]
    return {"area": [area_under_curve(curve) for curve in curves], "final": [curve[-1].return_mean for curve in curves]}


def collect(records):
    """Returns `{task: {variant: {measure: (mean, low, high, seeds)}}}`, with the mean's 95 % interval."""
    found = {}
    for record in records:
        variant = label(record["factor"], record["level"])
        found.setdefault(record["task"], {}).setdefault(variant, []).append(record)
    return {
        task: {
            variant: {
                name: (sum(values) / len(values), *bootstrap_interval(values), len(values))
                for name, values in measures(group).items()
            }
            for variant, group in variants.items()
        }
        for task, variants in found.items()
    }


def table(results, measure):
    """Returns the table of one measure: a row per variant, a column per task."""
    rows = []
    for variant in dict.fromkeys(variant for task in results.values() for variant in task):
        row = [variant]
        for task in results.values():
            mean, low, high, _ = task[variant][measure] if variant in task else (None, None, None, 0)
            row.append(f"{render_number(mean)} [{render_number(low)}, {render_number(high)}]")
        rows.append(row)
    return render_table(["variant", *results], rows)


def plot(results, path):
    """Draws the area under the curve of every variant, with its interval; one panel per task."""
    names = list(dict.fromkeys(variant for task in results.values() for variant in task))[::-1]
    size = (2.4 * len(results) + 2.2, 0.28 * len(names) + 1.2)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(results), sharey=True, squeeze=False)
    for axis, (name, task) in zip(axes[0], results.items(), strict=True):
        for height, variant in enumerate(names):
            if variant in task:
                mean, low, high, _ = task[variant]["area"]
                color = "black" if variant == "defaults" else "tab:blue"
                axis.plot([low, high], [height, height], color=color)
                axis.plot(mean, height, "o", color=color, markersize=4)
        if "defaults" in task:
            axis.axvline(task["defaults"]["area"][0], color="black", linewidth=0.5, linestyle=":")
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=8)
    axes[0][0].set_yticks(range(len(names)), names)
    figure.supxlabel("area under the curve (mean return), 95 % bootstrap interval", fontsize=8)
    figure.savefig(path, dpi=100)


def write(records, folder):
    """Writes the results as Markdown, with the plot beside it."""
    results = collect(records)
    plot(results, folder / f"{NAME}.png")
    parts = [f"![Area under the curve of every variant]({NAME}.png)\n"]
    for title, measure in MEASURES.items():
        parts += [f"## {title.capitalize()}\n", table(results, measure)]
    counts = sorted({values["area"][-1] for task in results.values() for values in task.values()})
    seeds = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else counts[0]
    parts.append(f"Mean and 95 % bootstrap interval over {seeds} seeds, in units of return.\n")
    write_markdown(folder / f"{NAME}.md", "Ablation", [*parts, "## How it was measured\n", describe(records)])


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    common.add_options(parser, seeds=5, tasks=TASKS, backend="jax", jobs=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--factors", nargs="*", choices=DEFAULTS, default=list(DEFAULTS), help="default: all; none: the defaults alone"
    )
    options = parser.parse_args()
    if options.backend == "both":
        parser.error("one backend at a time: the algorithm is the same on both")
    groups = common.core_groups(options.jobs)
    records = common.run_all(plan(options), options.results / f"{NAME}.jsonl", groups=groups)
    write(records, options.results)


if __name__ == "__main__":
    main()
