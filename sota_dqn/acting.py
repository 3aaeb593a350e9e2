"""What acts for a trainer: one `Actor` in its own process, or an `ActorPool` of several."""

import math

from sota_dqn.actor import Actor
from sota_dqn.actor_pool import ActorPool
from sota_dqn.choice import Frames
from sota_dqn.environments import Environments
from sota_dqn.mixtures import Selection
from sota_dqn.pace import Pace
from sota_dqn.preprocessing import Preprocessing
from sota_dqn.vectors import NUM_ENVS, closing_on_error, make_vector
from sota_dqn.writer import Writer

__all__ = ["connect", "make_actor", "make_pace"]


def make_actor(actors, *, env, num_envs, vectorization_mode, preprocess, frame_stack, clip_rewards, seed):
    """Returns an `Actor`, whose environments are reset, or an `ActorPool`.

    Args:
        actors: `Actors`, or None for an `Actor`.
        env: As a trainer is given it, an Atari game as `Atari`.
        num_envs: E, environments of each actor; None for 16, or for what a ready environment has.
        vectorization_mode: As in `make_vector`.
        preprocess: As in `Preprocessing`.
        frame_stack: Frames that make one observation of the model; None for no stack.
        clip_rewards: Whether rewards are stored clipped to [-1, 1].
        seed: The run's seed.
    """
    frames = Frames(frame_stack, "reset")
    if actors is not None:
        return ActorPool(
            actors,
            env=env,
            num_envs=NUM_ENVS if num_envs is None else num_envs,
            vectorization_mode=vectorization_mode,
            preprocess=preprocess,
            frames=frames,
            clip_rewards=clip_rewards,
            seed=seed,
        )
    vector = make_vector(env, num_envs=num_envs, mode=vectorization_mode)
    with closing_on_error(env, vector.close):
        environments = Environments(vector, seed=seed)
        preprocess = Preprocessing(preprocess, environments.observation_space)
        actor = Actor(environments, preprocess, frames=frames, discount=None, clip_rewards=clip_rewards)
        actor.start()
    return actor


def make_pace(actors, updates_per_step, updates_per_call, learning_starts):
    """Returns the `Pace`: exactly `updates_per_step`, or what `Actors` are allowed."""
    bounds = (1 / updates_per_step, math.inf) if actors is None else actors.bounds(updates_per_step)
    return Pace(*bounds, updates_per_call=updates_per_call, origin=(learning_starts, 0))


def connect(actor, learner, policy, make_choice, random, *, pace, chunk):
    """Tells an `Actor` or an `ActorPool` where rows go and how actions are chosen.

    Args:
        actor: Which.
        learner: The `Learner`.
        policy: A policy or a `Selection`.
        make_choice: A function from a policy and a generator to a `Choice`.
        random: A dict of the `numpy.random.Generator`s of `"acting"` and `"selecting"`.
        pace: A `Pace`.
        chunk: Steps of all environments between two writes.
    """
    writer = Writer(learner)
    if isinstance(actor, ActorPool):
        actor.connect(learner, writer, policy, random=random, pace=pace)
        return
    selection = policy if isinstance(policy, Selection) else None
    if selection:
        selection.start(actor.num_envs, random["selecting"])
    choice = make_choice(policy, random["acting"])
    actor.connect(writer, choice, selection=selection, steps_per_chunk=chunk)
