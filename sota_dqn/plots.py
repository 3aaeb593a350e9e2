"""Pictures as PNG files, drawn with matplotlib alone: learning curves of a run or of several, the diagram of a model.

To add one, build a `matplotlib.figure.Figure` and save it through `_save`; never `pyplot`, whose state is global. Which
boxes a diagram has, and where they go, `sota_dqn.graphs` decides.
"""

import math
import re
import textwrap

import numpy as np

from sota_dqn.files import replacing
from sota_dqn.graphs import graph, layout

__all__ = ["comparison", "learning_curve", "model_diagram"]

INK, MUTED, GRID = "#2f3640", "#7b8591", "#e6e9ed"
BLUE, ORANGE = "#4878a8", "#d1793f"
LINES = (BLUE, ORANGE, "#3f8f86", "#8068a5", "#b09a4f", "#b5545c", "#5f6b78", "#8a9a3b")
HEIGHT, GAP, MARGIN = 0.48, 0.3, 0.15  # of a box, between two, and around all, in inches
BOLD, PLAIN = 0.093, 0.066  # mean width of a letter of a box's title and of its other text, in inches
ROOM = 84  # letters of a legend side by side
COLOURS = {"^Input": MUTED, "Conv": "#3f8f86", "LSTM|GRU|RNN": "#8068a5", "Norm": "#b09a4f"}  # by the layer's class


def learning_curve(history, path, *, title=None):
    """Draws the learning curve of a run: returns above, loss and epsilon below, over environment steps.

    What there is no number of yet is left out. Every evaluation is a dot, where `evaluations` rises; in a history that
    does not count them, where `eval_return` changes.

    Args:
        history: A dict of lists with one number per epoch, as `trainer.history`: `steps`, `episode_return`, and where
            there are any, `eval_return`, `evaluations`, `loss` and `epsilon`. What is not finite is passed over.
        path: Of the PNG file, which is replaced once the new one is complete. A missing directory is made.
        title: Above the curve; None for none.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(
        figsize=(7.2, 5.0), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, hspace=0.04, wspace=0.04)
    )
    steps = np.asarray(history.get("steps", ()), float)
    below = [name for name in ("loss", "epsilon") if np.isfinite(_column(history, name, steps)).any()]
    grid = figure.add_gridspec(1 + bool(below), max(len(below), 1), height_ratios=(2.6, 1)[: 1 + bool(below)])
    main = figure.add_subplot(grid[0, :])
    _draw_returns(main, history, steps)
    if title:
        main.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=10)
    panels = [figure.add_subplot(grid[1, column], sharex=main) for column in range(len(below))]
    for axes, name in zip(panels, below, strict=True):
        values = _column(history, name, steps)
        known = values[np.isfinite(values)]
        _line(axes, steps, values, color=MUTED, linewidth=1.2)
        if name == "loss" and known.min() > 0 and known.max() > 30 * known.min():
            axes.set_yscale("log")
        elif name == "epsilon":
            axes.set_ylim(-0.05, 1.05)
        _axes(axes, name)
    for axes in panels or [main]:
        axes.set_xlabel("environment steps", fontsize=9, color=MUTED)
    _save(figure, path)


def _draw_returns(axes, history, steps):
    """Draws the returns of the training episodes and of the evaluations, and the legend."""
    returns, evaluations = _column(history, "episode_return", steps), _column(history, "eval_return", steps)
    known = np.isfinite(returns)
    thick = known.sum() >= 60  # so many that the eye wants a mean
    _line(axes, steps, returns, color=BLUE, alpha=0.35 if thick else 1, linewidth=1 if thick else 1.6)
    if thick:
        _line(axes, steps[known], _smoothed(returns, returns.size // 30)[known], color=BLUE, linewidth=1.8)
    if known.any():
        axes.plot([], [], color=BLUE, linewidth=1.8, label="training episodes")
    made = _evaluated(history, steps)
    if made.any():
        axes.plot(steps[made], evaluations[made], color=ORANGE, linewidth=0.8, alpha=0.6)
        axes.plot(steps[made], evaluations[made], "o", color=ORANGE, markersize=4.5 if made.sum() < 60 else 2.5)
        axes.plot([], [], "-o", color=ORANGE, linewidth=0.8, markersize=4.5, label="evaluation")
    _axes(axes, "return")
    if known.any() or made.any():
        axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="best", handlelength=1.4)
    else:
        axes.set_xlim(0, max(steps.max(initial=0.0), 1.0))
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no episode has ended yet", transform=axes.transAxes, color=MUTED, ha="center")


def _line(axes, x, y, **style):
    """Draws a line through the points that are finite, or a dot where there is but one."""
    known = np.isfinite(x) & np.isfinite(y)
    axes.plot(x[known], y[known], "o" if known.sum() == 1 else "-", **style)


def _evaluated(history, steps):
    """Returns which epochs ended with an evaluation, a bool each: the others repeat the last one."""
    values, number = _column(history, "eval_return", steps), _column(history, "evaluations", steps)
    before = np.fmax.accumulate(np.append(0.0, number))[:-1]
    counted = np.isfinite(number)
    return np.isfinite(values) & np.where(counted, number > before, np.diff(values, prepend=math.nan) != 0)


def comparison(groups, path, *, x, y, title=None):
    """Draws a curve for each group of runs: the mean of their curves, and a band around it.

    The mean is drawn where all runs of the group have values; the band is its 95 % bootstrap interval, over the runs of
    the group, and is missing where there is one run. Runs that have no place in common are drawn one by one.

    Args:
        groups: A dict of labels and lists of runs, each a pair of arrays: places, rising, and values.
        path: Of the PNG file, which is replaced once the new one is complete. A missing directory is made.
        x: What the places are.
        y: What the values are.
        title: Above the curves; None for none.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, (label, runs) in enumerate(groups.items()):
        places, mean, low, high = mean_curve(runs)
        colour = LINES[number % len(LINES)]
        if not len(places):
            for i, (at, values) in enumerate(runs):
                name = f"{label} ({len(runs)} runs that never overlap: no mean)" if i == 0 else None
                axes.plot(at, values, "o-" if len(at) == 1 else "-", color=colour, linewidth=0.7, label=name)
            continue
        name = f"{label} ({len(runs)} runs)" if len(runs) > 1 else label
        axes.plot(places, mean, "o-" if len(places) == 1 else "-", color=colour, linewidth=1.6, label=name)
        axes.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)
    _axes(axes, y)
    axes.set_xlabel(x, fontsize=9, color=MUTED)
    _legend_below(figure, axes)
    if title:
        axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=10)
    _save(figure, path)


