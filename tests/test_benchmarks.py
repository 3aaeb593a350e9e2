"""The pure parts of the benchmarks: what counts as solved, intervals, resuming, tables."""

import argparse
import inspect
import json
import sys
from pathlib import Path

import keras
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks are not installed with the package

from benchmarks import (
    ablation,
    actors,
    atari,
    classic_control,
    common,
    footprint,
    gpu,
    learning,
    memory,
    memory_run,
    minatar,
    minatar_run,
    plans,
    speed,
    trial,
    updates,
)
from benchmarks.common import Run
from benchmarks.tables import bootstrap_interval, describe, median, render_number, render_table
from benchmarks.tasks import TASKS, Evaluation, area_under_curve, passed
from benchmarks.variants import DEFAULTS, FACTORS, variants
from examples.minatar.games import GAMES, Game
from sota_dqn import DQNTrainer, Replay, backend, samplers, targets


def evaluations(*returns, every=2_000):
    """Evaluations at every `every` steps and every 3 seconds."""
    return [Evaluation(every * i, 3.0 * i, value) for i, value in enumerate(returns, 1)]


def record(**fields):
    """A record of a results file."""
    common_fields = {
        "machine": "2-core CPU machine, X",
        "commit": "abc",
        "command": "python -m benchmarks.x",
        "date": "2026-11-21T10:00:00+00:00",
        "load_average": 0.5,
        "versions": {"python": "3.11.7"},
        "cores": [1],
    }
    return {**common_fields, **fields}


@pytest.mark.parametrize(
    ("returns", "first", "solved"),
    [
        ([100, 480, 475, 500], 4_000, 8_000),
        ([475, 475, 474, 475, 475], 2_000, None),
        ([475, 475, 474, 475, 475, 475], 2_000, 12_000),
        ([474.9], None, None),
        ([], None, None),
    ],
)
def test_solved_is_three_in_a_row(returns, first, solved):
    found = evaluations(*returns)
    assert (passed(found, 475, 1) or Evaluation(None, 0, 0)).steps == first
    assert (passed(found, 475) or Evaluation(None, 0, 0)).steps == solved


def test_area_under_curve():
    # Trapezoids: 2000 * 15 + 4000 * 50, over 6000 steps.
    curve = [Evaluation(2_000, 1, 10.0), Evaluation(4_000, 2, 20.0), Evaluation(8_000, 3, 80.0)]
    assert area_under_curve(curve) == pytest.approx((2_000 * 15 + 4_000 * 50) / 6_000)
    assert area_under_curve(curve[:1]) == 10.0


def test_bootstrap_interval():
    assert bootstrap_interval([7.0]) == (7.0, 7.0)
    assert bootstrap_interval([3.0, 3.0, 3.0]) == (3.0, 3.0)
    # Resampled means of (0, 1) are 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4.
    assert bootstrap_interval([0.0, 1.0]) == (0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0], level=0.4) == (0.5, 0.5)
    assert bootstrap_interval([0.0, 1.0, 5.0]) == bootstrap_interval([0.0, 1.0, 5.0])


def test_median_counts_what_did_not_arrive_as_longest():
    assert median([3.0, None, 1.0]) == 3.0
    assert median([None, None, 1.0]) is None
    assert median([1.0, 2.0]) == 1.5
    assert median([1.0, None]) is None


def test_tables():
    assert render_number(1234.56) == "1,234.6"
    assert render_number(1234.56, 0) == "1,235"
    assert render_number(None) == "–"
    assert render_table(["a", "b"], [["x", 1]]) == "| a | b |\n| --- | ---: |\n| x | 1 |\n"


def test_description_names_everything_once():
    later = record(date="2026-11-22T10:00:00+00:00", load_average=1.5, versions={"python": "3.12.0"})
    text = describe([record(), record(), later])
    assert "Machine: 2-core CPU machine, X; load average 0.5 to 1.5" in text
    assert "python 3.11.7/3.12.0" in text
    assert "Commit: abc. Dates: 2026-11-21 to 2026-11-22." in text
    assert text.count("`python -m benchmarks.x`") == 1


