import re

import environments as counting
import keras
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorWrapper

from sota_dqn import DQNTrainer, Replay
from sota_dqn import spaces as supported
from sota_dqn.environments import Environments, ended_of
from sota_dqn.seeds import episode_seed
from sota_dqn.vectors import make_vector


class Restless(counting.Counting):
    """Ends a step earlier after every reset: not deterministic under its seed."""

    def reset(self, *, seed=None, options=None):
        self.longest -= 1
        return super().reset(seed=0, options=options)

    def step(self, action):
        observation, reward, _, _, info = super().step(action)
        return observation, reward, self.time >= self.longest, False, info


def sync(mode=AutoresetMode.DISABLED, num_envs=3, env=counting.Counting):
    return SyncVectorEnv([env] * num_envs, autoreset_mode=mode)


# Spaces

BOX = spaces.Box(-1, 1, (3,))


@pytest.mark.parametrize(
    "space",
    [spaces.MultiDiscrete([2, 2]), BOX, spaces.MultiBinary(2), spaces.Tuple([spaces.Discrete(2)]), spaces.Dict(a=BOX)],
)
def test_actions_are_discrete(space):
    name = type(space).__name__
    message = rf"needs a Discrete action space; {name} is not.*TransformAction.*action_space={re.escape(str(space))}"
    with pytest.raises(ValueError, match=message):
        supported.check_spaces(BOX, space)


@pytest.mark.parametrize(
    "space", [spaces.MultiDiscrete([2, 2]), spaces.Tuple([BOX]), spaces.Dict(a=BOX), spaces.Text(3)]
)
def test_observations_that_are_not_supported(space):
    message = rf"may be Box, MultiBinary or Discrete; {type(space).__name__} is not supported.*FlattenObservation.*Rec"
    with pytest.raises(ValueError, match=message):
        supported.check_spaces(space, spaces.Discrete(2))


@pytest.mark.parametrize("space", [BOX, spaces.Discrete(4), spaces.MultiBinary(3)])
def test_observations_that_are_supported(space):
    supported.check_spaces(space, spaces.Discrete(2, start=-1))


def test_spaces_are_described():
    described = supported.describe_space(spaces.Discrete(3, start=2))
    assert described == {"type": "Discrete", "n": 3, "start": 2}
    assert supported.space_from(described) == spaces.Discrete(3, start=2)
    described = supported.describe_space(spaces.Box(0, 255, (4, 4, 1), np.uint8))
    assert described == {"type": "Box", "shape": [4, 4, 1], "dtype": "uint8"}
    for dtype in ("bool", "int8", "uint8", "int64", "float16", "float64"):
        found = supported.space_from({**described, "dtype": dtype})
        assert (found.shape, found.dtype) == ((4, 4, 1), np.dtype(dtype))
    assert supported.describe_space(spaces.MultiBinary(3))["shape"] == [3]


# Episodes and their seeds


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_run_can_be_repeated(mode, random):
    actions = random.integers(counting.NUM_ACTIONS, size=(40, 3))

    def play(seed):
        environments = Environments(sync(mode), seed=seed)
        return [environments.reset(), *(environments.step(action).observation for action in actions)]

    np.testing.assert_array_equal(play(5), play(5))
    assert not np.array_equal(play(5), play(6))


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_streams_differ_and_episodes_are_counted(mode):
    environments = Environments(sync(mode), seed=0)
    first = environments.reset()
    assert len(set(first[:, 0])) == 3
    begun = np.ones(3, int)
    for _ in range(50):
        begun += environments.step(np.zeros(3, "int32")).begun
        np.testing.assert_array_equal(environments.episodes, begun)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_reset_in_the_middle_begins_anew(mode):
    environments = Environments(sync(mode), seed=0)
    environments.reset()
    for _ in range(40):
        outcome = environments.step(np.zeros(3, "int32"))
        if (outcome.terminated | outcome.truncated).any():
            observation = environments.reset()
            np.testing.assert_array_equal(observation[:, 1], 0)
            outcome = environments.step(np.zeros(3, "int32"))
            assert outcome.valid.all()


# State and restoring


