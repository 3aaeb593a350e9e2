"""One measurement of actor processes, in a process of its own. Prints one JSON line.

`benchmarks.actors` starts it; by hand: `python -m benchmarks.actors_run --env sleeping --actors 2 --seconds 20`.
"""

import argparse
import math
import os
import pathlib
import statistics
import time

import gymnasium
import keras
import numpy as np

from benchmarks.process import rate, report
from sota_dqn import Actors, Atari, DQNTrainer, RayActors, Replay, backend, callbacks, forkserver, targets
from sota_dqn.processes import Processes
from sota_dqn.vectors import make_factory

NUM_ENVS = 8
SLEEP = 0.01  # seconds per step
LEARNING_STARTS = 1_000
WARM_UP = 5.0  # seconds of training that are not counted


class Sleeping(gymnasium.Wrapper):
    """CartPole that takes 10 ms for a step, as a simulator might."""

    def __init__(self, render_mode=None):
        super().__init__(gymnasium.make("CartPole-v1", render_mode=render_mode))

    def step(self, action):
        """Sleeps, and steps."""
        time.sleep(SLEEP)
        return self.env.step(action)


ENVS = {"cartpole": "CartPole-v1", "sleeping": Sleeping, "atari": Atari("ALE/Breakout-v5")}


class Stop(callbacks.Callback):
    """Stops training after so many seconds."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def on_train_begin(self, logs=None):
        self.until = time.perf_counter() + self.seconds

    def on_epoch_end(self, epoch, logs=None):
        if time.perf_counter() > self.until:
            self.model.stop_training = True


def build_model(name):
    """Returns a model of the environment: an MLP, or the network of Mnih et al. 2015."""
    env = make_factory(ENVS[name])() if isinstance(ENVS[name], str) else ENVS[name]()
    outputs = keras.layers.Dense(int(env.action_space.n))
    env.close()
    if name != "atari":
        inputs = keras.Input(env.observation_space.shape)
        return keras.Sequential([inputs, *(keras.layers.Dense(64, "relu") for _ in range(2)), outputs])
    convolutions = [keras.layers.Conv2D(*shape, activation="relu") for shape in ((32, 8, 4), (64, 4, 2), (64, 3, 1))]
    hidden = [keras.layers.Flatten(), keras.layers.Dense(512, "relu"), outputs]
    return keras.Sequential([keras.Input((84, 84, 4)), keras.layers.Rescaling(1 / 255), *convolutions, *hidden])


def make_trainer(name, *, actors, ray):
    """Returns a trainer that nothing holds back but its own speed; without actor processes, with the default ratio."""
    make = RayActors if ray else Actors
    return DQNTrainer(
        ENVS[name],
        build_model(name),
        num_envs=NUM_ENVS,
        actors=make(actors, steps_per_update=(0, math.inf)) if actors else 0,
        frame_stack=4 if name == "atari" else None,
        replay=Replay(50_000),
        target=targets.double,
        n_step=5,
        bounds=None,
        updates_per_call=4 if name == "atari" else 32,
        learning_starts=LEARNING_STARTS,
        report_every=NUM_ENVS,
    )


def learn(trainer, seconds):
    """Returns the updates per second of the learner alone."""
    calls, since, running, before = 0, time.perf_counter(), [], trainer.updates
    with backend.asynchronous():
        while time.perf_counter() - since < seconds:
            following = trainer.learner.learn(trainer.steps)
            backend.wait(running)
            running = following
            calls += 1
    trainer.learner.updates = before  # or they would count towards what training still has to make
    return calls * trainer.updates_per_call / (time.perf_counter() - since)


def train(trainer, seconds):
    """Returns the environment steps and the updates per second of training."""
    before, since = (trainer.steps, trainer.updates), time.perf_counter()
    trainer.train(steps=10**9, callbacks=[Stop(seconds)], verbose=0)
    elapsed = time.perf_counter() - since
    return (trainer.steps - before[0]) / elapsed, (trainer.updates - before[1]) / elapsed


def measure_rates(name, *, actors, ray, seconds, windows):
    """Returns the medians of alternating windows: training, then the learner alone."""
    trainer = make_trainer(name, actors=actors, ray=ray)
    trainer.train(steps=2 * LEARNING_STARTS, verbose=0)
    train(trainer, WARM_UP)
    warm = len(trainer.history["steps"])
    found = [(*train(trainer, seconds), learn(trainer, seconds)) for _ in range(windows)]
    history = trainer.history
    trainer.close()
    names = ("steps_per_second", "updates_per_second", "updates_per_second_alone")
    medians = {key: statistics.median(column) for key, column in zip(names, zip(*found, strict=True), strict=True)}
    lags = [lag for lag in history.get("lag", [])[warm:] if not math.isnan(lag)]
    return {**medians, "lag": statistics.median(lags) if lags else None}


def measure_costs(name, *, ray, seconds):
    """Returns what the way between actor and learner costs.

    A chunk of one step is asked for and waited for, the actor's own work included, and the same with weights offered
    before it. Of processes on this machine, the copies of a step's row into and out of shared memory too.
    """
    trainer = make_trainer(name, actors=1, ray=ray)
    trainer.train(steps=LEARNING_STARTS, verbose=0)
    transport = trainer.actor._transport
    weights = [keras.ops.convert_to_numpy(variable) for variable in trainer.model.variables]

    def collect():
        transport.collect(0, 1, 0)
        while not transport.poll(1.0):
            pass

    def publish():
        transport.publish(weights, trainer.updates)
        collect()

    while transport.poll(0.5):
        pass
    alone, with_weights = rate(collect, seconds=seconds), rate(publish, seconds=seconds)
    row = np.prod(trainer.actor.preprocess.shape) * np.dtype(trainer.actor.preprocess.dtype).itemsize
    copied = _copying(transport, seconds=seconds) if isinstance(transport, Processes) else None
    trainer.close()
    return {
        "chunk_milliseconds": 1e3 * alone,
        "weights_milliseconds": 1e3 * (with_weights - alone),
        "weights_bytes": sum(values.nbytes for values in weights),
        "row_bytes": int(row),
        "copy_microseconds_per_step": copied,
    }


def measure_start(name, *, actors, forked):
    """Returns the seconds until the first and until every actor has delivered rows, from the call that starts them, and
    what one of them has taken of a processor and has of memory for itself, the mean."""
    forkserver.AVAILABLE = forked and forkserver.AVAILABLE
    trainer = make_trainer(name, actors=actors, ray=False)
    since = time.perf_counter()
    trainer.train(steps=NUM_ENVS, verbose=0)
    first = time.perf_counter() - since
    while min(trainer.actor._delivered) == 0:
        trainer.train(steps=NUM_ENVS, verbose=0)
    every = time.perf_counter() - since
    used = [_used(process) for process in trainer.actor.processes]
    trainer.close()
    seconds, held = (statistics.mean(column) for column in zip(*used, strict=True))
    return {"seconds_to_first": first, "seconds_to_all": every, "cpu_seconds": seconds, "private_bytes": held}


def _used(process):
    """Returns the processor's seconds of a process and the bytes that it shares with no other."""
    times = pathlib.Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[11:13]
    lines = pathlib.Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    held = sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:")))
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK"), 1024 * held


