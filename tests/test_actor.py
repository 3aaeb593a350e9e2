import types

import environments as counting
import gymnasium
import keras
import numpy as np
import pytest
from choices import Chosen
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from keras import ops

from sota_dqn import policies
from sota_dqn.actor import Actor
from sota_dqn.choice import Choice, Frames
from sota_dqn.environments import Environments
from sota_dqn.preprocessing import Preprocessing
from sota_dqn.storage import Storage
from sota_dqn.writer import Writer

MODES = list(AutoresetMode)


class Tape:
    """In the place of a learner: keeps what it is handed."""

    def __init__(self, num_envs, rows_per_stream=1000):
        storage = Storage(num_envs, rows_per_stream, observation_shape=(2,), observation_dtype="float32")
        self.replay = types.SimpleNamespace(storage=storage)
        self.added = []
        self.returns = {}

    def add(self, rows, steps, count, states=(), td_error=()):
        self.added.append((rows, steps, count))

    def set_returns(self, rows, returns):
        self.returns.update(zip(rows.tolist(), returns.tolist(), strict=True))
        self.returns.pop(self.replay.storage.bin, None)

    def rows(self, stream):
        """Every row of a stream so far: (observation, action, reward, terminated, valid)."""
        rows = {}
        for places, steps, _ in self.added:
            for i, place in enumerate(places.tolist()):
                rows[place] = (tuple(steps.observation[i].tolist()), *(field[i].item() for field in steps[1:]))
        per_stream = self.replay.storage.rows_per_stream
        count = self.added[-1][2][stream]
        return [rows[place] for place in range(stream * per_stream, stream * per_stream + count)]


def make_actor(env=counting.Counting, mode=AutoresetMode.DISABLED, *, num_envs=2, stack=None, chunk=1, discount=None):
    """Returns a started actor that always takes action 1, and the tape that it writes."""
    vector = SyncVectorEnv([env] * num_envs, autoreset_mode=mode)
    environments = Environments(vector, seed=4)
    preprocess = Preprocessing(None, environments.observation_space)
    actor = Actor(environments, preprocess, frames=Frames(stack, "reset"), discount=discount)
    actor.start()
    tape = Tape(num_envs)
    ones = Chosen(lambda observations, step: np.ones(num_envs, "int32"))
    actor.connect(Writer(tape), ones, steps_per_chunk=chunk)
    return actor, tape


def play(actor, steps):
    return [episode for _ in range(steps) for episode in actor.step(actor.choose(0))]


class Ending(counting.Counting):
    """Episodes of exactly three steps, that end as told, with a NaN where told: ("reward" or "observation", step)."""

    nan = (None, None)
    large = 1.0  # the reward
    terminates = True

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return self._observation(), {}

    def step(self, action):
        self.time += 1
        reward = np.nan if self.nan == ("reward", self.time) else self.large
        ended = self.time == 3
        return self._observation(), reward, ended and self.terminates, ended and not self.terminates, {}

    def _observation(self):
        return np.array([np.nan if self.nan == ("observation", self.time) else 0, self.time], "float32")


# Frames


@pytest.mark.parametrize(("padding", "first"), [("reset", [5, 5, 5]), ("zero", [0, 0, 5])])
def test_frames_by_hand(padding, first):
    frames = Frames(3, padding)
    both, none = np.array([True, True]), np.array([False, False])
    stacks = frames(np.array([5, 7], "uint8"), both)
    assert stacks.dtype == "uint8"
    np.testing.assert_array_equal(stacks[0], first)
    stacks = frames(np.array([6, 8], "uint8"), none)
    np.testing.assert_array_equal(stacks[0], [*first[1:], 6])
    again = frames(np.array([5, 9], "uint8"), np.array([True, False]))
    np.testing.assert_array_equal(again[0], first)
    np.testing.assert_array_equal(again[1], [7, 8, 9])
    np.testing.assert_array_equal(stacks[0], [*first[1:], 6])  # what was handed out stays


def test_no_frames():
    observation = np.ones((2, 3))
    assert Frames(None, "reset")(observation, np.ones(2, bool)) is observation


# Choices


def test_a_choice_draws_from_its_own_generator(random):
    # q = observation @ [[1, 0], [0, 1]]: the larger of the two, unless the uniform number says otherwise.
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, use_bias=False)])
    model.set_weights([np.eye(2)])
    policy = policies.EpsilonGreedy(lambda step: step / 10)
    choice = Choice(model, policy, random=np.random.default_rng(5), convolutions=False, stacked=False)
    expected = np.random.default_rng(5)
    for step in (0, 5, 10):
        observations = random.normal(size=(6, 2)).astype("float32")
        actions = ops.convert_to_numpy(choice(observations, step))
        assert actions.dtype == "int32"
        uniform = expected.random(6, dtype="float32")
        np.testing.assert_array_equal(actions, ops.convert_to_numpy(policy(observations, uniform, np.float32(step))))
        if step == 0:
            np.testing.assert_array_equal(actions, observations.argmax(axis=1))