def test_command_line_hides_paths():
    arguments = ["/somewhere/updates.py", "--peer-python", "/p", "--results=/r", "--backend", "jax"]
    assert common.command_line(arguments) == (
        "python -m benchmarks.updates --peer-python PATH --results=PATH --backend jax"
    )


def test_cores_are_shared_equally():
    assert common.core_groups(1, [0, 1]) == [[0, 1]]
    assert common.core_groups(2, [0, 1, 2, 3, 4]) == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match="Received: jobs=3"):
        common.core_groups(3, [0, 1])


def say(**result):
    """A process that reports `result`."""
    text = json.dumps({"versions": {}, "cores": [0], **result})
    return [sys.executable, "-c", f"print('noise'); print({text!r})"]


def test_goes_on_where_it_stopped(tmp_path, capsys):
    path = tmp_path / "results" / "name.jsonl"
    groups = common.core_groups(1)
    done = Run({"task": "a", "seed": 0}, say(value=1), {})
    assert common.run_all([done], path, groups=groups)[0]["value"] == 1
    again = Run({"task": "a", "seed": 0}, say(value=2), {})
    new = Run({"task": "a", "seed": 1}, say(value=3), {})
    assert [record["value"] for record in common.run_all([new, again], path, groups=groups)] == [3, 1]
    found = common.read_results(path)
    assert [record["value"] for record in found] == [1, 3]
    assert {"process_seconds", "load_average", "machine", "commit", "command", "date"} <= set(found[0])
    assert "1 of 2 runs are in name.jsonl already" in capsys.readouterr().out


def test_failed_run_is_not_recorded(tmp_path, capsys):
    path = tmp_path / "name.jsonl"
    failing = Run({"seed": 0}, [sys.executable, "-c", "raise SystemExit('no such luck')"], {})
    works = Run({"seed": 1}, say(value=1), {})
    with pytest.raises(SystemExit, match="1 runs failed"):
        common.run_all([failing, works], path, groups=common.core_groups(1))
    assert [record["seed"] for record in common.read_results(path)] == [1]
    assert "no such luck" in capsys.readouterr().out


def test_missing_peer_is_an_error(monkeypatch):
    monkeypatch.setattr(common.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="--peer-python PATH"):
        common.peer_python(None)


def test_classic_control_table():
    ours = {"task": "CartPole-v1", "agent": "sota_dqn", "backend": "jax", "process_seconds": 12.34}
    records = [
        record(**ours, seed=0, evaluations=evaluations(475, 100, 475, 475, 475)),
        record(**ours, seed=1, evaluations=evaluations(100, 475, 100)),
        record(**ours, seed=2, evaluations=evaluations(475, 475, 475)),
    ]
    assert classic_control.outcome(records[0]) == {
        "first_steps": 2_000,
        "first_seconds": 3.0,
        "solved_steps": 10_000,
        "solved_seconds": 12.34,
    }
    expected = "| CartPole-v1 (475) | sota_dqn, jax | 2 of 3 | 12.3 | 10,000 | 3.0 | 2,000 | 12.3 |"
    assert expected in classic_control.summary(records)
    seeds = classic_control.seeds_table(records, "CartPole-v1")
    assert "| 0 | 12.3 s, 10,000 | 3.0 s, 2,000 |\n| 1 | – | 6.0 s, 4,000 |" in seeds


