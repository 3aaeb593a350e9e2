import os
import pathlib

import cv2
import gymnasium
import keras
import numpy as np
import probes
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.wrappers import TimeLimit

from sota_dqn import DQNInference, DQNTrainer, OneStepTrainer, Replay


def network(*shape, outputs=2):
    model = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(outputs, use_bias=False)])
    random = np.random.default_rng(0)
    model.set_weights([random.normal(size=weight.shape).astype("float32") for weight in model.get_weights()])
    return model


def halve(observations):
    return (observations / 2).astype("float32")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A trainer of CartPole, and its checkpoint."""
    path = tmp_path_factory.mktemp("run")
    trainer = DQNTrainer("CartPole-v1", network(4), num_envs=2, replay=Replay(400))
    trainer.save(path)
    return trainer, path


def greedy(model, observations):
    return keras.ops.convert_to_numpy(model(np.asarray(observations, "float32"))).argmax(axis=1)


def test_all_sources_act_alike(saved, random):
    trainer, path = saved
    config_free = path / "copy.keras"
    trainer.model.save(config_free)
    observations = random.normal(size=(6, 4))
    expected = greedy(trainer.model, observations)
    assert 0 < expected.sum() < 6
    for agent in (DQNInference(path), DQNInference(config_free), DQNInference(trainer.model), DQNInference(str(path))):
        actions = agent.act(observations)
        assert actions.dtype.kind == "i"
        np.testing.assert_array_equal(actions, expected)
        one = agent.act(observations[0])
        assert isinstance(one, int) and one == expected[0]


def test_evaluation_equals_the_trainers(saved):
    trainer, path = saved
    expected = trainer.evaluate(5, seed=3)
    for agent in (DQNInference(path), DQNInference(trainer.model, env="CartPole-v1")):
        found = agent.evaluate(5, seed=3)
        assert found.pop("protocol") == "greedy, 5 whole episodes"
        assert found == {name: value for name, value in expected.items() if name != "protocol"}
    assert DQNInference(path).evaluate(2)["seeds"] != found["seeds"][:2]


def test_random_actions_of_an_evaluation_come_from_its_seed(saved):
    trainer, path = saved
    agent = DQNInference(path, epsilon=0.5, seed=3)
    first = agent.evaluate(3, seed=0)
    assert agent.evaluate(3, seed=0) == first == trainer.evaluate(3, seed=0, epsilon=0.5)
    assert agent.evaluate(3, seed=1)["returns"] != first["returns"]
    observations = np.zeros((64, 4), "float32")
    np.testing.assert_array_equal(agent.act(observations), DQNInference(path, epsilon=0.5, seed=3).act(observations))


def test_a_subclassed_model_acts_and_evaluates():
    class Plain(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, inputs):
            return self.dense(inputs)

    model = Plain()
    model(np.zeros((1, 4), "float32"))
    agent = DQNInference(model, env="CartPole-v1")
    assert len(agent.evaluate(2)["returns"]) == 2
    assert agent.act(np.float32([1, 2, 3, 4])) == greedy(model, [[1, 2, 3, 4]])[0]
    with pytest.raises(ValueError, match=r"Argument `env` is needed"):
        DQNInference(model).act(np.float32([1, 2, 3, 4]))


def test_random_actions():
    model = network(4)
    observations = np.tile(np.float32([1, 2, 3, 4]), (2000, 1))
    agent = DQNInference(model, epsilon=1.0, seed=5)
    actions = agent.act(observations)
    assert 900 < actions.sum() < 1100
    np.testing.assert_array_equal(DQNInference(model, epsilon=1.0, seed=5).act(observations), actions)
    assert not np.array_equal(DQNInference(model, epsilon=1.0, seed=6).act(observations), actions)
    best = greedy(model, observations[:1])[0]
    tenth = (DQNInference(model, epsilon=0.2).act(observations) != best).mean()
    assert 0.07 < tenth < 0.13
    with pytest.raises(ValueError, match=r"Argument `epsilon` must be between 0 and 1\. Received: epsilon=1\.5"):
        DQNInference(model, epsilon=1.5)


class Started(probes.Probe):
    """Actions 5 and 6."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        self.action_space = spaces.Discrete(2, start=5)

    def move(self, action):
        assert action in (5, 6)
        return float(action), True, False


