"""The memory of a replay of pictures: what it should take, and never a second copy of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from sota_dqn import Replay, samplers

ROWS = 40_000
ROW = 84 * 84 + 16 + 5  # bytes: a picture, its action, reward and flags, and its share of the sum tree


def test_stored_bytes():
    replay = Replay(1_000, sampler=samplers.Prioritized())
    replay.build(4, observation_shape=(84, 84), observation_dtype="uint8", after=5, frame_stack=4)
    stored = sum(keras.ops.convert_to_numpy(variable.value).nbytes for variable in replay.variables)
    assert stored <= 1_001 * ROW + 200  # one picture a row, not a stack of them


@pytest.fixture(scope="module")
def peaks():
    """The peaks of the process's own memory by phase, of a run with a small and with a large replay."""

    def start(capacity):
        command = [sys.executable, "-m", "benchmarks.footprint_run", "--capacity", str(capacity), "--updates", "20"]
        root = Path(__file__).parents[1]
        return subprocess.Popen(command, cwd=root, env=dict(os.environ), stdout=subprocess.PIPE, text=True)

    def finish(process):
        output, _ = process.communicate()
        assert process.returncode == 0
        return json.loads(output.splitlines()[-1])["peaks"]

    running = [start(capacity) for capacity in (2_000, ROWS)]  # each counts its own memory alone
    return [finish(process) for process in running]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("phase", ["building", "filling", "training", "saving", "loading"])
def test_there_is_no_second_copy(peaks, phase):
    small, large = peaks
    replay = (ROWS - 2_000) * ROW
    pieces = 0.2e9  # what is written and read at a time
    assert 0.9 * replay < large[phase] - small[phase] < replay + pieces
