import environments as counting
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv

from sota_dqn.choice import Frames
from sota_dqn.evaluation import (
    MOST_ENVIRONMENTS,
    make_evaluation_factory,
    make_playing_factory,
    play_episodes,
    summarize,
)
from sota_dqn.preprocessing import Preprocessing


class Unrecorded(gymnasium.Wrapper):
    """A wrapper that does not tell what it was made with."""


def play(seeds, *, make=counting.Counting, choose=None, stack=None, **settings):
    """Plays with the action `identity % 3`, whatever the step."""
    preprocess = Preprocessing(None, make().observation_space)
    choose = choose or (lambda observations, **told: observations[:, 0].astype(int) % 3)
    return play_episodes(choose, make, preprocess, Frames(stack, "reset"), seeds=seeds, **settings)


def expected(seed, start=0):
    """The return and the length of the episode of a seed."""
    identity = int(counting.Counting().reset(seed=seed)[0][0])
    length = counting.length_of(identity)
    return sum(counting.reward_of(identity, step, identity % 3 + start) for step in range(length)), length


@pytest.mark.parametrize("episodes", [1, 5, MOST_ENVIRONMENTS, 2 * MOST_ENVIRONMENTS + 3])
def test_every_seed_is_one_whole_episode(episodes):
    seeds = list(range(100, 100 + episodes))
    assert list(zip(*play(seeds), strict=True)) == [expected(seed) for seed in seeds]


def test_one_environment_takes_turns():
    made = []

    def make():
        made.append(counting.Counting())
        return made[-1]

    make.single = True
    assert list(zip(*play([1, 2, 3], make=make), strict=True)) == [expected(seed) for seed in (1, 2, 3)]
    assert len(made) == 2  # one of them is asked for its space above


def test_actions_that_do_not_count_from_zero():
    returns, lengths = play([1, 2, 3], make=lambda: counting.Counting(start=4))
    assert list(zip(returns, lengths, strict=True)) == [expected(seed, start=4) for seed in (1, 2, 3)]


def test_what_is_stepped_together_is_not_stepped_on_after_its_end():
    def make():
        return counting.Counting()

    def make_vector(num_envs):
        return gymnasium.vector.SyncVectorEnv([make] * num_envs, autoreset_mode="Disabled")  # an error where it is

    make.make_vector = make_vector
    seeds = list(range(2 * MOST_ENVIRONMENTS + 3))
    assert list(zip(*play(seeds, make=make), strict=True)) == [expected(seed) for seed in seeds]


def test_an_episode_may_be_left():
    assert play([1, 2, 3, 4], max_steps=2)[1] == [min(2, expected(seed)[1]) for seed in (1, 2, 3, 4)]


class Breaking(counting.Counting):
    """Says NaN or infinity at the second step of its episode of seed 3: as `broken` tells."""

    broken = ("reward", np.nan)

    def reset(self, *, seed=None, options=None):
        self.steps, self.breaks = 0, seed == 3
        return super().reset(seed=seed)

    def step(self, action):
        self.steps += 1
        observation, reward, *rest = super().step(action)
        what, value = self.broken if self.breaks and self.steps == 2 else (None, None)
        if what == "observation":
            observation = np.full_like(observation, value)
        return observation, value if what == "reward" else reward, False, self.steps == 4, {}


@pytest.mark.parametrize("number, kind", [(np.nan, "NaN"), (np.inf, "infinite")])
@pytest.mark.parametrize("what", ["reward", "observation"])
def test_a_number_that_is_none_is_named(what, number, kind):
    class Broken(Breaking):
        broken = (what, number)

    def choose(observations, **told):
        return np.zeros(len(observations), int)

    play([1, 2], make=Broken, choose=choose)
    with pytest.raises(ValueError, match=f"The {what} is {kind} at step 2 of the episode of seed 3."):
        play([1, 2, 3], make=Broken, choose=choose)


