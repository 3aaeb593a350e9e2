"""How fast sota_dqn updates, in a process of its own. Prints one JSON line.

`benchmarks.updates` starts it; by hand: `python -m benchmarks.speed update --updates-per-call 32 --capacity 100000`.
"""

import argparse
import os
import statistics

import keras
import numpy as np

from benchmarks.noise import NUM_ACTIONS, Noise, Unplayed
from benchmarks.process import rate, report
from sota_dqn import DQNTrainer, Replay, Sequences, backend, policies, samplers, targets

PACKAGES = ("keras", "gymnasium", "numpy")
BATCH_SIZE = {"mlp": 64, "nature": 32, "lstm": 32}
UPDATES_MEASURED = {"mlp": 512, "nature": 16, "lstm": 64}  # between two looks at the clock
LEAVES = 2**20
PAIRS = 64  # of sampling and updating, in one compiled call
CAPACITIES = 10_000, 1_000_000  # that are compared
TURN = 0.5  # seconds of each of them before the other
# What becomes part of a CUDA graph: all that may, loops among it, which XLA leaves out by itself.
CUDA_GRAPHS = "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,WHILE,CONDITIONAL,DYNAMIC_SLICE_FUSION"
COMPILERS = "xla", "graph", "ynnpack"
MATRIX = 2048  # rows and columns of the matrices whose product is what this processor can do


def device():
    """Returns what the backend computes on, such as "cpu" or "NVIDIA H100 80GB HBM3"."""
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        devices = tf.config.list_physical_devices("GPU")
        return tf.config.experimental.get_device_details(devices[0])["device_name"] if devices else "cpu"
    import jax

    return jax.local_devices()[0].device_kind


def device_peak():
    """Returns the most bytes of an accelerator's memory in use so far, None on a CPU or where TensorFlow computes."""
    if keras.config.backend() == "tensorflow":
        return None
    import jax

    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def add_launch(parser):
    """Adds the option that tells how a loop of updates is launched on a GPU."""
    parser.add_argument(
        "--launch",
        choices=["host", "graph", "unrolled"],
        default="host",
        help="kernels of a loop of updates from the host, as in the library, in one CUDA graph, or unrolled (JAX)",
    )


def set_launch(launch):
    """Has loops of updates launched as `launch` says; call it before anything is computed."""
    if launch == "graph":
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_enable_command_buffer={CUDA_GRAPHS}"
    if launch == "unrolled":
        change_plan(fused=False)


def change_plan(**changes):
    """Has programs compiled as `backend.plan` says, but for these fields of a `Plan`."""
    plan = backend.plan
    backend.plan = lambda **settings: plan(**settings)._replace(**changes)


def set_compiler(compiler, *, fused):
    """Has programs compiled by `"xla"`, as a `"graph"` (TensorFlow), or by `"ynnpack"`: XLA with its own choice of what
    that library of kernels computes (JAX). With or without a loop of updates."""
    change_plan(xla=compiler != "graph", fused=fused)
    if compiler == "ynnpack":
        from sota_dqn.backend import jax as jax_backend

        jax_backend.KERNELS = {}


