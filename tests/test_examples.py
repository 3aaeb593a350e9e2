"""The examples, run as a user runs them, with fewer steps."""

import json
import pathlib
import runpy
import sys

import cv2
import pytest

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


def run(monkeypatch, script, *arguments):
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")


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
