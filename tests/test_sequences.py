"""Recurrent models in training: stored states, targets and losses of sequences, burn-in, whole runs that resume."""

import math

import gymnasium
import keras
import numpy as np
import pytest
import reference
from gymnasium import spaces
from keras import layers, ops
from learners import Masked
from runs import assert_same, fix_seeds, make
from test_dqn import returns_to_go

from sota_dqn import (
    DQNInference,
    DQNTrainer,
    Replay,
    Sequences,
    backend,
    callbacks,
    policies,
    returns,
    samplers,
    schedules,
    targets,
)
from sota_dqn.recurrent import Recurrent
from sota_dqn.types import Steps

LENGTH, BURN_IN, N, DISCOUNT = 4, 2, 2, 0.9


def network(inputs=4, outputs=2):
    fix_seeds()
    inside = [layers.Dense(5, activation="tanh"), layers.LSTM(3, return_sequences=True), layers.Dense(outputs)]
    return keras.Sequential([keras.Input((None, inputs)), *inside])


def build(env="CartPole-v1", model=None, **settings):
    settings = {
        "sequences": Sequences(LENGTH, burn_in=BURN_IN, period=3),
        "target": targets.double,
        "n_step": N,
        "bounds": None,
        "discount": DISCOUNT,
        "replay": Replay(240, sampler=samplers.Prioritized()),
        "learning_starts": 60,
        **settings,
    }
    return make(env, network() if model is None else model, **settings)


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def rows_of(trainer):
    """Returns every stored row by field, `[E, T, ...]`."""
    storage = trainer.replay.storage
    shape = (storage.num_streams, storage.rows_per_stream)
    places = np.arange(storage.bin, dtype="int32").reshape(shape)
    steps = storage.read(places)._replace(observation=backend.read_rows(storage.observation, places))
    return {name: numpy(values) for name, values in steps._asdict().items()}


def states_of(trainer, model):
    """Returns the state before every row of a model that has not changed since they were stored, `[E, T, units]`."""
    rows, recurrent = rows_of(trainer), Recurrent(model)
    streams, times = rows["valid"].shape
    program = backend.Program(model.variables, [], backend.plan(convolutions=False))

    def step(observation, states, begun):
        before = recurrent.begin(states, begun)
        return before, recurrent.step(observation, before)[1]

    step, states = program.compile(step), recurrent.zeros(streams)
    found = []
    begun = np.ones(streams, bool)
    for time in range(times):
        before, states = step(rows["observation"][:, time], states, begun)
        found.append([numpy(state) for state in before])
        begun = rows["valid"][:, time] == 0
    return [np.stack(one, axis=1) for one in zip(*found, strict=True)]


def test_stored_states_are_those_of_the_unrolled_model():
    trainer = build(learning_starts=230)
    while max(trainer.actor.count) < 58:  # of 60 rows a stream
        trainer.actor.step(numpy(trainer.actor.choose(0)))
    trainer.actor.flush()
    storage = trainer.replay.storage
    assert storage.rows_per_stream == 60 and storage.period == 3
    assert [variable.shape[0] for variable in storage.state] == [81, 81]  # 80 rows and the bin
    written = int(min(trainer.actor.count)) // 3
    rows = rows_of(trainer)
    assert (rows["valid"][:, : written * 3] == 0).any()  # episodes have ended
    for found, expected in zip(storage.state, states_of(trainer, trainer.model), strict=True):
        found = numpy(found.value)[:-1].reshape(4, 20, 3)
        valid = rows["valid"][:, ::3][:, :written] > 0
        np.testing.assert_allclose(
            found[:, :written][valid], expected[:, ::3][:, :written][valid], rtol=1e-5, atol=1e-6
        )
        assert abs(found[:, :written]).max() > 0.1


