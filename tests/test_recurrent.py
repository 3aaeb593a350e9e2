"""Recurrent models whose state is carried by hand: the same as over the whole sequence, on the user's own weights."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from runs import fix_seeds

from sota_dqn import DQNTrainer, Replay, Sequences, backend, callbacks
from sota_dqn.models import check_recurrent, is_recurrent
from sota_dqn.recurrent import Recurrent

BATCH, TIME = 3, 6


def sequential(*inside, shape=(None, 4)):
    return keras.Sequential([keras.Input(shape), *inside, layers.Dense(2)])


def two_branches():
    seen = keras.Input((None, 4))
    left = layers.LSTM(3, return_sequences=True)(layers.Dense(5, activation="relu")(seen))
    right = layers.GRU(2, return_sequences=True)(seen)
    return keras.Model(seen, layers.Dense(2)(layers.Concatenate()([left, right])))


def with_a_state(layer, *, by_name):
    """A model whose recurrent layer begins with what another layer makes of the observations."""
    seen = keras.Input((None, 4))
    state = layers.Dense(3)(layers.GlobalMaxPooling1D()(seen))
    states = [state] * len(layer.get_initial_state(1))
    called = layer(seen, initial_state=states) if by_name else layer(seen, states)
    return keras.Model(seen, layers.Dense(2)(called))


@keras.saving.register_keras_serializable("tests")
class Decay(keras.layers.Layer):
    """A cell that remembers a mean."""

    state_size = output_size = 4

    def call(self, inputs, states):
        mean = 0.5 * states[0] + 0.5 * inputs
        return mean, [mean]


MODELS = {
    "lstm": lambda: sequential(layers.Dense(5), layers.LSTM(3, return_sequences=True)),
    "gru": lambda: sequential(layers.GRU(3, return_sequences=True)),
    "gru without reset_after": lambda: sequential(layers.GRU(3, return_sequences=True, reset_after=False)),
    "simple": lambda: sequential(layers.SimpleRNN(3, return_sequences=True)),
    "two in a row": lambda: sequential(layers.LSTM(3, return_sequences=True), layers.GRU(4, return_sequences=True)),
    "a cell": lambda: sequential(layers.RNN(layers.LSTMCell(3), return_sequences=True)),
    "stacked cells": lambda: sequential(layers.RNN([layers.GRUCell(3), layers.LSTMCell(2)], return_sequences=True)),
    "a cell of one's own": lambda: sequential(layers.RNN(Decay(), return_sequences=True)),
    "two branches": two_branches,
    "pictures": lambda: sequential(
        layers.TimeDistributed(layers.Conv2D(2, 2)),
        layers.TimeDistributed(layers.Flatten()),
        layers.LSTM(3, return_sequences=True),
        shape=(None, 4, 3, 1),
    ),
}


def make(name, random):
    fix_seeds()
    model = MODELS[name]()
    shape = (BATCH, TIME, *model.input_shape[2:])
    return model, random.normal(size=shape).astype("float32")


def close(found, expected):
    np.testing.assert_allclose(ops.convert_to_numpy(found), ops.convert_to_numpy(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_step_by_step_is_the_sequence(name, random):
    model, observations = make(name, random)
    check_recurrent(model)
    recurrent = Recurrent(model)
    expected = model(observations)
    values, after = recurrent.unroll(observations, recurrent.zeros(BATCH))
    close(values, expected)
    states = recurrent.zeros(BATCH)
    for time in range(TIME):
        values, states = recurrent.step(observations[:, time], states)
        close(values, expected[:, time])
    for one, other in zip(states, after, strict=True):
        close(one, other)
    half, states = recurrent.unroll(observations[:, :2], recurrent.zeros(BATCH))
    rest, _ = recurrent.unroll(observations[:, 2:], states)
    close(ops.concatenate([half, rest], axis=1), expected)


@pytest.mark.parametrize("name", ["lstm", "gru", "stacked cells"])
def test_compiled_with_a_gradient(name, random):
    """Inside a compiled program, as acting and learning call it, the gradient is that of the user's model."""
    model, observations = make(name, random)
    recurrent = Recurrent(model)
    program = backend.Program([], model.variables, backend.plan(convolutions=False))

    def gradient(values_of):
        def loss():
            values = values_of()
            return ops.sum(values * values), values

        (_, values), gradients = program.value_and_grad(loss, model.trainable_variables)
        return values, gradients

    carried = program.compile(lambda seen, *states: gradient(lambda: recurrent.unroll(seen, list(states))[0]))
    plain = program.compile(lambda seen: gradient(lambda: model(seen)))
    found, expected = carried(observations, *recurrent.zeros(BATCH)), plain(observations)
    close(found[0], expected[0])
    for one, other in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(one), ops.convert_to_numpy(other), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["lstm", "stacked cells"])
