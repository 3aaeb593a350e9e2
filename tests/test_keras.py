"""What a user may expect of a Keras model, optimizer or callback holds here too."""

import csv

import keras
import numpy as np
import probes
import pytest
from keras import ops
from learners import CAPACITY, linear_model, make_learner, one_row, random_rows
from runs import fix_seeds

from sota_dqn import DQNTrainer, Replay, callbacks, layers, losses, policies
from sota_dqn.choice import Choice

LOG_NAMES = {
    "episode_return", "episode_length", "episodes", "steps", "updates", "loss", "q", "td_error", "epsilon",
    "steps_per_second", "updates_per_second", "seconds",
}  # fmt: skip

# `one_row` has an observation of 1 whose action's value is 0.5, then one of 2 whose best value is 4.
KERNEL = [[0.5, 2.0]]
Y = 1 + 0.9 * 4.0


def hand_learner(model, **changes):
    """Returns a learner of one row at a time, with the squared error and SGD at 0.1, but for `changes`."""
    settings = {"batch_size": 1, "updates_per_call": 1, "loss": losses.squared, **changes}
    return make_learner(model, Replay(8), observation=(1,), rows=one_row(), **settings)


def dense(units=2, kernel=None, **arguments):
    initial = {} if kernel is None else {"kernel_initializer": lambda shape, dtype: ops.array(kernel, dtype)}
    return keras.layers.Dense(units, use_bias=False, **initial, **arguments)


def sequential(*inside, features=1):
    return keras.Sequential([keras.Input((features,)), *inside])


@pytest.mark.parametrize("regularizer", ["kernel_regularizer", "activity_regularizer"])
def test_regularizers_count(regularizer):
    """The observation is 1, so that both punish the same numbers; the activity of the next observation is not one."""
    model = sequential(dense(kernel=KERNEL, **{regularizer: keras.regularizers.L2(0.1)}))
    metrics = hand_learner(model).learn(0)
    assert float(metrics["loss"][0]) == pytest.approx((Y - 0.5) ** 2 + 0.1 * (0.5**2 + 2**2))
    expected = [[0.5 + 0.1 * (2 * (Y - 0.5) - 0.1 * 2 * 0.5), 2 - 0.1 * 0.1 * 2 * 2]]
    np.testing.assert_allclose(model.get_weights()[0], expected, rtol=1e-6)


def test_frozen_layers_stay():
    frozen = dense(3, trainable=False)
    model = sequential(frozen, dense())
    learner = hand_learner(model, target_update=0.5)
    before = [weight.copy() for weight in model.get_weights()]
    learner.learn(0)
    np.testing.assert_array_equal(model.get_weights()[0], before[0])
    assert not np.array_equal(model.get_weights()[1], before[1])
    np.testing.assert_allclose(learner.target_variables[1], (model.get_weights()[1] + before[1]) / 2, rtol=1e-6)


def test_batch_normalization_moves_by_the_batch_of_the_loss_alone():
    normalization = keras.layers.BatchNormalization(momentum=0.9)
    learner = hand_learner(sequential(normalization, dense()), target_update=0.5)
    learner.learn(0)
    learner.target_values(np.float32([[5.0]]))
    np.testing.assert_allclose(normalization.moving_mean, [0.1], rtol=1e-6)  # the observation is 1
    np.testing.assert_allclose(normalization.moving_variance, [0.9], rtol=1e-6)
    index = [id(variable) for variable in learner.model.variables].index(id(normalization.moving_mean))
    np.testing.assert_allclose(learner.target_variables[index], [0.05], rtol=1e-6)


def test_dropout_is_in_the_loss_alone():
    model = sequential(keras.layers.Dropout(0.5), dense(kernel=KERNEL))
    learner = hand_learner(model, optimizer=keras.optimizers.SGD(0.0), updates_per_call=32, target_update=0.5)
    metrics = learner.learn(0)
    q = ops.convert_to_numpy(metrics["q"])
    assert set(q.tolist()) == {0.0, 1.0}  # a value of 0.5, dropped or doubled
    np.testing.assert_allclose(metrics["td_error"], Y - q, rtol=1e-6)


