"""What a GPU makes of the network of Mnih et al. 2015 and a replay of pictures, in a process of its own. Prints one
JSON line.

`benchmarks.gpu` starts it; by hand: `KERAS_BACKEND=jax python -m benchmarks.gpu_run updates --batch-sizes 32 256`.
"""

import argparse
import tempfile
import time

import keras

from benchmarks.noise import Noise, Unplayed
from benchmarks.process import rate, report
from benchmarks.speed import add_launch, build_model, device, device_peak, learn, matrix_gflops, set_launch
from sota_dqn import DQNTrainer, Replay, backend, policies, samplers, targets

PACKAGES = ("keras", "gymnasium", "numpy")
NUM_ENVS = 128
BETWEEN_LOOKS = 0.25  # seconds between two looks at the clock, about
LARGE_MATRIX = 8192


def make_trainer(*, capacity, batch_size, updates_per_call, place=None):
    """Returns a trainer on pictures of noise in stacks of four: prioritized, double, 5-step."""
    return DQNTrainer(
        Noise(NUM_ENVS),
        build_model("nature"),
        eval_env=Unplayed,
        frame_stack=4,
        replay=Replay(capacity, sampler=samplers.Prioritized(), device=place),
        policy=policies.EpsilonGreedy(1.0),
        target=targets.double,
        n_step=5,
        bounds=None,
        batch_size=batch_size,
        updates_per_call=updates_per_call,
        learning_starts=2 * capacity,  # no update while the replay is filled
    )


def measure_updates(*, capacity, batch_size, updates_per_call, seconds, place=None):
    """Returns the updates per second on a full replay, and the seconds of the first call, which compiles."""
    trainer = make_trainer(capacity=capacity, batch_size=batch_size, updates_per_call=updates_per_call, place=place)
    trainer.train(capacity, verbose=0)
    begun = time.perf_counter()
    learn(trainer, 1)
    compiling = time.perf_counter() - begun
    begun = time.perf_counter()
    learn(trainer, 1)
    calls = max(1, round(BETWEEN_LOOKS / (time.perf_counter() - begun)))
    updates = calls * updates_per_call / rate(lambda: learn(trainer, calls), seconds=seconds)
    return {"batch_size": batch_size, "updates_per_second": updates, "compiling": round(compiling, 1)}


def measure_memory(*, capacity, place, updates):
    """Returns the peak of the device's memory in bytes after each phase of a run with a replay of `capacity` rows."""
    trainer = make_trainer(capacity=capacity, batch_size=32, updates_per_call=8, place=place)
    peaks = {"building": device_peak()}
    trainer.train(capacity, verbose=0)
    peaks["filling"] = device_peak()
    for _ in range(-(-updates // 8)):
        backend.wait(trainer.learner.learn(trainer.steps))
    peaks["training"] = device_peak()
    with tempfile.TemporaryDirectory() as directory:
        begun = time.perf_counter()
        trainer.save(directory)
        return {"peaks": {**peaks, "saving": device_peak()}, "seconds_to_save": time.perf_counter() - begun}


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["updates", "memory"])
    parser.add_argument("--capacity", type=int, default=100_000, help="rows, all of them filled")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32])
    parser.add_argument("--updates-per-call", type=int, default=16)
    parser.add_argument("--precision", default="float32", help="Keras's policy of dtypes")
    add_launch(parser)
    parser.add_argument("--place", choices=["cpu"], help="keep the pictures in host memory")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long to measure")
    options = parser.parse_args()
    keras.config.set_dtype_policy(options.precision)
    set_launch(options.launch)
    if options.what == "memory":
        result = measure_memory(capacity=options.capacity, place=options.place, updates=64)
    else:
        rates = [
            measure_updates(
                capacity=options.capacity,
                batch_size=batch_size,
                updates_per_call=options.updates_per_call,
                seconds=options.seconds,
                place=options.place,
            )
            for batch_size in options.batch_sizes
        ]
        dtype = "bfloat16" if "bfloat16" in options.precision else "float32"
        result = {"rates": rates, "matrix_gflops": matrix_gflops(seconds=0.5, size=LARGE_MATRIX, dtype=dtype)}
    report({**result, "device": device()}, packages=(*PACKAGES, keras.config.backend()))


if __name__ == "__main__":
    main()