def expected_update(trainer, places, weights, initial):
    """Returns loss and errors `[B, L]`, computed step by step from the stored rows."""
    rows, learner = rows_of(trainer), trainer.learner
    recurrent, bounds, rescaling = learner.recurrent, trainer.bounds, trainer.rescaling
    squash, unsquash = (
        (lambda x: reference.squash(x, rescaling.epsilon), lambda x: reference.unsquash(x, rescaling.epsilon))
        if rescaling
        else (lambda x: x, lambda x: x)
    )
    to_go = returns_to_go(Steps(**rows), DISCOUNT)
    reach = max(N, bounds.horizons + 1 if bounds else 0)
    streams, starts = np.divmod(places, rows["valid"].shape[1])
    online, judged = (
        [variable.value for variable in group] for group in (learner.model_variables, learner.target_variables)
    )
    windows = [
        {
            name: np.concatenate([field[stream], field[stream]])[start:][: BURN_IN + LENGTH + reach]
            for name, field in rows.items()
        }
        for stream, start in zip(streams, starts, strict=True)
    ]
    seen, valid = (np.stack([window[name] for window in windows], axis=1) for name in ("observation", "valid"))
    before = rows["valid"][streams, starts - 1]  # of the first row of a stream there is none
    first = np.logical_and(bool(recurrent.initial), (starts == 0) | (before == 0))

    def values(weights_of):
        mapping = list(zip(learner.model_variables, weights_of, strict=True))
        with keras.StatelessScope(mapping):
            states, begun, found = initial, first, []
            for time in range(len(seen)):
                one, states = recurrent.step(seen[time], recurrent.begin(states, begun))
                begun = valid[time] == 0
                found.append(numpy(one))
        return np.stack(found, axis=1).astype("float64")  # [B, T, A]

    errors, losses, counted = np.zeros((len(places), LENGTH)), 0.0, 0
    everything = zip(windows, values(online), values(judged), streams, starts, strict=True)
    for i, (window, q, target, stream, start) in enumerate(everything):
        for step in range(LENGTH):
            time = BURN_IN + step
            if not window["valid"][time]:
                continue
            parts = [window[name][time:] for name in ("reward", "terminated", "valid")]
            gained, factor, taken = reference.n_step(*parts, N, DISCOUNT)
            y = squash(gained + factor * unsquash(reference.double(q[time + taken], target[time + taken])))
            value = q[time][window["action"][time]]
            errors[i, step] = y - value
            loss = reference.squared(y, value)
            if bounds:
                best = [unsquash(max(one)) for one in target[time:]]
                known = to_go[stream, start + time] if bounds.return_to_go else -np.inf
                lower = squash(reference.lower_bound(*parts, best, bounds.horizons, DISCOUNT, known))
                loss = reference.lower_bound_penalty(value, y, lower, np.inf, 0.25, loss=reference.squared)
            losses += weights[i] * loss
            counted += 1
    return losses / counted, errors, counted


@pytest.mark.parametrize(
    ("initial", "settings"),
    [
        ("stored", {}),
        ("zero", {"n_step": schedules.constant(N)}),
        ("stored", {"bounds": returns.Bounds(3, return_to_go=True)}),
        ("learned", {"bounds": returns.Bounds(1), "rescaling": returns.Rescaling()}),
    ],
    ids=["stored", "zero", "bounds", "learned, rescaled bounds"],
)
def test_an_update_agrees_with_one_step_by_step(initial, settings, random):
    sequences = Sequences(LENGTH, burn_in=BURN_IN, period=3, initial_state=initial, eta=0.7)
    sampler = samplers.Prioritized(1.0, 0.5, epsilon=0.1)
    trainer = build(
        sequences=sequences, replay=Replay(240, sampler=sampler), updates_per_call=1, target_update=3, **settings
    )
    learner, storage = trainer.learner, trainer.replay.storage
    for variable in learner.recurrent.initial:
        variable.assign(random.normal(size=variable.shape))
    trainer.train(200, verbose=0)
    trainer.actor.flush()
    random_state = learner.random.bit_generator.state
    uniform = learner.random.random((1, 8), dtype="float32")[0]
    learner.random.bit_generator.state = random_state
    sample = trainer.replay.sample(ops.convert_to_tensor(uniform), np.float32(trainer.steps))
    places, weights = numpy(sample.rows), numpy(sample.weights)
    assert (places % 3 == 0).all() and max(trainer.actor.count) <= storage.rows_per_stream  # nothing is overwritten
    if initial == "zero":
        states = [np.zeros((8, 3), "float32")] * 2
    else:
        states = [numpy(state) for state in storage.read_states(places)]
    loss, errors, counted = expected_update(trainer, places, weights, states)
    before = numpy(sampler.tree.read(np.arange(240, dtype="int32")))
    metrics = learner.learn(trainer.steps)
    assert numpy(metrics["loss"])[0] == pytest.approx(loss, rel=1e-3)
    assert numpy(metrics["td_error"])[0] == pytest.approx(abs(errors).sum() / counted, rel=1e-3)
    after = numpy(sampler.tree.read(np.arange(240, dtype="int32")))
    for i, place in enumerate(places):
        done = abs(errors[i][errors[i] != 0])
        expected = 0.7 * done.max() + 0.3 * done.mean() if len(done) else 0.0
        assert after[place] == pytest.approx(expected + 0.1, rel=1e-3, abs=1e-5)
    others = np.setdiff1d(np.arange(240), places)
    np.testing.assert_array_equal(after[others], before[others])


