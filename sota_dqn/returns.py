"""Returns over a window of rows, and the bounds on an action's value that follow from them.

Every function takes a window of stored rows (`Steps`, `[B, T, ...]`) or numbers made from one, and gives one number
or one row of numbers per window. To add one, write a function of such a window; `partial_returns` shows how a
window's rows are told apart: a row counts if it is valid and every row before it is valid and did not terminate.
"""

import numpy as np
from keras import ops

from sota_dqn.checks import check_bool, check_count, check_number
from sota_dqn.types import recorded

__all__ = [
    "Bounds",
    "Rescaling",
    "bootstrapped",
    "longest",
    "lower_bound",
    "n_step",
    "partial_returns",
    "scheduled",
    "unchanged",
    "upper_bound",
]


def partial_returns(window, discount):
    """Returns the discounted return of every horizon `h = 0 ... T`, cut where the episode ends.

    `G_h = sum_{i<m} gamma^i r_{t+i}`, where `m = min(h, steps to the end of the episode)`. The episode ends after a
    row that terminated, whatever follows it (a lost life ends a return while the game goes on), and before a row that
    is not valid, the final observation of an episode that did not terminate: there the return bootstraps.

    Args:
        window: `Steps` with fields `[B, T + 1, ...]` from the drawn row on. The last row is only bootstrapped from.
        discount: gamma, in [0, 1].

    Returns:
        The returns `[B, T + 1]`; what the value of the state after them is multiplied with, gamma^m or 0 after a
        termination `[B, T + 1]`; and the steps that they count, `m`, `[B, T + 1]` int32. That state is the
        observation at row `t + m`.
    """
    num_steps = window.reward.shape[1] - 1
    before = np.arange(num_steps)[:, None] < np.arange(num_steps + 1)  # [T, T + 1], row i is among the first h
    powers = ops.power(ops.cast(discount, "float32"), ops.arange(num_steps, dtype="float32"))

    valid = ops.cast(window.valid[:, :-1], "float32")  # [B, T]
    goes_on = 1.0 - ops.cast(window.terminated[:, :-1], "float32")
    counted = valid * _product(before[:, :-1], valid * goes_on)  # [B, T]

    returns = _sum(before, counted * powers * window.reward[:, :-1])  # [B, T + 1]
    discounts = _product(before, 1.0 - counted + counted * goes_on * discount)
    lengths = ops.cast(_sum(before, counted), "int32")
    return returns, discounts, lengths


def n_step(window, n, discount, *, longest=None):
    """Returns the n-step return, its discount and its length, column `n` of `partial_returns`.

    The target is `y = G + d * value(s_{t+m})`, after Sutton and Barto; no correction for off-policy actions.

    Args:
        window: `Steps` with fields `[B, T + 1, ...]`, `T` at least `n`.
        n: Steps of reward, at least 1.
        discount: gamma, in [0, 1].
        longest: The largest n that there may be, where `n` is a tensor `[]` int32.

    Returns:
        `G` `[B]`, `d` `[B]` (gamma^m, or 0 after a termination) and `m` `[B]` int32, at most `n`.
    """
    end = (n if longest is None else longest) + 1
    rows = window._replace(**{field: getattr(window, field)[:, :end] for field in ("reward", "terminated", "valid")})
    columns = partial_returns(rows, discount)
    return tuple(x[:, n] if longest is None else ops.take(x, n, axis=1) for x in columns)


def bootstrapped(returns, discounts, values):
    """Returns `G + d * value`, and `G` where `d` is 0, whatever the value: it is -inf where no action is legal."""
    return returns + ops.where(ops.greater(discounts, 0.0), discounts * values, 0.0)


def longest(n_step):
    """Returns the most steps of reward of `n_step`, an integer or a schedule, whose first number is its largest."""
    return round(float(n_step(0))) if callable(n_step) else int(n_step)


def scheduled(n_step, step):
    """Returns `n` and `longest` as the function `n_step` takes them, at environment step `step` (`[]`)."""
    if not callable(n_step):
        return {"n": int(n_step)}
    most = longest(n_step)
    return {"n": ops.cast(ops.clip(ops.round(n_step(step)), 1, most), "int32"), "longest": most}


@recorded
class Bounds:
    """Which bounds on the value of a stored action are computed (after He, Liu, Schwing and Peng, 2017).

    Args:
        horizons: K. The lower bounds come from the returns of 2 to K + 1 steps, the upper bounds from the states 2 to
            K + 1 steps before. At least 1; the default is that of a third-party code of the paper.
        upper: Whether upper bounds are computed too.
        return_to_go: Whether the full return of an episode that terminated is a lower bound too.
    """

    def __init__(self, horizons=4, *, upper=False, return_to_go=False):
        check_count(1, horizons=horizons)
        check_bool(upper=upper, return_to_go=return_to_go)
        self.horizons = int(horizons)
        self.upper = bool(upper)
        self.return_to_go = bool(return_to_go)


