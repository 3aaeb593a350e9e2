"""A T-maze, after Bakker 2002: which arm is right is told at the start alone, and has to be kept in mind to the end."""

import gymnasium
import numpy as np

__all__ = ["DOWN", "FORWARD", "UP", "TMaze"]

FORWARD, UP, DOWN = range(3)
WAITING = 10  # steps at the junction before the episode is cut off, an agent that acts at random needs 1.5
LEAST_WIDTH = 15  # cells of the picture, which has room for a caption above it then
CELL = 20  # pixels
WALL, FLOOR, START, JUNCTION = (40, 40, 40), (225, 225, 225), (190, 205, 225), (225, 210, 180)
RIGHT, WRONG, AGENT = (60, 160, 90), (200, 80, 70), (60, 90, 200)


class TMaze(gymnasium.Env):
    """A corridor that ends between two arms.

    Observations are float32 `[4]`: the cue for the upper arm, that for the lower one, whether the agent is in the
    corridor, whether it is at the junction. The cue is in the first observation of an episode alone. Actions: 0 goes
    forward, 1 up, 2 down. In the corridor there is one way, and every action goes it: with these rewards an agent
    without memory gains nothing by walking, and would learn to stay. At the junction forward does nothing. Entering the
    right arm gives +1, the wrong one -1, and ends the episode; all else gives 0.

    Args:
        corridor: Cells before the junction, at least 1: so many steps the cue has to be remembered.
        max_steps: Environment steps after which an episode is cut off; None for `corridor + 10`.
        render_mode: `"rgb_array"` or None.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}

    def __init__(self, corridor=10, *, max_steps=None, render_mode=None):
        _check_count("corridor", corridor, least=1)
        if max_steps is not None:
            _check_count("max_steps", max_steps, least=corridor + 1)
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(
                f'Argument `render_mode` must be "rgb_array" or None. Received: render_mode={render_mode!r}'
            )
        self.corridor = corridor
        self.max_steps = corridor + WAITING if max_steps is None else max_steps
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (4,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(3)
        self.right = UP  # the arm that is right
        self.place = 0  # cells from the start; the junction is at `corridor`
        self.arm = None  # the arm that was entered
        self.taken = 0  # steps

    def reset(self, *, seed=None, options=None):
        """Begins an episode; `seed` determines the right arm."""
        super().reset(seed=seed)
        self.right = (UP, DOWN)[self.np_random.integers(2)]
        self.place, self.arm, self.taken = 0, None, 0
        return self._observe(), {}

    def step(self, action):
        """Takes one step."""
        if not self.action_space.contains(action):
            raise ValueError(f"Argument `action` must be 0, 1 or 2. Received: action={action!r}")
        if self.arm is not None:
            raise RuntimeError("The episode is over: call `reset` first.")
        self.taken += 1
        if self.place < self.corridor:
            self.place += 1
        elif action != FORWARD:
            self.arm = int(action)
        reward = 0.0 if self.arm is None else 1.0 if self.arm == self.right else -1.0
        truncated = self.arm is None and self.taken >= self.max_steps
        return self._observe(), reward, self.arm is not None, truncated, {}

    def render(self):
        """Returns the picture, uint8 `[H, W, 3]`: the right arm green, the wrong one red, the cue green at the start.

        The agent sees no arm's colour: those are for people.
        """
        if self.render_mode is None:
            return None
        left = max(1, (LEAST_WIDTH - self.corridor - 1) // 2)
        cells = np.full((5, max(LEAST_WIDTH, self.corridor + 3), 3), WALL, "uint8")
        junction = left + self.corridor
        cells[2, left:junction] = FLOOR
        cells[2, left] = START
        cells[2, junction] = JUNCTION
        rows = {UP: 1, DOWN: 3}
        for arm, row in rows.items():
            cells[row, junction] = RIGHT if arm == self.right else WRONG
        if self.taken == 0:
            cells[rows[self.right], left] = RIGHT
        picture = cells.repeat(CELL, axis=0).repeat(CELL, axis=1)
        row, column = rows.get(self.arm, 2), left + self.place
        inside = slice(CELL // 4, CELL - CELL // 4)
        picture[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL][inside, inside] = AGENT
        return picture

    def _observe(self):
        """Returns the observation."""
        told = self.taken == 0
        seen = (told and self.right == UP, told and self.right == DOWN, self.place < self.corridor)
        return np.array([*seen, not seen[2]], np.float32)


def _check_count(name, value, *, least):
    """Raises ValueError where `value` is no integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"Argument `{name}` must be an integer of at least {least}. Received: {name}={value!r}")
