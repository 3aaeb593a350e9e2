import math
import re

import numpy as np
import pytest
from keras import ops
from transforms import evaluated

from sota_dqn import Replay, backend, samplers, storage
from sota_dqn.types import Steps

PLAN = backend.Plan(xla=False, fused=True, threads=False)


def build(replay=None, num_streams=2, *, capacity=20, shape=(2,), dtype="float32", **settings):
    """Returns a built replay, by default of 10 rows in each of two streams."""
    replay = Replay(capacity, sampler=samplers.Uniform()) if replay is None else replay
    settings = {"after": 1, **settings}
    replay.build(num_streams, observation_shape=shape, observation_dtype=dtype, **settings)
    return replay


def compiled_add(replay):
    return backend.Program([], replay.variables, PLAN).compile(lambda *rows: replay.add(*rows))


def random_steps(random, size, shape=(2,)):
    return Steps(
        random.normal(size=(size, *shape)).astype("float32"),
        random.integers(3, size=size).astype("int32"),
        random.normal(size=size).astype("float32"),
        (random.random(size) < 0.2).astype("uint8"),
        (random.random(size) < 0.8).astype("uint8"),
    )


def compiled_draw(replay, size=64):
    """Returns a function that returns the places that can be drawn."""
    sample = backend.Program(replay.variables, [], PLAN).compile(lambda uniform: replay.sample(uniform, 0.0).rows)
    return lambda: sorted(set(ops.convert_to_numpy(sample(np.full(size, 0.5, "float32"))).tolist()))


def values(replay):
    return [ops.convert_to_numpy(variable.value) for variable in replay.variables]


def test_a_row_is_drawn_when_its_window_is_complete(random):
    replay = build(num_streams=1, capacity=6, after=2)
    add, draw = compiled_add(replay), compiled_draw(replay)
    steps = random_steps(random, 1)._replace(valid=np.ones(1, "uint8"))
    can_be_drawn = []
    for time in range(9):
        add(np.array([time % 6], "int32"), steps, np.array([time + 1], "int32"))
        can_be_drawn.append(draw() if time >= 2 else None)
    assert can_be_drawn[2:6] == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]
    assert can_be_drawn[6:] == [[1, 2, 3, 4], [2, 3, 4, 5], [0, 3, 4, 5]]  # the oldest is overwritten


def test_what_pads_a_chunk_is_never_drawn(random):
    replay = build()
    steps = random_steps(random, 6)._replace(valid=np.ones(6, "uint8"))
    rows = replay.storage.places(np.zeros(6, int), np.array([0, 1, 2, -1, -1, -1]))
    compiled_add(replay)(rows, steps, np.array([3, 0], "int32"))
    assert compiled_draw(replay)() == [0, 1]


@pytest.mark.parametrize("sampler", [samplers.Uniform, samplers.Prioritized])
def test_a_chunk_equals_row_by_row(random, sampler):
    settings = {"after": 3, "before": 1, "chunk": 6, "return_to_go": True, "capacity": 26}
    together, single = (build(Replay(26, sampler=sampler()), **{**settings}) for _ in range(2))
    add_together, add_single, draw = compiled_add(together), compiled_add(single), compiled_draw(together)
    count = np.zeros(2, "int64")
    for _ in range(8):
        size = int(random.integers(1, 7))
        steps = random_steps(random, 12)
        streams, times = np.zeros(12, int), np.full(12, -1)
        for row in range(size):
            streams[row] = random.integers(2)
            times[row] = count[streams[row]]
            count[streams[row]] += 1
            place = single.storage.places(streams[row : row + 1], times[row : row + 1])
            part = Steps(*(field[row : row + 1] for field in steps))
            add_single(place, part, count.astype("int32"))
        add_together(together.storage.places(streams, times), steps, count.astype("int32"))
        for variable, value, expected in zip(together.variables, values(together), values(single), strict=True):
            if value.shape[:1] == (together.storage.bin + 1,):  # the last place may hold anything
                value, expected = value[:-1], expected[:-1]
            np.testing.assert_array_equal(value, expected, err_msg=variable.path)
        if max(count) > 4:
            assert together.storage.bin not in draw()


