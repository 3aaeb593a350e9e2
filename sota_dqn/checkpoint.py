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
import types
import warnings
import zipfile

import keras
import numpy as np

from sota_dqn import backend
from sota_dqn.files import check_writable
from sota_dqn.version import __version__

__all__ = ["Checkpoint", "check_directory", "decode", "encode", "load_model", "save"]

FORMAT = 4
MODULES = (
    "actor_pool",
    "atari",
    "layers",
    "losses",
    "mixtures",
    "policies",
    "preprocessing",
    "ray_actors",
    "replay",
    "returns",
    "samplers",
    "schedules",
    "sequences",
    "targets",
)
DIRECTORY = re.compile(r"step-\d{9,}(-1)?")
SLICE = 4 * 2**20  # bytes of a large array in host memory at a time


def check_directory(path):
    """Makes the directory `path`, and raises unless a checkpoint can be written to it.

    Raises:
        OSError: If it cannot be written.
        ValueError: If it holds a `config.json` that is not a checkpoint's: it would be lost.
    """
    path = pathlib.Path(path)
    check_writable(path / "config.json")
    _current(path)


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
    check_directory(path)
    _clean(path)
    name = f"step-{config['steps']:09d}"
    if name == _current(path):
        name += "-1"
    shapes = {array: [list(values.shape), _dtype(values)] for array, values in arrays.items()}
    config = {"format": FORMAT, "sota_dqn": __version__, "checkpoint": name, **config, "arrays": shapes}
    partial, temporary = path / f"{name}.partial", path / "config.json.partial"
    try:
        (partial / "arrays").mkdir(parents=True)
        model.save(partial / "model.keras")
        for array, values in arrays.items():
            _write_array(partial / "arrays" / f"{array}.npy", values)
        _write_json(partial / "state.json", state)
        for written in (*partial.rglob("*"), partial):
            _synchronize(written)
        partial.rename(path / name)
        _write_json(temporary, config, indent=2)
        _synchronize(temporary)
        _synchronize(path)
        os.replace(temporary, path / "config.json")
        _synchronize(path)
    finally:
        _clean(path)


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
                f"format {FORMAT}. It was written by version {self.config.get('sota_dqn')}."
            )
        try:
            if not DIRECTORY.fullmatch(self.config["checkpoint"]):
                raise ValueError("config.json names no directory of a checkpoint")
            self.directory = self.path / self.config["checkpoint"]
            self.model_path = self.directory / "model.keras"
            self.state = json.loads((self.directory / "state.json").read_text())
            for name in self.config["arrays"]:
                self.array(name)
        except (ValueError, OSError, KeyError, TypeError) as error:
            raise ValueError(f"The checkpoint {self.path} is damaged: {error}.") from error

    def array(self, name):
        """Returns an array of the checkpoint; it stays on the disk until it is read."""
        file = self.directory / "arrays" / f"{name}.npy"
        values = np.lib.format.open_memmap(file, mode="r")  # refuses Python objects
        shape, dtype = self.config["arrays"][name]
        if dtype == "bfloat16" and values.dtype == "uint16":
            values = values.view(dtype)
        if list(values.shape) != shape or values.dtype.name != dtype:
            raise ValueError(f"{file.name} holds {values.shape} of {values.dtype}, not {shape} of {dtype}")
        return values

    def check(self, name, variable):
        """Raises ValueError unless the array `name` is there and fits `variable`."""
        if name not in self:
            raise ValueError(f"The checkpoint {self.path} was made with other arguments: it has no {name}.")
        shape = self.config["arrays"][name][0]
        if shape != list(variable.shape):
            raise ValueError(
                f"The checkpoint {self.path} was made with other arguments: {name} has shape {shape}, where "
                f"{list(variable.shape)} is needed."
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

    An optimizer that also trained a learned initial state, which is not in the file, begins anew: what it knew is among
    the arrays of a checkpoint.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or needs `custom_objects`.
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"There is no model at {path}.")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
            return keras.saving.load_model(path, custom_objects=custom_objects, safe_mode=True)
    except Exception as error:  # Keras raises whatever the zip and h5 libraries do
        missing = ", ".join(f"{name!r}: {name}" for name in _missing(path, custom_objects or {}))
        advice = f"Pass what is your own in it: custom_objects={{{missing}}}" if missing else error
        raise ValueError(f"The model {path} cannot be loaded ({type(error).__name__}). {advice}") from error