def test_a_noisy_layer_is_drawn_anew_for_every_pass_of_both_models():
    model = sequential(layers.NoisyDense(1))
    learner = hand_learner(model, optimizer=keras.optimizers.SGD(0.0), updates_per_call=16, target_update=0.5)
    metrics = learner.learn(0)
    assert len(set(ops.convert_to_numpy(metrics["q"]))) == 16
    passes = [learner.target_values, learner.values, learner.target_values, learner.target_values, learner.values]
    assert len({float(values(np.ones((1, 1), "float32"))[0, 0]) for values in passes}) == 5


def test_a_noisy_layer_explores_and_evaluations_do_not_disturb_it():
    weights, seen = [], set()
    for evaluated in (False, True):
        fix_seeds()
        model = sequential(dense(8), layers.NoisyDense(2), features=4)
        trainer = DQNTrainer("CartPole-v1", model, num_envs=2, learning_starts=100, policy=policies.Greedy())
        for _ in range(4):
            trainer.train(steps=50, verbose=0)
            if evaluated:
                trainer.evaluate(2)
        weights.append(model.get_weights())
        seen |= {tuple(map(int, trainer.actor.choice(np.ones((2, 4), "float32"), 0))) for _ in range(20)}
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(seen) == 2  # both actions, and one noise for the batch


def test_learning_rate_schedule_counts_updates():
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.1, 0.0])  # at the updates 0 and 1, then never more
    learner = hand_learner(linear_model(KERNEL), optimizer=keras.optimizers.SGD(rate), updates_per_call=4)
    q = ops.convert_to_numpy(learner.learn(0)["q"])
    assert q[0] < q[1] < q[2] == q[3]
    assert int(learner.optimizer.iterations) == 4


def test_loss_scale_changes_nothing_but_what_would_overflow():
    plain, scaled = linear_model(KERNEL), linear_model(KERNEL)
    hand_learner(plain, updates_per_call=3).learn(0)
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=2.0**126)
    learner = hand_learner(scaled, updates_per_call=4, optimizer=optimizer)  # the first gradient, 8 x 2^126, overflows
    q = ops.convert_to_numpy(learner.learn(0)["q"])
    assert q[0] == q[1] == 0.5 < q[-1]
    assert 2.0**123 <= float(optimizer.dynamic_scale) < 2.0**126
    while int(optimizer.inner_optimizer.iterations) < 3:
        hand = int(optimizer.inner_optimizer.iterations)
        learner = hand_learner(scaled, optimizer=optimizer)
        learner.learn(0)
        assert int(optimizer.inner_optimizer.iterations) == hand + 1
    np.testing.assert_allclose(scaled.get_weights()[0], plain.get_weights()[0], rtol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    """The numbers of `one_row` are exact in either half precision, but for the target, which is not computed in it."""
    model = sequential(dense(kernel=KERNEL, dtype=policy, activity_regularizer="l2"))
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    learner = hand_learner(model, optimizer=model.optimizer, target_update=0.5)
    metrics = learner.learn(0)
    assert float(metrics["td_error"][0]) == pytest.approx(Y - 0.5, rel=1e-6)
    assert float(metrics["loss"][0]) == pytest.approx((Y - 0.5) ** 2 + 0.01 * 4.25, rel=1e-4)
    assert model.get_weights()[0].dtype == "float32"
    moved = 0.5 + 0.1 * (2 * (Y - 0.5) - 0.01 * 2 * 0.5)
    np.testing.assert_allclose(model.get_weights()[0], [[moved, 2 - 0.1 * 0.01 * 2 * 2]], rtol=0.01)


def test_policies_act_on_half_precision(random):
    model = sequential(dense(kernel=KERNEL, dtype="mixed_bfloat16"))
    choice = Choice(model, policies.Boltzmann(0.5), random=random, convolutions=False, stacked=False)
    actions = ops.convert_to_numpy(choice(np.ones((2000, 1), "float32"), 0))
    assert actions.mean() == pytest.approx(1 / (1 + np.exp(-3)), abs=0.02)


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.hidden = keras.layers.Dense(5, "tanh", name="hidden")
        self.head = keras.layers.Dense(3, name="head")

    def call(self, inputs):
        return self.head(self.hidden(inputs))


def nested():
    inputs = keras.Input((3,))
    body = keras.Model(inputs, keras.layers.Dense(5, "tanh")(inputs))
    outer = keras.Input((3,))
    return keras.Model(outer, keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])(body(outer)))


