"""The seeds of episodes, each made from what names its episode: no two share one, whatever order they are played in.

With one exception: to NumPy `[seed]` is `[seed, 0, 0]`, so an evaluation whose seed a user gives begins with the first
episode of the run of that seed.
"""

import numpy as np

__all__ = ["episode_seed", "episode_seeds"]


def episode_seed(seed, stream, episode):
    """Returns an episode's seed, in [0, 2^31), made from the run's seed, the stream and the episode's number."""
    return int(np.random.SeedSequence([seed, stream, episode]).generate_state(1)[0] >> 1)


def episode_seeds(entropy, episodes):
    """Returns a seed for each of so many episodes, made from a list of integers."""
    return [int(state >> 1) for state in np.random.SeedSequence(entropy).generate_state(episodes)]
