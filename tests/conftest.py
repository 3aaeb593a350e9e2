"""What every test gets: no screen, quiet libraries, fixed seeds, and each program compiled but once."""

import gc
import importlib.metadata
import os
import shutil
import signal
import tempfile

import numpy as np
import pytest


def is_at_most(package, major, minor):
    """Returns whether a package's version is so old, or it is not installed."""
    try:
        return tuple(map(int, importlib.metadata.version(package).split(".")[:2])) <= (major, minor)
    except importlib.metadata.PackageNotFoundError:
        return True


# A shell has what it starts in the background ignore Ctrl-C, and so do all that this starts: here it is heard.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

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
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    f"--xla_cpu_parallel_codegen_split_count=1 {os.environ.get('XLA_FLAGS', '')}"
)
# A flag that is not known ends the process: this one was in these versions, and is not in JAX 0.12.
if all(is_at_most(package, *last) for package, last in {"jaxlib": (0, 10), "tensorflow": (2, 21)}.items()):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
# What is computed is small: more threads, beside those of other tests' processes, mostly wait for each other.
for threads in ("NPROC", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(threads, "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Numbers are compared to more digits than the ten bits of a GPU's fast products.
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")


def pytest_collection_finish():
    """Leaves what has been imported, some 400,000 objects, out of every search for garbage that follows."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    """Removes what was compiled, at the end."""
    shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(autouse=True)
def seed():
    """Fixes the seeds of Python, from which Keras initializes weights, and of NumPy."""
    from runs import fix_seeds  # not above: pytest's own process, which runs no tests, reads this file too

    fix_seeds()


@pytest.fixture(autouse=True, scope="session")
def nothing_is_left_behind(request):
    """Checks that no test writes a rescued run beside the code."""
    before = sorted(request.config.rootpath.glob("sota_dqn-rescue-*"))
    yield
    assert sorted(request.config.rootpath.glob("sota_dqn-rescue-*")) == before


@pytest.fixture
def random() -> np.random.Generator:
    """A generator that starts anew for every test."""
    return np.random.default_rng(0)
