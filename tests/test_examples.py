"""The examples, run as a user runs them, with fewer steps."""

import importlib
import json
import pathlib
import re
import runpy
import shlex
import signal
import sys

import cv2
import numpy as np
import pytest

from sota_dqn.trainer import Trainer

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


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
    for picture in ("learning-curve.png", "model.png"):
        assert cv2.imread(str(directory / picture)) is not None
    for film in ("random.gif", "trained.gif"):
        assert len(cv2.imreadanimation(str(directory / film))[1].frames) > 2

    run(monkeypatch, "basic/dqn_train.py", "--steps", "160", "--resume")
    assert "after 1,200 steps" in capsys.readouterr().out
    assert json.loads((directory / "config.json").read_text())["steps"] == 1360

    run(monkeypatch, "basic/dqn_inference.py", "--episodes", "2")
    assert "2 whole episodes" in capsys.readouterr().out
    assert (directory / "film.gif").is_file()


def test_basic_inference_says_what_to_do_without_a_checkpoint(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="Train an agent first"):
        run(monkeypatch, "basic/dqn_inference.py")


@pytest.mark.parametrize(("example", "game"), [("cnn", "MsPacman"), ("breakout", "Breakout")])
def test_atari_is_stopped_resumed_and_loaded(monkeypatch, tmp_path, capsys, example, game):
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "runs" / game
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
    assert f"runs/{game} holds a run already" in capsys.readouterr().err

    run_as_told(monkeypatch, said, "To go on:")
    said = capsys.readouterr().out
    assert f"Going on from runs/{game} after 136 steps." in said
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
    assert frame.shape == (260, 200, 3) and frame.dtype == np.uint8
    cells = frame[games.BAND * games.CELL :: games.CELL, :: games.CELL]
    assert (cells[1:3] == colours[4]).all()  # bricks
    assert (cells[9, 4] == colours[1]).all()  # the paddle
    assert (cells[5] == 0).all()


def test_minatar_trains_resumes_and_is_loaded(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    run(monkeypatch, "minatar/dqn_train.py", "--game", "asterix", "--steps", "1200")
    directory = pathlib.Path("runs", "minatar-asterix")
    said = capsys.readouterr().out
    assert f"Next: python examples/minatar/dqn_inference.py --game asterix {directory / 'best.keras'}" in said
    assert "minimal action set, sticky actions 0.1" in said
    for picture in ("learning-curve.png", "model.png"):
        assert cv2.imread(str(directory / picture)) is not None
    for film in ("random.gif", "trained.gif"):
        assert len(cv2.imreadanimation(str(directory / film))[1].frames) > 2

    run(monkeypatch, "minatar/dqn_train.py", "--game", "asterix", "--steps", "160", "--resume")
    said = capsys.readouterr().out
    assert "after 1,200 steps" in said and "fresh episodes" not in said
    assert json.loads((directory / "config.json").read_text())["steps"] == 1360

    run(monkeypatch, "minatar/dqn_inference.py", "--game", "asterix", "--episodes", "2")
    assert "2 whole episodes; MinAtar" in capsys.readouterr().out
    assert (directory / "film.gif").is_file()


def test_minatar_inference_says_what_to_do_without_a_checkpoint(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="Train an agent first: .* --game freeway"):
        run(monkeypatch, "minatar/dqn_inference.py", "--game", "freeway")