def test_ablation_table(tmp_path):
    run = {"task": "CartPole-v1", "backend": "jax"}
    records = [
        record(**run, factor=None, level=None, seed=0, evaluations=evaluations(100, 300)),
        record(**run, factor=None, level=None, seed=1, evaluations=evaluations(100, 300)),
        record(**run, factor="n-step", level="1", seed=0, evaluations=evaluations(0, 50)),
    ]
    results = ablation.collect(records)
    assert results["CartPole-v1"]["defaults"] == {"area": (200.0, 200.0, 200.0, 2), "final": (300.0, 300.0, 300.0, 2)}
    assert "| n-step: 1 | 25.0 [25.0, 25.0] |" in ablation.table(results, "area")
    ablation.write(records, tmp_path)
    assert (tmp_path / "ablation.png").is_file()
    assert "over 1 to 2 seeds" in (tmp_path / "ablation.md").read_text(encoding="utf-8")


def test_updates_table():
    keys = updates.ours("update", "jax", updates_per_call=32, capacity=100)
    rates = [(updates.PEER | {"capacity": 100}, [10.0, 30.0, 20.0]), (keys, [100.0, 300.0, 200.0])]
    rates += [(keys | {"updates_per_call": k}, [50.0]) for k in updates.UPDATES_PER_CALL["mlp"] if k != 32]
    rates += [(updates.ours("defaults", "jax", updates_per_call=32, capacity=100), [80.0])]
    records = [record(**key, updates_per_second=value) for key, found in rates for value in found]

    table = updates.updates_table(records, argparse.Namespace(backend="jax", capacity=100, peers=True, net="mlp"))
    assert "| stable-baselines3, torch: plain DQN | 1 | 20 | 10 | 30 | 1.0 |" in table
    assert "| sota_dqn, jax: prioritized, double, 5-step | 32 | 200 | 100 | 300 | 10.0 |" in table
    assert "| sota_dqn, jax: the defaults, with bounds | 32 | 80 | 80 | 80 | 4.0 |" in table


def test_defaults_of_the_ablation_are_those_of_the_library():
    signature = {name: p.default for name, p in inspect.signature(DQNTrainer).parameters.items()}
    for factor in ("target", "n-step", "lower bound"):
        _, settings = FACTORS[factor][DEFAULTS[factor]]()
        assert {name: signature[name] for name in settings} == settings
    assert isinstance(Replay().sampler, samplers.Uniform)
    model_settings = {}
    for factor in ("head", "normalization"):
        model_settings |= FACTORS[factor][DEFAULTS[factor]]()[0]
    signature = inspect.signature(learning.build_model).parameters
    assert {name: signature[name].default for name in model_settings} == model_settings
    model = learning.build_model("CartPole-v1", **FACTORS["optimizer"][DEFAULTS["optimizer"]]()[0])
    DQNTrainer("CartPole-v1", model).close()
    assert (type(model.optimizer), float(model.optimizer.learning_rate)) == (keras.optimizers.Adam, pytest.approx(1e-3))
    assert model.loss == "mse"


def test_variants_switch_one_factor_each():
    found = list(variants())
    assert found[0] == (None, None)
    assert len(found) == 1 + sum(len(levels) - 1 for levels in FACTORS.values())
    assert all(level != DEFAULTS[factor] for factor, level in found[1:])


def test_caps_hold_the_protocol():
    assert {name: (task.threshold, task.evaluate_every, task.cap) for name, task in TASKS.items()} == {
        "CartPole-v1": (475, 2_000, 100_000),
        "Acrobot-v1": (-100, 4_000, 200_000),
        "MountainCar-v0": (-110, 8_000, 300_000),
        "LunarLander-v3": (200, 8_000, 300_000),
    }


def test_actors_are_compared_within_windows_of_one_length():
    options = argparse.Namespace(backend="jax", seconds=20.0, envs=["sleeping"], ray=False)
    assert [run.key["actors"] for run in actors.plan(options)] == [0, 1, 2, 4, 8]
    run = {"what": "rates", "env": "sleeping", "backend": "jax", "ray": False, "lag": 3}
    run |= {"updates_per_second": 90.0, "updates_per_second_alone": 100.0}
    records = [
        {**run, "seconds": 6.0, "actors": 1, "steps_per_second": 50.0},
        {**run, "seconds": 20.0, "actors": 1, "steps_per_second": 100.0},
        {**run, "seconds": 20.0, "actors": 2, "steps_per_second": 190.0},
    ]
    assert "| sleeping, jax | 20 | 2 | 190 | 1.90 | 90 | 0.90 | 3 |" in actors.rates_table(records)


