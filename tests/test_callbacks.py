"""Our callbacks, driven by Keras's `CallbackList` as by the trainer, with a trainer that only notes its calls."""

import csv
import io
import math

import keras
import numpy as np
import pytest

from sota_dqn import callbacks, plots
from sota_dqn.reporting import Record


class Tape:
    """A trainer that plays nothing: it answers evaluations from a list and writes down what it is asked."""

    def __init__(self, *, returns=(), history=None):
        self.calls = []
        self.history = {} if history is None else history
        self.steps = int(self.history["steps"][-1]) if self.history else 0
        self.returns = iter(returns)
        self.eval_protocol = None
        self.model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])

    def evaluate(self, episodes, *, epsilon):
        self.calls.append(("evaluate", self.steps, episodes))
        return {"return_mean": next(self.returns), "lengths": [10, 20]}

    def save(self, path, *, replay):
        self.calls.append(("save", self.steps, path, replay, dict(self.history)))

    def train(self, epochs, given, *, logs=None, steps=None, episodes=None, on_epoch=lambda: None):
        """Ends an epoch at each of the total steps `epochs`, until a callback stops it; returns the last of them."""
        ours = [callback for callback in given if isinstance(callback, callbacks.Callback)]
        first = [callback for callback in given if isinstance(callback, callbacks.Evaluation)]
        rest = [callback for callback in given if callback not in first]
        listeners = keras.callbacks.CallbackList(
            [*first, Record(self.history), *rest], model=self.model, steps=steps, episodes=episodes
        )
        for callback in ours:
            callback.set_trainer(self)
        self.model.stop_training = False
        listeners.on_train_begin()
        for number, total in enumerate(epochs):
            self.steps = total
            on_epoch()
            listeners.on_epoch_end(number, {"steps": total, **(logs or {})})
            if self.model.stop_training:
                break
        listeners.on_train_end()
        return self.steps

    def evaluated(self):
        return [call[1] for call in self.calls if call[0] == "evaluate"]

    def saved(self):
        return [call[1] for call in self.calls if call[0] == "save"]


class Now:
    """A clock that is set by hand, in seconds."""

    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def now(monkeypatch):
    clock = Now()
    monkeypatch.setattr(callbacks, "monotonic", clock)
    return clock


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        ([1000, 2000, 3000, 4000], [2000, 4000]),
        ([900, 1800, 2700, 3600, 4500, 6100], [2700, 4500, 6100]),
        ([9000, 9500, 10000], [9000, 10000]),  # several multiples at once are one evaluation
        ([500, 1999], []),
    ],
)
def test_evaluates_in_the_epoch_that_passes_a_multiple(epochs, expected):
    trainer = Tape(returns=range(9))
    trainer.train(epochs, [callbacks.Evaluation(2000, episodes=7)])
    assert trainer.calls == [("evaluate", steps, 7) for steps in expected]


def test_evaluation_is_in_the_logs_of_every_epoch():
    trainer = Tape(returns=[5.0, 6.0])
    trainer.train([1000, 2000, 3000, 4000, 5000], [callbacks.Evaluation(2000)])
    np.testing.assert_array_equal(trainer.history["eval_return"], [math.nan, 5, 5, 6, 6])
    np.testing.assert_array_equal(trainer.history["eval_length"], [math.nan, 15, 15, 15, 15])


def test_csv_logger_has_the_columns_from_the_start(tmp_path):
    log = tmp_path / "log.csv"
    trainer = Tape(returns=[5.0])
    trainer.train([1000, 2000], [keras.callbacks.CSVLogger(log), callbacks.Evaluation(2000)], logs={"loss": 0.5})
    with open(log, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["eval_return"] for row in rows] == ["nan", "5.0"]
    assert {"epoch", "steps", "loss", "eval_return", "eval_length"} <= set(rows[0])


def test_best_model_is_that_of_the_highest_return(tmp_path):
    path = tmp_path / "models" / "best.keras"
    trainer = Tape(returns=[1.0, 3.0, 3.0, 2.0])
    evaluation = callbacks.Evaluation(1000, best_model=path)

    def number_weights():
        trainer.model.set_weights([np.full((2, 1), trainer.steps), np.zeros(1)])

    trainer.train([1000, 2000, 3000, 4000], [evaluation], on_epoch=number_weights)
    assert evaluation.best == 3.0
    kernel, _ = keras.saving.load_model(path).get_weights()
    np.testing.assert_array_equal(kernel, np.full((2, 1), 2000))
    assert list(path.parent.iterdir()) == [path]


