"""Runs that are recorded and compared: what is in `run.json`, how runs are grouped, the mean curve, the command."""

import json
import math

import cv2
import numpy as np
import pytest
from runs import make

from sota_dqn import DQNTrainer, callbacks, plot, plots, policies


def test_a_run_is_recorded_and_goes_on_under_its_id(tmp_path):
    trainer = make()
    trainer.train(180, callbacks=[callbacks.RunLog(tmp_path), callbacks.Evaluation(120, episodes=2)], verbose=0)
    trainer.save(tmp_path / "checkpoint")
    record = plot.read_run(tmp_path)
    assert record["run"] == trainer.run and len(trainer.run) == 8
    assert record["settings"]["arguments"]["env"] == "CartPole-v1"
    assert (record["model"]["name"], record["model"]["parameters"]) == (trainer.model.name, 58)
    assert record["model"]["optimizer"]["learning_rate"] and record["model"]["loss"]
    assert record["history"].keys() == trainer.history.keys()
    assert record["history"]["steps"] == [60, 120, 180]
    assert record["history"]["eval_return"][0] is None and record["history"]["eval_return"][1] > 0
    assert sorted(record["history"]["seconds"]) == record["history"]["seconds"]

    resumed = DQNTrainer.load(tmp_path / "checkpoint")
    resumed.train(60, callbacks=[callbacks.RunLog(tmp_path)], verbose=0)
    record = plot.read_run(tmp_path / "run.json")
    assert record["run"] == trainer.run and record["history"]["steps"] == [60, 120, 180, 240]
    assert sorted(record["history"]["seconds"]) == record["history"]["seconds"]


@pytest.mark.parametrize("text", ['{"run": "another"}', "[]", "no JSON"])
def test_a_run_is_not_written_over(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match="run.json is of another run, which would be lost. Choose another directory."):
        make().train(60, callbacks=[callbacks.RunLog(tmp_path)], verbose=0)
    assert (tmp_path / "run.json").read_text() == text


def test_it_is_written_while_the_run_goes_on(tmp_path):
    class Reader(callbacks.Callback):
        seen = []

        def on_epoch_end(self, epoch, logs=None):
            self.seen.append(len(plot.read_run(tmp_path)["history"]["steps"]))

    make().train(120, callbacks=[callbacks.RunLog(tmp_path, every=0), Reader()], verbose=0)
    assert Reader.seen == [1, 2]
    with pytest.raises(ValueError, match="every=-1"):
        callbacks.RunLog(tmp_path, every=-1)


def run(seed=0, name="net", eval_return=(None, 1.0, 3.0), optimizer="adam", rate="0.001", loss="mse", **arguments):
    arguments = {"env": "CartPole-v1", "n_step": 5, "seed": seed, **arguments}
    return {
        "run": f"{seed}",
        "settings": {"trainer": "DQNTrainer", "backend": "jax", "keras": "3", "arguments": arguments},
        "model": {
            "name": name,
            "parameters": 10,
            "optimizer": {"name": optimizer, "learning_rate": rate},
            "loss": loss,
        },
        "history": {"steps": [10, 20, 30], "seconds": [1.0, 2.5, 3.0], "eval_return": list(eval_return)},
    }


def test_runs_that_differ_in_the_seed_alone_are_one_group():
    one, other, third = run(0), run(1), run(0, n_step=1)
    assert plot.group([(None, one), (None, other)]) == {"CartPole-v1": [one, other]}
    assert plot.group([(None, one), (None, third), (None, other)]) == {"n_step 5": [one, other], "n_step 1": [third]}
    assert plot.group([("a", one), ("b", other), ("a", third)]) == {"a": [one, third], "b": [other]}
    assert list(plot.group([(None, one), (None, run(name="big"))])) == ["model net (10)", "model big (10)"]
    assert plot.group([(None, run(name="net_1")), (None, run(name="net_12", optimizer="adam_2"))]).keys() == {
        "CartPole-v1"
    }
    rates = plot.group([(None, one), (None, run(rate="0.01")), (None, run(loss="Huber"))])
    assert list(rates) == [
        "optimizer's learning_rate 0.001, loss mse",
        "optimizer's learning_rate 0.01, loss mse",
        "optimizer's learning_rate 0.001, loss Huber",
    ]


