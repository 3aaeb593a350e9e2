"""Environments that fail, and what worker processes import. It imports nothing that is slow."""

import os
import signal
import sys

import gymnasium
import numpy as np
from gymnasium import spaces


class Frail(gymnasium.Env):
    """A random walk in episodes of 6 steps, deterministic under its seed, until something happens.

    Args:
        step: At which step since it was made `what` happens; None for never.
        what: An exception to raise, `"nan"` for a reward that is not a number, `"interrupt"` for Ctrl-C, or `"kill"`.
    """

    observation_space = spaces.Box(-99, 99, (2,), "float32")
    action_space = spaces.Discrete(2)

    def __init__(self, step=None, what=None, render_mode=None):
        self.step_that_fails = step
        self.what = what
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.time = self.np_random.normal(), 0
        return self._observation(), {}

    def step(self, action):
        self.steps += 1
        failing = self.steps == self.step_that_fails
        if failing and isinstance(self.what, Exception):
            raise self.what
        if failing and self.what == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
        if failing and self.what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        self.position += self.np_random.normal() + action
        self.time += 1
        reward = float("nan") if failing and self.what == "nan" else float(self.position)
        return self._observation(), reward, self.time == 6, False, {}

    def _observation(self):
        return np.array([self.position, self.time], "float32")


class Imports(Frail):
    """Its first observation says whether Keras has been imported in its process."""

    def _observation(self):
        return np.array([float("keras" in sys.modules), self.time], "float32")
