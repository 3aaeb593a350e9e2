"""How fast updates are in each way to compile them on one core: that of `backend.plan`, and all others.

`python -m benchmarks.plans` runs what `results/plans.jsonl` lacks, and writes the table. It fails where another way is
clearly faster than the one that is taken.
"""

import argparse
import itertools
import os
import statistics
import sys

from benchmarks import common
from benchmarks.common import Run, select
from benchmarks.tables import describe, render_number, render_table, write_markdown
from sota_dqn import backend

NAME = "plans"
NETS = {"mlp": 100_000, "nature": 10_000}  # and the rows in the replay
UPDATES_PER_CALL = 8  # that of the defaults; all are unrolled where they are not in a loop
WAYS = {"tensorflow": ("xla", "graph"), "jax": ("xla", "ynnpack")}  # see `speed.set_compiler`
MARGIN = 1.1  # a ratio above it tells more than the noise of shared machines


def keys(options):
    """Returns the key of every way: a net, a backend, its compiler, and whether the updates are fused in a loop."""
    return [
        {"net": net, "backend": backend, "compiler": compiler, "fused": fused}
        for net in options.nets
        for backend in common.backends(options.backend)
        for compiler, fused in itertools.product(WAYS[backend], (True, False))
    ]


def plan(options):
    """Returns the runs: each repetition goes through all ways."""
    runs = []
    for repetition in range(options.repetitions):
        for key in keys(options):
            command = [sys.executable, "-m", "benchmarks.speed", "update", "--net", key["net"]]
            command += ["--updates-per-call", str(UPDATES_PER_CALL), "--capacity", str(NETS[key["net"]])]
            command += ["--seconds", str(options.seconds), "--compiler", key["compiler"]]
            command += ["--fused" if key["fused"] else "--no-fused"]
            key_and_number = {**key, "seconds": options.seconds, "repetition": repetition}
            runs.append(Run(key_and_number, command, {"KERAS_BACKEND": key["backend"]}))
    return runs


def rates(records, options):
    """Returns `[(key, median updates/s, median seconds of the process, whether it is the way that is taken)]`."""
    found = []
    for key in keys(options):
        runs = select(records, **key)
        medians = [statistics.median(run[name] for run in runs) for name in ("updates_per_second", "process_seconds")]
        usual = backend.plan(convolutions=key["net"] == "nature", backend=key["backend"], device="cpu")
        found.append((key, *medians, (("graph", "xla")[usual.xla], usual.fused) == (key["compiler"], key["fused"])))
    return found


def write(records, options):
    """Writes the table, and returns the ways that are clearly faster than the one that is taken."""
    rows, better = [], []
    found = rates(records, options)
    for key, rate, seconds, taken in found:
        (ours,) = [r for k, r, _, t in found if t and (k["net"], k["backend"]) == (key["net"], key["backend"])]
        way = f"{key['compiler']}, {'a loop' if key['fused'] else 'unrolled'}"
        ratio = rate / ours
        numbers = render_number(rate, 1), render_number(ratio, 2), render_number(seconds, 0)
        rows.append([key["net"], key["backend"], way, *numbers, "*" * taken])
        if ratio > MARGIN:
            better.append(f"{key['net']}, {key['backend']}: {way} is {ratio:.2f} times as fast as what is taken")
    parts = [
        "MLP 64-64 at batch 64 and the network of Mnih et al. 2015 at batch 32, 8 updates a call, one core.\n",
        render_table(
            ["net", "backend", "compiled", "updates/s, median", "ratio to the one taken", "process s", "taken"], rows
        ),
        "## How it was measured\n",
        describe(records),
    ]
    write_markdown(options.results / f"{NAME}.md", "Ways to compile an update", parts)
    return better


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    common.add_backend(parser, default="both")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS), help="default: all")
    parser.add_argument("--repetitions", type=int, default=2, help="default %(default)s")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long to measure each, default %(default)s")
    parser.add_argument("--core", type=int, help="default: the first that may be used")
    options = parser.parse_args()
    core = min(os.sched_getaffinity(0)) if options.core is None else options.core
    records = common.run_all(plan(options), options.results / f"{NAME}.jsonl", groups=[[core]])
    sys.exit("; ".join(write(records, options)) or 0)


if __name__ == "__main__":
    main()
