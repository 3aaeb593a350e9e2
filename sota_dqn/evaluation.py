"""Playing whole episodes without learning, for scores and films, and the environments in which they are played."""

import gymnasium
import numpy as np
from gymnasium import spaces

from sota_dqn.checks import check_distinct
from sota_dqn.environments import envs_of, is_vector, make_factory
from sota_dqn.preprocessing import Preprocessing
from sota_dqn.spaces import describe_space, is_supported

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
        make: A function that makes one environment.
        preprocess: A `Preprocessing`.
        frames: A fresh `Frames`.
        seeds: One per episode.
        on_step: Called with (env, return, length) after each environment's first reset and after each step, for films;
            not after the resets of episodes that follow.
        max_steps: Environment steps after which an episode is left; None for whole episodes.

    Returns:
        The returns and the lengths, two lists in the order of the seeds.
    """
    waiting = list(range(len(seeds)))[::-1]  # numbers of episodes
    most = 1 if getattr(make, "single", False) else MOST_ENVIRONMENTS
    envs = [make() for _ in range(min(len(seeds), most))]
    try:
        check_distinct(envs)
        returns, lengths = [0.0] * len(seeds), [0] * len(seeds)
        playing: list[int | None] = [waiting.pop() for _ in envs]
        start = int(envs[0].action_space.start)
        space = envs[0].observation_space
        # Of this dtype whatever the environments return, as in training.
        observation = np.zeros((len(envs), *space.shape), space.dtype)
        for i, env in enumerate(envs):
            observation[i] = env.reset(seed=seeds[i])[0]
        begun, rewards = np.ones(len(envs), bool), np.zeros(len(envs))
        if on_step:
            for env in envs:
                on_step(env, 0.0, 0)
        while any(number is not None for number in playing):
            actions = np.asarray(choose(frames(preprocess(observation), begun), begun=begun, rewards=rewards))
            begun, rewards = np.zeros(len(envs), bool), np.zeros(len(envs))
            for i, (env, number) in enumerate(zip(envs, playing, strict=True)):
                if number is None:
                    continue
                observation[i], reward, terminated, truncated, _ = env.step(int(actions[i]) + start)
                rewards[i] = reward
                returns[number] += float(reward)
                lengths[number] += 1
                if on_step:
                    on_step(env, returns[number], lengths[number])
                if terminated or truncated or lengths[number] == max_steps:
                    begun[i] = True
                    playing[i] = following = waiting.pop() if waiting else None
                    if following is not None:
                        observation[i] = env.reset(seed=seeds[following])[0]
        return returns, lengths
    finally:
        for env in envs:
            env.close()


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