def test_stops_after_enough_evaluations_in_a_row():
    returns = [475.0, 470.0, 480.0, 475.0, 500.0]
    assert Tape(returns=returns).train(range(10, 60, 10), [callbacks.Evaluation(10, stop_at=475)]) == 10
    assert Tape(returns=returns).train(range(10, 60, 10), [callbacks.Evaluation(10, stop_at=475, consecutive=2)]) == 40
    assert Tape(returns=returns).train(range(10, 60, 10), [callbacks.Evaluation(10, stop_at=475, consecutive=3)]) == 50
    never, soon = callbacks.Evaluation(10, stop_at=501), callbacks.Evaluation(10, stop_at=475)
    assert Tape(returns=returns).train(range(10, 60, 10), [never]) == 50 and not never.solved
    assert Tape(returns=returns).train(range(10, 60, 10), [soon]) == 10 and soon.solved
    assert Tape(returns=returns).train(range(10, 60, 10), [callbacks.Evaluation(10)]) == 50


def test_solved_is_that_of_the_run():
    evaluation = callbacks.Evaluation(10, stop_at=475, consecutive=2)
    solved = Tape(returns=[475.0, 480.0])
    assert solved.train(range(10, 60, 10), [evaluation]) == 20 and evaluation.solved
    Tape(returns=[]).train([5], [evaluation])  # another run, which ends before its first evaluation
    assert not evaluation.solved
    resumed = callbacks.Evaluation(10, stop_at=475, consecutive=2)
    solved.train([25], [resumed])
    assert resumed.solved


def test_resumed_evaluation_knows_what_was_before(tmp_path):
    path = tmp_path / "best.keras"
    first = Tape(returns=[3.0, 9.0, 7.0])
    first.train(range(500, 6500, 500), [callbacks.Evaluation(2000, best_model=path, stop_at=7, consecutive=3)])
    assert first.evaluated() == [2000, 4000, 6000]
    kept = path.read_bytes()

    resumed = Tape(returns=[8.0, 9.5], history=first.history)
    evaluation = callbacks.Evaluation(2000, best_model=path, stop_at=7, consecutive=3)
    assert resumed.train(range(6500, 12000, 500), [evaluation]) == 8000  # the third in a row
    assert resumed.evaluated() == [8000]
    assert path.read_bytes() == kept  # 8 is not better than 9
    assert evaluation.best == 9.0
    assert resumed.history["eval_return"][12:] == [7, 7, 7, 8]


def test_resumed_evaluation_keeps_a_model_where_none_is_left(tmp_path):
    path = tmp_path / "best.keras"
    history = {"steps": [1000.0, 2000.0], "eval_return": [math.nan, 9.0], "eval_length": [math.nan, 15.0]}
    Tape(returns=[8.0], history=history).train([3000, 4000], [callbacks.Evaluation(2000, best_model=path)])
    assert path.exists()


def test_evaluation_is_not_lost_with_an_epoch_that_was_cut_short():
    trainer = Tape(returns=[1.0], history={"steps": [1000.0]})
    trainer.steps = 2100  # where Ctrl-C stopped it, past a multiple, before the epoch's end
    trainer.train([3000], [callbacks.Evaluation(2000)])
    assert trainer.evaluated() == [3000]


def test_checkpoint_is_saved_at_multiples_and_at_the_end():
    trainer = Tape()
    trainer.train([400, 800, 1200, 1600, 2400, 2500], [callbacks.Checkpoint("run", save_every=1000, replay=False)])
    assert [call[:4] for call in trainer.calls] == [("save", s, "run", False) for s in (1200, 2400, 2500)]


def test_checkpoint_holds_the_evaluation_of_its_epoch():
    trainer = Tape(returns=[5.0])
    trainer.train([1000], [callbacks.Checkpoint("run", save_every=1000), callbacks.Evaluation(1000)])
    assert [call[0] for call in trainer.calls] == ["evaluate", "save", "save"]
    assert trainer.calls[1][-1]["eval_return"] == [5.0]
    assert trainer.calls[1][3] is True


def test_learning_curve_is_redrawn_at_most_so_often(monkeypatch, now):
    drawn = []
    monkeypatch.setattr(plots, "learning_curve", lambda *arguments, **named: drawn.append((arguments, named)))
    trainer = Tape()

    def pass_time():
        now.seconds += 2.0

    curve = callbacks.LearningCurve("curve.png", every=5.0, title="CartPole-v1")
    trainer.train(range(10, 70, 10), [curve], on_epoch=pass_time)
    assert len(drawn) == 3  # after 2, 8 and 12 seconds; the last at the end
    assert drawn[0] == ((trainer.history, "curve.png"), {"title": "CartPole-v1"})


