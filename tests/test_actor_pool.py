"""Actor processes: real ones, on environments whose every row is known."""

import functools
import math
import multiprocessing
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import time
import types

import environments as counting
import gymnasium
import keras
import numpy as np
import pytest

from sota_dqn import (
    Actors,
    DQNTrainer,
    Replay,
    Sequences,
    backend,
    forkserver,
    policies,
    processes,
    returns,
    samplers,
    schedules,
)
from sota_dqn.callbacks import Callback
from sota_dqn.pace import Pace
from sota_dqn.remote_actor import pack_model, unpack_model
from sota_dqn.seeds import episode_seed
from sota_dqn.vectors import make_vector

NUM_ENVS = 3
EVALUATION = {"eval_env": counting.Counting}
ROWS = 4_000  # of the replay: more than any test writes, so that nothing wraps


def make_model():
    """A model that is always the same at first."""
    dense = keras.layers.Dense(counting.NUM_ACTIONS, kernel_initializer=keras.initializers.RandomNormal(seed=1))
    return keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(1e-3), dense])


def make_trainer(env=counting.Counting, *, actors, num_envs=NUM_ENVS, replay=None, **settings):
    settings = {"learning_starts": 100, "batch_size": 8, "n_step": 2, "updates_per_call": 4, "seed": 3, **settings}
    replay = replay or Replay(ROWS)
    return DQNTrainer(env, make_model(), actors=actors, num_envs=num_envs, replay=replay, **settings)


def rows_of(trainer):
    """Every row of every stream so far, in order: lists of (observation, action, reward, terminated, valid)."""
    storage = trainer.replay.storage
    steps = storage.read(np.arange(storage.bin, dtype="int32"))._replace(observation=storage.observation.value[:-1])
    fields = [keras.ops.convert_to_numpy(values) for values in steps]
    count = keras.ops.convert_to_numpy(storage.count).tolist()
    streams = []
    for stream, number in enumerate(count):
        places = storage.places(np.full(number, stream), np.arange(number))
        columns = [field[places].tolist() for field in fields]
        columns[0] = list(map(tuple, columns[0]))
        streams.append(list(zip(*columns, strict=True)))
    return streams


def check_rows(streams):
    """Asserts that every stream is an unbroken sequence of whole episodes of the counting environment, but for those
    that were cut, and returns how many steps and how many cut episodes there are."""
    steps = cut = 0
    for rows in streams:
        for (observation, action, reward, terminated, valid), follower in zip(
            rows, [*rows[1:], None][: len(rows)], strict=True
        ):
            identity, now = map(int, observation)
            ends = counting.length_of(identity)
            if valid:
                steps += 1
                assert reward == counting.reward_of(identity, now, action)
                assert terminated == (now + 1 == ends and counting.terminates(identity))
                assert follower is None or follower[0] == (identity, now + 1)
            else:
                cut += now < ends and follower is not None
                assert follower is None or follower[0][1] == 0
    return steps, cut


def is_alive(process):
    """Whether a process runs, by its number; a zombie does not."""
    try:
        return pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=30.0):
    """Returns whether a condition has come true in time."""
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
    return condition()


class Kill(Callback):
    """Kills an actor at the end of the first epoch."""

    def __init__(self):
        super().__init__()
        self.killed = None

    def on_epoch_end(self, epoch, logs=None):
        if self.killed is None:
            self.killed = self.trainer.actor.processes[1]
            os.kill(self.killed, signal.SIGKILL)


class Announce(Callback):
    """Prints the numbers of the actors at the end of the first epoch."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            print(*self.trainer.actor.processes, flush=True)


class Frail(counting.Counting):
    """Raises in every episode's second step."""

    def step(self, action):
        if self.time == 1:
            raise ArithmeticError("the environment is broken")
        return super().step(action)


