"""Deep Q-learning of recurrent models: updates on sequences of rows, after Kapturowski et al. 2019 (R2D2)."""

from keras import ops, tree

from sota_dqn import backend, returns
from sota_dqn.checks import check_count, check_count_or_none, check_probability, one_per_sample
from sota_dqn.learner import Learner
from sota_dqn.models import differs_in_training
from sota_dqn.targets import value_of
from sota_dqn.types import NextState, Steps, recorded

__all__ = ["SequenceLearner", "Sequences"]


@recorded
class Sequences:
    """What a recurrent model is trained on.

    A sequence is `burn_in + length` rows of one stream and as many more as the returns of the last one need: `n_step`,
    or with bounds `horizons + 1` where that is more. It may run across the end of an episode: where the next one begins
    the state is zero again, or the learned one, and no return reaches over.

    Args:
        length: Trained steps.
        burn_in: Steps before them, which only bring the state up to date: no gradient passes through.
        period: Sequences begin at every so many rows, and only those store a state; None for half of `length`.
        initial_state: `"stored"`, the state with which the actor came to the first row; `"zero"`; or `"learned"`: as
            `"stored"`, but an episode begins, wherever the model is used, with a state that is trained, from zero on.
            That state is kept in checkpoints. A `.keras` file does not hold it, and begins with zeros.
        eta: Of the priority `eta max |td_error| + (1 - eta) mean |td_error|`, over the trained steps, in [0, 1].
    """

    def __init__(self, length=20, *, burn_in=5, period=None, initial_state="stored", eta=0.9):
        check_count(1, length=length)
        check_count(0, burn_in=burn_in)
        check_count_or_none(1, period=period)
        check_probability(eta=eta)
        if initial_state not in ("stored", "learned", "zero"):
            raise ValueError(
                'Argument `initial_state` must be "stored", "learned" or "zero". '
                f"Received: initial_state={initial_state!r}"
            )
        self.length = int(length)
        self.burn_in = int(burn_in)
        self.period = int(max(1, length // 2) if period is None else period)
        self.initial_state = initial_state
        self.eta = eta


class SequenceLearner(Learner):
    """Deep Q-learning on sequences. W rows are read: the burn-in, L trained steps, and H that their returns reach.

    Args:
        recurrent: The model's `Recurrent`.
        sequences: A `Sequences`.
        target: A function `NextState -> [B]`.
        loss: A function `(target [B], q [B]) -> [B]`.
        n_step: Steps of reward before the bootstrap, or a schedule.
        discount: gamma, per environment step.
        rescaling: A `returns.Rescaling`, or None.
        bounds: A `returns.Bounds` without upper ones, or None.
        penalty: A function `(q, y, lower, upper) -> [B]`; used with `bounds` alone.
        **settings: Those of `Learner`.
    """

    def __init__(
        self,
        model,
        optimizer,
        replay,
        *,
        sequences,
        target,
        loss,
        n_step,
        discount,
        rescaling,
        bounds,
        penalty,
        **settings,
    ):
        self.sequences = sequences
        self.target = target
        self.loss = loss
        self.n_step = n_step
        self.discount = discount
        self.squash = rescaling.squash if rescaling else returns.unchanged
        self.unsquash = rescaling.unsquash if rescaling else returns.unchanged
        self.bounds = bounds
        self.penalty = penalty
        self.differs = differs_in_training(model)
        super().__init__(model, optimizer, replay, **settings)

    def update(self, uniform, step, number):
        """Makes one update: sample, unroll, targets of all steps, loss, gradient, priorities, target model."""
        sample = self.replay.sample(uniform, step)
        observations = self.observe_window(sample.rows)  # [B, W, *O]
        window = sample.window
        trained = slice(self.sequences.burn_in, self.sequences.burn_in + self.sequences.length)
        action = window.action[:, trained]  # [B, L]
        counted = ops.cast(window.valid[:, trained], "float32")  # [B, L], not final observations
        states = self.states(sample.rows)
        begun = self.begun(sample.rows, window.valid)
        judged = self.judged(lambda: self.unroll(observations, states, begun))
        lower = self.lower_bounds(sample.rows, window, judged) if self.bounds else None  # [B L]
        calm = self.unroll(observations, states, begun) if self.differs else None  # without `Dropout` and the like

        def loss():
            values = self.unroll(observations, states, begun, training=True)  # [B, L + H, A]
            y = ops.stop_gradient(self.targets(window, values if calm is None else calm, judged, step))
            q = value_of(values[:, : self.sequences.length], action)
            # What does not count must be finite to count for nothing: a final observation may have no legal action.
            q, y = (ops.where(counted > 0, x, 0.0) for x in (q, y))  # [B, L]
            losses = ops.reshape(self._losses(ops.reshape(q, (-1,)), ops.reshape(y, (-1,)), lower), counted.shape)
            losses = ops.expand_dims(sample.weights, -1) * counted * losses
            total = ops.sum(losses) / ops.maximum(ops.sum(counted), 1.0)
            total = total + sum(ops.cast(x, "float32") for x in self.model.losses)
            return self.optimizer.scale_loss(total), (total, q, y)

        (_, (total, q, y)), gradients = self.program.value_and_grad(loss, self.trainable_variables)
        self.program.apply(self.optimizer, gradients, self.trainable_variables)
        error = counted * ops.abs(y - q)
        steps = ops.maximum(ops.sum(counted, axis=-1), 1.0)  # [B]
        mean = ops.sum(error, axis=-1) / steps
        eta = self.sequences.eta
        self.replay.update(sample.rows, eta * ops.max(error, axis=-1) + (1.0 - eta) * mean)
        self.update_target(number)
        all_steps = ops.sum(steps)
        return {"loss": total, "q": ops.sum(counted * q) / all_steps, "td_error": ops.sum(error) / all_steps}

    def observe_window(self, rows):
        """Returns what the model sees in the windows that begin with `rows` (`[B]`): `[B, W, *O]`, or a structure."""
        around = self.replay.storage.neighbours(rows, 0, self.replay.after)  # [B, W]
        seen = self.observe(ops.reshape(around, (-1,)))
        return tree.map_structure(lambda x: ops.reshape(x, (-1, around.shape[1], *x.shape[1:])), seen)

    def states(self, rows):
        """Returns the states with which the sequences that begin with `rows` (`[B]`) begin: a list of `[B, units]`."""
        if self.sequences.initial_state == "zero":
            return self.recurrent.zeros(self.batch_size)
        return self.replay.storage.read_states(rows)

    def begun(self, rows, valid):
        """Returns which rows of the windows that begin with `rows` (`[B]`) are an episode's first: `[B, W]`, 1 or 0.

        Where the state before an episode is not learned, the first row of a window does not count: the state that is
        read for it is that before an episode already.
        """
        first = ops.zeros_like(valid[:, :1])
        if self.recurrent.initial:
            connected = self.replay.storage.connected(rows, 1, through_terminations=True)
            first = 1 - ops.cast(connected, valid.dtype)
        return ops.concatenate([first, 1 - valid[:, :-1]], axis=1)

    def unroll(self, observations, states, begun, *, training=False):
        """Returns the values of the steps after the burn-in, through which no gradient passes: `[B, L + H, A]`.

        Args:
            observations: `[B, W, *O]`, or a structure of the model's inputs.
            states: A list of `[B, units]`.
            begun: `[B, W]`, 1 where an episode begins.
            training: Whether layers behave as in training.
        """
        burn_in = self.sequences.burn_in

        def run(part, states):
            seen = tree.map_structure(lambda x: x[:, part], observations)
            return self.recurrent.unroll(seen, states, begun[:, part], training=training)

        if burn_in:
            _, states = run(slice(None, burn_in), states)
            states = [ops.stop_gradient(state) for state in states]
        values, _ = run(slice(burn_in, None), states)
        return ops.cast(values, "float32")

    def targets(self, window, values, judged, step):
        """Returns the n-step targets of the trained steps, `[B, L]`.

        Args:
            window: `Steps`, `[B, W, ...]`.
            values: `[B, L + H, A]`, the model's.
            judged: `[B, L + H, A]`, the target model's.
            step: `[]` float32, environment steps so far.
        """
        length = self.sequences.length
        windows = self._windows(window, returns.longest(self.n_step))
        current = returns.scheduled(self.n_step, step)
        gained, discounts, taken = returns.n_step(windows, discount=self.discount, **current)  # [B L]
        after = ops.reshape(ops.arange(length, dtype="int32") + ops.reshape(taken, (-1, length)), (-1, length))
        num_actions = values.shape[-1]
        after = ops.repeat(ops.expand_dims(after, -1), num_actions, axis=-1)  # [B, L, A]

        def bootstrap(all_values):
            return ops.reshape(ops.take_along_axis(all_values, after, axis=1), (-1, num_actions))  # [B L, A]

        next_state = NextState(values=bootstrap(values), target_values=bootstrap(judged), step=step)
        found = one_per_sample(self.target(next_state), next_state.values.shape[0], "target")
        next_values = self.unsquash(found)
        return ops.reshape(self.squash(returns.bootstrapped(gained, discounts, next_values)), (-1, length))

    def lower_bounds(self, rows, window, judged):
        """Returns the lower bounds of `returns.py` on the values of the trained steps' actions, `[B L]`.

        Args:
            rows: `[B]`, the first of each window.
            window: `Steps`, `[B, W, ...]`.
            judged: `[B, L + H, A]`, the target model's values.
        """
        length, horizons = self.sequences.length, self.bounds.horizons
        columns = returns.partial_returns(self._windows(window, horizons + 1), self.discount)
        gained, discounts, taken = (x[:, 2:] for x in columns)  # [B L, K]
        after = ops.arange(length, dtype="int32")[:, None] + ops.reshape(taken, (-1, length, horizons))
        best = self.unsquash(ops.max(judged, axis=-1))  # [B, L + H]
        values = ops.take_along_axis(best, ops.reshape(after, (-1, length * horizons)), axis=1)
        to_go = None
        if self.bounds.return_to_go:
            storage, first = self.replay.storage, self.sequences.burn_in
            trained = storage.neighbours(rows, first, first + length - 1)
            to_go = ops.reshape(backend.read_rows(storage.return_to_go, trained), (-1,))
        values = ops.reshape(values, (-1, horizons))
        return self.squash(returns.lower_bound(gained, discounts, values, to_go))

    def _losses(self, q, y, lower):
        """Returns the loss, or with bounds the penalty, of each trained step, `[B L]`."""
        if lower is None:
            return self.loss(y, q)
        return self.penalty(q, y, lower, ops.full_like(lower, float("inf")))

    def _windows(self, window, horizon):
        """Returns the rows from each trained step to `horizon` rows after it: `Steps` with `[B L, horizon + 1]`."""
        places = self.sequences.burn_in + ops.arange(self.sequences.length)[:, None] + ops.arange(horizon + 1)

        def part(field):
            return ops.reshape(ops.take(field, places, axis=1), (-1, horizon + 1))

        return Steps(None, None, part(window.reward), part(window.terminated), part(window.valid))
