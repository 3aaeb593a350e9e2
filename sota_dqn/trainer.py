"""The training loop: act, learn and step at once, report, evaluate, save and resume.

`Trainer` is abstract. An algorithm is a subclass with one method, `build`, that makes its learner.
"""

import abc
import inspect
import math
import secrets

import keras
import numpy as np

from sota_dqn import backend, callbacks, checkpoint, snapshot
from sota_dqn.acting import connect, make_actor, make_pace
from sota_dqn.actor_pool import as_actors
from sota_dqn.atari import Atari, native
from sota_dqn.checks import check_positive
from sota_dqn.choice import Choice, Frames
from sota_dqn.environments import episode_seeds, make_evaluation_factory
from sota_dqn.evaluation import describe, play_episodes, summarize
from sota_dqn.mixtures import Selection
from sota_dqn.models import check_model, has_convolutions
from sota_dqn.policies import EpsilonGreedy
from sota_dqn.replay import Replay
from sota_dqn.reporting import Batches, Clock, Epoch, Interrupt, Record
from sota_dqn.samplers import Uniform
from sota_dqn.schedules import linear
from sota_dqn.storage import merge_frames

__all__ = ["Trainer"]

LEAST_UPDATES_PER_CALL = 8  # fewer than that cost more to call than to make


