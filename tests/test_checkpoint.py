"""Checkpoints: what is on the disk, what is refused, and what a fault at any moment leaves behind."""

import errno
import functools
import importlib
import json
import os
import pathlib
import pickle
import shutil
import types

import faults
import keras
import numpy as np
import pytest
from keras import ops
from runs import fix_seeds

from sota_dqn import (
    Actors,
    Atari,
    DQNTrainer,
    RayActors,
    Replay,
    Sequences,
    backend,
    callbacks,
    checkpoint,
    losses,
    policies,
    preprocessing,
    returns,
    samplers,
    schedules,
    targets,
)


def public(module, name):
    return getattr(importlib.import_module(f"sota_dqn.{module}"), name)


PUBLIC = [
    (module, name)
    for module in checkpoint.MODULES
    for name in checkpoint._names(module)
    if public(module, name).__module__ == f"sota_dqn.{module}"  # a name may be offered by a second module too
]


def network(inputs=4, outputs=2):
    return keras.Sequential([keras.Input((inputs,)), keras.layers.Dense(4), keras.layers.Dense(outputs)])


def variable(values, dtype=None):
    return keras.Variable(values, dtype=dtype or str(values.dtype), trainable=False, autocast=False)


def write(path, value=1, *, steps=10, **arrays):
    """Writes a small checkpoint that holds `value` in its state, its arrays and its model."""
    arrays = {"a": np.full((3, 2), value, "float32"), "b": variable(np.full(5, value, "int32")), **arrays}
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])
    model.set_weights([np.full((1, 1), value), np.zeros(1)])
    checkpoint.save(path, config={"steps": steps}, state={"value": value}, model=model, arrays=arrays)


def read(path):
    """Returns the value that `write` wrote, after checking that all parts of the checkpoint agree."""
    found = checkpoint.Checkpoint(path)
    value = found.state["value"]
    assert (found.array("a") == value).all() and (found.array("b") == value).all()
    assert ops.convert_to_numpy(checkpoint.load_model(found.model_path)(np.ones((1, 1), "float32"))) == value
    return value


def files(path):
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint of a short run on CartPole."""
    path = tmp_path_factory.mktemp("trained") / "run"
    fix_seeds()
    trainer = DQNTrainer(
        "CartPole-v1",
        network(),
        num_envs=2,
        replay=Replay(100),
        batch_size=4,
        n_step=3,
        bounds=None,
        learning_starts=20,
        report_every=20,
        policy=policies.Boltzmann(0.5),
    )
    trainer.train(60, verbose=0)
    trainer.save(path)
    trainer.close()
    return path


@pytest.fixture
def damaged(trained, tmp_path):
    """A copy of that checkpoint, to damage."""
    return pathlib.Path(shutil.copytree(trained, tmp_path / "run"))


def data(path):
    """The directory that a checkpoint's `config.json` names."""
    return path / json.loads((path / "config.json").read_text())["checkpoint"]


def change(path, **values):
    """Replaces entries of a `config.json`."""
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **values}))


# The layout


def test_layout(trained):
    config = json.loads((trained / "config.json").read_text())
    assert {file.name for file in trained.iterdir()} == {"config.json", "step-000000060"}
    assert config["checkpoint"] == "step-000000060"
    assert {file.name for file in data(trained).iterdir()} == {"model.keras", "state.json", "arrays"}
    assert {file.name for file in (data(trained) / "arrays").iterdir()} == {f"{name}.npy" for name in config["arrays"]}
    assert config["trainer"] == "DQNTrainer" and config["steps"] == 60 and config["backend"] == keras.backend.backend()
    assert config["arguments"]["env"] == "CartPole-v1"
    assert config["arguments"]["target"] == {"call": "targets:expected_sarsa", "arguments": {"epsilon": 0.25}}
    assert config["arguments"]["penalty"] is None
    assert config["arguments"]["policy"] == {"call": "policies:Boltzmann", "arguments": {"temperature": 0.5}}
    assert len((trained / "config.json").read_text().splitlines()) > 50  # one entry a line


