"""Workers that die, environments and callbacks that raise, Ctrl-C: an error says what happened, and nothing is lost."""

import functools
import multiprocessing
import os
import pathlib
import re
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from frail import Frail, Imports
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from runs import assert_same, make, network, state_of

from sota_dqn import DQNTrainer, callbacks


@pytest.fixture(autouse=True)
def in_a_directory_of_its_own(tmp_path, monkeypatch):
    """Rescued runs are written to the current directory."""
    monkeypatch.chdir(tmp_path)


def frail(step=None, what=None, **settings):
    """Returns a trainer of three environments, to each of which something happens at its step `step`.

    Unless said otherwise it does not come to learn, so that nothing has to be compiled for it.
    """
    settings = {"num_envs": 3, "learning_starts": 1000, **settings}
    return make(functools.partial(Frail, step, what), network(2, 2), **settings)


def rescued(error):
    """Returns the directory that an error names."""
    (note,) = error.__notes__
    path = re.fullmatch(r"What was learned so far is in (.*): DQNTrainer\.load\('\1'\) goes on\.", note)[1]
    return pathlib.Path(path)


def workers(trainer):
    return trainer.actor.environments.vector.processes


class At(callbacks.Callback):
    """Calls a function of the trainer when the episode of that number has ended."""

    def __init__(self, episode, act):
        super().__init__()
        self.episode = episode
        self.act = act

    def on_episode_end(self, episode, logs=None):
        if episode == self.episode:
            self.act(self.trainer)


def press_ctrl_c(trainer=None):
    os.kill(os.getpid(), signal.SIGINT)


# Errors


def test_a_worker_that_dies():
    def kill(trainer):
        os.kill(workers(trainer)[1].pid, signal.SIGKILL)

    trainer = frail(vectorization_mode="async")
    with pytest.raises(RuntimeError, match=r"process of environment 1 died \(exit code -9\)") as caught:
        trainer.train(600, callbacks=[At(40, kill)], verbose=0)
    path = rescued(caught.value)
    assert path.parent == pathlib.Path.cwd() and path.name == f"sota_dqn-rescue-{trainer.steps}"
    assert trainer.steps > 200
    assert not any(worker.is_alive() for worker in workers(trainer))
    with pytest.raises(RuntimeError, match="in the middle of a step. Go on from a checkpoint"):
        trainer.train(100, verbose=0)
    trainer.close()

    before = state_of(trainer)
    resumed = DQNTrainer.load(path, env=Frail, vectorization_mode="sync")
    assert_same(before, {**state_of(resumed), "actor": before["actor"]})
    np.testing.assert_equal(state_of(resumed)["actor"], before["actor"])
    resumed.train(60, verbose=0)
    assert resumed.steps == trainer.steps + 60


def test_a_worker_that_dies_while_the_environments_are_reset():
    trainer = make(vectorization_mode="async", num_envs=2)
    for worker in workers(trainer):
        worker.kill()
        worker.join()
    with pytest.raises(RuntimeError, match=r"environment 0, 1 died \(exit code -9, -9\)"):
        trainer.actor.start()
    trainer.close()


@pytest.mark.filterwarnings("ignore:.*ERROR")  # Gymnasium's way to log
@pytest.mark.parametrize(
    "what, settings",
    [
        (KeyError("lost"), {}),
        (ConnectionResetError("lost"), {}),
        (ConnectionResetError("lost"), {"vectorization_mode": "async"}),
    ],
    ids=["in this process", "a connection", "a connection of a worker"],
)
def test_an_environment_that_raises(what, settings):
    trainer = frail(50, what, **settings)
    with pytest.raises(type(what), match="lost") as caught:
        trainer.train(600, verbose=0)
    assert trainer.steps == 49 * 3
    trainer.close()
    assert not multiprocessing.active_children()
    resumed = DQNTrainer.load(rescued(caught.value), env=Frail, vectorization_mode="sync")
    resumed.train(60, verbose=0)
    assert resumed.steps == 49 * 3 + 60


