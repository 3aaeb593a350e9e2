"""Asynchronous one-step Q-learning and SARSA: `OneStepTrainer`, and `OneStepLearner.gradient`, the algorithm.

After Mnih et al., 2016 (Algorithm 1 and its SARSA variant). There is no replay: parallel workers decorrelate what is
learned from. A method is a function of the values of the next states and the actions taken there; to add one, add a
line to `METHODS`.
"""

import concurrent.futures
import numbers

import keras
import numpy as np
from keras import ops

from sota_dqn import backend, losses, worker_snapshot
from sota_dqn.atari import is_game, native
from sota_dqn.checks import check_bool_or_none, check_count, check_count_or_none, check_probability, is_number
from sota_dqn.choice import Choice
from sota_dqn.evaluation import check_evaluation
from sota_dqn.models import check_model, check_moving_average, has_convolutions, is_recurrent, previous_inputs
from sota_dqn.policies import EpsilonGreedy
from sota_dqn.reporting import Clock, Epoch
from sota_dqn.returns import bootstrapped
from sota_dqn.shared import Shared
from sota_dqn.storage import merge_frames
from sota_dqn.targets import value_of
from sota_dqn.trainer_base import TrainerBase
from sota_dqn.types import recorded
from sota_dqn.vectors import closing_on_error, is_vector, make_factory
from sota_dqn.workers import make_workers

__all__ = ["OneStepLearner", "OneStepTrainer"]

METHODS = {  # values [B, A] and actions [B] of the next states to what a target bootstraps from, [B]
    "q": lambda values, action: ops.max(values, axis=-1),
    "sarsa": value_of,
}
FINAL_EPSILONS = {0.1: 0.4, 0.01: 0.3, 0.5: 0.3}  # the paper's, and how likely each is
METRICS = ("loss", "q", "td_error")