def test_nothing_is_pickled(trained):
    for content in files(trained).values():
        with pytest.raises(Exception):  # noqa: B017 - whatever pickle says to what is none
            pickle.loads(content)


@pytest.mark.parametrize("slice_bytes", [20, 2**20])
@pytest.mark.parametrize("dtype", ["float32", "int32", "uint8", "bool", "bfloat16"])
@pytest.mark.parametrize("shape", [(), (7,), (7, 2, 2)])
def test_arrays_are_read_as_written(shape, dtype, slice_bytes, tmp_path, monkeypatch, random):
    monkeypatch.setattr(checkpoint, "SLICE", slice_bytes)
    values = np.asarray(random.integers(0, 200, shape)).astype("float32" if dtype == "bfloat16" else dtype)
    stored = variable(values, dtype)
    write(tmp_path, x=stored)
    found = checkpoint.Checkpoint(tmp_path)
    other = variable(np.zeros(shape), dtype)
    found.check("x", other)
    found.assign("x", other)
    assert str(other.dtype) == dtype
    np.testing.assert_array_equal(ops.convert_to_numpy(other).astype("float32"), values.astype("float32"))


def test_what_was_read_in_slices_can_be_donated(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SLICE", 16)
    values = np.arange(20, dtype="float32").reshape(10, 2)
    write(tmp_path, x=variable(values))
    before = files(tmp_path)
    x = variable(np.zeros((10, 2), "float32"))
    checkpoint.Checkpoint(tmp_path).assign("x", x)
    program = backend.Program([], [x], backend.Plan(xla=False, fused=True, threads=False))

    def overwrite(rows, new):
        backend.write_rows(x, rows, new)
        return ops.sum(new)

    compiled = program.compile(overwrite)
    for _ in range(2):
        compiled(np.array([0, 9], "int32"), np.full((2, 2), -1, "float32"))
    values[[0, 9]] = -1
    np.testing.assert_array_equal(ops.convert_to_numpy(x), values)
    assert files(tmp_path) == before


def test_a_large_variable_is_read_in_slices(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SLICE", 16)
    sizes = []
    read_rows = backend.read_rows
    monkeypatch.setattr(backend, "read_rows", lambda v, rows: sizes.append(len(rows)) or read_rows(v, rows))
    write(tmp_path, x=variable(np.arange(22, dtype="float32").reshape(11, 2)))
    assert sizes == [4, 1] + [2, 2, 2, 2, 2, 1]  # b, then x


def test_numbers_of_numpy_in_the_state(tmp_path):
    state = {"history": {"rate": [np.float32(0.1), np.int64(3), ops.convert_to_tensor(2.0), float("nan")]}}
    checkpoint.save(tmp_path, config={"steps": np.int64(1)}, state=state, model=network(), arrays={})
    found = checkpoint.Checkpoint(tmp_path)
    assert found.state["history"]["rate"][:3] == [float(np.float32(0.1)), 3, 2.0]
    assert np.isnan(found.state["history"]["rate"][3]) and found.config["steps"] == 1


# What stands for functions


EXAMPLES = [
    Actors(2, steps_per_update=[1, 4], weights_every=7),
    RayActors(3, steps_per_chunk=9, num_cpus=0.5, resources={"simulator": 1}),
    Atari("ALE/MsPacman-v5", noop_max=5, life_loss=False),
    preprocessing.resize(84, width=80),
    preprocessing.crop(top=10),
    targets.mellowmax(5.0),
    targets.expected_sarsa(0.1),
    targets.expected_sarsa(schedules.linear(1.0, 0.1, steps=1000, start=10)),
    losses.lower_bound(),
    losses.lower_bound(2.0, loss=losses.squared),
    losses.linear_lower_bound(loss=losses.huber),
    losses.from_keras("mse"),
    schedules.constant(0.5),
    schedules.linear(1, 0, steps=5),
    schedules.exponential(1.0, 0.1, half_life=100),
    policies.Greedy(),
    policies.EpsilonGreedy(0.1),
    policies.EpsilonGreedy(schedules.exponential(1.0, 0.1, half_life=100)),
    policies.Boltzmann(schedules.linear(1.0, 0.1, steps=10)),
    policies.Random(),
    policies.Certainty(2.0, base=0.1),
    policies.ApeX(0.3, alpha=5.0),
    policies.Switching(policies.Greedy(), policies.Random(), 0.1),
    policies.AdvSwitch(policies.Greedy(), policies.EpsilonGreedy(0.1), margin=5),
    policies.Mixture({"a": policies.Greedy(), "b": policies.Random()}, {0: {"a": 1}, 10: {"b": 2}}),
    samplers.Uniform(),
    samplers.Prioritized(0.7, schedules.linear(0.4, 1.0, steps=10), epsilon=1e-3),
    Sequences(10, burn_in=3),
    returns.Bounds(3, upper=True, return_to_go=True),
    returns.Rescaling(0.01),
    Replay(123),
    Replay(sampler=samplers.Prioritized(beta=0.5), capacity=77),
]


def through_json(value, name="x"):
    return checkpoint.decode(json.loads(json.dumps(checkpoint.encode(value, name))), name)


@pytest.mark.parametrize("value", EXAMPLES, ids=lambda value: checkpoint.encode(value, "x")["call"])
def test_what_was_made_is_made_again(value):
    made = through_json(value)
    assert type(made) is type(value) and made is not value
    assert made.recipe[0] is value.recipe[0]
    assert checkpoint.encode(made, "x") == checkpoint.encode(value, "x")


def test_arguments_arrive():
    made = through_json(schedules.linear(1.0, 0.5, steps=10, start=5))
    assert [made(step) for step in (0, 10, 15, 99)] == [1.0, 0.75, 0.5, 0.5]
    replay = through_json(EXAMPLES[-1])
    assert replay.capacity == 77 and replay.sampler.beta(9) == 0.5
    bounds = through_json(returns.Bounds(3, upper=True))
    assert (bounds.horizons, bounds.upper, bounds.return_to_go) == (3, True, False)


def test_every_factory_is_among_the_examples():
    def is_recorded(value):
        return hasattr(value.__init__ if isinstance(value, type) else value, "__wrapped__")

    recorded = {f"{module}:{name}" for module, name in PUBLIC if is_recorded(public(module, name))}
    assert {checkpoint.encode(value, "x")["call"] for value in EXAMPLES} == recorded


@pytest.mark.parametrize("module, name", PUBLIC)
def test_every_public_name_is_found(module, name):
    value = public(module, name)
    assert checkpoint.encode(value, "x") == {"name": f"{module}:{name}"}
    assert through_json(value) is value


@pytest.mark.parametrize("value", [None, True, 3, 2.5, "CartPole-v1", [1, None, [2.0]]])
def test_plain_values(value):
    assert through_json(value) == value


def test_numpy_numbers_become_plain():
    assert checkpoint.encode(np.float64(0.5), "x") == 0.5 and type(checkpoint.encode(np.int64(3), "x")) is int


def own_target(next_state):
    return next_state.values[:, 0]


class OwnPolicy(policies.EpsilonGreedy):
    """A subclass does what its base does not."""

    def __call__(self, values, uniform, step):
        return ops.zeros_like(uniform, dtype="int32")


@functools.wraps(targets.double)
def wrapped(next_state):
    return targets.double(next_state) + 1.0


@pytest.mark.parametrize(
    "value, description",
    [
        (own_target, "own_target"),
        (lambda x: x, "<lambda>"),
        (OwnPolicy(0.1), "OwnPolicy"),
        (wrapped, "double"),
        (functools.partial(own_target), "partial"),
        (np.argmax, "argmax"),
        (os.system, "system"),
        (np.zeros(3), "ndarray"),
    ],
)
def test_what_is_not_ours_is_given_again(value, description):
    encoded = checkpoint.encode(value, "target")
    assert list(encoded) == ["given"] and encoded["given"].endswith(description)
    with pytest.raises(ValueError, match=r"cannot hold `target` \(.*\)\. Pass it again, as an argument: target=\.\.\."):
        checkpoint.decode(encoded, "target")


OWN_SAMPLER = types.SimpleNamespace(**dict.fromkeys(("build", "retire", "admit", "sample", "update"), print))


@pytest.mark.parametrize(
    "value",
    [policies.EpsilonGreedy(lambda step: 0.5), [own_target, targets.double], Replay(9, sampler=OWN_SAMPLER)],
    ids=["schedule", "list", "sampler"],
)
def test_what_is_inside_is_asked_for_by_the_argument_of_the_trainer(value):
    with pytest.raises(ValueError, match=r"Pass it again, as an argument: policy=\.\.\."):
        through_json(value, "policy")


@pytest.mark.parametrize(
    "reference",
    [
        "os:system",
        "targets:ops",
        "targets:recorded",
        "samplers:stratify",
        "schedules:_finite",
        "targets:__builtins__",
        "sota_dqn.targets:double",
        "checkpoint:save",
        "trainer:Trainer",
        "targets.double",
        "targets:double.__globals__",
        "backend:os",
        ":",
        "",
        None,
        ["targets:double"],
    ],
)
@pytest.mark.parametrize("kind", ["name", "call"])
def test_only_public_names_are_looked_up(reference, kind):
    with pytest.raises(ValueError, match="which is no public name of sota_dqn"):
        checkpoint.decode({kind: reference, "arguments": {}}, "target")


def test_wrong_arguments_of_a_public_name():
    with pytest.raises(ValueError, match="The checkpoint's `target` cannot be made"):
        checkpoint.decode({"call": "targets:mellowmax", "arguments": {"command": "ls"}}, "target")


# Saving over what is there


@pytest.mark.parametrize(
    "content", ['{"model": "mine"}', "not json", "[1, 2]", '{"checkpoint": "../other"}', '{"checkpoint": 3}', ""]
)
def test_a_directory_of_someone_else_is_left_alone(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "step-000000001").mkdir()
    before = files(tmp_path)
    with pytest.raises(ValueError, match="is not a checkpoint's and would be overwritten. Choose another directory"):
        write(tmp_path)
    assert files(tmp_path) == before and (tmp_path / "step-000000001").is_dir()


@pytest.mark.parametrize("steps", [(10, 20), (10, 10, 10)])
def test_a_new_checkpoint_takes_the_place_of_the_old_one(steps, tmp_path):
    for value, step in enumerate(steps):
        write(tmp_path, value, steps=step)
        assert read(tmp_path) == value
        assert {file.name for file in tmp_path.iterdir()} == {"config.json", data(tmp_path).name}


def user_files(path):
    """Puts files of the user's where checkpoints are written, and returns them."""
    (path / "step-notes").mkdir()
    names = ("notes.txt", "step-notes/a.txt", "log.csv", "step-5.keras", "weights.partial")
    for name in names:
        (path / name).write_text(name)
    return {name: name.encode() for name in names}


def test_files_of_the_user_stay(tmp_path):
    theirs = user_files(tmp_path)
    for value in range(3):
        write(tmp_path, value, steps=10 * value)
    assert theirs.items() <= files(tmp_path).items()


@pytest.mark.parametrize("fault, error", [(faults.dying, faults.Death), (faults.failing, OSError)])
def test_a_fault_at_any_moment_leaves_a_checkpoint(fault, error, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_synchronize", lambda file: None)
    old, run = tmp_path / "old", tmp_path / "run"
    write(old, 1)
    theirs = user_files(old)
    shutil.copytree(old, run)
    with faults.counting(run) as all_of_them:
        write(run, 2, steps=20)
    assert all_of_them.count > 20
    kept = []
    for number in range(1, all_of_them.count + 1):
        shutil.rmtree(run)
        shutil.copytree(old, run)
        raised = False
        try:
            with fault(run, number):
                write(run, 2, steps=20)
        except error:
            raised = True
        kept.append(read(run))
        assert raised or kept[-1] == 2
        write(run, 3, steps=10)
        assert read(run) == 3
        assert theirs.items() <= files(run).items()
        ours = {"config.json", "step-000000010", "step-000000010-1"}
        assert {file.name for file in run.iterdir()} - ours == {name.split("/")[0] for name in theirs}
    assert kept[3:] == sorted(kept[3:]) and set(kept) == {1, 2}  # the old one until the new one is complete


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError()])
def test_a_write_that_fails_leaves_no_trace(error, tmp_path, monkeypatch):
    write(tmp_path, 1)
    before = files(tmp_path)
    slices = checkpoint._slices

    def full(values):
        yield from list(slices(values))[:1]
        raise error

    monkeypatch.setattr(checkpoint, "_slices", full)
    with pytest.raises(type(error)):
        write(tmp_path, 2, steps=20)
    assert files(tmp_path) == before and len(list(tmp_path.iterdir())) == 2


def test_the_first_checkpoint_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_write_array", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())
    with pytest.raises(FileNotFoundError, match="There is no checkpoint in"):
        checkpoint.Checkpoint(tmp_path / "run")


def test_a_path_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OSError, match="config.json cannot be written"):
            write(path)


