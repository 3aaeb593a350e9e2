"""What all benchmarks share: the machine, the results file, the runner of processes, the options.

A benchmark is a list of `Run`s. Each is a fresh process on its own cores that prints one JSON line; `run_all` appends
it to `results/NAME.jsonl`, and skips what that file already holds.
"""

import argparse
import concurrent.futures
import datetime
import functools
import importlib.util
import json
import os
import platform
import queue
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.process import STARTED

__all__ = [
    "CONVOLUTIONS",
    "PRECISIONS",
    "ROOT",
    "Run",
    "add_backend",
    "add_options",
    "add_peers",
    "add_precisions",
    "backends",
    "command_line",
    "core_groups",
    "machine",
    "missing",
    "peer_python",
    "precisions",
    "read_results",
    "run_all",
    "select",
]

ROOT = Path(__file__).resolve().parents[1]
PRECISIONS = (None, "mixed_bfloat16")  # Keras's policies of dtypes; None is its default, float32
# Of networks with convolutions, as in `examples/`: TensorFlow leaves its faster ones off on some processors.
CONVOLUTIONS = {"TF_ENABLE_ONEDNN_OPTS": "1"}
TIMEOUT = 6 * 3600  # seconds; a run that takes longer has hung
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")


class Run(NamedTuple):
    """One process of a benchmark."""

    key: dict  # what tells this run from all others; its entries become part of the record
    command: list  # the program and its arguments
    environment: dict  # environment variables that it gets besides this process's own


def machine():
    """Returns a description of this machine, such as "2-core CPU machine, Intel(R) Xeon(R) Processor"."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{os.cpu_count()}-core CPU machine, {model}"


@functools.cache
def commit():
    """Returns the short hash of the commit, with a `+` where the library or the benchmarks have been changed since.

    `BENCHMARK_COMMIT` tells it where the code was copied to without its history.
    """
    if "BENCHMARK_COMMIT" in os.environ:
        return os.environ["BENCHMARK_COMMIT"]
    git = functools.partial(subprocess.run, cwd=ROOT, capture_output=True, text=True)
    name = git(["git", "rev-parse", "--short", "HEAD"])
    if name.returncode:
        return "unknown"
    changed = git(["git", "status", "--porcelain", "--", "sota_dqn", "benchmarks/*.py"]).stdout.strip()
    return name.stdout.strip() + ("+" if changed else "")


def command_line(arguments=None):
    """Returns the command that was given, without this machine's paths."""
    words = list(sys.argv if arguments is None else arguments)
    for i, word in enumerate(words):
        if word.startswith(("--peer-python=", "--results=")):
            words[i] = word.partition("=")[0] + "=PATH"
        elif i and words[i - 1] in ("--peer-python", "--results"):
            words[i] = "PATH"
    return shlex.join(["python", "-m", f"benchmarks.{Path(words[0]).stem}", *words[1:]])


def read_results(path):
    """Returns the records in a results file, oldest first; none where there is no file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def select(records, **key):
    """Returns those of `records` that have all entries of `key`."""
    return [record for record in records if all(record.get(name) == value for name, value in key.items())]


def missing(runs, records):
    """Returns those of `runs` that no record belongs to, in their order."""
    return [run for run in runs if not select(records, **run.key)]


def append_result(path, record):
    """Appends one record; one write, so that a process killed at any moment leaves whole lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        file.write(json.dumps(record).encode() + b"\n")


def core_groups(jobs, cores=None):
    """Returns the cores of each of `jobs` parallel processes: all cores that this process may use, in equal parts.

    Raises:
        ValueError: If there are fewer cores than jobs.
    """
    cores = sorted(os.sched_getaffinity(0) if cores is None else cores)
    if not 1 <= jobs <= len(cores):
        raise ValueError(f"Argument `jobs` must be between 1 and the {len(cores)} usable cores. Received: jobs={jobs}")
    size = len(cores) // jobs
    return [cores[i * size : (i + 1) * size] for i in range(jobs)]


