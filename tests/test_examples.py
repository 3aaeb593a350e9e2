"""The examples, run as a user runs them, with fewer steps."""

import json
import pathlib
import re
import runpy
import shlex
import signal
import sys
import types

import cv2
import pytest

from sota_dqn.trainer import Trainer

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


def run(monkeypatch, script, *arguments):
    monkeypatch.setattr(sys, "argv", [script, *arguments])
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
    assert "epsilon 1.0, 1 whole episodes; sticky 0.25, the game's own actions" in said
    for picture in ("learning-curve.png", "model.png"):
        assert cv2.imread(str(directory / picture)) is not None
    run_as_told(monkeypatch, said, "Next:", *short)
    assert "in the first 20 steps" in capsys.readouterr().out
    for film in ("random.gif", "trained.gif", "film.gif"):
        assert len(cv2.imreadanimation(str(directory / film))[1].frames) == 11


@pytest.mark.parametrize("example", ["cnn", "breakout"])
def test_atari_tells_the_games_played_and_their_scores(capsys, example):
    games = runpy.run_path(str(EXAMPLES / example / "dqn_train.py"))["Games"]()
    games.set_trainer(types.SimpleNamespace(episodes=12))
    games.on_train_begin()
    games.on_epoch_end(0)  # in which no game ended
    for score in (60.0, 1200.0):
        games.on_episode_end(0, {"episode_return": score})
    games.on_epoch_end(1)
    games.on_epoch_end(2)
    assert capsys.readouterr().out == "12 games played: the last 2 scored 630.0 on average, 60 to 1,200.\n"


@pytest.mark.parametrize("example", ["cnn", "breakout"])
def test_atari_inference_says_what_to_do_without_a_checkpoint(monkeypatch, tmp_path, example):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"Train an agent first: python examples/{example}/dqn_train.py"):
        run(monkeypatch, f"{example}/dqn_inference.py")
