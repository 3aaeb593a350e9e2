"""Deep Q-learning: `DQNTrainer`, and `DQNLearner`, whose `update` is the algorithm."""

import keras
from keras import ops

from sota_dqn import losses, schedules, targets
from sota_dqn.checks import check_probability, is_integer, is_number, one_per_sample
from sota_dqn.learner import Learner
from sota_dqn.models import is_recurrent, previous_inputs
from sota_dqn.recurrent import Recurrent
from sota_dqn.returns import (
    Bounds,
    Rescaling,
    bootstrapped,
    longest,
    lower_bound,
    n_step,
    partial_returns,
    scheduled,
    unchanged,
    upper_bound,
)
from sota_dqn.sequences import SequenceLearner, Sequences
from sota_dqn.targets import value_of
from sota_dqn.trainer import Trainer
from sota_dqn.types import NextState, recorded

__all__ = ["DQNLearner", "DQNTrainer"]

# Ours, chosen on the four tasks of classic control and on MinAtar's Freeway together, see the README: one-step returns
# learn all of them, the values of a policy that slips hold what is learned, and longer returns are a quicker beginning.
DEFAULT_TARGET = targets.expected_sarsa(0.25)
DEFAULT_N_STEP = schedules.linear(3, 1, steps=20_000)
DEFAULT_BOUNDS = Bounds()
BOUNDS_WEIGHT = 0.25  # that of the released code of He et al.; with the paper's 4 LunarLander is learned late


