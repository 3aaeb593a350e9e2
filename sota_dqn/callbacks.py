"""Callbacks that need the trainer: evaluation, checkpoints, records, the learning curve and the progress display.

Keras's own callbacks work unchanged beside them. A Keras *epoch* is one reporting interval, and its `logs` have the
names that the README lists. To add one, subclass `Callback` and override Keras's hooks or `on_episode_end`:
`self.trainer` is there from `on_train_begin` on. The callbacks of an epoch share one `logs`, evaluations first, then in
the order in which they were passed: what one writes, those after it see.
"""

import json
import math
import pathlib
import shutil
import sys
from time import monotonic
from typing import Any

import keras

from sota_dqn import plots
from sota_dqn.checks import check_bool, check_count, check_number, check_probability, is_number
from sota_dqn.files import check_writable, replacing
from sota_dqn.history import evaluations, last, number, reported_steps

__all__ = ["Callback", "Checkpoint", "Evaluation", "LearningCurve", "Progress", "RunLog"]

LEARNING_RATE = (keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau)


class Callback(keras.callbacks.Callback):
    """A Keras callback that knows its trainer and hears of the end of every episode."""

    def __init__(self):
        super().__init__()
        self.trainer: Any = None

    def set_trainer(self, trainer):
        """Sets `self.trainer`; the trainer calls it before `on_train_begin`."""
        self.trainer = trainer

    def on_episode_end(self, episode, logs=None):
        """Called when an episode of training has ended.

        Args:
            episode: How many had ended before, over all streams and the whole run.
            logs: A dict of `episode_return`, `episode_length` (environment steps), `steps` (total environment steps)
                `stream` (which of the environments) and `policy` (the one of a mixture that played it, or None).
        """


def arrange(given, record, *, verbose):
    """Returns callbacks in the order in which they are told: evaluations first, whose results the others then see.

    Args:
        given: The user's, a list.
        record: What keeps the history. It is told again after schedules of the learning rate, which is in their logs.
        verbose: Whether the progress is shown.

    Raises:
        TypeError: If one of them is no callback.
        ValueError: If one of them cannot work here.
    """
    for callback in given:
        if not isinstance(callback, keras.callbacks.Callback):
            raise TypeError(f"Argument `callbacks` must be a list of Keras callbacks. Received: callbacks={given!r}")
    if any(isinstance(callback, keras.callbacks.BackupAndRestore) for callback in given):
        raise ValueError(
            "BackupAndRestore cannot resume a replay and its environments: use "
            "sota_dqn.callbacks.Checkpoint(path), and DQNTrainer.load(path) to go on."
        )
    first = [callback for callback in given if isinstance(callback, Evaluation)]
    rest = [callback for callback in given if not isinstance(callback, Evaluation)]
    written = max((count for count, callback in enumerate(rest, 1) if isinstance(callback, LEARNING_RATE)), default=0)
    again = [record] if written else []
    return [*first, record, *rest[:written], *again, *rest[written:], *([Progress()] if verbose else [])]


class Evaluation(Callback):
    """Evaluates at regular steps, keeps the best model, and ends the training when the task is solved: then `solved`.

    Puts `eval_return` and `eval_length` (means over the episodes) into the logs of every epoch: NaN before the first
    evaluation, then those of the last one; and `evaluations`, how many there were. In a resumed run it goes on with
    what the history tells.

    Args:
        evaluate_every: Total environment steps. An evaluation takes place at the end of the epoch in which a multiple
            of it is passed.
        episodes: How many to play each time.
        epsilon: The probability of a random action in them; 0 is the greedy policy.
        best_model: A path ending in `.keras` for the model of the best evaluation so far, None to keep none.
        stop_at: The mean return at which the task is solved, None to train on.
        consecutive: How many evaluations in a row must reach `stop_at`.
    """

    def __init__(self, evaluate_every=2_000, *, episodes=20, epsilon=0.0, best_model=None, stop_at=None, consecutive=1):
        super().__init__()
        check_count(1, evaluate_every=evaluate_every, episodes=episodes, consecutive=consecutive)
        check_probability(epsilon=epsilon)
        if stop_at is not None:
            check_number(stop_at=stop_at)
        _check_suffix("best_model", best_model, ".keras", optional=True)
        self.evaluate_every = evaluate_every
        self.episodes = episodes
        self.epsilon = epsilon
        self.best_model = best_model
        self.stop_at = stop_at
        self.consecutive = consecutive
        self.best = -math.inf
        self.solved = False
        self._in_a_row = 0
        self._steps = 0
        self._known = {}

    def on_train_begin(self, logs=None):
        if self.best_model:
            check_writable(self.best_model)
            recurrent = getattr(getattr(self.trainer, "learner", None), "recurrent", None)
            if recurrent is not None and recurrent.initial:
                print(f"{self.best_model} begins episodes with zeros: the learned state is in checkpoints alone.")
        history = self.trainer.history
        self._steps = reported_steps(history)
        self._known = {name: last(history, name) for name in ("eval_return", "eval_length")}
        self.best, self._in_a_row = -math.inf, 0
        for value in evaluations(history):
            self._count(value)
        self.solved = self._is_solved()
        self._known["evaluations"] = number(last(history, "evaluations"), 0.0)
        if self.best_model and not pathlib.Path(self.best_model).exists():
            self.best = -math.inf  # the best model of the run so far is not there: any is better than none

    def on_epoch_end(self, epoch, logs=None):
        steps = self.trainer.steps
        if _passed(self._steps, steps, self.evaluate_every):
            found = self.trainer.evaluate(episodes=self.episodes, epsilon=self.epsilon)
            value = float(found["return_mean"])
            made = self._known["evaluations"] + 1.0
            length = sum(found["lengths"]) / len(found["lengths"])
            self._known = {"eval_return": value, "eval_length": length, "evaluations": made}
            if value > self.best and self.best_model:
                with replacing(self.best_model) as path:
                    self.model.save(path)
            self._count(value)
            self.solved = self._is_solved()
            if self.solved:
                self.model.stop_training = True
        self._steps = steps
        if logs is not None:
            logs.update(self._known)

    def _is_solved(self):
        return self.stop_at is not None and self._in_a_row >= self.consecutive

    def _count(self, value):
        self.best = max(self.best, value)
        self._in_a_row = self._in_a_row + 1 if self.stop_at is not None and value >= self.stop_at else 0


