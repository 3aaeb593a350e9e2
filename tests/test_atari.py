"""Atari: ale-py's native vector environment against itself, against Gymnasium's, and against the rows of the replay."""

import sys

import ale_py
import gymnasium
import keras
import numpy as np
import pygame
import pytest
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode
from runs import fix_seeds

from sota_dqn import Atari, DQNInference, DQNTrainer, OneStepTrainer, Replay, atari, callbacks, policies, preprocessing
from sota_dqn.atari import native
from sota_dqn.choice import Frames
from sota_dqn.environments import Environments
from sota_dqn.evaluation import make_evaluation_factory, play_episodes
from sota_dqn.seeds import episode_seed
from sota_dqn.vectors import make_factory, make_vector

gymnasium.register_envs(ale_py)
BREAKOUT = "ALE/Breakout-v5"
PLAIN = {"noop_max": 0, "use_fire_reset": False, "maxpool": False}


def make_model(num_actions=4, shape=(84, 84), layers=()):
    return keras.Sequential(
        [
            keras.Input(shape, dtype="uint8"),
            keras.layers.Rescaling(1 / 255),
            *layers,
            keras.layers.Flatten(),
            keras.layers.Dense(num_actions),
        ]
    )


def make_trainer(env=BREAKOUT, model=None, **settings):
    given = {
        "num_envs": 2,
        "replay": Replay(2_000),
        "policy": policies.EpsilonGreedy(1.0),
        "learning_starts": 10**6,
        "report_every": 100,
    }
    return DQNTrainer(env, model or make_model(), **(given | settings))


def stored(trainer, stream):
    """Returns a stream's rows, oldest first, as arrays."""
    trainer.actor.flush()
    storage = trainer.replay.storage
    count = int(keras.ops.convert_to_numpy(storage.count.value)[stream])
    places = stream * storage.rows_per_stream + np.arange(count, dtype="int32")
    steps = storage.read(places)._replace(observation=keras.ops.convert_to_numpy(storage.observation.value)[places])
    return {name: keras.ops.convert_to_numpy(values) for name, values in steps._asdict().items()}


def play(vector, actions, seeds):
    """Plays `actions` (`[T, E]`) and returns the observations `[T + 1, E, ...]` and the rewards `[T, E]`."""
    observation, _ = vector.reset(seed=seeds)
    observations, rewards = [observation.copy()], []
    for row in actions:
        observation, reward, *_ = vector.step(row)
        observations.append(observation.copy())
        rewards.append(reward)
    return np.array(observations), np.array(rewards)


# The game and its protocol


def test_an_id_becomes_a_native_game():
    game = native(BREAKOUT, raw=False)
    assert isinstance(game, Atari)
    assert game.raw is False
    assert native(BREAKOUT, raw=True).raw is True
    assert native(Atari(BREAKOUT, raw=False), raw=True).raw is False
    assert native(Atari(BREAKOUT, noop_max=3), raw=True).settings["noop_max"] == 3
    assert native("CartPole-v1", raw=False) == "CartPole-v1"
    assert native(None, raw=False) is None


def test_an_id_keeps_what_it_is_registered_with():
    settings = Atari(BREAKOUT).settings
    assert (settings["repeat_action_probability"], settings["frameskip"]) == (0.25, 4)
    assert (settings["full_action_space"], settings["max_num_frames_per_episode"]) == (False, 108_000)
    settings = Atari("BreakoutNoFrameskip-v4").settings
    assert (settings["repeat_action_probability"], settings["frameskip"]) == (0.0, 1)
    settings = Atari(BREAKOUT, repeat_action_probability=0.0, full_action_space=True, frameskip=2).settings
    assert (settings["repeat_action_probability"], settings["frameskip"]) == (0.0, 2)
    assert Atari(BREAKOUT, full_action_space=True).make_vector(1).single_action_space.n == 18


def test_the_protocol_is_told():
    told = Atari(BREAKOUT, repeat_action_probability=0.0, use_fire_reset=False, noop_max=7, life_loss=False).protocol
    assert told == (
        "sticky 0, the game's own actions, up to 7 no-ops at the start, 4 frames a step, at most 108,000 frames a "
        "game, a lost life is no termination in training, never in a score"
    )