@pytest.mark.parametrize("num_envs", [1, NUM_ENVS])
def test_one_actor_makes_the_rows_that_the_trainer_itself_makes(num_envs):
    found = []
    for actors in (0, 1):
        policy = policies.EpsilonGreedy(schedules.linear(1.0, 0.0, steps=60 * num_envs))
        trainer = make_trainer(actors=actors, num_envs=num_envs, learning_starts=1_000, policy=policy)
        trainer.train(steps=60 * num_envs, verbose=0)
        assert trainer.steps == 60 * num_envs
        if not actors:
            trainer.actor.flush()
        found.append((rows_of(trainer), trainer.episodes, trainer.history["episode_return"]))
        trainer.close()
    np.testing.assert_equal(*found)


@pytest.mark.parametrize("mode", ["slow learner", "free"])
def test_every_step_is_written_once_and_in_order(mode):
    bounds = {"slow learner": (1, 2), "free": (0, math.inf)}[mode]
    settings = Actors(2, steps_per_update=bounds, steps_per_chunk=5, weights_every=8)
    trainer = make_trainer(actors=settings, report_every=200)
    trainer.train(steps=1_202, verbose=0)
    trainer.close()
    steps, cut = check_rows(rows_of(trainer))
    assert (steps, cut) == (trainer.steps, 0)
    assert 1_202 <= trainer.steps < 1_202 + NUM_ENVS
    ratio = (trainer.steps - trainer.learning_starts) / trainer.updates
    assert ratio >= bounds[0]
    assert trainer.updates > 0
    assert set(trainer.history) >= {"lag", "learner_waited", "actors_waited"}
    assert all(lag >= 0 for lag in trainer.history["lag"] if not math.isnan(lag))
    if mode == "slow learner":  # at most a chunk of each actor beyond the bound
        assert trainer.steps <= trainer.pace.allowed(trainer.updates) + 2 * 5 * NUM_ENVS


def sequences():
    return Sequences(6, burn_in=2, period=3, initial_state="learned")


def recurrent_model():
    cells = {"kernel_initializer": keras.initializers.RandomNormal(seed=1), "recurrent_initializer": "identity"}
    lstm = keras.layers.GRU(counting.NUM_ACTIONS, return_sequences=True, **cells)
    return keras.Sequential([keras.Input((None, 2)), keras.layers.Rescaling(1e-3), lstm])


def previous_model():
    seen, action = keras.Input((2, 3)), keras.Input((counting.NUM_ACTIONS,), name="previous_action")
    hidden = keras.layers.Concatenate()([keras.layers.Flatten()(keras.layers.Rescaling(1e-3)(seen)), action])
    dense = keras.layers.Dense(counting.NUM_ACTIONS, kernel_initializer=keras.initializers.RandomNormal(seed=1))
    return keras.Model([seen, action], dense(hidden))


@pytest.mark.parametrize(
    "settings",
    [
        lambda: {"model": recurrent_model(), "sequences": sequences()},
        lambda: {"model": previous_model(), "frame_stack": 3, "bounds": returns.Bounds(2, return_to_go=True)},
    ],
    ids=["recurrent", "stack, returns to go, previous action"],
)
def test_one_actor_stores_what_the_trainer_itself_stores(settings):
    """States, returns to go and all else that comes with a row, under a mixture of policies."""
    found = []
    for actors in (0, 1):
        policy = policies.Mixture({"greedy": policies.Greedy(), "noisy": policies.EpsilonGreedy(0.3)})
        made = {**settings(), "policy": policy, "learning_starts": 1_000, "num_envs": 2, "seed": 3}
        trainer = DQNTrainer(counting.Counting, made.pop("model"), actors=actors, replay=Replay(1_200), **made)
        trainer.train(steps=120, verbose=0)
        if not actors:
            trainer.actor.flush()
        found.append([keras.ops.convert_to_numpy(variable) for variable in trainer.replay.storage.variables])
        trainer.close()
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours[:-1], theirs[:-1], rtol=1e-6, atol=1e-6)  # but for the bin


