"""What a measured process does for itself: its clock and its one line of results. Standard library only.

The peers' interpreter imports it too.
"""

import importlib.metadata
import json
import os
import platform
import time

__all__ = ["STARTED", "rate", "report", "seconds_since_start"]

STARTED = "BENCHMARK_STARTED"  # environment variable, `time.monotonic()` when the process was started

_loaded = time.monotonic()


def seconds_since_start():
    """Returns the seconds since this process was started, by the clock of whoever started it."""
    return time.monotonic() - float(os.environ.get(STARTED, _loaded))


def rate(function, *, seconds):
    """Returns the seconds that one call of `function` takes, the mean over at least `seconds` and three calls.

    The first call, which compiles and warms up, is not counted. `function` returns when its work is done.
    """
    function()
    calls = 0
    begun = time.perf_counter()
    while True:
        function()
        calls += 1
        elapsed = time.perf_counter() - begun
        if elapsed >= seconds and calls >= 3:
            return elapsed / calls


def report(result, *, packages):
    """Prints `result`, the cores of this process and the versions of `packages` as one JSON line, its last."""
    versions = {"python": platform.python_version()}
    versions |= {package: importlib.metadata.version(package) for package in packages}
    print(json.dumps({**result, "cores": sorted(os.sched_getaffinity(0)), "versions": versions}), flush=True)
