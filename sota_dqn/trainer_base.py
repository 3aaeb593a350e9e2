"""What all trainers share: epochs with their callbacks, evaluation, Ctrl-C, rescue after an error, resuming.

`TrainerBase` is abstract. A trainer advances the run (`_advance`), saves it and takes it over again (`save`,
`_restore`).
"""

import abc
import inspect
import math
import secrets

import keras
import numpy as np

from sota_dqn import atari, callbacks, checkpoint, snapshot
from sota_dqn.checks import check_bool, check_count, check_count_or_none, check_probability
from sota_dqn.choice import Choice, Frames
from sota_dqn.evaluation import describe, make_evaluation_factory, play_episodes, summarize
from sota_dqn.preprocessing import Preprocessing
from sota_dqn.reporting import Batches, Clock, Epoch, Interrupt, Record, forget_nan
from sota_dqn.seeds import episode_seeds

__all__ = ["TrainerBase"]


class TrainerBase(abc.ABC):
    """A run: its totals, its history, and the calls that go on with it. A trainer sets the fields that are declared.

    Args:
        env: What is trained in, as the user passes it, Atari games as `Atari`.
        model: A checked Keras model.
        eval_env: What to evaluate in; None for one like `env`.
        frame_stack: Frames that make one observation of the model; None for no stack.
        report_every: Environment steps in an epoch.
        seed: From which all chance of the run is made.
    """

    epoch: Epoch
    preprocess: Preprocessing
    _evaluated: Choice  # called with epsilon for the step

    def __init__(self, env, model, *, eval_env, frame_stack, report_every, seed):
        self.model = model
        self.frame_stack = frame_stack
        self.report_every = report_every
        self.seed = seed
        self._make_env = make_evaluation_factory(env, eval_env)
        self._protocol = atari.protocol(env if eval_env is None else eval_env)
        self.eval_protocol: str | None = None  # how the last evaluation was played, a sentence
        self._clock = Clock(False)
        self.run = secrets.token_hex(4)  # names it; a run that is resumed keeps its own
        self.steps = self.episodes = self.evaluations = 0
        self.last_step = math.inf  # the total at which the running `train` ends
        self.history: dict[str, list[float]] = {}
        self.profile: dict[str, float] = {}
        self._compiled: list = []  # `_compiled_now` when the trainer was made

    @property
    @abc.abstractmethod
    def updates(self):
        """Gradient steps made so far."""

    def check_compiled(self):
        """Raises ValueError where the model was compiled anew, or some of it frozen, since the trainer was made.

        The trainer would not see it, and a checkpoint would hold the one with the statistics of the other.
        """
        now = self._compiled_now()
        if len(now) != len(self._compiled) or any(a is not b for a, b in zip(now, self._compiled, strict=True)):
            raise ValueError(
                "The model was compiled anew, or layers of it were frozen or unfrozen, after its trainer was made, "
                "which goes on with what it was. Make a new trainer of the model."
            )

    def _compiled_now(self):
        """Returns what the model is compiled with, and what of it is trained."""
        return [self.model.optimizer, self.model.loss, *self.model.trainable_variables]

    @property
    def settings(self):
        """By what the run was made, as JSON: the trainer's name, its arguments but the model, and the backend."""
        return snapshot.settings(self)

    @abc.abstractmethod
    def save(self, path, *, replay=True):
        """Writes a checkpoint to the directory `path`."""

    @abc.abstractmethod
    def close(self):
        """Closes the environments."""

    @abc.abstractmethod
    def _advance(self, limit, last_episode, interrupt, *, on_episode_end, batches):
        """Goes on until `limit` steps or `last_episode` episodes in all, or until Ctrl-C or a callback ends it."""

    @abc.abstractmethod
    def _restore(self, found):
        """Brings a new trainer to where the `Checkpoint` was written; returns whether the environments are there."""

    @abc.abstractmethod
    def _epsilon(self):
        """Returns the probability of a random action now, NaN where there is none to tell."""

    def train(self, steps=None, *, episodes=None, callbacks=None, verbose="auto", profile=False):
        """Trains the model; a second call goes on where the first stopped.

        Args:
            steps: Further environment steps, summed over the environments. Where these are stepped side by side it is
                rounded up to a step of all of them.
            episodes: Further episodes. The first of the two that is reached ends the training.
            callbacks: Keras callbacks or those of `sota_dqn.callbacks`. An epoch is `report_every` steps, a batch is
                one compiled call of updates.
            verbose: 0 is silent, 1 shows the progress; so do `"auto"` and 2.
            profile: Whether to measure the time of each phase, into `self.profile` (seconds), and to print it.

        Returns:
            A `keras.callbacks.History` of this call. The whole run's is `self.history`.

        Raises:
            ValueError: If a reward or an observation is not finite, the model was compiled anew, or an argument is out
                of range. Whatever error ends the training, a checkpoint is written first: by a `Checkpoint` callback,
                or else to the directory that the error names.
            KeyboardInterrupt: After Ctrl-C, when the running step is complete. The trainer can go on from there; a
                checkpoint for another process is written by a `Checkpoint` callback alone.
        """
        check_count_or_none(1, steps=steps, episodes=episodes)
        check_bool(profile=profile)
        if verbose not in ("auto", 0, 1, 2):
            raise ValueError(f'Argument `verbose` must be "auto", 0, 1 or 2. Received: verbose={verbose!r}')
        self.check_compiled()
        if steps is None and episodes is None:
            raise ValueError("Argument `steps` or `episodes` must be given. Received: steps=None, episodes=None")
        last_step = self.last_step = math.inf if steps is None else self.steps + steps
        last_episode = math.inf if episodes is None else self.episodes + episodes
        listeners = self._listeners(callbacks, verbose, last_step, last_episode)
        self.model.stop_training = False
        self._clock = Clock(profile)
        listeners.on_train_begin()
        with Interrupt(say=verbose != 0) as interrupt:
            try:
                self._loop(last_step, last_episode, listeners, interrupt)
                listeners.on_train_end()
            except Exception as error:
                self._rescue(listeners, error)
                raise
        if profile:
            self.profile = self._clock.finish()
            print("  ".join(f"{phase} {seconds:.2f} s" for phase, seconds in self.profile.items()))
        if interrupt.pressed:
            kept = _kept(listeners)
            later = "save() keeps it" if kept is None else f"so does {type(self).__name__}.load({str(kept.path)!r})"
            raise KeyboardInterrupt(
                f"Training was interrupted after {self.steps:,} steps; train() goes on from there, and {later}."
            )
        return next(c for c in listeners.callbacks if isinstance(c, keras.callbacks.History))

    def evaluate(self, episodes=20, *, epsilon=0.0, seed=None):
        """Plays whole episodes, in environments of their own.

        Args:
            episodes: How many.
            epsilon: The probability of a random action, in [0, 1]; 0 is the greedy policy.
            seed: From which the episodes' seeds are made; None takes the run's seed and the evaluation's number.

        Returns:
            A dict of `return_mean`, `return_std`, `returns`, `lengths` (environment steps), `seeds` and `protocol`.
        """
        check_count(1, episodes=episodes)
        check_probability(epsilon=epsilon)
        if seed is None:
            self.evaluations += 1
        else:
            check_count(0, seed=seed)
        # Streams count from 0: no episode of training shares the seeds of an evaluation's number.
        seeds = episode_seeds([self.seed, 2**32 - 1, self.evaluations] if seed is None else [seed], episodes)
        self._evaluated.random = np.random.default_rng(seeds)
        returns, lengths = play_episodes(
            lambda observations, **told: self._evaluated(observations, epsilon, **told),
            self._make_env,
            self.preprocess,
            Frames(self.frame_stack, "reset"),
            seeds=seeds,
        )
        self.eval_protocol = describe(epsilon, episodes, self._protocol)
        return summarize(returns, lengths, seeds, protocol=self.eval_protocol)

    @classmethod
    def load(cls, path, *, custom_objects=None, **given):
        """Returns the trainer of a checkpoint, ready to go on.

        On a CPU, with environments that are deterministic under their seed, a run in one thread ends bit for bit as if
        it had not been stopped. With others it goes on with fresh episodes, and says so.

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
        try:
            trainer = cls(arguments.pop("env"), model, **arguments)
        except ValueError as error:
            if not given:
                raise
            raise ValueError(f"The checkpoint {path} does not go with `{'`, `'.join(given)}`: {error}") from error
        try:
            restored = trainer._restore(found)
        except BaseException:
            trainer.close()
            raise
        if not restored:
            print(
                "The environments could not be brought back to where they were: training goes on with fresh episodes."
            )
        return trainer

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
            limit = min(boundary, last_step)
            self._advance(limit, last_episode, interrupt, on_episode_end=on_episode_end, batches=batches)
            if self.steps >= boundary or done():  # and not cut short by Ctrl-C
                with self._clock("idle"):
                    logs = self.epoch.end(self.steps, self.updates, self.episodes, self._epsilon())
                with self._clock("callbacks"):
                    listeners.on_epoch_end(number, logs)
                    forget_nan(listeners.callbacks)
            else:
                self.epoch.pause()

    def _tell_episode(self, number, episode, steps, on_episode_end):
        """Tells callbacks of an `Episode`, the run's `number`, that ended when `steps` had been made."""
        logs = {
            "episode_return": episode.episode_return,
            "episode_length": episode.episode_length,
            "steps": steps,
            "stream": episode.stream,
            "policy": episode.policy,
        }
        for listener in on_episode_end:
            listener(number, logs)

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
            epochs=None if last_step == math.inf else math.ceil(last_step / self.report_every),
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
        kept = _kept(listeners)
        path = f"sota_dqn-rescue-{self.steps}" if kept is None else kept.path
        snapshot.rescue(self, error, path, replay=kept is None or kept.replay)


def _kept(listeners):
    """Returns the first `Checkpoint` among the callbacks of a `CallbackList`, or None."""
    return next((c for c in listeners.callbacks if isinstance(c, callbacks.Checkpoint)), None)
