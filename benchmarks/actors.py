"""What actor processes bring: environment steps and updates per second beside the learner's speed alone.

`python -m benchmarks.actors` runs what `results/actors.jsonl` lacks, and writes the tables.
"""

import argparse
import sys

from benchmarks import common
from benchmarks.common import Run, select
from benchmarks.tables import describe, render_number, render_table, write_markdown

NAME = "actors"
RATES = {"cartpole": (0, 1, 2), "atari": (0, 1, 2), "sleeping": (0, 1, 2, 4, 8)}  # numbers of actors
RAY = {"sleeping": (1, 2)}
COSTS = ("cartpole", "atari")
STARTS = (1, 8)  # numbers of actors


def plan(options):
    """Returns the runs."""
    runs = []
    seconds = {"seconds": options.seconds}
    for backend in common.backends(options.backend):
        for actors in STARTS if "cartpole" in options.envs else ():
            for forked in (True, False):
                key = {"what": "start", "env": "cartpole", "actors": actors, "forked": forked}
                runs.append(_run({**key, "ray": False, "backend": backend}))
        for ray, numbers in ((False, RATES), (True, RAY if options.ray else {})):
            for env, counts in numbers.items():
                for actors in counts if env in options.envs else ():
                    key = {"what": "rates", "env": env, "actors": actors, "ray": ray, "backend": backend, **seconds}
                    runs.append(_run(key))
        for ray in (False, True) if options.ray else (False,):
            for env in [env for env in COSTS if env in options.envs]:
                runs.append(_run({"what": "costs", "env": env, "ray": ray, "backend": backend, **seconds}))
    return runs


def _run(key):
    arguments = ["--what", key["what"], "--env", key["env"]]
    arguments += [f"--{name}={key[name]}" for name in ("seconds", "actors") if name in key]
    arguments += ["--ray"] if key["ray"] else []
    arguments += [] if key.get("forked", True) else ["--no-forked"]
    command = [sys.executable, "-m", "benchmarks.actors_run", *arguments]
    return Run(key, command, {"KERAS_BACKEND": key["backend"]})


def rates_table(records):
    """Returns the table of the rates: a row per environment, backend and number of actors."""
    rows = []
    for record in select(records, what="rates"):
        alike = {name: record[name] for name in ("env", "backend", "ray", "seconds")}
        single = select(records, what="rates", actors=1, **alike)
        gain = record["steps_per_second"] / single[0]["steps_per_second"] if single and record["actors"] else None
        kept = record["updates_per_second"] / record["updates_per_second_alone"] if record["actors"] else None
        rows.append(
            [
                f"{record['env']}, {record['backend']}{', Ray' if record['ray'] else ''}",
                render_number(record["seconds"], 0),
                record["actors"],
                render_number(record["steps_per_second"], 0),
                render_number(gain, 2),
                render_number(record["updates_per_second"], 0),
                render_number(kept, 2),
                render_number(record["lag"], 0),
            ]
        )
    header = ["environment", "window, s", "actors", "steps/s", "to one actor", "updates/s", "to learning alone", "lag"]
    return render_table(header, rows)


def costs_table(records):
    """Returns the table of the costs of the way between actor and learner."""
    rows = []
    for record in select(records, what="costs"):
        megabytes = record["weights_bytes"] / 1e6
        rows.append(
            [
                f"{record['env']}, {record['backend']}{', Ray' if record['ray'] else ''}",
                render_number(record["row_bytes"], 0),
                render_number(record["chunk_milliseconds"], 2),
                render_number(record["copy_microseconds_per_step"], 2),
                render_number(megabytes, 2),
                render_number(record["weights_milliseconds"], 2),
                render_number(record["weights_milliseconds"] / megabytes, 2),
            ]
        )
    header = ["environment", "bytes/row", "chunk of one step, ms", "copies, µs/step", "weights, MB", "ms", "ms/MB"]
    return render_table(header, rows)


def start_table(records):
    """Returns the table of how long actors take to start, and of what they take."""
    rows = []
    for record in select(records, what="start"):
        rows.append(
            [
                record["backend"],
                record["actors"],
                "forked" if record["forked"] else "each imports",
                render_number(record["seconds_to_first"], 1),
                render_number(record["seconds_to_all"], 1),
                render_number(record["cpu_seconds"], 1),
                render_number(record["private_bytes"] / 1e6, 0),
            ]
        )
    header = ["backend", "actors", "how", "first rows, s", "rows of all, s", "processor, s an actor", "own memory, MB"]
    return render_table(header, rows)


def write(records, folder):
    """Writes the results as Markdown."""
    parts = [
        "Eight environments an actor; both sides as fast as they can. Medians of windows, alternating with windows "
        "of the learner alone. Without actors, one update in two steps.\n",
        rates_table(records),
        "`lag`: updates made since those whose weights acted, at a step's arrival.\n",
        "## The way between actor and learner\n",
        costs_table(records),
        "## Their start\n",
        "Eight CartPoles an actor, an MLP. Seconds from the call that starts the actors. `forked`: from one process "
        "that has imported everything, whose seconds are not an actor's; `each imports`: where that is not possible, "
        "outside Linux. Memory that an actor shares with no other process.\n",
        start_table(records),
        "## How it was measured\n",
        describe(records),
    ]
    write_markdown(folder / f"{NAME}.md", "Actor processes", parts)


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    common.add_backend(parser, default="both")
    parser.add_argument("--envs", nargs="+", choices=RATES, default=list(RATES), help="default: all")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a window (default: %(default)s)")
    parser.add_argument("--ray", action=argparse.BooleanOptionalAction, default=True, help="measure Ray's actors too")
    options = parser.parse_args()
    results = options.results / f"{NAME}.jsonl"
    common.run_all(plan(options), results, groups=common.core_groups(1))
    write(common.read_results(results), options.results)


if __name__ == "__main__":
    main()