def test_the_protocol_of_a_game_as_it_is_registered():
    assert atari.protocol("BreakoutNoFrameskip-v4") == (
        "sticky 0, the game's own actions, no no-ops at the start, 1 frames a step, at most 108,000 frames a "
        "game, a lost life is no termination in training, never in a score"
    )
    assert "2 to 5 frames a step" in atari.protocol("Breakout-v4")
    assert atari.protocol(Atari(BREAKOUT)) == Atari(BREAKOUT).protocol
    assert atari.protocol("CartPole-v1") is None
    trainer = make_trainer(BREAKOUT, make_model(4, (210, 160, 3)), vectorization_mode="sync", num_envs=1)
    assert "; sticky 0.25, the game's own actions, no no-ops" in trainer.evaluate(1, epsilon=1)["protocol"]
    trainer.close()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"frameskip": 0}, ValueError, "`frameskip` must be at least 1. Received: frameskip=0"),
        ({"noop_max": -1}, ValueError, "`noop_max` must be at least 0. Received: noop_max=-1"),
        ({"num_threads": -1}, ValueError, "`num_threads` must be at least 0. Received: num_threads=-1"),
        ({"repeat_action_probability": 1.5}, ValueError, "between 0 and 1. Received: repeat_action_probability=1.5"),
        ({"repeat_action_probability": "a"}, TypeError, "`repeat_action_probability` must be a number"),
        ({"img_height": 0}, ValueError, "`img_height` must be at least 1"),
        ({"img_width": None}, TypeError, "`img_width` must be an integer"),
        ({"life_loss": "x"}, TypeError, "`life_loss` must be True or False. Received: life_loss='x'"),
        ({"raw": 1}, TypeError, "`raw` must be True or False. Received: raw=1"),
    ],
)
def test_bad_options(settings, error, message):
    with pytest.raises(error, match=message):
        Atari(BREAKOUT, **settings)


def test_numbers_of_numpy():
    plain = {"frameskip": 3, "noop_max": 0, "img_height": 20, "life_loss": False, "repeat_action_probability": 0.5}
    ours = Atari(BREAKOUT, **{name: np.array(value)[()] for name, value in plain.items()})
    assert ours.protocol == Atari(BREAKOUT, **plain).protocol
    games = ours.make_vector(2)  # ale-py itself refuses a frame skip of NumPy
    assert games.single_observation_space.shape == (20, 84)
    games.close()


