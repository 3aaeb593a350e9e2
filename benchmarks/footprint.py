"""How much memory a replay of pictures takes, beside stable-baselines3's.

`python -m benchmarks.footprint` runs what `results/footprint.jsonl` lacks, and writes the table.
"""

import argparse
import sys

from benchmarks import common
from benchmarks.common import Run, select
from benchmarks.tables import describe, render_number, render_table, write_markdown

NAME = "footprint"
SYSTEM = {"TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1"}  # TensorFlow's own keeps books of 1/32 of a power of two
EMPTY = 2_000  # rows of the replay that stands for none
CAPACITIES = (100_000, 1_000_000)
PHASES = ("building", "filling", "training", "saving", "loading")
PEER = "stable-baselines3"


def plan(options):
    """Returns the runs: each capacity and the nearly empty replay, in every library and mode."""
    runs = []
    for capacity in (EMPTY, *options.capacities):
        arguments = ["--capacity", str(capacity)]
        for backend in common.backends(options.backend):
            command = [sys.executable, "-m", "benchmarks.footprint_run", *arguments]
            allocators = {"": {}, ", the system's allocator": SYSTEM} if backend == "tensorflow" else {"": {}}
            for allocator, environment in allocators.items():
                key = {"agent": "sota_dqn", "mode": backend + allocator, "capacity": capacity}
                runs.append(Run(key, command, {"KERAS_BACKEND": backend, **environment}))
        if options.peers and capacity <= min(options.capacities):  # the larger ones do not fit into this machine
            peer = common.peer_python(options.peer_python)
            for mode, flags in (("plain", []), ("memory-saving", ["--saving"])):
                key = {"agent": PEER, "mode": mode, "capacity": capacity}
                runs.append(Run(key, [peer, "-m", "benchmarks.peers.sb3_footprint", *arguments, *flags], {}))
    return runs


def table(records):
    """Returns the table of gigabytes above the nearly empty replay, at the peak of each phase."""
    rows = []
    for record in records:
        if record["capacity"] == EMPTY:
            continue
        (base,) = select(records, agent=record["agent"], mode=record["mode"], capacity=EMPTY)
        cells = [
            render_number((record["peaks"][phase] - base["peaks"][phase]) / 1e9, 2)
            if phase in record["peaks"]
            else "not measured"
            for phase in PHASES
        ]
        rows.append([f"{record['agent']}, {record['mode']}", f"{record['capacity']:,}", *cells])
    return render_table(["library", "transitions", *PHASES], rows)


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    common.add_backend(parser, default="both")
    common.add_peers(parser)
    parser.add_argument("--capacities", type=int, nargs="+", default=CAPACITIES)
    options = parser.parse_args()
    records = common.run_all(plan(options), options.results / f"{NAME}.jsonl", groups=common.core_groups(1))
    parts = [
        f"Gigabytes (10^9 bytes) of anonymous memory at the peak of each phase, above the same process with a replay "
        f"of {EMPTY:,} rows. Pictures of 84 by 84, stacks of four; the replay is full.\n",
        table(records),
        "## How it was measured\n",
        describe(records),
    ]
    write_markdown(options.results / f"{NAME}.md", "Memory of a replay of pictures", parts)


if __name__ == "__main__":
    main()
