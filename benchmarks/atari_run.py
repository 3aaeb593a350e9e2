"""Training on Breakout as in the example, in a process of its own. Prints one JSON line.

`benchmarks.atari` starts it; by hand: `python -m benchmarks.atari_run --steps 4000`.
"""

import argparse
import time

import keras

from benchmarks.process import Anonymous, report
from benchmarks.speed import add_launch, build_model, device, device_peak, set_launch
from sota_dqn import Atari, DQNTrainer, Replay, policies, samplers, targets

PACKAGES = ("keras", "gymnasium", "numpy", "ale-py")
WARM_UP = 2_000  # steps before the clock: without updates at first, then those that compile


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, required=True, help="environment steps that are measured")
    parser.add_argument("--envs", type=int, default=16, help="games played side by side")
    parser.add_argument("--replay", type=int, default=100_000, help="rows")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--updates-per-step", type=float, default=0.25)
    parser.add_argument("--precision", default="float32", help="Keras's policy of dtypes")
    add_launch(parser)
    options = parser.parse_args()
    keras.config.set_dtype_policy(options.precision)
    set_launch(options.launch)
    model = build_model("nature")
    model.compile(optimizer=keras.optimizers.Adam(1e-4, global_clipnorm=10.0), loss=keras.losses.Huber())
    with Anonymous() as memory:
        trainer = DQNTrainer(
            Atari("ALE/Breakout-v5", repeat_action_probability=0.0),
            model,
            num_envs=options.envs,
            frame_stack=4,
            replay=Replay(options.replay, sampler=samplers.Prioritized()),
            policy=policies.EpsilonGreedy(0.1),
            target=targets.double,
            n_step=5,
            bounds=None,
            batch_size=options.batch_size,
            updates_per_step=options.updates_per_step,
            target_update=250,
            learning_starts=WARM_UP // 2,
            report_every=WARM_UP // 2,
        )
        trainer.train(WARM_UP, verbose=0)
        begun, steps, updates = time.perf_counter(), trainer.steps, trainer.updates
        trainer.train(options.steps, verbose=0, profile=True)
        seconds = time.perf_counter() - begun
        report(
            {
                "steps_per_second": (trainer.steps - steps) / seconds,
                "updates": trainer.updates,
                "updates_per_second": (trainer.updates - updates) / seconds,
                "device": device(),
                "device_peak": device_peak(),
                "peak": memory.peak(),
                "profile": trainer.profile,
            },
            packages=(*PACKAGES, keras.config.backend()),
        )


if __name__ == "__main__":
    main()
