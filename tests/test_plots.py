"""Pictures: that they are there, of a sensible size, and that what is known is drawn. How they look is for eyes."""

import math

import cv2
import keras
import numpy as np
import pytest

from sota_dqn import plots
from sota_dqn.graphs import Box


def read(path):
    """Returns a PNG as RGB."""
    assert path.read_bytes().startswith(b"\x89PNG")
    return cv2.imread(str(path))[..., ::-1].astype(int)


def drawn(image, colour):
    """Returns how many pixels have a colour such as "#4878a8"."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(image - rgb).max(-1) <= 2).sum())


def history(number):
    steps = np.arange(1, number + 1) * 500.0
    return {
        "steps": steps.tolist(),
        "episode_return": [math.nan, *np.linspace(20, 500, number - 1)],
        "eval_return": [math.nan, *np.repeat(np.arange(number // 4 + 1) * 10.0, 4)][:number],
        "loss": [math.nan, *np.geomspace(1, 0.01, number - 1)],
        "epsilon": np.linspace(1, 0.05, number).tolist(),
    }


@pytest.mark.parametrize("number", [2, 20, 200])
def test_learning_curve(tmp_path, number):
    path = tmp_path / "new" / "curve.png"
    plots.learning_curve(history(number), path, title="CartPole-v1")
    image = read(path)
    assert image.shape == (750, 1080, 3)
    assert drawn(image[:, 330:], plots.BLUE) > 50  # right of the legend
    assert drawn(image, plots.ORANGE) > 50
    assert drawn(image, plots.MUTED) > 100
    assert list(path.parent.iterdir()) == [path]


def test_learning_curve_without_evaluations(tmp_path):
    path = tmp_path / "curve.png"
    plots.learning_curve({**history(20), "eval_return": [math.nan] * 20}, path)
    image = read(path)
    assert drawn(image, plots.ORANGE) == 0
    assert drawn(image, plots.BLUE) > 100


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, in place of their files."""
    saved = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: saved.append(figure))
    return saved


def lines(axes, colour):
    """Returns the points of the lines of a colour, `[N, 2]` each, but for those that are there for the legend."""
    return [line.get_xydata() for line in axes.lines if line.get_color() == colour and len(line.get_xdata())]


def test_every_evaluation_is_a_dot_and_they_are_joined(figures):
    columns = {"steps": [1, 2, 3, 4, 5], "eval_return": [math.nan, 9, 9, 9, 8], "evaluations": [0, 1, 1, 2, 3]}
    plots.learning_curve(columns, "curve.png")
    joined, dots = lines(figures[0].axes[0], plots.ORANGE)
    np.testing.assert_array_equal(dots, [[2, 9], [4, 9], [5, 8]])
    np.testing.assert_array_equal(joined, dots)  # no stairs
    plots.learning_curve({**columns, "evaluations": [math.nan] * 3 + [2, 2]}, "curve.png")  # not counted at first
    np.testing.assert_array_equal(lines(figures[1].axes[0], plots.ORANGE)[1], [[2, 9], [4, 9]])
    del columns["evaluations"]
    plots.learning_curve(columns, "curve.png")
    np.testing.assert_array_equal(lines(figures[2].axes[0], plots.ORANGE)[1], [[2, 9], [5, 8]])


@pytest.mark.parametrize("number", [6, 200])
def test_epochs_without_an_episode_leave_no_gap(figures, number):
    returns = np.where(np.arange(number) % 2, np.arange(number), math.nan)
    plots.learning_curve({"steps": list(range(number)), "episode_return": returns}, "curve.png")
    found = lines(figures[0].axes[0], plots.BLUE)
    assert len(found) == 1 + (number == 200)  # the mean
    np.testing.assert_array_equal(found[0][:, 0], np.arange(1, number, 2))
    assert np.isfinite(found).all()