def _copying(transport, *, seconds):
    """Returns the microseconds per step of writing a chunk's rows to shared memory and of reading them."""
    slot = transport._actors[0].slots[0]
    rows = [array.copy() for array in slot]

    def copy():
        for place, array in zip(slot, rows, strict=True):
            place[...] = array
        for place in slot:
            place.copy()

    return 1e6 * rate(copy, seconds=seconds) / len(rows[0])


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--what", choices=["rates", "costs", "start"], default="rates")
    parser.add_argument("--env", choices=ENVS, required=True)
    parser.add_argument("--actors", type=int, default=1)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--forked", action=argparse.BooleanOptionalAction, default=True, help="of start")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a window")
    parser.add_argument("--windows", type=int, default=3)
    options = parser.parse_args()
    if options.what == "costs":
        found = measure_costs(options.env, ray=options.ray, seconds=options.seconds)
    elif options.what == "start":
        found = measure_start(options.env, actors=options.actors, forked=options.forked)
    else:
        settings = {"actors": options.actors, "ray": options.ray, "seconds": options.seconds}
        found = measure_rates(options.env, windows=options.windows, **settings)
    packages = ("sota_dqn", "keras", "numpy", "gymnasium", keras.config.backend(), *(["ray"] if options.ray else []))
    report(found, packages=packages)


if __name__ == "__main__":
    main()
