import math
import signal

import keras
import numpy as np
import pytest
from keras import ops

from sota_dqn import reporting
from sota_dqn.actor import Episode
from sota_dqn.reporting import Batches, Clock, Epoch, Interrupt, Record


@pytest.fixture
def now(monkeypatch):
    """The time in seconds, set by hand."""
    seconds = [100.0]
    monkeypatch.setattr(reporting.time, "perf_counter", lambda: seconds[0])
    return seconds


def test_epoch_by_hand(now):
    epoch = Epoch(("loss", "q"))
    assert epoch.begin(10, 4, 20) == 20  # the next multiple
    epoch.episode(Episode(stream=0, episode_return=5.0, episode_length=7))
    epoch.episode(Episode(stream=1, episode_return=8.0, episode_length=8))
    epoch.learned({"loss": ops.array([1.0, 2.0]), "q": ops.array([0.0, 1.0])})
    epoch.learned({"loss": ops.array([6.0, 7.0]), "q": ops.array([2.0, 5.0])})
    assert epoch.calls == 2
    now[0] += 4.0
    assert epoch.end(20, 8, 3, 0.25) == {
        "episode_return": 6.5,
        "episode_length": 7.5,
        "episodes": 3,
        "steps": 20,
        "updates": 8,
        "loss": 4.0,
        "q": 2.0,
        "epsilon": 0.25,
        "steps_per_second": 2.5,
        "updates_per_second": 1.0,
        "seconds": 4.0,
    }
    assert epoch.calls == 0
    epoch.begin(20, 8, 20)
    now[0] += 1.5
    assert epoch.end(40, 8, 3, 0.25)["seconds"] == 5.5


def test_an_epoch_that_is_cut_keeps_its_time(now):
    epoch = Epoch(())
    epoch.begin(0, 0, 20)
    now[0] += 3.0
    epoch.pause()
    now[0] += 50.0  # nobody trains
    epoch.begin(8, 0, 20)
    now[0] += 2.0
    assert epoch.end(20, 0, 0, 0.0)["seconds"] == 5.0


def test_epoch_by_policy(now):
    epoch = Epoch((), ("greedy", "random"))
    epoch.begin(0, 0, 20)
    for value, policy in ((5.0, "greedy"), (7.0, "greedy")):
        epoch.episode(Episode(stream=0, episode_return=value, episode_length=2, policy=policy))
    state, epoch = epoch.state(), Epoch((), ("greedy", "random"))
    epoch.restore(state)
    epoch.begin(0, 0, 20)
    logs = epoch.end(20, 0, 2, 0.0)
    assert logs["episode_return/greedy"] == 6.0 and logs["episode_length/greedy"] == 2.0
    assert math.isnan(logs["episode_return/random"]) and math.isnan(logs["episode_length/random"])


def test_epoch_in_which_nothing_happened(now):
    epoch = Epoch(("loss",))
    assert epoch.begin(0, 0, 50) == 50
    logs = epoch.end(50, 0, 0, math.nan)
    assert {name for name, value in logs.items() if math.isnan(value)} == {
        "episode_return", "episode_length", "loss", "epsilon",
    }  # fmt: skip
    assert epoch.begin(50, 0, 50) == 100


def test_epoch_goes_on_from_its_state(now):
    logs = []
    for restored in (False, True):
        epoch = Epoch(("loss",))
        epoch.begin(0, 0, 50)
        epoch.episode(Episode(0, 5.0, 7))
        epoch.learned({"loss": ops.array([1.0, 2.0])})
        if restored:
            state, epoch = epoch.state(), Epoch(("loss",))
            epoch.restore(state)
            assert epoch.begin(30, 2, 50) == 50
        epoch.learned({"loss": ops.array([6.0])})
        now[0] += 1.0
        logs.append(epoch.end(50, 3, 1, 0.5))
    clock = ("steps_per_second", "updates_per_second", "seconds")
    assert [{k: v for k, v in log.items() if k not in clock} for log in logs[1:]] == [
        {k: v for k, v in logs[0].items() if k not in clock}
    ]
    assert logs[0]["loss"] == 3.0


def test_record_keeps_every_name_as_long_as_the_others():
    history = {}
    for epoch, logs in enumerate([{"a": 1}, {"a": 2, "b": 3}, {"b": 4}]):
        Record(history).on_epoch_end(epoch, logs)
    np.testing.assert_array_equal(history["a"], [1, 2, math.nan])
    np.testing.assert_array_equal(history["b"], [math.nan, 3, 4])


def test_record_that_is_told_again_takes_what_the_logs_have_become():
    history = {}
    record = Record(history)
    for epoch, logs in enumerate([{"a": 1}, {"a": 2}]):
        record.on_epoch_end(epoch, logs)
        record.on_epoch_end(epoch, {**logs, "b": 3})
    assert history == {"a": [1, 2], "b": [3, 3]}


def test_clock(now):
    clock = Clock(True)
    for seconds in (1.0, 2.0):
        with clock("learn"):
            now[0] += seconds
        now[0] += 0.5
    with clock("act"):
        now[0] += 4.0
    assert {phase: s for phase, s in clock.finish().items() if s} == {"learn": 3.0, "act": 4.0, "other": 1.0}


def test_clock_that_does_not_run(now):
    clock = Clock(False)
    with clock("learn"):
        now[0] += 1.0
    assert clock.seconds["learn"] == 0


class Overridden(keras.callbacks.Callback):
    def __init__(self, tape):
        super().__init__()
        self.tape = tape

    def on_train_batch_begin(self, batch, logs=None):
        self.tape.append(("begin", batch))

    def on_train_batch_end(self, batch, logs=None):
        self.tape.append(("end", batch, logs))


class OldNames(Overridden):
    """Keras still calls these."""

    on_train_batch_begin = keras.callbacks.Callback.on_train_batch_begin
    on_train_batch_end = keras.callbacks.Callback.on_train_batch_end

    def on_batch_begin(self, batch, logs=None):
        self.tape.append(("begin", batch))

    def on_batch_end(self, batch, logs=None):
        self.tape.append(("end", batch, logs))


def by_lambda(tape):
    return keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: tape.append(("begin", batch)),
        on_train_batch_end=lambda batch, logs: tape.append(("end", batch, logs)),
    )


@pytest.mark.parametrize("make", [Overridden, OldNames, by_lambda])
def test_batches_are_heard_of_one_after_the_other(make):
    tape = []
    batches = Batches(keras.callbacks.CallbackList([make(tape)], add_history=True))
    for number in range(2):
        batches.begin(number)
        batches.learned(number, {"loss": ops.array([1.0, 2.0 + number])})
    batches.end()
    batches.end()  # nothing runs
    assert tape == [("begin", 0), ("end", 0, {"loss": 1.5}), ("begin", 1), ("end", 1, {"loss": 2.0})]


def test_batches_that_no_one_listens_to_are_not_fetched():
    class Device:
        def __array__(self, *arguments, **named):
            raise AssertionError("fetched")

    batches = Batches(keras.callbacks.CallbackList([keras.callbacks.Callback()], add_history=True))
    batches.begin(0)
    batches.learned(0, {"loss": Device()})
    batches.end()


@pytest.mark.parametrize("say", [True, False])
def test_the_first_interrupt_is_noted_and_the_second_raises(say, capfd):
    before = signal.getsignal(signal.SIGINT)
    with Interrupt(say=say) as interrupt:
        assert not interrupt.pressed
        signal.raise_signal(signal.SIGINT)
        assert interrupt.pressed
        assert ("Ctrl-C once more stops at once" in capfd.readouterr().err) is say
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
