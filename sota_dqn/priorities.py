"""First priorities, computed where a step is made: the TD errors of rows under the weights that acted."""

import numpy as np

__all__ = ["FirstErrors"]


class FirstErrors:
    """The TD errors of the rows of several streams, as far as the values that the actor saw tell them.

    The bootstrap is the largest value; after Horgan et al. 2018, section 4. Once the last row of a window is there, the
    error of the window's first row is returned: of a sequence `eta max |error| + (1 - eta) mean |error|` over its
    trained steps.

    Args:
        num_envs: E.
        after: Rows of a window after its first.
        n_step: Steps of reward before the bootstrap.
        discount: gamma, per environment step.
        burn_in: Steps before the trained ones.
        length: Trained steps.
        eta: In [0, 1].
        rescaling: A `returns.Rescaling`, or None.
    """

    def __init__(self, num_envs, *, after, n_step, discount, burn_in=0, length=1, eta=1.0, rescaling=None):
        self.n_step = n_step
        self.discount = discount
        self.trained = slice(burn_in, burn_in + length)
        self.eta = eta
        self.rescaling = rescaling

        def rows(count, fill=0.0):
            return np.full((num_envs, count), fill, "float32")  # the last is the newest

        self._reward, self._terminated, self._valid = (rows(n_step + 1) for _ in range(3))
        self._taken, self._best = rows(n_step + 1, np.nan), rows(n_step + 1, np.nan)
        self._error = rows(after - n_step + 1, np.nan)  # of a window's rows that have theirs

    def add(self, streams, reward, terminated, valid, *, taken=np.nan, best=np.nan):
        """Takes note of one more row in each of `streams`.

        Args:
            streams: `[S]`, each once.
            reward: `[S]`, or a number for all; so are the others.
            terminated: Whether the value of what follows is zero.
            valid: Whether the row has an action of its own.
            taken: The value of the action taken, NaN where the model was not asked.
            best: The value of the best action, likewise.

        Returns:
            `[S]` float32, the errors of the rows `after` before these, NaN where they are not known.
        """
        fields = (self._reward, reward), (self._terminated, terminated), (self._valid, valid)
        for field, values in (*fields, (self._taken, taken), (self._best, best)):
            _push(field, streams, values)
        _push(self._error, streams, self._newest(streams))
        errors = self._error[streams, self.trained]
        counted = ~np.isnan(errors)
        number = counted.sum(axis=-1)
        known = np.where(counted, errors, 0.0)
        mixed = self.eta * known.max(axis=-1) + (1.0 - self.eta) * known.sum(axis=-1) / np.maximum(number, 1)
        return np.where(number > 0, mixed, np.nan).astype("float32")

    def _newest(self, streams):
        """Returns the absolute errors of the rows `n_step` before the newest, `[S]`."""
        gained, discount = np.zeros(len(streams)), np.ones(len(streams))
        value = self._unsquash(self._best[streams, -1])
        running = np.ones(len(streams), bool)
        for k in range(self.n_step):
            final = running & (self._valid[streams, k] == 0)
            value = np.where(final, self._unsquash(self._best[streams, k]), value)
            running = running & ~final
            gained = gained + running * discount * self._reward[streams, k]
            discount = np.where(running, discount * self.discount, discount)
            ended = running & (self._terminated[streams, k] > 0)
            value = np.where(ended, 0.0, value)
            running = running & ~ended
        target = self._squash(gained + discount * value)
        error = np.abs(target - self._taken[streams, 0])
        return np.where(self._valid[streams, 0] > 0, error, np.nan)

    def _squash(self, values):
        return values if self.rescaling is None else np.asarray(self.rescaling.squash(values.astype("float32")))

    def _unsquash(self, values):
        return values if self.rescaling is None else np.asarray(self.rescaling.unsquash(values))


def _push(field, streams, values):
    """Appends `values` to the rows of `streams`, which forget their oldest."""
    field[streams, :-1] = field[streams, 1:]
    field[streams, -1] = values