def test_a_choice_merges_frames():
    model = keras.Sequential([keras.Input((1, 3)), keras.layers.Flatten(), keras.layers.Dense(3, use_bias=False)])
    model.set_weights([np.eye(3)])
    random = np.random.default_rng(0)
    choice = Choice(model, policies.Greedy(), random=random, convolutions=False, stacked=True)
    stacks = np.array([[[1], [3], [2]], [[1], [2], [3]]], "float32")  # [E, k, 1]
    np.testing.assert_array_equal(ops.convert_to_numpy(choice(stacks, 0)), [1, 2])


# Rows


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("terminates", [True, False])
def test_rows_by_hand(mode, terminates):
    env = lambda: Ending()  # noqa: E731
    actor, tape = make_actor(env, mode, num_envs=1, chunk=3)
    actor.environments.vector.envs[0].terminates = terminates
    episodes = play(actor, 8)
    actor.flush()
    assert [episode[:3] for episode in episodes] == [(0, 3.0, 3), (0, 3.0, 3)][: len(episodes)]
    rows = tape.rows(0)
    final = 1 if mode == AutoresetMode.NEXT_STEP else 0  # the action that was ignored, or none
    episode = [
        ((0, 0), 1, 1.0, 0, 1),
        ((0, 1), 1, 1.0, 0, 1),
        ((0, 2), 1, 1.0, int(terminates), 1),
        ((0, 3), final, 0.0, 0, 0),
    ]
    assert rows == (3 * episode)[: len(rows)]
    assert len(rows) == (8 if mode == AutoresetMode.NEXT_STEP else 10)


def test_chunks_are_written_when_they_are_full():
    actor, tape = make_actor(chunk=4)  # 2 * (4 + 1) rows
    for step in range(12):
        play(actor, 1)
        rows = sum((places != tape.replay.storage.bin).sum() for places, _, _ in tape.added)
        assert rows >= actor.count.sum() - 10
        assert all(len(places) == 10 for places, _, _ in tape.added)
        if step == 0:
            assert not tape.added
    actor.flush()
    added = len(tape.added)
    actor.flush()  # nothing is left to write
    assert len(tape.added) == added
    assert len(tape.rows(0)) == actor.count[0]


def test_what_was_handed_over_is_not_filled_again():
    actor, tape = make_actor(chunk=1)
    play(actor, 2)
    actor.flush()
    before = [[field.copy() for field in (rows, *steps, count)] for rows, steps, count in tape.added]
    play(actor, 6)
    actor.flush()
    for (rows, steps, count), fields in zip(tape.added, before, strict=False):
        for field, expected in zip((rows, *steps, count), fields, strict=True):
            np.testing.assert_array_equal(field, expected)


def test_returns_to_go_by_hand():
    actor, tape = make_actor(Ending, num_envs=1, discount=0.5)
    play(actor, 7)
    actor.flush()
    # 1 + 0.5 + 0.25; rows 3 and 7 are final observations, and row 8 is of an episode that goes on.
    assert tape.returns == {0: 1.75, 1: 1.5, 2: 1.0, 4: 1.75, 5: 1.5, 6: 1.0}


def test_returns_after_a_lost_life_are_those_after_it_in_a_run_that_goes_on():
    actor, _ = make_actor(num_envs=1, discount=0.5)
    actor._resume(actor.observation, [[1.0, 2.0, 4.0, 8.0]], [2])
    assert actor._rewards == [[4.0, 8.0]]
    assert (actor.returns[0], actor.lengths[0]) == (15.0, 4)


def test_many_states_come_back_in_their_order():
    actor, _ = make_actor(num_envs=1)
    actor.choice.after = [np.full((1, 1), i, "float32") for i in range(12)]
    state, arrays = actor.state(), actor.arrays()
    actor.choice.after = []
    actor.restore(state, arrays)
    assert [float(carried[0, 0]) for carried in actor.choice.after] == list(range(12))


def test_a_time_limit_has_no_return_to_go():
    actor, tape = make_actor(Ending, num_envs=1, discount=0.5)
    actor.environments.vector.envs[0].terminates = False
    play(actor, 7)
    actor.flush()
    assert tape.returns == {}


class Cells(gymnasium.Env):
    """Cells 2, 3 and 4 one after another."""

    observation_space, action_space = spaces.Discrete(3, start=2), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.cell = 2
        return self.cell, {}

    def step(self, action):
        self.cell += 1
        return self.cell, 0.0, self.cell == 4, False, {}