def test_windows_by_hand():
    replay = build(num_streams=1, capacity=6, shape=(), after=2)
    steps = Steps(
        np.arange(8, dtype="float32"),
        np.arange(8, dtype="int32"),
        10 * np.arange(8, dtype="float32"),
        np.array([0, 0, 0, 0, 0, 0, 1, 0], "uint8"),
        np.ones(8, "uint8"),
    )
    add = compiled_add(replay)
    for part in (slice(0, 4), slice(4, 8)):
        rows = replay.storage.places(np.zeros(4, int), np.arange(8)[part])
        add(rows, Steps(*(field[part] for field in steps)), np.array([part.stop], "int32"))

    def sample(uniform, distances):
        sample = replay.sample(uniform, 0.0, past=2)
        return sample, replay.observe(sample.rows), replay.observe(sample.rows, distances)

    arguments = np.full(4, 0.5, "float32"), np.array([1, 0, -1, 2], "int32")
    sample, observation, around = evaluated(sample, *arguments, variables=replay.variables)
    np.testing.assert_array_equal(sample.rows, [2, 3, 4, 5])  # times 2 ... 5, at places 2 ... 5
    np.testing.assert_array_equal(sample.window.action, [[2, 3, 4], [3, 4, 5], [4, 5, 6], [5, 6, 7]])
    np.testing.assert_array_equal(sample.window.terminated, [[0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 1, 0]])
    np.testing.assert_array_equal(sample.connected, [[0, 0], [0, 1], [1, 1], [1, 1]])
    np.testing.assert_array_equal(sample.past.reward[2:], [[20, 30], [30, 40]])
    assert sample.return_to_go is None
    np.testing.assert_array_equal(observation, [2, 3, 4, 5])
    np.testing.assert_array_equal(around, [3, 3, 3, 7])


def test_no_past_is_read_where_none_is_asked_for(random):
    replay = build()
    compiled_add(replay)(np.arange(4, dtype="int32"), random_steps(random, 4), np.array([4, 0], "int32"))
    sample = evaluated(lambda x: replay.sample(x, 0.0), np.zeros(2, "float32"), variables=replay.variables)
    assert sample.past is sample.connected is sample.return_to_go is None


@pytest.mark.parametrize("dtype", ["uint8", "float16", "int32", "float32"])
def test_observations_are_stored_at_their_dtype(random, dtype):
    replay = build(shape=(4, 4, 1), dtype=dtype)
    observation = random.integers(200, size=(5, 4, 4, 1)).astype(dtype)
    steps = random_steps(random, 5)._replace(observation=observation, valid=np.ones(5, "uint8"))
    compiled_add(replay)(np.arange(5, dtype="int32"), steps, np.array([5, 0], "int32"))

    def observe(uniform):
        rows = replay.sample(uniform, 0.0).rows
        return [replay.observe(rows, distance) for distance in (0, 1)]

    observed = evaluated(observe, np.full(4, 0.5, "float32"), variables=replay.variables)
    for distance, result in enumerate(observed):
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, observation[distance : 4 + distance])


def test_capacity_is_shared_by_the_streams():
    replay = build(num_streams=3, capacity=20)
    assert replay.storage.rows_per_stream == 6
    assert replay.storage.bin == 18


# Errors


@pytest.mark.parametrize(
    ("settings", "least"),
    [
        ({"after": 3}, 8),  # the row and the three after it, in each of two streams
        ({"after": 3, "before": 2}, 12),
        ({"after": 3, "chunk": 6}, 20),
        ({"after": 1, "chunk": 2, "frame_stack": 4}, 14),
    ],
)
def test_the_least_capacity(settings, least):
    build(capacity=least, **settings)
    message = rf"Argument `capacity` must be at least {least} for 2 environments: .*Received: capacity={least - 1}"
    with pytest.raises(ValueError, match=message):
        build(capacity=least - 1, **settings)


@pytest.mark.parametrize(
    ("capacity", "error", "message"),
    [
        (0, ValueError, "Argument `capacity` must be at least 1. Received: capacity=0"),
        (-5, ValueError, "Argument `capacity` must be at least 1. Received: capacity=-5"),
        (1e6, TypeError, "Argument `capacity` must be an integer. Received: capacity=1000000.0"),
        (True, TypeError, "Argument `capacity` must be an integer. Received: capacity=True"),
        ("10", TypeError, "Argument `capacity` must be an integer. Received: capacity='10'"),
    ],
)
def test_bad_capacity(capacity, error, message):
    with pytest.raises(error, match=re.escape(message)):
        Replay(capacity)


