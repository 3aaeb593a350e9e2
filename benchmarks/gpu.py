"""What one GPU reaches with pictures: updates per second, whole training on Breakout, and the memory of the replay.

`python -m benchmarks.gpu` runs what `results/gpu.jsonl` lacks, and writes the tables.
"""

import argparse
import os
import sys
from fractions import Fraction

from benchmarks import common
from benchmarks.common import Run, select
from benchmarks.tables import describe, render_number, render_table, write_markdown
from benchmarks.updates import NATURE_GFLOP

NAME = "gpu"
FRAMES = 4  # of the emulator in an environment step
# What updates are measured with: Keras's precision, how a loop of them is launched, where the pictures are, and batch
# sizes.
UPDATES = {
    "updates": [("float32", "host", None, (32, 256, 1024))],
    "launch": [("float32", "graph", None, (32, 256, 1024)), ("float32", "unrolled", None, (32,))],
    "precision": [("mixed_bfloat16", "host", None, (32, 1024))],
    "host": [("float32", "graph", "cpu", (32,)), ("float32", "host", "cpu", (32,))],
}
# Whole training: games, batch size, updates per environment step, and the launch.
TRAINING = ("16:32:1/4:host", "32:32:1/4:host", "64:32:1/4:host", "128:32:1/4:host")
TRAINING += ("128:256:1/8:host", "128:256:1/16:host", "128:256:1/32:host")
PARTS = (*UPDATES, "training", "memory", "peer")
PEER = {"agent": "stable-baselines3", "backend": "torch"}
PEER_REPLAY = 20_000  # stacks, at both ends of a transition