@recorded
class DQNTrainer(Trainer):
    """Trains a Keras model to act by deep Q-learning.

    The model is the user's own: observations `[B, *O]` to one value per action, `[B, A]`; with recurrent layers
    `[B, T, *O]` to `[B, T, A]`, whose state is carried from step to step, and which learns from sequences. Inputs named
    `previous_action` (`[B, A]`, one-hot) and `previous_reward` (`[B, 1]`, as it is learned from), with T likewise, are
    fed beside the observation; both are zero at an episode's first step. A compiled model brings its own optimizer and
    loss; one that is not is compiled with Adam (1e-3, the gradient's norm clipped to 10) and the squared error.

    Args:
        env: An environment id, an `Atari` game, a callable that returns a `gymnasium.Env` (it takes `render_mode` when
            films are made), a `gymnasium.Env` or a `gymnasium.vector.VectorEnv`.
        model: A Keras model. It is trained in place.
        num_envs: E, environments stepped side by side; None for 16, or for what a ready environment has.
        actors: N actor processes, each with `num_envs` environments and a copy of the policy on the CPU, or `Actors`
            for more to say about them, or `RayActors` for other machines. 0 acts in this process, and is deterministic.
        vectorization_mode: None steps Atari games in ale-py's native vector environment and everything else as `"sync"`
            does, in this process; `"async"` each in a worker process of its
            own, `"vector_entry_point"` in the native vector environment that the id is registered with.
        eval_env: What to evaluate in, as `env`, with its actions and its observations; None for one like `env`.
        preprocess: None, a callable on a batch of observations `[E, ...]`, or a list of them. What it returns is
            stored. Atari games hand it the RGB screen, `[E, 210, 160, 3]`; without, they give grey-scale `[E, 84, 84]`.
        frame_stack: Frames that make one observation of the model, channels last, oldest first; None for no stack.
        clip_rewards: Whether rewards are clipped to [-1, 1] for learning; returns that are logged are not. None does so
            for Atari games that are given by their id or as an `Atari`.
        replay: A `Replay`; None for one of 100,000 rows.
        policy: A function `(values [E, A], uniform [E], step []) -> [E]`, or a `policies.Mixture` of such; None for
            epsilon-greedy, 1 to 0.05 in 20,000 steps.
        target: A function `NextState -> [B]`, see `targets`. The default values a policy that acts at random in one
            step of four, which holds what is learned; `targets.double` values the best one.
        target_update: In (0, 1), the part of the model that is blended into the target model after every update; an
            integer from 1 on, the updates between two copies; None for no target model.
        average: In (0, 1), the share of the updates so far, counted from the last one back, over which weights are
            averaged, roughly (a power function, after Karras et al., 2024). The average is what `model` has outside of
            updates, to be evaluated and saved. None for the last weights.
        n_step: Steps of reward before the bootstrap, or a schedule of them that does not rise, rounded: a long return
            learns fast, a short one depends less on what older policies did (Schwarzer et al. 2023 take ten to three).
            The default is 3, 2 from 5,000 steps on, and 1 from 15,000; the longer ones that `bounds` sees only ever
            raise a value.
        discount: gamma, per environment step, in [0, 1].
        rescaling: `returns.Rescaling`, where the model is to learn squashed values, or None. Targets and bounds are
            unsquashed to be computed; `q`, `td_error`, policies and penalties see values as the model gives them.
        sequences: `Sequences`, what a recurrent model is trained on; None for its defaults.
        bounds: `returns.Bounds`, which bounds a penalty sees, only lower ones with recurrent models; None for no
            penalty, which spares the passes of the target model that bounds take.
        penalty: A function `(q, y, lower, upper) -> [B]`, see `losses`; None for `losses.lower_bound` of weight 0.25
            and the model's own loss where there are bounds.
        batch_size: Windows in one update.
        updates_per_step: Gradient steps per environment step, kept exact over any number of environments.
        updates_per_call: Updates in one compiled call; None for what fits `num_envs`, at least 8, or for 1 where a loop
            of updates would be slow: convolutions with JAX on a CPU.
        learning_starts: Environment steps before the first update; None for 1,000, or what a first batch needs.
        report_every: Environment steps in an epoch, after which callbacks hear of it.
        seed: From which all chance of the run is made.

    Raises:
        ValueError: If an argument is out of range, or the parts do not fit together.
        TypeError: If an argument is of the wrong type.
        MemoryError: If the replay does not fit into the device's memory.
    """

    def __init__(
        self,
        env,
        model,
        *,
        num_envs=None,
        actors=0,
        vectorization_mode=None,
        eval_env=None,
        preprocess=None,
        frame_stack=None,
        clip_rewards=None,
        replay=None,
        policy=None,
        target=DEFAULT_TARGET,
        target_update=0.01,
        average=0.05,
        n_step=DEFAULT_N_STEP,
        discount=0.99,
        rescaling=None,
        sequences=None,
        bounds=DEFAULT_BOUNDS,
        penalty=None,
        batch_size=64,
        updates_per_step=0.5,
        updates_per_call=None,
        learning_starts=None,
        report_every=2_000,
        seed=0,
    ):
        _check_learning(target, target_update, average, n_step, discount, rescaling, bounds, penalty)
        self.target = target
        self.target_update = target_update
        self.average = average
        self.n_step = n_step
        self.discount = discount
        self.rescaling = rescaling
        self.sequences = _check_sequences(sequences, model, bounds)
        self.bounds = bounds
        self.penalty = penalty
        super().__init__(
            env,
            model,
            num_envs=num_envs,
            actors=actors,
            vectorization_mode=vectorization_mode,
            eval_env=eval_env,
            preprocess=preprocess,
            frame_stack=frame_stack,
            clip_rewards=clip_rewards,
            replay=replay,
            policy=policy,
            batch_size=batch_size,
            updates_per_step=updates_per_step,
            updates_per_call=updates_per_call,
            learning_starts=learning_starts,
            report_every=report_every,
            seed=seed,
        )

    def build(self):
        """Builds the replay and returns the learner."""
        if not self.model.compiled:
            # Ours, with `n_step`, `average` and the weight below: `benchmarks/RESULTS.md` has the trials of them. With
            # the Huber loss policies were soon good and did not stay so.
            self.model.compile(optimizer=keras.optimizers.Adam(1e-3, global_clipnorm=10.0), loss="mse")
        loss = losses.from_keras(self.model.loss or "mse")
        settings = {
            "target": self.target,
            "loss": loss,
            "n_step": self.n_step,
            "discount": self.discount,
            "rescaling": self.rescaling,
            "target_update": self.target_update,
            "average": self.average,
            "batch_size": self.batch_size,
            "updates_per_call": self.updates_per_call,
            "random": self.random["sampling"],
        }
        bounds = self.bounds
        settings["bounds"] = bounds
        settings["penalty"] = self.penalty and losses.checked(self.penalty, "penalty")
        if bounds and self.penalty is None:
            settings["penalty"] = losses.lower_bound(BOUNDS_WEIGHT, loss=loss)
        reach = longest(self.n_step)  # rows after a trained one
        if bounds is not None:
            reach = max(reach, bounds.horizons + 1)
        return_to_go = self.discount if bounds is not None and bounds.return_to_go else None
        previous = 1 if previous_inputs(self.model) else 0
        if self.sequences is not None:
            return self._build_sequences(settings, reach=reach, before=previous, return_to_go=return_to_go)
        self.build_replay(
            after=reach,
            before=previous + (bounds.horizons + 1 if bounds is not None and bounds.upper else 0),
            return_to_go=return_to_go,
            first_errors=self._first_errors(),
        )
        return DQNLearner(self.model, self.model.optimizer, self.replay, **settings)

    def _first_errors(self, **settings):
        """Returns the settings with which actor processes find first priorities."""
        return {"n_step": longest(self.n_step), "discount": self.discount, "rescaling": self.rescaling, **settings}

    def _build_sequences(self, settings, *, reach, before, return_to_go):
        """Builds the replay of a recurrent model and returns the learner."""
        sequences = self.sequences
        learned = sequences.initial_state == "learned"
        recurrent = Recurrent(self.model, learned=learned)
        self.build_replay(
            after=sequences.burn_in + sequences.length + reach - 1,
            before=max(before, int(learned)),
            return_to_go=return_to_go,
            state=() if sequences.initial_state == "zero" else [*zip(recurrent.shapes, recurrent.dtypes, strict=True)],
            period=sequences.period,
            first_errors=self._first_errors(burn_in=sequences.burn_in, length=sequences.length, eta=sequences.eta),
        )
        optimizer = self.model.optimizer
        if learned and optimizer.built:  # for the model's variables alone, and it cannot take up more
            self.model.optimizer = type(optimizer).from_config(optimizer.get_config())
        settings |= {"recurrent": recurrent, "sequences": sequences}
        return SequenceLearner(self.model, self.model.optimizer, self.replay, **settings)