def test_starts_of_actors_are_measured_both_ways():
    options = argparse.Namespace(backend="jax", seconds=20.0, envs=["cartpole"], ray=False)
    starts = [run for run in actors.plan(options) if run.key["what"] == "start"]
    assert [(run.key["actors"], run.key["forked"], "--no-forked" in run.command) for run in starts] == [
        (number, forked, not forked) for number in (1, 8) for forked in (True, False)
    ]
    found = {"seconds_to_first": 6.04, "seconds_to_all": 7.5, "cpu_seconds": 0.36, "private_bytes": 53e6}
    table = actors.start_table([{**starts[3].key, **found}])
    assert "| jax | 8 | each imports | 6.0 | 7.5 | 0.4 | 53 |" in table


def test_minatar_tables(tmp_path):
    run = {"game": "breakout", "backend": "jax", "steps": 12_000, "process_seconds": 24.0, "protocol": "MinAtar 1"}
    records = [
        record(**run, seed=0, evaluations=evaluations(0, 1, 2, 3, 4, 5)),
        record(**run, seed=1, evaluations=evaluations(0, 3, 4, 11, 6, 7)),
        record(**run, seed=0, n_step=1, evaluations=evaluations(0, 0, 0, 0, 0, 0)),
    ]
    assert minatar.outcome(records[1]) == {"final": 6.2, "best": 11.0, "seconds": 24.0, "steps_per_second": 500.0}
    # (3 + 6.2) / 2, and (5 + 11) / 2.
    expected = "| breakout, jax | 12,000 | 2 | 4.6 | 3.0 to 6.2 | 8.0 | 24 | 500 |"
    assert expected in minatar.summary(records)
    assert minatar.curve(records[:2])[3].tolist() == [8_000, 12.0, 7.0]
    # Evaluations 1, 2, 3, 4 and 6 of 6.
    expected = "| breakout, jax, 12,000 steps | 0.0 in 3 s | 2.0 in 6 s | 3.0 in 9 s | 7.0 in 12 s | 6.0 in 18 s |"
    assert expected in minatar.curves_table(records)
    assert "| breakout, jax, n_step=1 | 12,000 | 1 | 0.0" in minatar.summary(records)
    assert "| breakout, jax | 12,000 | 1 | 6.2 | 11.0 | 24 |" in minatar.seeds_table(records)
    minatar.write(records, tmp_path)
    assert (tmp_path / "minatar.png").is_file()
    assert "MinAtar 1. An evaluation is 20 greedy" in (tmp_path / "minatar.md").read_text(encoding="utf-8")