def run_process(run, cores):
    """Runs one process on `cores` to its end.

    Affinity belongs to the thread, and a new process inherits that of the thread that starts it.

    Returns:
        A dict: what the process reported, `process_seconds` from its start to its exit, and the load before it.

    Raises:
        RuntimeError: If it fails; with the end of what it wrote.
    """
    os.sched_setaffinity(0, cores)
    environment = os.environ | dict.fromkeys(THREADS, str(len(cores))) | {"TF_CPP_MIN_LOG_LEVEL": "2"}
    load = os.getloadavg()[0]
    begun = time.monotonic()
    environment |= run.environment | {STARTED: str(begun)}
    done = subprocess.run(run.command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    seconds = time.monotonic() - begun
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        raise RuntimeError(f"exit status {done.returncode}:\n{done.stderr[-3000:]}")
    told = {"process_seconds": round(seconds, 2), "load_average": round(load, 2), "environment": run.environment}
    return {**json.loads(lines[-1]), **told}


def run_all(runs, path, *, groups):
    """Runs what the results file does not hold yet, in order, one process at a time on each group of cores.

    Args:
        runs: `Run`s.
        path: The results file.
        groups: Cores of the processes that run at the same time, as of `core_groups`.

    Returns:
        The records of all `runs`, those of earlier commands included.

    Raises:
        SystemExit: After all others have run, if a run failed.
    """
    todo = missing(runs, read_results(path))
    print(f"{len(runs) - len(todo)} of {len(runs)} runs are in {path.name} already", flush=True)
    free = queue.SimpleQueue()
    for group in groups:
        free.put(group)

    def work(run):
        cores = free.get()
        try:
            return run_process(run, cores)
        finally:
            free.put(cores)

    common = {"machine": machine(), "commit": commit(), "command": command_line()}
    failures = 0
    with concurrent.futures.ThreadPoolExecutor(len(groups)) as pool:
        futures = {pool.submit(work, run): run for run in todo}
        try:
            for number, future in enumerate(concurrent.futures.as_completed(futures), 1):
                failures += not _finish(path, futures[future], future, common, f"{number}/{len(todo)}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failures:
        raise SystemExit(f"{failures} runs failed; the same command tries them again")
    records = read_results(path)
    return [select(records, **run.key)[-1] for run in runs]


def _finish(path, run, future, common, progress):
    """Appends the result of a finished run and tells of it; returns whether it succeeded."""
    name = " ".join(str(value) for value in run.key.values() if value is not None)
    try:
        result = future.result()
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"[{progress}] {name}: FAILED, {error}", flush=True)
        return False
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    append_result(path, {**run.key, **result, **common, "date": date})
    print(f"[{progress}] {name}: {result['process_seconds']:.1f} s", flush=True)
    return True


def add_options(parser, *, seeds, tasks, backend, jobs=1):
    """Adds the options of a benchmark that trains on tasks."""
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=list(tasks), help="default: all")
    parser.add_argument("--seeds", type=int, default=seeds, help="seeds 0 to N-1, default %(default)s")
    parser.add_argument("--cap", type=int, help="environment steps of every task, for a trial; default: the protocol's")
    parser.add_argument(
        "--jobs", type=int, default=jobs, help="processes at a time, on equal shares of the cores; default %(default)s"
    )
    add_backend(parser, default=backend)


def add_backend(parser, *, default):
    """Adds the options of every benchmark."""
    parser.add_argument("--backend", choices=["tensorflow", "jax", "both"], default=default)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the results")


def add_peers(parser):
    """Adds the options of a benchmark that measures peers."""
    parser.add_argument("--peer-python", metavar="PATH", help="interpreter that has stable-baselines3, if not this one")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True, help="measure peers too")


def add_precisions(parser):
    """Adds the option that says in which precisions ours is measured."""
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=["float32", "mixed_bfloat16"],
        default=["float32", "mixed_bfloat16"],
        help="the second takes very long on processors that do not multiply in it; default: both",
    )


def precisions(options):
    """Returns those of `PRECISIONS` that `--precisions` asks for."""
    return [precision for precision in PRECISIONS if (precision or "float32") in options.precisions]


def backends(option):
    """Returns the names of the backends that `--backend` asks for."""
    return ["tensorflow", "jax"] if option == "both" else [option]


def peer_python(path):
    """Returns the interpreter for the peers: that at `path`, or this one where `path` is None.

    Raises:
        SystemExit: If it has no stable-baselines3.
    """
    python = path or sys.executable
    if path is None:
        found = importlib.util.find_spec("stable_baselines3") is not None
    else:
        found = subprocess.run([path, "-c", "import stable_baselines3"], capture_output=True).returncode == 0
    if not found:
        raise SystemExit(
            f"stable-baselines3 is not installed for {python}. Install the extra `bench`, name an interpreter that has "
            "it with --peer-python PATH, or leave the peers out (--no-peers, or another choice of --parts)."
        )
    return python