@pytest.mark.skipif(backend.memory_available() is None, reason="the device does not tell")
def test_more_than_the_device_has():
    # (2 * 4 bytes of observation + 21) * 10^12
    with pytest.raises(MemoryError, match=r"A replay of 1,000,000,000,000 rows needs 29000.00 GB and the device has "):
        build(capacity=10**12)


def test_what_would_fit(monkeypatch):
    monkeypatch.setattr(backend, "device_kind", lambda: "cpu")  # elsewhere the message offers host memory too
    monkeypatch.setattr(backend, "memory_available", lambda **where: 290_000)
    message = (
        "A replay of 20,000 rows needs 0.00 GB and the device has 0.00 GB left. About 9,000 rows would fit. "
        "Received: capacity=20000"
    )
    with pytest.raises(MemoryError, match=message):
        build(capacity=20_000)
    build(capacity=9_000)


@pytest.mark.parametrize(
    ("settings", "row"),
    [
        ({"shape": (), "dtype": "bool"}, 22),
        ({"shape": (84, 84), "dtype": "uint8"}, 84 * 84 + 21),
        ({"shape": (3,), "dtype": "float16"}, 27),
        ({"shape": (2,), "dtype": "bfloat16"}, 25),
        ({"shape": (), "dtype": "bool", "return_to_go": True}, 26),
        ({"shape": (), "dtype": "bool", "state": [((3,), "float32"), ((2,), "float16")], "period": 4}, 26),  # + 16 / 4
    ],
)
def test_the_bytes_of_a_row(monkeypatch, settings, row):
    monkeypatch.setattr(backend, "memory_available", lambda **where: row * 24)
    build(capacity=24, **settings)
    monkeypatch.setattr(backend, "memory_available", lambda **where: row * 24 - 1)
    with pytest.raises(MemoryError):
        build(capacity=24, **settings)


@pytest.mark.parametrize("where", [samplers.Uniform, storage.Storage])
@pytest.mark.parametrize(("most", "fits"), [(300_000, "250,000 rows would fit. "), (10, "")])
def test_memory_that_the_device_does_not_tell(monkeypatch, where, most, fits):
    """It is found out by trying."""
    method = "__init__" if where is storage.Storage else "build"
    allocate = getattr(where, method)

    def limited(self, *arguments, **settings):
        if math.prod(arguments) > most:
            if backend.BACKEND == "jax":
                raise backend.AllocationError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")
            raise backend.AllocationError(None, None, "OOM when allocating tensor")
        allocate(self, *arguments, **settings)

    monkeypatch.setattr(backend, "memory_available", lambda **where: None)
    monkeypatch.setattr(backend, "device_kind", lambda: "cpu")
    monkeypatch.setattr(where, method, limited)
    message = f"needs 0.03 GB, more than the device has left. {fits}Received: capacity=1000000"
    replay = Replay(1_000_000)
    with pytest.raises(MemoryError, match=message):
        replay.build(4, observation_shape=(2,), observation_dtype="float32", after=2)
    assert replay.storage is None  # it may be built again


def test_a_sequence_may_begin_at_a_final_observation(random):
    replay = build(num_streams=1, capacity=40, after=5, period=4)
    add, draw = compiled_add(replay), compiled_draw(replay)
    for time in range(24):  # episodes of as many rows as the period, each beginning one row after a multiple of it
        steps = random_steps(random, 1)._replace(valid=np.array([time % 4 != 0], "uint8"))
        add(np.array([time], "int32"), steps, np.array([time + 1], "int32"))
    assert draw() == [0, 4, 8, 12, 16]  # the next one's window is incomplete
    for time in range(24, 60):
        steps = random_steps(random, 1)._replace(valid=np.array([time % 4 != 0], "uint8"))
        add(np.array([time % 40], "int32"), steps, np.array([time + 1], "int32"))
    assert draw() == [0, 4, 8, 12, 20, 24, 28, 32, 36]  # of all but the newest


@pytest.mark.parametrize("sampler", ["prioritized", samplers.Prioritized, 5])
def test_a_sampler_that_is_none(sampler):
    with pytest.raises(TypeError, match="Argument `sampler` must be a sampler such as"):
        Replay(100, sampler=sampler)


def test_a_capacity_of_numpy():
    assert type(Replay(np.int64(100)).capacity) is int
