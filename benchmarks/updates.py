"""How many updates a second, beside stable-baselines3's plain DQN on the same core.

`python -m benchmarks.updates` runs what `results/updates.jsonl` lacks, and writes the tables; with `--net nature` the
convolutional network of Mnih et al. 2015 and `results/updates_nature.jsonl`; with `--net lstm` a recurrent one, without
a peer, and `results/updates_lstm.jsonl`.
"""

import argparse
import itertools
import os
import statistics
import sys

from benchmarks import common
from benchmarks.common import Run, select
from benchmarks.tables import describe, render_number, render_table, write_markdown

NAMES = {"mlp": "updates", "nature": "updates_nature", "lstm": "updates_lstm"}
DESCRIPTIONS = {
    "mlp": "MLP 64-64, batch 64, replay full of CartPole played at random.\n",
    "nature": "The network of Mnih et al. 2015, batch 32, replay full of pictures of noise, stacks of four.\n",
    "lstm": "An LSTM of 64 after a dense layer of 64, batch 32, sequences of 20 steps of burn-in and 40 that are "
    "trained (65 rows with those of the 5-step targets), replay full of CartPole played at random.\n",
}
PATHS = (  # read in `recurrent.py` and in Keras 3.15
    "In the update, on both backends and on every device: `keras.layers.RNN` over the layer's own cell, the generic "
    "loop, because an episode may end inside a sequence and the state begins anew there. It is `jax.lax.scan` on JAX "
    "and `tf.while_loop` on TensorFlow, here both compiled by XLA. Keras's fused kernel (cuDNN, on GPUs alone) knows "
    "no such resets and is in no update. Acting calls the user's own layer, one step at a time; on a CPU that is the "
    "generic loop too.\n"
)
# Of one update, double, batch 32: a forward pass on the states, their gradient, two forward passes on the next states.
NATURE_GFLOP = 2.78
CAPACITY = 100_000
LARGE = 1_000_000
UPDATES_PER_CALL = {"mlp": (1, 32, 64), "nature": (1, 8), "lstm": (1, 8, 32)}
FUSED = 32  # updates per call in the comparison of two capacities
ALGORITHMS = {"update": "prioritized, double, 5-step", "defaults": "the defaults, with bounds"}
PEER = {"what": "update", "agent": "stable-baselines3", "backend": "torch", "updates_per_call": 1}


def ours(what, backend, *, precision=None, **rest):
    """Returns the key of a configuration of ours, at one of `common.PRECISIONS`."""
    return {"what": what, "agent": "sota_dqn", "backend": backend, "precision": precision, **rest}


def measured(options, backend):
    """Returns the keys of the updates of ours that the first table compares, and a name for each."""
    capacity = options.capacity
    found = []
    precisions = common.precisions(options) if options.net == "nature" else [None]
    for precision, times in itertools.product(precisions, UPDATES_PER_CALL[options.net]):
        name = f"sota_dqn, {backend}: {ALGORITHMS['update']}" + (f", {precision}" if precision else "")
        found.append((ours("update", backend, precision=precision, updates_per_call=times, capacity=capacity), name))
    if options.net == "mlp":
        key = ours("defaults", backend, updates_per_call=FUSED, capacity=capacity)
        found.append((key, f"sota_dqn, {backend}: {ALGORITHMS['defaults']}"))
    return found


def configurations(options):
    """Returns the keys of everything that is measured, the repetition aside; the peer comes between our backends."""
    keys = []
    for backend in common.backends(options.backend):
        keys += [key for key, _ in measured(options, backend)]
        if options.peers:
            keys.append({**PEER, "capacity": options.capacity})
        if options.net != "mlp":
            continue
        keys.append(ours("capacities", backend, updates_per_call=FUSED, large=options.large))
        keys.append(ours("sum_tree", backend))
    return [key for i, key in enumerate(keys) if key not in keys[:i]]


def command(key, options, peer):
    """Returns the command that measures one configuration."""
    seconds = ["--seconds", str(options.seconds)]
    if key["agent"] != "sota_dqn":
        capacity = ["--capacity", str(key["capacity"])]
        return [peer, "-m", "benchmarks.peers.sb3_updates", "--net", options.net, *capacity, *seconds]
    command = [sys.executable, "-m", "benchmarks.speed", key["what"], "--net", options.net, *seconds]
    for name in ("capacity", "large", "updates_per_call", "precision"):
        command += [f"--{name.replace('_', '-')}", str(key[name])] if key.get(name) else []
    return command


def plan(options):
    """Returns the runs: each repetition goes through all configurations, so that the machine's load hits all."""
    peer = common.peer_python(options.peer_python) if options.peers else None
    runs = []
    for repetition in range(options.repetitions):
        for key in configurations(options):
            environment = {"KERAS_BACKEND": key["backend"]} if key["agent"] == "sota_dqn" else {}
            environment |= common.CONVOLUTIONS if options.net == "nature" else {}
            key_and_number = {**key, "seconds": options.seconds, "repetition": repetition}
            runs.append(Run(key_and_number, command(key, options, peer), environment))
    return runs