def test_streams_have_their_seeds_and_weights_arrive():
    """The second of two actors plays the episodes of its own streams, and both act by the weights that are learned."""
    settings = Actors(2, steps_per_update=(1, 2), steps_per_chunk=2, weights_every=1)
    trainer = make_trainer(actors=settings, policy=policies.Greedy(), updates_per_call=1, report_every=300)
    before = trainer.model.get_weights()
    trainer.train(steps=600, verbose=0)
    steady = [x + y for x, y in zip(before, [np.zeros((2, 3)), np.array([0.0, 0.0, 99.0])], strict=True)]
    trainer.model.set_weights(steady)  # from here on the third action is the best, whatever is observed
    trainer.learner.optimizer.learning_rate.assign(0.0)
    trainer.train(steps=300, verbose=0)
    trainer.close()
    for stream, rows in enumerate(rows_of(trainer)):
        begun = [row[0][0] for row in rows if row[0][1] == 0]
        seeds = [episode_seed(3, stream, episode) for episode in range(len(begun))]
        assert begun == [counting.draw_identity(gymnasium.utils.seeding.np_random(seed)[0]) for seed in seeds]
        assert all(row[1] == 2 for row in rows[-10:] if row[4])


def test_actors_take_turns():
    """A learner that holds all back, and actors that are done at once: none is asked more often than another."""
    trainer = make_trainer(actors=Actors(3, steps_per_update=(1, 2), steps_per_chunk=2))
    pool = trainer.actor
    pool._transport = types.SimpleNamespace(slots=2, starts_at_once=True, collect=lambda *asked: None)
    pool.steps = trainer.learning_starts
    for _ in range(60):
        trainer.learner.updates += 1
        pool._ask(math.inf)
        for asked in pool._outstanding:
            pool.steps += sum(asked)
            asked.clear()
    pool._transport = None
    counts = sorted(pool._asked)
    assert counts[-1] - counts[0] <= 3
    assert counts[0] > 10


def test_the_learner_keeps_pace_with_the_device(monkeypatch):
    """Calls that only queue up would keep the chunks that arrive meanwhile waiting until the last of them is done."""
    waited, called = [], []
    monkeypatch.setattr(backend, "wait", waited.append)
    trainer = make_trainer(actors=Actors(1, steps_per_update=(0, math.inf)))
    learn = trainer.learner.learn
    trainer.learner.learn = lambda step: called.append(learn(step)) or called[-1]
    for _ in range(50):  # how many calls are made meanwhile is up to the machine
        trainer.train(steps=400, verbose=0)
        if len(called) > 5:
            break
    trainer.close()
    assert len(called) > 5
    calls = {id(made): number for number, made in enumerate(called)}
    assert [calls[id(made)] for made in waited if id(made) in calls] == list(range(len(called) - 1))


def soften(values):
    """An activation of the script's own."""
    return keras.ops.tanh(values)


class Halves(keras.initializers.Initializer):
    """An initializer of the script's own."""

    def __call__(self, shape, dtype=None):
        return keras.ops.full(shape, 0.5, dtype)


def test_functions_of_the_script_are_sent_along():
    layers = keras.layers
    cell = layers.GRUCell(2, activation=soften)
    model = keras.Sequential(
        [
            keras.Input((None, 3)),
            layers.Dense(2, activation=soften, kernel_initializer=Halves()),
            layers.RNN(cell, return_sequences=True),
        ]
    )
    copied = unpack_model(*pack_model(model))
    observations = np.ones((1, 2, 3), "float32")
    np.testing.assert_allclose(copied(observations), model(observations), rtol=1e-6)


def test_weights_come_before_what_is_made_with_them():
    ours, theirs = multiprocessing.Pipe()
    inbox = queue.PriorityQueue()
    thread = threading.Thread(target=processes._listen, args=(theirs, inbox, threading.Event()), daemon=True)
    thread.start()
    for message in (("collect", 0, 8, 0), ("collect", 1, 8, 8), ("load", 7)):
        ours.send(message)
    while inbox.qsize() < 3:
        time.sleep(0.01)
    assert [inbox.get()[-1] for _ in range(3)] == [("load", 7), ("collect", 0, 8, 0), ("collect", 1, 8, 8)]
    # The thread waits for more: the end of the pipe would end this process.
    _open_pipes.append(ours)


_open_pipes = []