def test_stacks_do_not_run_into_the_next_episode():
    met = []

    def choose(stacks, **told):  # [N, 3, 2]
        met.extend(stacks.tolist())
        return np.zeros(len(stacks), int)

    make = counting.Counting
    play_episodes(choose, make, Preprocessing(None, counting.OBSERVATIONS), Frames(3, "reset"), seeds=list(range(50)))
    for stack in met:
        assert len({identity for identity, _ in stack}) == 1
        identity, last = stack[-1]
        if last < counting.length_of(int(identity)):  # a stream that has ended stays where it is
            assert [step for _, step in stack] == [max(last - 2, 0), max(last - 1, 0), last]


def test_every_step_is_told():
    told = []
    returns, lengths = play([5], on_step=lambda env, gained, length: told.append((gained, length)))
    assert [length for _, length in told] == list(range(lengths[0] + 1))
    assert told[0] == (0.0, 0)
    assert told[-1][0] == returns[0]


class Careless(counting.Counting):
    """Returns whole numbers at first and halves later, whatever its space says."""

    observation_space = spaces.Box(0, 10, (2,), "float32")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return [0, 0], {}

    def step(self, action):
        _, reward, terminated, truncated, info = super().step(action)
        return np.array([0.5, self.time]), reward, terminated, truncated, info


def test_observations_are_of_the_spaces_kind():
    met = []

    def choose(observations, **told):
        assert observations.dtype == "float32"
        met.extend(observations[:, 0].tolist())
        return np.zeros(len(observations), int)

    play(list(range(10)), make=Careless, choose=choose)
    assert set(met) == {0.0, 0.5}


def test_environments_are_closed_whatever_happens():
    closed = []

    class Closing(counting.Counting):
        def close(self):
            closed.append(1)

    def fail(observations, **told):
        raise KeyError

    play([1, 2], make=Closing)
    assert len(closed) == 2
    with pytest.raises(KeyError):
        play([1, 2], make=Closing, choose=fail)
    assert len(closed) == 4


def test_summarize_by_hand():
    summary = summarize([1.0, 3.0], [10, 20], (7, 8), protocol="greedy")
    assert summary == {
        "return_mean": 2.0,
        "return_std": 1.0,
        "returns": [1.0, 3.0],
        "lengths": [10, 20],
        "seeds": [7, 8],
        "protocol": "greedy",
    }


# What is evaluated and played in


@pytest.mark.parametrize("make", [CartPoleEnv, lambda: Unrecorded(gymnasium.make("CartPole-v1")), counting.Counting])
def test_an_environment_that_cannot_be_built_again(make):
    env = make()
    with pytest.raises(ValueError, match="Evaluation needs an environment of its own, and this one cannot be built"):
        make_evaluation_factory(env)
    with pytest.raises(ValueError, match="`eval_env` must be another environment than the one trained in"):
        make_evaluation_factory(env, eval_env=env)
    assert make_evaluation_factory(env, eval_env="CartPole-v1")().spec.id == "CartPole-v1"
    for lent in (make_evaluation_factory(make(), eval_env=env), make_playing_factory(env)):
        assert lent.single
        assert lent().unwrapped is env.unwrapped


def test_a_lent_environment_is_not_closed():
    closed = []
    env = CartPoleEnv()
    env.close = lambda: closed.append(1)
    make_evaluation_factory("CartPole-v1", eval_env=env)().close()
    make_playing_factory(env)().close()
    assert not closed


def test_whole_episodes_are_not_played_in_a_vector_environment():
    vector = gymnasium.vector.SyncVectorEnv([counting.Counting] * 3)
    with pytest.raises(ValueError, match="pass eval_env="):
        make_evaluation_factory(vector)
    with pytest.raises(ValueError, match=r"`eval_env` must be an id, a callable or a gymnasium\.Env: .* eval_env=Sync"):
        make_evaluation_factory("CartPole-v1", eval_env=vector)
    with pytest.raises(ValueError, match=r"`env` must be an id, a callable or a gymnasium\.Env: .*Received: env=Sync"):
        make_playing_factory(vector)
    assert isinstance(make_evaluation_factory(vector, eval_env=counting.Counting)(), counting.Counting)
