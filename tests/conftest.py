"""What every test gets: no screen, quiet libraries, fixed seeds."""

import os

# Read when the libraries are imported, so set before.
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def seed():
    """Fixes the seeds of Keras, Python and NumPy, from which weights are initialised."""
    keras.utils.set_random_seed(0)


@pytest.fixture
def random() -> np.random.Generator:
    """A generator that starts anew for every test."""
    return np.random.default_rng(0)