@recorded
class OneStepTrainer(TrainerBase):
    """Trains a Keras model by asynchronous one-step Q-learning or SARSA, without a replay.

    Each worker is a thread with an environment of its own, explores with an epsilon of its own, and adds up the
    gradients of `local_max_steps` steps, or of those to an episode's end, before they are applied to the weights of
    all. The model is the user's own, `[B, *O]` to `[B, A]`. A compiled model brings its own optimizer and loss; one
    that is not is compiled with RMSProp (learning rate 1e-4, decay 0.99, epsilon 0.1) and the squared error.

    With one worker a run is determined by its seed. With more it is not: the order of their updates is that of the
    clock. Callbacks hear of episodes, updates and epochs at the end of an epoch, where the workers meet.

    Args:
        env: An environment id, an `Atari` game, a callable that returns a `gymnasium.Env` (it takes `render_mode` when
            films are made), or a `gymnasium.Env`, which is built again for each worker.
        model: A Keras model without recurrent layers. It is trained in place.
        method: `"q"` bootstraps from the best action's value, `"sarsa"` from that of the action taken next. At a time
            limit that action is drawn from the worker's behaviour policy, and not taken.
        workers: How many.
        eval_env: What to evaluate in, as `env`, with its actions and its observations; None for one like `env`.
        preprocess: None, a callable on a batch of observations `[1, ...]`, or a list of them. Workers call it at the
            same time. Atari games hand it the RGB screen, `[1, 210, 160, 3]`; without, they give grey-scale `[1, 84,
            84]`.
        frame_stack: Frames that make one observation of the model, channels last, oldest first; None for no stack.
        clip_rewards: Whether rewards are clipped to [-1, 1] for learning; returns that are logged are not. None does so
            for Atari games that are given by their id or as an `Atari`.
        local_max_steps: Steps of a worker whose gradients are added up before they are applied (the paper's I_update).
        target_network_update: Environment steps of all workers between two copies of the model into the target model
            (the paper's I_target).
        n_step: Steps of reward before the bootstrap, at most `local_max_steps`; 1 is the paper's one-step methods.
            Fewer where the segment ends, so that `local_max_steps` is the paper's n-step Q-learning.
        discount: gamma, per environment step, in [0, 1].
        epsilon_anneal: Environment steps of all workers in which epsilon falls from 1 to each worker's final one.
        final_epsilons: A dict of final epsilons and their probabilities, from which each worker draws.
        learning_rate_anneal: Environment steps in which the learning rate falls to zero; None keeps it.
        report_every: Environment steps in an epoch, after which callbacks hear of it.
        seed: From which all chance of the run is made.

    Raises:
        ValueError: If an argument is out of range, or the parts do not fit together.
        TypeError: If an argument is of the wrong type.
    """

    def __init__(
        self,
        env,
        model,
        *,
        method="q",
        workers=8,
        eval_env=None,
        preprocess=None,
        frame_stack=None,
        clip_rewards=None,
        local_max_steps=5,
        target_network_update=40_000,
        n_step=1,
        discount=0.99,
        epsilon_anneal=4_000_000,
        final_epsilons=FINAL_EPSILONS,
        learning_rate_anneal=None,
        report_every=2_000,
        seed=0,
    ):
        counts = {
            "workers": workers,
            "local_max_steps": local_max_steps,
            "target_network_update": target_network_update,
            "n_step": n_step,
            "epsilon_anneal": epsilon_anneal,
            "report_every": report_every,
        }
        check_count(1, **counts)
        check_count_or_none(1, frame_stack=frame_stack, learning_rate_anneal=learning_rate_anneal)
        check_count(0, seed=seed)
        check_bool_or_none(clip_rewards=clip_rewards)
        _check_arguments(model, method, local_max_steps, n_step, discount, final_epsilons)
        env, eval_env = (native(one, raw=bool(preprocess)) for one in (env, eval_env))
        if not hasattr(env, "make_vector"):
            _check_env(env, workers)
        super().__init__(env, model, eval_env=eval_env, frame_stack=frame_stack, report_every=report_every, seed=seed)
        self.learning_rate_anneal = learning_rate_anneal
        self.workers = make_workers(
            env,
            workers,
            preprocess=preprocess,
            frame_stack=frame_stack,
            clip_rewards=is_game(env) if clip_rewards is None else clip_rewards,
            looks_ahead=method == "sarsa",
            max_steps=local_max_steps,
            n_step=n_step,
            discount=discount,
            final_epsilons=final_epsilons,
            epsilon_anneal=epsilon_anneal,
            seed=seed,
        )
        with closing_on_error(env, self.close):
            trained, preprocess = [worker.environments for worker in self.workers], self.workers[0].preprocess
            check_evaluation(self._make_env, env, eval_env, trained=trained, preprocess=preprocess)
            self._assemble(method, target_network_update)

    @property
    def updates(self):
        """Updates made so far, each of the gradients of up to `local_max_steps` steps."""
        return self.shared.updates

    def save(self, path, *, replay=True):
        """Writes a checkpoint: a directory that `load` and `DQNInference` read.

        Args:
            path: The directory. A checkpoint in it is replaced, and stays until the new one is complete.
            replay: Of no effect: there is none.
        """
        del replay
        worker_snapshot.save(self, path)

    def close(self):
        """Closes the environments. No thread outlives `train`."""
        for worker in self.workers:
            worker.close()

    def _assemble(self, method, target_network_update):
        """Makes what learns, evaluates and reports, around the workers; the arguments are the constructor's."""
        model, first, stacked = self.model, self.workers[0], self.frame_stack is not None
        self.num_actions = int(first.environments.action_space.n)
        seen = merge_frames(first.seen) if stacked else first.seen
        check_model(model, seen, self.num_actions, frame_stack=self.frame_stack)
        self.preprocess = first.preprocess
        self.epoch = Epoch(METRICS)
        self._evaluated = Choice(
            model,
            EpsilonGreedy(lambda epsilon: epsilon),
            random=None,
            convolutions=has_convolutions(model),
            stacked=stacked,
        )
        if not model.compiled:
            optimizer = keras.optimizers.RMSprop(1e-4, rho=0.99, epsilon=0.1)
            model.compile(optimizer=optimizer, loss=keras.losses.MeanSquaredError())
        self.initial_rate = _check_optimizer(model.optimizer, self.learning_rate_anneal)
        self.shared = Shared(
            model,
            model.optimizer,
            target_update=target_network_update,
            learning_rate=self.learning_rate_anneal and self._learning_rate,
        )
        self.learner = OneStepLearner(model, self.shared, method=METHODS[method], stacked=stacked)
        self.learner.compile(first.observations, first.actions)
        self._compiled = self._compiled_now()

    def _advance(self, limit, last_episode, interrupt, *, on_episode_end, batches):
        """Runs the workers until they have made `limit` steps in all, and then tells callbacks of what happened."""
        shared, before = self.shared, self.episodes
        if any(worker.torn for worker in self.workers):
            raise RuntimeError(
                "An error has stopped a worker in the middle of a step. Go on from a checkpoint: load(path)."
            )
        shared.publish()  # callbacks may have set weights

        def stopped():
            return interrupt.pressed or before + len(shared.episodes) >= last_episode

        shared.allow(limit, stopped)
        try:
            with concurrent.futures.ThreadPoolExecutor(len(self.workers), "sota_dqn-worker") as pool:
                running = [pool.submit(self._work, worker) for worker in self.workers]
                try:
                    clocks = [future.result() for future in concurrent.futures.as_completed(running)]
                finally:
                    shared.stop()
        finally:
            self.steps = shared.steps
            self._tell(*shared.collect(), on_episode_end=on_episode_end, batches=batches)
        for clock in clocks:
            for phase, seconds in clock.seconds.items():
                self._clock.seconds[phase] += seconds / len(clocks)

    def _work(self, worker):
        """Runs a worker in a thread of its own; where it raises, the others are told to stop."""
        clock = Clock(self._clock.running)
        try:
            worker.run(self.learner, self.shared, clock)
        except BaseException:
            self.shared.stop()
            raise
        return clock

    def _tell(self, episodes, metrics, *, on_episode_end, batches):
        """Tells callbacks of the updates and the episodes since the last time, in their order.

        All of them are counted before: a callback may save the run, or raise.
        """
        calls, before = self.epoch.calls, self.episodes
        for made in metrics:
            self.epoch.learned(made)
        for _, episode in episodes:
            self.epoch.episode(episode)
        self.episodes += len(episodes)
        for number, made in enumerate(metrics, calls):
            batches.begin(number)
            batches.learned(number, made)
        batches.end()
        for number, (steps, episode) in enumerate(episodes, before):
            self._tell_episode(number, episode, steps, on_episode_end)

    def _restore(self, found):
        return worker_snapshot.restore(self, found)

    def _epsilon(self):
        return float(np.mean([worker.epsilon(self.steps) for worker in self.workers]))

    def _learning_rate(self, step):
        """Returns the learning rate after so many environment steps: in a straight line to zero."""
        return self.initial_rate * max(0.0, 1.0 - step / self.learning_rate_anneal)