def test_actions_of_minus_infinity_are_as_if_they_were_not_there():
    """A run is that of a model that gives them a very low value instead; where the pole has fallen, none is legal."""
    runs = []
    for value in (-np.inf, -1e9):
        fix_seeds()
        observation = keras.Input((None, 4))
        values = layers.Dense(2)(layers.LSTM(3, return_sequences=True)(observation))
        model = keras.Model(observation, Masked(value, feature=2, limit=math.radians(12))(values, observation))
        parts = {"bounds": returns.Bounds(2, return_to_go=True), "rescaling": returns.Rescaling()}
        trainer = build(model=model, policy=policies.Greedy(), **parts)
        trainer.train(120, verbose=0)
        assert (rows_of(trainer)["terminated"] > 0).any()
        runs.append([*model.get_weights(), *(trainer.history[name] for name in ("loss", "q", "td_error"))])
        trainer.close()
    for ours, expected in zip(*runs, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)
    assert np.isfinite(runs[0][-1]).any()


def test_the_learned_state_is_trained_where_episodes_begin():
    """Not where they begin in the burn-in, through which no gradient passes, nor where none begins."""
    trainer = build(sequences=Sequences(LENGTH, burn_in=BURN_IN, period=3, initial_state="learned"))
    learner = trainer.learner
    assert len(learner.trainable_variables) == len(trainer.model.trainable_variables) + 2
    observations = np.random.default_rng(0).normal(size=(1, BURN_IN + LENGTH + N, 4)).astype("float32")

    def gradient(begun):
        def loss():
            values = learner.unroll(observations, learner.recurrent.zeros(1), begun)
            return ops.sum(values[:, :LENGTH] ** 2), ops.zeros(())

        return learner.program.value_and_grad(loss, learner.recurrent.initial)[1]

    compiled = learner.program.compile(gradient)
    for time in range(BURN_IN + LENGTH + N):
        begun = np.zeros((1, BURN_IN + LENGTH + N), "uint8")
        begun[0, time] = 1
        for found in compiled(begun):
            assert numpy(found).any() == (BURN_IN <= time < BURN_IN + LENGTH)