def test_what_there_is_nothing_of_is_left_out(figures):
    def drawn_of(**columns):
        plots.learning_curve({"steps": [1, 2], **columns}, "curve.png")
        main, *others = figures[-1].axes
        legend = [text.get_text() for text in main.get_legend().get_texts()] if main.get_legend() else []
        return [axes.get_ylabel() for axes in others], legend

    nothing = [math.nan, math.nan]
    assert drawn_of(episode_return=nothing, loss=nothing) == ([], [])
    assert [text.get_text() for text in figures[-1].axes[0].texts] == ["no episode has ended yet"]
    assert drawn_of(episode_return=nothing, epsilon=[1, 1]) == (["epsilon"], [])
    assert drawn_of(episode_return=[1, 2], loss=nothing, epsilon=[1, 1]) == (["epsilon"], ["training episodes"])
    assert drawn_of(eval_return=[1, 2], loss=[math.nan, 3], epsilon=[1, 1]) == (["loss", "epsilon"], ["evaluation"])


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"steps": []},
        {"steps": [500.0]},
        {"steps": [500.0, 1000.0], "episode_return": [math.nan, math.nan], "loss": [math.nan, math.inf]},
        {"steps": [500.0, 1000.0], "episode_return": [1.0], "loss": [0.0, -1.0]},
    ],
)
def test_learning_curve_of_little(tmp_path, columns):
    plots.learning_curve(columns, tmp_path / "curve.png")
    assert read(tmp_path / "curve.png").shape == (750, 1080, 3)


def test_smoothing_is_the_mean_of_the_known_neighbours():
    values = np.array([1.0, math.nan, 3.0, 8.0, math.nan, math.nan, math.nan])
    expected = [1, 2, 5.5, 5.5, 8, math.nan, math.nan]
    np.testing.assert_allclose(plots._smoothed(values, 1), expected)


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (500, "500"), (2000, "2k"), (12_500, "12.5k"), (1.5e6, "1.5M")])
def test_steps_are_shortened(value, text):
    assert plots._short(value) == text


def test_diagram_of_a_sequential_model(tmp_path):
    path = tmp_path / "new" / "model.png"
    layers = [keras.Input((4,)), keras.layers.Dense(8), keras.layers.LayerNormalization(), keras.layers.Dense(2)]
    plots.model_diagram(keras.Sequential(layers), path)
    image = read(path)
    height, width = image.shape[:2]
    # Four rows of boxes, and a line of text below, at 150 dots an inch.
    assert height == pytest.approx(
        150 * (3 * (plots.HEIGHT + plots.GAP) + plots.HEIGHT + 2 * plots.MARGIN + 0.25), abs=2
    )
    assert 250 < width < 550
    assert (image[:, 0] == 255).all() and (image[:, -1] == 255).all()  # nothing is cut
    assert drawn(image, plots.BLUE) > 2 * 500  # two dense layers
    assert drawn(image, plots.COLOURS["Norm"]) > 500
    assert list(path.parent.iterdir()) == [path]


def test_diagram_of_branches_is_wider(tmp_path):
    inputs = keras.Input((4,))
    branches = [keras.layers.Dense(3)(inputs) for _ in range(3)]
    plots.model_diagram(
        keras.Model(inputs, keras.layers.Add()([*branches, keras.layers.Dense(3)(branches[0])])), tmp_path / "m.png"
    )
    height, width = read(tmp_path / "m.png").shape[:2]
    assert 3 * 250 < width < 3 * 550
    assert height == pytest.approx(
        150 * (3 * (plots.HEIGHT + plots.GAP) + plots.HEIGHT + 2 * plots.MARGIN + 0.25), abs=2
    )


def test_shapes_are_written_with_the_letters_of_their_axes():
    assert plots._shape(Box("", "", (None, 84, 84, 4), 0)) == "[B, 84, 84, 4]"
    assert plots._shape(Box("", "", (None, None, 6), 0)) == "[B, T, 6]"
    assert plots._shape(Box("", "", (32, 5, None), 0)) == "[32, 5, ?]"
    assert plots._shape(Box("", "", (None,) * 8, 0)) == "[B, T, ?, ?, ?, ?, ?, ?]"


def test_diagram_of_no_model_is_an_error(tmp_path):
    with pytest.raises(TypeError, match="must be a Sequential or a Functional model"):
        plots.model_diagram("model", tmp_path / "model.png")
    assert not list(tmp_path.iterdir())
