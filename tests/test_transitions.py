"""What comes out of the replay is what the environments said, whatever the way in.

Rows go through the real actor, learner and replay, with small rings that wrap around many times. The log that they are
compared with is made of the episodes' identities alone (see `environments.py`) and of the actions that were taken.
"""

import functools

import environments as counting
import gymnasium
import keras
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FrameStackObservation
from keras import ops
from logged_run import DISCOUNT, NUM_ENVS, Run, make_learner
from transforms import evaluated

from sota_dqn import DQNTrainer, Replay, backend, returns, samplers
from sota_dqn.seeds import episode_seed
from sota_dqn.types import Steps
from sota_dqn.vectors import make_vector

ALL_MODES = list(AutoresetMode)


def sync(mode, num_envs=NUM_ENVS, **settings):
    return SyncVectorEnv([lambda: counting.Counting(**settings)] * num_envs, autoreset_mode=mode)


def check_run(run, steps, n):
    """Steps and compares after every step; all kinds of episodes must have been met, over several wraps."""
    met = set()
    for _ in range(steps):
        run.step()
        met |= run.check(n)
    assert (run.actor.count > 3 * run.replay.storage.rows_per_stream).all()
    assert {counting.terminates(identity) for identity in met} == {True, False}
    assert {counting.length_of(identity) for identity in met} == set(range(1, counting.LONGEST + 1))
    return met


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("n", [1, 3])
def test_sync(mode, n):
    check_run(Run(sync(mode), capacity=55, after=n), 70, n)  # 18 rows per stream, one left unused


@pytest.mark.parametrize("mode", ALL_MODES)
def test_priorities(mode):
    """Rows whose priorities were set are drawn as the log says, and no more once they may not be."""
    run = Run(sync(mode), capacity=55, after=3, sampler=samplers.Prioritized(alpha=1.0))
    replay = run.replay
    program = backend.Program(replay.storage.variables, replay.sampler.variables, backend.plan(convolutions=False))

    def learn(uniform, step):
        rows = replay.sample(uniform, step).rows
        # Of a row the same wherever it is drawn; near each other, so that evenly spaced draws still meet all rows.
        replay.update(rows, 0.25 + ops.cast((rows * 7 + ops.cast(step, "int32")) % 16, "float32") / 20)
        return rows

    learn, random = program.compile(learn), np.random.default_rng(0)
    for step in range(70):
        run.step()
        if run.check(3):
            rows = ops.convert_to_numpy(learn(random.random(8, dtype="float32"), np.float32(step)))
            assert set(rows.tolist()) <= set(run.sampleable())
    assert (run.actor.count > 3 * replay.storage.rows_per_stream).all()
    assert len(np.unique(ops.convert_to_numpy(replay.sampler.tree.levels[0]))) > 8


@pytest.mark.parametrize("mode", ALL_MODES)
def test_vector_from_scratch(mode):
    check_run(Run(counting.CountingVector(NUM_ENVS, mode), capacity=60, after=3), 80, 3)


@pytest.mark.parametrize("mode", ALL_MODES)
def test_vector_entry_point(mode, monkeypatch):
    make = functools.partial(counting.CountingVector, mode=mode)
    spec = EnvSpec("Counted-v0", entry_point=counting.Counting, vector_entry_point=make)
    monkeypatch.setitem(gymnasium.registry, "Counted-v0", spec)
    vector = make_vector("Counted-v0", num_envs=NUM_ENVS, mode="vector_entry_point")
    check_run(Run(vector, capacity=60, after=3), 80, 3)


@pytest.mark.parametrize("mode", ALL_MODES)
def test_async(mode):
    vector = AsyncVectorEnv([counting.Counting] * 2, context="spawn", autoreset_mode=mode)
    run, met = Run(vector, capacity=36, after=3), set()
    try:
        for _ in range(60):
            run.step()
            met |= run.check(3)
        assert (run.actor.count > 3 * 18).all()
        assert {counting.terminates(identity) for identity in met} == {True, False}
    finally:
        run.environments.close()


def test_actions_that_do_not_count_from_zero():
    run = Run(sync(AutoresetMode.DISABLED, start=5), capacity=60)
    check_run(run, 70, 3)
    assert set(run.actions.values()) == {5, 6, 7}


@pytest.mark.parametrize("steps_per_chunk", [1, 5])
def test_rows_are_drawn_as_soon_as_their_window_is_complete(steps_per_chunk):
    # The window reads further than the return that is compared.
    check_run(Run(sync(AutoresetMode.DISABLED), capacity=90, after=6, steps_per_chunk=steps_per_chunk), 100, 3)