def test_labels_are_readable():
    trainer = make(policy=policies.Mixture({"a": policies.Greedy(), "b": policies.EpsilonGreedy(0.1)}))
    arguments = trainer.settings["arguments"]
    assert (
        plot._short(arguments["policy"])
        == "Mixture(policies={a: Greedy(), b: EpsilonGreedy(epsilon=0.1)}, weights=None)"
    )
    assert plot._short(arguments["target"]) == "double"
    assert plot._short({"given": "mine"}) == "mine"
    assert plot._short([1, "x"]) == "[1, x]"


def test_curve():
    places, values = plot.curve(run(), "seconds", "eval_return")
    np.testing.assert_array_equal(places, [2.5, 3.0])
    np.testing.assert_array_equal(values, [1, 3])
    with pytest.raises(ValueError, match="The run 0 has no `loss`. It has steps, seconds, eval_return."):
        plot.curve(run(), "steps", "loss")
    with pytest.raises(ValueError, match="The run 0 has no number for `eval_return` yet."):
        plot.curve(run(eval_return=(None, None, None)), "steps", "eval_return")


def test_mean_curve_by_hand():
    runs = [(np.array([0.0, 10.0]), np.array([0.0, 10.0])), (np.array([0.0, 20.0]), np.array([4.0, 4.0]))]
    places, mean, low, high = plots.mean_curve(runs)
    np.testing.assert_array_equal(places, [0, 10, 20])
    np.testing.assert_allclose(mean, [2, 7, 4])  # the first run has not come to 20
    np.testing.assert_allclose(low, [0, 4, math.nan])  # of two runs the interval is from one to the other
    np.testing.assert_allclose(high, [4, 10, math.nan])


def test_mean_curve_of_many_places():
    places = np.arange(5_000.0)
    found, mean, *_ = plots.mean_curve([(places, 2 * places)], points=100)
    assert len(found) == 100 and found[0] == 0 and found[-1] == 4_999
    np.testing.assert_allclose(mean, 2 * found)


def test_the_command(tmp_path, capsys):
    for name, record in {"a": run(0), "b": run(1, eval_return=(0.0, 2.0, 5.0)), "c": run(0, n_step=1)}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(record))
    out = tmp_path / "curves.png"
    plot.main([*(str(tmp_path / name) for name in "abc"), "--x", "seconds", "--out", str(out), "--title", "Both"])
    assert "n_step 5: 2 runs, eval_return 4.0 at the end\nn_step 1: 1 runs" in capsys.readouterr().out
    assert cv2.imread(str(out)).shape == (630, 1080, 3)


def test_a_path_may_have_an_equals_sign(tmp_path, capsys):
    (tmp_path / "lr=0.1").mkdir()
    (tmp_path / "lr=0.1" / "run.json").write_text(json.dumps(run(0)))
    out = tmp_path / "curves.png"
    for argument in (str(tmp_path / "lr=0.1"), f"mine={tmp_path / 'lr=0.1'}"):
        plot.main([argument, "--out", str(out)])
    assert "mine: 1 runs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "There is no run in nowhere: it has no run.json. callbacks.RunLog"),
        (["label=nowhere"], "There is no run in nowhere"),
        (["{}/broken.json"], "broken.json is not what callbacks.RunLog writes"),
        (["{}/run.json", "--out", "curves.svg"], "--out must end in .png. Received: curves.svg"),
        (["{}/run.json", "--y", "score"], "The run 0 has no `score`. It has steps, seconds, eval_return."),
    ],
)
def test_bad_commands(tmp_path, capsys, arguments, message):
    (tmp_path / "broken.json").write_text("{}")
    (tmp_path / "run.json").write_text(json.dumps(run()))
    with pytest.raises(SystemExit):
        plot.main([argument.format(tmp_path) for argument in arguments])
    assert message in capsys.readouterr().err.replace("\n", " ")
