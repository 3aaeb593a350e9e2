"""Draws the learning curves of several runs side by side, from the `run.json` that `callbacks.RunLog` keeps.

python -m sota_dqn.plot RUN RUN ...
python -m sota_dqn.plot lstm=runs/a lstm=runs/b none=runs/c --x seconds --out memory.png

Runs whose settings differ in the seed alone are one curve, the mean over the seeds with its 95 % bootstrap interval. A
curve is named by the settings in which it differs from the others, or as LABEL=RUN says; one that differs in none, by
its environment or its directory. A mean is drawn where all its runs have values.
"""

import argparse
import json
import pathlib

import numpy as np

from sota_dqn import labels, plots

__all__ = ["group", "main", "read_run"]

PLACES = {"steps": "environment steps", "updates": "updates", "seconds": "seconds of training"}


def read_run(path):
    """Returns what `run.json` holds, of a run's directory or of the file itself, and the directory's name.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no such file.
    """
    path = pathlib.Path(path)
    file = path / "run.json" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(
            f"There is no run in {path}: it has no run.json. callbacks.RunLog(directory) writes one."
        )
    try:
        record = json.loads(file.read_text())
        found = {name: record[name] for name in ("run", "settings", "model", "history")}
        return {**found, "directory": file.resolve().parent.name}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not what callbacks.RunLog writes ({type(error).__name__}: {error}).") from error


def curve(record, x, y):
    """Returns places and values of a run, two arrays; an evaluation holds until the next one.

    Raises:
        ValueError: If the run has no such values.
    """
    history = record["history"]
    for name in (x, y):
        if name not in history:
            raise ValueError(f"The run {record['run']} has no `{name}`. It has {', '.join(history)}.")
    places, values = (np.array([np.nan if v is None else v for v in history[name]], float) for name in (x, y))
    known = np.isfinite(places) & np.isfinite(values)
    if not known.any():
        raise ValueError(f"The run {record['run']} has no number for `{y}` yet.")
    return places[known], values[known]


def group(runs):
    """Returns a dict of labels and records.

    Args:
        runs: Pairs of a label, or None, and a record.
    """
    described: dict[frozenset, dict] = {}
    groups: dict[str | frozenset, list] = {}
    for label, record in runs:
        key = label
        if label is None:
            settings = labels.describe(record)
            key = frozenset(settings.items())
            described[key] = settings
        groups.setdefault(key, []).append(record)
    names = [labels.environment(groups[key][0]) or groups[key][0].get("directory", "run") for key in described]
    told = labels.tell_apart(list(described.values()), names)
    found: dict[str | frozenset, str] = dict(zip(described, labels.numbered(told, taken=groups), strict=True))
    return {found.get(key, key): records for key, records in groups.items()}


def _parse_run(text):
    """Returns the label, or None, and the record of an argument of the command line."""
    label, separator, path = text.partition("=")
    if pathlib.Path(text).exists() or not separator:
        label, separator, path = "", "", text
    try:
        return (label if separator else None), read_run(path)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def main(arguments=None):
    """Runs the command."""
    parser = argparse.ArgumentParser(
        "python -m sota_dqn.plot", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", nargs="+", type=_parse_run, metavar="[LABEL=]RUN", help="a run's directory, or its run.json"
    )
    parser.add_argument("--x", choices=PLACES, default="steps", help="default: %(default)s")
    parser.add_argument(
        "--y", default="eval_return", help="a name in the logs, as episode_return (default: %(default)s)"
    )
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("curves.png"), help="default: %(default)s")
    parser.add_argument("--title")
    options = parser.parse_args(arguments)
    if options.out.suffix != ".png":
        parser.error(f"--out must end in .png. Received: {options.out}")
    try:
        curves = {
            label: [curve(record, options.x, options.y) for record in records]
            for label, records in group(options.runs).items()
        }
    except ValueError as error:
        parser.error(str(error))
    plots.comparison(curves, options.out, x=PLACES[options.x], y=options.y.replace("_", " "), title=options.title)
    for label, found in curves.items():
        last = [values[-1] for _, values in found]
        print(f"{label}: {len(found)} runs, {options.y} {np.mean(last):,.1f} at the end")
    print(f"Drawn in {options.out}.")


if __name__ == "__main__":
    main()
