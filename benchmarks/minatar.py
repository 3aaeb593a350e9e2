"""How well and how soon MinAtar is played with the defaults; only the model differs from classic control.

`python -m benchmarks.minatar` runs what `results/minatar.jsonl` lacks, and writes the tables and the plot.
"""

import argparse
import statistics
import sys

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from benchmarks import common
from benchmarks.common import Run, select
from benchmarks.tables import describe, render_number, render_table, write_markdown
from benchmarks.tasks import EPISODES

NAME = "minatar"
STEPS = {  # environment steps of a run
    "breakout": 500_000,
    "space_invaders": 500_000,
    "freeway": 1_000_000,
    "asterix": 1_000_000,
    "seaquest": 1_000_000,
}
PUBLISHED = ("breakout", "space_invaders", "freeway")
LAST = 5  # evaluations at the end of a run whose mean is its final return


def plan(options):
    """Returns the runs, a seed of every game before the next seed."""
    runs = []
    for seed in range(options.seeds):
        for game in options.games:
            steps = options.steps or STEPS[game]
            for backend in common.backends(options.backend):
                key = {"game": game, "n_step": options.n_step, "backend": backend, "seed": seed, "steps": steps}
                arguments = ["--game", game, "--seed", str(seed), "--steps", str(steps)]
                arguments += ["--n-step", str(options.n_step)] if options.n_step else []
                command = [sys.executable, "-m", "benchmarks.minatar_run", *arguments]
                runs.append(Run(key, command, {"KERAS_BACKEND": backend}))
    return runs


def describe_run(record):
    """Returns what was played, on which backend, and what was not the default."""
    changed = f", n_step={record['n_step']}" if record.get("n_step") else ""
    return f"{record['game']}, {record['backend']}{changed}"


def outcome(record):
    """Returns what one run reached: a dict of its final and its best return, and of its speed."""
    returns = [value for _, _, value in record["evaluations"]]
    return {
        "final": statistics.mean(returns[-LAST:]),
        "best": max(returns),
        "seconds": record["process_seconds"],
        "steps_per_second": record["steps"] / record["process_seconds"],
    }


def groups(records):
    """Yields name, steps and the records of all seeds of each configuration."""
    for name, steps in dict.fromkeys((describe_run(record), record["steps"]) for record in records):
        yield name, steps, [record for record in select(records, steps=steps) if describe_run(record) == name]


def summary(records):
    """Returns the table of means over the seeds, one row per game and backend."""
    rows = []
    for name, steps, found in groups(records):
        outcomes = [outcome(record) for record in found]
        mean = {key: statistics.mean(o[key] for o in outcomes) for key in outcomes[0]}
        final = [o["final"] for o in outcomes]
        rows.append(
            [
                name,
                render_number(steps, 0),
                len(found),
                render_number(mean["final"]),
                f"{render_number(min(final))} to {render_number(max(final))}",
                render_number(mean["best"]),
                render_number(mean["seconds"], 0),
                render_number(mean["steps_per_second"], 0),
            ]
        )
    header = ["game", "steps", "seeds", "final return", "of the seeds", "best evaluation", "seconds", "steps/s"]
    return render_table(header, rows)


def curve(records):
    """Returns the mean over seeds of what the evaluations of `records` say, `[N, 3]`: steps, seconds, return."""
    length = min(len(record["evaluations"]) for record in records)
    return np.mean([record["evaluations"][:length] for record in records], axis=0)