def test_discrete_observations_are_stored_one_hot():
    actor, tape = make_actor(Cells, num_envs=1)
    play(actor, 3)
    actor.flush()
    assert (actor.preprocess.shape, actor.preprocess.dtype) == ((3,), "float32")
    assert [row[0] for row in tape.rows(0)] == [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0)]


# Numbers that are none


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("nan", "message"),
    [
        (("reward", 2), "The reward of environment 1 is NaN at step 2 of its episode 1. The steps before it are kept."),
        (("reward", 3), "The reward of environment 1 is NaN at step 3 of its episode 1."),
        (("observation", 2), "The observation of environment 1 is NaN at step 2 of its episode 1."),
        (("observation", 3), "The observation of environment 1 is NaN at step 3 of its episode 1."),
        (("observation", 0), "The observation of environment 1 is NaN at step 0 of its episode 2."),
    ],
)
def test_a_nan_is_named(mode, nan, message):
    actor, tape = make_actor(Ending, mode, chunk=10)
    actor.environments.vector.envs[1].nan = nan
    with pytest.raises(ValueError, match=message):
        play(actor, 5)
    actor.flush()
    assert all(np.isfinite([*row[0], row[2]]).all() for row in tape.rows(1))


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("reward, told", [(1e300, False), (-np.inf, True)])
def test_a_reward_that_is_too_large(reward, told, clip):
    """What is stored is of single precision; what is clipped fits whatever it was, but infinity tells of a fault."""
    actor, tape = make_actor(Ending, chunk=10)
    actor.clip_rewards = clip
    actor.environments.vector.envs[1].large = reward
    if clip and not told:
        play(actor, 2)
        actor.flush()
        assert [row[2] for row in tape.rows(1)] == [1, 1]
        return
    with pytest.raises(ValueError, match="The reward of environment 1 is infinite at step 1 of its episode 1."):
        play(actor, 2)


@pytest.mark.parametrize("actions", [[0, 3], [-1, 0]])
def test_a_policy_that_returns_no_action(actions):
    actor, _ = make_actor()
    with pytest.raises(ValueError, match=rf"`policy` must return actions from 0 to 2. Received: \[{actions[0]}, "):
        actor.step(np.array(actions))
    actor.step(np.array([0, 2]))  # nothing was torn


def test_a_nan_at_the_very_first():
    class Broken(Ending):
        nan = ("observation", 0)

    with pytest.raises(ValueError, match="The observation of environment 0 is NaN at step 0 of its episode 1."):
        make_actor(Broken)


# Restoring


@pytest.mark.parametrize("stack", [None, 3])
@pytest.mark.parametrize("steps", [1, 4, 11, 23])
def test_a_restored_actor_goes_on_as_it_was(steps, stack):
    kept, kept_tape = make_actor(stack=stack, discount=0.9)
    play(kept, steps)
    kept.flush()
    state, arrays = kept.state(), {"actor_observation": kept.observation.copy()}
    if stack is not None:
        arrays["actor_frames"] = kept.frames.stack.copy()

    restored, tape = make_actor(stack=stack, discount=0.9)
    assert restored.restore(state, arrays)
    np.testing.assert_array_equal(restored.stacked, kept.stacked)
    kept_tape.added.clear()
    kept_tape.returns.clear()
    for _ in range(20):
        assert play(restored, 1) == play(kept, 1)
        np.testing.assert_array_equal(restored.stacked, kept.stacked)
    restored.flush()
    kept.flush()
    for (places, rows, count), (kept_places, kept_rows, kept_count) in zip(tape.added, kept_tape.added, strict=True):
        np.testing.assert_array_equal(places, kept_places)
        np.testing.assert_array_equal(count, kept_count)
        written = places != tape.replay.storage.bin
        for field, expected in zip(rows, kept_rows, strict=True):
            np.testing.assert_array_equal(field[written], expected[written])
    assert tape.returns == kept_tape.returns


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("steps", [2, 3])
def test_episodes_that_cannot_go_on_are_closed(mode, steps):
    kept, _ = make_actor(Ending, mode)
    play(kept, steps)
    kept.flush()
    restored, tape = make_actor(Ending, mode)
    assert not restored.restore(kept.state(), {"actor_observation": kept.observation})
    play(restored, 1)
    restored.flush()
    # The observation that was to be acted on becomes a final one: what is before bootstraps there.
    (closing, steps_closing, _), (places, opening, _) = tape.added[0], tape.added[-1]
    first = closing.tolist()[0]
    assert first == kept.count[0]
    np.testing.assert_array_equal(steps_closing.observation[:2], kept.observation)
    np.testing.assert_array_equal(steps_closing.valid[:2], 0)
    assert places.tolist()[0] == first + 1
    np.testing.assert_array_equal(opening.observation[0], [0, 0])
    assert opening.valid[0] == 1
    assert (restored.environments.episodes > kept.environments.episodes).all()