def test_minatar_picture_has_short_steps(monkeypatch):
    drawn = []
    monkeypatch.setattr(minatar.Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    run = {"game": "breakout", "backend": "jax", "steps": 1_000_000, "seed": 0}
    minatar.plot([record(**run, evaluations=evaluations(0, 1, 2, 3, 4, every=200_000))], "minatar.png")
    drawn[0].draw_without_rendering()
    axis = drawn[0].axes[0].xaxis
    assert {"200k", "1M"} <= {label.get_text() for label in axis.get_ticklabels()}
    assert axis.get_offset_text().get_text() == ""


def test_minatar_plan():
    options = argparse.Namespace(seeds=2, games=["breakout", "freeway"], steps=None, backend="jax", n_step=None)
    assert [tuple(run.key.values()) for run in minatar.plan(options)] == [
        ("breakout", None, "jax", 0, 500_000),
        ("freeway", None, "jax", 0, 1_000_000),
        ("breakout", None, "jax", 1, 500_000),
        ("freeway", None, "jax", 1, 1_000_000),
    ]
    options.n_step = 1
    assert all(run.key["n_step"] == 1 and run.command[-2:] == ["--n-step", "1"] for run in minatar.plan(options))
    assert minatar_run.n_step_of("3") == 3
    assert [minatar_run.n_step_of("5-1/100")(step) for step in (0, 50, 100)] == [5, 3, 1]
    assert sorted(minatar.STEPS) == sorted(GAMES)


def test_minatar_run_evaluates_on_time():
    trainer, found = minatar_run.train(Game("breakout"), seed=0, steps=2_000, evaluate_every=1_000)
    assert [evaluation.steps for evaluation in found] == [2_000]  # at the end of an epoch
    assert found[0].return_mean == trainer.history["eval_return"][-1] >= 0
    assert trainer.replay.storage.observation.dtype == "bool"
    due = (2_000 - 16 - 1_000) / 2  # the updates of the last step of 16 environments come after the next one
    assert 0 <= due - trainer.updates < trainer.updates_per_call


def test_trial_takes_settings_as_they_are_written():
    settings = trial.settings_of("n_step=schedules.linear(3, 1, steps=10), target=targets.maximum")
    assert settings["n_step"](0) == 3 and settings["n_step"](10) == 1
    assert settings["target"] is targets.maximum
    assert trial.settings_of("") == {}
    with pytest.raises(TypeError, match="nstep"):
        trial.train("CartPole-v1", seed=0, settings="nstep=1")


def test_trial_tells_how_a_task_was_held():
    curve = evaluations(0, 500, 500, 100, 500, 500, 500)
    assert trial.describe(curve, 475) == "area 391.7, 83% at 475, solved after 14,000 steps"
    assert trial.describe(evaluations(0, 500, 100), 475) == "area 275.0, 50% at 475, not solved"
    assert trial.describe(evaluations(0), 475) == "area 0.0, 0% at 475, not solved"


def test_trial_trains(capsys):
    found = trial.train(
        "CartPole-v1", seed=0, cap=2_000, settings="n_step=1", model="dueling=True", adam="epsilon=1e-3"
    )
    assert [evaluation.steps for evaluation in found] == [2_000]
    assert f"2,000 steps  {found[0].return_mean:8.1f}" in capsys.readouterr().out


def test_memory_is_given_above_a_nearly_empty_replay():
    peaks = {"building": 1.0e9, "filling": 2.0e9, "training": 2.0e9}
    key = {"agent": "sota_dqn", "mode": "jax"}
    records = [
        record(**key, capacity=footprint.EMPTY, peaks=dict.fromkeys(peaks, 0.5e9)),
        record(**key, capacity=100_000, peaks=peaks),
    ]
    assert "| sota_dqn, jax | 100,000 | 0.50 | 1.50 | 1.50 | not measured | not measured |" in footprint.table(records)


def test_atari_table():
    ours = {"agent": "sota_dqn", "backend": "jax", "envs": 16}
    rates = [(atari.PEER, 50.0, 3e9), (atari.PEER, 150.0, 4e9), (ours, 200.0, 1e9), (ours, 400.0, 2e9)]
    rates += [(ours | {"precision": "mixed_bfloat16"}, 500.0, 1e9)]
    table = atari.table([record(**key, steps_per_second=rate, peak=peak) for key, rate, peak in rates])
    assert "| stable-baselines3, torch | float32 | 1 | 100 | 50 | 150 | 1.00 | 4.00 |" in table
    assert "| sota_dqn, jax | float32 | 16 | 300 | 200 | 400 | 3.00 | 2.00 |" in table
    assert "| sota_dqn, jax | mixed_bfloat16 | 16 | 500 | 500 | 500 | 5.00 | 1.00 |" in table


def test_pictures_are_measured_in_two_precisions():
    options = argparse.Namespace(
        backend="jax", capacity=100, peers=True, net="nature", seconds=1.0, precisions=["float32", "mixed_bfloat16"]
    )
    keys = updates.configurations(options)
    assert [key.get("precision") for key in keys] == [None, None, "mixed_bfloat16", "mixed_bfloat16", None]
    assert "--precision" not in updates.command(keys[0], options, None)
    assert updates.command(keys[2], options, None)[-2:] == ["--precision", "mixed_bfloat16"]
    rates = [40.0, 50.0, 60.0, 70.0, 20.0]
    records = [record(**key, updates_per_second=rate) for key, rate in zip(keys, rates, strict=True)]
    table = updates.updates_table(records, options)
    assert "| sota_dqn, jax: prioritized, double, 5-step | 8 | 50 | 50 | 50 | 2.5 |" in table
    assert "| sota_dqn, jax: prioritized, double, 5-step, mixed_bfloat16 | 8 | 70 | 70 | 70 | 3.5 |" in table
    options.precisions = ["float32"]
    assert [key.get("precision") for key in updates.configurations(options)] == [None, None, None]


def test_convolutions_are_measured_as_in_the_examples():
    assert common.CONVOLUTIONS
    for example in ("cnn", "breakout"):
        source = (common.ROOT / "examples" / example / "dqn_train.py").read_text(encoding="utf-8")
        for name, value in common.CONVOLUTIONS.items():
            setting = f'os.environ.setdefault("{name}", "{value}")'
            assert -1 < source.find(setting) < source.find("import keras\n")  # TensorFlow asks when it is imported
    shared = dict(backend="both", precisions=["float32"], repetitions=1, peers=False, peer_python=None)
    runs = atari.plan(argparse.Namespace(**shared, steps=1, replay=1, envs=[16]))
    runs += updates.plan(argparse.Namespace(**shared, net="nature", capacity=100, seconds=1.0))
    assert len(runs) == 6
    for run in runs:
        assert run.environment == {"KERAS_BACKEND": run.key["backend"], **common.CONVOLUTIONS}
    (run, *_) = updates.plan(argparse.Namespace(**shared, net="lstm", capacity=100, seconds=1.0))
    assert run.environment == {"KERAS_BACKEND": "tensorflow"}


def test_share_of_what_the_processor_can_do():
    records = [
        record(**updates.ours("update", "jax", updates_per_call=k), updates_per_second=20.0, matrix_gflops=111.2)
        for k in updates.UPDATES_PER_CALL["nature"]
    ]
    assert "| jax | 8 | 56 | 50 % |" in updates.share_table(records, argparse.Namespace(backend="jax"))


def test_capacities_are_compared_by_the_ratio_of_neighbouring_turns():
    key = updates.ours("capacities", "jax", updates_per_call=updates.FUSED, large=updates.LARGE)
    found = [([100.0, 90.0], 0.9), ([400.0, 200.0], 0.6), ([200.0, 160.0], 0.8)]
    records = [record(**key, updates_per_second=rates, ratio=ratio) for rates, ratio in found]
    table = updates.capacity_table(records, argparse.Namespace(backend="jax", large=updates.LARGE))
    assert "| jax | 200 | 160 | 0.80 | 0.60 | 0.90 |" in table


def test_updates_of_an_lstm_have_no_peer_and_say_their_path(tmp_path, capsys):
    options = argparse.Namespace(
        backend="both", capacity=100, peers=False, net="lstm", repetitions=1, seconds=1.0, results=tmp_path
    )
    keys = updates.configurations(options)
    assert [(key["backend"], key["updates_per_call"]) for key in keys] == [
        (backend, number) for backend in ("tensorflow", "jax") for number in (1, 8, 32)
    ]
    assert updates.command(keys[0], options, None)[3:6] == ["update", "--net", "lstm"]
    updates.write([record(**key, updates_per_second=20.0) for key in keys], options)
    text = (tmp_path / "updates_lstm.md").read_text(encoding="utf-8")
    assert "| sota_dqn, jax: prioritized, double, 5-step | 32 | 20 | 20 | 20 | – |" in text
    assert "the generic loop" in text and "matrices" not in text


def memory_records():
    """Two seeds of CartPole with memory, and one without."""
    run = {"task": "cartpole", "backend": "jax", "cap": 200_000, "updates": 1, "process_seconds": 30.0}
    return [
        record(**run, memory="lstm", seed=0, steps=8_000, final=480.0, evaluations=evaluations(100, 475, every=4_000)),
        record(
            **run, memory="lstm", seed=1, steps=12_000, final=90.0, evaluations=evaluations(9, 400, 474, every=4_000)
        ),
        record(**run, memory="none", seed=0, steps=8_000, final=40.0, evaluations=evaluations(50, 151, every=4_000)),
    ]


def test_memory_tables(tmp_path):
    records = memory_records()
    assert memory.outcome(records[0]) == {"final": 480.0, "best": 475, "first": 8_000, "seconds": 30.0}
    assert [memory.reached(one) for one in records] == [True, False, False]
    table = memory.summary(records)
    expected = (
        "| cartpole, lstm, jax | at least 475 | 1 of 2 | 285.00 | 90.00 to 480.00 | 474.00 to 475.00 | – | 30 | 30 |"
    )
    assert expected in table
    assert "| cartpole, none, jax | at most 150 | 0 of 1 | 40.00 |" in table
    assert "| cartpole, lstm, jax | 0 | 480.00 | 475.00 | 8,000 | 8,000 | 30 |" in memory.seeds_table(records)
    maze = {"task": "tmaze-10", "evaluations": evaluations(1.0), "process_seconds": 1.0}
    assert memory.reached({**maze, "memory": "lstm", "final": 0.95})
    assert not memory.reached({**maze, "memory": "lstm", "final": 0.94})  # the end counts, not an evaluation
    assert memory.reached({**maze, "memory": "none", "final": 0.2})
    assert not memory.reached({**maze, "memory": "none", "final": 0.21})
    memory.write(records, tmp_path)
    assert (tmp_path / "memory.png").is_file()
    assert "over 100 episodes that no evaluation played" in (tmp_path / "memory.md").read_text(encoding="utf-8")


def test_memory_plan():
    options = argparse.Namespace(
        seeds=2, tasks=["tmaze-30", "cartpole"], memories=["lstm", "none"], backend="jax", cap=None
    )
    runs = memory.plan(options)
    assert [tuple(run.key.values()) for run in runs[:4]] == [
        ("tmaze-30", "lstm", "jax", 0, 20_000),
        ("tmaze-30", "none", "jax", 0, 20_000),
        ("cartpole", "lstm", "jax", 0, 200_000),
        ("cartpole", "none", "jax", 0, 200_000),
    ]
    assert len(runs) == 8 and runs[0].command[-2:] == ["--corridor", "30"] and "--corridor" not in runs[2].command


def test_memory_run_evaluates_on_time():
    trainer, found = memory_run.train("tmaze", corridor=3, memory="none", seed=0, cap=2_000)
    assert [evaluation.steps for evaluation in found] == [1_008, 2_000]  # epochs end with a step of 16 environments
    assert [evaluation.return_mean for evaluation in found] == trainer.history["eval_return"]
    assert trainer.discount == 0.98 and trainer.sequences is None


def gpu_options(**settings):
    given = {
        "backend": "jax",
        "parts": gpu.PARTS,
        "training": gpu.TRAINING,
        "seconds": 2.0,
        "steps": 40_000,
        "capacity": 100_000,
        "replay": 1_000_000,
        "peer_python": None,
    }
    return argparse.Namespace(**(given | settings))


def test_gpu_plan(monkeypatch):
    monkeypatch.setattr(common, "peer_python", lambda path: "peer")
    runs = gpu.plan(gpu_options())
    keys = [tuple(run.key.values()) for run in runs]
    assert len(set(keys)) == len(keys)
    assert keys[0] == ("updates", "sota_dqn", "jax", "float32", "host", None, 100_000)
    assert (
        runs[0].command[2:]
        == (
            "benchmarks.gpu_run updates --capacity 100000 --seconds 2.0 --precision float32 --launch host "
            "--batch-sizes 32 256 1024"
        ).split()
    )
    (run,) = gpu.plan(gpu_options(parts=["training"], training=["32:256:1/8:host"]))
    assert run.environment == {"KERAS_BACKEND": "jax"}
    assert (
        run.command[2:]
        == (
            "benchmarks.atari_run --envs 32 --batch-size 256 --updates-per-step 0.125 --launch host --replay 1000000 "
            "--steps 10000"
        ).split()
    )


def test_gpu_tables(tmp_path):
    update = {"part": "updates", "agent": "sota_dqn", "backend": "jax", "precision": "float32", "device": "G"}
    rates = [{"batch_size": 256, "updates_per_second": 1_000.0, "compiling": 6.0}]
    training = {"part": "training", "agent": "sota_dqn", "backend": "jax", "setting": "128:256:1/8:host", "device": "G"}
    records = [
        record(**update, launch="host", place=None, capacity=100_000, rates=rates, matrix_gflops=100_000.0),
        record(part="updates", **gpu.PEER, updates_per_second=300.0),
        record(
            **training,
            steps_per_second=8_000.0,
            updates_per_second=1_000.0,
            device_peak=7.3e9,
            profile={"environment": 3.0, "learn": 1.0},
        ),
        record(part="training", **gpu.PEER, steps_per_second=400.0),
    ]
    gpu.write(records, gpu_options(results=tmp_path))
    text = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    # 2.78 GFLOP are an update of 32: 8 times as many at 256, a thousand times a second, of 100 TFLOP/s.
    assert "| sota_dqn, jax, float32 | 100,000 | 256 | 1,000 | 256,000 | 22.2 | 22 % | 6.0 |" in text
    assert "plain DQN, uniform | 20,000 | 32 | 300 | 9,600 |" in text
    # A million frames are 250,000 steps: 31.25 s at 8,000 a second, and 200 million 104 minutes.
    assert "| sota_dqn, jax | 128 | 256 | 1/8 | host | 8,000 | 1,000 | 256,000 | 31 | 104 | 7.30 |" in text
    assert "| stable-baselines3, torch | 1 | 32 | 1/4 | – | 400 | 100 | 3,200 | 625 | 2,083 | – |" in text
    assert "| 128 | 256 | 1/8 | host | 75 % | 25 % |" in text


def test_gpu_tables_of_the_peer_alone(tmp_path):
    gpu.write([record(part="training", **gpu.PEER, steps_per_second=400.0)], gpu_options(results=tmp_path))
    assert "Where the host's thread" not in (tmp_path / "gpu.md").read_text(encoding="utf-8")


def test_ways_that_are_faster_than_the_one_taken(tmp_path):
    options = argparse.Namespace(backend="tensorflow", nets=["mlp"], repetitions=1, seconds=1.0, results=tmp_path)

    def write(*rates):
        pairs = zip(plans.keys(options), rates, strict=True)
        return plans.write([record(**key, updates_per_second=x, process_seconds=9.0) for key, x in pairs], options)

    assert write(100.0, 109.0, 20.0, 30.0) == []
    assert "| mlp | tensorflow | xla, unrolled | 109.0 | 1.09 | 9 |  |" in (tmp_path / "plans.md").read_text()
    found = write(100.0, 109.0, 120.0, 30.0)
    assert found == ["mlp, tensorflow: graph, a loop is 1.20 times as fast as what is taken"]


def test_a_plan_is_changed(monkeypatch):
    usual = backend.plan(convolutions=True)
    monkeypatch.setattr(backend, "plan", backend.plan)
    speed.change_plan(xla=False, fused=False)
    assert backend.plan(convolutions=True) == usual._replace(xla=False, fused=False)
