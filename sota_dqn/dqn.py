"""Deep Q-learning: `DQNTrainer`, and `DQNLearner`, whose `update` is the algorithm."""

from keras import ops

from sota_dqn.learner import Learner
from sota_dqn.returns import lower_bound, n_step, partial_returns, upper_bound
from sota_dqn.targets import value_of
from sota_dqn.types import NextState

__all__ = ["DQNLearner"]


class DQNLearner(Learner):
    """Deep Q-learning with a target function, n-step returns, prioritized replay and bounds.

    Args:
        target: A function `NextState -> [B]`.
        loss: A function `(target [B], q [B]) -> [B]`.
        n_step: Steps of reward before the bootstrap.
        discount: gamma, per environment step.
        bounds: A `Bounds`, or None.
        penalty: A function `(q, y, lower, upper) -> [B]` that combines the loss with the bounds; used with `bounds` alone.
        **settings: Those of `Learner`.
    """

    def __init__(self, model, optimizer, replay, *, target, loss, n_step, discount, bounds, penalty, **settings):
        self.target = target
        self.loss = loss
        self.n_step = n_step
        self.discount = discount
        self.bounds = bounds
        self.penalty = penalty
        super().__init__(model, optimizer, replay, **settings)

    def update(self, uniform, step, number):
        """Makes one update: sample, target, loss, gradient, priorities, target model."""
        past = self.bounds.horizons + 1 if self.bounds and self.bounds.upper else 0
        sample = self.replay.sample(uniform, step, past=past)
        returns, discounts, lengths = n_step(sample.window, self.n_step, self.discount)  # [B] each
        next_observation = self.replay.observe(sample.rows, lengths)
        next_state = NextState(
            values=self.model(next_observation, training=False),
            target_values=self.target_values(next_observation),
            step=step,
        )
        y = returns + discounts * self.target(next_state)  # [B]
        lower, upper = self.bounds_of(sample) if self.bounds else (None, None)
        observation = self.replay.observe(sample.rows)

        def loss():
            q = value_of(self.model(observation, training=True), sample.window.action[:, 0])
            losses = self.penalty(q, y, lower, upper) if self.bounds else self.loss(y, q)
            total = ops.mean(sample.weights * losses) + sum(self.model.losses)
            return self.optimizer.scale_loss(total), (total, q)

        (_, (total, q)), gradients = self.program.value_and_grad(loss, self.model.trainable_variables)
        self.optimizer.apply(gradients, self.model.trainable_variables)
        self.replay.update(sample.rows, y - q)
        self.update_target(number)
        return {"loss": total, "q": ops.mean(q), "td_error": ops.mean(ops.abs(y - q))}

    def bounds_of(self, sample):
        """Returns the lower and upper bounds of `returns.py` on the values of the drawn actions, `[B]` each.

        The target model sees the states of all horizons in one batch.
        """
        horizons = self.bounds.horizons
        returns, discounts, lengths = (x[:, 2 : horizons + 2] for x in partial_returns(sample.window, self.discount))
        values = ops.max(self._values_around(sample.rows, lengths), axis=-1)  # [B, K]
        lower = lower_bound(returns, discounts, values, sample.return_to_go)
        if not self.bounds.upper:
            return lower, ops.full_like(lower, float("inf"))
        back = ops.broadcast_to(ops.arange(-horizons - 1, -1, dtype="int32"), ops.shape(lengths))
        taken = value_of(self._values_around(sample.rows, back), sample.past.action[:, :-1])  # [B, K]
        return lower, upper_bound(sample.past, sample.connected, taken, self.discount)

    def _values_around(self, rows, distances):
        """Returns the target model's values at `rows` (`[B]`) shifted by each of `distances` (`[B, K]`): `[B, K, A]`."""
        around = ops.reshape(self.replay.storage.shift(ops.expand_dims(rows, -1), distances), (-1,))
        values = self.target_values(self.replay.observe(around))
        return ops.reshape(values, (*distances.shape, values.shape[-1]))
