"""Pictures whose pixels say (stream, episode, step), in games with lives, from the environment to the drawn window.

The log that windows are compared with is a function of these three numbers and of the actions that were taken.
"""

import keras
import numpy as np
import pytest
from choices import Chosen
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from logged_run import DISCOUNT, make_learner

from sota_dqn import Replay, backend, preprocessing, returns
from sota_dqn.actor import Actor
from sota_dqn.choice import Frames
from sota_dqn.environments import Environments
from sota_dqn.writer import Writer

NUM_ENVS = 3
NUM_ACTIONS = 2
STACK = 3
N = 3
DRAWS = 256  # more than there are rows, so that evenly spaced draws meet them all
RAW = (6, 4, 3)  # of a picture, which preprocessing makes [3, 4]


def length_of(stream, episode):
    """The steps of an episode."""
    return 2 + (5 * stream + 7 * episode) % 11


def terminates(stream, episode):
    """Whether an episode ends by itself; else at a time limit."""
    return (stream + episode) % 3 > 0


def loses_life(stream, episode, step):
    """Whether this step of an episode loses a life, and the game goes on."""
    return step % 4 == 2 and step < length_of(stream, episode) - 1


def reward_of(stream, episode, step, action):
    """What a step gives: often more than 1."""
    return float((stream + 2 * episode + 3 * step + action) % 7 - 3)


def picture_of(stream, episode, step):
    """`[3, 4]`: what is stored of an observation."""
    picture = np.full((3, 4), 9, "uint8")
    picture[0] = stream
    picture[1] = episode % 256
    picture[2] = step
    return picture


class Pictures(VectorEnv):
    """The games. Each picture is drawn in RGB at twice the height; it returns its own array every time."""

    def __init__(self, mode):
        self.num_envs = NUM_ENVS
        self.mode = mode
        self.metadata = {"autoreset_mode": mode}
        self.single_observation_space = spaces.Box(0, 255, RAW, np.uint8)
        self.single_action_space = spaces.Discrete(NUM_ACTIONS)
        self.observation_space = batch_space(self.single_observation_space, NUM_ENVS)
        self.action_space = batch_space(self.single_action_space, NUM_ENVS)
        self.pictures = np.zeros((NUM_ENVS, *RAW), "uint8")
        self.episodes = np.full(NUM_ENVS, -1)
        self.times = np.zeros(NUM_ENVS, int)
        self.over = np.zeros(NUM_ENVS, bool)

    def reset(self, *, seed=None, options=None):
        for stream in np.flatnonzero((options or {}).get("reset_mask", np.ones(NUM_ENVS, bool))):
            self._begin(stream)
        return self._draw(), {}

    def step(self, actions):
        reward, terminated, truncated = np.zeros(NUM_ENVS), np.zeros(NUM_ENVS, bool), np.zeros(NUM_ENVS, bool)
        lost, final = np.zeros(NUM_ENVS, bool), np.full(NUM_ENVS, None, object)
        for stream in range(NUM_ENVS):
            if self.over[stream]:
                assert self.mode == AutoresetMode.NEXT_STEP
                self._begin(stream)
                continue
            where = stream, self.episodes[stream], self.times[stream]
            reward[stream] = reward_of(*where, actions[stream])
            lost[stream] = loses_life(*where)
            self.times[stream] += 1
            self.over[stream] = self.times[stream] == length_of(*where[:2])
            truncated[stream] = self.over[stream] and not terminates(*where[:2])
            terminated[stream] = lost[stream] or (self.over[stream] and not truncated[stream])
        self._draw()
        if self.mode == AutoresetMode.SAME_STEP:
            for stream in np.flatnonzero(self.over):
                final[stream] = self.pictures[stream].copy()
                self._begin(stream)
            self._draw()
        return self.pictures, reward, terminated, truncated, {"life_lost": lost, "final_obs": final}

    def _begin(self, stream):
        self.episodes[stream] += 1
        self.times[stream] = 0
        self.over[stream] = False

    def _draw(self):
        for stream in range(NUM_ENVS):
            picture = picture_of(stream, self.episodes[stream], self.times[stream])
            self.pictures[stream] = np.repeat(picture, 2, axis=0)[..., None]
        return self.pictures


