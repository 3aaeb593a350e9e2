"""Targets: functions `NextState -> [B]`, the value of the state in which an n-step return bootstraps.

The learner regresses to `y = G + d * target(next_state)`, where `G` is the n-step return and `d` is gamma^m, or 0
after a termination. To add a target, write a function of a `NextState`; if it has settings, a function that returns
one, decorated with `recorded` so that a checkpoint can name it. A trainer without a target model passes the model's
own values as `target_values`, so every target works without one.

A model says by a value of -inf that an action is not legal. Targets and policies take such an action for none at all.
"""

from keras import ops

from sota_dqn.checks import check_number, check_probability
from sota_dqn.types import recorded

__all__ = ["double", "expected_sarsa", "is_legal", "maximum", "mellowmax", "value_of"]


def value_of(values, action):
    """Returns the value of the action taken, `values[..., action]`, whatever those of the others: they may be infinite.

    Args:
        values: `[..., A]`.
        action: `[...]` int32.

    Returns:
        `[...]` float32.
    """
    taken = ops.equal(ops.expand_dims(action, -1), ops.arange(values.shape[-1]))
    return ops.sum(ops.where(taken, values, 0.0), axis=-1)


def is_legal(values):
    """Returns which actions a model offers, `[..., A]` bool: it gives -inf to those that are not legal."""
    return ops.not_equal(values, -float("inf"))


def maximum(next_state):
    """Returns `max_a Q-(s', a)`, the target of DQN (after Mnih et al., 2015)."""
    return ops.max(next_state.target_values, axis=-1)


def double(next_state):
    """Returns `Q-(s', argmax_a Q(s', a))`: the model chooses, the target model judges.

    Double DQN, after van Hasselt, Guez and Silver, 2016. Without a target model it equals `maximum`.
    """
    return value_of(next_state.target_values, ops.argmax(next_state.values, axis=-1))


@recorded
def mellowmax(omega):
    """Returns the target `mm(x) = log(mean_a exp(omega x_a)) / omega` with `x = Q-(s', .)`, over the legal actions.

    DeepMellow, after Kim, Asadi, Littman and Konidaris, 2019, who use it without a target model. It grows with
    `omega`, from the mean of the values near 0 to their maximum.

    Args:
        omega: Above 0, in one over the unit of the values. The authors took 1, 2 or 5 for classic control and 30 for
            Seaquest.
    """
    check_number(above=0, omega=omega)

    def target(next_state):
        values = next_state.target_values
        best = ops.max(values, axis=-1, keepdims=True)
        # mean(exp(x)) - 1 and log(1 + x) as one function each: a small omega keeps its digits, a large one does not
        # overflow.
        excess = _mean_of_legal(ops.expm1(omega * (values - best)), is_legal(values))
        return best[..., 0] + ops.log1p(excess) / omega

    return target


@recorded
def expected_sarsa(epsilon):
    """Returns the target `sum_a pi(a | s') Q-(s', a)`, `pi` epsilon-greedy in the model's values.

    `(1 - epsilon) Q-(s', argmax_a Q(s', a)) + epsilon mean_a Q-(s', a)`, after van Seijen, van Hasselt, Whiteson and
    Wiering, 2009. The greedy action is the model's, as it is for the policy that acts, and the target model judges
    all of them, so that `expected_sarsa(0)` is `double`. The mean leaves out actions of value -inf, by which a model
    says that they are not legal.

    Where `epsilon` is larger than that of the policy that acts, a state is worth what a clumsier policy gets there, and
    what is learned keeps away from where one wrong action costs much: the default of `DQNTrainer`, with 0.25.

    Args:
        epsilon: A number in [0, 1], or a schedule that is asked at `next_state.step`.
    """
    if not callable(epsilon):
        check_probability(epsilon=epsilon)

    def target(next_state):
        probability = epsilon(next_state.step) if callable(epsilon) else epsilon
        values = next_state.target_values
        mean = _mean_of_legal(values, is_legal(values))
        return (1.0 - probability) * double(next_state) + probability * mean

    return target


def _mean_of_legal(numbers, legal):
    """Returns the mean of the numbers (`[..., A]`) of legal actions, `[...]`; 0 where no action is."""
    number = ops.sum(ops.cast(legal, "float32"), axis=-1)
    return ops.sum(ops.where(legal, numbers, 0.0), axis=-1) / ops.maximum(number, 1.0)