def test_weights_are_copied_only_for_actors_that_want_them():
    trainer = make_trainer(actors=Actors(1, weights_every=10))
    pool, wanted, published = trainer.actor, [], []
    pool._transport = types.SimpleNamespace(
        wants_weights=lambda: wanted.pop(0), publish=lambda weights, updates: published.append(updates)
    )
    for wants in (False, True, False, True):
        wanted.append(wants)
        trainer.learner.updates += 10
        pool._exchange_weights()
        pool._exchange_weights()  # a second look within ten updates would find nothing in `wanted`
    pool._transport = None
    assert published == [20, 40]


@pytest.mark.parametrize("forked", [True, False])
def test_training_goes_on_with_the_same_actors_for_steps_or_episodes(monkeypatch, forked):
    monkeypatch.setattr(forkserver, "AVAILABLE", forked and forkserver.AVAILABLE)
    trainer = make_trainer(actors=1)
    trainer.train(steps=90, verbose=0)
    first = trainer.actor.processes
    trainer.train(steps=90, verbose=0)
    assert trainer.actor.processes == first
    assert trainer.steps == 180
    before = trainer.episodes
    trainer.train(episodes=60, verbose=0)
    assert trainer.actor.processes == first
    assert trainer.episodes >= before + 60
    assert trainer.updates > 0
    trainer.close()
    assert check_rows(rows_of(trainer)) == (trainer.steps, 0)
    assert not any(map(is_alive, first))


def test_a_killed_actor_is_started_again(capsys):
    trainer = make_trainer(actors=2, report_every=300)
    kill = Kill()
    trainer.train(steps=1_200, callbacks=[kill], verbose=0)
    processes = trainer.actor.processes
    trainer.close()
    assert kill.killed not in processes
    assert "Actor 1 has died and is started again. Its exit code was -9." in capsys.readouterr().out
    steps, cut = check_rows(rows_of(trainer))
    assert steps == trainer.steps - cut_rows(trainer)
    assert cut <= NUM_ENVS
    assert not any(map(is_alive, [kill.killed, *processes]))


def cut_rows(trainer):
    """Rows that were steps before their episodes were cut there."""
    return sum(
        counting.length_of(int(row[0][0])) > row[0][1] and not row[4] for stream in rows_of(trainer) for row in stream
    )


def test_an_environment_that_always_raises_stops_the_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = make_trainer(Frail, actors=Actors(1, restarts=1), num_envs=1)
    with pytest.raises(RuntimeError, match="(?s)died 2 times in a row.*the environment is broken") as caught:
        trainer.train(steps=100, verbose=0)
    assert "ArithmeticError" in str(caught.value)
    assert trainer.actor.processes == []
    assert any("What was learned so far is in" in note for note in caught.value.__notes__)
    assert len(list(tmp_path.glob("sota_dqn-rescue-*"))) == 1
    assert trainer.steps >= 2  # what came before each death is kept
    assert check_rows(rows_of(trainer))[0] + cut_rows(trainer) == trainer.steps


