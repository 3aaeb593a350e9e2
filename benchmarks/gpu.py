"""What one GPU reaches with pictures: updates per second, whole training on Breakout, and the memory of the replay.

`python -m benchmarks.gpu` runs what `results/gpu.jsonl` lacks, and writes the tables.
"""

import argparse
import os
import sys

from benchmarks import common
from benchmarks.common import Run, select
from benchmarks.tables import describe, render_number, render_table, write_markdown
from benchmarks.updates import NATURE_GFLOP

NAME = "gpu"
PARTS = ("updates", "training", "memory")
BATCH_SIZES = (32, 256, 1024)
PRECISIONS = ("float32", "mixed_bfloat16")
FRAMES = 4  # of the emulator in an environment step
# Environments, batch size and updates per environment step of whole training runs.
TRAINING = (
    (16, 32, 1 / 4),
    (32, 32, 1 / 4),
    (64, 32, 1 / 4),
    (128, 32, 1 / 4),
    (128, 256, 1 / 32),
    (128, 256, 1 / 8),
)
PEER = {"agent": "stable-baselines3", "backend": "torch"}


def ours(part, backend, **rest):
    """Returns the key of a configuration of ours."""
    return {"part": part, "agent": "sota_dqn", "backend": backend, **rest}


def plan(options):
    """Returns the runs, the peer's beside ours."""
    peer = common.peer_python(options.peer_python) if options.peers else None
    python = [sys.executable, "-m"]
    runs = []

    def add(key, command, environment=None):
        runs.append(Run(key, list(map(str, command)), environment or {}))

    for backend in common.backends(options.backend):
        ours_too = {"KERAS_BACKEND": backend}
        if "updates" in options.parts:
            for precision in PRECISIONS:
                command = [*python, "benchmarks.gpu_run", "updates", "--precision", precision]
                command += ["--capacity", options.capacity, "--seconds", options.seconds, "--batch-sizes", *BATCH_SIZES]
                add(ours("updates", backend, precision=precision, place=None), command, ours_too)
            command = [*python, "benchmarks.gpu_run", "updates", "--place", "cpu", "--seconds", options.seconds]
            command += ["--capacity", options.capacity]
            add(ours("updates", backend, precision="float32", place="cpu"), command, ours_too)
            if peer:
                command = [peer, "-m", "benchmarks.peers.sb3_updates", "--net", "nature", "--capacity", "20000"]
                add({"part": "updates", **PEER}, [*command, "--seconds", options.seconds])
        if "training" in options.parts:
            for envs, batch_size, updates_per_step in TRAINING:
                command = [*python, "benchmarks.atari_run", "--envs", envs, "--batch-size", batch_size]
                command += ["--updates-per-step", updates_per_step, "--replay", options.replay]
                command += ["--steps", options.steps if envs > 16 else options.steps // 4]
                setting = {"envs": envs, "batch_size": batch_size, "updates_per_step": updates_per_step}
                add(ours("training", backend, **setting, replay=options.replay), command, ours_too)
            if peer:
                command = [peer, "-m", "benchmarks.peers.sb3_atari", "--steps", options.steps // 10]
                add({"part": "training", **PEER}, [*command, "--replay", "20000"])
        if "memory" in options.parts:
            command = [*python, "benchmarks.gpu_run", "memory", "--capacity", options.replay]
            add(ours("memory", backend, capacity=options.replay), command, ours_too)
    return runs


def updates_table(records):
    """Returns the table of updates per second by batch size and precision."""
    rows = []
    for record in select(records, part="updates"):
        if record["agent"] != "sota_dqn":
            rate = record["updates_per_second"]
            cells = (render_number(rate, 0), render_number(rate * 32, 0), "–", "–", "–")
            rows.append(["stable-baselines3, torch: plain DQN, uniform", 32, *cells])
            continue
        where = ", pictures in host memory" if record["place"] else ""
        for found in record["rates"]:
            rate, batch_size = found["updates_per_second"], found["batch_size"]
            tflops = rate * NATURE_GFLOP * batch_size / 32 / 1e3
            share = f"{100_000 * tflops / record['matrix_gflops']:.0f} %"
            cells = (render_number(rate, 0), render_number(rate * batch_size, 0), render_number(tflops), share)
            name = f"sota_dqn, {record['backend']}, {record['precision']}{where}"
            rows.append([name, batch_size, *cells, render_number(found["compiling"])])
    header = ["agent", "batch", "updates/s", "transitions/s", "TFLOP/s", "of a matrix product", "s to compile"]
    return render_table(header, rows)


def training_table(records):
    """Returns the table of whole training runs."""
    rows = []
    for record in select(records, part="training"):
        rate = record["steps_per_second"]
        sampled = None
        if record["agent"] == "sota_dqn":
            settings = (record["envs"], record["batch_size"], f"1/{1 / record['updates_per_step']:.0f}")
            sampled = record["updates_per_second"] * record["batch_size"]
        else:
            settings = (1, 32, "1/4")
        updates = record.get("updates_per_second", rate / 4)
        numbers = (rate, updates, sampled, 1e6 / rate / FRAMES, 200e6 / rate / FRAMES / 60)
        cells = [render_number(x, 0) for x in numbers]
        rows.append([f"{record['agent']}, {record['backend']}", *settings, *cells])
    header = ["agent", "games", "batch", "updates a step", "steps/s", "updates/s", "transitions/s"]
    return render_table([*header, "s per million frames", "minutes per 200 million"], rows)


def phases_table(records):
    """Returns where the host's thread spends its time in those runs."""
    found = [record for record in select(records, part="training") if record["agent"] == "sota_dqn"]
    names = list(found[0]["profile"])
    rows = []
    for record in found:
        total = sum(record["profile"].values())
        shares = [f"{100 * record['profile'][name] / total:.0f} %" for name in names]
        rows.append([record["envs"], record["batch_size"], f"1/{1 / record['updates_per_step']:.0f}", *shares])
    return render_table(["games", "batch", "updates a step", *names], rows)


def memory_table(records):
    """Returns the table of the device's memory."""
    rows = []
    for record in select(records, part="memory"):
        cells = [render_number(value / 1e9, 2) for value in record["peaks"].values()]
        rows.append([record["backend"], render_number(record["capacity"], 0), *cells])
    return render_table(["backend", "transitions", "building", "filling", "training", "saving"], rows)


def write(records, options):
    """Writes the results as Markdown."""
    parts = []
    if "updates" in options.parts:
        text = f"Prioritized, double, 5-step; {options.capacity:,} rows full of pictures of noise in stacks of four.\n"
        parts += ["## Updates\n", text, updates_table(records)]
    if "training" in options.parts:
        text = (
            "Breakout without sticky actions, 4 frames a step, after 2,000 steps of warm-up; prioritized, double, "
            f"5-step, a replay of {options.replay:,} rows. stable-baselines3: plain DQN with its zoo's settings.\n"
        )
        parts += ["## Whole training\n", text, training_table(records)]
        parts += ["Where the host's thread spends its time:\n", phases_table(records)]
    if "memory" in options.parts:
        text = "Gigabytes of the device's memory at the peak up to the end of each phase, the model's own included.\n"
        parts += ["## Memory\n", text, memory_table(records)]
    device = ", ".join(sorted({record["device"] for record in records if "device" in record}))
    parts += ["## How it was measured\n", f"Device: {device}.\n", describe(records)]
    write_markdown(options.results / f"{NAME}.md", "On a GPU", parts)


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    common.add_backend(parser, default="jax")
    common.add_peers(parser)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each configuration is measured")
    parser.add_argument("--steps", type=int, default=40_000, help="environment steps that are measured in training")
    parser.add_argument("--capacity", type=int, default=100_000, help="rows of the replay that updates are measured on")
    parser.add_argument("--replay", type=int, default=1_000_000, help="rows of the replay in training and for memory")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    records = common.run_all(plan(options), options.results / f"{NAME}.jsonl", groups=[cores])
    write(records, options)


if __name__ == "__main__":
    main()
