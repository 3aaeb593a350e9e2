"""One measurement of a replay's memory, in a process forked by a `ForkServer`."""

import json
import os

from benchmarks.footprint_run import measure, measure_loading


def run(answer):
    """Answers with the peaks by phase of a run saved to `DIRECTORY`, or, without `CAPACITY`, of going on with it."""
    capacity, directory = os.environ.get("CAPACITY"), os.environ["DIRECTORY"]
    peaks = measure_loading(directory) if capacity is None else measure(int(capacity), directory, updates=20)
    with os.fdopen(answer, "w") as file:
        json.dump(peaks, file)
