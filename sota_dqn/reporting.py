"""What a run says about itself from one report to the next, and how it is stopped by hand."""

import contextlib
import math
import os
import signal
import threading
import time

import keras
import numpy as np

__all__ = ["Batches", "Clock", "Epoch", "Interrupt", "Record", "forget_nan"]

PHASES = ("environment", "act", "insert", "learn", "idle", "callbacks")


class Epoch:
    """Collects what happens between two reports. It may go on in a later call of `train`, or in another process.

    Args:
        metrics: The names of what an update returns.
        policies: The names of the policies that play whole episodes, where a mixture assigns them.
    """

    def __init__(self, metrics, policies=()):
        self.metrics = metrics
        self.policies = policies
        self.seconds = 0.0  # of all epochs that have ended
        self.more: dict[str, float] = {}  # that the next logs tell
        self._until: int | None = None  # the total of steps at which the epoch ends
        self._clear()

    def begin(self, steps, updates, length):
        """Starts the clock at these totals.

        Returns:
            The total of steps at which the epoch ends: the next multiple of `length`, or where it was to end before.
        """
        if self._until is None:
            self._until = (steps // length + 1) * length
        self._started = (time.perf_counter(), steps, updates)
        return self._until

    def pause(self):
        """Stops the clock in the middle of an epoch, which `begin` takes up again."""
        self.seconds += time.perf_counter() - self._started[0]

    def episode(self, episode):
        """Takes note of an episode that ended."""
        self.returns.append(episode.episode_return)
        self.lengths.append(episode.episode_length)
        self.played.append(episode.policy)

    def learned(self, metrics):
        """Takes note of the metrics of one compiled call, `[K]` each, which may still be on the device."""
        self._waiting.append(metrics)
        self.calls += 1

    def end(self, steps, updates, episodes, epsilon):
        """Returns the logs under their fixed names, NaN for what did not happen, and starts afresh."""
        self._collect()
        since, steps_before, updates_before = self._started
        seconds = max(time.perf_counter() - since, 1e-9)
        self.seconds += seconds
        logs = {
            "episode_return": _mean(self.returns),
            "episode_length": _mean(self.lengths),
            **self._by_policy("episode_return", self.returns),
            **self._by_policy("episode_length", self.lengths),
            "episodes": episodes,
            "steps": steps,
            "updates": updates,
            **{name: _mean(values) for name, values in self._values.items()},
            "epsilon": epsilon,
            "steps_per_second": (steps - steps_before) / seconds,
            "updates_per_second": (updates - updates_before) / seconds,
            "seconds": self.seconds,
            **self.more,
        }
        self._clear()
        return logs

    def state(self):
        """Returns what `restore` needs, as plain numbers."""
        self._collect()
        return {
            "returns": self.returns,
            "lengths": self.lengths,
            "played": self.played,
            "calls": self.calls,
            "values": self._values,
            "seconds": self.seconds,
            "until": self._until,
        }

    def restore(self, state):
        """Goes on where `state` was taken."""
        self.returns, self.lengths = list(state["returns"]), list(state["lengths"])
        self.played, self.seconds = list(state["played"]), state["seconds"]
        self.calls, self._values, self._until = state["calls"], state["values"], state["until"]

    def _clear(self):
        self.returns, self.lengths, self.played, self.calls = [], [], [], 0
        self._values = {name: [] for name in self.metrics}
        self._waiting = []
        self._until = None

    def _by_policy(self, what, values):
        """Returns the mean of the episodes that each policy played, by `what/NAME`."""
        played = list(zip(self.played, values, strict=True))
        return {f"{what}/{name}": _mean([value for by, value in played if by == name]) for name in self.policies}

    def _collect(self):
        for metrics in self._waiting:
            for name, values in metrics.items():
                self._values[name] += keras.ops.convert_to_numpy(values).tolist()
        self._waiting = []


class Record(keras.callbacks.Callback):
    """Appends every epoch's logs to a history that outlives the call of `train`; NaN where a name is missing.

    Told of an epoch again, it takes what the logs have become.

    Args:
        history: A dict of lists.
    """

    def __init__(self, history):
        super().__init__()
        self.history = history
        self._epoch = None

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        if epoch == self._epoch:
            for values in self.history.values():
                values.pop()
        self._epoch = epoch
        epochs = max(map(len, self.history.values()), default=0)
        for name in {**self.history, **logs}:
            before = self.history.setdefault(name, [math.nan] * epochs)
            before.append(logs.get(name, math.nan))


class Clock:
    """Sums the wall-clock seconds of each phase of the loop, or does nothing.

    The phases are those of the host: `learn` is handing the updates to the device, and `idle` is waiting for it.

    Args:
        running: Whether to measure.
    """

    def __init__(self, running):
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.running = running
        self._start = time.perf_counter()

    def __call__(self, phase):
        """Returns a context whose time counts as `phase`."""
        return self._measure(phase) if self.running else contextlib.nullcontext()

    def finish(self):
        """Returns the seconds of each phase and of all else, `other`."""
        total = time.perf_counter() - self._start
        return {**self.seconds, "other": total - sum(self.seconds.values())}

    @contextlib.contextmanager
    def _measure(self, phase):
        start = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - start


class Interrupt:
    """A context in which the first Ctrl-C only sets `pressed`, so that the running step is completed.

    The second raises.

    Args:
        say: Whether the first is answered on standard error: an evaluation may be minutes long.
    """

    answer = b"\nStopping when the running step or evaluation is complete. Ctrl-C once more stops at once.\n"

    def __init__(self, *, say=False):
        self.pressed = False
        self._say = say

    def __enter__(self):
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *exception):
        if self._main:
            signal.signal(signal.SIGINT, self._before)

    def _press(self, number, frame):
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
        if self._say:
            with contextlib.suppress(OSError):  # there may be no standard error
                os.write(2, self.answer)  # not `print`, which must not interrupt itself


class Batches:
    """Tells callbacks of every compiled call, to Keras a batch, if any of them listens: fetching its metrics waits for
    the device.

    Args:
        listeners: A `keras.callbacks.CallbackList`.
    """

    def __init__(self, listeners):
        hooks = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")
        default = keras.callbacks.Callback
        # An object may have hooks of its own, as a LambdaCallback has.
        heard = (getattr(getattr(c, hook), "__func__", None) for c in listeners.callbacks for hook in hooks)
        defaults = {getattr(default, hook) for hook in hooks}
        self._listeners = listeners if any(hook not in defaults for hook in heard) else None
        self._running = None

    def begin(self, number):
        """Begins batch `number` of the epoch, and ends the one before it."""
        self.end()
        if self._listeners:
            self._listeners.on_train_batch_begin(number)

    def learned(self, number, metrics):
        """Takes note of a batch's metrics, which may still be on the device."""
        self._running = (number, metrics)

    def end(self):
        """Ends the batch that has begun, if any."""
        if self._listeners and self._running:
            number, metrics = self._running
            logs = {name: float(np.mean(keras.ops.convert_to_numpy(values))) for name, values in metrics.items()}
            self._listeners.on_train_batch_end(number, logs)
        self._running = None


def forget_nan(callbacks):
    """Has Keras's callbacks that keep a best value begin anew where it is NaN, what the logs say of what was not yet.

    They take the first value, whatever it is, and nothing is better than NaN.
    """
    for callback in callbacks:
        best = getattr(callback, "best", None)
        if isinstance(best, float) and math.isnan(best):
            callback.best = None


def _mean(values):
    return float(np.mean(values)) if values else math.nan
