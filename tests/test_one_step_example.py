"""The example of the asynchronous methods, run as a user runs it, with fewer steps."""

import json
import pathlib
import re
import runpy
import shlex
import signal
import sys

import cv2
import pytest

from sota_dqn import OneStepTrainer, backend

SCRIPT = pathlib.Path(__file__).parent.parent / "examples" / "asynchronous_1step.py"
FIRST_README = {  # of the system that it succeeds
    "game": "Breakout-v0",
    "use_gpu": False,
    "random_seed": 123,
    "log": False,
    "parallel_agents": 8,
    "global_max_steps": 80_000_000,
    "local_max_steps": 5,
    "target_network_update": 40_000,
    "frame_skip": 0,
    "no_op_max": 0,
    "method": "q",
    "gamma": 0.99,
    "epsilon_anneal": 4_000_000,
    "learning_rate": 1e-4,
    "optimizer": "rmsprop",
    "rms_decay": 0.99,
    "evaluate_model": False,
    "display": False,
    "test_runs": 100,
    "test_epsilon": 0.0,
}


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # which the script sets: it is to be undone
    monkeypatch.setattr(backend, "single_threaded", lambda: None)  # for this process it is too late
    return runpy.run_path(str(SCRIPT), run_name="__main__")


@pytest.fixture
def script(monkeypatch):
    """The names of the script, without its work."""
    return runpy.run_path(str(SCRIPT), run_name="script")


def test_settings_are_those_of_the_first_readme(monkeypatch, script):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT)])
    options = vars(script["parse_options"]())
    assert {name: options[name] for name in FIRST_README} == FIRST_README


def test_help_explains_every_setting(monkeypatch, script, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--help"])
    with pytest.raises(SystemExit):
        script["parse_options"]()
    said = capsys.readouterr().out
    assert all(f"--{name}" in said for name in FIRST_README)


def test_an_old_id_is_played_with_that_frame_skip(monkeypatch, script, capsys):
    for arguments, skip in (([], 1), (["--frame_skip", "3", "--game", "BreakoutDeterministic-v4"], 4)):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        game = script["make_game"](script["parse_options"]())
        assert (game.id, game.settings["frameskip"], game.settings["noop_max"]) == ("ALE/Breakout-v5", skip, 0)
        assert f"is played as ALE/Breakout-v5 with frame_skip {skip - 1}:" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--optimizer", "fastest"], ["--method", "td"], ["--preset", "chess"]])
def test_what_is_unknown_is_refused(monkeypatch, script, capsys, arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    with pytest.raises(SystemExit):
        script["parse_options"]()
    assert "invalid choice" in capsys.readouterr().err


def read(directory):
    return json.loads((directory / "config.json").read_text())


def test_cartpole_is_stopped_resumed_and_evaluated(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "runs" / "1step-CartPole-v1-sarsa"
    tell = OneStepTrainer._tell

    def interrupted(self, *arguments, **keywords):
        tell(self, *arguments, **keywords)
        if self.steps == 75:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(OneStepTrainer, "_tell", interrupted)
    tiny = "--preset cartpole --method sarsa --global_max_steps 500 --parallel_agents 2 --test_runs 2 --log".split()
    run(monkeypatch, *tiny)
    said = capsys.readouterr().out
    assert "--game CartPole-v1\n" in said and "Stopped after 75 steps." in said
    assert read(directory)["steps"] == 75
    with pytest.raises(SystemExit):
        run(monkeypatch, *tiny)
    assert "holds a run already" in capsys.readouterr().err

    (command,) = re.findall("To go on from the last checkpoint: python (.*)", said)
    run(monkeypatch, *shlex.split(command)[1:])
    said = capsys.readouterr().out
    assert "after 75 steps" in said and "500 steps in all" in said and "greedy, 2 whole episodes" in said
    config = read(directory)
    assert (config["steps"], config["arguments"]["method"], config["arguments"]["workers"]) == (500, "sarsa", 2)
    assert cv2.imread(str(directory / "learning-curve.png")) is not None
    assert len((directory / "log.csv").read_text().splitlines()) == 21
    assert len(json.loads((directory / "run.json").read_text())["history"]["steps"]) == 20


def test_breakout_as_it_was(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    run(monkeypatch, *"--global_max_steps 60 --parallel_agents 2".split())
    assert "60 steps in all" in capsys.readouterr().out
    config = read(tmp_path / "runs" / "1step-Breakout-v0-q")
    assert (config["steps"], config["arguments"]["frame_stack"]) == (60, 4)
    assert config["arguments"]["target_network_update"] == 40_000
