"""`backend.single_threaded`: programs run in the thread that calls them, if it is said in time."""

import subprocess
import sys

MEASURE = """
import time
import keras
from sota_dqn import backend

backend.single_threaded()
model = keras.Sequential([keras.Input((64, 64, 4)), keras.layers.Conv2D(256, 8, strides=2)])
program = backend.Program([*model.variables], [], backend.plan(convolutions=False))
forward = program.compile(lambda inputs: model(inputs))
inputs = keras.ops.convert_to_numpy(keras.ops.ones((1, 64, 64, 4)))
keras.ops.convert_to_numpy(forward(inputs))
of_all, of_this = time.process_time(), time.thread_time()
for _ in range(20):
    keras.ops.convert_to_numpy(forward(inputs))
print((time.thread_time() - of_this) / (time.process_time() - of_all))
backend.single_threaded()  # once more changes nothing
"""
TOO_LATE = """
import keras
from sota_dqn import backend

keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
backend.single_threaded()
"""


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_programs_run_in_the_thread_that_calls_them():
    finished = run(MEASURE)
    assert finished.returncode == 0, finished.stderr
    assert float(finished.stdout) > 0.9


def test_too_late_is_an_error():
    finished = run(TOO_LATE)
    assert finished.returncode != 0
    assert finished.stderr.splitlines()[-1].startswith("RuntimeError: It is too late for single_threaded()")