def curves_table(records, parts=5):
    """Returns the table of the mean curves: the return after each fifth of the steps, and the seconds until then."""
    rows = []
    for name, steps, found in groups(records):
        points = curve(found)
        reached = [points[max(1, len(points) * part // parts) - 1] for part in range(1, parts + 1)]
        cells = [f"{render_number(value)} in {render_number(seconds, 0)} s" for _, seconds, value in reached]
        rows.append([f"{name}, {steps:,} steps", *cells])
    return render_table(["game", *(f"{100 * part // parts} %" for part in range(1, parts + 1))], rows)


def plot(records, path):
    """Draws the returns of each game over steps and over seconds: each seed thin, the mean of all thick."""
    games = list(dict.fromkeys(record["game"] for record in records))
    figure = Figure(figsize=(9.6, 2.4 * len(games)), layout="constrained")
    panels = figure.subplots(len(games), 2, squeeze=False, sharey="row")
    for row, game in zip(panels, games, strict=True):
        for number, (name, steps, found) in enumerate(groups(select(records, game=game))):
            colour = f"C{number}"
            label = f"{name.partition(', ')[2]}\n{steps:,} steps, {len(found)} seed{'s' if len(found) > 1 else ''}"
            for column, panel in enumerate(row):
                for record in found:
                    points = curve([record])
                    panel.plot(points[:, column], points[:, 2], color=colour, linewidth=0.6, alpha=0.5)
                points = curve(found)
                panel.plot(points[:, column], points[:, 2], color=colour, linewidth=2, label=label)
                panel.set_xlabel(("environment steps", "seconds since the process started")[column], fontsize=8)
                panel.tick_params(labelsize=8)
                panel.grid(linewidth=0.3)
        row[0].xaxis.set_major_formatter(EngFormatter(sep=""))  # 200k, 1M
        row[0].set_ylabel("greedy return", fontsize=8)
        row[0].set_title(game, fontsize=9, loc="left")
        row[1].legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.05))
    figure.savefig(path, dpi=100)


def seeds_table(records):
    """Returns the table of every run."""
    rows = []
    for record in records:
        reached = outcome(record)
        returns = [render_number(reached["final"]), render_number(reached["best"])]
        seconds = render_number(reached["seconds"], 0)
        rows.append([describe_run(record), render_number(record["steps"], 0), record["seed"], *returns, seconds])
    return render_table(["game", "steps", "seed", "final return", "best evaluation", "seconds"], rows)


def write(records, folder):
    """Writes the results as Markdown, with the plot beside it."""
    plot(records, folder / f"{NAME}.png")
    protocol = "; ".join(dict.fromkeys(record["protocol"] for record in records))
    cores = ", ".join(sorted({str(len(record["cores"])) for record in records}))
    parts = [
        f"{protocol}. An evaluation is {EPISODES} greedy episodes; the final return is the mean of a run's last {LAST} "
        "evaluations. The model: 16 filters of 3 by 3, a hidden layer of 128; all else are the library's defaults, but "
        "for what a row names. Seconds are those of the whole process, its evaluations included. "
        f"Cores a process: {cores}.\n",
        f"![Return over steps and over seconds]({NAME}.png)\n",
        "## Means over the seeds\n",
        summary(records),
        "## Mean curves\n",
        curves_table(records),
        "## Every seed\n",
        seeds_table(records),
        "## How it was measured\n",
        describe(records),
    ]
    write_markdown(folder / f"{NAME}.md", "MinAtar", parts)


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = ", ".join(PUBLISHED)
    parser.add_argument("--games", nargs="+", choices=STEPS, default=list(PUBLISHED), help=f"default: {names}")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to N-1, default %(default)s")
    parser.add_argument("--steps", type=int, help="environment steps of every game; default: the protocol's")
    parser.add_argument(
        "--n-step",
        type=lambda text: int(text) if text.isdigit() else text,
        help="in place of the default, 1 or 5-1/100000 (from 5 to 1 in so many steps); its runs are rows of their own",
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time, on equal shares of the cores")
    common.add_backend(parser, default="jax")
    options = parser.parse_args()
    cores = common.core_groups(options.jobs)
    results = options.results / f"{NAME}.jsonl"
    common.run_all(plan(options), results, groups=cores)
    write(common.read_results(results), options.results)


if __name__ == "__main__":
    main()