def build_model(net):
    """Returns the network `"mlp"`, two layers of 64, `"lstm"`, where the second is an LSTM, or `"nature"`, that of Mnih
    et al. 2015."""
    if net == "mlp":
        layers = [keras.Input((4,))] + [keras.layers.Dense(64, activation="relu") for _ in range(2)]
        return keras.Sequential([*layers, keras.layers.Dense(2)])
    if net == "lstm":
        layers = [keras.layers.Dense(64, activation="relu"), keras.layers.LSTM(64, return_sequences=True)]
        return keras.Sequential([keras.Input((None, 4)), *layers, keras.layers.Dense(2)])
    return keras.Sequential(
        [
            keras.Input((84, 84, 4), dtype="uint8"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(32, 8, strides=4, activation="relu"),
            keras.layers.Conv2D(64, 4, strides=2, activation="relu"),
            keras.layers.Conv2D(64, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(512, activation="relu"),
            keras.layers.Dense(NUM_ACTIONS),
        ]
    )


def filled_trainer(*, capacity, updates_per_call, net="mlp", defaults=False):
    """Returns a trainer whose replay is full: prioritized, five steps without bounds, the rest as by default; or all by
    default.

    It is full of CartPole played at random, or of pictures of noise in stacks of four. The LSTM is trained on sequences
    of 40 steps after a burn-in of 20.
    """
    more = {
        "mlp": {},
        "nature": {"eval_env": Unplayed, "frame_stack": 4},
        "lstm": {"sequences": Sequences(40, burn_in=20)},
    }[net]
    algorithm = {"replay": Replay(capacity, sampler=samplers.Prioritized())}
    algorithm |= {"target": targets.double, "n_step": 5, "bounds": None}
    if defaults:
        algorithm = {"replay": Replay(capacity)}
    trainer = DQNTrainer(
        Noise() if net == "nature" else "CartPole-v1",
        build_model(net),
        policy=policies.EpsilonGreedy(1.0),
        updates_per_call=updates_per_call,
        learning_starts=2 * capacity,  # no update while the replay is filled
        batch_size=BATCH_SIZE[net],
        **algorithm,
        **more,
    )
    trainer.train(steps=capacity, verbose=0)
    return trainer


def learn(trainer, calls):
    """Makes `calls` compiled calls of `trainer.updates_per_call` updates, and waits for the last."""
    with backend.asynchronous():  # as while training
        for _ in range(calls):
            metrics = trainer.learner.learn(trainer.steps)
        backend.wait(metrics)


def updates_per_second(*, capacity, updates_per_call, seconds, net, defaults=False):
    """Returns how many full updates are made in a second, from the host's random numbers to the new priorities."""
    trainer = filled_trainer(capacity=capacity, updates_per_call=updates_per_call, net=net, defaults=defaults)
    calls = max(1, UPDATES_MEASURED[net] // updates_per_call)
    return calls * updates_per_call / rate(lambda: learn(trainer, calls), seconds=seconds)


def capacities(*, small, large, updates_per_call, seconds):
    """Returns the updates per second at two capacities and their ratio, the larger over the smaller.

    Both are measured in this process, in turns, and the ratio is the median of those of neighbouring turns.
    """
    trainers = [filled_trainer(capacity=capacity, updates_per_call=updates_per_call) for capacity in (small, large)]
    calls = max(1, UPDATES_MEASURED["mlp"] // updates_per_call)
    turns = [
        [
            calls * updates_per_call / rate(lambda trainer=trainer: learn(trainer, calls), seconds=TURN)
            for trainer in trainers
        ]
        for _ in range(max(3, round(seconds / TURN)))
    ]
    rates = [statistics.median(column) for column in zip(*turns, strict=True)]
    return {"updates_per_second": rates, "ratio": statistics.median([after / before for before, after in turns])}


def matrix_gflops(*, seconds, size=MATRIX, dtype="float32"):
    """Returns the rate of a product of two square matrices of `size` rows, in 10^9 operations a second."""
    matrix = np.random.default_rng(0).random((size, size), dtype="float32")
    program = backend.Program([], [], backend.Plan(xla=False, fused=True, threads=True))
    product = program.compile(keras.ops.matmul)
    matrix = keras.ops.cast(keras.ops.convert_to_tensor(matrix), dtype)
    return 2 * size**3 / rate(lambda: backend.wait(product(matrix, matrix)), seconds=seconds) / 1e9


def sum_tree_microseconds(*, seconds):
    """Returns the microseconds of drawing 64 of 2^20 leaves and writing 64, in a fused loop of 64 such pairs."""
    random = np.random.default_rng(0)
    tree = samplers.SumTree(LEAVES)
    program = backend.Program([], tree.levels, backend.Plan(xla=True, fused=True, threads=False))
    program.compile(tree.write)(np.arange(LEAVES, dtype="int32"), random.random(LEAVES, dtype="float32"))

    def pair(uniform):
        leaves, values = tree.find(samplers.stratify(uniform))
        tree.write(leaves, 1.0 - values)
        return {"drawn": keras.ops.sum(values)}

    pairs = program.compile(lambda uniform: program.repeat(pair, (uniform,), ("drawn",)))
    uniform = random.random((PAIRS, BATCH_SIZE["mlp"]), dtype="float32")
    return rate(lambda: backend.wait(pairs(uniform)), seconds=seconds) / PAIRS * 1e6


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["update", "defaults", "capacities", "sum_tree"])
    parser.add_argument("--net", choices=BATCH_SIZE, default="mlp")
    parser.add_argument("--capacity", type=int, default=100_000, help="rows, all of them filled")
    parser.add_argument("--large", type=int, default=CAPACITIES[1], help="the larger of two that are compared")
    parser.add_argument("--updates-per-call", type=int, default=32)
    parser.add_argument("--precision", default="float32", help="Keras's policy of dtypes")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to measure")
    parser.add_argument("--compiler", choices=COMPILERS, help="with --fused: not the way that is taken here")
    parser.add_argument("--fused", action=argparse.BooleanOptionalAction, help="updates in a loop, or unrolled")
    options = parser.parse_args()
    if (options.compiler is None) != (options.fused is None):
        parser.error("--compiler needs --fused or --no-fused, and they need --compiler.")
    if options.compiler is not None:
        set_compiler(options.compiler, fused=options.fused)
    keras.config.set_dtype_policy(options.precision)
    if options.what in ("update", "defaults"):
        result = {
            "updates_per_second": updates_per_second(
                capacity=options.capacity,
                updates_per_call=options.updates_per_call,
                seconds=options.seconds,
                net=options.net,
                defaults=options.what == "defaults",
            )
        }
        if options.net == "nature":
            result["matrix_gflops"] = matrix_gflops(seconds=1.0)
    elif options.what == "capacities":
        sizes = {"small": min(CAPACITIES[0], options.large), "large": options.large}
        result = capacities(**sizes, updates_per_call=options.updates_per_call, seconds=options.seconds)
    else:
        result = {"microseconds": sum_tree_microseconds(seconds=options.seconds)}
    report(result, packages=(*PACKAGES, keras.config.backend()))


if __name__ == "__main__":
    main()
