"""What becomes a vector environment, and what is refused."""

import environments as counting
import gymnasium
import keras
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from sota_dqn import DQNTrainer
from sota_dqn.vectors import is_vector, make_factory, make_vector


class Unrecorded(gymnasium.Wrapper):
    """A wrapper that does not tell what it was made with."""


def test_an_id_keeps_its_registered_arguments():
    env = make_factory("CartPole-v1")()
    assert env.spec.max_episode_steps == 500
    assert make_factory("MountainCar-v0")().spec.max_episode_steps == 200


def test_an_environment_with_a_spec_is_built_again():
    env = gymnasium.make("CartPole-v1", max_episode_steps=7, sutton_barto_reward=True)
    again = make_factory(env)()
    assert again.unwrapped is not env.unwrapped
    assert again.spec.max_episode_steps == 7
    again.reset(seed=0)
    assert again.step(0)[1] == 0.0  # the reward of Sutton and Barto
    assert make_factory(env)(render_mode="rgb_array").render_mode == "rgb_array"


def test_recorded_wrappers_are_built_again():
    env = make_factory(TimeLimit(gymnasium.make("CartPole-v1"), 3))()
    env.reset(seed=0)
    assert [env.step(0)[3] for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("make", [CartPoleEnv, lambda: Unrecorded(gymnasium.make("CartPole-v1")), counting.Counting])
def test_an_environment_that_cannot_be_built_again(make):
    env = make()
    assert make_factory(env) is None
    for settings in ({}, {"num_envs": 2}, {"num_envs": 1, "mode": "async"}):
        with pytest.raises(
            ValueError, match="cannot be built again: pass num_envs=1 and vectorization_mode='sync', or"
        ):
            make_vector(env, **settings)
    vector = make_vector(env, num_envs=1)
    assert vector.num_envs == 1
    assert vector.envs[0] is env


def test_a_callable():
    assert isinstance(make_factory(counting.Counting)(), counting.Counting)
    assert make_factory(counting.Counting)(render_mode="rgb_array").render_mode == "rgb_array"
    assert make_factory(lambda **settings: counting.Counting(**settings))(render_mode="human").render_mode == "human"
    with pytest.raises(TypeError, match="An environment's callable must take `render_mode` for films"):
        make_factory(lambda: counting.Counting())(render_mode="rgb_array")


@pytest.mark.parametrize("made", [3, None, gymnasium.Env])
def test_a_callable_that_makes_no_environment(made):
    def make():
        return made

    for build in (lambda: make_vector(make, num_envs=2), make_factory(make)):
        with pytest.raises(TypeError, match="An environment's callable must return a gymnasium.Env. Received: "):
            build()


def test_a_callable_that_makes_no_environment_for_workers():
    with pytest.raises(TypeError, match="An environment's callable must return a gymnasium.Env. Received: 0 of "):
        make_vector(int, num_envs=2, mode="async")


def test_a_worker_process_has_not_imported_what_registers_an_id():
    vector = make_vector("BreakoutNoFrameskip-v4", num_envs=1, mode="async")  # an id that does not name ale-py
    observations, _ = vector.reset(seed=0)
    assert observations.shape == (1, 210, 160, 3)
    vector.close()


def test_a_vector_environment_is_taken_as_it_is():
    vector = SyncVectorEnv([counting.Counting] * 3, autoreset_mode=AutoresetMode.NEXT_STEP)
    assert make_vector(vector) is make_vector(vector, num_envs=3) is vector
    assert make_factory(vector) is None
    with pytest.raises(ValueError, match="must be that of the vector environment, 3. Received: num_envs=4"):
        make_vector(vector, num_envs=4)


def test_an_object_that_is_both_is_a_vector_environment():
    class Both(counting.Counting):
        num_envs = 2
        single_observation_space = counting.OBSERVATIONS

    assert is_vector(Both())
    assert make_vector(Both()).num_envs == 2
    assert not is_vector(counting.Counting())


def test_the_default_vector():
    vector = make_vector("CartPole-v1")
    assert isinstance(vector, SyncVectorEnv)
    assert (vector.num_envs, vector.metadata["autoreset_mode"]) == (16, AutoresetMode.DISABLED)
    assert len({id(env.unwrapped) for env in vector.envs}) == 16


@pytest.mark.parametrize(
    ("env", "settings", "error", "message"),
    [
        ("CartPole-v9", {}, ValueError, "Unknown environment id. Did you mean .*CartPole-v1.* env='CartPole-v9'"),
        ("Nothing like it", {}, ValueError, "Unknown environment id. Received: env='Nothing like it'"),
        ("no_module:Env-v0", {}, ValueError, "pass the id alone. Received: env='no_module:Env-v0'"),
        (
            keras.Sequential([keras.Input((4,))]),
            {},
            TypeError,
            "must be an id, a callable, a gymnasium.Env or a gymnasium VectorEnv. Received: env=<Sequential",
        ),
        (3, {}, TypeError, "must be an id, a callable, a gymnasium.Env or a gymnasium VectorEnv. Received: env=3"),
        (None, {}, TypeError, "Received: env=None"),
        ("CartPole-v1", {"mode": "threads"}, ValueError, "must be one of .* Received: vectorization_mode='threads'"),
        (counting.Counting, {"mode": "vector_entry_point"}, ValueError, "needs an environment id. Received: env=<"),
        ("Acrobot-v1", {"mode": "vector_entry_point"}, ValueError, "without a vector environment of its own. Re"),
    ],
)  # fmt: skip
def test_bad_arguments(env, settings, error, message):
    with pytest.raises(error, match=message):
        make_vector(env, **settings)


@pytest.mark.parametrize(
    ("num_envs", "error", "message"),
    [
        (0, ValueError, "Argument `num_envs` must be at least 1. Received: num_envs=0"),
        (-1, ValueError, "Argument `num_envs` must be at least 1. Received: num_envs=-1"),
        (2.0, TypeError, "Argument `num_envs` must be an integer. Received: num_envs=2.0"),
    ],
)
def test_a_bad_number_of_environments(num_envs, error, message):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(error, match=message):
        DQNTrainer("CartPole-v1", model, num_envs=num_envs)
