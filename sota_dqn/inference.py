"""Acting with a trained model: single actions, evaluation, a window, films."""

import contextlib
import functools
import os
import pathlib
import sys
from typing import Any

import keras
import numpy as np

from sota_dqn import atari, checkpoint, recorder
from sota_dqn.checks import check_count, check_count_or_none, check_probability, flaw_of
from sota_dqn.choice import Choice, Frames
from sota_dqn.evaluation import describe, first_observation, make_playing_factory, play_episodes, summarize
from sota_dqn.models import check_shapes, has_convolutions, is_recurrent, observation_shape, previous_inputs
from sota_dqn.policies import EpsilonGreedy
from sota_dqn.preprocessing import Preprocessing
from sota_dqn.recurrent import Recurrent
from sota_dqn.seeds import episode_seeds
from sota_dqn.spaces import check_spaces, space_from
from sota_dqn.storage import merge_frames

__all__ = ["DQNInference"]

DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")  # of which a window needs one
UNKNOWN_FPS = 30  # frames per second of environments that do not tell
ADVICE = "Arguments `frame_stack` and `preprocess` must be as in training, and only a checkpoint tells them. "


class DQNInference:
    """A trained agent.

    Args:
        source: A checkpoint's directory, a `.keras` file, or a Keras model. Only a checkpoint holds the learned initial
            state of a recurrent model; with the others its episodes begin at zero.
        env: What to play in: an id, a callable that takes `render_mode`, or a `gymnasium.Env`, which is built again
            where it has a spec, and else played in itself, stays open, and shows and draws what it was made for. None
            takes the checkpoint's; a file or a model needs it for whatever plays.
        preprocess: As in training. None takes the checkpoint's; where it had some, it must be given again.
        frame_stack: As in training, None for the checkpoint's.
        epsilon: The probability of a random action, in [0, 1].
        seed: From which the random actions of `act` are drawn.
        custom_objects: A dict of the names and classes of the model's own layers.

    Raises:
        FileNotFoundError: If there is nothing at `source`.
        ValueError: If it is damaged, does not fit the environment, or needs an argument that is not given.
    """

    def __init__(self, source, *, env=None, preprocess=None, frame_stack=None, epsilon=0, seed=0, custom_objects=None):
        check_probability(epsilon=epsilon)
        check_count_or_none(1, frame_stack=frame_stack)
        check_count(0, seed=seed)
        self.model, config, recurrent = _load(source, custom_objects)
        arguments = config["arguments"]
        if preprocess is None:
            preprocess = checkpoint.decode(arguments.get("preprocess"), "preprocess")
        self.epsilon = epsilon
        self.frame_stack = arguments.get("frame_stack") if frame_stack is None else frame_stack
        self._env = env if env is not None else arguments.get("eval_env") or arguments.get("env")
        self._raw = bool(preprocess)
        self._native = arguments.get("vectorization_mode") is None
        self._space, self._start, self._num_actions, first = self._look(config)
        self._preprocess = Preprocessing(preprocess, self._space)
        self._fits = self._space is None  # whether it need not be checked any more that the model fits what it sees
        self._check_first(config, first)
        self._choose = Choice(
            self.model,
            EpsilonGreedy(epsilon),
            random=np.random.default_rng(seed),
            convolutions=has_convolutions(self.model),
            stacked=self.frame_stack is not None,
            recurrent=recurrent,
            clip_rewards=self._clips_rewards(config),
        )
        self._frames: Any = None
        self._begun = None

    def act(self, observation, *, reward=None):
        """Returns the action for an observation, or for one of each of several streams.

        With a frame stack, a recurrent model, or one that sees the action and the reward before, each call is the next
        step of its stream, and the actions are taken to be those that were returned; `reset` begins a new episode.

        Args:
            observation: `[...]` as the environment gives it, or a batch of them, `[E, ...]`, always of the same E.
            reward: What the last action brought, a number or `[E]`, not clipped. A model with an input
                `previous_reward` needs it, but for an episode's first step.

        Returns:
            An integer, or `[E]` integers, as the environment takes them.

        Raises:
            ValueError: If the observation does not fit the model or is not finite, or the reward is needed or does not
                fit.
        """
        batch, single = self._batch(np.asarray(observation))
        begins = self._begun is None or len(self._begun) != len(batch)
        begun = np.ones(len(batch), bool) if begins else self._begun
        rewards = self._rewards(reward, begun)
        batch = self._preprocess(batch)
        if flaw_of(batch):
            raise ValueError(f"Argument `observation` must be finite. Received: observation={observation!r}")
        self._begun = begun
        if begins:
            self._frames = Frames(self.frame_stack, "reset")
        actions = self._act(self._frames(batch, self._begun), begun=self._begun, rewards=rewards) + self._start
        self._begun = np.zeros(len(batch), bool)
        return int(actions[0]) if single else actions

    def reset(self, mask=None):
        """Begins a new episode, in the streams of `mask` (`[E]` bool), or in all of them.

        Raises:
            ValueError: If `mask` is something else.
        """
        if mask is None:
            self._begun = None
            return
        given = np.asarray(mask)
        size = given.size if self._begun is None else len(self._begun)  # None: all begin anyway
        if given.dtype != bool or given.shape != (size,):
            raise ValueError(f"Argument `mask` must be {size} booleans, one for each stream. Received: mask={mask!r}")
        if self._begun is not None:
            self._begun = self._begun | given

    def evaluate(self, episodes=20, *, seed=0):
        """Plays whole episodes.

        Args:
            episodes: How many.
            seed: From which the episodes' seeds and random actions are made: the same make the same episodes.

        Returns:
            A dict of `return_mean`, `return_std`, `returns`, `lengths` (environment steps), `seeds` and `protocol`.
        """
        check_count(1, episodes=episodes)
        check_count(0, seed=seed)
        seeds = episode_seeds([seed], episodes)
        returns, lengths = self._play(self._factory(), seeds)
        protocol = describe(self.epsilon, episodes, atari.protocol(self._environment()))
        return summarize(returns, lengths, seeds, protocol=protocol)

    def play(self, *, episodes=1, seed=0):
        """Plays in a window, at the environment's own speed, one episode after the other.

        Returns:
            The episodes' returns.

        Raises:
            RuntimeError: If there is no display.
        """
        check_count(1, episodes=episodes)
        check_count(0, seed=seed)
        if not _has_display():  # pygame may crash, and says nothing
            raise RuntimeError("There is no display for a window: use record('film.gif') instead.")
        make = functools.partial(self._factory(), render_mode="human")
        return [self._play(make, [one])[0][0] for one in episode_seeds([seed], episodes)]

    def record(self, path, *, seed=0, captions=True, every=1, scale=1.0, max_steps=None):
        """Films one episode.

        Args:
            path: A path ending in `.gif` or `.mp4`.
            seed: From which the episode's seed is made.
            captions: Whether score and step are shown, above the picture.
            every: Only one in so many frames is kept; the film keeps its speed.
            scale: Factor on height and width.
            max_steps: Environment steps after which the film ends; None for the whole episode.

        Returns:
            The episode's return, as far as it was filmed.

        Raises:
            ValueError: If an argument is out of range, or the environment draws no pictures.
        """
        check_count(1, every=every)
        check_count_or_none(1, max_steps=max_steps)
        check_count(0, seed=seed)
        make = functools.partial(self._factory(), render_mode="rgb_array")
        with _drawing_into_memory():
            probe = make()
            fps = probe.metadata.get("render_fps") or UNKNOWN_FPS
            probe.close()
            with recorder.Film(path, fps=fps, every=every, scale=scale) as film:

                def add(env, score, step):
                    frame = self._render(env)
                    film.add(recorder.draw_text(frame, recorder.caption(score, step)) if captions else frame)

                returns, _ = self._play(make, episode_seeds([seed], 1), on_step=add, max_steps=max_steps)
        return returns[0]

    def _play(self, make, seeds, **options):
        """Plays an episode for each seed and returns their returns and lengths. The streams of `act` wait."""
        frames, choose = Frames(self.frame_stack, "reset"), self._choose
        kept = choose.actions, choose.after, choose.random
        choose.random = np.random.default_rng(seeds)
        try:
            return play_episodes(self._act, make, self._preprocess, frames, seeds=seeds, **options)
        finally:
            choose.actions, choose.after, choose.random = kept

    def _render(self, env):
        """Returns the picture of an environment."""
        try:
            frame = env.render()
        except NotImplementedError:
            frame = None
        except AssertionError:  # Gymnasium's own environments assert a spec, where they have no render mode
            if env.render_mode is not None:
                raise
            frame = None
        if frame is None:
            raise ValueError(
                "Argument `env` must be an environment that draws pictures for films, with render_mode='rgb_array'. "
                f"Received: env={self._env!r}"
            )
        return frame

    def _act(self, observations, **told):
        """Returns actions, counted from 0, for observations and frames; `told` is what `Choice` is."""
        if not self._fits:
            self._check(observations)
            self._fits = True
        return keras.ops.convert_to_numpy(self._choose(observations, 0, **told))

    def _rewards(self, reward, begun):
        """Returns what the last actions brought, `[E]`, after checking that it is there where the model sees it."""
        size = len(begun)
        if reward is None:
            if "previous_reward" in previous_inputs(self.model) and not begun.all():
                raise ValueError("Argument `reward` is needed: the model sees the reward before. Received: reward=None")
            return np.zeros(size)
        rewards = np.asarray(reward, "float64")
        if rewards.shape not in ((size,), () if size == 1 else (size,)):
            raise ValueError(
                f"Argument `reward` must have one number for each of {size} observations. Received: reward={reward!r}"
            )
        return rewards.reshape(size)

    def _clips_rewards(self, config):
        """Returns whether the model learned from clipped rewards, as far as it sees any. They are clipped by default in
        Atari games alone."""
        if "clip_rewards" in config or "previous_reward" not in previous_inputs(self.model) or self._env is None:
            return config.get("clip_rewards", False)
        return atari.is_game(self._environment())

    def _factory(self):
        """Returns the function that makes environments to play in."""
        if self._env is None:
            raise ValueError("Argument `env` is needed to play: DQNInference(source, env=...). Received: env=None")
        return make_playing_factory(self._environment())

    def _environment(self):
        """Returns what to play in, as a user passes it."""
        env = checkpoint.decode(self._env, "env")
        return atari.native(env, raw=self._raw) if self._native or isinstance(env, atari.Atari) else env

    def _look(self, config):
        """Returns what can be known of the environment.

        Returns:
            Its observation space, the first action's number, how many actions there are, and a first observation,
            `[1, ...]`; None for what is not known.
        """
        if "observation_space" in config and isinstance(self._env, dict):  # the checkpoint tells enough to act
            return space_from(config["observation_space"]), config["action_start"], config["num_actions"], None
        if self._env is None:
            return None, 0, None, None
        make = self._factory()
        env = make()
        try:
            check_spaces(env.observation_space, env.action_space)
            # The user's own may be in the middle of an episode.
            first = None if getattr(make, "single", False) else first_observation(env)
        finally:
            env.close()
        return env.observation_space, int(env.action_space.start), int(env.action_space.n), first

    def _check_first(self, config, first):
        """Raises ValueError where the model does not fit a first observation, as far as one is known before acting."""
        if first is not None:
            seen = self._preprocess(first)
        elif "observation" in config:
            shape, dtype = config["observation"]  # as it was preprocessed in training
            seen = np.zeros((1, *shape), dtype)
        else:
            return
        self._check(Frames(self.frame_stack, "reset")(seen, np.ones(1, bool)))
        self._fits = first is not None

    def _check(self, seen):
        """Raises ValueError unless the model maps what it sees, `[E, ...]`, to a value for each action."""
        merged = seen if self.frame_stack is None else merge_frames(seen)
        check_shapes(self.model, merged, self._num_actions, advice=ADVICE)

    def _batch(self, observation):
        """Returns observations as `[E, ...]` of the environment's dtype, and whether it was a single one."""
        shape, dtype = self._expected()
        single = observation.ndim == len(shape)
        batch = observation[None] if single else observation
        fits = batch.ndim == len(shape) + 1 and len(batch) > 0 and batch.dtype.kind in "biuf"
        if fits and all(size in (None, found) for size, found in zip(shape, batch.shape[1:], strict=True)):
            with np.errstate(invalid="ignore"):
                cast = batch.astype(dtype, copy=False)
            if dtype.kind == "f" or cast is batch or np.array_equal(cast, batch):
                return cast, single
        raise ValueError(
            f"Argument `observation` must be one of shape {tuple(shape)} and dtype {dtype}, or a batch of such. "
            f"Received: shape={observation.shape}, dtype={observation.dtype}"
        )

    def _expected(self):
        """Returns the shape of one observation before preprocessing, None where any size will do, and its dtype."""
        if self._space is not None:
            return self._space.shape or (), self._space.dtype
        told = observation_shape(self.model)
        if told is None or self._preprocess.functions or self.frame_stack is not None:
            raise ValueError(
                "Argument `env` is needed to tell one observation from a batch of them. Received: env=None"
            )
        previous = previous_inputs(self.model)
        dtype = next(tensor.dtype for tensor in self.model.inputs if tensor.name not in previous)
        floating = keras.backend.is_float_dtype(dtype)  # in whatever precision the model computes
        return told[2 if is_recurrent(self.model) else 1 :], np.dtype("float32" if floating else dtype)