def test_a_new_episode_knows_nothing_of_the_old(name, random):
    model, observations = make(name, random)
    recurrent = Recurrent(model)
    begins = 4
    fresh = model(observations[:, begins:])
    states = recurrent.zeros(BATCH)
    for time in range(TIME):
        begun = np.array([time == begins, False, time == begins])
        values, states = recurrent.step(observations[:, time], recurrent.begin(states, begun))
        if time >= begins:
            close(values[0], fresh[0, time - begins])
            close(values[2], fresh[2, time - begins])
    close(values[1], model(observations)[1, -1])  # its episode went on


@pytest.mark.parametrize("name", MODELS)
def test_episodes_that_begin_inside_a_sequence(name, random):
    model, observations = make(name, random)
    recurrent = Recurrent(model)
    begun = np.zeros((BATCH, TIME), "uint8")
    begun[0, [0, 4]] = begun[2, 2] = 1
    states = [random.normal(size=(BATCH, *shape)).astype("float32") for shape in recurrent.shapes]
    values, after = recurrent.unroll(observations, states, begun)
    for time in range(TIME):
        before = recurrent.begin(states, begun[:, time].astype(bool))
        expected, states = recurrent.step(observations[:, time], before)
        close(values[:, time], expected)
    for one, other in zip(states, after, strict=True):
        close(one, other)


@pytest.mark.parametrize("name", ["lstm", "stacked cells", "two branches"])
def test_episodes_begin_with_the_learned_state(name, random):
    model, observations = make(name, random)
    recurrent = Recurrent(model, learned=True)
    states = [random.normal(size=(BATCH, *shape)).astype("float32") for shape in recurrent.shapes]
    for variable, before in zip(recurrent.initial, recurrent.begin(states, np.ones(BATCH, bool)), strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(before), 0)  # before anything is learned
        variable.assign(random.normal(size=variable.shape))
    begun = np.zeros((BATCH, TIME), "uint8")
    begun[0, [0, 4]] = begun[2, 2] = 1
    values, after = recurrent.unroll(observations, states, begun)
    for time in range(TIME):
        before = recurrent.begin(states, begun[:, time].astype(bool))
        for found, variable in zip(before, recurrent.initial, strict=True):
            for stream in np.flatnonzero(begun[:, time]):
                close(found[stream], variable)
        expected, states = recurrent.step(observations[:, time], before)
        close(values[:, time], expected)
    for one, other in zip(states, after, strict=True):
        close(one, other)


