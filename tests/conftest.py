"""What every test gets: no screen, quiet libraries, fixed seeds, and each program compiled but once."""

import os
import shutil
import tempfile

# Read when the libraries are imported, so set before. What is compiled is kept for the run, for processes that tests
# start too: half of the suite's time went into the same programs again and again.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="programs")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
os.environ["TF_XLA_FLAGS"] = (
    f"--tf_xla_persistent_cache_directory={os.environ['JAX_COMPILATION_CACHE_DIR']} "
    f"--tf_xla_persistent_cache_device_types=CPU {os.environ.get('TF_XLA_FLAGS', '')}"
)
# And it is compiled in a hurry, in a third of the time: the tests ask for numbers, not for speed.
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false "
    f"--xla_cpu_parallel_codegen_split_count=1 {os.environ.get('XLA_FLAGS', '')}"
)
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Numbers are compared to more digits than the ten bits of a GPU's fast products.
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")

import numpy as np
import pytest
from runs import fix_seeds


def pytest_unconfigure():
    """Removes what was compiled, at the end."""
    shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(autouse=True)
def seed():
    """Fixes the seeds of Keras, Python and NumPy, from which weights are initialised."""
    fix_seeds()


@pytest.fixture
def random() -> np.random.Generator:
    """A generator that starts anew for every test."""
    return np.random.default_rng(0)
