"""The examples, run as a user runs them, with fewer steps."""

import argparse
import importlib
import json
import os
import pathlib
import re
import runpy
import shlex
import signal
import sys
from unittest import mock

import ale_py
import cv2
import gymnasium
import keras
import numpy as np
import pytest

from sota_dqn import DQNInference
from sota_dqn.trainer import Trainer

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


@pytest.fixture(autouse=True)
def short_films(monkeypatch):
    """Ends films after 20 steps, where the example does not: to draw whole episodes took half of these tests' time."""
    record = DQNInference.record
    monkeypatch.setattr(DQNInference, "record", lambda *args, **settings: record(*args, **{"max_steps": 20} | settings))


@pytest.fixture(autouse=True)
def environment():
    """Takes back what an example asks of TensorFlow, which would hold for the processes that later tests start."""
    with mock.patch.dict(os.environ):
        yield


def run(monkeypatch, script, *arguments):
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    monkeypatch.syspath_prepend(str((EXAMPLES / script).parent))  # as Python does for a script that it runs
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")


def run_as_told(monkeypatch, said, before, *arguments):
    """Runs the command that an example has printed after `before`, with further arguments."""
    (command,) = re.findall(f"^.*{re.escape(before)} python (.*)$", said, re.MULTILINE)
    run(monkeypatch, *shlex.split(command.removeprefix("examples/")), *arguments)


def press_ctrl_c_at(monkeypatch, steps):
    """Interrupts this process once, as Ctrl-C does, after so many environment steps of training."""
    step = Trainer._step

    def interrupted(self, *arguments):
        step(self, *arguments)
        if self.steps == steps:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "_step", interrupted)


def check_it_goes_on(monkeypatch, capsys, run_of, stopped, steps):
    """Runs the command that an interrupted example has printed, and returns what that one prints."""
    said = capsys.readouterr().out
    assert f"Stopped after {stopped:,} steps." in said
    run_as_told(monkeypatch, said, "To go on from the last checkpoint:")
    said = capsys.readouterr().out
    assert f"Going on from runs/{run_of} after {stopped:,} steps" in said and f"{steps:,} steps in all" in said
    assert f"runs/{run_of}/best.keras" in said
    return said


def check_it_is_drawn(directory):
    """Fails unless the pictures and the films of a run can be read."""
    for picture in ("learning-curve.png", "model.png"):
        assert cv2.imread(str(directory / picture)) is not None
    for film in ("random.gif", "trained.gif"):
        assert len(cv2.imreadanimation(str(directory / film))[1].frames) > 2


def read_run(directory):
    """Returns the configuration and the history of a run's checkpoint."""
    config = json.loads((directory / "config.json").read_text())
    return config, json.loads((directory / config["checkpoint"] / "state.json").read_text())["history"]