def test_learning_curve_takes_a_20th_of_the_time_at_most(monkeypatch, now):
    drawn = []

    def draw(*arguments, **named):
        drawn.append(now.seconds)
        now.seconds += 1.0

    def pass_time():
        now.seconds += 2.0

    monkeypatch.setattr(plots, "learning_curve", draw)
    Tape().train(range(10, 310, 10), [callbacks.LearningCurve("curve.png", every=5.0)], on_epoch=pass_time)
    # Each takes a second, so that 20 go by until the next; the last is at the end.
    assert [later - earlier for earlier, later in zip(drawn, drawn[1:-1], strict=False)] == [21.0, 21.0]


def test_learning_curve_is_written(tmp_path):
    path = tmp_path / "curve.png"
    Tape().train([10, 20], [callbacks.LearningCurve(path)], logs={"episode_return": 1.0})
    assert path.read_bytes().startswith(b"\x89PNG")


LOGS = {
    "episode_return": 123.45,
    "eval_return": 475.0,
    "episodes": 60,
    "epsilon": 0.05,
    "loss": 0.0123,
    "steps_per_second": 2345.6,
    "updates_per_second": 1172.8,
}


def progress(trainer, now, epochs, *, logs=LOGS, stream=None, seconds=4.0, **totals):
    """Returns what is shown when each epoch takes `seconds`."""
    stream = io.StringIO() if stream is None else stream

    def pass_time():
        now.seconds += seconds

    trainer.train(epochs, [callbacks.Progress(stream)], logs=logs, on_epoch=pass_time, **totals)
    return stream.getvalue()


def test_progress_says_all_that_is_known(now):
    text = progress(Tape(), now, [10_000], steps=40_000, seconds=30)
    figures = "return 123.5  eval 475.0  epsilon 0.05  loss 1.23e-02  2,346 steps/s  1,173 updates/s"
    assert text.splitlines() == [
        f"10,000/40,000 steps (25 %)  60 episodes  1:30 left  {figures}",
        f"10,000/40,000 steps (25 %)  60 episodes  took 0:30  {figures}",
    ]


def test_progress_counts_time_from_where_this_training_began(now):
    trainer = Tape(history={"steps": [10_000.0]})
    # 10,000 of 30,000 steps in 4,000 seconds: 8,000 are left.
    line = progress(trainer, now, [20_000], steps=40_000, seconds=4000).splitlines()[0]
    assert line.startswith("20,000/40,000 steps (50 %)")
    assert "  2:13:20 left  " in line


def test_progress_of_a_number_of_episodes(now):
    trainer = Tape(history={"steps": [500.0], "episodes": [40.0]})
    line = progress(trainer, now, [10_000], episodes=100, seconds=10).splitlines()[0]
    assert line.startswith("10,000 steps  60/100 episodes (60 %)")
    assert "  0:20 left  " in line


def test_progress_does_not_pass_its_total(now):
    """All environments make the last step."""
    line = progress(Tape(), now, [1_424], steps=1_412).splitlines()[-1]
    assert line.startswith("1,424/1,424 steps (100 %)")


def test_progress_writes_a_line_in_ten_seconds_to_a_file(now):
    lines = progress(Tape(), now, range(10, 90, 10), steps=80).splitlines()  # an epoch each 4 seconds
    assert [line.split()[0] for line in lines] == ["10/80", "40/80", "70/80", "80/80"]


@pytest.mark.parametrize("logs", [{}, dict.fromkeys(LOGS, math.nan), dict.fromkeys(LOGS, math.inf)])
def test_progress_leaves_out_what_is_not_known(now, logs):
    assert progress(Tape(), now, [10], logs=logs).splitlines() == ["10 steps", "10 steps  took 0:04"]
    lines = progress(Tape(), now, [0, 10], logs=logs, steps=20).splitlines()
    assert lines == ["0/20 steps (0 %)", "10/20 steps (50 %)  took 0:08"]


def test_progress_says_once_how_evaluations_are_played(now):
    trainer = Tape()
    trainer.eval_protocol = "greedy, 20 whole episodes; sticky 0.25"
    lines = progress(trainer, now, range(10, 90, 10), steps=80).splitlines()
    assert lines[0] == "evaluations: greedy, 20 whole episodes; sticky 0.25"
    assert [line.split()[0] for line in lines[1:]] == ["10/80", "40/80", "70/80", "80/80"]
    assert "evaluations" not in progress(trainer, now, [10], logs={"eval_return": math.nan})


def test_progress_without_an_epoch_says_nothing(now):
    assert progress(Tape(), now, []) == ""


def test_progress_rewrites_one_line_on_a_terminal(monkeypatch, now):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "50")
    text = progress(Tape(), now, range(10, 50, 10), steps=40, stream=Terminal())
    assert text.count("\n") == 1 and text.endswith("\n")
    lines = [line.removesuffix("\x1b[K") for line in text.rstrip("\n").split("\r")[1:]]
    assert [line.split()[0] for line in lines] == ["10/40", "20/40", "30/40", "40/40", "40/40"]
    # A longer line would wrap and stay: what does not fit is left out, and not cut.
    assert lines[1] == "20/40 steps (50 %)  60 episodes  0:08 left"


