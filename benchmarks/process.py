"""What a measured process does for itself: its clock and its one line of results. Standard library only.

The peers' interpreter imports it too.
"""

import importlib.metadata
import json
import os
import platform
import threading
import time

__all__ = ["STARTED", "Anonymous", "rate", "report", "seconds_since_start"]

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


class Anonymous:
    """A context that watches the memory that this process alone holds; pages of files, which can go, do not count."""

    def __enter__(self):
        self._peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._stop.set()
        self._thread.join()

    def peak(self):
        """Returns the most bytes since the last call, or since the beginning."""
        peak, self._peak = max(self._peak, _anonymous()), 0
        return peak

    def _watch(self):
        while not self._stop.wait(0.005):
            self._peak = max(self._peak, _anonymous())


def _anonymous():
    """Returns the bytes of anonymous memory in use."""
    with open("/proc/self/status", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    return sum(int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))


def report(result, *, packages):
    """Prints `result`, the cores of this process and the versions of `packages` as one JSON line, its last."""
    versions = {"python": platform.python_version()}
    versions |= {package: importlib.metadata.version(package) for package in packages}
    print(json.dumps({**result, "cores": sorted(os.sched_getaffinity(0)), "versions": versions}), flush=True)
