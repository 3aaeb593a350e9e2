"""What every test gets: no screen, quiet libraries, fixed seeds, and on JAX each program compiled but once."""

import os

# Read when the libraries are imported, so set before.
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Numbers are compared to more digits than the ten bits of a GPU's fast products.
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")

import keras
import numpy as np
import pytest


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory):
    """Keeps what JAX compiles: of the suite's time on JAX, half went into the same programs again and again."""
    if keras.config.backend() == "jax":
        import jax

        jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("programs")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(autouse=True)
def seed():
    """Fixes the seeds of Keras, Python and NumPy, from which weights are initialised."""
    keras.utils.set_random_seed(0)


@pytest.fixture
def random() -> np.random.Generator:
    """A generator that starts anew for every test."""
    return np.random.default_rng(0)