class OneStepLearner:
    """The compiled parts of the algorithm: the values that are acted on, and the gradient of a segment.

    Both are functions of weights that they are given, so that any number of threads may run them at the same time.

    Args:
        model: A Keras model, `[B, *O]` to `[B, A]`.
        shared: A `Shared`.
        method: A function `(values [B, A], action [B]) -> [B]`.
        stacked: Whether observations come as `[B, k, *O]` stacks of frames.
    """

    def __init__(self, model, shared, *, method, stacked):
        self.model = model
        self.shared = shared
        self.method = method
        self.stacked = stacked
        self.loss = losses.from_keras(model.loss or keras.losses.MeanSquaredError())
        trained = {id(variable) for variable in model.trainable_variables}
        self.others = [variable for variable in model.variables if id(variable) not in trained]
        self.program = backend.Program([], [], backend.plan(convolutions=False))
        self._seen_values = self.program.compile(self._values_of_seen)
        self._gradient = self.program.compile(self.gradient)

    def compile(self, observations, actions):
        """Compiles both on zeros like the observations, `[N + 1, ...]`, and actions of a segment."""
        zeros = np.zeros(len(observations) - 1, "float32")
        segment = (np.zeros_like(observations), np.zeros_like(actions), zeros, zeros, zeros.astype("int32"), zeros)
        self._gradient(*self.shared.read(), *segment)
        self.values(self.shared.weights, np.zeros_like(observations[:1]))

    def values(self, weights, observations):
        """Returns the values under `weights` of what is seen, `[1, ...]`, on the host: `[A]`."""
        return ops.convert_to_numpy(self._seen_values(weights, observations))[0]

    def learn(self, segment):
        """Computes the gradient of a `Segment` at the weights as they are now, and has it applied once."""
        gradients, others, metrics = self._gradient(*self.shared.read(), *segment)
        metrics = {name: ops.convert_to_numpy(value) for name, value in metrics.items()}  # waits: work does not pile up
        self.shared.apply(gradients, others, metrics)

    def gradient(self, weights, target_weights, observation, action, returns, discount, bootstrap, mask):
        """Returns the gradient of the sum of the losses of a segment's steps.

        `sum_t loss(y_t, Q(s_t, a_t; theta))` with `y = G + d max_a Q(s', a; theta-)` for Q-learning and
        `y = G + d Q(s', a'; theta-)` for SARSA.

        Args:
            weights: theta, a list like the model's variables.
            target_weights: theta-, likewise.
            observation: `[N + 1, ...]`; this and what follows are the fields of a `Segment`.

        Returns:
            The gradients of the trainable variables, the new values of the others, and a dict of `METRICS`, `[1]` each.
        """
        if self.stacked:
            observation = merge_frames(observation)
        next_values = self.method(self._values(target_weights, observation), action)  # [N + 1]
        y = bootstrapped(returns, discount, ops.take(next_values, bootstrap))  # [N]

        def loss():
            trained = [(variable, variable.value) for variable in variables]  # what is differentiated
            with keras.StatelessScope([*self._mapping(weights), *trained], collect_losses=True) as scope:
                values = ops.cast(self.model(observation[:-1], training=True), "float32")
                q = ops.where(mask > 0, value_of(values, action[:-1]), 0.0)  # [N]
                penalties = sum(ops.cast(x, "float32") for x in self.model.losses)
                others = [scope.get_current_value(variable) for variable in self.others]
            errors = mask * self.loss(y, q)
            return ops.sum(errors) + penalties, (errors, q, others)

        variables = self.model.trainable_variables
        with keras.StatelessScope(self._mapping(weights)):
            (_, (errors, q, others)), gradients = self.program.value_and_grad(loss, variables)
        steps = ops.sum(mask)
        metrics = {"loss": errors, "q": mask * q, "td_error": mask * ops.abs(y - q)}
        return gradients, others, {name: ops.reshape(ops.sum(x) / steps, (1,)) for name, x in metrics.items()}

    def _values_of_seen(self, weights, observations):
        return self._values(weights, merge_frames(observations) if self.stacked else observations)

    def _values(self, weights, observations):
        """Returns the values under `weights`, `[B, ...]` to `[B, A]`, float32 whatever the model computes in."""
        with keras.StatelessScope(self._mapping(weights)):
            return ops.cast(self.model(observations, training=False), "float32")

    def _mapping(self, weights):
        return list(zip(self.model.variables, weights, strict=True))


