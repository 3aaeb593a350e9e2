"""Counting environments: every row says which episode and which step it is of, and what follows from that is known.

An episode is known by its identity, a number drawn from the seed. Its length, its end and every reward are functions
of that number, so that whatever a replay says can be checked without looking at the replay.
"""

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

NUM_ACTIONS = 3
LONGEST = 7  # steps of an episode, where nothing else is said
OBSERVATIONS = spaces.Box(0, 2**20, (2,), "float32")  # identity and step, exact in float32


def length_of(identity, longest=LONGEST):
    """The steps of an episode, from 1 on."""
    return 1 + identity % longest


def terminates(identity):
    """Whether an episode ends by itself; else at a time limit."""
    return identity // 16 % 2 == 0


def reward_of(identity, step, action):
    """The reward of `action`, as the environment receives it, in the observation of this step: some are negative."""
    return float((identity + 5 * step + 3 * action) % 11 - 5)


def draw_identity(random):
    return int(random.integers(2**20))


class Counting(gymnasium.Env):
    """One counting environment.

    Args:
        longest: The most steps of an episode.
        start: The number of the first action.
    """

    action_space = spaces.Discrete(NUM_ACTIONS)
    observation_space = OBSERVATIONS

    def __init__(self, longest=LONGEST, start=0, render_mode=None):
        self.longest = longest
        self.action_space = spaces.Discrete(NUM_ACTIONS, start=start)
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.identity, self.time = draw_identity(self.np_random), 0
        return self._observation(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        reward = reward_of(self.identity, self.time, int(action))
        self.time += 1
        ended = self.time == length_of(self.identity, self.longest)
        terminated = ended and terminates(self.identity)
        return self._observation(), reward, terminated, ended and not terminated, {}

    def _observation(self):
        return np.array([self.identity, self.time], "float32")


class CountingVector(VectorEnv):
    """The same as a vector environment, from scratch: it returns its own arrays, which the next call overwrites.

    Args:
        num_envs: Streams.
        mode: An `AutoresetMode`.
    """

    def __init__(self, num_envs, mode):
        self.num_envs = num_envs
        self.mode = mode
        self.metadata = {"autoreset_mode": mode}
        self.single_observation_space, self.single_action_space = OBSERVATIONS, spaces.Discrete(NUM_ACTIONS)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.randoms = [np.random.default_rng(0) for _ in range(num_envs)]
        self.observations = np.zeros((num_envs, 2), "float32")
        self.rewards = np.zeros(num_envs)
        self.terminations, self.truncations = np.zeros(num_envs, bool), np.zeros(num_envs, bool)

    def reset(self, *, seed=None, options=None):
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed or [None] * self.num_envs
        for stream in np.flatnonzero(mask):
            if seeds[stream] is not None:
                self.randoms[stream] = np.random.default_rng(seeds[stream])
            self._begin(stream)
        self.terminations[mask] = self.truncations[mask] = False
        return self.observations, {}

    def step(self, actions):
        ended = self.terminations | self.truncations
        if self.mode == AutoresetMode.DISABLED and ended.any():
            raise RuntimeError("Stepped after the end.")
        final = np.full(self.num_envs, None, dtype=object)
        for stream in range(self.num_envs):
            if ended[stream] and self.mode == AutoresetMode.NEXT_STEP:
                self._begin(stream)
                self.rewards[stream] = 0.0
                self.terminations[stream] = self.truncations[stream] = False
                continue
            identity, time = self.observations[stream].astype(int)
            self.rewards[stream] = reward_of(identity, time, int(actions[stream]))
            self.observations[stream, 1] += 1
            last = time + 1 == length_of(identity)
            self.terminations[stream] = last and terminates(identity)
            self.truncations[stream] = last and not terminates(identity)
            if last and self.mode == AutoresetMode.SAME_STEP:
                final[stream] = self.observations[stream].copy()
                self._begin(stream)
        info = {"final_obs": final} if self.mode == AutoresetMode.SAME_STEP else {}
        return self.observations, self.rewards, self.terminations, self.truncations, info

    def _begin(self, stream):
        self.observations[stream] = draw_identity(self.randoms[stream]), 0