def test_basic_trains_resumes_and_is_loaded(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    run(monkeypatch, "basic/dqn_train.py", "--steps", "1200")
    directory = tmp_path / "runs" / "CartPole-v1"
    said = capsys.readouterr().out
    best = directory.relative_to(tmp_path) / "best.keras"
    assert f"Next: python examples/basic/dqn_inference.py {best} --env CartPole-v1" in said
    assert json.loads((directory / "config.json").read_text())["steps"] == 1200
    check_it_is_drawn(directory)

    run(monkeypatch, "basic/dqn_train.py", "--steps", "1360", "--resume")
    assert "after 1,200 steps" in capsys.readouterr().out
    assert json.loads((directory / "config.json").read_text())["steps"] == 1360

    run(monkeypatch, "basic/dqn_inference.py", "--episodes", "2")
    assert "2 whole episodes" in capsys.readouterr().out
    assert (directory / "film.gif").is_file()


def test_what_is_printed_after_ctrl_c_goes_on(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    press_ctrl_c_at(monkeypatch, 48)
    run(monkeypatch, "basic/dqn_train.py", "--env", "MountainCar-v0", "--steps", "96")
    check_it_goes_on(monkeypatch, capsys, "MountainCar-v0", 48, 96)


def test_basic_inference_says_what_to_do_without_a_checkpoint(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="Train an agent first"):
        run(monkeypatch, "basic/dqn_inference.py")


@pytest.mark.parametrize(("example", "run_of"), [("cnn", "MsPacman"), ("breakout", "Breakout-none-4")])
def test_atari_is_stopped_resumed_and_loaded(monkeypatch, tmp_path, capsys, example, run_of):
    monkeypatch.chdir(tmp_path)
    gymnasium.register_envs(ale_py)
    for game in ("Breakout", "MsPacman"):  # games that are evaluated are over after a hundred steps
        monkeypatch.setitem(gymnasium.spec(f"ALE/{game}-v5").kwargs, "max_num_frames_per_episode", 400)
    directory = tmp_path / "runs" / run_of
    press_ctrl_c_at(monkeypatch, 136)
    short = "--episodes 1 --epsilon 1 --film-steps 20".split()  # random games are soon over
    tiny = "--steps 168 --envs 4 --replay 2000".split() + short
    run(monkeypatch, f"{example}/dqn_train.py", *tiny)
    said = capsys.readouterr().out
    assert "Stopped after 136 steps." in said
    config, history = read_run(directory)
    # 100 steps, a 20th of the replay, are not learned from, and the last step of all games comes after the updates.
    assert (config["steps"], config["updates"], history) == (136, 8, {})  # the epoch is not over
    with pytest.raises(SystemExit):
        run(monkeypatch, f"{example}/dqn_train.py", *tiny)
    assert f"runs/{run_of} holds a run already" in capsys.readouterr().err

    run_as_told(monkeypatch, said, "To go on from the last checkpoint:")
    said = capsys.readouterr().out
    assert f"Going on from runs/{run_of} after 136 steps, with the settings that it began with." in said
    assert said.count("epsilon 1, 1 whole games; sticky 0.25, the game's own actions") == 1
    config, history = read_run(directory)
    assert (config["steps"], config["updates"], history["steps"]) == (168, 16, [168])
    assert "epsilon 1, 1 whole episode; sticky 0.25, the game's own actions" in said
    for picture in ("learning-curve.png", "model.png"):
        assert cv2.imread(str(directory / picture)) is not None
    run_as_told(monkeypatch, said, "Next:", *short)
    assert "in the first 20 steps" in capsys.readouterr().out
    for film in ("random.gif", "trained.gif", "film.gif"):
        assert len(cv2.imreadanimation(str(directory / film))[1].frames) == 11


@pytest.mark.parametrize(("example", "run_of", "stack"), [("cnn", "MsPacman", 4), ("breakout", "Breakout-none-1", 1)])
def test_atari_goes_on_where_it_was_stopped_before_any_checkpoint(
    monkeypatch, tmp_path, capsys, example, run_of, stack
):
    """By a second Ctrl-C, which raises at once, as a crash does; Breakout with another stack than the flags say."""
    monkeypatch.chdir(tmp_path)
    gymnasium.register_envs(ale_py)
    for game in ("Breakout", "MsPacman"):
        monkeypatch.setitem(gymnasium.spec(f"ALE/{game}-v5").kwargs, "max_num_frames_per_episode", 400)
    step = Trainer._step

    def interrupted(self, *arguments):
        step(self, *arguments)
        if self.steps == 80 and not stopped:
            stopped.append(self)
            raise KeyboardInterrupt

    stopped = []
    monkeypatch.setattr(Trainer, "_step", interrupted)
    tiny = "--steps 120 --envs 4 --replay 2000 --evaluate-every 40 --episodes 1 --epsilon 1 --film-steps 20".split()
    run(monkeypatch, f"{example}/dqn_train.py", *tiny, *(["--stack", "1"] if stack == 1 else []))
    assert "Stopped after 80 steps." in capsys.readouterr().out
    assert (tmp_path / "runs" / run_of / "run.json").exists()  # of an epoch that no checkpoint holds
    run(monkeypatch, f"{example}/dqn_train.py", *tiny, "--resume", "--run", f"runs/{run_of}")
    said = capsys.readouterr().out
    assert f"Going on from runs/{run_of} after 0 steps" in said and "120 steps in all" in said
    if stack == 1:
        assert "dqn_inference.py --stack 1 " in said


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("basic/dqn_train.py --steps 0", "--steps must be at least 1"),
        ("basic/dqn_train.py --resume", "runs/CartPole-v1 holds no run to go on with"),
        ("cnn/dqn_train.py --evaluate-every 0", "must be at least 1"),
        ("breakout/dqn_train.py --replay 0", "must be at least 1"),
        ("cnn/dqn_train.py --resume", "runs/MsPacman holds no run to go on with"),
        ("breakout/dqn_train.py --resume --run nowhere", "nowhere holds no run to go on with"),
        ("minatar/dqn_train.py --resume", "runs/minatar-breakout holds no run to go on with"),
    ],
)
def test_flags_that_make_no_run(monkeypatch, tmp_path, capsys, games, command, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        run(monkeypatch, *command.split())
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("example", ["cnn", "breakout"])
def test_atari_inference_says_what_to_do_without_a_checkpoint(monkeypatch, tmp_path, example):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"Train an agent first: python examples/{example}/dqn_train.py"):
        run(monkeypatch, f"{example}/dqn_inference.py")


