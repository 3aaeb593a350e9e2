"""Short labels of recorded runs, by the settings in which they differ.

The settings of a run are a flat dict of paths and texts: `("replay", "sampler")` and `"Prioritized"`. What else is to
tell runs apart is one more path in `describe`.
"""

import re

__all__ = ["describe", "environment", "tell_apart"]

LENGTH = 40  # characters of a label


def describe(record):
    """Returns the settings of a run but the seed, objects and what is inside them: a dict of paths and texts.

    Args:
        record: What `callbacks.RunLog` writes.
    """
    settings, model = record["settings"], record["model"]
    found: dict[tuple[str, ...], str] = {("trainer",): settings["trainer"]}
    for name, value in settings["arguments"].items():
        if name != "seed":
            found |= _flatten((name,), value)
    found["model",] = f"{_unnumbered(model['name'])} ({model['parameters']:,})"
    for name, text in model.get("optimizer", {}).items():
        found[("optimizer",) if name == "name" else ("optimizer", name)] = _rounded(_unnumbered(text))
    return found | {("loss",): str(model.get("loss")), ("backend",): settings["backend"]}


def environment(record):
    """Returns the id of the environment of a run, or None where it has none."""
    env = record["settings"]["arguments"].get("env")
    env = env.get("arguments", {}).get("id") if isinstance(env, dict) else env
    return env if isinstance(env, str) else None


def tell_apart(runs, names):
    """Returns a label for each run, all distinct: what sets it apart from the others, None left out.

    Of objects that are not of one class the class is said, and what is inside only where that is not enough. A label of
    more than 40 characters is cut, unless it is then that of another run too.

    Args:
        runs: Dicts that `describe` returned, no two the same.
        names: A text for each, the label where nothing that it has sets it apart.
    """
    paths = dict.fromkeys(path for run in runs for path in run)
    differing = [path for path in paths if len({run.get(path) for run in runs}) > 1]
    outer = [
        path
        for path in differing
        if all(path in run for run in runs) and not any(path[:n] in differing for n in range(1, len(path)))
    ]
    labels = []
    for chosen in (outer, differing):
        labels = [_say(run, chosen) for run in runs]
        if len(set(labels)) == len(runs):
            break
    whole = [label or name for label, name in zip(labels, names, strict=True)]
    labels = [_cut(label) for label in whole]
    for label in dict.fromkeys(labels):
        same = [i for i, other in enumerate(labels) if other == label]
        if 1 < len(same) < len(runs):  # cut where they differ: say what sets these apart
            apart = tell_apart([runs[i] for i in same], [names[i] for i in same])
            for i, text in zip(same, apart, strict=True):
                labels[i] = "\u2026 " + text.removeprefix("\u2026 ")
    return numbered([short if labels.count(short) == 1 else long for short, long in zip(labels, whole, strict=True)])


def numbered(labels, taken=()):
    """Returns `labels` with numbers behind those that are there already."""
    found: list[str] = []
    for label in labels:
        number, free = 1, label
        while free in found or free in taken:
            number += 1
            free = f"{label} ({number})"
        found.append(free)
    return found


def _say(run, paths):
    """Returns those settings of `run` that `paths` name as one text."""
    here = [path for path in paths if path in run]
    here = [path for path in here if run[path] != "None"] or here
    names = [_name(path) for path in paths]
    return ", ".join(f"{_name(path) if names.count(_name(path)) == 1 else ' '.join(path)} {run[path]}" for path in here)


def _name(path):
    """Returns how a setting is called: an argument of an object by its own name, what lies deeper by two."""
    return " ".join(path[-2:] if len(path) > 2 or not path[-1].isidentifier() else path[-1:])


def _cut(label):
    """Returns a label without those settings at its end that make it too long, or without the end of the first."""
    if len(label) <= LENGTH:
        return label
    head, separator, _ = label[: LENGTH - 1].rpartition(", ")
    return f"{head}, \u2026" if separator else label[: LENGTH - 1] + "\u2026"


def _flatten(path, value):
    """Returns an argument, as a checkpoint encodes it, as a dict of paths and texts."""
    found = {path: _text(value)}
    inside = []
    if isinstance(value, list):
        inside = [(_text(item), item) for item in value]
    elif isinstance(value, dict) and "call" in value:
        arguments = dict(value.get("arguments", {}))
        if "id" in arguments:  # an environment, which is known by it
            found = {path: str(arguments.pop("id")), (*path, "class"): _text(value)}
        inside = list(arguments.items())
    elif isinstance(value, dict) and "dict" in value:
        inside = [(_text(key), item) for key, item in value["dict"]]
    for number, (name, item) in enumerate(inside):
        place = (*path, name) if (*path, name) not in found else (*path, f"{name} {number}")
        found |= _flatten(place, item)
    return found


def _text(value):
    """Returns an argument, as a checkpoint encodes it, as a text without what is inside."""
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    if isinstance(value, dict) and "dict" in value:
        return "{" + ", ".join(_text(key) for key, _ in value["dict"]) + "}"
    if isinstance(value, dict):
        public = value.get("call", value.get("name"))
        return public.partition(":")[2] if public else str(value.get("given"))
    return str(value)


def _unnumbered(name):
    """Returns a name without the number that Keras gives to the models and optimizers that a process makes."""
    return re.sub(r"_\d+$", "", name)


def _rounded(text):
    """Returns a number without the noise of float32, and any other text as it is."""
    try:
        return f"{float(text):.6g}"
    except ValueError:
        return text