def test_progress_goes_to_the_standard_output(now, capsys):
    Tape().train([10], [callbacks.Progress()])
    assert capsys.readouterr().out.startswith("10 steps\n")


def test_callbacks_of_the_user_hear_of_episodes():
    class Longest(callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.longest = 0

        def on_episode_end(self, episode, logs=None):
            self.longest = max(self.longest, logs["episode_length"])

    callback = Longest()
    trainer = Tape()
    trainer.train([10], [callback])
    assert callback.trainer is trainer
    for length in (7, 9, 8):
        callback.on_episode_end(0, {"episode_length": length})
    assert callback.longest == 9
    callbacks.Evaluation().on_episode_end(0, {})  # which others need not know of


@pytest.mark.parametrize(
    ("make", "received"),
    [
        (lambda: callbacks.Evaluation(0), "evaluate_every=0"),
        (lambda: callbacks.Evaluation(episodes=0), "episodes=0"),
        (lambda: callbacks.Evaluation(consecutive=0), "consecutive=0"),
        (lambda: callbacks.Evaluation(best_model="best.h5"), "best_model='best.h5'"),
        (lambda: callbacks.Checkpoint("run", save_every=0), "save_every=0"),
        (lambda: callbacks.LearningCurve("curve.svg"), "path='curve.svg'"),
        (lambda: callbacks.LearningCurve("curve.png", every=-1), "every=-1"),
        (lambda: callbacks.RunLog("run", every="x"), "every='x'"),
        (lambda: callbacks.Evaluation(stop_at=math.nan), "stop_at=nan"),
    ],
)
def test_arguments_are_checked(make, received):
    with pytest.raises(ValueError, match=r"Argument `\w+` must .*\. Received: ") as error:
        make()
    assert str(error.value).endswith(received)


@pytest.mark.parametrize(
    ("make", "received"),
    [
        (lambda: callbacks.Evaluation(1.5), "evaluate_every=1.5"),
        (lambda: callbacks.Evaluation(episodes=True), "episodes=True"),
        (lambda: callbacks.Evaluation(consecutive=None), "consecutive=None"),
        (lambda: callbacks.Evaluation(stop_at="x"), "stop_at='x'"),
        (lambda: callbacks.Evaluation(epsilon="half"), "epsilon='half'"),
        (lambda: callbacks.Checkpoint("run", replay="no"), "replay='no'"),
    ],
)
def test_types_are_checked(make, received):
    with pytest.raises(TypeError, match=r"Argument `\w+` must .*\. Received: ") as error:
        make()
    assert str(error.value).endswith(received)


def test_numbers_of_numpy():
    assert callbacks.Evaluation(np.int64(5), episodes=np.int32(2), stop_at=np.float32(1)).evaluate_every == 5


def test_the_best_model_stays_when_evaluations_come_at_other_steps(tmp_path):
    path = tmp_path / "best.keras"
    first = Tape(returns=[100.0, 500.0, 90.0])
    first.train(range(200, 800, 200), [callbacks.Evaluation(200, best_model=path)])
    kept = path.read_bytes()
    resumed = Tape(returns=[50.0, 60.0], history=first.history)
    resumed.train(range(800, 2200, 200), [callbacks.Evaluation(1000, best_model=path)])
    assert path.read_bytes() == kept
    assert resumed.history["evaluations"][-1] == 5


def test_repeated_results_do_not_count_as_evaluations():
    first = Tape(returns=[500.0])
    first.train(range(200, 1200, 200), [callbacks.Evaluation(1000)])
    first.train(range(1200, 1800, 200), [callbacks.Evaluation(1000)])  # which repeat the result of step 1,000
    resumed = Tape(returns=[500.0, 500.0], history=first.history)
    assert resumed.train(range(1800, 4000, 200), [callbacks.Evaluation(200, stop_at=475, consecutive=3)]) == 2000


@pytest.mark.parametrize(
    ("make", "suffix"),
    [(callbacks.LearningCurve, ".png"), (lambda path: callbacks.Evaluation(best_model=path), ".keras")],
)
def test_a_file_that_cannot_be_written_is_told_before_the_training(make, suffix, tmp_path):
    path = tmp_path / f"taken{suffix}"
    path.mkdir()
    trainer = Tape(returns=[1.0])
    with pytest.raises(IsADirectoryError, match="it is a directory"):
        trainer.train([2000], [make(str(path))])
    assert not trainer.history