def test_nested_and_subclassed_models_learn_as_flat_ones(random):
    flat = sequential(keras.layers.Dense(5, "tanh"), keras.layers.Dense(3), features=3)
    subclassed = Subclassed()
    subclassed(np.zeros((1, 3), "float32"))
    rows = random_rows(random)
    traces = []
    for model in (flat, nested(), subclassed):
        model.set_weights(flat.get_weights() if model is not flat else [w + 0.1 for w in flat.get_weights()])
        if model is flat:
            start = flat.get_weights()
        model.set_weights(start)
        learner = make_learner(model, Replay(CAPACITY), rows=rows, target_update=0.1, n_step=3)
        traces.append([ops.convert_to_numpy(learner.learn(0)["loss"]), *model.get_weights()])
    for trace in traces[1:]:
        for found, expected in zip(trace, traces[0], strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_model_with_a_dueling_head_is_the_same_after_saving(random, tmp_path):
    model = sequential(keras.layers.Dense(4, "relu"), layers.Dueling(3, units=4), features=3)
    make_learner(model, Replay(CAPACITY), rows=random_rows(random), target_update=3).learn(0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    observations = random.normal(size=(5, 3)).astype("float32")
    np.testing.assert_array_equal(loaded(observations), model(observations))


def absolute(y_true, y_pred):
    return ops.mean(ops.abs(y_true - y_pred), axis=-1)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("mse", [9, 0.25]),
        (keras.losses.MeanSquaredError(), [9, 0.25]),
        (keras.losses.Huber(delta=2.0), [2 * (3 - 1), 0.125]),
        (keras.losses.MeanAbsoluteError, [3, 0.5]),
        (absolute, [3, 0.5]),
    ],
)
def test_optimizer_and_loss_of_a_compiled_model_are_used(loss, expected):
    model = sequential(dense())
    optimizer = keras.optimizers.RMSprop(0.03)
    model.compile(optimizer=optimizer, loss=loss)
    trainer = small_trainer(model)
    assert trainer.learner.optimizer is optimizer
    found = trainer.learner.loss(np.float32([3.0, 1.0]), np.float32([0.0, 0.5]))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_model_that_is_not_compiled_is_compiled():
    model = sequential(dense())
    trainer = small_trainer(model)
    assert model.compiled and trainer.learner.optimizer is model.optimizer
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    without_loss = sequential(dense())
    without_loss.compile(optimizer="sgd")
    errors = np.float32([3.0, 1.0]), np.float32([0.0, 0.5])
    found = small_trainer(without_loss).learner.loss(*errors)
    np.testing.assert_array_equal(found, trainer.learner.loss(*errors))  # the same default


def small_trainer(model):
    return DQNTrainer(
        probes.ActionByObservation,
        model,
        num_envs=2,
        batch_size=8,
        updates_per_step=0.5,
        updates_per_call=4,
        learning_starts=16,
        report_every=40,
        replay=Replay(400),
    )


