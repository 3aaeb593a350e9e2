"""CartPole-v1 without its velocities, which have to be told from what was observed before."""

import gymnasium
import numpy as np

__all__ = ["Positions", "make"]


class Positions(gymnasium.ObservationWrapper):
    """Shows the cart's position and the pole's angle alone, float32 `[2]`."""

    def __init__(self, env):
        super().__init__(env)
        space = env.observation_space
        self.observation_space = gymnasium.spaces.Box(space.low[::2], space.high[::2], dtype=np.float32)

    def observation(self, observation):
        """Returns every second entry: the others are the velocities."""
        return observation[::2]


def make(render_mode=None):
    """Returns one environment."""
    return Positions(gymnasium.make("CartPole-v1", render_mode=render_mode))
