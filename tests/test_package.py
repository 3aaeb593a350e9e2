"""What importing the package brings in, and what it offers."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from types import ModuleType

import keras
import pytest

on_jax = pytest.mark.skipif(keras.config.backend() != "jax", reason="is of JAX alone")
on_tensorflow = pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="is of TensorFlow alone")

WITHOUT_JAX = """
import sys

class NoJAX:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jax", "jaxlib"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoJAX())
"""

TRAIN = """
import keras
import sota_dqn

model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)])
trainer = sota_dqn.DQNTrainer("CartPole-v1", model, num_envs=2, learning_starts=64, seed=0)
trainer.train(steps=128)
assert trainer.updates > 0
"""


def python(source: str, *, backend: str) -> subprocess.CompletedProcess:
    """Runs `source` in a new interpreter, with warnings as they are by default."""
    environment = {**os.environ, "KERAS_BACKEND": backend}
    command = [sys.executable, "-c", source]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


SAVE = """
import sys

trainer.save("kept")
model.save("kept.keras")
sota_dqn.remote_actor.pack_model(keras.saving.load_model("kept.keras"))
assert "tensorflow" not in sys.modules
"""

# What of Keras needs TensorFlow on any backend finds it.
LOOK_UP = """
assert keras.ops.convert_to_numpy(keras.layers.StringLookup(vocabulary=["a", "b"])(["b", "c"])).tolist() == [2, 0]
from tensorflow import TensorShape
assert keras.saving.serialize_keras_object(TensorShape([1, None])) == [1, None]
"""


@on_jax
def test_jax_backend_imports_trains_and_saves_without_tensorflow(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = importlib.util.find_spec("tensorflow") is not None
    result = python(TRAIN + SAVE + (LOOK_UP if there else ""), backend="jax")
    assert result.returncode == 0, result.stderr


@on_tensorflow
def test_tensorflow_backend_trains_where_jax_is_absent():
    result = python(WITHOUT_JAX + TRAIN, backend="tensorflow")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("backend", ["numpy", "unheard-of"])
def test_other_backends_are_refused_with_what_to_set(backend):
    result = python("import sota_dqn", backend=backend)
    assert result.returncode == 1
    error = result.stderr.strip().splitlines()[-1]
    assert error.startswith("ImportError: ")
    assert "KERAS_BACKEND" in error
    assert "tensorflow" in error
    assert "jax" in error


def test_public_names_are_exactly_those_exported():
    import sota_dqn

    modules = {name for name in vars(sota_dqn) if sys.modules.get(f"sota_dqn.{name}") is vars(sota_dqn)[name]}
    public = {name for name in vars(sota_dqn) if not name.startswith("_")}
    exported = set(sota_dqn.__all__)
    assert len(exported) == len(sota_dqn.__all__)
    assert public - modules == exported - modules - {"__version__"}
    assert all(isinstance(vars(sota_dqn)[name], ModuleType) for name in exported & modules)


def test_version_is_the_one_installed():
    import sota_dqn

    assert sota_dqn.__version__ == importlib.metadata.version("sota_dqn")