def test_a_reward_that_is_not_a_number():
    trainer = frail(50, "nan")
    with pytest.raises(ValueError, match="The reward of environment 0 is NaN at step 2 of its episode 9") as caught:
        trainer.train(600, verbose=0)
    resumed = DQNTrainer.load(rescued(caught.value), env=Frail)
    resumed.train(60, verbose=0)
    assert all(np.isfinite(values).all() for name, values in state_of(resumed).items() if name.startswith("model"))


def test_a_reward_of_an_evaluation_that_is_not_a_number():
    """Or the logs would say what they say before a first evaluation, and the training go on."""
    trainer = frail(eval_env=functools.partial(Frail, 3, "nan"))
    with pytest.raises(ValueError, match="The reward is NaN at step 3 of the episode of seed") as caught:
        trainer.train(600, callbacks=[callbacks.Evaluation(300, episodes=2)], verbose=0)
    assert DQNTrainer.load(rescued(caught.value), env=Frail, eval_env=Frail).steps == trainer.steps


def test_an_error_with_a_checkpoint_callback(tmp_path):
    trainer = frail(50, KeyError("lost"))
    with pytest.raises(KeyError) as caught:
        trainer.train(600, callbacks=[callbacks.Checkpoint("run", save_every=60, replay=False)], verbose=0)
    assert rescued(caught.value) == tmp_path / "run"
    assert [file.name for file in tmp_path.iterdir()] == ["run"]
    assert DQNTrainer.load("run", env=Frail).steps == 49 * 3


def check_that_nothing_is_lost(raising, **settings):
    """Checks that after a callback that raises a trainer goes on as if it had not, from the rescued checkpoint too."""
    trainer, never_stopped = (frail(learning_starts=40, **settings) for _ in range(2))
    with pytest.raises(ZeroDivisionError) as caught:
        trainer.train(600, callbacks=[raising], verbose=0)
    never_stopped.train(600, verbose=0)
    trainer.train(600 - trainer.steps, verbose=0)
    assert_same(never_stopped, trainer)
    resumed = DQNTrainer.load(rescued(caught.value), env=Frail)
    resumed.train(600 - resumed.steps, verbose=0)
    assert_same(never_stopped, resumed)
    for one in (trainer, never_stopped, resumed):
        one.close()