def test_a_learned_state_is_one_for_all(tmp_path, random, capsys):
    """Acting, evaluation and the checkpoint share it; a `.keras` file begins with zeros."""
    model = network()
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
    model.optimizer.build(model.trainable_variables)
    sequences = Sequences(LENGTH, burn_in=0, period=2, initial_state="learned")
    trainer = build(model=model, sequences=sequences, replay=Replay(400))
    initial = trainer.learner.recurrent.initial
    trainer.train(200, verbose=0, callbacks=[callbacks.Evaluation(10_000, best_model=tmp_path / "best.keras")])
    assert "best.keras begins episodes with zeros" in capsys.readouterr().out
    assert all(abs(numpy(variable)).max() > 1e-3 for variable in initial)
    assert trainer.learner.optimizer is model.optimizer
    for variable in initial:
        variable.assign(3 * random.normal(size=variable.shape))
    trainer.save(tmp_path)
    trainer.model.save(tmp_path / "model.keras")
    agent, bare = DQNInference(tmp_path), DQNInference(tmp_path / "model.keras", env="CartPole-v1")
    assert agent.evaluate(4, seed=1)["returns"] == trainer.evaluate(4, seed=1)["returns"]
    trainer.actor.begun = np.ones(4, bool)
    trainer.actor.choose(0)
    trainer._evaluated(np.zeros((4, 4), "float32"), 0.0, begun=np.ones(4, bool))
    for one in (agent, bare):
        one.act(np.zeros((4, 4), "float32"))
    for i, variable in enumerate(initial):
        expected = np.tile(numpy(variable), (4, 1))
        for choice in (trainer.actor.choice, trainer._evaluated, agent._choose):
            np.testing.assert_array_equal(numpy(choice.before[i]), expected)
        np.testing.assert_array_equal(numpy(bare._choose.before[i]), 0)


def test_burn_in_carries_no_gradient():
    trainer = build()
    trainer.train(120, verbose=0)
    learner = trainer.learner
    rows = np.int32([0, 3, 6, 9, 60, 63, 66, 69])
    window = trainer.replay.storage.read(
        trainer.replay.storage.neighbours(ops.convert_to_tensor(rows), 0, trainer.replay.after)
    )

    begun = ops.concatenate([ops.zeros_like(window.valid[:, :1]), 1 - window.valid[:, :-1]], axis=1)

    def gradient(constant):
        """The gradient of the trained steps' values; `constant` state after the burn-in, or as the learner has it."""

        def run(rows):
            observations = learner.observe_window(rows)

            def loss():
                if constant:
                    values, _ = learner.recurrent.unroll(observations[:, BURN_IN:], states, begun[:, BURN_IN:])
                else:
                    values = learner.unroll(observations, learner.states(rows), begun)
                return ops.sum(ops.cast(values, "float32") ** 2), ops.zeros(())

            return learner.program.value_and_grad(loss, trainer.model.trainable_variables)[1]

        return [numpy(one) for one in learner.program.compile(run)(rows)]

    observations = learner.observe_window(ops.convert_to_tensor(rows))
    states = trainer.replay.storage.read_states(rows)
    _, states = learner.recurrent.unroll(observations[:, :BURN_IN], states, begun[:, :BURN_IN])
    states = [numpy(state) for state in states]
    for one, other in zip(gradient(True), gradient(False), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {
            "frame_stack": 2,
            "model": lambda: stacked(),
            "policy": lambda: policies.Mixture({"a": policies.Greedy(), "b": policies.Random()}),
        },
        {"sequences": Sequences(3, burn_in=1, period=2, initial_state="learned"), "bounds": returns.Bounds(2)},
        {"rescaling": returns.Rescaling(), "sequences": Sequences(3, burn_in=0, period=1, initial_state="zero")},
    ],
    ids=["stored, frames, mixture", "learned", "zero"],
)
def test_saved_and_loaded(settings, tmp_path):
    made = {name: value() if name in ("model", "policy") else value for name, value in settings.items()}
    never_stopped = build(**made)
    never_stopped.train(300, verbose=0)
    assert never_stopped.updates > 50
    never_stopped.save(tmp_path)
    resumed = DQNTrainer.load(tmp_path)
    for trainer in (never_stopped, resumed):
        trainer.train(120, verbose=0)
    assert_same(never_stopped, resumed)
    assert never_stopped.evaluate(3) == resumed.evaluate(3)
    assert resumed.learner.compilations() == 1


def stacked():
    fix_seeds()
    inside = [layers.TimeDistributed(layers.Flatten()), layers.GRU(3, return_sequences=True), layers.Dense(2)]
    return keras.Sequential([keras.Input((None, 4, 2)), *inside])