def _load(source, custom_objects):
    """Returns the model of a source, and of a checkpoint its configuration and `Recurrent`, else none and None."""
    if isinstance(source, keras.Model):
        return source, {"arguments": {}}, None
    if pathlib.Path(source).suffix == ".keras":
        return checkpoint.load_model(source, custom_objects), {"arguments": {}}, None
    found = checkpoint.Checkpoint(source)
    model = checkpoint.load_model(found.model_path, custom_objects)
    return model, found.config, _recurrent(model, found)


def _recurrent(model, found):
    """Returns the `Recurrent` of a checkpoint's model with its learned state, None where the checkpoint has none."""
    if "initial_state_0" not in found:
        return None
    recurrent = Recurrent(model, learned=True)
    for i, variable in enumerate(recurrent.initial):
        found.check(f"initial_state_{i}", variable)
        found.assign(f"initial_state_{i}", variable)
    return recurrent


def _has_display():
    """Returns whether a window can be opened, as far as the system tells."""
    return sys.platform != "linux" or any(map(os.environ.get, DISPLAYS))


@contextlib.contextmanager
def _drawing_into_memory():
    """Has SDL, with which Gymnasium's classic games draw, look for no display while the block runs where there is none.

    It would print an error, and draw all the same.
    """
    if _has_display():
        yield
        return
    before = os.environ.get("SDL_VIDEODRIVER")
    os.environ["SDL_VIDEODRIVER"] = "dummy"
    try:
        yield
    finally:
        os.environ.pop("SDL_VIDEODRIVER", None)
        if before is not None:
            os.environ["SDL_VIDEODRIVER"] = before