@pytest.fixture
def games(monkeypatch):
    """The module of MinAtar's environments."""
    monkeypatch.syspath_prepend(str(EXAMPLES / "minatar"))
    return importlib.import_module("games")


def play(env, actions, *, seed):
    """Plays an episode and returns all that it shows: observations, rewards, where it ended."""
    shown = [(env.reset(seed=seed)[0].tobytes(), 0.0, False)]
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(int(action))
        shown.append((observation.tobytes(), reward, terminated))
        if terminated or truncated:
            break
    return shown


@pytest.mark.parametrize("name", ["asterix", "breakout", "freeway", "seaquest", "space_invaders"])
def test_minatar_episode_is_determined_by_its_seed(games, name):
    env = games.Game(name)()
    assert env.observation_space.contains(env.reset(seed=0)[0])
    actions = np.random.default_rng(0).integers(env.action_space.n, size=(40, 30))
    for seed, episode in enumerate(actions):  # the last action of one is not the first sticky action of the next
        assert play(env, episode, seed=seed) == play(games.Game(name)(), episode, seed=seed)
    assert play(env, actions[0], seed=0) != play(env, actions[0], seed=1)


def test_minatar_freeway_ends_itself_and_breakout_is_cut_off(games):
    env = games.Game("freeway")()
    env.reset(seed=0)
    steps = [env.step(0)[2:4] for _ in range(2_501)]
    assert steps[-1] == (True, False) and not any(map(any, steps[:-1]))
    env = games.Game("breakout")()
    env.reset(seed=0)
    game = env.unwrapped.game.env
    steps = []
    for _ in range(games.MAX_STEPS):  # the paddle follows the ball
        game.pos = min(9, max(0, game.ball_x + [-1, 1, 1, -1][game.ball_dir])) if game.ball_y == 8 else game.pos
        steps.append(env.step(0)[2:4])
    assert steps[-1] == (False, True) and not any(map(any, steps[:-1]))


def test_minatar_picture(games):
    env = games.Game("breakout")(render_mode="rgb_array")
    env.reset(seed=0)
    frame, colours = env.render(), env.unwrapped.colours
    assert frame.shape == (200, 200, 3) and frame.dtype == np.uint8
    cells = frame[:: games.CELL, :: games.CELL]
    assert (cells[1:3] == colours[4]).all()  # bricks
    assert (cells[9, 4] == colours[1]).all()  # the paddle
    assert (cells[5] == 0).all()