def test_rows_written_in_partial_chunks():
    # A flush in the middle of a chunk, as before every update: what pads the chunk is never drawn.
    run = Run(sync(AutoresetMode.DISABLED), capacity=150, steps_per_chunk=8)
    for _ in range(9):
        run.step()
    run.check(3)  # a full chunk, then one row per stream in the next, whose other rows are left from before
    run.step()
    run.check(3)


@pytest.mark.parametrize("mode", ALL_MODES)
def test_episodes_are_reported_whole(mode):
    run = Run(sync(mode), capacity=60)
    for _ in range(60):
        run.step()
    assert len(run.ended) > 20
    ended = {stream: [e for e in run.ended if e.stream == stream] for stream in range(NUM_ENVS)}
    for stream, episodes in ended.items():
        for episode, identity in zip(episodes, run.identities[stream], strict=False):
            length = counting.length_of(identity)
            rewards = [counting.reward_of(identity, s, run.actions[identity, s]) for s in range(length)]
            assert (episode.episode_length, episode.episode_return) == (length, sum(rewards))


def test_every_episode_has_its_own_seed():
    run = Run(sync(AutoresetMode.DISABLED), capacity=60)
    for _ in range(30):
        run.step()
    for stream, identities in enumerate(run.identities):
        seeds = [episode_seed(7, stream, number) for number in range(len(identities))]
        env = counting.Counting()
        assert [int(env.reset(seed=seed)[0][0]) for seed in seeds] == identities


# Frame stacks


def stack_of(row, k, padding):
    """`[2, k]`: the frames of an episode up to a row, oldest first."""
    identity, step = row
    frames = []
    for s in range(step - k + 1, step + 1):
        known = s >= 0 or padding == "reset"
        frames.append([identity, max(s, 0)] if known else [0, 0])
    return np.array(frames, "float32").T


@pytest.mark.parametrize(("mode", "padding"), [*((mode, "reset") for mode in ALL_MODES), (ALL_MODES[0], "zero")])
def test_frame_stacks(mode, padding):
    run = Run(sync(mode), capacity=60, frame_stack=3, padding=padding)
    assert run.replay.before == 2
    for _ in range(70):
        run.step()
        run.actor.flush()
        if not run.sampleable():
            continue
        rows, _, _, _, _, _, first, last = run.draw(3)  # near the ring's head, none whose frames are overwritten
        np.testing.assert_array_equal(first, [stack_of(row, 3, padding) for row in rows])
        np.testing.assert_array_equal(last, [stack_of(run.transition(row, 3)[-1], 3, padding) for row in rows])
        current = [stack_of(row, 3, padding) for row in run.actor.observation.astype(int).tolist()]
        np.testing.assert_array_equal(np.moveaxis(run.actor.stacked, 1, -1), current)  # what the policy sees


@pytest.mark.parametrize("padding", ["reset", "zero"])
def test_frame_stacks_equal_gymnasiums(padding):
    for stack in (1, 3):
        env = FrameStackObservation(counting.Counting(), stack, padding_type=padding)
        for seed in range(10):
            observation, _ = env.reset(seed=seed)
            ended, step, identity = False, 0, int(observation[-1, 0])
            while True:
                np.testing.assert_array_equal(
                    np.moveaxis(observation, 0, -1), stack_of((identity, step), stack, padding)
                )
                if ended:
                    break
                observation, _, terminated, truncated, _ = env.step(0)
                ended, step = terminated or truncated, step + 1


def test_the_past_of_a_row_keeps_its_frames():
    # As for upper bounds: no row is drawn whose past rows lack a frame that has been overwritten.
    past, run = 3, Run(sync(AutoresetMode.DISABLED), capacity=60, frame_stack=3, before=3)

    def sample(uniform, step):
        drawn = run.replay.sample(uniform, step, past=past)
        stacks = [run.replay.observe(drawn.rows, -distance) for distance in range(past, 0, -1)]
        return drawn.rows, drawn.connected, ops.stack(stacks, axis=1)

    for _ in range(60):
        run.step()
        run.actor.flush()
        if not run.sampleable():
            continue
        rows, _, connected, stacks = run.compute("stacks", sample)
        for (identity, step), same, found in zip(rows, connected, stacks, strict=True):
            assert same.tolist() == [step >= distance for distance in range(past, 0, -1)]
            for distance in range(1, min(past, step) + 1):
                np.testing.assert_array_equal(found[-distance], stack_of((identity, step - distance), 3, "reset"))


def test_upper_bounds_ask_for_that_past():
    model = keras.Sequential([keras.Input((2, 3)), keras.layers.Flatten(), keras.layers.Dense(counting.NUM_ACTIONS)])
    bounds = returns.Bounds(2, upper=True)
    settings = {"num_envs": 2, "frame_stack": 3, "n_step": 3, "bounds": bounds, "replay": Replay(400)}
    trainer = DQNTrainer(counting.Counting, model, **settings)
    assert (trainer.replay.before, trainer.replay.after) == (5, 3)


