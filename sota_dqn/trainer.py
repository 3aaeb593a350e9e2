"""The training loop with a replay: act, learn and step at once.

`Trainer` is abstract. An algorithm is a subclass with one method, `build`, that makes its learner.
"""

import abc
import contextlib
import math

import numpy as np

from sota_dqn import backend, snapshot
from sota_dqn.acting import connect, make_actor, make_pace
from sota_dqn.actor_pool import as_actors
from sota_dqn.atari import Atari, is_game, native
from sota_dqn.checks import check_bool_or_none, check_count, check_count_or_none, check_number
from sota_dqn.choice import Choice
from sota_dqn.evaluation import check_evaluation
from sota_dqn.mixtures import AdvSwitch, Selection
from sota_dqn.models import check_model, has_convolutions
from sota_dqn.policies import EpsilonGreedy
from sota_dqn.replay import Replay
from sota_dqn.reporting import Epoch
from sota_dqn.samplers import Uniform
from sota_dqn.schedules import as_schedule, linear
from sota_dqn.storage import merge_frames
from sota_dqn.trainer_base import TrainerBase
from sota_dqn.vectors import closing_on_error

__all__ = ["Trainer"]

LEAST_UPDATES_PER_CALL = 8  # fewer than that cost more to call than to make


class Trainer(TrainerBase):
    """What every trainer with a replay does; the arguments are described where they are the user's, in `DQNTrainer`."""

    def __init__(
        self,
        env,
        model,
        *,
        num_envs,
        actors,
        vectorization_mode,
        eval_env,
        preprocess,
        frame_stack,
        clip_rewards,
        replay,
        policy,
        batch_size,
        updates_per_step,
        updates_per_call,
        learning_starts,
        report_every,
        seed,
    ):
        check_count(1, batch_size=batch_size, report_every=report_every)
        check_count_or_none(1, num_envs=num_envs, frame_stack=frame_stack)
        check_count_or_none(1, updates_per_call=updates_per_call, learning_starts=learning_starts)
        check_count(0, seed=seed)
        check_number(above=0, updates_per_step=updates_per_step)
        check_bool_or_none(clip_rewards=clip_rewards)
        _check_parts(replay, policy, batch_size)
        self.batch_size = batch_size
        self.updates_per_step = updates_per_step
        self.policy = EpsilonGreedy(linear(1.0, 0.05, steps=20_000)) if policy is None else policy
        self.replay = Replay() if replay is None else replay
        clip_rewards = is_game(env) if clip_rewards is None else clip_rewards
        env, eval_env = (
            native(one, raw=bool(preprocess)) if vectorization_mode is None or isinstance(one, Atari) else one
            for one in (env, eval_env)
        )
        if vectorization_mode == "vector_entry_point" and is_game(env):
            raise ValueError(
                "Atari games are stepped in ale-py's native vector environment unless told otherwise: leave "
                f"`vectorization_mode` out. Received: env={env!r}, vectorization_mode={vectorization_mode!r}"
            )
        super().__init__(env, model, eval_env=eval_env, frame_stack=frame_stack, report_every=report_every, seed=seed)
        self.actors = as_actors(actors)
        self.actor = make_actor(
            self.actors,
            env=env,
            num_envs=num_envs,
            vectorization_mode=vectorization_mode,
            preprocess=preprocess,
            frame_stack=frame_stack,
            clip_rewards=clip_rewards,
            seed=seed,
        )
        with closing_on_error(env, self.actor.close), self._giving_back():
            trained, preprocess = [self.actor.environments], self.actor.preprocess
            check_evaluation(self._make_env, env, eval_env, trained=trained, preprocess=preprocess)
            self._assemble(updates_per_call, learning_starts)

    @abc.abstractmethod
    def build(self):
        """Builds the replay and returns the `Learner`."""

    def build_replay(self, *, return_to_go=None, first_errors=None, **settings):
        """Builds the replay with these `settings` of `Replay.build`, which the algorithm decides.

        Args:
            return_to_go: The discount of stored returns to go; None where they are not stored.
            first_errors: The settings of `FirstErrors`, but for `after`, with which actor processes find priorities.
            **settings: `after`, and what else is not the default.
        """
        self.actor.discount = return_to_go
        if not isinstance(self.replay.sampler, Uniform):
            self.actor.first_errors = first_errors and {"after": settings["after"], **first_errors}
        self.replay.build(
            self.num_envs,
            observation_shape=self.actor.preprocess.shape,
            observation_dtype=self.actor.preprocess.dtype,
            chunk=2 * (self._chunk() + 1),  # a step writes two rows where an episode ends
            frame_stack=self.frame_stack,
            padding=self.actor.frames.padding,
            return_to_go=return_to_go is not None,
            **settings,
        )

    @property
    def updates(self):
        """Gradient steps made so far."""
        return self.learner.updates

    def save(self, path, *, replay=True):
        """Writes a checkpoint: a directory that `load` and `DQNInference` read.

        Args:
            path: The directory. A checkpoint in it is replaced, and stays until the new one is complete.
            replay: Whether the replay is part of it. Without, files are small, and a resumed run first fills a new
                replay.
        """
        snapshot.save(self, path, replay=replay)

    def close(self):
        """Closes the environments and their worker processes."""
        self.actor.close()

    def _assemble(self, updates_per_call, learning_starts):
        """Makes what learns, chooses and reports, around the actor; the arguments are the constructor's."""
        self.preprocess = self.actor.preprocess
        self.num_envs = self.actor.num_envs
        stacked = self.actor.stacked if self.frame_stack is None else merge_frames(self.actor.stacked)
        num_actions = int(self.actor.environments.action_space.n)
        check_model(self.model, stacked, num_actions, frame_stack=self.frame_stack)
        names = ("sampling", "acting", "selecting")
        self.random = dict(zip(names, np.random.default_rng(self.seed).spawn(len(names)), strict=True))
        self.updates_per_call = updates_per_call or self._good_updates_per_call()
        self.learner = self.build()
        self.learning_starts = self._first_update(learning_starts)
        self._running: dict = {}  # what the newest call of updates will return
        self.pace = make_pace(self.actors, self.updates_per_step, self.updates_per_call, self.learning_starts)
        connect(self.actor, self.learner, self.policy, self._choice, self.random, pace=self.pace, chunk=self._chunk())
        self._evaluated = self._choice(EpsilonGreedy(lambda epsilon: epsilon))
        self.epoch = Epoch(self.learner.metrics, getattr(self.policy, "names", ()))
        self._compiled = self._compiled_now()

    @contextlib.contextmanager
    def _giving_back(self):
        """Lets another trainer have the replay and the policy where the block raises."""
        try:
            yield
        except BaseException:
            self.replay.release()
            if isinstance(self.policy, Selection):
                self.policy.random = None
            raise

    def _first_update(self, learning_starts):
        """Returns the environment steps before the first update, after checking that there are rows to draw by then."""
        ready = max(self.batch_size, self.num_envs * (self.replay.after + self.replay.period + 1))
        if learning_starts is not None and learning_starts < ready:
            raise ValueError(
                f"Argument `learning_starts` must be at least {ready} with {self.num_envs} environments and batches of "
                f"{self.batch_size}. Received: learning_starts={learning_starts}"
            )
        return max(1_000, ready) if learning_starts is None else learning_starts

    def _advance(self, limit, last_episode, interrupt, *, on_episode_end, batches):
        self.actor.last_step = self.last_step
        with self.learner.training(), backend.asynchronous():
            while self.steps < limit and self.episodes < last_episode:
                if self.model.stop_training or interrupt.pressed:
                    break
                self._step(on_episode_end, batches)
        self.epoch.more = self.actor.logs()

    def _restore(self, found):
        return snapshot.restore(self, found)

    def _step(self, on_episode_end, batches):
        """Steps every environment once, while the device makes the updates that are due."""
        made, episodes = self.actor.advance(self.steps, lambda: self._learn(batches), self._clock)
        self.steps += made
        before = self.episodes
        self.episodes += len(episodes)
        for episode in episodes:
            self.epoch.episode(episode)
        for number, episode in enumerate(episodes, before):
            self._tell_episode(number, episode, self.steps, on_episode_end)
        batches.end()

    def _learn(self, batches):
        """Dispatches the updates that are due, in compiled calls or none. The actions were chosen before them."""
        due = self.pace.due(self.steps, self.updates)
        if self.actors is not None:
            due = min(due, self.updates_per_call)  # chunks may be waiting
        for _ in range(due // self.updates_per_call):
            batches.end()  # what a callback hears at its end may stop training before the next
            if self.model.stop_training:
                break
            with self._clock("insert"):
                self.actor.flush()
            number = self.epoch.calls
            batches.begin(number)
            with self._clock("learn"):
                learned = self.learner.learn(self.steps)
                if self.actors is not None:  # or calls would queue up, and chunks wait until the last of them is done
                    backend.wait(self._running)
                    self._running = learned
            self.epoch.learned(learned)
            batches.learned(number, learned)
        return due

    def _good_updates_per_call(self):
        """Returns K: what a step of all environments is worth, or a few such steps; with convolutions on a CPU less.

        There XLA runs a loop slowly and JAX unrolls it (see `backend.plan`), so a large K only takes longer to compile.
        """
        worth = self.num_envs * self.updates_per_step
        plan = backend.plan(convolutions=has_convolutions(self.model))
        if not plan.fused:
            return 1
        return max(1, round(worth * math.ceil(LEAST_UPDATES_PER_CALL / worth)))

    def _chunk(self):
        """Returns the steps of every environment that may be written between two calls."""
        if self.actors is not None:
            return self.actor.steps_between_draws
        return max(1, math.ceil(self.updates_per_call / (self.num_envs * self.updates_per_step)))

    def _choice(self, policy, random=None):
        """Returns a compiled policy that draws from `random`, with the learner's state where that is learned."""
        return Choice(
            self.model,
            policy,
            random=random,
            convolutions=has_convolutions(self.model),
            stacked=self.frame_stack is not None,
            recurrent=self.learner.recurrent,
            clip_rewards=self.actor.clip_rewards,
        )

    def _epsilon(self):
        epsilon = getattr(self.policy, "epsilon", None)
        return math.nan if epsilon is None else float(as_schedule(epsilon, "policy.epsilon")(self.steps))


def _check_parts(replay, policy, batch_size):
    """Raises ValueError or TypeError where one of these cannot be used."""
    if replay is not None and not isinstance(replay, Replay):
        raise TypeError(f"Argument `replay` must be a `Replay`. Received: replay={replay!r}")
    if replay is not None:
        replay.check_unused(batch_size)
    if isinstance(policy, Selection) and policy.random is not None:
        raise ValueError("Argument `policy` already belongs to another trainer: make one for each.")
    if isinstance(policy, AdvSwitch) and policy.reference is not None:
        raise ValueError(
            "Argument `reference` must be None outside of a `Mixture`, whose policies it names. Received: "
            f"reference={policy.reference!r}"
        )
    if isinstance(policy, type) or policy is not None and not callable(policy) and not isinstance(policy, Selection):
        raise TypeError(f"Argument `policy` must be a function of values. Received: policy={policy!r}")
    epsilon = getattr(policy, "epsilon", None)
    if epsilon is not None:
        as_schedule(epsilon, "policy.epsilon")
    for part in getattr(policy, "parts", [policy]):
        check_count(1, **{"policy.hold": getattr(part, "hold", 1)})
