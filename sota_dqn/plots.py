"""Pictures as PNG files, drawn with matplotlib alone: the learning curve of a run and the diagram of a model.

To add one, build a `matplotlib.figure.Figure` and save it through `_save`; never `pyplot`, whose state is global. What
is drawn is decided in pure functions (`graph`, `layout`), so that tests can look at it.
"""

import math
import re
from typing import NamedTuple

import keras
import numpy as np

from sota_dqn.files import replacing

__all__ = ["learning_curve"]

INK, MUTED, GRID = "#2f3640", "#7b8591", "#e6e9ed"
BLUE, ORANGE = "#4878a8", "#d1793f"


def learning_curve(history, path, *, title=None):
    """Draws the learning curve of a run: returns above, loss and epsilon below, over environment steps.

    Args:
        history: A dict of lists with one number per epoch, as `trainer.history`: `steps`, `episode_return`, and where there
            are any, `eval_return`, `loss` and `epsilon`. NaN leaves a gap.
        path: Of the PNG file, which is replaced once the new one is complete. A missing directory is made.
        title: Above the curve; None for none.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 5.0), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08, hspace=0.04, wspace=0.04)
    grid = figure.add_gridspec(2, 2, height_ratios=(2.6, 1))
    steps = np.asarray(history.get("steps", ()), float)
    main = figure.add_subplot(grid[0, :])
    returns, evaluations = _column(history, "episode_return", steps), _column(history, "eval_return", steps)
    thick = returns.size >= 60  # so many that the eye wants a mean
    main.plot(steps, returns, color=BLUE, alpha=0.35 if thick else 1, linewidth=1 if thick else 1.6)
    if thick:
        main.plot(steps, _smoothed(returns, returns.size // 30), color=BLUE, linewidth=1.8)
    main.plot([], [], color=BLUE, linewidth=1.8, label="training episodes")
    if np.isfinite(evaluations).any():
        # The history repeats the last evaluation until the next.
        main.step(steps, evaluations, where="post", color=ORANGE, linewidth=1.8, label="evaluation")
    _axes(main, "return")
    main.legend(frameon=False, fontsize=9, labelcolor=INK, loc="best", handlelength=1.4)
    if title:
        main.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=10)
    for column, name in enumerate(("loss", "epsilon")):
        axes = figure.add_subplot(grid[1, column], sharex=main)
        values = _column(history, name, steps)
        known = values[np.isfinite(values)]
        axes.plot(steps, values, color=MUTED, linewidth=1.2)
        if name == "loss" and known.size and known.min() > 0 and known.max() > 30 * known.min():
            axes.set_yscale("log")
        elif name == "epsilon":
            axes.set_ylim(-0.05, 1.05)
        _axes(axes, name)
        axes.set_xlabel("environment steps", fontsize=9, color=MUTED)
    _save(figure, path)


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


def _save(figure, path):
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png", facecolor="white")
