"""How environment steps and updates keep pace with each other."""

import math

__all__ = ["Pace"]


class Pace:
    """Bounds on the environment steps per update, counted from where learning started.

    Args:
        least: Environment steps per update below which no update is due; 0 for always.
        most: Above which no step is allowed; infinity for always.
        updates_per_call: Updates that are made together.
        origin: Totals of steps and updates from which both count.
    """

    def __init__(self, least, most, *, updates_per_call, origin):
        self.least = least
        self.most = most
        self.updates_per_call = updates_per_call
        self.origin = origin

    def due(self, steps, updates):
        """Returns how many updates, a multiple of `updates_per_call`, are due at these totals of steps and updates."""
        steps, made = steps - self.origin[0], updates - self.origin[1]
        if steps < 0 or (self.least == 0 and steps == 0):
            return 0
        if self.least == 0:
            return self.updates_per_call
        worth = math.floor(round(steps / self.least, 6))  # 100 steps at 0.29 are 29 updates, not 28.99...
        return max(0, worth - made) // self.updates_per_call * self.updates_per_call

    def allowed(self, updates):
        """Returns the total of steps that is allowed at a total of updates; it always suffices for the next ones."""
        made = updates - self.origin[1]
        return self.origin[0] + max(made and self.most * made, self.least * (made + self.updates_per_call), 1)