@pytest.mark.parametrize("env", [BREAKOUT, "Breakout-v4"])
def test_a_game_that_gymnasium_steps_has_its_rewards_clipped_too(env):
    model = keras.Sequential([keras.Input((210, 160, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4)])
    trainer = make_trainer(env, model, vectorization_mode="sync", replay=Replay(200))
    assert trainer.actor.clip_rewards and trainer.actor.preprocess.shape == (210, 160, 3)
    trainer.close()


def test_what_is_no_game():
    with pytest.raises(ValueError, match="must be that of an Atari game with pictures, .* Received: id='CartPole-v1'"):
        Atari("CartPole-v1")
    with pytest.raises(TypeError, match="An environment's id must be a string. Received: 5"):
        Atari(5)
    with pytest.raises(ValueError, match=r"Unknown environment id. Did you mean .*ALE/MsPacman-v5.* Received: env="):
        make_trainer("ALE/MsPackman-v5")
    with pytest.raises(ValueError, match=r"frame skip from .*pass Atari\('Breakout-v4', frameskip=4\)"):
        Atari("Breakout-v4")


@pytest.fixture
def registered():
    """A function that registers a game of its own for the test, and returns its id."""
    made = []

    def register(**settings):
        gymnasium.register("OwnBreakout-v0", entry_point="ale_py.env:AtariEnv", **settings)
        made.append("OwnBreakout-v0")
        return made[-1]

    yield register
    for id in made:
        del gymnasium.registry[id]


OWN = {
    "time limit": dict(max_episode_steps=50, kwargs=gymnasium.spec(BREAKOUT).kwargs),
    "wrappers": dict(
        additional_wrappers=(gymnasium.wrappers.ClipReward.wrapper_spec(min_reward=0),),
        kwargs=gymnasium.spec(BREAKOUT).kwargs,
    ),
    "another argument": dict(kwargs={**gymnasium.spec(BREAKOUT).kwargs, "difficulty": 1}),
    "no arguments": dict(kwargs={"game": "breakout"}),
}


@pytest.mark.parametrize("name", OWN)
def test_a_game_that_is_registered_otherwise_is_played_so(registered, name):
    id = registered(**OWN[name])
    assert native(id, raw=True) == id and atari.is_game(id)
    assert "sticky 0.25, the game's own actions, no no-ops at the start, 4 frames a step" in atari.protocol(id)
    assert ("at most 50 steps a game" in atari.protocol(id)) == (name == "time limit")
    with pytest.raises(ValueError, match="as ale-py does it: without a time limit, wrappers or further arg"):
        Atari(id)
    trainer = make_trainer(id, make_model(4, (210, 160, 3)), num_envs=1)
    assert trainer.actor.clip_rewards
    one_step = OneStepTrainer(id, make_model(4, (210, 160, 3)), workers=1)
    assert one_step.workers[0].clip_rewards
    one_step.close()
    if name == "time limit":
        assert trainer.evaluate(1, epsilon=1)["lengths"] == [50]
    trainer.close()


def test_a_game_beside_one_that_gymnasium_steps_is_raw_where_preprocessing_follows():
    trainer = make_trainer(
        BREAKOUT,
        make_model(4, (84, 84)),
        vectorization_mode="sync",
        num_envs=1,
        preprocess=preprocessing.atari,
        eval_env=Atari(BREAKOUT, max_num_frames_per_episode=80),
    )
    assert trainer.evaluate(1, epsilon=1)["lengths"][0] <= 20
    trainer.close()


def test_ale_py_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(ImportError, match=r'pip install "sota_dqn\[atari\]"'):
        make_trainer()
    with pytest.raises(ValueError, match=r'Unknown environment id\. .*need ale-py: .* "sota_dqn\[atari\]"'):
        make_trainer("Zzyzx-v4")  # ids without a namespace are Atari's too, where nothing else is near
    with pytest.raises(ValueError, match=r"Unknown environment id\. Did you mean CartPole-v1 .*\? Received: env="):
        make_trainer("CartPole-v7")


def test_a_game_brings_its_own_vector_environment():
    with pytest.raises(ValueError, match="leave `vectorization_mode` out"):
        make_vector(Atari(BREAKOUT), num_envs=2, mode="sync")
    assert make_vector(Atari(BREAKOUT), num_envs=3).num_envs == 3


# What it shows


@pytest.mark.parametrize("game", ["Breakout", "MsPacman"])
def test_the_raw_path_is_bit_equal_to_the_native_one(random, game):
    """With preprocessing of our own on the screen, and with a game's beginning switched off."""
    native_game = Atari(f"ALE/{game}-v5", raw=False, **PLAIN).make_vector(2)
    raw_game = Atari(f"ALE/{game}-v5", raw=True, **PLAIN).make_vector(2)
    assert native_game.single_observation_space.shape == (84, 84)
    assert raw_game.single_observation_space.shape == (210, 160, 3)
    actions = random.integers(0, native_game.single_action_space.n, (120, 2))
    observations, rewards = play(native_game, actions, [3, 4])
    screens, raw_rewards = play(raw_game, actions, [3, 4])
    assert rewards.any() or game == "Breakout"
    np.testing.assert_array_equal(rewards, raw_rewards)
    for observation, screen in zip(observations, screens, strict=True):
        np.testing.assert_array_equal(observation, preprocessing.atari(screen))


def test_raw_frames_are_those_of_gymnasium(random):
    vector = Atari("ALE/MsPacman-v5", raw=True, repeat_action_probability=0.0, **PLAIN).make_vector(1)
    single = gymnasium.make("ALE/MsPacman-v5", repeat_action_probability=0.0)
    actions = random.integers(0, 9, (60, 1))
    screens, rewards = play(vector, actions, [5])
    observation, _ = single.reset(seed=5)
    for t, (action,) in enumerate(actions):
        np.testing.assert_array_equal(screens[t, 0], observation)
        observation, reward, *_ = single.step(action)
        assert reward == rewards[t, 0]
    single.close()


def test_both_paths_store_the_same_rows():
    settings = {"frame_stack": 4, "model": make_model(shape=(84, 84, 4)), "seed": 3}
    direct = make_trainer(Atari(BREAKOUT, **PLAIN), **settings)
    own = make_trainer(
        Atari(BREAKOUT, **PLAIN), preprocess=[preprocessing.grayscale, preprocessing.resize(84, 84)], **settings
    )
    for trainer in (direct, own):
        trainer.train(steps=500, verbose=0)
    for stream in range(2):
        rows, others = stored(direct, stream), stored(own, stream)
        assert rows["terminated"].any()
        for name, values in rows.items():
            np.testing.assert_array_equal(values, others[name], err_msg=name)


# Lost lives and clipped rewards


@pytest.mark.parametrize("life_loss", [True, False])
def test_a_lost_life_terminates_and_the_game_goes_on(random, life_loss):
    game = Atari(BREAKOUT, life_loss=life_loss, repeat_action_probability=0.0)
    environments = Environments(game.make_vector(2), seed=1)
    environments.reset()
    # The same games, which say themselves how many lives are left when they end, and are reset by hand.
    same = {"stack_num": 1, "reward_clipping": False, "autoreset_mode": AutoresetMode.NEXT_STEP}
    reference = AtariVectorEnv("breakout", 2, life_loss_info=life_loss, **same)
    _, info = reference.reset(seed=np.array([episode_seed(1, stream, 0) for stream in range(2)]))
    seen = {"over": 0, "lost": 0}
    for actions in random.integers(0, 4, (500, 2)):
        outcome = environments.step(actions)
        lives = info["lives"]
        observation, reward, _, _, info = reference.step(actions)
        over = info["lives"] == 0
        lost = info["lives"] < lives
        np.testing.assert_array_equal(outcome.terminated, lost if life_loss else over)
        np.testing.assert_array_equal(outcome.ended, over)
        np.testing.assert_array_equal(outcome.begun, over)
        np.testing.assert_array_equal(outcome.reward, reward)
        assert outcome.valid.all()
        if over.any():
            np.testing.assert_array_equal(outcome.final_observation[over], observation[over, 0])
            observation, info = reference.reset(options={"reset_mask": over})
        np.testing.assert_array_equal(outcome.observation, observation[:, 0])
        seen["over"] += over.sum()
        seen["lost"] += (lost & ~over).sum()
    assert seen["over"] > 2 and seen["lost"] > 8


def test_a_game_that_has_ended_shows_no_lives(random):
    game = Atari(BREAKOUT, max_num_frames_per_episode=120, noop_max=0, repeat_action_probability=0.0)
    vector = game.make_vector(1)
    _, info = vector.reset(seed=[1])
    lives = [int(info["lives"][0])]
    for action in random.integers(0, 4, 200):
        _, _, terminated, truncated, info = vector.step([action])
        assert info["life_lost"][0] == terminated[0] == (info["lives"][0] < lives[-1])
        lives.append(int(info["lives"][0]))
        if truncated[0]:  # of a game that was cut off: what was left
            assert lives[-1] > 0
            _, info = vector.reset(options={"reset_mask": np.array([True])})
            lives.append(int(info["lives"][0]))
            assert lives[-1] == 5
    assert 4 in lives


def test_a_running_game_is_reset_where_asked():
    vector = Atari(BREAKOUT, repeat_action_probability=0.0, noop_max=0).make_vector(2)
    first, _ = vector.reset(seed=[3, 3])
    first = first.copy()
    for _ in range(40):
        observation = vector.step([2, 2])[0]
    assert (observation != first).any(axis=(1, 2)).all()
    again, _ = vector.reset(options={"reset_mask": np.array([True, False])})
    np.testing.assert_array_equal(again[0], first[0])
    np.testing.assert_array_equal(again[1], observation[1])


def test_lost_lives_in_the_replay():
    trainer = make_trainer(Atari("ALE/MsPacman-v5", life_loss=True), make_model(9), num_envs=1, seed=2)
    ended = []

    class Episodes(callbacks.Callback):
        def on_episode_end(self, episode, logs):
            ended.append(logs)

    trainer.train(steps=1_500, callbacks=[Episodes()], verbose=0)
    rows = stored(trainer, 0)
    finals = np.flatnonzero(rows["valid"] == 0)  # one after each whole game
    assert len(finals) == len(ended) >= 1
    assert rows["terminated"].sum() >= 3 * len(ended)
    assert rows["terminated"][finals - 1].all()
    lengths = np.diff(finals, prepend=-1) - 1
    assert [logs["episode_length"] for logs in ended] == lengths.tolist()
    # Pellets are worth 10 points: learning sees 1 for each, the log the game's own score.
    assert set(rows["reward"]) <= {0.0, 1.0}
    clipped = [rows["reward"][end - length : end].sum() for end, length in zip(finals, lengths, strict=True)]
    scores = [logs["episode_return"] for logs in ended]
    assert all(score >= 10 * total > 0 for score, total in zip(scores, clipped, strict=True))


def test_games_that_go_on_with_their_own_chance_are_restored(random):
    made = []
    for _ in range(2):
        game = Atari(BREAKOUT, max_num_frames_per_episode=80, noop_max=4, seed_every=50)  # 20 steps a game
        vector = game.make_vector(2)
        made.append(Environments(vector, seed=3))
        made[-1].reset()
    actions = random.integers(4, size=(130, 2))
    for action in actions[:95]:  # seeded after 60 steps, then reset without
        outcome = made[0].step(action)
    assert [len(times) for times in made[0].resets] == [1, 1]
    np.testing.assert_array_equal(made[1].restore(made[0].state())[0], outcome.observation)
    for action in actions[95:]:
        for field, expected in zip(made[1].step(action), made[0].step(action), strict=True):
            np.testing.assert_array_equal(field, expected)


def test_rewards_are_clipped_only_where_asked():
    trainer = make_trainer("ALE/MsPacman-v5", make_model(9), clip_rewards=False, num_envs=1)
    trainer.train(steps=200, verbose=0)
    assert stored(trainer, 0)["reward"].max() >= 10


# Whole runs


def test_scores_are_of_whole_games_without_clipping():
    trainer = make_trainer("ALE/MsPacman-v5", make_model(9))
    found = trainer.evaluate(episodes=2, epsilon=0.5)
    assert all(score >= 60 for score in found["returns"])  # three lives' worth of pellets of 10 points
    assert found["protocol"].startswith("epsilon 0.5, 2 whole episodes; sticky 0.25, the game's own actions")
    assert (
        trainer.evaluate(episodes=2, epsilon=0.5, seed=4)["returns"]
        == (trainer.evaluate(episodes=2, epsilon=0.5, seed=4)["returns"])
    )


@pytest.mark.parametrize("max_steps", [None, 20])
def test_games_played_together_are_those_played_one_by_one(monkeypatch, max_steps):
    monkeypatch.setattr("sota_dqn.evaluation.MOST_ENVIRONMENTS", 2)  # so that streams take turns
    together = make_factory(Atari(BREAKOUT, max_num_frames_per_episode=600))
    seeds = [11, 12, 13]

    def play(make):
        def choose(stacks, *, begun, rewards):
            told.append((begun.tolist(), rewards.tolist()))
            return (stacks.reshape(len(stacks), -1).sum(-1) + len(told)) % 4  # an action for each picture and time

        told = []
        with make() as env:
            preprocess = preprocessing.Preprocessing(None, env.observation_space)
        played = play_episodes(choose, make, preprocess, Frames(4, "reset"), seeds=seeds, max_steps=max_steps)
        return played, told

    (played, told), (expected, expected_told) = play(together), play(lambda: together())
    assert played == expected
    assert told == expected_told
    assert len(set(played[1])) > 1 or max_steps
    assert any(played[0]) or max_steps


def test_a_run_resumes_in_the_middle_of_a_game(tmp_path):
    def trained(trainer, steps):
        trainer.train(steps=steps, verbose=0)
        return stored(trainer, 1)

    def make():
        fix_seeds()
        model = make_model(shape=(84, 84, 2))
        return make_trainer(model=model, frame_stack=2, learning_starts=100, batch_size=4)

    expected = trained(make(), 400)
    halved = make()
    halved.train(steps=200, verbose=0)
    halved.save(tmp_path / "half")
    found = trained(DQNTrainer.load(tmp_path / "half"), 200)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_a_film_shows_the_screen(tmp_path):
    make = make_evaluation_factory(Atari(BREAKOUT, raw=False))
    env = make(render_mode="rgb_array")
    observation, _ = env.reset(seed=3)
    for action in (1, 2, 2, 3, 0, 2):
        assert env.render().shape == (210, 160, 3)
        # The screen is that of the game that is played: both show the same bricks, ball and paddle.
        np.testing.assert_array_equal(preprocessing.atari(env.render()[None])[0], observation)
        observation, *_ = env.step(action)
    env.close()
    agent = DQNInference(make_model(), env=BREAKOUT)
    agent.record(tmp_path / "film.gif", max_steps=8)
    assert (tmp_path / "film.gif").stat().st_size > 1_000


def test_a_window_shows_the_screen():
    make = make_factory(Atari(BREAKOUT))
    shown, filmed = make(render_mode="human"), make(render_mode="rgb_array")
    for env in (shown, filmed):
        env.reset(seed=5)
    for action in (1, 2, 3):
        screens = []
        for env in (shown, filmed):
            env.step(action)
            screens.append(env.render())
        assert screens[0] is None
        picture = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
        assert picture.shape == (3 * 210, 3 * 160, 3)
        np.testing.assert_array_equal(picture[1::3, 1::3], screens[1])
    filmed.close()
    assert pygame.display.get_init()
    shown.close()
    assert not pygame.display.get_init()


def test_a_model_for_another_stack_is_refused():
    with pytest.raises(ValueError, match=r"shape \(84, 84, 3\)\. .* `frame_stack=3` .* input_shape=\(84, 84, 4\)"):
        make_trainer(model=make_model(shape=(84, 84, 4)), frame_stack=3)


def test_a_mode_of_gymnasium_for_a_game_is_refused():
    with pytest.raises(ValueError, match="leave `vectorization_mode` out. Received: env='ALE/Breakout-v5', vec"):
        make_trainer(vectorization_mode="vector_entry_point")


def test_an_empty_list_is_no_preprocessing():
    trainer = make_trainer(preprocess=[])
    assert trainer.preprocess.shape == (84, 84)
    assert DQNInference(make_model(), env=BREAKOUT, preprocess=[]).act(np.zeros((84, 84), "uint8")) in range(4)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("life_loss_info", [False, True])
def test_a_lost_life_in_the_users_own_vector_environment(tmp_path, monkeypatch, mode, life_loss_info):
    monkeypatch.chdir(tmp_path)  # for what is rescued
    vector = AtariVectorEnv("breakout", num_envs=2, stack_num=1, life_loss_info=life_loss_info, autoreset_mode=mode)
    trainer = make_trainer(
        vector,
        make_model(shape=(1, 84, 84)),
        num_envs=None,
        eval_env=lambda: gymnasium.wrappers.ReshapeObservation(Atari(BREAKOUT)(), (1, 84, 84)),
    )
    if life_loss_info:
        with pytest.raises(ValueError, match="Pass sota_dqn.Atari with life_loss=True"):
            trainer.train(steps=1_000, verbose=0)
    else:
        trainer.train(steps=1_000, verbose=0)
        assert trainer.episodes > 2


def test_a_model_of_stacks_needs_the_stack_to_play():
    with pytest.raises(ValueError, match=r"have shape \(84, 84\)\. .*`frame_stack`.* input_shape=\(84, 84, 4\)"):
        DQNInference(make_model(shape=(84, 84, 4)), env=BREAKOUT)
    with pytest.raises(ValueError, match=r"have shape \(210, 160, 3\)\. .*`preprocess` must be as in training"):
        DQNInference(make_model(), env=Atari(BREAKOUT, raw=True))
    agent = DQNInference(make_model(shape=(84, 84, 4)), env=BREAKOUT, frame_stack=4)
    assert agent.act(np.zeros((84, 84), "uint8")) in range(4)


def test_a_checkpoint_acts_without_making_its_game(tmp_path, monkeypatch):
    trainer = make_trainer(Atari(BREAKOUT, **PLAIN), make_model(shape=(84, 84, 2)), frame_stack=2)
    trainer.save(tmp_path)
    monkeypatch.setattr(Atari, "__call__", None)
    agent = DQNInference(tmp_path)
    screen = np.zeros((84, 84), "uint8")
    assert agent.act(screen) in range(4)
    with pytest.raises(ValueError, match=r"shape \(84, 84\) and dtype uint8"):
        agent.act(screen + 0.5)
