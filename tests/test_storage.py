import numpy as np
import pytest
from keras import ops
from transforms import evaluated

from sota_dqn import backend
from sota_dqn.storage import Storage, merge_frames
from sota_dqn.types import Steps


def make(num_streams=2, rows_per_stream=5, shape=(), dtype="float32", **settings):
    return Storage(num_streams, rows_per_stream, observation_shape=shape, observation_dtype=dtype, **settings)


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def steps_of(observation, *, terminated=None, valid=None):
    """`Steps` `[M, ...]` whose actions count up and whose rewards are ten times as much."""
    observation = np.asarray(observation)
    size = len(observation)
    number = np.arange(size)
    terminated = np.zeros(size) if terminated is None else np.asarray(terminated)
    valid = np.ones(size) if valid is None else np.asarray(valid)
    return Steps(observation, number.astype("int32"), 10.0 * number, terminated, valid)


def test_places_by_hand():
    storage = make()  # stream 0 in places 0 ... 4, stream 1 in 5 ... 9, the bin is 10
    streams, times = np.array([0, 0, 1, 1, 1, 0]), np.array([0, 7, 4, 5, 14, -1])
    places = storage.places(streams, times)
    assert places.dtype == "int32"
    np.testing.assert_array_equal(places, [0, 2, 9, 5, 9, 10])
    assert storage.bin == 10


def test_shift_by_hand():
    storage = make()
    rows = np.array([0, 4, 5, 9, 10], "int32")
    for distance, expected in (
        (0, [0, 4, 5, 9, 10]),
        (1, [1, 0, 6, 5, 10]),
        (4, [4, 3, 9, 8, 10]),
        (-1, [4, 3, 9, 8, 10]),
        (-4, [1, 0, 6, 5, 10]),
    ):
        shifted = storage.shift(ops.convert_to_tensor(rows), distance)
        assert numpy(shifted).dtype == "int32"
        np.testing.assert_array_equal(numpy(shifted), expected)
    distances = ops.convert_to_tensor(np.array([1, -1, 2, -2, 3], "int32"))
    np.testing.assert_array_equal(numpy(storage.shift(ops.convert_to_tensor(rows), distances)), [1, 3, 7, 7, 10])


def test_neighbours_by_hand():
    rows = make().neighbours(ops.convert_to_tensor(np.array([0, 8], "int32")), -2, 1)
    np.testing.assert_array_equal(numpy(rows), [[3, 4, 0, 1], [6, 7, 8, 9]])


def test_what_is_written_is_read():
    storage = make(shape=(2,))
    observation = np.arange(6, dtype="float32").reshape(3, 2)
    steps = steps_of(observation, terminated=[0, 1, 0], valid=[1, 1, 0])
    storage.write(np.array([4, 0, 7], "int32"), steps, np.array([6, 3], "int32"))
    read = storage.read(np.array([[4, 0], [7, 7]], "int32"))
    assert read.observation is None
    np.testing.assert_array_equal(numpy(read.action), [[0, 1], [2, 2]])
    np.testing.assert_array_equal(numpy(read.reward), [[0, 10], [20, 20]])
    np.testing.assert_array_equal(numpy(read.terminated), [[0, 1], [0, 0]])
    np.testing.assert_array_equal(numpy(read.valid), [[1, 1], [0, 0]])
    np.testing.assert_array_equal(numpy(storage.observe(np.array([7, 4], "int32"))), observation[[2, 0]])
    np.testing.assert_array_equal(numpy(storage.count.value), [6, 3])


def test_variables():
    assert len(make().variables) == 3
    storage = make(return_to_go=True)
    assert [variable.path for variable in storage.variables][-1].endswith("return_to_go")
    storage.write(np.array([3], "int32"), steps_of([1.0]), np.array([4, 0], "int32"))
    assert numpy(storage.return_to_go.value)[3] == -np.inf  # until its episode terminates


def connected(storage, rows, length, **settings):
    return evaluated(lambda rows: storage.connected(rows, length, **settings), rows, variables=storage.variables)


