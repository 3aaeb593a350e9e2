"""The memory of a replay of pictures: what it should take, and never a second copy of it."""

import json
import os
import shutil

import keras
import pytest

from sota_dqn import Replay, forkserver, samplers

ROWS = 20_000
ROW = 84 * 84 + 16 + 5  # bytes: a picture, its action, reward and flags, and its share of the sum tree


def test_stored_bytes():
    replay = Replay(1_000, sampler=samplers.Prioritized())
    replay.build(4, observation_shape=(84, 84), observation_dtype="uint8", after=5, frame_stack=4)
    stored = sum(keras.ops.convert_to_numpy(variable.value).nbytes for variable in replay.variables)
    assert stored <= 1_001 * ROW + 200  # one picture a row, not a stack of them


@pytest.fixture(scope="module")
def peaks(tmp_path_factory):
    """The peaks of the process's own memory by phase, of a run with a small and with a large replay."""
    server = forkserver.ForkServer("footprints", "run")

    def start(**environment):
        theirs, ours = os.pipe()
        child = server.fork([ours], environment)
        os.close(ours)
        return child, theirs

    def finish(child, theirs):
        with os.fdopen(theirs) as file:
            found = file.read()
        assert child.wait() == 0
        return json.loads(found)

    directories = {capacity: str(tmp_path_factory.mktemp("run")) for capacity in (2_000, ROWS)}
    running = [start(CAPACITY=str(capacity), DIRECTORY=path) for capacity, path in directories.items()]
    found = [finish(*one) for one in running]  # side by side: each counts its own memory alone
    loading = [start(DIRECTORY=path) for path in directories.values()]
    found = [one | finish(*other) for one, other in zip(found, loading, strict=True)]
    server.close()
    for path in directories.values():
        shutil.rmtree(path)
    return found


@pytest.mark.skipif(not forkserver.AVAILABLE, reason="there is no fork server here")
@pytest.mark.parametrize("phase", ["building", "filling", "training", "saving", "loading"])
def test_there_is_no_second_copy(peaks, phase):
    small, large = peaks
    replay = (ROWS - 2_000) * ROW
    pieces = 0.08e9  # what is written and read at a time, and what the allocators keep
    assert 0.9 * replay < large[phase] - small[phase] < replay + pieces