class Trainer(abc.ABC):
    """What every trainer does; the arguments are described where they are the user's, in `DQNTrainer`."""

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
        check_positive(num_envs=num_envs, frame_stack=frame_stack, batch_size=batch_size, report_every=report_every)
        check_positive(updates_per_call=updates_per_call, learning_starts=learning_starts)
        if not 0 < updates_per_step < math.inf:
            raise ValueError(
                f"Argument `updates_per_step` must be above 0. Received: updates_per_step={updates_per_step}"
            )
        _check_parts(replay, policy, batch_size, seed)
        self.model = model
        self.seed = seed
        self.batch_size = batch_size
        self.updates_per_step = updates_per_step
        self.report_every = report_every
        self.policy = EpsilonGreedy(linear(1.0, 0.05, steps=20_000)) if policy is None else policy
        self.replay = Replay() if replay is None else replay
        if vectorization_mode is None:
            env, eval_env = (native(one, raw=preprocess is not None) for one in (env, eval_env))
        self.actors = as_actors(actors)
        self._make_env = make_evaluation_factory(env, eval_env)
        self._protocol = getattr(env if eval_env is None else eval_env, "protocol", None)
        clip_rewards = isinstance(env, Atari) if clip_rewards is None else clip_rewards
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
        self.num_envs = self.actor.num_envs
        stacked = self.actor.stacked if frame_stack is None else merge_frames(self.actor.stacked)
        check_model(model, stacked, int(self.actor.environments.action_space.n))
        names = ("sampling", "acting", "selecting")
        self.random = dict(zip(names, np.random.default_rng(seed).spawn(len(names)), strict=True))
        self.updates_per_call = updates_per_call or self._good_updates_per_call()
        self.frame_stack = frame_stack
        self.learner = self.build()
        # By then there are rows to draw.
        ready = max(batch_size, self.num_envs * (self.replay.after + self.replay.period + 1))
        self.learning_starts = max(1_000, ready) if learning_starts is None else learning_starts
        if self.learning_starts < ready:
            raise ValueError(
                f"Argument `learning_starts` must be at least {ready} with {self.num_envs} environments and batches of "
                f"{batch_size}. Received: learning_starts={learning_starts}"
            )
        self.pace = make_pace(self.actors, updates_per_step, self.updates_per_call, self.learning_starts)
        connect(self.actor, self.learner, self.policy, self._choice, self.random, pace=self.pace, chunk=self._chunk())
        self._evaluated = self._choice(EpsilonGreedy(lambda epsilon: epsilon))  # called with epsilon for the step
        self.run = secrets.token_hex(4)  # names it; a run that is resumed keeps its own
        self.steps = self.episodes = self.evaluations = 0
        self.history: dict[str, list[float]] = {}
        self.profile: dict[str, float] = {}
        self.epoch = Epoch(self.learner.metrics, getattr(self.policy, "names", ()))

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
    def settings(self):
        """By what the run was made, as JSON: the trainer's name, its arguments but the model, and the backend."""
        return snapshot.settings(self)

    @property
    def updates(self):
        """Gradient steps made so far."""
        return self.learner.updates

    def train(self, steps=None, *, episodes=None, callbacks=None, verbose="auto", profile=False):
        """Trains the model; a second call goes on where the first stopped.

        Args:
            steps: Further environment steps, summed over the environments; rounded up to a step of all of them.
            episodes: Further episodes. The first of the two that is reached ends the training.
            callbacks: Keras callbacks or those of `sota_dqn.callbacks`. An epoch is `report_every` steps, a batch is
                one compiled call of `updates_per_call` updates.
            verbose: 0 is silent, 1 shows the progress; `"auto"` is 1.
            profile: Whether to measure the time of each phase, into `self.profile` (seconds), and to print it.

        Returns:
            A `keras.callbacks.History` of this call. The whole run's is `self.history`.

        Raises:
            ValueError: If a reward or an observation is NaN, or an argument is out of range. Whatever ends the training
                early, a checkpoint is written first: by a `Checkpoint` callback, or else to the directory that the
                error names.
            KeyboardInterrupt: After Ctrl-C, when the running step is complete. Training can go on from there.
        """
        check_positive(steps=steps, episodes=episodes)
        if steps is None and episodes is None:
            raise ValueError("Argument `steps` or `episodes` must be given. Received: steps=None, episodes=None")
        last_step = self.actor.last_step = math.inf if steps is None else self.steps + steps
        last_episode = math.inf if episodes is None else self.episodes + episodes
        listeners = self._listeners(callbacks, verbose, last_step, last_episode)
        self.model.stop_training = False
        self._clock = Clock(profile)
        listeners.on_train_begin()
        with Interrupt() as interrupt:
            try:
                with backend.asynchronous():
                    self._loop(last_step, last_episode, listeners, interrupt)
            except Exception as error:
                self._rescue(listeners, error)
                raise
            listeners.on_train_end()
        if profile:
            self.profile = self._clock.finish()
            print("  ".join(f"{phase} {seconds:.2f} s" for phase, seconds in self.profile.items()))
        if interrupt.pressed:
            raise KeyboardInterrupt(f"Training was interrupted after {self.steps:,} steps; train() goes on from there.")
        return next(c for c in listeners.callbacks if isinstance(c, keras.callbacks.History))

    def evaluate(self, episodes=20, *, epsilon=0.0, seed=None):
        """Plays whole episodes, in environments of their own.

        Args:
            episodes: How many.
            epsilon: The probability of a random action; 0 is the greedy policy.
            seed: From which the episodes' seeds are made; None takes the run's seed and the evaluation's number.

        Returns:
            A dict of `return_mean`, `return_std`, `returns`, `lengths` (environment steps), `seeds` and `protocol`.
        """
        check_positive(episodes=episodes)
        if seed is None:
            self.evaluations += 1
        # Streams count from 0: no episode of training shares these seeds.
        seeds = episode_seeds([self.seed, 2**32 - 1, self.evaluations] if seed is None else [seed], episodes)
        self._evaluated.random = np.random.default_rng(seeds)
        returns, lengths = play_episodes(
            lambda observations, **told: self._evaluated(observations, epsilon, **told),
            self._make_env,
            self.actor.preprocess,
            Frames(self.frame_stack, self.actor.frames.padding),
            seeds=seeds,
        )
        return summarize(returns, lengths, seeds, protocol=describe(epsilon, episodes, self._protocol))

    def save(self, path, *, replay=True):
        """Writes a checkpoint: a directory that `load` and `DQNInference` read.

        Args:
            path: The directory. A checkpoint in it is replaced, and stays until the new one is complete.
            replay: Whether the replay is part of it. Without, files are small, and a resumed run first fills a new
                replay.
        """
        snapshot.save(self, path, replay=replay)

    @classmethod
    def load(cls, path, *, custom_objects=None, **given):
        """Returns the trainer of a checkpoint, ready to go on.

        On a CPU, with environments that are deterministic under their seed, the run ends bit for bit as if it had not
        been stopped. With others it goes on with fresh episodes, and says so.

        Args:
            path: The checkpoint's directory.
            custom_objects: A dict of the names and classes of the model's own layers.
            **given: Arguments of the trainer that the checkpoint cannot hold (an environment's callable, preprocessing,
                a target, policy or penalty of your own), or that are to be others from now on.

        Raises:
            FileNotFoundError: If there is no checkpoint.
            ValueError: If it is damaged, of another version or environment, or needs an argument that is not given.
        """
        found = checkpoint.Checkpoint(path)
        if found.config["trainer"] != cls.__name__:
            raise ValueError(f"The checkpoint {path} is of a {found.config['trainer']}, not of a {cls.__name__}.")
        known = inspect.signature(cls).parameters
        for name in given:
            if name not in known or name == "model":
                raise TypeError(f"{cls.__name__}.load() got an unexpected argument `{name}`.")
        arguments = snapshot.arguments_of(found, given)
        model = snapshot.load_model(found, custom_objects)
        trainer = cls(arguments.pop("env"), model, **arguments)
        try:
            restored = snapshot.restore(trainer, found)
        except BaseException:
            trainer.close()
            raise
        if not restored:
            print(
                "The environments could not be brought back to where they were: training goes on with fresh episodes."
            )
        return trainer

    def close(self):
        """Closes the environments and their worker processes."""
        self.actor.close()

    def _loop(self, last_step, last_episode, listeners, interrupt):
        """Runs epochs until the end, a callback or Ctrl-C stops it; one that Ctrl-C cuts short goes on next time."""
        on_episode_end = [c.on_episode_end for c in listeners.callbacks if hasattr(c, "on_episode_end")]
        batches = Batches(listeners)

        def done():
            return self.steps >= last_step or self.episodes >= last_episode or self.model.stop_training

        while not done() and not interrupt.pressed:
            number = len(next(iter(self.history.values()), []))
            listeners.on_epoch_begin(number)
            boundary = self.epoch.begin(self.steps, self.updates, self.report_every)
            while self.steps < boundary and not done() and not interrupt.pressed:
                self._step(on_episode_end, batches)
            if self.steps >= boundary or done():  # and not cut short by Ctrl-C
                with self._clock("idle"):
                    logs = self.epoch.end(self.steps, self.updates, self.episodes, self._epsilon())
                    logs |= self.actor.logs()
                with self._clock("callbacks"):
                    listeners.on_epoch_end(number, logs)

    def _step(self, on_episode_end, batches):
        """Steps every environment once, while the device makes the updates that are due."""
        made, episodes = self.actor.advance(self.steps, lambda: self._learn(batches), self._clock)
        self.steps += made
        before = self.episodes
        self.episodes += len(episodes)
        for episode in episodes:
            self.epoch.episode(episode)
        for number, episode in enumerate(episodes, before):
            logs = {
                "episode_return": episode.episode_return,
                "episode_length": episode.episode_length,
                "steps": self.steps,
                "stream": episode.stream,
                "policy": episode.policy,
            }
            for listener in on_episode_end:
                listener(number, logs)
        batches.end()

    def _learn(self, batches):
        """Dispatches the updates that are due, in compiled calls or none. The actions were chosen before them."""
        due = self.pace.due(self.steps, self.updates)
        if self.actors is not None:
            due = min(due, self.updates_per_call)  # chunks may be waiting
        for _ in range(due // self.updates_per_call):
            with self._clock("insert"):
                self.actor.flush()
            number = self.epoch.calls
            batches.begin(number)
            with self._clock("learn"):
                learned = self.learner.learn(self.steps)
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
        return math.nan if epsilon is None else float(epsilon(self.steps))

    def _listeners(self, given, verbose, last_step, last_episode):
        """Returns the `CallbackList` of a call of `train`."""
        arranged = callbacks.arrange(keras.tree.flatten(given) if given else [], Record(self.history), verbose=verbose)
        for callback in arranged:
            if isinstance(callback, callbacks.Checkpoint):
                checkpoint.check_directory(callback.path)
        listeners = keras.callbacks.CallbackList(
            arranged,
            add_history=True,
            model=self.model,
            steps=None if last_step == math.inf else last_step,
            episodes=None if last_episode == math.inf else last_episode,
            verbose=verbose,
        )
        for callback in listeners.callbacks:
            if isinstance(callback, callbacks.Callback):
                callback.set_trainer(self)
        return listeners

    def _rescue(self, listeners, error):
        """Sees to it that what was learned before `error` is on the disk."""
        kept = next((c for c in listeners.callbacks if isinstance(c, callbacks.Checkpoint)), None)
        path = f"sota_dqn-rescue-{self.steps}" if kept is None else kept.path
        snapshot.rescue(self, error, path, replay=kept is None or kept.replay)


def _check_parts(replay, policy, batch_size, seed):
    """Raises ValueError or TypeError where one of these cannot be used."""
    if replay is not None and not isinstance(replay, Replay):
        raise TypeError(f"Argument `replay` must be a `Replay`. Received: replay={replay!r}")
    if replay is not None:
        replay.check_unused(batch_size)
    if isinstance(policy, Selection) and policy.random is not None:
        raise ValueError("Argument `policy` already belongs to another trainer: make one for each.")
    if policy is not None and not callable(policy) and not isinstance(policy, Selection):
        raise TypeError(f"Argument `policy` must be a function of values. Received: policy={policy!r}")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"Argument `seed` must be an integer of at least 0. Received: seed={seed!r}")
