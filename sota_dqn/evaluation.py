"""Playing whole episodes without learning, for scores and films, and the environments in which they are played."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from sota_dqn.checks import check_distinct, flaw_of
from sota_dqn.environments import ended_of
from sota_dqn.preprocessing import Preprocessing
from sota_dqn.spaces import describe_space, is_supported
from sota_dqn.vectors import envs_of, is_vector, make_factory

__all__ = [
    "check_evaluation",
    "describe",
    "first_observation",
    "make_evaluation_factory",
    "make_playing_factory",
    "play_episodes",
    "summarize",
]

MOST_ENVIRONMENTS = 32  # stepped side by side; more episodes than that take turns


def make_evaluation_factory(env, eval_env=None):
    """Returns a function of `render_mode` that makes an environment to evaluate in, apart from the one trained in.

    Args:
        env: The environment trained in, as in `make_factory`.
        eval_env: The one to evaluate in, as in `make_playing_factory`; None for one like `env`.

    Raises:
        ValueError: If there is no way to a second environment.
    """
    if eval_env is None:
        factory = make_factory(env)
        if factory is None:
            raise ValueError(
                "Evaluation needs an environment of its own, and this one cannot be built again: pass eval_env=, an "
                f"id, a callable or a gymnasium.Env. Received: env={env!r}, eval_env=None"
            )
        return factory
    if eval_env is env and make_factory(env) is None:
        raise ValueError("Argument `eval_env` must be another environment than the one trained in. Received: the same.")
    return make_playing_factory(eval_env, "eval_env")


def make_playing_factory(env, argument="env"):
    """Returns a function of `render_mode` that makes an environment to play in.

    Args:
        env: As in `make_factory`. A `gymnasium.Env` that cannot be built again is played in itself, with the
            `render_mode` that it has, and stays open.
        argument: What the user's argument is called, for the error.

    Raises:
        ValueError: If it is a vector environment.
    """
    factory = make_factory(env, argument)
    if factory is None and is_vector(env):
        raise ValueError(
            f"Argument `{argument}` must be an id, a callable or a gymnasium.Env: whole episodes are not played in a "
            f"vector environment. Received: {argument}={env!r}"
        )
    return _Kept(env) if factory is None else factory


def check_evaluation(make, env, eval_env, *, trained, preprocess):
    """Raises ValueError unless the environment to evaluate in is another than those trained in, and like them.

    Args:
        make: What `make_evaluation_factory` returned.
        env: What it was given.
        eval_env: Likewise. One like `env` is not looked at, where it is known to be another.
        trained: The `Environments` trained in.
        preprocess: Their `Preprocessing`, which has been called.
    """
    envs = [one for environments in trained for one in envs_of(environments.vector)]
    # Of several it is known that they differ, and all but a callable make a new one at every call.
    handed_out = len(envs) == 1 and callable(env) and not isinstance(env, gymnasium.Env)
    if eval_env is None and not handed_out:
        return
    made = make()
    if any(made.unwrapped is one.unwrapped for one in envs):
        if eval_env is None:
            check_distinct([made, *envs])
        raise ValueError(
            "Argument `eval_env` must be another environment than the one trained in. Received: "
            f"env={env!r}, eval_env={eval_env!r}"
        )
    try:
        if eval_env is not None:
            _check_alike(made, eval_env, trained[0], preprocess)
    finally:
        made.close()


def _check_alike(made, eval_env, environments, preprocess):
    """Raises ValueError unless `made`, from `eval_env`, has the actions and observations of those trained in."""
    actions, space = environments.action_space, environments.observation_space
    found = made.action_space
    if not isinstance(found, spaces.Discrete) or (found.n, found.start) != (actions.n, actions.start):
        raise ValueError(
            f"Argument `eval_env` must have the actions of the environment trained in, {actions}. Received: "
            f"eval_env={eval_env!r}, action_space={found}"
        )
    unlike = ValueError(
        f"Argument `eval_env` must give observations like those of the environment trained in, {space}, which are "
        f"{preprocess.shape} of {preprocess.dtype} after preprocessing. Received: eval_env={eval_env!r}, "
        f"observation_space={made.observation_space}"
    )
    if not is_supported(made.observation_space):
        raise unlike
    if describe_space(made.observation_space) == describe_space(space):
        return
    if isinstance(space, spaces.Discrete) or isinstance(made.observation_space, spaces.Discrete):
        raise unlike
    # Only here, where the spaces do not tell: what is preprocessed may be counted or averaged there.
    again = Preprocessing(preprocess.functions, made.observation_space)
    try:
        again(first_observation(made))
    except Exception as error:  # whatever the user's functions raise
        raise unlike from error
    if (again.shape, again.dtype) != (preprocess.shape, preprocess.dtype):
        raise unlike


def first_observation(env):
    """Returns what is seen of `env` after a reset, `[1, ...]`, in the dtype of its space."""
    space = env.observation_space
    observation = np.zeros((1, *space.shape), space.dtype)
    observation[0] = env.reset(seed=0)[0]
    return observation


class _Kept:
    """A factory of one environment that the user has made: it is lent, one at a time, and never closed."""

    single = True

    def __init__(self, env):
        self.env = env

    def __call__(self, render_mode=None):
        return _Lent(self.env)


class _Lent(gymnasium.Wrapper):
    def close(self):
        """Leaves the user's environment open."""