def test_the_gradient_of_the_learned_state(random):
    """Against differences, where episodes begin; none where no episode does."""
    model, observations = make("lstm", random)
    recurrent = Recurrent(model, learned=True)
    for variable in recurrent.initial:
        variable.assign(random.normal(size=variable.shape))
    program = backend.Program(model.variables, recurrent.initial, backend.plan(convolutions=False))
    states = recurrent.zeros(BATCH)

    def loss(begun):
        values, _ = recurrent.unroll(observations, states, begun)
        return ops.sum(values * values), ops.zeros(())

    gradient = program.compile(lambda begun: program.value_and_grad(lambda: loss(begun), recurrent.initial)[1])
    begun = np.zeros((BATCH, TIME), "uint8")
    for found in gradient(begun):
        np.testing.assert_array_equal(ops.convert_to_numpy(found), 0)
    begun[0, [0, 4]] = begun[2, 2] = 1
    for variable, found in zip(recurrent.initial, gradient(begun), strict=True):
        values = ops.convert_to_numpy(variable)
        for i in range(len(values)):
            losses = []
            for sign in (-1, 1):
                variable.assign(values + sign * 1e-2 * np.eye(len(values))[i])
                losses.append(float(ops.convert_to_numpy(loss(begun)[0])))
            variable.assign(values)
            assert float(found[i]) == pytest.approx((losses[1] - losses[0]) / 2e-2, rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_the_weights_are_the_users_own(name, random, tmp_path):
    model, observations = make(name, random)
    before = model.get_config()
    recurrent = Recurrent(model)
    theirs = {id(variable) for variable in model.variables}
    assert theirs >= {id(variable) for variable in recurrent.model.variables if "seed" not in variable.path}
    model.set_weights([weight + 0.1 for weight in model.get_weights()])
    close(recurrent.unroll(observations, recurrent.zeros(BATCH))[0], model(observations))
    assert model.get_config() == before
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    close(loaded(observations), model(observations))


def test_what_is_recurrent():
    assert is_recurrent(MODELS["lstm"]()) and is_recurrent(MODELS["stacked cells"]())
    assert is_recurrent(sequential(sequential(layers.GRU(2, return_sequences=True))))
    assert not is_recurrent(sequential(layers.Dense(3)))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: sequential(layers.Bidirectional(layers.LSTM(2, return_sequences=True))),
            "is Bidirectional, and would",
        ),
        (lambda: sequential(layers.LSTM(2, return_sequences=True, go_backwards=True)), "has go_backwards=True"),
        (lambda: sequential(layers.LSTM(2)), "'.*' needs return_sequences=True: a value is learned at every step"),
        (
            lambda: sequential(layers.LSTM(2, return_sequences=True), shape=(8, 4)),
            r"with T left open: keras.Input\(\(None, ...\)\). Received: input_shape=\(None, 8, 4\)",
        ),
        (
            lambda: sequential(layers.LSTM(2, return_sequences=True), layers.GlobalMaxPooling1D()),
            r"must map \[B, T, ...\] to \[B, T, A\]",
        ),
        (
            lambda: keras.Sequential(
                [keras.Input(batch_shape=(2, None, 4)), layers.LSTM(2, return_sequences=True, stateful=True)]
            ),
            "has stateful=True",
        ),
        (lambda: sequential(sequential(layers.GRU(2, return_sequences=True))), "is inside another layer or model"),
        (
            lambda: sequential(layers.ConvLSTM1D(2, 3, return_sequences=True), shape=(None, 8, 1)),
            "has a state that is not carried",
        ),
        (
            lambda: sequential(layers.LSTM(2, return_sequences=True, activity_regularizer="l2")),
            "has an activity_regularizer",
        ),
        (
            lambda: with_a_state(layers.LSTM(3, return_sequences=True, name="memory"), by_name=True),
            "recurrent layer 'memory' is called with initial_state=: the trainer carries the state",
        ),
        (lambda: with_a_state(layers.GRU(3, return_sequences=True), by_name=False), "is called with initial_state="),
        (
            lambda: sequential(layers.Masking(name="holes"), layers.LSTM(3, return_sequences=True)),
            "layer 'holes' makes a mask, which a recurrent model must do without",
        ),
        (
            lambda: sequential(
                layers.Embedding(9, 4, mask_zero=True), layers.GRU(3, return_sequences=True), shape=(None,)
            ),
            "makes a mask",
        ),
    ],
)
def test_models_whose_state_cannot_be_carried(model, message):
    with pytest.raises(ValueError, match=message):
        check_recurrent(model())


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.LSTM(3, return_sequences=True, dropout=0.5, recurrent_dropout=0.5),
        lambda: layers.RNN([layers.GRUCell(3, dropout=0.5), layers.GRUCell(3)], return_sequences=True),
    ],
)
def test_dropout_inside_a_recurrent_layer(layer, random):
    """It is drawn in training, anew for every call, and episodes may begin inside the sequence."""
    model = sequential(layer())
    recurrent = Recurrent(model)
    observations = ops.convert_to_tensor(random.normal(size=(BATCH, TIME, 4)).astype("float32"))
    begun = np.zeros((BATCH, TIME), "float32")
    begun[0, 2] = 1.0
    program = backend.Program(model.variables, model.variables, backend.plan(convolutions=False))

    def twice(observations, begun, training):
        values, states = recurrent.unroll(observations[:, :2], recurrent.zeros(BATCH), begun[:, :2], training=training)
        return values, recurrent.unroll(observations[:, 2:], states, begun[:, 2:], training=training)[0]

    calm = program.compile(lambda *given: twice(*given, training=False))
    rough = program.compile(lambda *given: twice(*given, training=True))
    close(ops.concatenate(calm(observations, begun), 1)[1:], model(observations)[1:])
    first, second = (np.concatenate([ops.convert_to_numpy(x) for x in rough(observations, begun)], 1) for _ in "ab")
    assert np.isfinite(first).all() and not np.allclose(first, second)


def test_a_subclass_is_not_seen_through():
    class Mine(keras.Model):
        pass

    with pytest.raises(ValueError, match="must be a built Sequential or Functional one: .* Received: Mine"):
        check_recurrent(Mine())


def test_what_a_checkpoint_finds_while_learning_is_of_before_the_actions(tmp_path):
    class Raises(keras.callbacks.Callback):
        armed = True

        def on_train_batch_begin(self, batch, logs=None):
            if self.armed:
                raise RuntimeError("at once")

    def trainer():
        fix_seeds()
        layers = [keras.layers.LSTM(4, return_sequences=True), keras.layers.Dense(2)]
        model = keras.Sequential([keras.Input((None, 4)), *layers])
        settings = {"num_envs": 2, "batch_size": 4, "updates_per_call": 1, "sequences": Sequences(4), "seed": 0}
        return DQNTrainer("CartPole-v1", model, replay=Replay(400), learning_starts=60, **settings)

    undisturbed, disturbed = trainer(), trainer()
    with pytest.raises(RuntimeError, match="at once"):
        disturbed.train(100, callbacks=[Raises(), callbacks.Checkpoint(tmp_path / "run")], verbose=0)
    undisturbed.train(disturbed.steps, verbose=0)
    assert undisturbed.updates == 0  # the first is due at the next step
    for found, expected in zip(disturbed.actor.choice.after, undisturbed.actor.choice.after, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(found), ops.convert_to_numpy(expected))


def test_a_layer_that_another_model_gives_a_state_is_accepted():
    layer = layers.LSTM(3, return_sequences=True)
    with_a_state(layer, by_name=True)
    check_recurrent(sequential(layer, layers.Dense(3)))