@pytest.mark.parametrize(
    "callback",
    [
        lambda path: callbacks.Checkpoint(path / "run"),
        lambda path: callbacks.Evaluation(best_model=path / "best.keras"),
    ],
)
def test_callbacks_that_cannot_write_stop_before_the_training(callback, damaged, tmp_path):
    (tmp_path / "file").touch()
    trainer = DQNTrainer.load(damaged)
    with pytest.raises(OSError, match="cannot be written"):
        trainer.train(100, callbacks=[callback(tmp_path / "file")], verbose=0)
    assert trainer.steps == 60
    trainer.close()


def test_a_checkpoint_callback_refuses_a_directory_of_someone_else(damaged, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    trainer = DQNTrainer.load(damaged)
    with pytest.raises(ValueError, match="is not a checkpoint's"):
        trainer.train(100, callbacks=[callbacks.Checkpoint(tmp_path)], verbose=0)
    assert trainer.steps == 60
    trainer.close()


# What is refused


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("name", ["config.json", "state.json", "model.keras", "arrays/replay_0.npy"])
@pytest.mark.parametrize("damage", [truncate, lambda file: file.write_bytes(b""), lambda file: file.unlink()])
def test_a_damaged_file(name, damage, damaged):
    damage(damaged / name if name == "config.json" else data(damaged) / name)
    with pytest.raises((ValueError, FileNotFoundError), match="damaged|There is no|cannot be loaded") as caught:
        DQNTrainer.load(damaged)
    assert str(damaged) in str(caught.value)


class Twice(keras.layers.Layer):
    def call(self, inputs):
        return inputs * 2


@keras.saving.register_keras_serializable("tests")
def known(inputs):
    return inputs


def halved(inputs):
    return inputs / 2


def fourth(target, q):
    return (target - q) ** 4


def test_what_is_the_users_own_in_a_model_is_named(tmp_path):
    own, file = {"Twice": Twice, "halved": halved, "fourth": fourth}, tmp_path / "model.keras"
    dense = [keras.layers.Dense(2, activation=activation) for activation in ("tanh", known, halved)]
    model = keras.Sequential([keras.Input((4,)), Twice(), *dense])
    model.compile(loss=fourth)
    model.save(file)
    for missing in (["Twice", "halved", "fourth"], ["fourth"]):
        given = {name: value for name, value in own.items() if name not in missing}
        with pytest.raises(ValueError, match=r"cannot be loaded .*Pass what is your own in it: custom_obj") as caught:
            checkpoint.load_model(file, given)
        assert {name for name in own if f"'{name}': {name}" in str(caught.value)} == set(missing)
    assert checkpoint.load_model(file, own).loss is fourth
    truncate(file)
    with pytest.raises(ValueError, match=r"The model .* is damaged: File is not a zip file"):
        checkpoint.load_model(file, own)


@pytest.mark.parametrize(
    "changes",
    [{"arrays": 3}, {"arrays": {"replay_0": None}}, {"checkpoint": "../run"}, {"checkpoint": None}],
)
def test_a_damaged_config(changes, damaged):
    change(damaged, **changes)
    with pytest.raises(ValueError, match="is damaged"):
        DQNTrainer.load(damaged)


def test_an_array_of_python_objects(damaged):
    file = data(damaged) / "arrays" / "replay_0.npy"
    np.save(file, np.array([print, 1], object), allow_pickle=True)
    with pytest.raises(ValueError, match="is damaged"):
        DQNTrainer.load(damaged)


def test_an_archive_in_the_place_of_an_array(damaged):
    with open(data(damaged) / "arrays" / "replay_0.npy", "wb") as file:
        np.savez(file, a=np.zeros(3))
    with pytest.raises(ValueError, match="is damaged"):
        DQNTrainer.load(damaged)


def test_an_array_of_another_shape(damaged):
    np.save(data(damaged) / "arrays" / "replay_0.npy", np.zeros((3, 3), "float32"))
    with pytest.raises(
        ValueError, match=r"is damaged: replay_0.npy holds \(3, 3\) of float32, not \[101, 4\] of float32"
    ):
        DQNTrainer.load(damaged)


def test_a_model_that_would_execute_code(damaged):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x), keras.layers.Dense(2)])
    model.save(data(damaged) / "model.keras")
    with pytest.raises(ValueError, match="cannot be loaded"):
        DQNTrainer.load(damaged)