SCRIPT = """
import os, sys, time
sys.path.insert(0, {tests!r})
import test_actor_pool as tests
trainer = tests.make_trainer(actors=2, report_every=200, replay=tests.Replay(10**6))
try:
    trainer.train(steps=10**9, callbacks=[tests.Announce()], verbose=0)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    before = trainer.steps
    trainer.train(steps=30, verbose=0)
    trainer.save({path!r})
    print(trainer.steps - before >= 30, tests.check_rows(tests.rows_of(trainer)) == (trainer.steps, 0), flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_behind(tmp_path, number):
    """There is no `if __name__ == "__main__"` in the script, and none is needed."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(pathlib.Path(__file__).parent), path=str(tmp_path / "kept")))
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    actors = [int(word) for word in process.stdout.readline().split()]
    assert len(actors) == 2
    assert all(map(is_alive, actors))
    for one in (process.pid, *actors):  # what has no name cannot stay behind
        assert "/dev/shm/" not in pathlib.Path(f"/proc/{one}/maps").read_text()
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert wait_until(lambda: not any(map(is_alive, actors)))
    if number == signal.SIGINT:
        assert said.split() == ["interrupted", "True", "True"]
        assert process.returncode == 0
        assert (tmp_path / "kept").is_dir()


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run of one actor that has ended, and its checkpoint."""
    path = tmp_path_factory.mktemp("run") / "kept"
    trainer = make_trainer(actors=Actors(1, steps_per_chunk=4))
    trainer.train(steps=240, verbose=0)
    trainer.save(path)
    trainer.close()
    return trainer, path


@pytest.mark.parametrize("actors", [0, 1])
def test_a_checkpoint_of_actors_goes_on(kept, actors, capsys):
    trainer, path = kept
    loaded = DQNTrainer.load(path, env=counting.Counting, **({} if actors else {"actors": 0}))
    assert (loaded.steps, loaded.episodes, loaded.updates) == (trainer.steps, trainer.episodes, trainer.updates)
    assert ("fresh episodes" in capsys.readouterr().out) == (actors == 0)
    loaded.train(steps=120, verbose=0)
    if not actors:
        loaded.actor.flush()
    steps, cut = check_rows(rows_of(loaded))
    assert steps + cut_rows(loaded) == loaded.steps == 360
    assert cut <= NUM_ENVS
    loaded.close()


def test_actors_take_over_a_run_without(tmp_path):
    trainer = make_trainer(actors=0)
    trainer.train(steps=150, verbose=0)
    trainer.save(tmp_path / "kept")
    loaded = DQNTrainer.load(tmp_path / "kept", env=counting.Counting, actors=1)
    loaded.train(steps=60, verbose=0)
    steps, _ = check_rows(rows_of(loaded))
    assert steps + cut_rows(loaded) == loaded.steps == 210
    trainer.close()
    loaded.close()


def test_first_priorities_are_the_errors_of_the_learner():
    """Weights that stand still: every priority is that of the error which an update would find."""
    sampler = samplers.Prioritized(alpha=1.0, epsilon=1e-3)
    trainer = make_trainer(
        functools.partial(counting.Counting, longest=4),
        actors=1,
        replay=Replay(ROWS, sampler=sampler),
        learning_starts=5_000,
        bounds=None,
        discount=0.5,
        policy=policies.Random(),
    )
    trainer.train(steps=180, verbose=0)
    trainer.close()
    program = backend.Program(trainer.replay.variables, [], backend.plan(convolutions=False))
    read = program.compile(lambda places: sampler.tree.read(places))
    checked = highest = 0
    for stream, rows in enumerate(rows_of(trainer)):
        values = np.array(trainer.model(np.array([row[0] for row in rows], "float32")))
        places = trainer.replay.storage.places(np.full(len(rows), stream), np.arange(len(rows)))
        priorities = keras.ops.convert_to_numpy(read(places))
        for t, (_, action, reward, terminated, valid) in enumerate(rows[:-2]):
            if not valid:
                assert priorities[t] == 0
                continue
            after = rows[t + 1]
            if terminated:
                target = reward
            elif not after[4]:
                highest += 1  # the model has not seen an environment's last observation: the highest so far
                continue
            elif after[3]:
                target = reward + 0.5 * after[2]
            elif not rows[t + 2][4]:
                continue
            else:
                target = reward + 0.5 * after[2] + 0.25 * values[t + 2].max()
            np.testing.assert_allclose(priorities[t], abs(target - values[t, action]) + 1e-3, rtol=1e-4, atol=1e-4)
            checked += 1
    assert checked > 50
    assert highest > 5


def test_apex_counts_the_environments_of_all_actors():
    """An epsilon per stream: those of the second actor go on where those of the first end."""
    part = policies.ApeX()
    part.streams = (2, 4)
    values = np.tile(np.float32([0, 1]), (2, 1))
    epsilon = 0.4 ** (1 + np.array([2, 3]) * 7 / 3)
    for shift, action in ((-1e-4, 0), (1e-4, 1)):  # of the random actions, the first half of the numbers is action 0
        uniform = (epsilon / 2 + np.where(shift < 0, shift, epsilon / 2 + shift)).astype("float32")
        np.testing.assert_array_equal(part(values, uniform, 0), [action] * 2)


def test_pace():
    pace = Pace(2.0, 4.0, updates_per_call=5, origin=(100, 10))
    assert [pace.due(steps, 10) for steps in (0, 100, 109, 110, 119, 120)] == [0, 0, 0, 5, 5, 10]
    assert pace.due(120, 20) == 0
    assert [pace.allowed(updates) for updates in (10, 15, 20)] == [110, 120, 140]
    exact = Pace(1 / 0.29, math.inf, updates_per_call=1, origin=(0, 0))
    assert exact.due(100, 0) == 29
    free = Pace(0, math.inf, updates_per_call=8, origin=(100, 0))
    assert [free.due(steps, 10**6) for steps in (99, 100, 101)] == [0, 0, 8]
    assert free.allowed(0) > 100


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"actors": -1}, ValueError, "Argument `actors` must be at least 0. Received: actors=-1"),
        ({"actors": 1.5}, TypeError, "Argument `actors` must be an integer or `Actors`. Received: actors=1.5"),
        ({"actors": True}, TypeError, "Received: actors=True"),
        ({"actors": 2, "vectorization_mode": "async"}, ValueError, "Actors are processes already"),
        ({"actors": 1, "env": counting.Counting(), **EVALUATION}, ValueError, "pass an id or a callable"),
        ({"actors": 1, "env": make_vector(counting.Counting, num_envs=1), **EVALUATION}, ValueError, "pass an id or a"),
    ],
)
def test_bad_actors(settings, error, message):
    with pytest.raises(error, match=message):
        make_trainer(**settings)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"number": 0}, ValueError, "Argument `number` must be at least 1"),
        ({"number": 1, "steps_per_update": (2, 1)}, ValueError, "Argument `steps_per_update` must be two numbers"),
        ({"number": 1, "steps_per_update": (0, 0)}, ValueError, "Argument `steps_per_update`"),
        ({"number": 1, "steps_per_update": 2}, ValueError, "Argument `steps_per_update`"),
        ({"number": 1, "steps_per_update": (math.inf, math.inf)}, ValueError, "Argument `steps_per_update`"),
        ({"number": None}, TypeError, "Argument `number` must be an integer. Received: number=None"),
        ({"number": 1, "restarts": -1}, ValueError, "Argument `restarts` must be at least 0"),
        ({"number": 1, "restarts": True}, TypeError, "Argument `restarts` must be an integer"),
        ({"number": 1, "weights_every": None}, TypeError, "Argument `weights_every` must be an integer"),
        ({"number": 1, "steps_per_update": ("a", "b")}, ValueError, "Argument `steps_per_update`"),
        ({"number": 1, "weights_every": 0}, ValueError, "Argument `weights_every` must be at least 1"),
    ],
)
def test_bad_settings(settings, error, message):
    with pytest.raises(error, match=message):
        Actors(**settings)


def test_what_cannot_be_copied_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = (x for x in ())
    trainer = make_trainer(lambda render_mode=None: (generator, counting.Counting())[1], actors=1)
    for _ in range(2):
        with pytest.raises(TypeError, match="one of them cannot be copied"):
            trainer.train(steps=10, verbose=0)
        assert trainer.actor.processes == []


def test_what_the_script_defines_reaches_the_actors():
    class Doubling(keras.layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    class Slower(keras.optimizers.SGD):
        pass

    gymnasium.register("OfThisTest-v0", entry_point=counting.Counting)
    try:
        model = keras.Sequential([keras.Input((2,)), Doubling(), keras.layers.Dense(counting.NUM_ACTIONS)])
        model.compile(optimizer=Slower(1e-3), loss=keras.losses.MeanSquaredError())
        trainer = DQNTrainer("OfThisTest-v0", model, actors=1, num_envs=2, replay=Replay(1_000), learning_starts=1_000)
        trainer.train(steps=20, verbose=0)
        assert trainer.steps == 20
        trainer.close()
    finally:
        del gymnasium.registry["OfThisTest-v0"]