class Checkpoint(Callback):
    """Saves the whole run at regular steps and when the training ends, so that it can be resumed.

    Args:
        path: The checkpoint's directory, as of `trainer.save`.
        save_every: Total environment steps. The run is saved at the end of the epoch in which a multiple of it is
            passed.
        replay: Whether to save the replay too; without it a resumed run starts with an empty one.
    """

    def __init__(self, path, *, save_every=10_000, replay=True):
        super().__init__()
        check_count(1, save_every=save_every)
        check_bool(replay=replay)
        self.path = path
        self.save_every = save_every
        self.replay = replay
        self._steps = 0

    def on_train_begin(self, logs=None):
        self._steps = reported_steps(self.trainer.history)

    def on_epoch_end(self, epoch, logs=None):
        steps = self.trainer.steps
        if _passed(self._steps, steps, self.save_every):
            self.trainer.save(self.path, replay=self.replay)
        self._steps = steps

    def on_train_end(self, logs=None):
        self.trainer.save(self.path, replay=self.replay)


class LearningCurve(Callback):
    """Redraws the learning curve of the whole run while it goes on, and once more when the training ends.

    Args:
        path: A path ending in `.png`.
        every: Seconds between two drawings, at least, and more where drawing would take more than a 20th of the time. 0
            draws after every epoch.
        title: Above the curve; None for none.
    """

    def __init__(self, path, *, every=5.0, title=None):
        super().__init__()
        _check_suffix("path", path, ".png")
        _check_seconds(every)
        self.path = path
        self.every = every
        self.title = title
        self._next = -math.inf  # when it may be drawn again

    def on_train_begin(self, logs=None):
        check_writable(self.path)

    def on_epoch_end(self, epoch, logs=None):
        if monotonic() >= self._next:
            self._draw()

    def on_train_end(self, logs=None):
        self._draw()

    def _draw(self):
        begun = monotonic()
        plots.learning_curve(self.trainer.history, self.path, title=self.title)
        done = monotonic()
        self._next = done + max(self.every, 20 * (done - begun)) if self.every else done


class RunLog(Callback):
    """Keeps a run's settings and curves in `run.json`, for `python -m sota_dqn.plot` to compare it with others.

    The file holds `run` (an id that a resumed run keeps), `settings`, `model` (name, parameters, optimizer, loss),
    `eval_protocol` (how the last evaluation was played) and `history`, the logs of every epoch by name, None for NaN.

    Args:
        directory: Of the run. A run of another id in it is an error: it would be lost.
        every: Seconds between two writings, at least. It is written when the training ends in any case.
    """

    def __init__(self, directory, *, every=10.0):
        super().__init__()
        _check_seconds(every)
        self.path = pathlib.Path(directory) / "run.json"
        self.every = every
        self._written = -math.inf
        self._optimizer: dict[str, str] = {}

    def on_train_begin(self, logs=None):
        check_writable(self.path)
        optimizer = self.trainer.model.optimizer
        self._optimizer = {name: str(value) for name, value in optimizer.get_config().items()}
        if self.path.exists():
            try:
                found = json.loads(self.path.read_text())
                run, model = found["run"], found["model"]
            except (ValueError, KeyError, TypeError):
                run, model = None, {}
            if run != self.trainer.run:
                raise ValueError(f"{self.path} is of another run, which would be lost. Choose another directory.")
            self._optimizer = model.get("optimizer", self._optimizer)  # as it began: a schedule may have changed it

    def on_epoch_end(self, epoch, logs=None):
        if monotonic() - self._written >= self.every:
            self._write()

    def on_train_end(self, logs=None):
        self._write()

    def _write(self):
        trainer = self.trainer
        history = {name: [number(value) for value in values] for name, values in trainer.history.items()}
        model = {
            "name": trainer.model.name,
            "parameters": trainer.model.count_params(),
            "optimizer": self._optimizer,
            "loss": _name_of(trainer.model.loss),
        }
        record = {"run": trainer.run, "settings": trainer.settings, "model": model, "history": history}
        with replacing(self.path) as path:
            path.write_text(json.dumps(record | {"eval_protocol": trainer.eval_protocol}, default=float) + "\n")
        self._written = monotonic()