def play_episodes(choose, make, preprocess, frames, *, seeds, on_step=None, max_steps=None):
    """Plays one whole episode for each seed, side by side.

    Args:
        choose: A function from observations and frames, `[N, ...]`, `begun`, where episodes begin, `[N]` bool, and
            `rewards`, what the last actions brought, `[N]`, to actions, `[N]` integers from 0.
        make: A function that makes one environment. Where it has a method `make_vector(num_envs)`, as that of Atari
            games has, and nothing is filmed, they are stepped together.
        preprocess: A `Preprocessing`.
        frames: A fresh `Frames`.
        seeds: One per episode.
        on_step: Called with (env, return, length) after each environment's first reset and after each step, for films;
            not after the resets of episodes that follow.
        max_steps: Environment steps after which an episode is left; None for whole episodes.

    Returns:
        The returns and the lengths, two lists in the order of the seeds.

    Raises:
        ValueError: If a reward, or an observation that is acted on, is not finite; it names the episode's seed and the
            step.
    """
    most = 1 if getattr(make, "single", False) else MOST_ENVIRONMENTS
    together = on_step is None and hasattr(make, "make_vector")
    games: Any = (_Together if together else _OneByOne)(make, min(len(seeds), most))
    try:
        returns, lengths = [0.0] * len(seeds), [0] * len(seeds)
        playing: list[int | None] = list(range(games.num_envs))  # numbers of episodes
        waiting = list(range(games.num_envs, len(seeds)))[::-1]
        observation = games.reset(seeds[: games.num_envs])
        begun, rewards = np.ones(games.num_envs, bool), np.zeros(games.num_envs)
        if on_step:
            for env in games.envs:
                on_step(env, 0.0, 0)
        while any(number is not None for number in playing):
            seen = preprocess(observation)
            _check_finite("observation", seen, playing, seeds, lengths, ahead=0)
            actions = np.asarray(choose(frames(seen, begun), begun=begun, rewards=rewards))
            active = np.array([number is not None for number in playing])
            observation, rewards, ended = games.step(actions, active)
            _check_finite("reward", rewards, playing, seeds, lengths, ahead=1)
            begun = np.zeros(games.num_envs, bool)
            following: list[int | None] = [None] * games.num_envs
            for i, number in enumerate(playing):
                if number is None:
                    continue
                returns[number] += float(rewards[i])
                lengths[number] += 1
                if on_step:
                    on_step(games.envs[i], returns[number], lengths[number])
                if ended[i] or lengths[number] == max_steps:
                    begun[i] = True
                    playing[i] = None
                    if waiting:
                        playing[i] = number = waiting.pop()
                        following[i] = seeds[number]
            if any(seed is not None for seed in following):
                observation = games.reset(following)
        return returns, lengths
    finally:
        games.close()


