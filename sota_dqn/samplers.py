"""Which rows of the replay are drawn: uniform, or proportional to priorities kept in a wide sum tree on the device.

A sampler is a class with the five methods of `Uniform`. To add one, write it here; the replay needs nothing else.
"""

import keras
from keras import ops

from sota_dqn import backend
from sota_dqn.checks import check_number, check_probability
from sota_dqn.schedules import as_schedule, linear
from sota_dqn.types import recorded

__all__ = ["Prioritized", "SumTree", "Uniform"]

LARGEST_ERROR = 1e28  # that makes a priority of its own: 2^31 of them sum to less than float32 can hold


class SumTree:
    """Non-negative numbers on the device, drawn in proportion to their size.

    Each level is a matrix whose rows sum to the entries of the level above. Drawing gathers one row a level; writing
    sums the touched rows anew, so nothing drifts. A wide tree has few levels: at 2^20 leaves seven of width 8 or less,
    where a binary tree has twenty. On a CPU width 8 is twice as fast as 32, which sums up more than it saves.

    Args:
        size: Number of leaves, all zero at first.
        bits: Two to this power is the width of a row; the root's is as narrow as it can be.
    """

    def __init__(self, size, *, bits=3):
        self.size = size
        self.bits: list[int] = []  # of each level's width, leaves first
        self.levels: list[keras.Variable] = []
        nodes = size
        while not self.levels or nodes > 1:
            width_bits = min(bits, max(1, (nodes - 1).bit_length()))
            nodes = -(-nodes >> width_bits)
            self.bits.append(width_bits)
            self.levels.append(
                keras.Variable(
                    "zeros",
                    shape=(nodes, 2**width_bits),
                    dtype="float32",
                    trainable=False,
                    autocast=False,
                    name=f"sum_tree_{len(self.levels)}",
                )
            )

    def write(self, leaves, values):
        """Sets `leaves` (`[M]` int32) to `values` (`[M]`). Of a leaf named twice, both values must be the same."""
        for bits, level in zip(self.bits, self.levels, strict=True):
            node = ops.right_shift(leaves, bits)
            backend.write_rows(level, ops.stack([node, ops.bitwise_and(leaves, 2**bits - 1)], axis=-1), values)
            if level is not self.levels[-1]:
                leaves, values = node, ops.sum(backend.read_rows(level, node), axis=-1)

    def read(self, leaves):
        """Returns the values of `leaves` (`[M]` int32): `[M]`."""
        row = backend.read_rows(self.levels[0], ops.right_shift(leaves, self.bits[0]))
        width = row.shape[-1]
        return ops.sum(row * ops.one_hot(ops.bitwise_and(leaves, width - 1), width), axis=-1)

    def total(self):
        """Returns the sum of all leaves: `[]`."""
        return ops.sum(self.levels[-1].value)

    def find(self, fractions):
        """Returns the leaf at each of `fractions` of the total, counted through the leaves in order.

        Args:
            fractions: `[B]`, each in [0, 1).

        Returns:
            The leaves, `[B]` int32, and their values, `[B]`. A leaf of zero is never among them while any is above
            zero.
        """
        node = ops.zeros_like(fractions, dtype="int32")
        for bits, level in zip(reversed(self.bits), reversed(self.levels), strict=True):
            row = backend.read_rows(level, node)  # [B, W]
            places = ops.arange(2**bits, dtype="int32")
            cumulative = _prefix_sums(row)
            # Sums of the same numbers differ by their rounding: stay below the last by more than that.
            point = ops.minimum(fractions, 1.0 - 4e-6) * cumulative[:, -1]
            reached = ops.logical_and(cumulative > point[:, None], row > 0)
            child = ops.min(ops.where(reached, places, 2**bits - 1), axis=-1)
            chosen = places == child[:, None]
            value = ops.sum(ops.where(chosen, row, 0.0), axis=-1)
            below = ops.sum(ops.where(chosen, cumulative, 0.0), axis=-1) - value
            fractions = ops.clip((point - below) / ops.maximum(value, 1e-30), 0.0, 1.0)
            node = ops.left_shift(node, bits) + child
        return node, value


def _prefix_sums(x):
    """Returns the cumulative sums along the last axis, by doubling: fewer and simpler kernels than a general one."""
    distance = 1
    while distance < x.shape[-1]:
        x = x + ops.pad(x[:, :-distance], [[0, 0], [distance, 0]])
        distance *= 2
    return x


