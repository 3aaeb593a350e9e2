"""Runs that are recorded and compared: what is in `run.json`, how runs are grouped, the mean curve, the command."""

import json

import cv2
import numpy as np
import pytest
from runs import make

from sota_dqn import DQNTrainer, callbacks, plot, plots


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
        "learning_rate 0.001, loss mse",
        "learning_rate 0.01, loss mse",
        "learning_rate 0.001, loss Huber",
    ]


def test_no_run_is_lost_where_labels_are_the_same():
    one, other = run(0), run(0, n_step=1)
    assert plot.group([("n_step 1", one), (None, one), (None, other)]) == {
        "n_step 1": [one],
        "n_step 5": [one],
        "n_step 1 (2)": [other],
    }
    assert plot.group([("CartPole-v1", one), (None, other)]) == {"CartPole-v1": [one], "CartPole-v1 (2)": [other]}


def test_a_run_that_differs_in_nothing_is_named_by_its_environment_or_directory(tmp_path):
    pong = run(env={"call": "atari:Atari", "arguments": {"id": "ALE/Pong-v5", "raw": None}})
    assert list(plot.group([(None, pong), (None, pong)])) == ["ALE/Pong-v5"]
    (tmp_path / "maze").mkdir()
    (tmp_path / "maze" / "run.json").write_text(json.dumps(run(env={"given": "partial"})))
    for path in ("maze", "maze/run.json"):
        assert list(plot.group([(None, plot.read_run(tmp_path / path))])) == ["maze"]


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
    np.testing.assert_array_equal(places, [0, 10])  # the first run has not come to 20
    np.testing.assert_allclose(mean, [2, 7])
    np.testing.assert_allclose(low, [0, 4])  # of two runs the interval is from one to the other
    np.testing.assert_allclose(high, [4, 10])
    places, mean, low, high = plots.mean_curve(runs[:1])
    np.testing.assert_array_equal(mean, [0, 10])
    assert np.isnan(low).all() and np.isnan(high).all()


def test_runs_without_a_place_in_common_are_drawn_one_by_one(monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))
    apart = [(np.array([0.0, 10.0]), np.array([0.0, 10.0])), (np.array([11.0, 20.0]), np.array([4.0, 4.0]))]
    assert [len(found) for found in plots.mean_curve(apart)] == [0] * 4
    plots.comparison({"a": apart, "b": apart[:1] * 2}, "curves.png", x="seconds of training", y="return")
    first, second, mean = figures[0].axes[0].lines
    np.testing.assert_array_equal(first.get_xdata(), [0, 10])
    np.testing.assert_array_equal(second.get_xdata(), [11, 20])
    assert first.get_linewidth() < mean.get_linewidth() and first.get_color() == second.get_color()
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == [
        "a (2 runs that never overlap: no mean)",
        "b (2 runs)",
    ]


def test_labels_are_below_the_axes_and_inside_the_picture(monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))
    runs = [(np.array([0.0, 10.0]), np.array([0.0, 10.0]))]
    for names in (["a", "b"], [f"{i}" + " long" * 40 for i in range(3)], [f"one of twelve: {i}" for i in range(12)]):
        plots.comparison(dict.fromkeys(names, runs), "curves.png", x="steps", y="return")
        figure = figures[-1]
        figure.draw_without_rendering()
        legend, axes = figure.legends[0].get_window_extent(), figure.axes[0].get_tightbbox()
        assert legend.x0 >= 0 and legend.x1 <= figure.bbox.x1 and legend.y0 >= 0
        assert legend.y1 <= axes.y0 + 2 and axes.height > 250


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