def _check_finite(what, values, playing, seeds, lengths, *, ahead):
    """Raises ValueError where a number of an episode that is played is not finite.

    Args:
        what: What the values are, for the error.
        values: `[N, ...]`.
        playing: The numbers of the episodes, `[N]`, None where none is played.
        seeds: One per episode.
        lengths: Steps of each episode that have been counted.
        ahead: Steps since then. Step 0 is an episode's first observation.
    """
    for value, number in zip(values, playing, strict=True) if flaw_of(values) else ():
        if number is not None and flaw_of(value):
            raise ValueError(
                f"The {what} is {flaw_of(value)} at step {lengths[number] + ahead} of the episode of seed "
                f"{seeds[number]}."
            )


class _OneByOne:
    """N environments, stepped in turn.

    Args:
        make: A function that makes one.
        num_envs: N.
    """

    def __init__(self, make, num_envs):
        self.num_envs = num_envs
        self.envs: list[Any] = []
        try:
            for _ in range(num_envs):
                self.envs.append(make())
            check_distinct(self.envs)
        except BaseException:
            self.close()
            raise
        self._start = int(self.envs[0].action_space.start)
        space = self.envs[0].observation_space
        # Of this dtype whatever the environments return, as in training.
        self._observation = np.zeros((num_envs, *space.shape), space.dtype)

    def reset(self, seeds):
        """Begins an episode where there is a seed (`[N]`, None elsewhere) and returns the observations, `[N, ...]`."""
        for i, seed in enumerate(seeds):
            if seed is not None:
                self._observation[i] = self.envs[i].reset(seed=seed)[0]
        return self._observation

    def step(self, actions, active):
        """Steps those that are `active`, `[N]` bool, by `actions`, `[N]` integers from 0.

        Returns:
            Observations `[N, ...]`, rewards `[N]`, and where an episode is over `[N]` bool.
        """
        rewards, ended = np.zeros(self.num_envs), np.zeros(self.num_envs, bool)
        for i in np.flatnonzero(active):
            action = int(actions[i]) + self._start
            self._observation[i], rewards[i], terminated, truncated, _ = self.envs[i].step(action)
            ended[i] = terminated or truncated
        return self._observation, rewards, ended

    def close(self):
        """Closes them."""
        for env in self.envs:
            env.close()


class _Together:
    """N environments that their maker steps side by side, as Atari games are; the same as one by one, sooner.

    Args:
        make: What has a method `make_vector(num_envs)`.
        num_envs: N.
    """

    def __init__(self, make, num_envs):
        self.num_envs = num_envs
        self._vector = make.make_vector(num_envs)
        self._start = int(self._vector.single_action_space.start)
        self._over = np.zeros(num_envs, bool)  # where an episode has ended and none has begun

    def reset(self, seeds):
        """As that of `_OneByOne`."""
        mask = np.array([seed is not None for seed in seeds])
        self._over &= ~mask
        return self._vector.reset(seed=list(seeds), options=None if mask.all() else {"reset_mask": mask})[0]

    def step(self, actions, active):
        """As that of `_OneByOne`. What those do that are not active counts for nothing."""
        if self._over.any():  # what has ended must not be stepped on
            self._vector.reset(options={"reset_mask": self._over})
        observation, rewards, terminated, truncated, info = self._vector.step(actions + self._start)
        self._over = ended_of(terminated, truncated, info)
        return observation, rewards * active, self._over.copy()

    def close(self):
        """Closes them."""
        self._vector.close()


def describe(epsilon, episodes, protocol):
    """Returns the sentence that says how episodes were played.

    Args:
        epsilon: The probability of a random action.
        episodes: How many.
        protocol: What the environment says about itself, or None.
    """
    policy = f"epsilon {epsilon:g}" if epsilon else "greedy"
    played = f"{policy}, {episodes} whole episode{'s' if episodes > 1 else ''}"
    return f"{played}; {protocol}" if protocol else played


def summarize(returns, lengths, seeds, *, protocol):
    """Returns the outcome of an evaluation as a dict.

    Returns:
        `return_mean` and `return_std` (over episodes), `returns`, `lengths` (environment steps), `seeds`, and
        `protocol`, a sentence that says how it was played.
    """
    return {
        "return_mean": float(np.mean(returns)),
        "return_std": float(np.std(returns)),
        "returns": returns,
        "lengths": lengths,
        "seeds": list(seeds),
        "protocol": protocol,
    }