def test_actions_count_as_the_environments():
    model = network(1)
    agent = DQNInference(model, env=Started)
    values = keras.ops.convert_to_numpy(model(np.float32([[1.0], [-1.0]])))
    np.testing.assert_array_equal(agent.act(np.float32([[1.0], [-1.0]])), 5 + values.argmax(axis=1))
    assert agent.act(np.float32([1.0])) == 5 + values[0].argmax()
    assert set(agent.evaluate(2)["returns"]) <= {5.0, 6.0}


def test_discrete_observations():
    model = network(probes.Chain.length_of_chain)
    agent = DQNInference(model, env=probes.Chain)
    best = model.get_weights()[0].argmax(axis=1)
    np.testing.assert_array_equal([agent.act(state) for state in range(6)], best)
    np.testing.assert_array_equal(agent.act(np.arange(6)), best)


def test_frame_stacks_of_every_stream():
    model = network(2, 3)  # two features, three frames
    agent = DQNInference(model, frame_stack=3, env=lambda render_mode=None: Wide())
    frames = np.random.default_rng(0).normal(size=(5, 2, 2)).astype("float32")  # [T, E, O]

    def act(stacks):  # [E, k, O]
        return greedy(model, np.moveaxis(stacks, 1, -1))

    first = frames[[0, 0, 0]].swapaxes(0, 1)
    np.testing.assert_array_equal(agent.act(frames[0]), act(first))
    np.testing.assert_array_equal(agent.act(frames[1]), act(frames[[0, 0, 1]].swapaxes(0, 1)))
    np.testing.assert_array_equal(agent.act(frames[2]), act(frames[[0, 1, 2]].swapaxes(0, 1)))
    agent.reset([False, True])  # the second stream begins anew
    mixed = np.stack([frames[[1, 2, 3], 0], frames[[3, 3, 3], 1]])
    np.testing.assert_array_equal(agent.act(frames[3]), act(mixed))
    mixed = np.stack([frames[[2, 3, 4], 0], frames[[3, 3, 4], 1]])
    np.testing.assert_array_equal(agent.act(frames[4]), act(mixed))
    agent.reset()
    np.testing.assert_array_equal(agent.act(frames[0]), act(first))
    assert agent.act(frames[0, 0]) == act(first)[0]  # one stream instead of two


def test_episodes_that_are_played_leave_the_streams_alone(random):
    layers = [keras.Input((None, 4)), keras.layers.LSTM(8, return_sequences=True), keras.layers.Dense(2)]
    agent = DQNInference(keras.Sequential(layers), env="CartPole-v1")
    frames = random.normal(size=(4, 4)).astype("float32")
    recorded = []
    for between in (lambda: None, lambda: agent.evaluate(2)):
        agent.reset()
        for frame in frames:
            agent.act(frame)
            between()
        recorded.append(keras.ops.convert_to_numpy(agent._choose.after[0]))
    np.testing.assert_array_equal(*recorded)


@pytest.mark.parametrize("frame_stack", [None, 3])
@pytest.mark.parametrize(
    "wrong",
    [np.zeros(3), np.zeros((2, 3)), np.zeros((1, 1, 2)), np.zeros((0, 2)), np.array(["a", "b"]), np.zeros(2, complex)],
)
def test_a_wrong_observation_changes_nothing(wrong, frame_stack):
    model = network(2) if frame_stack is None else network(2, 3)
    agents = [DQNInference(model, env=Wide, frame_stack=frame_stack) for _ in range(2)]
    frames = np.random.default_rng(0).normal(size=(4, 2, 2)).astype("float32")
    found = []
    for agent in agents:
        for time, frame in enumerate(frames):
            if agent is agents[1] and time % 2 == 0:
                with pytest.raises(ValueError, match=r"`observation` must be one of shape \(2,\) and dtype float32"):
                    agent.act(wrong)
            found.append(agent.act(frame))
    np.testing.assert_array_equal(found[:4], found[4:])


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_an_observation_that_is_not_finite(number):
    with pytest.raises(ValueError, match="`observation` must be finite. Received: observation="):
        DQNInference(network(2)).act(np.array([0, number]))
    agent = DQNInference(network(2), env=Wide, preprocess=lambda x: np.nan_to_num(x, posinf=9.0))  # as in training
    assert agent.act(np.array([0, number], "float32")) in range(4)


def test_a_wrong_observation_of_a_model_alone():
    agent = DQNInference(network(2))
    with pytest.raises(ValueError, match=r"shape \(2,\) and dtype float32.* Received: shape=\(3,\), dtype=float64"):
        agent.act(np.zeros(3))
    assert agent.act([1, 2]) == agent.act(np.float32([1, 2])) == agent.act(np.float64([1, 2]))