@recorded
class Uniform:
    """Every row that may be drawn is equally likely.

    The leaves of a sum tree are 1 for rows that may be drawn and 0 for the others, so no draw is ever rejected.
    """

    def build(self, num_rows):
        """Creates the variables for `num_rows` rows."""
        self.tree = SumTree(num_rows)
        self.variables = list(self.tree.levels)

    def retire(self, rows):
        """Makes sure that `rows` (`[M]`) are not drawn."""
        self.tree.write(rows, ops.zeros(ops.shape(rows), "float32"))

    def admit(self, rows, valid, td_error=None):
        """Lets `rows` (`[M]`) be drawn from now on where `valid` (`[M]` float32) is 1."""
        self.tree.write(rows, valid)

    def sample(self, uniform, step):
        """Draws one row from each of B equal parts of the whole.

        Args:
            uniform: `[B]` random numbers in [0, 1).
            step: `[]`, environment steps so far, for schedules.

        Returns:
            Rows `[B]` int32 and importance weights `[B]`.
        """
        rows, _ = self.tree.find(stratify(uniform))
        return rows, ops.ones_like(uniform)

    def update(self, rows, td_error):
        """Takes note of the TD errors (`[B]`) of drawn `rows` (`[B]`)."""


@recorded
class Prioritized:
    """Proportional prioritized replay: P(i) = p_i^alpha / sum_k p_k^alpha with p_i = |td_error_i| + epsilon.

    Importance weights are (1 / (N P(i)))^beta over the largest of the batch. New rows get the highest priority seen so
    far. After Schaul et al. 2016, sections 3.3-3.4 and Algorithm 1.

    Args:
        alpha: How much priorities count; 0 is uniform, 1 fully proportional.
        beta: How far the weights correct the bias, in [0, 1]: a number or a schedule in environment steps.
        epsilon: What keeps a row without error from never being drawn again.
    """

    def __init__(self, alpha=0.6, beta=None, *, epsilon=1e-6):
        check_probability(alpha=alpha)
        check_number(above=0, epsilon=epsilon)
        self.alpha = alpha
        self.beta = as_schedule(linear(0.4, 1.0, steps=100_000) if beta is None else beta, "beta")
        if not (beta is None or callable(beta)):
            check_probability(beta=beta)
        self.epsilon = epsilon

    def build(self, num_rows):
        """Creates the variables for `num_rows` rows."""
        self.tree = SumTree(num_rows)
        self.highest = keras.Variable(
            "ones", shape=(), dtype="float32", trainable=False, autocast=False, name="highest_priority"
        )
        self.variables = [*self.tree.levels, self.highest]

    def retire(self, rows):
        """Makes sure that `rows` (`[M]`) are not drawn."""
        self.tree.write(rows, ops.zeros(ops.shape(rows), "float32"))

    def admit(self, rows, valid, td_error=None):
        """Lets `rows` (`[M]`) be drawn from now on where `valid` (`[M]` float32) is 1.

        Args:
            rows: `[M]` int32.
            valid: `[M]` float32.
            td_error: `[M]`, of which the priorities are made, the highest seen so far where it is not finite; None for
                that everywhere.
        """
        priority = self.highest.value
        if td_error is not None:
            priority = self._priority(td_error)
            self.highest.assign(ops.maximum(self.highest.value, ops.max(valid * priority)))
        self.tree.write(rows, valid * priority)

    def sample(self, uniform, step):
        """Draws one row from each of B parts of equal probability.

        Args:
            uniform: `[B]` random numbers in [0, 1).
            step: `[]`, environment steps so far, for the schedule of beta.

        Returns:
            Rows `[B]` int32 and importance weights `[B]`, the largest of them 1.
        """
        rows, priority = self.tree.find(stratify(uniform))
        # N and the total are the same for the whole batch: dividing by the largest weight removes them.
        weights = ops.power(ops.min(priority) / ops.maximum(priority, 1e-30), self.beta(step))
        return rows, weights

    def update(self, rows, td_error):
        """Sets the priorities of drawn `rows` (`[B]`) from their TD errors (`[B]`), as `admit` does."""
        priority = self._priority(td_error)
        self.tree.write(rows, priority)
        self.highest.assign(ops.maximum(self.highest.value, ops.max(priority)))

    def _priority(self, td_error):
        """Returns finite priorities, whose sum is finite too: the tree outlives a model that diverges."""
        known = ops.isfinite(td_error)
        size = ops.where(known, ops.minimum(ops.abs(td_error), LARGEST_ERROR), 0.0)
        return ops.where(known, ops.power(size + self.epsilon, self.alpha), self.highest.value)


def stratify(uniform):
    """Returns one fraction in each of B equal parts of [0, 1) from B random numbers in [0, 1): `[B]`."""
    size = uniform.shape[0]
    return (ops.arange(size, dtype="float32") + uniform) / size
