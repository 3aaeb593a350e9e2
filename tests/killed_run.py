"""A run with checkpoints that kills itself at a given moment; started again, it goes on from the last checkpoint.

The moment is what the environment variable MOMENT of its process, forked by a `ForkServer`, says:

episode:12      when episode 12 has ended
os.rename:3     before the third renaming of a file or directory below its directory
"""

import os
import pathlib
import signal

import faults
import runs

from sota_dqn import DQNTrainer, callbacks

STEPS = 960


def make_trainer():
    return runs.make(report_every=40)


def checkpoints(path):
    return callbacks.Checkpoint(path, save_every=120)


class Kill(callbacks.Callback):
    """Kills the process when the episode of that number has ended."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def on_episode_end(self, episode, logs=None):
        if episode == self.number:
            os.kill(os.getpid(), signal.SIGKILL)


def run():
    """Goes on with the run in the current directory."""
    path = pathlib.Path.cwd()
    event, _, number = os.environ["MOMENT"].partition(":")
    trainer = DQNTrainer.load(path) if (path / "config.json").exists() else make_trainer()
    kill = [Kill(int(number))] if event == "episode" else []
    with faults.killed(path, int(number), event):
        trainer.train(STEPS - trainer.steps, callbacks=[checkpoints(path), *kill], verbose=0)