class Run:
    """An actor that acts at random into a small replay, and the log of its actions."""

    def __init__(self, mode, *, padding="reset", clip_rewards=False, device=None):
        environments = Environments(Pictures(mode), seed=0)
        preprocess = preprocessing.Preprocessing(
            [preprocessing.grayscale, preprocessing.resize(3, 4)], environments.observation_space
        )
        frames = Frames(STACK, padding)
        self.actor = Actor(environments, preprocess, frames=frames, discount=None, clip_rewards=clip_rewards)
        self.actor.start()
        self.padding, self.clip_rewards = padding, clip_rewards
        self.replay = Replay(60, device=device)  # 20 rows a stream
        learner = make_learner(
            self.replay, shape=(3, 4), dtype="uint8", after=N, chunk=4, frame_stack=STACK, padding=padding
        )
        random = np.random.default_rng(1)
        choose = Chosen(lambda seen, step: random.integers(NUM_ACTIONS, size=NUM_ENVS))
        self.actor.connect(Writer(learner), choose, steps_per_chunk=1)
        self.actions = {}
        plan = backend.plan(convolutions=False, host_rows=self.replay.on_host)
        program = backend.Program(self.replay.variables, [], plan)
        self.sample = program.compile(self._sample)
        self.kinds = set()

    def _sample(self, uniform):
        drawn = self.replay.sample(uniform, np.float32(0))
        total, discount, length = returns.n_step(drawn.window, N, DISCOUNT)
        observation = self.replay.observe(drawn.rows)
        return drawn.rows, observation, self.replay.observe(drawn.rows, length), total, discount, length

    def step(self):
        actions = self.actor.choose(0)
        for picture, action in zip(self.actor.observation, actions, strict=True):
            where = tuple(int(picture[row, 0]) for row in range(3))
            if where[2] < length_of(*where[:2]):
                self.actions[where] = int(action)
        ended = self.actor.step(actions)
        for episode in ended:
            self.kinds.add("ended")
            stream = episode.stream
            done = [where for where in self.actions if where[0] == stream]
            last = max(where[1] for where in done if where[2] == length_of(stream, where[1]) - 1)
            assert episode.episode_length == length_of(stream, last)  # of the whole game, lost lives or not
            rewards = [reward_of(*where, self.actions[where]) for where in done if where[1] == last]
            assert episode.episode_return == sum(rewards)  # never clipped

    def stack(self, stream, episode, step):
        """`[3, 4, k]`: what the model sees in a step of an episode."""
        pictures = []
        for time in range(step - STACK + 1, step + 1):
            picture = picture_of(stream, episode, max(time, 0))
            pictures.append(picture if time >= 0 or self.padding == "reset" else np.zeros_like(picture))
        return np.stack(pictures, axis=-1)

    def transition(self, stream, episode, step):
        """The n-step return of a row, its discount and its length."""
        total, discount, taken = 0.0, 1.0, 0
        while taken < N and step + taken < length_of(stream, episode):
            where = stream, episode, step + taken
            reward = reward_of(*where, self.actions[where])
            total += discount * (max(-1.0, min(1.0, reward)) if self.clip_rewards else reward)
            discount *= DISCOUNT
            taken += 1
            if loses_life(*where):
                self.kinds.add("life lost")
                return total, 0.0, taken
        if step + taken == length_of(stream, episode):
            self.kinds.add("over" if terminates(stream, episode) else "time limit")
            if terminates(stream, episode):
                discount = 0.0
        return total, discount, taken

    def check(self):
        """Compares everything that can be drawn, and what the policy sees, with the log."""
        self.actor.flush()
        if self.actor.count.min() < STACK + N + 2:
            return
        outputs = self.sample(np.full(DRAWS, 0.5, "float32"))
        places, index = np.unique(keras.ops.convert_to_numpy(outputs[0]), return_index=True)
        observation, following, total, discount, length = (keras.ops.convert_to_numpy(x)[index] for x in outputs[1:])
        assert len(places) >= NUM_ENVS
        for i in range(len(places)):
            where = tuple(int(observation[i][row, 0, -1]) for row in range(3))
            assert where[0] == places[i] // self.replay.storage.rows_per_stream
            assert where[2] < length_of(*where[:2])  # never a final observation
            np.testing.assert_array_equal(observation[i], self.stack(*where))
            expected = self.transition(*where)
            np.testing.assert_allclose((total[i], discount[i], length[i]), expected, rtol=1e-5, atol=1e-5)
            np.testing.assert_array_equal(following[i], self.stack(*where[:2], where[2] + expected[2]))
        for stream, picture in enumerate(self.actor.observation):
            where = tuple(int(picture[row, 0]) for row in range(3))
            seen = np.moveaxis(self.actor.stacked[stream], 0, -1)
            np.testing.assert_array_equal(seen, self.stack(*where))


@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        *((mode, {}) for mode in AutoresetMode),
        (AutoresetMode.DISABLED, {"padding": "zero"}),
        (AutoresetMode.NEXT_STEP, {"clip_rewards": True}),
        (AutoresetMode.SAME_STEP, {"device": "cpu"}),
    ],
)
def test_every_window_is_what_was_seen(monkeypatch, mode, settings):
    if "device" in settings:
        monkeypatch.setattr(backend, "device_kind", lambda: "gpu")
    run = Run(mode, **settings)
    for _ in range(110):
        run.step()
        run.check()
    assert (run.actor.count > 5 * run.replay.storage.rows_per_stream).all()
    assert run.kinds == {"ended", "life lost", "over", "time limit"}