class Cue(gymnasium.Env):
    """The first observation says which action is right in the last step; what comes between says nothing."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)
    STEPS = 3

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.cue = 0, int(self.np_random.integers(2))
        return np.float32([2 * self.cue - 1, 0]), {}

    def step(self, action):
        self.time += 1
        over = self.time == self.STEPS
        reward = (1.0 if action == self.cue else -1.0) if over else 0.0
        return np.float32([0, self.time / self.STEPS]), reward, over, False, {}


def test_a_cue_is_remembered(tmp_path):
    fix_seeds()
    inside = [layers.GRU(16, return_sequences=True), layers.Dense(2)]
    model = keras.Sequential([keras.Input((None, 2)), *inside])
    model.compile(optimizer=keras.optimizers.Adam(3e-3), loss="mse")
    trainer = DQNTrainer(
        Cue, model, num_envs=8, sequences=Sequences(6, burn_in=0, period=2), n_step=1, batch_size=32,
        policy=policies.EpsilonGreedy(0.3), learning_starts=200, replay=Replay(4_000), target_update=0.05,
    )  # fmt: skip
    trainer.train(4_000, verbose=0)
    assert trainer.evaluate(40)["return_mean"] == 1.0
    trainer.model.save(tmp_path / "model.keras")

    agent = DQNInference(tmp_path / "model.keras", env=Cue)
    assert agent.evaluate(20)["return_mean"] == 1.0
    env = Cue()
    for seed in range(6):  # step by step, one stream
        observation, _ = env.reset(seed=seed)
        agent.reset()
        over = False
        while not over:
            observation, reward, over, *_ = env.step(agent.act(observation))
        assert reward == 1.0


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"length": 0}, ValueError, "`length` must be at least 1. Received: length=0"),
        ({"burn_in": -1}, ValueError, "`burn_in` must be at least 0. Received: burn_in=-1"),
        ({"burn_in": 1.0}, TypeError, "`burn_in` must be an integer. Received: burn_in=1.0"),
        ({"length": None}, TypeError, "`length` must be an integer. Received: length=None"),
        ({"period": 0}, ValueError, "`period` must be at least 1. Received: period=0"),
        ({"initial_state": "random"}, ValueError, '`initial_state` must be "stored", "learned" or "zero". Received: '),
        ({"eta": 1.5}, ValueError, "`eta` must be between 0 and 1. Received: eta=1.5"),
        ({"eta": "a"}, TypeError, "`eta` must be a number. Received: eta='a'"),
    ],
)
def test_bad_settings(settings, error, message):
    with pytest.raises(error, match=message):
        Sequences(**settings)


def test_numbers_of_numpy():
    sequences = Sequences(np.int64(4), burn_in=np.int32(2), period=np.uint8(3))
    assert [type(value) for value in (sequences.length, sequences.burn_in, sequences.period)] == [int] * 3


def test_what_does_not_fit_together():
    with pytest.raises(TypeError, match="`sequences` must be a `Sequences` or None. Received: sequences=20"):
        build(sequences=20)
    flat = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    with pytest.raises(ValueError, match="`sequences` is for recurrent models. The model has no recurrent layer."):
        build(model=flat)
    with pytest.raises(ValueError, match="`bounds` must be without upper bounds .* Received: upper=True"):
        build(bounds=returns.Bounds(upper=True))
    no_time = keras.Sequential([keras.Input((4,)), layers.Reshape((1, 4)), layers.LSTM(3, return_sequences=True)])
    with pytest.raises(ValueError, match=r"must map \[B, T, ...\] to \[B, T, A\] with T left open"):
        build(model=no_time)
    with pytest.raises(ValueError, match=r"does not match the preprocessed observations, which have shape \(None, 4\)"):
        build(model=network(inputs=3))
    with pytest.raises(ValueError, match="must output one value for each of the 2 actions. Received: .3,."):
        build(model=network(outputs=3))
    with pytest.raises(ValueError, match="`capacity` must be at least .* for 4 environments: windows of 8 rows"):
        build(replay=Replay(40))