def _check_arguments(model, method, local_max_steps, n_step, discount, final_epsilons):
    """Raises ValueError or TypeError where an argument of the algorithm is out of range."""
    if method not in METHODS:
        raise ValueError(f"Argument `method` must be one of {tuple(METHODS)}. Received: method={method!r}")
    if n_step > local_max_steps:
        raise ValueError(
            f"Argument `n_step` must be at most `local_max_steps`, {local_max_steps}. Received: n_step={n_step}"
        )
    check_probability(discount=discount)
    is_drawn = isinstance(final_epsilons, dict) and len(final_epsilons) > 0
    if not is_drawn or not all(_is_probability(x) and _is_probability(p) and p for x, p in final_epsilons.items()):
        raise ValueError(
            "Argument `final_epsilons` must be a dict of numbers in [0, 1] and their probabilities, above 0. "
            f"Received: final_epsilons={final_epsilons!r}"
        )
    if isinstance(model, keras.Model) and is_recurrent(model):
        raise ValueError("A recurrent model is not supported here: use DQNTrainer, which learns from sequences.")
    if isinstance(model, keras.Model) and previous_inputs(model):
        raise ValueError(f"The inputs {previous_inputs(model)} of the model are not supported here: use DQNTrainer.")


def _check_env(env, workers):
    """Raises ValueError unless each worker can have an environment of its own."""
    if is_vector(env) or (make_factory(env) is None and workers > 1):
        raise ValueError(
            "Each worker needs an environment of its own: pass an id, or a callable that makes one. "
            f"Received: env={env!r}, workers={workers}"
        )


def _check_optimizer(optimizer, learning_rate_anneal):
    """Returns the learning rate of a Keras optimizer, and raises ValueError where it cannot be used."""
    check_moving_average(optimizer)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise ValueError("A LossScaleOptimizer is not supported here: compile the model without loss scaling.")
    rate = optimizer.get_config()["learning_rate"]
    if learning_rate_anneal is not None and not isinstance(rate, numbers.Real):
        raise ValueError(
            "Argument `learning_rate_anneal` needs an optimizer whose learning rate is a number. Received: "
            f"learning_rate={rate!r}"
        )
    return rate


def _is_probability(value):
    return is_number(value) and 0 <= value <= 1
