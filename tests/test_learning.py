"""The whole way, from environment to weights, on environments whose values are known."""

import keras
import numpy as np
import probes
import pytest

from sota_dqn import DQNTrainer, Replay, callbacks, policies, samplers, schedules, targets
from sota_dqn.returns import Bounds

DISCOUNT = 0.8
CHAIN = probes.Chain.values(DISCOUNT)


def linear_model(features, num_actions, *, bias):
    """Returns a linear model that starts at zero, with its optimizer."""
    model = keras.Sequential(
        [keras.Input((features,)), keras.layers.Dense(num_actions, use_bias=bias, kernel_initializer="zeros")]
    )
    # With Adam's own epsilon, what rounding leaves of a gradient that is zero is taken for a whole step.
    model.compile(optimizer=keras.optimizers.Adam(0.02, epsilon=1e-4), loss="huber")
    return model


def train(env, model, *, steps, **changes):
    settings = {
        "num_envs": 4,
        "replay": Replay(2_000, sampler=samplers.Prioritized(0.6, 1.0)),
        "policy": policies.EpsilonGreedy(1.0),
        "discount": DISCOUNT,
        "batch_size": 32,
        "updates_per_step": 1.0,
        "updates_per_call": 16,
        "learning_starts": 200,
        **changes,
    }
    trainer = DQNTrainer(env, model, **settings)
    trainer.train(steps=steps, verbose=0)
    trainer.close()


def chain_model():
    return linear_model(probes.Chain.length_of_chain, 2, bias=False)


def test_values_of_the_chain_by_hand():
    """The right end is worth its way from all states but the first."""
    np.testing.assert_allclose(CHAIN.max(axis=1), [0.2, 0.262, 0.39, 0.55, 0.75, 1.0])
    np.testing.assert_allclose(CHAIN.min(axis=1), [0.1596, 0.11, 0.1596, 0.262, 0.39, 0.55])
    np.testing.assert_array_equal(CHAIN.argmax(axis=1), [0, 1, 1, 1, 1, 1])


@pytest.mark.parametrize(
    "changes",
    [
        {"target_update": 0.05},
        {"target_update": 0.05, "bounds": Bounds(3, upper=True, return_to_go=True)},
    ],
    ids=["no bounds", "bounds"],
)
def test_one_step_values_of_random_actions_equal_value_iteration(changes):
    model = chain_model()
    train(probes.Chain, model, steps=3_000, n_step=1, target=targets.double, **changes)
    np.testing.assert_allclose(model.get_weights()[0], CHAIN, atol=0.001)


def test_three_step_values_of_greedy_actions_equal_value_iteration():
    """Three-step returns are those of the policy that acts: its old, random steps must have left the replay."""
    model = chain_model()
    policy = policies.EpsilonGreedy(schedules.linear(1.0, 0.0, steps=2_000))
    replay = Replay(600, sampler=samplers.Prioritized(alpha=0.6, beta=1.0))
    settings = {"n_step": 3, "target": targets.double, "target_update": 10}
    train(probes.Chain, model, steps=5_000, policy=policy, replay=replay, **settings)
    values = model.get_weights()[0]
    np.testing.assert_allclose(values.max(axis=1), CHAIN.max(axis=1), atol=0.01)
    np.testing.assert_array_equal(values.argmax(axis=1), CHAIN.argmax(axis=1))


FOREVER = 1 / (1 - DISCOUNT)


@pytest.mark.parametrize(
    ("env", "expected", "changes"),
    [
        (probes.Constant, {0: [1, 1]}, {}),
        (probes.ByObservation, {-1: [-1, -1], 1: [1, 1]}, {}),
        (probes.Delayed, {0: [DISCOUNT] * 2, 1: [1, 1]}, {"n_step": 1}),
        (probes.Delayed, {0: [DISCOUNT] * 2, 1: [1, 1]}, {"n_step": 3}),
        (probes.ActionDecides, {0: [-1, 1]}, {}),
        (probes.ActionByObservation, {-1: [1, -1], 1: [-1, 1]}, {}),
        (probes.TimeLimit, {0: [FOREVER] * 2}, {"n_step": 3}),
        (probes.NegativeTimeLimit, {0: [-FOREVER] * 2}, {"bounds": Bounds(3, return_to_go=True)}),
    ],
    ids=lambda x: x.__name__ if isinstance(x, type) else None,
)
def test_probe_is_learned(env, expected, changes):
    model = linear_model(1, 2, bias=True)
    train(env, model, steps=2_000, **changes)
    observations = np.float32(list(expected))[:, None]
    values = keras.ops.convert_to_numpy(model(observations))
    np.testing.assert_allclose(values, list(expected.values()), atol=0.05)


@pytest.mark.slow
def test_cartpole_is_solved_with_the_defaults():
    inside = []
    for _ in range(2):
        inside += [keras.layers.Dense(128), keras.layers.LayerNormalization(), keras.layers.Activation("relu")]
    trainer = DQNTrainer("CartPole-v1", keras.Sequential([keras.Input((4,)), *inside, keras.layers.Dense(2)]))
    solved = callbacks.Evaluation(2_000, stop_at=475)
    trainer.train(steps=30_000, verbose=0, callbacks=[solved])
    assert solved.best >= 475
