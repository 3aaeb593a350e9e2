"""Checkpoints: a directory that is complete at any moment, read without executing or unpickling anything.

    run/config.json              what it is and how it was made; names the directory below; replaced last, in one step
    run/step-000050000/          model.keras, state.json, arrays/*.npy

A process killed while it saves leaves the last `config.json`, and the directory that it names, as they were. Functions
are written as `module:name` with their arguments, and looked up among the public names of this package alone.
"""

import importlib
import json
import os
import pathlib
import re
import shutil

import keras
import numpy as np

from sota_dqn import backend
from sota_dqn.version import __version__

__all__ = ["Checkpoint", "decode", "encode", "load_model", "save"]

FORMAT = 1
MODULES = ("layers", "losses", "policies", "replay", "returns", "samplers", "schedules", "targets")
SLICE = 64 * 2**20  # bytes of a large array in host memory at a time


def save(path, *, config, state, model, arrays):
    """Writes a checkpoint, and removes the one that it replaces.

    Args:
        path: The directory; other files in it are left alone.
        config: What `config.json` holds beside the format.
        state: Small things, as JSON.
        model: The Keras model.
        arrays: A dict of names and `keras.Variable`s or arrays.

    Raises:
        OSError: If the directory cannot be written. A checkpoint that was there stays.
        ValueError: If the directory holds a `config.json` that is not a checkpoint's.
    """
    path = pathlib.Path(path)
    path.mkdir(parents=True, exist_ok=True)
    before = _previous(path)
    name = f"step-{config['steps']:09d}"
    if (path / name).exists():
        name += f"-{sum(1 for _ in path.glob(name + '*'))}"
    for leftover in path.glob("step-*.partial"):  # of a process that was killed while it saved
        shutil.rmtree(leftover)
    partial = path / f"{name}.partial"
    try:
        (partial / "arrays").mkdir(parents=True)
        model.save(partial / "model.keras")
        for array, values in arrays.items():
            _write_array(partial / "arrays" / f"{array}.npy", values)
        (partial / "state.json").write_text(json.dumps(state))
        partial.rename(path / name)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shapes = {array: [list(np.shape(values)), _dtype(values)] for array, values in arrays.items()}
    config = {"format": FORMAT, "sota_dqn": __version__, "checkpoint": name, **config, "arrays": shapes}
    temporary = path / "config.json.partial"
    with open(temporary, "w") as file:
        file.write(json.dumps(config, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path / "config.json")
    if before and before != name:
        shutil.rmtree(path / before, ignore_errors=True)


class Checkpoint:
    """A checkpoint that has been found complete.

    Args:
        path: Its directory.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, or of a version that this one cannot read.
    """

    def __init__(self, path):
        self.path = pathlib.Path(path)
        file = self.path / "config.json"
        if not file.is_file():
            raise FileNotFoundError(f"There is no checkpoint in {self.path}: it has no config.json.")
        try:
            self.config = json.loads(file.read_text())
            found = self.config["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"The checkpoint {self.path} is damaged: config.json cannot be read ({error}).") from error
        if found != FORMAT:
            raise ValueError(
                f"The checkpoint {self.path} has format {found} and this version of sota_dqn, {__version__}, reads "
                "format "
                f"{FORMAT}. It was written by version {self.config.get('sota_dqn')}."
            )
        self.directory = self.path / self.config["checkpoint"]
        self.model_path = self.directory / "model.keras"
        try:
            self.state = json.loads((self.directory / "state.json").read_text())
            for name in self.config["arrays"]:
                self.array(name)
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"The checkpoint {self.path} is damaged: {error}.") from error

    def array(self, name):
        """Returns an array of the checkpoint; it stays on the disk until it is read."""
        file = self.directory / "arrays" / f"{name}.npy"
        values = np.load(file, mmap_mode="r", allow_pickle=False)
        shape, dtype = self.config["arrays"][name]
        if list(values.shape) != shape or values.dtype.name != dtype:
            raise ValueError(f"{file.name} holds {values.shape} of {values.dtype}, not {shape} of {dtype}")
        return values

    def check(self, name, variable):
        """Raises ValueError unless the array `name` is there and fits `variable`."""
        shape = self.config["arrays"].get(name, [None])[0]
        if shape != list(variable.shape):
            raise ValueError(
                f"The checkpoint {self.path} does not fit: {name} has shape {shape}, where {list(variable.shape)} is "
                "needed."
            )

    def assign(self, name, variable):
        """Gives `variable` the values of the array `name`, a slice at a time where it is large."""
        values = self.array(name)
        if values.ndim == 0 or values.nbytes <= SLICE:
            variable.assign(np.array(values))
        else:
            backend.assign_slices(variable, values, _rows_per_slice(values))

    def __contains__(self, name):
        return name in self.config["arrays"]


def load_model(path, custom_objects=None):
    """Returns the model of a `.keras` file, compiled if it was saved so. Nothing in the file is executed.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or needs `custom_objects`.
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"There is no model at {path}.")
    try:
        return keras.saving.load_model(path, custom_objects=custom_objects, safe_mode=True)
    except Exception as error:  # Keras raises whatever the zip and h5 libraries do
        raise ValueError(
            f"The model {path} cannot be loaded. If it has layers of your own, pass them as "
            f"custom_objects={{name: class}}. "
            f"{type(error).__name__}: {error}"
        ) from error


def encode(value, name):
    """Returns the argument `name` as JSON; what must be given again on loading as `{"given": description}`."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        return [encode(item, name) for item in value]
    if hasattr(value, "recipe"):
        factory, arguments = value.recipe
        public = _public_name(factory)
        if public:
            encoded = {key: encode(item, key) for key, item in arguments.items()}
            return {"call": public, "arguments": encoded}
    public = _public_name(value)
    return {"name": public} if public else {"given": getattr(value, "__qualname__", type(value).__qualname__)}


def decode(value, name):
    """Returns what `encode` was given.

    Raises:
        ValueError: If it must be given again, or names something that is not public in this package.
    """
    if isinstance(value, list):
        return [decode(item, name) for item in value]
    if not isinstance(value, dict):
        return value
    if "given" in value:
        raise ValueError(
            f"The checkpoint cannot hold `{name}` ({value['given']}). Pass it again: load(path, {name}=...)."
        )
    found = _look_up(value.get("name", value.get("call")))
    if "name" in value:
        return found
    return found(**{key: decode(item, key) for key, item in value["arguments"].items()})


def _public_name(value):
    """Returns `module:name` of a public function or class of this package, else None."""
    module, _, name = getattr(value, "__module__", "").partition("sota_dqn.")[2], None, getattr(value, "__name__", "")
    return f"{module}:{name}" if module in MODULES and name in _names(module) else None


def _look_up(reference):
    """Returns the public function or class of that `module:name`."""
    module, _, name = str(reference).partition(":")
    if module not in MODULES or name not in _names(module):
        raise ValueError(f"The checkpoint names {reference!r}, which is no public name of sota_dqn.")
    return getattr(importlib.import_module(f"sota_dqn.{module}"), name)


def _names(module):
    return importlib.import_module(f"sota_dqn.{module}").__all__


def _previous(path):
    """Returns the directory that `path/config.json` names, or None where there is none.

    Raises:
        ValueError: If the file is not ours: it would be lost.
    """
    file = path / "config.json"
    if not file.exists():
        return None
    try:
        name = json.loads(file.read_text())["checkpoint"]
    except (ValueError, KeyError, TypeError):
        name = ""
    if not re.fullmatch(r"step-\d+(-\d+)?", str(name)):
        raise ValueError(f"{file} is not a checkpoint's and would be overwritten. Choose another directory.")
    return name


def _dtype(values):
    return values.dtype if isinstance(values.dtype, str) else values.dtype.name


def _rows_per_slice(values):
    """Returns how many rows along the first axis make a slice."""
    itemsize = np.dtype(_dtype(values)).itemsize
    return max(1, SLICE // max(1, int(np.prod(values.shape[1:])) * itemsize))


def _write_array(file, values):
    """Writes a variable or an array as `.npy`, a slice at a time where it is large."""
    if not isinstance(values, keras.Variable):
        np.save(file, np.asarray(values), allow_pickle=False)
        return
    if len(values.shape) == 0 or values.shape[0] <= _rows_per_slice(values):
        np.save(file, keras.ops.convert_to_numpy(values.value), allow_pickle=False)
        return
    size, step = values.shape[0], _rows_per_slice(values)
    target = np.lib.format.open_memmap(file, mode="w+", dtype=_dtype(values), shape=tuple(values.shape))
    for begin in range(0, size, step):
        rows = np.arange(begin, min(begin + step, size), dtype="int32")
        target[rows[0] : rows[-1] + 1] = keras.ops.convert_to_numpy(backend.read_rows(values, rows))
    target.flush()
