"""Models that see the action and the reward before: the same in acting, in the replay, in evaluation and inference."""

import environments as counting
import keras
import numpy as np
import pytest
from keras import layers, ops
from runs import assert_same, make

from sota_dqn import DQNInference, DQNTrainer, Replay, Sequences, policies, returns
from sota_dqn.choice import Choice

NUM_ACTIONS = counting.NUM_ACTIONS


def seeing(*, recurrent, form=list, names=("previous_action", "previous_reward"), stack=None):
    """Returns a model that sees what is in `names` beside the observation, with weights large enough to matter."""
    time = (None,) if recurrent else ()
    sizes = {"previous_action": NUM_ACTIONS, "previous_reward": 1}
    inputs = [keras.Input((*time, sizes[name]), name=name) for name in names]
    observation = keras.Input((*time, 2) if stack is None else (*time, 2, stack), name="observation")
    small = layers.Rescaling(1e-6)(observation)
    if stack is not None:
        small = (
            layers.Reshape((2 * stack,))(small) if not recurrent else layers.TimeDistributed(layers.Flatten())(small)
        )
    large = keras.initializers.RandomNormal(stddev=1.0, seed=1)
    seen = layers.Concatenate()([small, *inputs])
    if recurrent:
        seen = layers.GRU(4, return_sequences=True, kernel_initializer=large)(seen)
    else:
        seen = layers.Dense(8, activation="tanh", kernel_initializer=large)(seen)
    values = layers.Dense(NUM_ACTIONS, kernel_initializer=large)(seen)
    inputs.insert(1, observation)  # not the first
    return keras.Model(inputs if form is list else {tensor.name: tensor for tensor in inputs}, values)


def build(model, **settings):
    if any(isinstance(layer, layers.RNN) for layer in model.layers):
        settings = {"sequences": Sequences(4, burn_in=2, period=2), **settings}
    settings = {"env": counting.Counting, "replay": Replay(400), "n_step": 2, "learning_starts": 100, **settings}
    return make(model=model, **settings)


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def previous_of(trainer, clip):
    """Returns the action one-hot and the reward before every row, `[E, T, ...]`, found row by row."""
    storage = trainer.replay.storage
    shape = storage.num_streams, storage.rows_per_stream
    steps = storage.read(np.arange(storage.bin, dtype="int32").reshape(shape))
    action, reward, valid = (numpy(values) for values in (steps.action, steps.reward, steps.valid))
    actions, rewards = np.zeros((*shape, NUM_ACTIONS), "float32"), np.zeros((*shape, 1), "float32")
    for stream in range(shape[0]):
        for time in range(1, shape[1]):
            if valid[stream, time - 1]:
                actions[stream, time, action[stream, time - 1]] = 1
                rewards[stream, time] = np.clip(reward[stream, time - 1], -1, 1) if clip else reward[stream, time - 1]
    return actions, rewards


