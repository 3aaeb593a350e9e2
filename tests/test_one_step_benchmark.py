"""The pure parts of the benchmark of the asynchronous methods."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks are not installed with the package

from benchmarks import one_step
from benchmarks.one_step_run import learn, measure
from benchmarks.tasks import BREAKOUT


def options(monkeypatch, tmp_path, *arguments):
    """Runs the command without its processes, and returns what would be run."""
    planned = []
    monkeypatch.setattr(sys, "argv", ["one_step.py", "--results", str(tmp_path), *arguments])
    monkeypatch.setattr(one_step.common, "run_all", lambda runs, path, groups: planned.extend(runs))
    monkeypatch.setattr(one_step, "write", lambda records, folder: None)
    one_step.main()
    return planned


def test_plan(monkeypatch, tmp_path):
    runs = options(monkeypatch, tmp_path)
    keys = [tuple(run.key.items()) for run in runs]
    assert len(set(keys)) == len(keys)
    speed = [run for run in runs if run.key["what"] in ("speed", "compare")]
    assert len(speed) == 2 * 2 * 2 * 3 and speed[0].command[-4:] == ["1", "2", "4", "8"]
    learning = [run for run in runs if run.key["what"] == "learn"]
    assert {(run.key["task"], run.key["agent"]) for run in learning} >= {
        ("CartPole-v1", "q"),
        ("CartPole-v1", "sarsa"),
        ("Acrobot-v1", "dqn"),
        (BREAKOUT, "5-step q"),
    }
    assert all(run.environment["KERAS_BACKEND"] == run.key["backend"] for run in runs)
    few = options(
        monkeypatch, tmp_path, "--parts", "learning", "--tasks", "CartPole-v1", "--seeds", "2", "--agents", "q"
    )
    assert {run.key["seed"] for run in few} == {0, 1} and len(few) == 4
    (game,) = options(monkeypatch, tmp_path, "--parts", "game", "--game-n-step", "1", "--backend", "jax")
    assert game.key["agent"] == "q" and "--n-step" not in game.command


def test_results_are_written(tmp_path):
    common = {
        "machine": "X",
        "commit": "abc",
        "command": "python -m benchmarks.one_step",
        "date": "2026-11-21T10:00:00+00:00",
        "load_average": 0.5,
        "versions": {"python": "3.11.7"},
        "cores": [0, 1],
        "process_seconds": 100.0,
        "backend": "jax",
    }
    measured = {"task": BREAKOUT, **common}
    records = [
        {"what": "speed", "steps_per_second": {"1": one, "2": two, "4": 300.0, "8": 400.0}, **measured}
        for one, two in ((90.0, 180.0), (100.0, 160.0), (200.0, 340.0))
    ]
    beside = {"threads": 180.0, "processes": 200.0, "one_process": 100.0, "two_processes": 190.0}
    records.append({"what": "compare", **beside, **measured})
    for agent, steps, returns in (("q", 20_000, (100, 480)), ("sarsa", 30_000, (100, 200, 300))):
        curve = [[10_000 * i, 20.0 * i, value] for i, value in enumerate(returns, 1)]
        learned = {"what": "learn", "task": "CartPole-v1", "agent": agent, "seed": 0, "cap": 800_000, "steps": steps}
        records.append({**learned, "evaluations": curve, **common})
    played = {
        "what": "learn",
        "task": BREAKOUT,
        "agent": "q",
        "seed": 0,
        "cap": 100_000,
        "steps": 100_000,
        "random": 1.2,
    }
    records.append({**played, "evaluations": [[50_000, 100.0, 3.0], [100_000, 200.0, 2.0]], **common})
    one_step.write(records, tmp_path)
    text = (tmp_path / "one_step.md").read_text()
    assert f"| {BREAKOUT}, jax | 100 | 180 | 300 | 400 | 1.70 | 1.90 | 0.90 |" in text
    assert "| CartPole-v1 (475), q, jax | 1 of 1 | 20,000 | 40 | 20,000 | 100 |" in text
    assert "| CartPole-v1 (475), sarsa, jax | 0 of 1 | – | – | 30,000 | 100 |" in text
    assert f"| {BREAKOUT}, q, jax | 100,000 | 1.20 | 2.00 | 3.00 | 100 |" in text
    assert (tmp_path / "one_step.png").stat().st_size > 10_000


@pytest.mark.parametrize("agent", ["q", "sarsa", "dqn"])
def test_a_run_learns(agent):
    result = learn("CartPole-v1", agent=agent, seed=0, steps=2_000, evaluate_every=2_000)
    assert result["steps"] == 2_000 and len(result["evaluations"]) == 1
    json.dumps(result)


def test_a_run_measures():
    rates = measure("CartPole-v1", workers=[1, 2], rounds=2, seconds=0.1)["steps_per_second"]
    assert set(rates) == {"1", "2"} and min(rates.values()) > 0