def _legend_below(figure, axes):
    """Adds a legend below the axes, in as many columns as its labels have room for; the figure grows with it."""
    handles, names = axes.get_legend_handles_labels()
    names = [textwrap.fill(name, ROOM) for name in names]
    longest = max((len(line) for name in names for line in name.splitlines()), default=1)
    columns = max(1, min(len(names), ROOM // (longest + 6)))
    rows = sum(name.count("\n") + 1 for name in names) if columns == 1 else math.ceil(len(names) / columns)
    figure.set_figheight(figure.get_figheight() + 0.2 * max(rows - 1, 0))
    style = {"frameon": False, "fontsize": 9, "labelcolor": INK, "handlelength": 1.4}
    figure.legend(handles, names, loc="outside lower center", ncols=columns, **style)


def mean_curve(runs, *, points=200, resamples=1_000):
    """Returns places, mean, and the low and high end of its 95 % bootstrap interval, `[P]` each.

    P is 0 where the runs have no place in common, and the interval is NaN where there is but one run.

    Args:
        runs: Pairs of arrays: places, rising, and values. Between two places a run's values lie on a line.
        points: At most so many places, evenly from the first that all runs have to the last.
        resamples: Samples of the runs, drawn with replacement, of which the interval is made.
    """
    first, last = max(places[0] for places, _ in runs), min(places[-1] for places, _ in runs)
    every = np.unique(np.concatenate([places for places, _ in runs]))
    every = every[(first <= every) & (every <= last)]
    places = every if len(every) <= points else np.linspace(first, last, points)
    values = np.array([np.interp(places, x, y) for x, y in runs])  # [R, P]
    mean = values.mean(axis=0)
    if len(runs) == 1:
        return places, mean, np.full_like(mean, math.nan), np.full_like(mean, math.nan)
    drawn = np.random.default_rng(0).multinomial(len(runs), [1 / len(runs)] * len(runs), size=resamples)
    low, high = np.quantile(drawn @ values / len(runs), [0.025, 0.975], axis=0)
    return places, mean, low, high


def _column(history, name, steps):
    """Returns a column of the history as an array as long as `steps`, NaN where it is not known."""
    values = np.full(steps.size, math.nan)
    known = np.asarray(history.get(name, ()), float)[: steps.size]
    values[: known.size] = known
    return np.where(np.isfinite(values), values, math.nan)


def _smoothed(values, width):
    """Returns the mean of up to `width` values on either side, of those that are known."""
    known = np.isfinite(values)
    window = np.ones(2 * width + 1)
    total = np.convolve(np.where(known, values, 0.0), window)[width:-width]
    count = np.convolve(known.astype(float), window)[width:-width]
    return np.where(count > 0.5, total / np.maximum(count, 1), math.nan)


def _axes(axes, label):
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_ylabel(label, fontsize=9, color=MUTED)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(which="both", length=0, labelsize=9, labelcolor=INK)
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _short(value):
    """Returns a number of steps as text: 500, 20k, 1.5M."""
    for factor, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:g}{unit}"
    return f"{value:g}"


def model_diagram(model, path):
    """Draws a model: a box for each call of a layer, with output shape and number of parameters, inputs at the top.

    Args:
        model: A built `keras.Sequential` or Functional model. Models inside it are one box each.
        path: Of the PNG file, which is replaced once the new one is complete. A missing directory is made.

    Raises:
        TypeError: If the model is a subclass with a `call` of its own, whose graph is not known.
        ValueError: If it is not built.
    """
    from matplotlib.figure import Figure

    boxes, edges = graph(model)
    points, routes = layout(len(boxes), edges)
    size = np.array([_width(boxes), HEIGHT])
    points = np.asarray(points, float) * (size + GAP) * (1, -1)  # inches, upwards
    corners = np.concatenate([points[: len(boxes)] - size / 2, points[: len(boxes)] + size / 2, points])
    low, high = corners.min(0) - MARGIN - (0, 0.25), corners.max(0) + MARGIN
    figure = Figure(figsize=tuple(high - low))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes.axis("off")
    for route in routes:
        _draw_route(axes, points[route], size)
    for box, point in zip(boxes, points, strict=False):
        _draw_box(axes, box, point, size)
    total = f"{model.count_params():,} parameters in all"
    axes.text((low[0] + high[0]) / 2, low[1] + 0.16, total, fontsize=8, color=MUTED, ha="center", va="center")
    _save(figure, path)


def _width(boxes):
    """Returns the width of all boxes, in inches: wide enough for their texts, within reason."""
    upper = max(BOLD * len(box.title) + PLAIN * len(box.detail) for box in boxes)
    lower = max(PLAIN * len(_shape(box) + _parameters(box)) for box in boxes)
    return min(max(upper, lower, 1.7) + 0.5, 3.2)


def _shape(box):
    """Returns the shape as text, free sizes as letters: batch, then time."""
    return "[" + ", ".join("BT????"[min(i, 5)] if n is None else str(n) for i, n in enumerate(box.shape)) + "]"


def _parameters(box):
    return f"{box.parameters:,} parameters" if box.parameters else ""


def _draw_box(axes, box, centre, size):
    from matplotlib.patches import FancyBboxPatch, Rectangle

    colour = next((c for name, c in COLOURS.items() if re.search(name, box.title)), BLUE if box.parameters else MUTED)
    (left, bottom), (width, height) = centre - size / 2, size
    rounded = "round,pad=0,rounding_size=0.06"
    outline = FancyBboxPatch((left, bottom), width, height, rounded, facecolor="white", edgecolor=colour, zorder=2)
    axes.add_patch(outline)
    for across, alpha in ((width, 0.1), (0.07, 1)):
        fill = Rectangle((left, bottom), across, height, facecolor=colour, alpha=alpha, linewidth=0, zorder=3)
        axes.add_patch(fill)
        fill.set_clip_path(outline)
    room = int((width - 0.4 - BOLD * len(box.title)) / PLAIN)
    detail = box.detail if len(box.detail) <= room else box.detail[: max(room - 1, 0)] + "\u2026"
    left, right, upper, lower = left + 0.17, left + width - 0.1, centre[1] + 0.105, centre[1] - 0.12
    for x, y, text, style in (
        (left, upper, box.title, {"fontsize": 9.5, "fontweight": "bold", "color": INK}),
        (right, upper, detail, {"fontsize": 8, "color": MUTED, "ha": "right"}),
        (left, lower, _shape(box), {"fontsize": 8.5, "color": INK}),
        (right, lower, _parameters(box), {"fontsize": 8, "color": MUTED, "ha": "right"}),
    ):
        axes.text(x, y, text, va="center", zorder=4, **style)


def _draw_route(axes, points, size):
    """Draws an edge: bows between the rows, straight down past a box, an arrow at the end."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    half = size * (0, 0.5)
    vertices, codes = [points[0] - half], [Path.MOVETO]
    for i, point in enumerate(points[1:], start=1):
        start, end = vertices[-1], point + half
        middle = (start[1] + end[1]) / 2
        vertices += [(start[0], middle), (end[0], middle), end]
        codes += [Path.CURVE4] * 3
        if i < len(points) - 1:
            vertices.append(point - half)
            codes.append(Path.LINETO)
    axes.add_patch(
        FancyArrowPatch(
            path=Path(vertices, codes), arrowstyle="-|>", mutation_scale=8, color=MUTED, linewidth=1, zorder=1
        )
    )


def _save(figure, path):
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png", facecolor="white")
