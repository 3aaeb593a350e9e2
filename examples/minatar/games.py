"""MinAtar's five games as environments that Gymnasium's rules hold for: seeded, limited in time, with pictures to film.

MinAtar's own environments (`minatar.gym`) keep the last action beyond a reset, which a sticky first action repeats, so
that an episode is not determined by its seed; they never end a game that an agent plays well, and render floats.
"""

import importlib.metadata

import gymnasium
import minatar
import numpy as np
import seaborn
from gymnasium.wrappers import TimeLimit

GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
STICKY = 0.1  # probability that the action before is repeated instead; MinAtar's default
MAX_STEPS = 5_000  # a time limit of ours: MinAtar ends Freeway after 2,500 steps, and the other games never
CELL = 20  # pixels


class Game:
    """A game and the protocol by which it is played; calling it makes one environment.

    Args:
        name: One of `GAMES`.
    """

    def __init__(self, name):
        self.name = name
        self.protocol = (
            f"MinAtar {importlib.metadata.version('minatar')}, minimal action set, sticky actions {STICKY}, difficulty "
            f"ramping, at most {MAX_STEPS:,} steps"
        )

    def __call__(self, render_mode=None):
        return TimeLimit(MinAtar(self.name, render_mode=render_mode), MAX_STEPS)


class MinAtar(gymnasium.Env):
    """One game: observations are bool `[10, 10, C]`, actions those that do something in it.

    Args:
        name: One of `GAMES`.
        render_mode: `"rgb_array"`, `"human"` or None.
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 15}

    def __init__(self, name, *, render_mode=None):
        self.render_mode = render_mode
        self.game = minatar.Environment(name, sticky_action_prob=STICKY, difficulty_ramping=True)
        self.actions = self.game.minimal_action_set()
        self.action_space = gymnasium.spaces.Discrete(len(self.actions))
        self.observation_space = gymnasium.spaces.Box(0, 1, tuple(self.game.state_shape()), bool)
        # Black, then one for each channel; MinAtar's own window shows the player in a colour that is hardly seen on it.
        colours = [(0, 0, 0), *seaborn.color_palette("bright", self.game.n_channels)]
        self.colours = (255 * np.array(colours)).astype("uint8")

    def reset(self, *, seed=None, options=None):
        """Begins a game, which `seed` and the actions then determine."""
        super().reset(seed=seed)
        self.game.seed(seed)
        self.game.last_action = 0
        self.game.reset()
        return self._observe(), {}

    def step(self, action):
        """Plays one frame."""
        reward, terminated = self.game.act(self.actions[action])
        return self._observe(), float(reward), terminated, False, {}

    def render(self):
        """Returns the picture, uint8 `[200, 200, 3]`: each cell in the colour of its last channel."""
        state = self.game.state()
        cells = np.max(state * np.arange(1, state.shape[-1] + 1), axis=-1)  # [10, 10], 0 where nothing is
        return self.colours[cells].repeat(CELL, axis=0).repeat(CELL, axis=1)

    def close(self):
        """Closes the window, if there is one."""
        if self.game.visualized:
            self.game.close_display()

    def _observe(self):
        """Returns the observation; in a window, shows it."""
        if self.render_mode == "human":
            self.game.display_state(1000 // self.metadata["render_fps"])
        return self.game.state()