def test_minatar_trains_resumes_and_is_loaded(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    press_ctrl_c_at(monkeypatch, 1200)
    run(monkeypatch, "minatar/dqn_train.py", "--game", "asterix", "--steps", "1360")
    directory = pathlib.Path("runs", "minatar-asterix")
    assert read_run(directory)[0]["updates"] > 0
    said = check_it_goes_on(monkeypatch, capsys, "minatar-asterix", 1200, 1360)
    assert "fresh episodes" not in said
    assert read_run(directory)[0]["steps"] == 1360
    assert f"Next: python examples/minatar/dqn_inference.py --game asterix {directory / 'best.keras'}" in said
    assert "minimal action set, sticky actions 0.1" in said
    check_it_is_drawn(directory)

    run(monkeypatch, "minatar/dqn_inference.py", "--game", "asterix", "--episodes", "2")
    assert "2 whole episodes; MinAtar" in capsys.readouterr().out
    assert (directory / "film.gif").is_file()


def test_minatar_inference_says_what_to_do_without_a_checkpoint(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="Train an agent first: .* --game freeway"):
        run(monkeypatch, "minatar/dqn_inference.py", "--game", "freeway")


@pytest.fixture
def memory(monkeypatch):
    """The folder of the example of tasks that need memory, from which its modules are imported."""
    monkeypatch.syspath_prepend(str(EXAMPLES / "memory"))
    return importlib.import_module


@pytest.mark.parametrize("corridor", [1, 4])
def test_tmaze_shows_the_cue_once_and_rewards_the_arm_it_tells(memory, corridor):
    env = memory("tmaze").TMaze(corridor)
    cues = set()
    for seed in range(8):
        observation, _ = env.reset(seed=seed)
        cue = 1 + observation[:2].tolist().index(1)  # the action that enters the arm
        cues.add(cue)
        assert observation[[0, 1, 2]].sum() == 2 and observation[2] == 1
        for place in range(1, corridor + 1):
            observation, *rest = env.step(seed % 3)  # whatever the action
            assert observation.tolist() == [0, 0, place < corridor, place == corridor]
            assert rest == [0, False, False, {}]
        observation, *rest = env.step(0)  # stays at the junction
        assert observation.tolist() == [0, 0, 0, 1] and rest == [0, False, False, {}]
        arm = 1 + seed % 2
        assert env.step(arm)[1:] == (1 if arm == cue else -1, True, False, {})
        with pytest.raises(RuntimeError, match="call `reset` first"):
            env.step(0)
    assert cues == {1, 2}


def test_tmaze_is_cut_off(memory):
    env = memory("tmaze").TMaze(3)
    env.reset(seed=0)
    ends = [env.step(0)[2:4] for _ in range(13)]
    assert ends == [(False, False)] * 12 + [(False, True)]
    env = memory("tmaze").TMaze(3, max_steps=4)
    env.reset(seed=0)
    ends = [env.step(1)[2:4] for _ in range(4)]
    assert ends == [(False, False)] * 3 + [(True, False)]  # the arm is entered with the last step


def test_tmaze_picture(memory):
    tmaze = memory("tmaze")
    env = tmaze.TMaze(10, render_mode="rgb_array")
    env.reset(seed=0)
    frame = env.render()
    assert frame.shape == (100, 300, 3) and frame.dtype == np.uint8
    up, down = frame[tmaze.CELL, 12 * tmaze.CELL], frame[3 * tmaze.CELL, 12 * tmaze.CELL]
    right = env.right == tmaze.UP
    assert tuple(up) == (tmaze.RIGHT if right else tmaze.WRONG) and tuple(down) == (
        tmaze.WRONG if right else tmaze.RIGHT
    )
    cue = frame[(1 if right else 3) * tmaze.CELL, 2 * tmaze.CELL]
    middle = tmaze.CELL // 2
    assert tuple(cue) == tmaze.RIGHT
    for place in range(10):
        assert tuple(env.render()[2 * tmaze.CELL + middle, (2 + place) * tmaze.CELL + middle]) == tmaze.AGENT
        env.step(0)
    env.step(tmaze.UP)
    assert tuple(env.render()[tmaze.CELL + middle, 12 * tmaze.CELL + middle]) == tmaze.AGENT


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        ({"corridor": 0}, "corridor=0"),
        ({"corridor": 2.5}, "corridor=2.5"),
        ({"corridor": True}, "corridor=True"),
        ({"corridor": "10"}, "corridor='10'"),
        ({"max_steps": 10}, "max_steps=10"),
        ({"render_mode": "human"}, "render_mode='human'"),
    ],
)
def test_tmaze_checks_its_arguments(memory, arguments, received):
    with pytest.raises(ValueError, match=f"Received: {received}"):
        memory("tmaze").TMaze(**arguments)
    with pytest.raises(ValueError, match="Received: action=3"):
        memory("tmaze").TMaze().step(3)