CASES = [
    {"recurrent": False},
    {"recurrent": False, "form": dict, "stack": 2},
    {"recurrent": True, "form": dict},
    {"recurrent": True, "stack": 2},
    {"recurrent": True, "names": ("previous_reward",)},
    {"recurrent": False, "names": ("previous_action",)},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_acting_sees_what_the_replay_gives(case):
    """The rows of a greedy actor: what it saw, put together by hand, has the actions that it took as the best."""
    clip = case.get("stack") is not None
    trainer = build(
        seeing(**case), policy=policies.Greedy(), clip_rewards=clip, frame_stack=case.get("stack"), learning_starts=390
    )
    for _ in range(60):
        trainer.actor.step(numpy(trainer.actor.choose(0)))
    trainer.actor.flush()
    assert max(trainer.actor.count) < 100
    learner, storage, model = trainer.learner, trainer.replay.storage, trainer.model
    places = np.arange(storage.bin, dtype="int32")
    written = np.arange(100) < trainer.actor.count[:, None]
    actions, rewards = previous_of(trainer, clip)
    assert set(np.unique(actions[written])) == {0.0, 1.0} and len(np.unique(rewards[written])) > 2
    expected = {"previous_action": actions, "previous_reward": rewards}
    seen = learner.observe(ops.convert_to_tensor(places))
    inputs = {tensor.name: numpy(part) for tensor, part in zip(model.inputs, keras.tree.flatten(seen), strict=True)}
    inputs = {name: part.reshape(4, 100, *part.shape[1:]) for name, part in inputs.items()}
    for name in case.get("names", expected):
        np.testing.assert_array_equal(inputs[name][written], expected[name][written])
    steps = storage.read(np.arange(400, dtype="int32").reshape(4, 100))
    valid, taken = numpy(steps.valid), numpy(steps.action)
    if case["recurrent"]:
        recurrent = learner.recurrent
        step = learner.program.compile(lambda seen, states, begun: recurrent.step(seen, recurrent.begin(states, begun)))
        states, values, begun = recurrent.zeros(4), [], np.ones(4, bool)
        for time in range(100):
            packed = keras.tree.pack_sequence_as(model.input, [inputs[tensor.name][:, time] for tensor in model.inputs])
            one, states = step(packed, states, begun)
            values.append(numpy(one))
            begun = valid[:, time] == 0
        best = np.stack(values, axis=1).argmax(axis=-1)
    else:
        best = numpy(learner.values(seen)).argmax(axis=-1).reshape(4, 100)
    acted = written & (valid > 0)
    np.testing.assert_array_equal(taken[acted], best[acted])
    assert len(np.unique(taken[acted])) > 1


@pytest.mark.parametrize(
    "case",
    [
        ({"recurrent": False, "form": dict}, {"bounds": returns.Bounds(2, upper=True)}),
        (
            {"recurrent": True, "stack": 2},
            {
                "frame_stack": 2,
                "clip_rewards": True,
                "sequences": Sequences(3, burn_in=1, period=2, initial_state="learned"),
            },
        ),
    ],
    ids=["feed-forward", "recurrent"],
)
def test_saved_and_loaded(case, tmp_path):
    case, settings = case
    never_stopped = build(seeing(**case), **settings)
    never_stopped.train(300, verbose=0)
    assert never_stopped.updates > 50
    never_stopped.save(tmp_path)
    resumed = DQNTrainer.load(tmp_path, env=counting.Counting)
    for trainer in (never_stopped, resumed):
        trainer.train(120, verbose=0)
    assert_same(never_stopped, resumed)
    found = never_stopped.evaluate(5, seed=2)
    assert resumed.evaluate(5, seed=2) == found
    assert resumed.learner.compilations() == 1
    resumed.save(tmp_path)
    agent = DQNInference(tmp_path, env=counting.Counting)
    assert agent.evaluate(5, seed=2)["returns"] == found["returns"]
    for seed, expected in zip(found["seeds"], found["returns"], strict=True):  # step by step
        env = counting.Counting()
        observation, _ = env.reset(seed=seed)
        agent.reset()
        total, over, told = 0.0, False, {}
        while not over:
            observation, reward, terminated, truncated, _ = env.step(agent.act(observation, **told))
            told, over = {"reward": reward}, terminated or truncated
            total += reward
        assert total == expected


def test_rewards_are_clipped_where_they_are_in_learning():
    """A model that takes action 1 where the reward before was above 2."""
    observation, reward = keras.Input((1,)), keras.Input((1,), name="previous_reward")
    values = layers.Dense(2)(layers.Concatenate()([observation, reward]))
    model = keras.Model([observation, reward], values)
    model.set_weights([np.float32([[0, 0], [0, 1]]), np.float32([2, 0])])
    for clip, expected in ((False, [1, 0, 0]), (True, [0, 0, 0])):
        choice = Choice(
            model, policies.Greedy(), random=np.random.default_rng(0), convolutions=False, stacked=False,
            clip_rewards=clip,
        )  # fmt: skip
        begun = np.array([False, False, True])
        actions = choice(np.zeros((3, 1), "float32"), 0, begun=begun, rewards=np.array([5.0, 1.0, 5.0]))
        np.testing.assert_array_equal(numpy(actions), expected)


def test_inference_asks_for_the_reward():
    agent = DQNInference(seeing(recurrent=True), env=counting.Counting)
    observations = np.zeros((2, 2), "float32")
    agent.act(observations)
    with pytest.raises(ValueError, match="`reward` is needed: the model sees the reward before. Received: reward=None"):
        agent.act(observations)
    with pytest.raises(ValueError, match="`reward` must have one number for each of 2 observations. Received: reward="):
        agent.act(observations, reward=1.0)
    agent.act(observations, reward=[1.0, 2.0])
    agent.reset()
    agent.act(observations)
    only_action = DQNInference(seeing(recurrent=False, names=("previous_action",)), env=counting.Counting)
    for _ in range(2):
        only_action.act(observations[0])


def odd(*inputs):
    return lambda: keras.Model(list(inputs), layers.Dense(NUM_ACTIONS)(layers.Concatenate()(list(inputs))))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            odd(keras.Input((2,)), keras.Input((2,), name="previous_action")),
            r"input 'previous_action' must be keras.Input\(\(3,\)\), .*Received: shape=\(2,\), dtype=float32",
        ),
        (
            odd(keras.Input((2,)), keras.Input((1,), name="previous_reward", dtype="int32")),
            r"input 'previous_reward' must be keras.Input\(\(1,\)\), of floating.*Received: .*dtype=int32",
        ),
        (
            odd(keras.Input((2,)), keras.Input((3,), name="last_action")),
            r"must have one input, the observation\. Received: input_shape=\[",
        ),
        (
            odd(keras.Input((2,)), keras.Input((2,), name="goal"), keras.Input((1,), name="previous_reward")),
            r"must have one input, the observation\. Received: input_shape=\[",
        ),
        (
            odd(keras.Input((3,), name="previous_action"), keras.Input((1,), name="previous_reward")),
            r"must have one input, the observation\. Received: input_shape=\[",
        ),
        (
            odd(keras.Input((5,), name="seen"), keras.Input((1,), name="previous_reward")),
            r"does not match the preprocessed observations, which have shape \(2,\). Received: input_shape=\(5,\)",
        ),
    ],
)
def test_inputs_that_do_not_fit(model, message):
    with pytest.raises(ValueError, match=message):
        build(model())


def test_inputs_of_a_recurrent_model_have_time():
    observation, reward = keras.Input((None, 2)), keras.Input((4, 1), name="previous_reward")
    seen = layers.Concatenate()([layers.LSTM(3, return_sequences=True)(observation)[:, :4], reward])
    model = keras.Model([observation, reward], layers.Dense(NUM_ACTIONS)(seen))
    with pytest.raises(ValueError, match=r"must map \[B, T, ...\] to \[B, T, A\] with T left open"):
        build(model)
