"""Environments that cost nothing: pictures of noise, for measuring updates on a full replay."""

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

NUM_ACTIONS = 4
EPISODE = 1_000  # steps
PICTURES = spaces.Box(0, 255, (84, 84), np.uint8)
ACTIONS = spaces.Discrete(NUM_ACTIONS)


class Noise(VectorEnv):
    """Grey-scale pictures `[84, 84]`, each a piece of one long strip of noise, in episodes of 1,000 steps.

    Args:
        num_envs: E.
    """

    def __init__(self, num_envs=16):
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_observation_space = PICTURES
        self.single_action_space = ACTIONS
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        self._strip = np.random.default_rng(0).integers(0, 256, (4 * num_envs + 1_000, 84, 84), "uint8")
        self._time = 0

    def reset(self, *, seed=None, options=None):
        """Begins an episode in every stream."""
        self._time = 0
        return self._pictures(), {}

    def step(self, actions):
        """Steps every stream; action 0 is worth 1."""
        self._time += 1
        terminated = np.full(self.num_envs, self._time % EPISODE == 0)
        reward = (np.asarray(actions) == 0).astype("float64")
        return self._pictures(), reward, terminated, np.zeros(self.num_envs, bool), {}

    def _pictures(self):
        first = self._time * 7 % (len(self._strip) - self.num_envs)
        return self._strip[first : first + self.num_envs]


class Unplayed(gymnasium.Env):
    """One environment with the spaces of `Noise`: a trainer needs one to evaluate in, and nobody evaluates here."""

    observation_space = PICTURES
    action_space = ACTIONS