def _missing(path, custom_objects):
    """Yields the names of the layers, functions and losses in a `.keras` file that are not known here.

    Raises:
        ValueError: If the file is not whole.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            waiting = [json.loads(archive.read("config.json"))]
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ValueError(f"The model {path} is damaged: {error}.") from error
    seen = set(custom_objects)
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict) and "registered_name" in found:
            function = found["class_name"] == "function"
            name = found["config"] if function else found["registered_name"]
            ours = function or not (found["module"] or "").startswith("keras")
            if ours and name and name not in seen and keras.saving.get_registered_object(name) is None:
                seen.add(name)
                yield name.rpartition(">")[2]
        waiting += found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()


def encode(value, name):
    """Returns the argument `name` as JSON; what must be given again on loading as `{"given": description}`."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        return [encode(item, name) for item in value]
    if isinstance(value, dict):  # in pairs, since keys may be numbers
        return {"dict": [[encode(key, name), encode(item, name)] for key, item in value.items()]}
    if hasattr(value, "recipe"):
        factory, arguments = value.recipe
        public = _public_name(factory)
        if public and type(value) in (factory, types.FunctionType):  # not of a subclass, which may do something else
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
            f"The checkpoint cannot hold `{name}` ({value['given']}). Pass it again, as an argument: {name}=..."
        )
    if "dict" in value:
        return {key: decode(item, name) for key, item in value["dict"]}
    found = _look_up(value.get("name", value.get("call")))
    if "name" in value:
        return found
    arguments = {key: decode(item, name) for key, item in value.get("arguments", {}).items()}
    try:
        return found(**arguments)
    except TypeError as error:
        raise ValueError(f"The checkpoint's `{name}` cannot be made: {error}") from error


def _public_name(value):
    """Returns `module:name` of a public function or class of this package, else None."""
    module = (getattr(value, "__module__", None) or "").removeprefix("sota_dqn.")
    name = getattr(value, "__name__", "")
    is_public = module in MODULES and name in _names(module)
    # What wraps one of ours with `functools.wraps` goes by its name.
    return f"{module}:{name}" if is_public and _look_up(f"{module}:{name}") is value else None


def _look_up(reference):
    """Returns the public function or class of that `module:name`."""
    module, _, name = str(reference).partition(":")
    if module not in MODULES or name not in _names(module):
        raise ValueError(f"The checkpoint names {reference!r}, which is no public name of sota_dqn.")
    return getattr(importlib.import_module(f"sota_dqn.{module}"), name)


def _names(module):
    return importlib.import_module(f"sota_dqn.{module}").__all__


def _current(path):
    """Returns the name of the directory that `path/config.json` names, or None where there is none.

    Raises:
        ValueError: If the file is not a checkpoint's.
    """
    file = path / "config.json"
    if not file.exists():
        return None
    try:
        name = json.loads(file.read_text())["checkpoint"]
    except (ValueError, KeyError, TypeError):
        name = None
    if not (isinstance(name, str) and DIRECTORY.fullmatch(name)):
        raise ValueError(f"{file} is not a checkpoint's and would be overwritten. Choose another directory.")
    return name


def _clean(path):
    """Removes what `config.json` does not name: a checkpoint that was replaced, and parts of one that was cut short."""
    current = _current(path)
    for directory in path.glob("step-*"):
        if directory.name != current and DIRECTORY.fullmatch(directory.name.removesuffix(".partial")):
            shutil.rmtree(directory, ignore_errors=True)
    (path / "config.json.partial").unlink(missing_ok=True)


def _dtype(values):
    return values.dtype if isinstance(values.dtype, str) else values.dtype.name


def _rows_per_slice(values):
    """Returns how many rows along the first axis make a slice."""
    itemsize = np.dtype(_dtype(values)).itemsize
    return max(1, SLICE // max(1, int(np.prod(values.shape[1:])) * itemsize))


def _write_array(file, values):
    """Writes a variable or an array as `.npy`, a slice at a time where it is large."""
    dtype = np.dtype("uint16" if _dtype(values) == "bfloat16" else _dtype(values))  # `.npy` does not know bfloat16
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": tuple(values.shape)}
    with open(file, "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for piece in _slices(values):
            stream.write(np.ascontiguousarray(piece).reshape(-1).view("uint8").data)  # without a copy


def _slices(values):
    """Yields a variable or an array as arrays on the host that follow each other along the first axis."""
    stored = isinstance(values, backend.HostRows)  # read like a large variable, after what is still being written
    large = len(values.shape) > 0 and values.shape[0] > _rows_per_slice(values)
    if not stored and not (large and isinstance(values, keras.Variable)):
        yield np.asarray(values if isinstance(values, np.ndarray) else keras.ops.convert_to_numpy(values))
        return
    step = _rows_per_slice(values)
    for begin in range(0, values.shape[0], step):
        rows = np.arange(begin, min(begin + step, values.shape[0]), dtype="int32")
        yield keras.ops.convert_to_numpy(backend.read_rows(values, rows))


def _write_json(file, values, **options):
    """Writes `values`, in which callbacks may have put NumPy's numbers or tensors."""

    def plain(value):
        return keras.ops.convert_to_numpy(value).tolist()

    file.write_text(json.dumps(values, default=plain, **options) + "\n")


def _synchronize(path):
    """Waits until a file, or what a directory lists, is on the disk: a power cut, too, finds the old checkpoint or the
    new one.
    """
    if path.is_dir() and os.name != "posix":
        return  # a directory cannot be opened there
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