def test_cartpole_without_velocities(memory):
    env = memory("cartpole").make()
    observation, _ = env.reset(seed=0)
    assert env.observation_space.shape == (2,) and env.observation_space.contains(observation)
    np.testing.assert_allclose(observation, np.array(env.unwrapped.state)[[0, 2]], rtol=1e-6)


def test_memory_spans_the_corridor(memory):
    settings = memory("agents").settings
    assert settings("tmaze", "lstm", corridor=30)["sequences"].length == 40
    assert settings("cartpole", "lstm", corridor=None)["sequences"].length == 20
    assert "sequences" not in settings("cartpole", "none", corridor=None)


def test_memory_trains_resumes_and_is_loaded(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    tiny = ["--task", "tmaze", "--corridor", "3"]
    run(monkeypatch, "memory/dqn_train.py", *tiny, "--steps", "1100")
    directory = pathlib.Path("runs", "tmaze-3-lstm")
    said = capsys.readouterr().out
    config, history = read_run(directory)
    assert config["steps"] == 1104 and config["updates"] > 0  # whole steps of 16 environments
    check_it_is_drawn(directory)
    with pytest.raises(SystemExit):
        run(monkeypatch, "memory/dqn_train.py", *tiny)
    assert f"{directory} holds a run already" in capsys.readouterr().err

    run(monkeypatch, "memory/dqn_train.py", *tiny, "--steps", "1264", "--resume")
    assert "after 1,104 steps" in capsys.readouterr().out
    assert read_run(directory)[0]["steps"] == 1264
    run_as_told(monkeypatch, said, "Next:", "--episodes", "2")
    assert "greedy, 2 whole episodes" in capsys.readouterr().out
    assert (directory / "film.gif").is_file()


def test_without_a_memory_it_is_stopped_resumed_and_loaded(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    press_ctrl_c_at(monkeypatch, 1104)
    run(monkeypatch, "memory/dqn_train.py", "--task", "cartpole", "--memory", "none", "--steps", "1264")
    directory = pathlib.Path("runs", "cartpole-none")
    assert read_run(directory)[0]["updates"] > 0
    said = check_it_goes_on(monkeypatch, capsys, "cartpole-none", 1104, 1264)
    check_it_is_drawn(directory)
    run_as_told(monkeypatch, said, "Next:", "--episodes", "2")
    assert "greedy, 2 whole episodes" in capsys.readouterr().out
    assert (directory / "film.gif").is_file()


def test_memory_inference_says_what_to_do(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="runs/cartpole-lstm/best.keras. Train an agent first: .* --task cartpole"):
        run(monkeypatch, "memory/dqn_inference.py", "--task", "cartpole")
    with pytest.raises(SystemExit, match="runs/tmaze-10-lstm/best.keras. Train an agent first"):
        run(monkeypatch, "memory/dqn_inference.py", "--corridor", "30")  # a longer way for the same agent
    with pytest.raises(SystemExit):
        run(monkeypatch, "memory/dqn_inference.py", "--window")
    assert "The T-maze has no window" in capsys.readouterr().err


@pytest.mark.parametrize("stack", [1, 4])
def test_breakout_with_a_memory(stack):
    example = runpy.run_path(str(EXAMPLES / "breakout/dqn_train.py"))
    model = example["build_model"](4, memory="lstm", stack=stack)
    assert model.input_shape == (None, None, 84, 84, stack) and model.output_shape == (None, None, 4)
    options = argparse.Namespace(
        envs=2,
        memory="lstm",
        stack=stack,
        steps=1_000_000,
        replay=8_000,
        batch_size=32,
        updates_per_step=0.25,
        sticky=0.25,
        seed_every=5_000,
        evaluate_every=50_000,
        seed=0,
    )
    trainer = example["make_trainer"](model, options)
    assert (trainer.batch_size, trainer.updates_per_step, trainer.target_update) == (16, 0.025, 200)
    trainer.train(4, verbose=0)
    states = [keras.ops.convert_to_numpy(state.value) for state in trainer.replay.storage.state]
    assert [state.shape[-1] for state in states] == [512, 512]
