"""Outside of training the model has an average of its weights over the last part of the updates."""

import keras
import numpy as np
import pytest
from keras import ops
from learners import linear_model, make_learner, one_row
from runs import make, network

from sota_dqn import DQNInference, DQNTrainer, Replay, callbacks


def arrays(values):
    return [ops.convert_to_numpy(getattr(value, "value", value)) for value in values]


def same(one, other):
    one, other = arrays(one), arrays(other)
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


class Weights(callbacks.Callback):
    """Keeps the model's weights, and their average, as callbacks see them."""

    def __init__(self):
        super().__init__()
        self.epochs, self.batches = [], []

    def _both(self):
        return arrays(self.trainer.model.variables), arrays(self.trainer.learner.average_variables)

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(self._both())

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append(self._both())


def test_the_average_of_the_weights_is_in_the_model_outside_of_updates():
    seen = Weights()
    trainer = make(average=0.3)
    trainer.train(steps=240, callbacks=[seen], verbose=0)
    learner = trainer.learner
    assert same(trainer.model.variables, learner.average_variables)
    assert not same(trainer.model.variables, learner.trained())
    assert len(seen.epochs) == 4 and all(same(model, average) for model, average in seen.epochs)
    assert any(not same(model, average) for model, average in seen.batches)


@pytest.mark.parametrize(("updates_per_call", "target_update"), [(1, None), (3, 7), (8, 0.25), (12, 0.25)])
def test_it_is_the_average_over_the_last_part_of_the_updates(updates_per_call, target_update):
    average = arrays(network(4, 2).variables)
    trainer = make(target_update=target_update, average=0.1, updates_per_call=updates_per_call, updates_per_step=0.5)
    seen = []

    class Trained(callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(arrays(self.trainer.model.variables))

    trainer.train(steps=360, callbacks=[Trained()], verbose=0)
    assert len(seen) * updates_per_call == trainer.updates > 140
    for number, weights in enumerate(seen, 1):
        updates = number * updates_per_call
        if updates // 8 > (updates - updates_per_call) // 8:
            part = min(1.0, max(8, updates_per_call) / (0.1 * updates))
            average = [part * w + (1 - part) * a for w, a in zip(weights, average, strict=True)]
    for ours, expected in zip(arrays(trainer.model.variables), average, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("updates_per_call", [1, 16])
def test_its_span_is_a_share_of_the_updates(updates_per_call):
    """Where weights are t after update t, their mean by a density of t^19 up to n is 20 / 21 n: 1 / average is 20."""
    model = linear_model([[0.0, 0.0]])
    settings = {"optimizer": keras.optimizers.SGD(0.0), "average": 0.05, "updates_per_call": updates_per_call}
    learner = make_learner(model, Replay(8), observation=(1,), rows=one_row(), batch_size=1, **settings)
    with learner.training():
        for updates in range(updates_per_call, 1_601, updates_per_call):
            model.set_weights([np.full((1, 2), updates, "float32")])
            learner.learn(0)
    np.testing.assert_allclose(model.get_weights()[0], 1_600 * 20 / 21, rtol=0.012)


@pytest.mark.parametrize("updates_per_call", [1, 8, 1000])
def test_what_is_added_stays_large_enough_for_float32(updates_per_call):
    """After 10^9 updates 8 of them weigh 1.6e-7 in the average, as little as the last digit: more are added at once."""
    settings = {"optimizer": keras.optimizers.SGD(0.0), "average": 0.05, "updates_per_call": updates_per_call}
    learner = make_learner(linear_model([[0.0, 0.0]]), Replay(8), observation=(1,), rows=one_row(), **settings)
    learner.updates, added = 10**9, []
    learner._learn = lambda uniform, step, numbers, part: added.append(float(part)) if updates_per_call >= 8 else None
    learner._add_to_average = lambda part: added.append(float(part))
    for _ in range(100_000 // updates_per_call):
        learner.learn(0)
    assert min(part for part in added if part) >= 0.99 * 2**-16
    assert sum(added) == pytest.approx(100_000 / (0.05 * 1e9), rel=0.02)


def test_weights_of_half_precision_are_averaged_in_single_precision():
    layers = [keras.layers.Dense(8, activation="tanh", dtype="bfloat16"), keras.layers.Dense(2, dtype="bfloat16")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(optimizer=keras.optimizers.SGD(0.05), loss="mse")  # Adam's small steps would be rounded away
    trainer = make(model=model, target_update=5, average=0.5, updates_per_call=8)
    trainer.train(steps=240, verbose=0)
    averages = trainer.learner.average_variables
    assert {variable.dtype for variable in averages} == {"float32"}
    assert same(trainer.model.variables, [ops.cast(variable.value, "bfloat16") for variable in averages])
    assert not same(trainer.model.variables, trainer.learner.trained())


@pytest.mark.parametrize("target_update", [None, 7, 0.1])
def test_without_an_average_the_last_weights_stay(target_update):
    seen = Weights()
    trainer = make(target_update=target_update, average=None)
    trainer.train(steps=120, callbacks=[seen], verbose=0)
    assert trainer.learner.average_variables == []
    assert same(trainer.model.variables, seen.batches[-1][0])
    assert same(trainer.model.variables, trainer.learner.trained())


@pytest.mark.parametrize("average", [0, 1, 1.5, -0.1, "0.1", True, float("nan")])
def test_an_average_that_is_no_share_is_refused(average):
    with pytest.raises(ValueError, match="`average` must be a number between 0 and 1, or None"):
        make(average=average)


def test_where_epochs_end_does_not_matter():
    runs = []
    for report_every in (60, 240):
        trainer = make(average=0.5, report_every=report_every)
        trainer.train(steps=240, verbose=0)
        runs.append([*arrays(trainer.learner.trained()), *arrays(trainer.learner.average_variables)])
    assert same(*runs)


def test_an_evaluation_a_file_and_a_checkpoint_play_the_average(tmp_path):
    trainer = make(average=0.1)
    kept = callbacks.Evaluation(120, episodes=2, best_model=tmp_path / "best.keras")
    keras_kept = keras.callbacks.ModelCheckpoint(str(tmp_path / "last.keras"))
    trainer.train(steps=120, callbacks=[kept, keras_kept], verbose=0)
    trainer.save(tmp_path / "run")
    expected = trainer.evaluate(3, seed=4)["returns"]
    for name in ("best.keras", "last.keras"):
        assert same(keras.saving.load_model(tmp_path / name).variables, trainer.model.variables)
        assert DQNInference(tmp_path / name, env="CartPole-v1").evaluate(3, seed=4)["returns"] == expected
    assert DQNInference(tmp_path / "run").evaluate(3, seed=4)["returns"] == expected
    assert DQNInference(trainer.model, env="CartPole-v1").evaluate(3, seed=4)["returns"] == expected
    loaded = DQNTrainer.load(tmp_path / "run")
    assert loaded.evaluate(3, seed=4)["returns"] == expected
    assert same(loaded.model.variables, trainer.model.variables)
    assert same(loaded.learner.trained(), trainer.learner.trained())


def test_a_checkpoint_of_a_callback_on_episodes_plays_the_average(tmp_path):
    kept = []

    class Save(callbacks.Callback):
        def on_episode_end(self, episode, logs=None):
            if not kept and self.trainer.updates > 20:
                before = arrays(self.trainer.model.variables)
                self.trainer.save(tmp_path)
                assert same(self.trainer.model.variables, before)
                kept.append((before, arrays(self.trainer.learner.average_variables)))

    make(average=0.5).train(steps=240, callbacks=[Save()], verbose=0)
    trained, average = kept[0]
    assert same(DQNInference(tmp_path).model.variables, average) and not same(trained, average)
    loaded = DQNTrainer.load(tmp_path)
    assert same(loaded.model.variables, average) and same(loaded.learner.trained(), trained)


def test_weights_that_a_user_sets_are_trained_from_there_on(tmp_path):
    trainer = make(target_update=0.1)
    trainer.train(steps=120, verbose=0)
    weights = [np.full_like(w, 0.5) for w in trainer.model.get_weights()]
    trainer.model.set_weights([np.zeros_like(w) for w in weights])
    trainer.save(tmp_path / "run")
    trainer.model.set_weights(weights)  # again, after the first were seen
    trainer.save(tmp_path / "run")
    assert same(trainer.learner.trained(), weights)
    loaded = DQNTrainer.load(tmp_path / "run")
    assert same(loaded.model.variables, weights)
    first = []

    class First(callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            learner = self.trainer.learner
            first.append((self.trainer.model.variables, learner.target_variables, learner.average_variables))
            first[-1] = [arrays(group) for group in first[-1]]

    for one in (trainer, loaded):
        first.clear()
        one.train(steps=60, callbacks=[First()], verbose=0)
        assert all(same(group, weights) for group in first[0])
    assert same(trainer.learner.trained(), loaded.learner.trained())


@pytest.mark.parametrize("target_update", [0.1, 100])
def test_a_target_model_begins_where_the_first_training_does(target_update):
    trainer = make(target_update=target_update)
    trainer.train(steps=20, verbose=0)  # before the first update
    weights = [np.full_like(w, 0.5) for w in trainer.model.get_weights()]
    trainer.model.set_weights(weights)
    trainer.train(steps=20, verbose=0)
    assert trainer.updates == 0
    groups = trainer.model.variables, trainer.learner.target_variables, trainer.learner.average_variables
    assert all(same(group, weights) for group in groups)


def test_statistics_of_layers_are_averaged_and_integers_are_not():
    layers = [
        keras.layers.Dense(8),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(2),
    ]
    model = keras.Sequential([keras.Input((4,)), *layers])
    trainer = make(model=model)
    seeds = [v for v in model.variables if not keras.backend.is_float_dtype(v.dtype)]
    before = arrays(seeds)
    trainer.train(steps=120, verbose=0)
    assert seeds and not same(seeds, before)  # random numbers go on
    assert same(model.layers[1].non_trainable_variables[:2], trainer.learner.average_variables[4:6])
    assert not same(trainer.learner.average_variables[4:6], trainer.learner.trained()[4:6])
    once = arrays(seeds)
    trainer.evaluate(1)
    assert same(seeds, once)