class Pictures(probes.Probe):
    observation_space = spaces.Box(0, 255, (2, 2), "uint8")

    def observe(self):
        return np.full((2, 2), 7, "uint8")

    def move(self, action):
        return 1.0, True, False


def test_observations_come_in_the_dtype_of_the_space(tmp_path):
    seen = []

    def keep(frames):
        seen.append(frames.dtype.name)
        return frames

    DQNTrainer(Pictures, network(2, 2), num_envs=2, replay=Replay(400), preprocess=keep).save(tmp_path)
    for agent in (DQNInference(tmp_path, preprocess=keep), DQNInference(network(2, 2), env=Pictures, preprocess=keep)):
        seen.clear()
        picture = [[0, 255], [7, 9]]
        assert agent.act(picture) == agent.act(np.uint8(picture)) == agent.act(np.float32(picture))
        assert seen == ["uint8"] * 3
        for wrong in ([[0, 256], [7, 9]], [[0, -1], [7, 9]], [[0.0, 0.5], [7, 9]]):
            with pytest.raises(ValueError, match=r"shape \(2, 2\) and dtype uint8"):
                agent.act(wrong)


WANTS = "Arguments `frame_stack` and `preprocess` must be as in training"


def test_a_model_that_does_not_fit_the_environment():
    with pytest.raises(ValueError, match=rf"have shape \(4,\)\. {WANTS}.* Received: input_shape=\(6,\)"):
        DQNInference(network(6), env="CartPole-v1")
    with pytest.raises(ValueError, match=rf"have shape \(2,\)\. {WANTS}.* Received: input_shape=\(2, 3\)"):
        DQNInference(network(2, 3), env=Wide)
    with pytest.raises(ValueError, match=rf"have shape \(2, 2\)\. {WANTS}.* Received: input_shape=\(2,\)"):
        DQNInference(network(2), env=Pictures)
    assert DQNInference(network(2, 3), env=Wide, frame_stack=3).act(np.zeros(2)) in (0, 1)
    assert DQNInference(network(2), env=Pictures, preprocess=lambda frames: frames[:, 0]).act([[0, 0], [7, 7]]) in (
        0,
        1,
    )


def test_the_users_own_environment_is_not_reset_to_look_at_it():
    env = Wide()
    env.reset(seed=0)
    env.length, observation = 3, np.zeros(2)  # in the middle of an episode
    assert DQNInference(network(2), env=env).act(observation) in (0, 1)
    assert env.length == 3
    agent = DQNInference(network(6), env=env)
    for play in (lambda: agent.act(observation), agent.evaluate):
        with pytest.raises(ValueError, match=rf"have shape \(2,\)\. {WANTS}"):
            play()


def locate(frames):
    """Returns the place of the first bright pixel, and cannot where there is none."""
    return np.stack([np.argwhere(frame)[0] for frame in frames]).astype("float32")


def test_a_checkpoint_without_its_environment_tells_what_fits(tmp_path):
    settings = {"num_envs": 2, "replay": Replay(400), "preprocess": locate}
    DQNTrainer(lambda: Pictures(), network(2), **settings).save(tmp_path)
    assert DQNInference(tmp_path, preprocess=locate).act([[0, 0], [7, 7]]) in (0, 1)
    with pytest.raises(ValueError, match=rf"have shape \(2, 4\)\. {WANTS}.* Received: input_shape=\(2,\)"):
        DQNInference(tmp_path, preprocess=locate, frame_stack=4)
    agent = DQNInference(tmp_path, preprocess=lambda frames: frames)
    with pytest.raises(ValueError, match=rf"have shape \(2, 2\)\. {WANTS}.* Received: input_shape=\(2,\)"):
        agent.act([[0, 0], [7, 7]])


def test_a_reward_that_is_refused_changes_nothing():
    agent = DQNInference(network(2))
    agent.act(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="`reward` must have one number"):
        agent.act(np.zeros((3, 2)), reward=[1.0])
    agent.reset([True, False])  # two streams still


def test_reset_takes_a_mask():
    agent = DQNInference(network(2))
    agent.reset([True])  # of streams that have not begun
    agent.act(np.zeros((3, 2)))
    for wrong in ([0, 2], [0, 1, 1], [True], True, [True, False], [[True, False, True]]):
        with pytest.raises(ValueError, match=r"`mask` must be 3 booleans, one for each stream\. Received: mask="):
            agent.reset(wrong)
    agent.reset(np.array([True, False, True]))
    np.testing.assert_array_equal(agent._begun, [True, False, True])
    agent.reset()
    with pytest.raises(ValueError, match="`mask` must be"):
        agent.reset([0, 1])


