"""Deep Q-learning of recurrent models: updates on sequences of rows, after Kapturowski et al. 2019 (R2D2)."""

from keras import ops

from sota_dqn import returns
from sota_dqn.checks import check_positive
from sota_dqn.learner import Learner
from sota_dqn.targets import value_of
from sota_dqn.types import NextState, Steps, recorded

__all__ = ["SequenceLearner", "Sequences"]


@recorded
class Sequences:
    """What a recurrent model is trained on.

    A sequence is `burn_in + length + n_step` rows of one stream. It may run across the end of an episode: the state is
    zero again where the next one begins, and no return reaches over.

    Args:
        length: Trained steps.
        burn_in: Steps before them, which only bring the state up to date: no gradient passes through.
        period: Sequences begin at every so many rows, and only those store a state; None for half of `length`.
        initial_state: `"stored"`, the state with which the actor came to the first row, or `"zero"`.
        eta: Of the priority `eta max |td_error| + (1 - eta) mean |td_error|`, over the trained steps, in [0, 1].
    """

    def __init__(self, length=20, *, burn_in=5, period=None, initial_state="stored", eta=0.9):
        check_positive(length=length, period=period)
        if isinstance(burn_in, bool) or not isinstance(burn_in, int) or burn_in < 0:
            raise ValueError(f"Argument `burn_in` must be an integer of at least 0. Received: burn_in={burn_in!r}")
        if initial_state not in ("stored", "zero"):
            raise ValueError(
                f'Argument `initial_state` must be "stored" or "zero". Received: initial_state={initial_state!r}'
            )
        if not 0 <= eta <= 1:
            raise ValueError(f"Argument `eta` must be in [0, 1]. Received: eta={eta}")
        self.length = length
        self.burn_in = burn_in
        self.period = max(1, length // 2) if period is None else period
        self.initial_state = initial_state
        self.eta = eta


class SequenceLearner(Learner):
    """Deep Q-learning on sequences.

    Args:
        recurrent: The model's `Recurrent`.
        sequences: A `Sequences`.
        target: A function `NextState -> [B]`.
        loss: A function `(target [B], q [B]) -> [B]`.
        n_step: Steps of reward before the bootstrap.
        discount: gamma, per environment step.
        rescaling: A `returns.Rescaling`, or None.
        **settings: Those of `Learner`.
    """

    def __init__(
        self, model, optimizer, replay, *, recurrent, sequences, target, loss, n_step, discount, rescaling, **settings
    ):
        self.recurrent = recurrent
        self.sequences = sequences
        self.target = target
        self.loss = loss
        self.n_step = n_step
        self.discount = discount
        self.squash = rescaling.squash if rescaling else returns.unchanged
        self.unsquash = rescaling.unsquash if rescaling else returns.unchanged
        super().__init__(model, optimizer, replay, **settings)

    def update(self, uniform, step, number):
        """Makes one update: sample, unroll, targets of all steps, loss, gradient, priorities, target model."""
        sample = self.replay.sample(uniform, step)
        observations = self.replay.observe_window(sample.rows)  # [B, W, *O]
        window = sample.window
        trained = slice(self.sequences.burn_in, self.sequences.burn_in + self.sequences.length)
        action = window.action[:, trained]  # [B, L]
        counted = ops.cast(window.valid[:, trained], "float32")  # [B, L], not final observations
        states = self.states(sample.rows)
        judged = self.judged(lambda: self.unroll(observations, states, window.valid))

        def loss():
            values = self.unroll(observations, states, window.valid, training=True)  # [B, L + n, A]
            y = ops.stop_gradient(self.targets(window, values, judged, step))  # [B, L]
            q = value_of(values[:, : self.sequences.length], action)
            losses = ops.reshape(self.loss(ops.reshape(y, (-1,)), ops.reshape(q, (-1,))), counted.shape)
            losses = ops.expand_dims(sample.weights, -1) * counted * losses
            total = ops.sum(losses) / ops.maximum(ops.sum(counted), 1.0)
            total = total + sum(ops.cast(x, "float32") for x in self.model.losses)
            return self.optimizer.scale_loss(total), (total, q, y)

        (_, (total, q, y)), gradients = self.program.value_and_grad(loss, self.model.trainable_variables)
        self.program.apply(self.optimizer, gradients, self.model.trainable_variables)
        error = counted * ops.abs(y - q)
        steps = ops.maximum(ops.sum(counted, axis=-1), 1.0)  # [B]
        mean = ops.sum(error, axis=-1) / steps
        eta = self.sequences.eta
        self.replay.update(sample.rows, eta * ops.max(error, axis=-1) + (1.0 - eta) * mean)
        self.update_target(number)
        all_steps = ops.sum(steps)
        return {"loss": total, "q": ops.sum(counted * q) / all_steps, "td_error": ops.sum(error) / all_steps}

    def states(self, rows):
        """Returns the states with which the sequences that begin with `rows` (`[B]`) begin: a list of `[B, units]`."""
        if self.sequences.initial_state == "stored":
            return self.replay.storage.read_states(rows)
        return self.recurrent.zeros(self.batch_size)

    def unroll(self, observations, states, valid, *, training=False):
        """Returns the values of the steps after the burn-in, through which no gradient passes: `[B, L + n, A]`.

        Args:
            observations: `[B, W, *O]`.
            states: A list of `[B, units]`.
            valid: `[B, W]`, 0 on final observations, after which an episode begins.
            training: Whether layers behave as in training.
        """
        burn_in = self.sequences.burn_in
        begun = ops.concatenate([ops.zeros_like(valid[:, :1]), 1 - valid[:, :-1]], axis=1)
        if burn_in:
            _, states = self.recurrent.unroll(observations[:, :burn_in], states, begun[:, :burn_in], training=training)
            states = [ops.stop_gradient(state) for state in states]
        values, _ = self.recurrent.unroll(observations[:, burn_in:], states, begun[:, burn_in:], training=training)
        return ops.cast(values, "float32")

    def targets(self, window, values, judged, step):
        """Returns the n-step targets of the trained steps, `[B, L]`.

        Args:
            window: `Steps`, `[B, W, ...]`.
            values: `[B, L + n, A]`, the model's.
            judged: `[B, L + n, A]`, the target model's.
            step: `[]` float32, environment steps so far.
        """
        length, n = self.sequences.length, self.n_step
        places = self.sequences.burn_in + ops.arange(length)[:, None] + ops.arange(n + 1)  # [L, n + 1]

        def windows(field):
            return ops.reshape(ops.take(field, places, axis=1), (-1, n + 1))  # [B L, n + 1]

        parts = Steps(None, None, windows(window.reward), windows(window.terminated), windows(window.valid))
        gained, discounts, taken = returns.n_step(parts, n, self.discount)  # [B L]
        after = ops.reshape(ops.arange(length, dtype="int32") + ops.reshape(taken, (-1, length)), (-1, length))
        pick = ops.one_hot(after, length + n, dtype="float32")  # [B, L, L + n]
        num_actions = values.shape[-1]

        def bootstrap(all_values):
            return ops.reshape(ops.matmul(pick, all_values), (-1, num_actions))  # [B L, A]

        next_state = NextState(values=bootstrap(values), target_values=bootstrap(judged), step=step)
        y = self.squash(gained + discounts * self.unsquash(self.target(next_state)))
        return ops.reshape(y, (-1, length))
