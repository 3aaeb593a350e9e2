"""Environments whose values are known, each of which can only be learned if one part of the algorithm is right.

The observation is one number or a state's number. What is learned is named in each first line.
"""

import gymnasium
import numpy as np
from gymnasium import spaces


class Probe(gymnasium.Env):
    """An environment told by two functions of its state, a number: `start()` and `move(action)`."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), "float32")
    num_actions = 2

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.action_space = spaces.Discrete(self.num_actions)
        self.state = 0.0
        self.length = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.length = 0
        self.state = self.start()
        return self.observe(), {}

    def step(self, action):
        self.length += 1
        reward, terminated, truncated = self.move(action)
        return self.observe(), reward, terminated, truncated, {}

    def observe(self):
        return np.float32([self.state])

    def start(self):
        return 0.0

    def move(self, action):
        raise NotImplementedError


class Constant(Probe):
    """The value of a step that ends it all: its reward, 1."""

    def move(self, action):
        return 1.0, True, False


class ByObservation(Probe):
    """The value depends on the observation, -1 or 1, which is the reward."""

    def start(self):
        return float(self.np_random.choice([-1.0, 1.0]))

    def move(self, action):
        return self.state, True, False


class Delayed(Probe):
    """A reward of 1 two steps ahead: the value of 0 is that of 1, discounted."""

    def move(self, action):
        self.state += 1.0
        return float(self.state == 2.0), self.state == 2.0, False

    def observe(self):
        return np.float32([min(self.state, 1.0)])


class ActionDecides(Probe):
    """The reward is 1 for action 1 and -1 for action 0."""

    def move(self, action):
        return 2.0 * float(action) - 1.0, True, False


class ActionByObservation(ByObservation):
    """The reward is 1 for action 1 where the observation is 1 and for action 0 where it is -1, else -1."""

    def move(self, action):
        return self.state * (2.0 * float(action) - 1.0), True, False


class TimeLimit(Probe):
    """A reward of 1 for ever, in episodes cut off after 4 steps: the value is 1 / (1 - discount) all the same."""

    reward = 1.0

    def move(self, action):
        return self.reward, False, self.length == 4


class NegativeTimeLimit(TimeLimit):
    """A reward of -1 for ever: what was paid before the cut is more than the value, and no bound on it."""

    reward = -1.0


class Chain(Probe):
    """Six states in a row, from any of which an episode starts. Action 1 goes right, action 0 left.

    Beyond the right end lies a reward of 1, beyond the left end one of 0.2, and both terminate. Every other step costs
    0.05. Episodes are cut off after 10 steps.
    """

    length_of_chain = 6
    observation_space = spaces.Discrete(length_of_chain)

    def start(self):
        return int(self.np_random.integers(self.length_of_chain))

    def move(self, action):
        state, reward, terminated = self.outcome(self.state, int(action))
        self.state = state
        return reward, terminated, self.length == 10

    def observe(self):
        return self.state

    @classmethod
    def outcome(cls, state, action):
        """Returns the next state, the reward, and whether the episode ends there."""
        following = state + 2 * action - 1
        if following == cls.length_of_chain:
            return state, 1.0, True
        if following < 0:
            return state, 0.2, True
        return following, -0.05, False

    @classmethod
    def values(cls, discount):
        """Returns the optimal values `[S, A]` by value iteration."""
        values = np.zeros((cls.length_of_chain, 2))
        for _ in range(200):
            values = np.array(
                [
                    [
                        reward + (0.0 if terminated else discount * max(values[following]))
                        for following, reward, terminated in (cls.outcome(state, action) for action in (0, 1))
                    ]
                    for state in range(cls.length_of_chain)
                ]
            )
        return values
