"""Playing whole episodes without learning, for scores and films."""

import numpy as np

from sota_dqn.checks import check_distinct

__all__ = ["describe", "play_episodes", "summarize"]

MOST_ENVIRONMENTS = 32  # stepped side by side; more episodes than that take turns


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