class Progress(Callback):
    """Shows how far the training is: one line that rewrites itself on a terminal, a line now and then in a file.

    Args:
        stream: A text file to write to, None for the standard output.
    """

    EVERY = 10.0  # seconds between two lines in a file

    def __init__(self, stream=None):
        super().__init__()
        self.stream = stream
        self._logs, self._first, self._protocol = {}, {}, None
        self._begin = self._shown = 0.0

    def on_train_begin(self, logs=None):
        self._begin, self._shown, self._logs = monotonic(), -math.inf, {}
        self._first = {"steps": self.trainer.steps, "episodes": number(last(self.trainer.history, "episodes"), 0)}

    def on_epoch_end(self, epoch, logs=None):
        self._logs = dict(logs or {})
        protocol = self.trainer.eval_protocol
        if protocol != self._protocol and number(self._logs.get("eval_return")) is not None:
            self._protocol = protocol
            print("\r\x1b[K" * self._terminal() + f"evaluations: {protocol}", file=self.stream or sys.stdout)
        if self._terminal() or monotonic() - self._shown >= self.EVERY:
            self._show(self._time_left())

    def on_train_end(self, logs=None):
        if self._logs:
            self._show(f"took {_duration(monotonic() - self._begin)}", end="\n")

    def _show(self, when, *, end=""):
        stream, text = self.stream or sys.stdout, ""
        width = shutil.get_terminal_size().columns - 1 if self._terminal() else math.inf
        for part in (*self._totals(), when, *self._figures()):
            longer = f"{text}  {part}" if text else part
            text = longer if part and len(longer) <= width else text  # what does not fit is left out
        stream.write(f"\r{text}\x1b[K{end}" if self._terminal() else text + "\n")
        stream.flush()
        self._shown = monotonic()

    def _terminal(self):
        return (self.stream or sys.stdout).isatty()

    def _totals(self):
        """Yields how far the training is, as text."""
        params = self.params or {}
        for name in ("steps", "episodes"):
            done, total = number(self._logs.get(name)), params.get(name)
            if total and done is not None:
                total = max(total, math.ceil(done))  # all environments make the last step
                yield f"{done:,.0f}/{total:,} {name} ({math.floor(100 * done / total)} %)"
            elif done is not None:
                yield f"{done:,.0f} {name}"

    def _figures(self):
        """Yields the figures of the last epoch, as text; those that are not known yet are left out."""
        for name, label, form in (
            ("episode_return", "return ", ".1f"),
            ("eval_return", "eval ", ".1f"),
            ("epsilon", "epsilon ", ".2g"),
            ("loss", "loss ", ".2e"),
        ):
            value = number(self._logs.get(name))
            if value is not None:
                yield f"{label}{value:{form}}"
        for name in ("steps", "updates"):
            value = number(self._logs.get(f"{name}_per_second"))
            if value is not None:
                yield f"{value:,.0f} {name}/s"

    def _time_left(self):
        """Returns it as text, from the mean speed of this `train()`; empty where it cannot be known."""
        fractions = []
        for name, first in self._first.items():
            done, total = number(self._logs.get(name)), (self.params or {}).get(name)
            if total and total > first and done is not None:
                fractions.append((done - first) / (total - first))
        fraction = max(fractions, default=0.0)
        if fraction <= 0:
            return ""
        return f"{_duration((monotonic() - self._begin) * max(0.0, 1 / fraction - 1))} left"


def _passed(before, after, every):
    """Returns whether a multiple of `every` lies in `(before, after]`."""
    return after // every > before // every


def _name_of(loss):
    """Returns what a model's loss is called."""
    return loss if loss is None or isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)


def _duration(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _check_seconds(every):
    if not is_number(every) or not every >= 0:  # infinity is for the end alone
        raise ValueError(f"Argument `every` must be a number of at least 0. Received: every={every!r}")


def _check_suffix(name, path, suffix, *, optional=False):
    if not (optional and path is None) and pathlib.Path(path).suffix != suffix:
        raise ValueError(f"Argument `{name}` must end in {suffix}. Received: {name}={str(path)!r}")