def test_connected_by_hand():
    # A ring of 6 after 8 rows: times 2 ... 7 are stored, at places 2 3 4 5 0 1. Time 3 is a final observation, and a
    # life is lost at time 5.
    storage = make(1, 6)
    times = np.arange(8)
    terminated, valid = times == 5, times != 3
    places = storage.places(np.zeros(8, int), times)
    for part in (slice(0, 4), slice(4, 8)):
        steps = steps_of(times[part].astype("float32"), terminated=terminated[part], valid=valid[part])
        storage.write(places[part], steps, np.array([part.stop], "int32"))
    stopped = [[0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 1]]
    np.testing.assert_array_equal(connected(storage, places[2:], 3), stopped)
    through = [[0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 1], [0, 1, 1], [1, 1, 1]]
    np.testing.assert_array_equal(connected(storage, places[2:], 3, through_terminations=True), through)


def test_connected_before_the_first_wrap():
    # Nothing lies before the first row, whatever a place that was never written holds.
    storage = make(1, 6)
    storage.write(np.array([0, 1], "int32"), steps_of([1.0, 2.0]), np.array([2], "int32"))
    np.testing.assert_array_equal(connected(storage, np.array([0, 1], "int32"), 2), [[0, 0], [0, 1]])


@pytest.mark.parametrize("padding", ["reset", "zero"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_stacks_by_hand(padding, dtype):
    storage = make(1, 8, dtype=dtype, frame_stack=4, padding=padding)
    observation = np.array([1, 2, 3, 4, 5, 6], dtype)
    steps = steps_of(observation, valid=[1, 1, 0, 1, 1, 1])  # 3 is a final observation, 4 begins an episode
    storage.write(np.arange(6, dtype="int32"), steps, np.array([6], "int32"))
    stacks = evaluated(storage.observe, np.arange(6, dtype="int32"), variables=storage.variables)
    assert stacks.dtype == dtype
    reset = [[1, 1, 1, 1], [1, 1, 1, 2], [1, 1, 2, 3], [4, 4, 4, 4], [4, 4, 4, 5], [4, 4, 5, 6]]
    zero = [[0, 0, 0, 1], [0, 0, 1, 2], [0, 1, 2, 3], [0, 0, 0, 4], [0, 0, 4, 5], [0, 4, 5, 6]]
    np.testing.assert_array_equal(stacks, reset if padding == "reset" else zero)


@pytest.mark.parametrize(
    ("shape", "merged"),
    [((), (3,)), ((2,), (2, 3)), ((4, 5), (4, 5, 3)), ((4, 5, 2), (4, 5, 6)), ((4, 5, 2, 1), (4, 5, 2, 1, 3))],
)
def test_merge_frames(random, shape, merged):
    frames = random.random((7, 3, *shape)).astype("float32")
    result = numpy(merge_frames(ops.convert_to_tensor(frames)))
    assert result.shape == (7, *merged)
    if len(shape) == 3:  # each frame's channels side by side, oldest frame first
        for frame in range(3):
            np.testing.assert_array_equal(result[..., 2 * frame : 2 * frame + 2], frames[:, frame])
    else:
        np.testing.assert_array_equal(result, np.moveaxis(frames, 1, -1))


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "int32", "bool"])
@pytest.mark.parametrize("shape", [(), (3,), (4, 4, 2)])
def test_observations_of_any_kind(random, shape, dtype):
    storage = make(2, 5, shape, dtype)
    observation = random.integers(2, size=(4, *shape)).astype(dtype)
    rows = np.array([0, 4, 5, 9], "int32")
    program = backend.Program([], storage.variables, backend.Plan(xla=False, fused=True, threads=False))
    program.compile(storage.write)(rows, steps_of(observation), np.array([1, 1], "int32"))
    observed = numpy(storage.observe(rows[::-1].copy()))
    assert observed.dtype == dtype
    np.testing.assert_array_equal(observed, observation[::-1])