def plan(options):
    """Returns the runs."""
    runs = []

    def add(key, module, *arguments, python=sys.executable, **environment):
        runs.append(Run(key, [python, "-m", f"benchmarks.{module}", *map(str, arguments)], environment))

    for backend in common.backends(options.backend):
        ours = {"agent": "sota_dqn", "backend": backend}
        common_arguments = ("--capacity", options.capacity, "--seconds", options.seconds)
        for part in (part for part in UPDATES if part in options.parts):
            for precision, launch, place, batch_sizes in UPDATES[part]:
                key = {"part": "updates", **ours, "precision": precision, "launch": launch, "place": place}
                key["capacity"] = options.capacity
                where = ("--place", place) if place else ()
                how = ("--precision", precision, "--launch", launch, *where, "--batch-sizes", *batch_sizes)
                add(key, "gpu_run", "updates", *common_arguments, *how, KERAS_BACKEND=backend)
        for setting in options.training if "training" in options.parts else ():
            games, batch_size, often, launch = setting.split(":")
            how = ("--envs", games, "--batch-size", batch_size, "--updates-per-step", float(Fraction(often)))
            steps = options.steps * int(games) // 128
            key = {"part": "training", **ours, "setting": setting, "replay": options.replay}
            what = ("--launch", launch, "--replay", options.replay, "--steps", steps)
            add(key, "atari_run", *how, *what, KERAS_BACKEND=backend)
        if "memory" in options.parts:
            key = {"part": "memory", **ours, "capacity": options.replay}
            add(key, "gpu_run", "memory", "--capacity", options.replay, KERAS_BACKEND=backend)
    if "peer" in options.parts:
        peer = common.peer_python(options.peer_python)
        net = ("--net", "nature", "--capacity", PEER_REPLAY, "--seconds", options.seconds)
        add({"part": "updates", **PEER}, "peers.sb3_updates", *net, python=peer)
        steps = ("--steps", options.steps // 10, "--replay", PEER_REPLAY)
        add({"part": "training", **PEER}, "peers.sb3_atari", *steps, python=peer)
    return runs


def updates_table(records):
    """Returns the table of updates per second by batch size and precision."""
    rows = []
    for record in select(records, part="updates"):
        if record["agent"] != "sota_dqn":
            rate = record["updates_per_second"]
            cells = (render_number(rate, 0), render_number(rate * 32, 0), "–", "–", "–")
            rows.append(["stable-baselines3, torch: plain DQN, uniform", render_number(PEER_REPLAY, 0), 32, *cells])
            continue
        where = ", pictures in host memory" if record["place"] else ""
        where += "" if record["launch"] == "host" else f", launch: {record['launch']}"
        for found in record["rates"]:
            rate, batch_size = found["updates_per_second"], found["batch_size"]
            tflops = rate * NATURE_GFLOP * batch_size / 32 / 1e3
            share = f"{100_000 * tflops / record['matrix_gflops']:.0f} %"
            cells = (render_number(rate, 0), render_number(rate * batch_size, 0), render_number(tflops), share)
            name = f"sota_dqn, {record['backend']}, {record['precision']}{where}"
            rows_held = render_number(record["capacity"], 0)
            rows.append([name, rows_held, batch_size, *cells, render_number(found["compiling"])])
    header = ["agent", "rows", "batch", "updates/s", "transitions/s", "TFLOP/s", "of a matrix product", "s to compile"]
    return render_table(header, rows)


def describe_setting(record):
    """Returns the cells that tell the setting of a whole training run: games, batch size, updates a step, launch."""
    return record["setting"].split(":") if "setting" in record else ["1", "32", "1/4", "–"]


def training_table(records):
    """Returns the table of whole training runs."""
    rows = []
    for record in select(records, part="training"):
        rate, setting = record["steps_per_second"], describe_setting(record)
        updates = record.get("updates_per_second", rate * float(Fraction(setting[2])))
        numbers = (rate, updates, updates * int(setting[1]), 1e6 / rate / FRAMES, 200e6 / rate / FRAMES / 60)
        cells = [render_number(x, 0) for x in numbers]
        memory = record.get("device_peak")
        cells.append(render_number(memory and memory / 1e9, 2))
        rows.append([f"{record['agent']}, {record['backend']}", *setting, *cells])
    header = ["agent", "games", "batch", "updates a step", "launch", "steps/s", "updates/s", "transitions/s"]
    header += ["s per million frames", "minutes per 200 million", "GB on the device at the peak"]
    return render_table(header, rows)


def phases_table(records):
    """Returns where the host's thread spends its time in those runs."""
    found = [record for record in select(records, part="training") if "profile" in record]
    rows = []
    for record in found:
        total = sum(record["profile"].values())
        shares = [f"{100 * seconds / total:.0f} %" for seconds in record["profile"].values()]
        rows.append([*describe_setting(record), *shares])
    return render_table(["games", "batch", "updates a step", "launch", *found[0]["profile"]], rows)


def memory_table(records):
    """Returns the table of the device's memory."""
    rows = []
    for record in select(records, part="memory"):
        cells = [render_number(value / 1e9, 2) for value in record["peaks"].values()]
        rows.append([record["backend"], render_number(record["capacity"], 0), *cells])
    return render_table(["backend", "transitions", "building", "filling", "training", "saving"], rows)


def write(records, options):
    """Writes the results as Markdown, those that there are."""
    parts = []
    if select(records, part="updates"):
        text = "Prioritized, double, 5-step, on a replay full of pictures of noise in stacks of four.\n"
        parts += ["## Updates\n", text, updates_table(records)]
    if select(records, part="training"):
        text = (
            "Breakout without sticky actions, 4 frames a step, after 2,000 steps of warm-up; prioritized, double, "
            f"5-step, a replay of {options.replay:,} rows. stable-baselines3: plain DQN with its zoo's settings.\n"
        )
        parts += ["## Whole training\n", text, training_table(records)]
        if any("profile" in record for record in records):
            parts += ["Where the host's thread spends its time:\n", phases_table(records)]
    if select(records, part="memory"):
        text = "Gigabytes of the device's memory at the peak up to the end of each phase, the model's own included.\n"
        parts += ["## Memory\n", text, memory_table(records)]
    device = ", ".join(sorted({record["device"] for record in records if "device" in record}))
    parts += ["## How it was measured\n", f"Device: {device}.\n", describe(records)]
    write_markdown(options.results / f"{NAME}.md", "On a GPU", parts)


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    common.add_backend(parser, default="jax")
    parser.add_argument("--peer-python", metavar="PATH", help="interpreter that has stable-baselines3, if not this one")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument(
        "--training",
        nargs="+",
        default=TRAINING,
        metavar="GAMES:BATCH:UPDATES:LAUNCH",
        help="settings of whole training runs, the updates per environment step (default: %(default)s)",
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each configuration is measured")
    parser.add_argument("--steps", type=int, default=40_000, help="environment steps that 128 games are measured for")
    parser.add_argument("--capacity", type=int, default=100_000, help="rows of the replay that updates are measured on")
    parser.add_argument("--replay", type=int, default=1_000_000, help="rows of the replay in training and for memory")
    parser.add_argument("--report", action="store_true", help="run nothing, write the tables of what there is")
    options = parser.parse_args()
    path = options.results / f"{NAME}.jsonl"
    if not options.report:
        common.run_all(plan(options), path, groups=[sorted(os.sched_getaffinity(0))])
    write(common.read_results(path), options)


if __name__ == "__main__":
    main()