def test_a_callback_that_raises():
    class Raises(callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 3:
                raise ZeroDivisionError

    check_that_nothing_is_lost(Raises())


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_callback_that_raises_while_the_environments_are_stepped(mode):
    class Raises(keras.callbacks.Callback):
        calls = 0

        def on_train_batch_begin(self, batch, logs=None):
            self.calls += 1
            if self.calls == 10:
                raise ZeroDivisionError

    check_that_nothing_is_lost(Raises(), vectorization_mode=mode)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_environments_are_closed_in_the_middle_of_a_step(mode):
    class Raises(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            raise ZeroDivisionError

    trainer = frail(learning_starts=40, vectorization_mode=mode)
    with pytest.raises(ZeroDivisionError):
        trainer.train(600, callbacks=[Raises()], verbose=0)
    trainer.close()
    assert not multiprocessing.active_children()


def test_a_callback_that_raises_at_the_end():
    class Raises(callbacks.Callback):
        def on_train_end(self, logs=None):
            raise ZeroDivisionError

    trainer = frail()
    with pytest.raises(ZeroDivisionError) as caught:
        trainer.train(60, callbacks=[Raises(), callbacks.Checkpoint("run")], verbose=0)
    assert DQNTrainer.load(rescued(caught.value), env=Frail).steps == 60


def test_a_rescue_that_fails_does_not_hide_the_error(tmp_path, monkeypatch):
    trainer = frail(30, KeyError("lost"))
    (tmp_path / "sota_dqn-rescue-87").touch()
    with pytest.raises(KeyError, match="lost") as caught:
        trainer.train(600, verbose=0)
    (note,) = caught.value.__notes__
    assert re.match(r"A checkpoint could not be written to .*sota_dqn-rescue-87 either: .*cannot be written", note)


# Ctrl-C


def test_ctrl_c_and_on(tmp_path):
    """Pressed by a callback, in an environment's step, and at the last step of an epoch."""
    settings = {"model": network(2, 2), "num_envs": 5}
    never_stopped = make(Frail, **settings)
    never_stopped.train(600, verbose=0)
    environments = iter([Frail(50, "interrupt")])  # the first of the five
    trainer = make(lambda: next(environments, None) or Frail(), **{**settings, "model": network(2, 2)})
    before = signal.getsignal(signal.SIGINT)
    # All five episodes end at steps 30, 60, ...; every other time an epoch does too.
    for episode, steps in ((0, 30), (5, 60), (None, 250), (99, 600)):
        press = [] if episode is None else [At(episode, press_ctrl_c)]
        with pytest.raises(KeyboardInterrupt, match=rf"after {steps} steps; train\(\) goes on .*save\(\) keeps it"):
            trainer.train(600 - trainer.steps, callbacks=press, verbose=0)
        assert trainer.steps == steps and len(trainer.history["steps"] if trainer.history else []) == steps // 60
        assert signal.getsignal(signal.SIGINT) is before
    assert_same(never_stopped, trainer)
    assert not list(tmp_path.iterdir())  # nothing had to be rescued


def test_ctrl_c_twice_raises_at_once():
    reached = []

    def press_twice(trainer):
        press_ctrl_c()
        reached.append(1)
        press_ctrl_c()
        reached.append(2)

    trainer = frail()
    with pytest.raises(KeyboardInterrupt):
        trainer.train(600, callbacks=[At(10, press_twice)], verbose=0)
    assert reached == [1]


def test_ctrl_c_in_a_terminal_reaches_the_workers_too():
    """They leave it to the process that trains; and what they step is what is stepped in this process."""

    def press(trainer):
        for worker in workers(trainer):
            os.kill(worker.pid, signal.SIGINT)
        press_ctrl_c()

    never_stopped = make()
    never_stopped.train(240, verbose=0)
    trainer = make(vectorization_mode="async")
    with pytest.raises(KeyboardInterrupt):
        trainer.train(240, callbacks=[At(3, press)], verbose=0)
    assert trainer.steps < 240 and all(worker.is_alive() for worker in workers(trainer))
    trainer.train(240 - trainer.steps, verbose=0)
    assert_same(never_stopped, trainer)
    processes = workers(trainer)
    trainer.close()
    trainer.close()
    assert not any(process.is_alive() for process in processes)


# Worker processes


def test_workers_do_not_import_keras():
    trainer = make(Imports, network(2, 2), num_envs=1, vectorization_mode="async", batch_size=4)
    assert trainer.actor.observation.tolist() == [[0.0, 0.0]]
    trainer.close()


@pytest.mark.filterwarnings("ignore:.*ERROR")
@pytest.mark.parametrize("wrapper", [None, RecordEpisodeStatistics])
@pytest.mark.parametrize(
    ("what", "message"), [("kill", "environment 1 died"), ("interrupt", "Ctrl-C reached the .* of environment 1 too")]
)
def test_worker_processes_of_the_users_own_vector_environment(what, message, wrapper):
    """The second one's is killed, or hears of Ctrl-C, as all do in a terminal; in the middle of a step."""
    makers = [Frail, functools.partial(Frail, 20, what)]
    vector = AsyncVectorEnv(makers, context="spawn", autoreset_mode=AutoresetMode.SAME_STEP)
    processes = vector.processes
    trainer = make(wrapper(vector) if wrapper else vector, network(2, 2), num_envs=None, eval_env=Frail)
    with pytest.raises(RuntimeError, match=message) as caught:
        trainer.train(600, verbose=0)
    resumed = DQNTrainer.load(rescued(caught.value), env=Frail, eval_env=None, num_envs=2)
    assert resumed.steps == trainer.steps > 30
    assert not any(process.is_alive() for process in processes)
    trainer.close()


def test_a_script_without_a_main_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import keras, sota_dqn\n"
        "model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])\n"
        "sota_dqn.DQNTrainer('CartPole-v1', model, num_envs=1, vectorization_mode='async')\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "RuntimeError: The worker processes did not start. A script that uses vectorization_mode='async'"
    )
    assert 'under `if __name__ == "__main__":`' in last