# The past of a row, and returns to go


def test_connected_past():
    past, run = 4, Run(sync(AutoresetMode.NEXT_STEP), capacity=60)
    per_stream = run.replay.storage.rows_per_stream

    def sample(uniform, step):
        drawn = run.replay.sample(uniform, step, past=past)
        return drawn.rows, drawn.past.action, drawn.past.reward, drawn.connected

    for _ in range(70):
        run.step()
        run.actor.flush()
        if not run.sampleable():
            continue
        rows, places, *results = run.compute("past", sample)
        logs = [run.rows(stream) for stream in range(NUM_ENVS)]
        for (identity, step), place, actions, rewards, connected in zip(rows, places, *results, strict=True):
            log = logs[place // per_stream]
            first_stored = len(log) - per_stream - log.index((identity, 0))  # step of this episode
            before = range(step - past, step)
            assert connected.tolist() == [s >= 0 and s >= first_stored for s in before]
            for s, action, reward, same in zip(before, actions, rewards, connected, strict=True):
                if same:
                    assert action == run.actions[identity, s]
                    assert reward == counting.reward_of(identity, s, action)


def count_returns_to_go(run):
    """Compares every stored return to go; returns how many were of episodes that had terminated."""
    run.actor.flush()
    if not run.sampleable():
        return 0

    def sample(uniform, step):
        drawn = run.replay.sample(uniform, step)
        return drawn.rows, drawn.return_to_go

    rows, _, stored = run.compute("to go", sample)
    expected = []
    for identity, step in rows:
        length = counting.length_of(identity, run.longest)
        over = counting.terminates(identity) and run.has_ended(identity)
        expected.append(run.transition((identity, step), length)[0] if over else -np.inf)
    np.testing.assert_allclose(stored, expected, rtol=1e-5, atol=1e-5)
    return int(np.isfinite(expected).sum())


@pytest.mark.parametrize("mode", ALL_MODES)
def test_returns_to_go(mode):
    run = Run(sync(mode), capacity=60, discount=DISCOUNT)
    finite = 0
    for _ in range(70):
        run.step()
        finite += count_returns_to_go(run)
    assert finite > 100


@pytest.mark.parametrize("steps_per_chunk", [1, 6])
def test_returns_to_go_of_episodes_longer_than_the_ring(steps_per_chunk):
    # Rows of such an episode are overwritten before its returns are known, some of them in the same chunk.
    vector = sync(AutoresetMode.NEXT_STEP, longest=25)
    run = Run(vector, capacity=60, discount=DISCOUNT, longest=25, steps_per_chunk=steps_per_chunk)
    finite = 0
    for step in range(200):
        run.step()
        if step % 5 == 4:
            finite += count_returns_to_go(run)
    assert finite > 50


# Rows written directly: a life lost in a game that goes on


def test_a_lost_life_ends_returns_and_not_the_game():
    replay = Replay(8, sampler=samplers.Uniform())
    learner = make_learner(replay, 1, shape=(), after=2, frame_stack=3)
    # Six rows of one game with observations 0 ... 5; the life is lost in row 2.
    reward = np.array([1, 2, 4, 8, 16, 32], "float32")
    terminated = np.array([0, 0, 1, 0, 0, 0], "uint8")
    steps = Steps(np.arange(6, dtype="float32"), np.arange(6, dtype="int32"), reward, terminated, np.ones(6, "uint8"))
    learner.add(replay.storage.places(np.zeros(6, int), np.arange(6)), steps, np.array([6], "int32"))

    def sample(uniform):
        drawn = replay.sample(uniform, 0.0, past=2)
        later = replay.observe(drawn.rows, 2)
        return drawn.rows, returns.n_step(drawn.window, 2, 0.5), drawn.connected, replay.observe(drawn.rows), later

    uniform = np.full(4, 0.5, "float32")
    rows, (total, discount, length), connected, stacks, later = evaluated(sample, uniform, variables=replay.variables)
    np.testing.assert_array_equal(rows, [0, 1, 2, 3])  # the others' windows are not complete
    np.testing.assert_array_equal(total, [2, 4, 4, 16])
    np.testing.assert_array_equal(discount, [0.25, 0, 0, 0.25])
    np.testing.assert_array_equal(length, [2, 2, 1, 2])
    # The bounds see no past beyond the lost life.
    np.testing.assert_array_equal(connected, [[0, 0], [0, 1], [1, 1], [0, 0]])
    # The stacks run through it.
    np.testing.assert_array_equal(stacks, [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3]])
    np.testing.assert_array_equal(later[3], [3, 4, 5])
