"""Observations in host memory, under a model on an accelerator. The accelerator is the CPU, which says it is none."""

import keras
import numpy as np
import pytest
from runs import assert_same, make, network, state_of

from sota_dqn import DQNTrainer, Replay, backend, returns, samplers
from sota_dqn.types import Steps


@pytest.fixture
def accelerator(monkeypatch):
    monkeypatch.setattr(backend, "device_kind", lambda: "gpu")


def replay(device):
    return Replay(160, sampler=samplers.Prioritized(), device=device)


SCENARIOS = {
    "frames": dict(env="Acrobot-v1", model=lambda: network(6, 3, stack=3), frame_stack=3),
    "bounds": dict(bounds=returns.Bounds(2, upper=True, return_to_go=True)),
}


def build(scenario, device):
    settings = SCENARIOS[scenario]
    return make(**{**settings, "model": settings.get("model", lambda: network(4, 2))(), "replay": replay(device)})


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_is_learned_is_the_same(accelerator, scenario):
    on_device, on_host = (build(scenario, device) for device in (None, "cpu"))
    assert not isinstance(on_device.replay.storage.observation, backend.HostRows)
    assert isinstance(on_host.replay.storage.observation, backend.HostRows)
    for trainer in (on_device, on_host):
        trainer.train(300, verbose=0)
    assert on_host.updates > 100 and on_host.learner.compilations() == 1
    one, other = state_of(on_device), state_of(on_host)
    for name, values in one.items():
        if isinstance(values, np.ndarray):  # what XLA compiles and what it does not round differently
            np.testing.assert_allclose(other[name], values, rtol=1e-2, atol=1e-3, err_msg=name)
    assert one["steps"] == other["steps"] and one["evaluations"] == other["evaluations"]


def test_a_checkpoint_goes_on_where_it_was_and_elsewhere(accelerator, tmp_path):
    never_stopped = build("frames", "cpu")
    never_stopped.train(240, verbose=0)
    never_stopped.save(tmp_path)
    resumed, on_device = DQNTrainer.load(tmp_path), DQNTrainer.load(tmp_path, replay=replay(None))
    assert resumed.replay.on_host and not on_device.replay.on_host
    assert_same(state_of(never_stopped), state_of(on_device))
    never_stopped.train(120, verbose=0)
    resumed.train(120, verbose=0)
    assert_same(never_stopped, resumed)


def test_a_large_one_is_saved_and_loaded_in_slices(accelerator, monkeypatch, tmp_path):
    monkeypatch.setattr("sota_dqn.checkpoint.SLICE", 1_000)
    trainer = build("frames", "cpu")
    trainer.train(240, verbose=0)
    trainer.save(tmp_path)
    assert_same(trainer, DQNTrainer.load(tmp_path))


def test_without_an_accelerator_it_is_one_with_the_device():
    if backend.device_kind() != "cpu":
        pytest.skip("there is an accelerator")
    storage = build("frames", "cpu").replay.storage
    assert isinstance(storage.observation, keras.Variable)


def test_written_before_read():
    """Calls of the host keep the order of the programs, which return before they are done."""
    rows = backend.make_rows((64, 100), "float32", "rows", host=True)
    plan = backend.plan(convolutions=False, host_rows=True)
    program = backend.Program([rows], [], plan)
    write = program.compile(lambda where, values: backend.write_rows(rows, where, values))
    read = program.compile(lambda where: backend.read_rows(rows, where))
    where = np.arange(64, dtype="int32")
    with backend.asynchronous():
        found = []
        for number in range(50):
            write(where, np.full((64, 100), number, "float32"))
            found.append(read(where[::-1].reshape(8, 8)))
        backend.wait(found)
    for number, values in enumerate(found):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(values), np.full((8, 8, 100), number, "float32"))


@pytest.mark.parametrize("dtype", ["uint8", "bool", "float16", "bfloat16", "int32"])
def test_dtypes(dtype):
    rows = backend.make_rows((3, 2), dtype, "rows", host=True)
    values = keras.ops.convert_to_tensor(np.float32([[0, 1], [1, 0]]).astype(dtype))
    backend.write_rows(rows, np.int32([2, 0]), values)
    found = backend.read_rows(rows, np.int32([0, 1, 2, 99]))  # 99 is beyond the end, as in a variable
    expected = [[1, 0], [0, 0], [0, 1], [0, 1]]
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(keras.ops.cast(found, "float32")), expected)
    assert keras.backend.standardize_dtype(found.dtype) == dtype


def test_more_than_the_host_has(accelerator, monkeypatch):
    monkeypatch.setattr(backend, "memory_available", lambda host=False: 300 if host else 10**9)
    settings = dict(observation_shape=(), observation_dtype="uint8", after=1)
    with pytest.raises(MemoryError, match=r"the host has 0.00 GB left. About 12 rows would fit. Received"):
        Replay(100, device="cpu").build(1, **settings)
    monkeypatch.setattr(backend, "memory_available", lambda host=False: 10**9 if host else 300)
    with pytest.raises(MemoryError, match=r"the device has .* host memory: Replay\(..., device='cpu'\). Received"):
        Replay(100).build(1, **settings)


@pytest.mark.parametrize("device", ["gpu", "host", 0])
def test_no_such_device(device):
    with pytest.raises(ValueError, match='Argument `device` must be None or "cpu". Received: device='):
        Replay(device=device)


def test_steps_are_written_and_drawn(accelerator):
    stored = replay("cpu")
    stored.build(2, observation_shape=(3,), observation_dtype="int32", after=1)
    rows = np.arange(6, dtype="int32")
    observation = np.arange(18, dtype="int32").reshape(6, 3)
    steps = Steps(observation, np.zeros(6, "int32"), np.zeros(6, "float32"), np.zeros(6, "uint8"), np.ones(6, "uint8"))
    stored.add(keras.ops.convert_to_tensor(rows), steps, np.int32([6, 0]))
    found = stored.observe(keras.ops.convert_to_tensor(rows[:4]), 2)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(found), observation[2:])