class DQNLearner(Learner):
    """Deep Q-learning with a target function, n-step returns, prioritized replay and bounds.

    Args:
        target: A function `NextState -> [B]`.
        loss: A function `(target [B], q [B]) -> [B]`.
        n_step: Steps of reward before the bootstrap, or a schedule.
        discount: gamma, per environment step.
        rescaling: A `Rescaling`, or None.
        bounds: A `Bounds`, or None.
        penalty: A function `(q, y, lower, upper) -> [B]` that combines the loss with the bounds; used with `bounds`
            alone.
        **settings: Those of `Learner`.
    """

    def __init__(
        self, model, optimizer, replay, *, target, loss, n_step, discount, rescaling, bounds, penalty, **settings
    ):
        self.target = target
        self.loss = loss
        self.n_step = n_step
        self.discount = discount
        self.squash = rescaling.squash if rescaling else unchanged
        self.unsquash = rescaling.unsquash if rescaling else unchanged
        self.bounds = bounds
        self.penalty = penalty
        self.next_horizon = None  # the bounds' horizon that ends where the n-step return does
        if bounds and not callable(n_step) and 2 <= n_step <= bounds.horizons + 1:
            self.next_horizon = n_step - 2
        super().__init__(model, optimizer, replay, **settings)

    def update(self, uniform, step, number):
        """Makes one update: sample, target, loss, gradient, priorities, target model."""
        read = self._read if self.replay.on_host else self.program.fused(self._read)
        sample, returns, discounts, observation, next_observation = read(uniform, step)
        lower, upper, after = self.bounds_of(sample) if self.bounds else (None, None, None)
        if after is None or self.next_horizon is None:
            judged = self.target_values(next_observation)
        else:
            judged = after[:, self.next_horizon]
        next_state = NextState(values=self.values(next_observation), target_values=judged, step=step)
        next_values = one_per_sample(self.target(next_state), returns.shape[0], "target")  # [B]
        y = self.squash(bootstrapped(returns, discounts, self.unsquash(next_values)))  # [B]

        def loss():
            q = value_of(self.values(observation, training=True), sample.window.action[:, 0])
            losses = self.penalty(q, y, lower, upper) if self.bounds else self.loss(y, q)
            total = ops.mean(sample.weights * losses) + sum(ops.cast(x, "float32") for x in self.model.losses)
            return self.optimizer.scale_loss(total), (total, q)

        (_, (total, q)), gradients = self.program.value_and_grad(loss, self.trainable_variables)
        self.program.apply(self.optimizer, gradients, self.trainable_variables)
        self.program.fused(self._finish)(sample.rows, y - q, number)
        return {"loss": total, "q": ops.mean(q), "td_error": ops.mean(ops.abs(y - q))}

    def _read(self, uniform, step):
        """Returns a sample, its n-step returns and their discounts (`[B]` each), and what the model sees before and
        after them (`[B, *O]` each)."""
        past = self.bounds.horizons + 1 if self.bounds and self.bounds.upper else 0
        sample = self.replay.sample(uniform, step, past=past)
        returns, discounts, lengths = n_step(sample.window, discount=self.discount, **scheduled(self.n_step, step))
        before, after = self.observe(sample.rows), self.observe(sample.rows, lengths)
        return sample, returns, discounts, before, after

    def _finish(self, rows, td_error, number):
        """Writes the priorities of drawn `rows` (`[B]`), and blends or copies the target model."""
        self.replay.update(rows, td_error)
        self.update_target(number)

    def bounds_of(self, sample):
        """Returns the lower and upper bounds of `returns.py` on the values of the drawn actions, `[B]` each, and the
        target model's values of the states of all horizons, which it sees in one batch, `[B, K, A]`.
        """
        horizons = self.bounds.horizons
        returns, discounts, lengths = (x[:, 2 : horizons + 2] for x in partial_returns(sample.window, self.discount))
        after = self._values_around(sample.rows, lengths)  # [B, K, A]
        values = self.unsquash(ops.max(after, axis=-1))  # [B, K]
        lower = self.squash(lower_bound(returns, discounts, values, sample.return_to_go))
        if not self.bounds.upper:
            return lower, ops.full_like(lower, float("inf")), after
        back = ops.broadcast_to(ops.arange(-horizons - 1, -1, dtype="int32"), ops.shape(lengths))
        taken = value_of(self._values_around(sample.rows, back), sample.past.action[:, :-1])  # [B, K]
        upper = upper_bound(sample.past, sample.connected, self.unsquash(taken), self.discount)
        return lower, self.squash(upper), after

    def _values_around(self, rows, distances):
        """Returns the target model's values `distances` (`[B, K]`) rows after each of `rows` (`[B]`): `[B, K, A]`."""
        around = ops.reshape(self.replay.storage.shift(ops.expand_dims(rows, -1), distances), (-1,))
        values = self.target_values(self.observe(around))
        return ops.reshape(values, (*distances.shape, values.shape[-1]))


