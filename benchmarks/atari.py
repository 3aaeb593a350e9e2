"""How fast Breakout is trained on, whole: environments, acting, replay and updates, beside stable-baselines3.

`python -m benchmarks.atari` runs what `results/atari.jsonl` lacks, and writes the table.
"""

import argparse
import itertools
import os
import statistics
import sys

from benchmarks import common
from benchmarks.common import Run, select
from benchmarks.tables import describe, render_number, render_table, write_markdown

NAME = "atari"
COLUMNS = ("agent", "backend", "precision", "envs")  # what a row of the table is of
PEER = {"agent": "stable-baselines3", "backend": "torch", "precision": None, "envs": 1}


def plan(options):
    """Returns the runs: each repetition goes through all agents, so that the machine's load hits all."""
    runs = []
    arguments = ["--steps", str(options.steps), "--replay", str(options.replay)]
    for repetition in range(options.repetitions):
        rest = {"steps": options.steps, "replay": options.replay, "repetition": repetition}
        for backend, precision, envs in itertools.product(
            common.backends(options.backend), common.precisions(options), options.envs
        ):
            command = [sys.executable, "-m", "benchmarks.atari_run", *arguments, "--envs", str(envs)]
            command += ["--precision", precision] if precision else []
            key = {"agent": "sota_dqn", "backend": backend, "precision": precision, "envs": envs, **rest}
            runs.append(Run(key, command, {"KERAS_BACKEND": backend, **common.CONVOLUTIONS}))
        if options.peers:
            peer = common.peer_python(options.peer_python)
            runs.append(Run({**PEER, **rest}, [peer, "-m", "benchmarks.peers.sb3_atari", *arguments], {}))
    return runs


def table(records):
    """Returns the table of environment steps per second, with the ratio to the peer."""
    rows = []
    peer = [record["steps_per_second"] for record in select(records, **PEER)]
    base = statistics.median(peer) if peer else None
    for key in dict.fromkeys(tuple(record.get(name) for name in COLUMNS) for record in records):
        found = select(records, **dict(zip(COLUMNS, key, strict=True)))
        agent, backend, precision, envs = key
        rates = [record["steps_per_second"] for record in found]
        rate = statistics.median(rates)
        cells = [render_number(x, 0) for x in (rate, min(rates), max(rates))]
        ratio = render_number(rate / base, 2) if base else "–"
        peak = render_number(max(record["peak"] for record in found) / 1e9, 2)
        rows.append([f"{agent}, {backend}", precision or "float32", envs, *cells, ratio, peak])
    header = ["agent", "precision", "games side by side", "steps/s, median", "least", "most", "ratio", "GB at the peak"]
    return render_table(header, rows)


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    common.add_backend(parser, default="both")
    common.add_peers(parser)
    common.add_precisions(parser)
    parser.add_argument("--steps", type=int, default=4_000, help="environment steps that are measured in each run")
    parser.add_argument("--replay", type=int, default=100_000, help="transitions that the replay can hold")
    parser.add_argument("--envs", type=int, nargs="+", default=[16], help="games side by side, ours")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="default: the last usable one")
    options = parser.parse_args()
    records = common.run_all(plan(options), options.results / f"{NAME}.jsonl", groups=[[options.core]])
    parts = [
        "Breakout, the network of Mnih et al. 2015, batch 32, an update every 4 steps, after 2,000 steps of warm-up; "
        f"one process at a time on core {options.core}. Ours: prioritized, double, 5-step; stable-baselines3: plain "
        "DQN with its zoo's settings, one game at a time. The memory is that of a replay that is not full yet.\n",
        table(records),
        "## How it was measured\n",
        describe(records),
    ]
    write_markdown(options.results / f"{NAME}.md", "Training on Breakout", parts)


if __name__ == "__main__":
    main()
