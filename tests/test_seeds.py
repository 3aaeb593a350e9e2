import numpy as np

from sota_dqn.seeds import episode_seed, episode_seeds


def test_every_episode_has_another_seed():
    seeds = {episode_seed(*key) for key in np.ndindex(4, 8, 50)}
    assert len(seeds) == 4 * 8 * 50
    assert all(isinstance(seed, int) and 0 <= seed < 2**31 for seed in seeds)
    assert episode_seed(7, 3, 2) == episode_seed(7, 3, 2)


def test_seeds_of_an_evaluation():
    seeds = episode_seeds([3, 1], 20)
    assert len(set(seeds)) == 20
    assert seeds[:5] == episode_seeds([3, 1], 5)
    assert seeds != episode_seeds([3, 2], 20)