def test_another_version(damaged):
    change(damaged, format=999, sota_dqn="99.0")
    with pytest.raises(ValueError, match="has format 999 .* reads format 4. It was written by version 99.0"):
        DQNTrainer.load(damaged)


def test_another_trainer(damaged):
    change(damaged, trainer="SACTrainer")
    with pytest.raises(ValueError, match="is of a SACTrainer, not of a DQNTrainer"):
        DQNTrainer.load(damaged)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no checkpoint in .*: it has no config.json"):
        DQNTrainer.load(tmp_path / "nowhere")


def test_a_name_that_is_not_public(damaged):
    arguments = json.loads((damaged / "config.json").read_text())["arguments"]
    change(damaged, arguments={**arguments, "target": {"call": "os:system", "arguments": {"command": "true"}}})
    with pytest.raises(ValueError, match="names 'os:system', which is no public name of sota_dqn"):
        DQNTrainer.load(damaged)


@pytest.mark.parametrize(
    "given, message",
    [
        (
            {"env": "Acrobot-v1"},
            "checkpoint .* does not go with `env`: .* does not match the preprocessed observations",
        ),
        ({"num_envs": 3}, "`num_envs` must be that of the checkpoint .*, 2. Received: num_envs=3"),
        ({"replay": Replay(200)}, "`replay` must be of the capacity of the checkpoint .* Received: replay of 201 rows"),
        ({"replay": Replay(60)}, "`replay` must be of the capacity of the checkpoint .* Received: replay of 61 rows"),
        (
            {"replay": Replay(100, sampler=samplers.Uniform()), "bounds": returns.Bounds(return_to_go=True)},
            "of a replay with another sampler or other bounds",
        ),
    ],
)
def test_arguments_that_do_not_fit(given, message, damaged):
    before = files(damaged)
    with pytest.raises(ValueError, match=message):
        DQNTrainer.load(damaged, **given)
    assert files(damaged) == before


def test_an_argument_that_is_not_known(damaged):
    for name in ("model", "steps"):
        with pytest.raises(TypeError, match=f"unexpected argument `{name}`"):
            DQNTrainer.load(damaged, **{name: 1})


def test_arguments_may_be_others_from_now_on(damaged):
    trainer = DQNTrainer.load(damaged, target=own_target, target_update=None, average=None, discount=0.5)
    assert trainer.target is own_target and trainer.discount == 0.5
    assert trainer.learner.target_variables == trainer.learner.average_variables == []
    trainer.save(damaged)
    trainer.close()
    with pytest.raises(ValueError, match=r"Pass it again, as an argument: target=\.\.\."):
        DQNTrainer.load(damaged)
    with pytest.raises(ValueError, match="was made with other arguments: it has no target_0"):
        DQNTrainer.load(damaged, target=targets.double, target_update=0.5)
    with pytest.raises(ValueError, match="was made with other arguments: it has no average_0"):
        DQNTrainer.load(damaged, target=targets.double, average=0.1)