class Wide(probes.Probe):
    observation_space = spaces.Box(-np.inf, np.inf, (2,), "float32")


def test_preprocessing_of_a_checkpoint_is_asked_for(tmp_path, random):
    trainer = DQNTrainer("CartPole-v1", network(4), num_envs=2, replay=Replay(400), preprocess=halve)
    trainer.save(tmp_path)
    with pytest.raises(ValueError, match=r"cannot hold `preprocess`.*preprocess="):
        DQNInference(tmp_path)
    agent = DQNInference(tmp_path, preprocess=halve)
    observations = random.normal(size=(5, 4)).astype("float32")
    np.testing.assert_array_equal(agent.act(observations), greedy(trainer.model, observations / 2))
    assert agent.evaluate(3, seed=1)["returns"] == trainer.evaluate(3, seed=1)["returns"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: DQNTrainer(Started, network(1), num_envs=2, replay=Replay(400)),
        lambda: OneStepTrainer(Started, network(1), workers=1),
    ],
)
def test_environment_of_a_checkpoint_is_asked_for_where_it_is_needed(make, tmp_path):
    trainer = make()
    trainer.save(tmp_path)
    agent = DQNInference(tmp_path)
    assert agent.act(np.float32([0.5])) in (5, 6)
    with pytest.raises(ValueError, match=r"cannot hold `env`.*env="):
        agent.evaluate(2)
    assert DQNInference(tmp_path, env=Started).evaluate(3, seed=2)["returns"] == trainer.evaluate(3, seed=2)["returns"]


def test_errors_name_what_is_needed(saved, tmp_path):
    agent = DQNInference(saved[0].model)
    for play in (agent.evaluate, agent.play, lambda: agent.record(tmp_path / "film.gif")):
        with pytest.raises(ValueError, match=r"Argument `env` is needed to play"):
            play()
    with pytest.raises(ValueError, match=r"Argument `env` is needed to tell one observation from a batch"):
        DQNInference(saved[0].model, preprocess=halve).act(np.zeros(4))
    with pytest.raises(ValueError, match=r"Argument `episodes` must be at least 1\. Received: episodes=0"):
        DQNInference(saved[1]).evaluate(0)
    with pytest.raises(TypeError, match=r"Argument `episodes` must be an integer\. Received: episodes=2\.5"):
        DQNInference(saved[1]).evaluate(2.5)
    with pytest.raises(ValueError, match=r"Argument `episodes` must be at least 1"):
        DQNInference(saved[1]).play(episodes=0)
    for name in ("every", "max_steps"):
        with pytest.raises(ValueError, match=rf"Argument `{name}` must be at least 1\. Received: {name}=0"):
            DQNInference(saved[1]).record(tmp_path / "film.gif", **{name: 0})
    for settings in ({"frame_stack": 0}, {"seed": -1}, {"seed": 0.5}, {"epsilon": "0.1"}, {"epsilon": lambda step: 0}):
        with pytest.raises((ValueError, TypeError), match=rf"Argument `{next(iter(settings))}` must be"):
            DQNInference(saved[0].model, **settings)
    for play in (agent.evaluate, agent.play, lambda seed: agent.record(tmp_path / "film.gif", seed=seed)):
        with pytest.raises(ValueError, match=r"Argument `seed` must be at least 0"):
            play(seed=-1)
    with pytest.raises(ValueError, match=r"model must output one value for each of the 2 actions\. Received: \(3,\)"):
        DQNInference(network(4, outputs=3), env="CartPole-v1")
    with pytest.raises(ValueError, match=r"Discrete action space; Box is not supported"):
        DQNInference(network(3), env="Pendulum-v1")
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        DQNInference(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="no model at"):
        DQNInference(tmp_path / "nothing.keras")


def frames_of(path):
    found, film = cv2.imreadanimation(str(path))
    assert found
    return film.frames


def test_film_has_a_frame_for_the_reset_and_for_every_step(saved, tmp_path):
    agent = DQNInference(saved[1])
    film = tmp_path / "films" / "agent.gif"
    score = agent.record(film, seed=4, scale=0.2)
    found = agent.evaluate(1, seed=4)
    assert score == found["returns"][0]
    frames = frames_of(film)
    assert len(frames) == found["lengths"][0] + 1
    assert frames[0].shape[:2] == (87, 120)  # a strip above
    assert agent.record(film, seed=4, scale=0.2, max_steps=5, captions=False) == 5.0
    assert [frame.shape[:2] for frame in frames_of(film)] == [(80, 120)] * 6