@pytest.fixture(scope="module")
def shared():
    """A trainer that has made its first updates; each test trains it further. An epoch is 40 steps, five calls."""
    model = sequential(keras.layers.Dense(4, "tanh"), keras.layers.Dense(2))
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    trainer = small_trainer(model)
    trainer.train(steps=40, verbose=0)
    return trainer


@pytest.fixture
def trainer(shared):
    """The shared trainer at an epoch's beginning, with the learning rate and weights that it had before the test."""
    weights, rate = shared.model.get_weights(), float(shared.model.optimizer.learning_rate)
    assert shared.steps % 40 == 0
    yield shared
    shared.model.set_weights(weights)
    shared.model.optimizer.learning_rate = rate
    if shared.steps % 40:
        shared.train(steps=40 - shared.steps % 40, verbose=0)
    assert shared.learner.compilations() == 1


class Weights(keras.callbacks.Callback):
    """Keeps the weights after every epoch."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def on_epoch_end(self, epoch, logs=None):
        self.kept.append(self.model.get_weights())


def assert_same(weights, others):
    for one, other in zip(weights, others, strict=True):
        np.testing.assert_array_equal(one, other)


def assert_differ(weights, others):
    assert any(not np.array_equal(one, other) for one, other in zip(weights, others, strict=True))


def test_history_and_log_names(trainer):
    number = len(trainer.history["steps"])
    history = trainer.train(steps=80, verbose=0)
    assert isinstance(history, keras.callbacks.History)
    assert history.epoch == [number, number + 1]
    assert set(history.history) == set(trainer.history) == LOG_NAMES
    assert history.history["steps"] == [trainer.steps - 40, trainer.steps]
    assert trainer.history["steps"][-2:] == history.history["steps"]
    evaluation = trainer.train(steps=40, verbose=0, callbacks=[callbacks.Evaluation(40, episodes=2)])
    assert set(evaluation.history) == LOG_NAMES | {"eval_return", "eval_length", "evaluations"}
    assert evaluation.history["eval_length"] == [1.0]
    for name in ("eval_return", "eval_length"):
        del trainer.history[name]


def test_csv_logger(trainer, tmp_path):
    trainer.train(steps=80, verbose=0, callbacks=[keras.callbacks.CSVLogger(tmp_path / "log.csv")])
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = {name for name in rows[0] if not name.startswith("val_")}  # which Keras adds, in case of a validation
    assert names == LOG_NAMES | {"epoch"}
    assert [float(row["steps"]) for row in rows] == [trainer.steps - 40, trainer.steps]
    assert [float(row["loss"]) for row in rows] == trainer.history["loss"][-2:]


def test_early_stopping_restores_the_best_weights(trainer):
    weights = Weights()
    stopping = keras.callbacks.EarlyStopping("steps", mode="min", patience=2, restore_best_weights=True)
    before = trainer.steps
    trainer.train(steps=400, verbose=0, callbacks=[weights, stopping])
    assert trainer.steps == before + 120  # the first epoch is the best, and two are waited for
    assert_same(trainer.model.get_weights(), weights.kept[0])
    assert_differ(weights.kept[0], weights.kept[2])


@pytest.mark.parametrize(("mode", "best"), [("min", 0), ("max", -1)])
def test_model_checkpoint_keeps_the_best(trainer, tmp_path, mode, best):
    weights, path = Weights(), tmp_path / "best.keras"
    kept = keras.callbacks.ModelCheckpoint(path, monitor="steps", mode=mode, save_best_only=True)
    trainer.train(steps=80, verbose=0, callbacks=[weights, kept])
    assert_same(keras.saving.load_model(path).get_weights(), weights.kept[best])


def score(*values):
    """Returns a callback that logs these values of `score`, one an epoch."""
    waiting = iter(values)
    return keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(score=next(waiting)))


def test_what_is_not_known_yet_is_not_the_best(trainer, tmp_path):
    """The logs say NaN of an evaluation that is still to come, and nothing is better than NaN."""
    weights, path = Weights(), tmp_path / "best.keras"
    given = [score(np.nan, np.nan, np.nan, 1.0, 3.0, 2.0), weights]
    given.append(keras.callbacks.ModelCheckpoint(path, monitor="score", mode="max", save_best_only=True))
    given.append(keras.callbacks.EarlyStopping("score", mode="max", patience=2))
    plateau = keras.callbacks.ReduceLROnPlateau("score", mode="max", patience=1, factor=0.5)
    before = len(trainer.history["steps"])
    trainer.train(steps=240, verbose=0, callbacks=[*given, plateau])
    assert len(trainer.history["steps"]) == before + 6
    assert_same(keras.saving.load_model(path).get_weights(), weights.kept[4])
    assert float(trainer.model.optimizer.learning_rate) == pytest.approx(0.005)
    assert trainer.history["learning_rate"][before:] == pytest.approx([0.01] * 6)  # logged before it is set
    assert trainer.history["score"][-2:] == [3.0, 2.0]


def test_progress_bar_of_keras(trainer, capsys):
    trainer.train(steps=80, verbose=1, callbacks=[keras.callbacks.ProgbarLogger()])
    shown = capsys.readouterr().out
    assert shown.count("Epoch ") == 2
    for name in LOG_NAMES:
        assert f" {name}: " in shown


def test_lambda_callback_hears_of_all(trainer):
    heard = []
    names = ["on_train_begin", "on_train_end", "on_epoch_begin", "on_epoch_end"]
    names += ["on_train_batch_begin", "on_train_batch_end"]

    def note(name):
        return lambda number=None, logs=None: heard.append((name, number, logs))

    trainer.train(steps=80, verbose=0, callbacks=[keras.callbacks.LambdaCallback(**{n: note(n) for n in names})])
    assert heard[0][0] == "on_train_begin" and heard[-1][0] == "on_train_end"
    epochs = [(name, number) for name, number, _ in heard if "epoch" in name]
    first = epochs[0][1]
    assert epochs == [(f"on_epoch_{when}", number) for number in (first, first + 1) for when in ("begin", "end")]
    batches = [(name, number) for name, number, _ in heard if "batch" in name]
    assert batches == [
        (f"on_train_batch_{when}", number) for _ in range(2) for number in range(5) for when in ("begin", "end")
    ]
    logs = [logs for name, _, logs in heard if name == "on_train_batch_end"]
    assert all(set(log) == {"loss", "q", "td_error"} for log in logs)
    assert np.mean([log["loss"] for log in logs[:5]]) == pytest.approx(trainer.history["loss"][-2], rel=1e-6)


def test_learning_rate_scheduler(trainer):
    kept = []

    class Trained(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kept.append(trainer.learner.trained())  # their average, which the model has, goes on towards them

    first = len(trainer.history["steps"])
    rates = keras.callbacks.LearningRateScheduler(lambda epoch: 0.0 if epoch > first else 0.05)
    before = trainer.learner.trained()
    history = trainer.train(steps=120, verbose=0, callbacks=[Trained(), rates])
    np.testing.assert_allclose(history.history["learning_rate"], [0.05, 0, 0])
    assert_differ(kept[0], before)
    assert_same(kept[1], kept[0])
    assert_same(kept[2], kept[0])


def test_reduce_learning_rate_on_plateau(trainer):
    plateau = keras.callbacks.ReduceLROnPlateau("steps", mode="min", patience=1, factor=0.5, min_lr=0.0)
    history = trainer.train(steps=160, verbose=0, callbacks=[plateau])
    np.testing.assert_allclose(history.history["learning_rate"], [0.01, 0.01, 0.005, 0.0025])
    assert float(trainer.model.optimizer.learning_rate) == pytest.approx(0.00125)


def test_terminate_on_nan():
    class Spoil(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.set_weights([np.full_like(weight, np.nan) for weight in self.model.get_weights()])

    trainer = small_trainer(linear_model(KERNEL))
    trainer.train(steps=400, verbose=0, callbacks=[Spoil(), keras.callbacks.TerminateOnNaN()])
    assert trainer.updates == 4  # one call


def test_tensorboard(trainer, tmp_path):
    pytest.importorskip("tensorboard")
    trainer.train(steps=80, verbose=0, callbacks=[keras.callbacks.TensorBoard(tmp_path)])
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("events*"))
    for name in LOG_NAMES:
        assert f"epoch_{name}".encode() in written


def test_weights_set_by_a_callback_count_from_the_next_update(trainer):
    """At a learning rate of 0 they stay as they were set."""

    class Set(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.optimizer.learning_rate = 0.0
            self.model.set_weights([np.full_like(weight, 2.0) for weight in self.model.get_weights()])

    history = trainer.train(steps=80, verbose=0, callbacks=[Set()])
    for weight in trainer.learner.trained():
        np.testing.assert_array_equal(weight, np.full_like(weight, 2.0))
    # The observations are 1 and -1: their values are 4 x 2 tanh(2 + 2) + 2 and 4 x 2 tanh(-2 + 2) + 2.
    assert 2.0 < history.history["q"][-1] < 10.0
    assert abs(trainer.history["q"][-3]) < 1.5


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_epoch_end", "on_episode_end"])
def test_stop_training(trainer, hook):
    class Stop(callbacks.Callback):
        pass

    def stop(self, number, logs=None):
        self.model.stop_training = True

    setattr(Stop, hook, stop)
    before, updates, epochs = trainer.steps, trainer.updates, len(trainer.history["steps"])
    trainer.train(steps=400, verbose=0, callbacks=[Stop()])
    if hook == "on_epoch_end":
        assert trainer.steps == before + 40
    elif hook == "on_episode_end":
        assert trainer.steps == before + 2
    else:
        assert trainer.updates == updates + 4
    assert len(trainer.history["steps"]) == epochs + 1
    trainer.train(steps=2, verbose=0)  # it can go on
    assert trainer.steps % 2 == 0 and not trainer.model.stop_training


def test_stop_training_counts_from_the_next_call_on_where_a_step_has_several():
    class Stop(callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = True

    trainer = DQNTrainer("CartPole-v1", sequential(dense(), features=4), num_envs=16, updates_per_call=1)
    trainer.train(steps=2_000, verbose=0, callbacks=[Stop()])
    assert trainer.updates == 1
    trainer.train(steps=16, verbose=0)  # what was due before these steps is made up for
    assert trainer.updates == (trainer.steps - 16 - 1_000) // 2


def test_backup_and_restore_is_refused(trainer, tmp_path):
    before = trainer.steps
    with pytest.raises(ValueError, match=r"sota_dqn.callbacks.Checkpoint\(path\)"):
        trainer.train(steps=40, callbacks=[keras.callbacks.BackupAndRestore(tmp_path)])
    assert trainer.steps == before


def test_callbacks_that_are_none(trainer):
    before = trainer.steps
    for wrong in ("x", keras.callbacks.CSVLogger, [keras.callbacks.Callback(), None]):
        with pytest.raises(TypeError, match="`callbacks` must be a list of Keras callbacks. Received: "):
            trainer.train(steps=100, callbacks=wrong if isinstance(wrong, list) else [wrong], verbose=0)
    assert trainer.steps == before


@pytest.mark.parametrize("inner", [False, True])
def test_a_moving_average_that_would_not_be_taken_up(inner):
    optimizer = keras.optimizers.Adam(use_ema=True)
    model = sequential(dense(), features=4)
    model.compile(keras.optimizers.LossScaleOptimizer(optimizer) if inner else optimizer, "mse")
    with pytest.raises(ValueError, match="`use_ema=True` .* leave it out. `DQNTrainer` keeps one by .* `average`"):
        DQNTrainer("CartPole-v1", model)