def values(records, key):
    """Returns the results of all repetitions of one configuration."""
    name = "microseconds" if key["what"] == "sum_tree" else "updates_per_second"
    return [record[name] for record in select(records, **key)]


def spread(found):
    """Returns the cells of a table for the results of all repetitions: median, least, most."""
    return [render_number(x, 0) for x in (statistics.median(found), min(found), max(found))]


def updates_table(records, options):
    """Returns the table of updates per second at one capacity, with the ratio to the peer."""
    peer = values(records, {**PEER, "capacity": options.capacity}) if options.peers else []
    base = statistics.median(peer) if peer else None
    rows = [["stable-baselines3, torch: plain DQN", 1, *spread(peer), "1.0"]] if peer else []
    for backend in common.backends(options.backend):
        for key, name in measured(options, backend):
            found = values(records, key)
            ratio = statistics.median(found) / base if base else None
            rows.append([name, key["updates_per_call"], *spread(found), render_number(ratio)])
    return render_table(["agent", "updates per call", "updates/s, median", "least", "most", "ratio"], rows)


def share_table(records, options):
    """Returns the table of the share of a matrix product's rate that the updates reach, in the same processes."""
    rows = []
    for backend in common.backends(options.backend):
        for updates_per_call in UPDATES_PER_CALL["nature"]:
            found = select(records, **ours("update", backend, updates_per_call=updates_per_call))
            rates = [record["updates_per_second"] * NATURE_GFLOP for record in found]
            shares = [rate / record["matrix_gflops"] for rate, record in zip(rates, found, strict=True)]
            cells = render_number(statistics.median(rates), 0), f"{100 * statistics.median(shares):.0f} %"
            rows.append([backend, updates_per_call, *cells])
    return render_table(["backend", "updates per call", "GFLOP/s", "share"], rows)


def capacity_table(records, options):
    """Returns the table of updates per second at a small and a large capacity."""
    rows = []
    for backend in common.backends(options.backend):
        found = select(records, **ours("capacities", backend, updates_per_call=FUSED, large=options.large))
        rates = [statistics.median(column) for column in zip(*(r["updates_per_second"] for r in found), strict=True)]
        ratios = [record["ratio"] for record in found]
        cells = (statistics.median(ratios), min(ratios), max(ratios))
        rows.append([backend, *(render_number(x, 0) for x in rates), *(render_number(x, 2) for x in cells)])
    header = ["backend", "updates/s at 10,000", f"updates/s at {options.large:,}", "ratio, median", "least", "most"]
    return render_table(header, rows)


def write(records, options):
    """Writes the results as Markdown."""
    core = sorted({core for record in records for core in record["cores"]})
    parts = [
        f"Medians of {options.repetitions} repetitions of {options.seconds:g} s, each in a process of its own, one at "
        f"a time on core {', '.join(map(str, core))}.\n",
        f"## Updates, capacity {options.capacity:,}\n",
        DESCRIPTIONS[options.net],
        updates_table(records, options),
    ]
    if options.net == "mlp":
        trees = [[b, *spread(values(records, ours("sum_tree", b)))] for b in common.backends(options.backend)]
        parts += [
            f"## Capacity\n\nThe same update, {FUSED} per call, both capacities in turns in one process.\n",
            capacity_table(records, options),
            "## Sum tree\n\n2^20 leaves: drawing 64 and writing 64, in a fused loop of 64 such pairs.\n",
            render_table(["backend", "µs a pair, median", "least", "most"], trees),
        ]
    elif options.net == "lstm":
        parts += ["## Fused or generic\n", PATHS]
    else:
        parts += [
            "## What the processor can do\n\nThe share of the rate of a product of two matrices of 2048 by 2048 in the "
            f"same process; an update is {NATURE_GFLOP} GFLOP.\n",
            share_table(records, options),
        ]
    parts += ["## How it was measured\n", describe(records)]
    write_markdown(options.results / f"{NAMES[options.net]}.md", "Updates per second", parts)


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    common.add_backend(parser, default="both")
    common.add_peers(parser)
    common.add_precisions(parser)
    parser.add_argument("--net", choices=NAMES, default="mlp")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each process measures")
    parser.add_argument("--capacity", type=int, default=CAPACITY, help="of the comparison with the peer")
    parser.add_argument("--large", type=int, default=LARGE, help="the larger of the two capacities that are compared")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="default: the last usable one")
    options = parser.parse_args()
    options.peers = options.peers and options.net != "lstm"  # stable-baselines3's DQN has no recurrent models
    records = common.run_all(plan(options), options.results / f"{NAMES[options.net]}.jsonl", groups=[[options.core]])
    write(records, options)


if __name__ == "__main__":
    main()