def lower_bound(returns, discounts, values, return_to_go=None):
    """Returns the tightest lower bound `L_max = max_k (G_k + d_k max_a Q-(s_k, a))`.

    After He, Liu, Schwing and Peng, 2017, "Learning to play in a day". With
    `L_k = sum_{i=0}^{k} gamma^i r_{t+i} + gamma^(k+1) max_a Q-(s_{t+k+1}, a)` for k = 1 ... K, a bound holds the
    return of k + 1 steps: columns 2 ... K + 1 of `partial_returns`. Past a termination it is the plain return; at a
    time limit it bootstraps from the final observation, as a return that is cut off there bounds nothing where rewards
    can be negative. An episode that ends sooner gives the bound of the steps that it has.

    Args:
        returns: `[B, K]`, `G_k`.
        discounts: `[B, K]`, `d_k`.
        values: `[B, K]`, the target model's value of the states after those returns.
        return_to_go: `[B]`, the return until the episode's end, -inf where it has not terminated; None for no such
            bound.

    Returns:
        `[B]`.
    """
    bound = ops.max(bootstrapped(returns, discounts, values), axis=-1)
    return bound if return_to_go is None else ops.maximum(bound, return_to_go)


def upper_bound(past, connected, values, discount):
    """Returns the tightest upper bound `U_min`, from the actions taken before.

    After He, Liu, Schwing and Peng, 2017: the least, over k = 1 ... K, of
    `U_k = gamma^-(k+1) [Q-(s_{t-k-1}, a_{t-k-1}) - sum_{i=0}^{k} gamma^i r_{t-k-1+i}]`.

    Args:
        past: `Steps` with fields `[B, P, ...]`, the `P = K + 1` rows before the drawn one, oldest first.
        connected: `[B, P]`, 1 where that row belongs to the drawn row's episode.
        values: `[B, K]`, the target model's value of the action taken at `past` rows 0 ... K - 1, which are the rows
            t - K - 1 ... t - 2.
        discount: gamma, in (0, 1].

    Returns:
        `[B]`, +inf where no row that is connected lies far enough back. A row that terminated cuts the connection too.
    """
    num_past = past.reward.shape[1]
    # Row j lies between row p and the drawn one.
    after = np.arange(num_past)[:, None] >= np.arange(num_past - 1)  # [P, K]
    # U = gamma^-(P-p) Q- - sum_{j>=p} gamma^-(P-j) r_j: each row has one factor, whatever the horizon.
    factors = ops.power(ops.cast(discount, "float32"), ops.arange(-num_past, 0, dtype="float32"))  # [P]
    bounds = factors[:-1] * values - _sum(after, factors * past.reward)  # [B, K]
    goes_on = _product(after, 1.0 - ops.cast(past.terminated, "float32"))
    return ops.min(ops.where(connected[:, :-1] * goes_on > 0, bounds, float("inf")), axis=-1)


@recorded
class Rescaling:
    """Squashes values, so that returns of any size can be learned without clipping rewards.

    `h(x) = sign(x) (sqrt(|x| + 1) - 1) + epsilon x`, after Pohlen et al. 2018. The model then predicts `h` of the
    values: a target is `h(G + d h^-1(value))`. What `squash` makes of infinity is infinite.

    Args:
        epsilon: Of the linear part, which keeps the inverse from growing too fast; above 0. R2D2 took 1e-3.
    """

    def __init__(self, epsilon=1e-3):
        check_number(above=0, epsilon=epsilon)
        self.epsilon = epsilon

    def squash(self, x):
        """Returns `h(x)`."""
        return ops.sign(x) * (ops.sqrt(ops.abs(x) + 1.0) - 1.0) + self.epsilon * x

    def unsquash(self, x):
        """Returns `h^-1(x)`."""
        # As a quotient, the root keeps the digits that its textbook form loses in float32 to a difference.
        distance = ops.abs(x) + 1.0 + self.epsilon
        root = 2.0 * distance / (ops.sqrt(1.0 + 4.0 * self.epsilon * distance) + 1.0)
        return ops.sign(x) * (ops.square(root) - 1.0)


def unchanged(values):
    """Returns what it is given, where values are not rescaled."""
    return values


# Products and sums over masked rows, rather than a cumulative operation per field or a matrix product: XLA fuses
# them, and a GPU's matrix product would round the rewards.


def _sum(mask, x):
    """Returns `sum_i x_i` over the rows i where `mask[i, h]`: `[T, H], [B, T] -> [B, H]`."""
    return ops.sum(ops.where(mask, x[:, :, None], 0.0), axis=1)


def _product(mask, x):
    """Returns `prod_i x_i` over the rows i where `mask[i, h]`: `[T, H], [B, T] -> [B, H]`."""
    return ops.prod(ops.where(mask, x[:, :, None], 1.0), axis=1)