@pytest.mark.parametrize("name", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0"])
@pytest.mark.parametrize("steps", [0, 3, 57, 200, 230])
@pytest.mark.parametrize("seed_every", [0, 40, 10**6])
def test_restored_environments_go_on_as_they_were(name, steps, seed_every, random):
    num_envs, after = 3, 25
    vectors = [make_vector(name, num_envs=num_envs) for _ in range(2)]
    for vector in vectors:
        vector.seed_every = seed_every
    made = [Environments(vector, seed=3) for vector in vectors]
    actions = random.integers(made[0].action_space.n, size=(steps + after, num_envs)).astype("int32")
    observation, rewards = made[0].reset(), [[] for _ in range(num_envs)]
    for action in actions[:steps]:
        outcome = made[0].step(action)
        observation = outcome.observation
        for stream in range(num_envs):
            rewards[stream] = [] if outcome.begun[stream] else [*rewards[stream], outcome.reward[stream]]
    made[1].reset()
    replayed, gained = made[1].restore(made[0].state())
    np.testing.assert_array_equal(replayed, observation)
    assert gained == rewards
    assert made[1].state() == made[0].state()
    for action in actions[steps:]:
        for field, expected in zip(made[1].step(action), made[0].step(action), strict=True):
            np.testing.assert_array_equal(field, expected)
    assert made[1].state() == made[0].state()


def test_streams_at_every_step_and_just_reset():
    # Short episodes of different lengths: a state is taken after every step.
    environments = Environments(sync(), seed=1)
    observation = environments.reset()
    met = set()
    for step in range(40):
        lengths = [len(actions) for actions in environments.actions]
        met.add((0 in lengths, len(set(lengths)) == 3))
        again = Environments(sync(), seed=1)
        again.reset()
        replayed, _ = again.restore(environments.state())
        np.testing.assert_array_equal(replayed, observation)
        observation = environments.step(np.full(3, step % 3, "int32")).observation
    assert {(True, True), (False, True), (True, False)} <= met


def test_a_stream_is_seeded_anew_after_so_many_steps():
    seeds = []

    class Told(counting.Counting):
        def reset(self, *, seed=None, options=None):
            seeds.append(seed)
            return super().reset(seed=seed, options=options)

    vector = SyncVectorEnv([lambda: Told()], autoreset_mode=AutoresetMode.DISABLED)
    vector.seed_every = 12
    environments = Environments(vector, seed=1)
    environments.reset()
    since, expected = 0, [episode_seed(1, 0, 0)]
    for _ in range(120):
        since += 1
        if environments.step(np.zeros(1, "int32")).begun[0]:
            episode = len(expected)
            expected.append(episode_seed(1, 0, episode) if since >= 12 else None)
            since = 0 if since >= 12 else since
            assert environments.episodes == [episode + 1]
    assert seeds == expected
    assert 3 < expected.count(None) < len(expected) - 3


def test_a_state_of_before_there_were_resets_without_a_seed():
    environments = Environments(sync(), seed=1)
    environments.reset()
    observation = [environments.step(np.zeros(3, "int32")).observation for _ in range(20)][-1]
    state = environments.state()
    del state["resets"]
    again = Environments(sync(), seed=1)
    again.reset()
    np.testing.assert_array_equal(again.restore(state)[0], observation)


def test_worker_processes_are_restored():
    vectors = [AsyncVectorEnv([counting.Counting] * 2, context="spawn", autoreset_mode="Disabled") for _ in range(2)]
    first, second = (Environments(vector, seed=1) for vector in vectors)
    try:
        first.reset()
        for step in range(12):
            observation = first.step(np.full(2, step % 3, "int32")).observation
        second.reset()
        np.testing.assert_array_equal(second.restore(first.state())[0], observation)
        for _ in range(10):
            for field, expected in zip(second.step(np.ones(2, int)), first.step(np.ones(2, int)), strict=True):
                np.testing.assert_array_equal(field, expected)
    finally:
        first.close()
        second.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_steps_that_are_begun_and_waited_for(mode, random):
    made = [Environments(make_vector("CartPole-v1", num_envs=2, mode=mode), seed=4) for _ in range(2)]
    assert {one.concurrent for one in made} == {mode == "async"}
    for one in made:
        one.reset()
    for actions in random.integers(2, size=(60, 2)):
        made[0].begin(actions)
        assert made[0].state() == made[1].state()  # nothing has come back
        for field, expected in zip(made[0].step(actions), made[1].step(actions), strict=True):
            np.testing.assert_array_equal(field, expected)
    for one in made:
        one.close()


class Doubling(VectorWrapper):
    """Doubles rewards."""

    def step(self, actions):
        observation, reward, *rest = self.env.step(actions)
        return observation, 2 * reward, *rest


class Tripling(AsyncVectorEnv):
    """Triples rewards."""

    def step(self, actions):
        observation, reward, *rest = super().step(actions)
        return observation, 3 * reward, *rest


@pytest.mark.parametrize(
    ("wrap", "factor"), [(lambda *made, **how: Doubling(AsyncVectorEnv(*made, **how)), 2.0), (Tripling, 3.0)]
)
def test_what_is_put_around_worker_processes_is_stepped_too(wrap, factor):
    environments = Environments(wrap([counting.Counting] * 2, context="spawn"), seed=0)
    assert not environments.concurrent
    environments.reset()
    actions = np.zeros(2, "int64")
    environments.begin(actions)
    plain = Environments(sync(AutoresetMode.NEXT_STEP, num_envs=2), seed=0)
    plain.reset()
    np.testing.assert_array_equal(environments.step(actions).reward, factor * plain.step(actions).reward)
    environments.close()


def test_an_environment_that_is_not_deterministic_cannot_be_restored():
    make = lambda: SyncVectorEnv([lambda: Restless(longest=20)], autoreset_mode=AutoresetMode.DISABLED)  # noqa: E731
    first, second = Environments(make(), seed=0), Environments(make(), seed=0)
    first.reset()
    for _ in range(18):
        outcome = first.step(np.zeros(1, int))
    assert not outcome.begun
    second.reset()
    second.reset()
    observation, _ = second.restore(first.state())
    assert observation is None
    assert second.reset()[0, 1] == 0
    assert second.step(np.zeros(1, int)).valid


# Native vector environments


def test_a_native_vector_environment(random):
    made = [Environments(make_vector("CartPole-v1", num_envs=4, mode="vector_entry_point"), seed=2) for _ in range(2)]
    assert made[0].mode == AutoresetMode.NEXT_STEP
    assert not made[0].exact
    first = [environments.reset() for environments in made]
    np.testing.assert_array_equal(*first)
    ended = np.zeros(4, bool)
    for _ in range(100):
        actions = random.integers(2, size=4).astype("int32")
        outcome, again = (environments.step(actions) for environments in made)
        np.testing.assert_array_equal(outcome.observation, again.observation)
        np.testing.assert_array_equal(outcome.valid, ~ended)
        np.testing.assert_array_equal(outcome.begun, ended)
        assert (np.abs(outcome.observation[ended]) <= 0.05).all()
        ended = (outcome.terminated | outcome.truncated) & outcome.valid
    assert (made[0].episodes > 2).all()


def test_training_in_a_native_vector_environment():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    trainer = DQNTrainer(
        "CartPole-v1",
        model,
        num_envs=4,
        vectorization_mode="vector_entry_point",
        replay=Replay(400),
        batch_size=8,
        learning_starts=60,
        seed=1,
    )
    trainer.train(steps=800, verbose=0)
    assert trainer.steps == 800
    assert trainer.updates == 368  # half of the steps after the 60th, in calls of 8
    assert trainer.episodes > 10


def test_a_life_lost_at_a_time_limit_ends_the_episode():
    terminated, truncated = np.array([True, True, False, True]), np.array([False, True, True, False])
    info = {"life_lost": np.array([True, True, False, False])}
    np.testing.assert_array_equal(ended_of(terminated, truncated, info), [False, True, True, True])


@pytest.mark.filterwarnings("ignore:.*precision lowered by casting", "ignore:EnvPool seeds are fixed")
def test_environments_of_envpool():
    envpool = pytest.importorskip("envpool", reason="EnvPool, of 700 MB, is no dependency")
    env = envpool.make("CartPole-v1", env_type="gymnasium", num_envs=3, seed=0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    trainer = DQNTrainer(env, model, eval_env="CartPole-v1", replay=Replay(600), learning_starts=10**6)
    trainer.train(300, verbose=0)
    trainer.actor.flush()
    storage = trainer.replay.storage
    count = int(keras.ops.convert_to_numpy(storage.count.value)[0])
    steps = storage.read(np.arange(count - 1, dtype="int32"))
    terminated, valid = (keras.ops.convert_to_numpy(x) for x in (steps.terminated, steps.valid))
    assert terminated.any()
    np.testing.assert_array_equal(valid[1:][terminated[:-1] == 1], 0)  # after each end its final observation