class Drawing(Started):
    def render(self):
        return None


@pytest.mark.parametrize("env", [Started, Drawing])
def test_film_of_an_environment_that_draws_nothing(env, tmp_path):
    with pytest.raises(ValueError, match=r"`env` must be an environment that draws pictures.*Received: env=<class"):
        DQNInference(network(1), env=env).record(tmp_path / "film.gif")
    assert not list(tmp_path.iterdir())


def test_film_of_an_environment_whose_callable_takes_no_render_mode(saved, tmp_path):
    agent = DQNInference(saved[0].model, env=lambda: gymnasium.make("CartPole-v1"))
    with pytest.raises(TypeError, match=r"must take `render_mode` for films"):
        agent.record(tmp_path / "film.gif")
    assert not list(pathlib.Path(tmp_path).iterdir())


@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_an_environment_that_cannot_be_built_again_is_played_in(saved, tmp_path, render_mode):
    env = CartPoleEnv(render_mode=render_mode)
    closed = []
    env.close = lambda: closed.append(1)
    agent = DQNInference(saved[0].model, env=TimeLimit(env, 50))
    expected = DQNInference(saved[0].model, env=lambda: TimeLimit(CartPoleEnv(), 50)).evaluate(3, seed=4)
    for _ in range(2):
        assert agent.evaluate(3, seed=4) == expected
        assert agent.play(episodes=3, seed=4) == expected["returns"]
        if render_mode is None:
            with pytest.raises(ValueError, match=r"must be an environment that draws pictures.*Received: env=<Time"):
                agent.record(tmp_path / "film.gif", seed=4)
        else:
            agent.record(tmp_path / "film.gif", seed=4, max_steps=3, scale=0.2)
            assert len(frames_of(tmp_path / "film.gif")) == 4
    assert not closed


def test_a_vector_environment_is_not_played_in(saved):
    vector = gymnasium.make_vec("CartPole-v1", num_envs=2)
    with pytest.raises(ValueError, match=r"`env` must be an id, .* not played in a vector environment"):
        DQNInference(saved[0].model, env=vector)
    vector.close()


def test_play_shows_every_episode(saved):
    """The screen is a dummy one."""
    modes = []

    def make(render_mode=None):
        modes.append(render_mode)
        return gymnasium.make("CartPole-v1")

    agent = DQNInference(saved[0].model, env=make)
    assert agent.play(episodes=2, seed=4) == agent.evaluate(2, seed=4)["returns"]
    assert modes.count("human") == 2


def test_without_a_display_there_is_no_window(saved, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(RuntimeError, match=r"no display for a window: use record\('film.gif'\) instead"):
        DQNInference(saved[1]).play()


class Noting(Started):
    """Draws black pictures, and notes where SDL would draw."""

    drivers: list = []

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        if render_mode:
            self.drivers.append(os.environ.get("SDL_VIDEODRIVER"))

    def render(self):
        self.drivers.append(os.environ.get("SDL_VIDEODRIVER"))
        return np.zeros((80, 120, 3), "uint8")


@pytest.mark.parametrize(("display", "driver"), [(None, "dummy"), (":0", None)])
def test_a_film_looks_for_no_display_where_there_is_none(tmp_path, monkeypatch, display, driver):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    if display:
        monkeypatch.setenv("DISPLAY", display)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(Noting, "drivers", [])
    DQNInference(network(1), env=Noting).record(tmp_path / "film.gif", max_steps=2)
    assert len(Noting.drivers) >= 3 and set(Noting.drivers) == {driver}
    assert "SDL_VIDEODRIVER" not in os.environ


def test_what_an_environment_does_to_the_variable_of_sdl_costs_no_film(tmp_path, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SDL_VIDEODRIVER", "")
    monkeypatch.setattr("sys.platform", "linux")
    agent = DQNInference(network(1), env=Noting)
    monkeypatch.setattr(Noting, "close", lambda self: os.environ.pop("SDL_VIDEODRIVER", None))
    agent.record(tmp_path / "film.gif", max_steps=2)
    assert (tmp_path / "film.gif").exists() and os.environ["SDL_VIDEODRIVER"] == ""