def _check_learning(target, target_update, average, n_step, discount, rescaling, bounds, penalty):
    """Raises ValueError or TypeError where an argument of the algorithm is out of range."""
    for name, function in (("target", target), ("penalty", penalty)):
        given = callable(function) and not isinstance(function, type)
        if not given and (function is not None or name == "target"):
            raise TypeError(f"Argument `{name}` must be a function. Received: {name}={function!r}")
    is_part = is_number(target_update) and 0 < target_update < 1
    if target_update is not None and not is_part and not (is_integer(target_update) and target_update >= 1):
        raise ValueError(
            "Argument `target_update` must be a number between 0 and 1, an integer of at least 1, or None. "
            f"Received: target_update={target_update!r}"
        )
    if average is not None and not (is_number(average) and 0 < average < 1):
        raise ValueError(f"Argument `average` must be a number between 0 and 1, or None. Received: average={average!r}")
    _check_n_step(n_step)
    check_probability(discount=discount)
    if rescaling is not None and not isinstance(rescaling, Rescaling):
        raise TypeError(
            f"Argument `rescaling` must be a `returns.Rescaling` or None. Received: rescaling={rescaling!r}"
        )
    if bounds is not None and not isinstance(bounds, Bounds):
        raise TypeError(f"Argument `bounds` must be a `returns.Bounds` or None. Received: bounds={bounds!r}")
    if bounds is not None and bounds.upper and discount == 0:
        raise ValueError("Upper bounds divide by `discount`, which must be above 0 for them. Received: discount=0")
    if bounds is None and penalty is not None:
        raise ValueError("Argument `penalty` needs `bounds`: pass bounds=returns.Bounds(). Received: bounds=None")


def _check_n_step(n_step):
    """Raises ValueError unless this is an integer of at least 1, or a schedule of such that does not rise, as far as a
    few steps tell."""
    most = longest(n_step) if callable(n_step) else n_step
    if not is_integer(most) or most < 1:
        raise ValueError(
            f"Argument `n_step` must be an integer of at least 1, or a schedule of such. Received: n_step={n_step!r}"
        )
    for step in (10.0**digits for digits in range(2, 10)) if callable(n_step) else ():
        later = float(n_step(step))
        if not later <= most + 0.5:  # where it is rounded to more, or is NaN
            raise ValueError(
                "Argument `n_step` must be a schedule that does not rise: how far returns reach is fixed by its first "
                f"number, {most}, and at step {step:,.0f} it is {later:g}. Received: n_step={n_step!r}"
            )


def _check_sequences(sequences, model, bounds):
    """Returns the `Sequences` of a recurrent model, None for any other, and raises where they do not fit together."""
    if sequences is not None and not isinstance(sequences, Sequences):
        raise TypeError(f"Argument `sequences` must be a `Sequences` or None. Received: sequences={sequences!r}")
    if not (isinstance(model, keras.Model) and is_recurrent(model)):
        if sequences is not None:
            raise ValueError("Argument `sequences` is for recurrent models. The model has no recurrent layer.")
        return None
    if bounds is not None and bounds.upper:
        raise ValueError(
            "Argument `bounds` must be without upper bounds for a recurrent model: returns.Bounds(upper=False). "
            "Received: upper=True"
        )
    return Sequences() if sequences is None else sequences
