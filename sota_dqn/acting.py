"""What acts for a trainer: one `Actor` in its own process or several by turns, or an `ActorPool` of processes."""

import contextlib
import math

from sota_dqn import backend
from sota_dqn.actor import Actor
from sota_dqn.actor_pool import ActorPool
from sota_dqn.choice import Frames
from sota_dqn.environments import Environments
from sota_dqn.mixtures import Selection
from sota_dqn.pace import Pace
from sota_dqn.preprocessing import Preprocessing
from sota_dqn.turns import Turns
from sota_dqn.vectors import NUM_ENVS, closing_on_error, is_vector, make_vector
from sota_dqn.writer import Writer

__all__ = ["connect", "good_turns", "make_actor", "make_pace"]

WORTH_TURNS = 64  # games from which on they take turns


def good_turns(env, num_envs, *, turns, actors, policy):
    """Returns into how many groups the environments are divided, 2 where that is worth it and the user leaves it open.

    Args:
        env: As a trainer is given it, an Atari game as `Atari`.
        num_envs: E, as the trainer is given it.
        turns: Groups as the user asks for them, or None.
        actors: `Actors`, or None.
        policy: A policy or a `Selection`.

    Raises:
        ValueError: If such groups cannot be.
    """
    games = NUM_ENVS if num_envs is None else num_envs
    mixed = isinstance(policy, Selection)
    if turns is None:
        worth = hasattr(env, "make_vector") and games >= WORTH_TURNS and games % 2 == 0
        return 2 if worth and actors is None and not mixed and backend.device_kind() != "cpu" else 1
    if turns == 1:
        return turns
    if actors is not None or mixed:
        what = "actor processes" if mixed is False else "a mixture of policies"
        raise ValueError(f"Environments cannot take turns with {what}: leave `turns` out. Received: turns={turns}")
    if is_vector(env) or not (isinstance(env, str) or callable(env)):
        raise ValueError(
            "Environments that take turns are made in groups: pass an id or a callable that makes one. Received: "
            f"env={env!r}, turns={turns}"
        )
    if games % turns:
        raise ValueError(f"Argument `turns` must divide num_envs={games}. Received: turns={turns}")
    return turns


def make_actor(actors, *, env, num_envs, turns, vectorization_mode, preprocess, frame_stack, clip_rewards, seed):
    """Returns an `Actor` or `Turns`, whose environments are reset, or an `ActorPool`.

    Args:
        actors: `Actors`, or None for an `Actor`.
        env: As a trainer is given it, an Atari game as `Atari`.
        num_envs: E, environments of each actor; None for 16, or for what a ready environment has.
        turns: Groups of them that take turns.
        vectorization_mode: As in `make_vector`.
        preprocess: As in `Preprocessing`.
        frame_stack: Frames that make one observation of the model; None for no stack.
        clip_rewards: Whether rewards are stored clipped to [-1, 1].
        seed: The run's seed.
    """
    if actors is not None:
        return ActorPool(
            actors,
            env=env,
            num_envs=NUM_ENVS if num_envs is None else num_envs,
            vectorization_mode=vectorization_mode,
            preprocess=preprocess,
            frames=Frames(frame_stack, "reset"),
            clip_rewards=clip_rewards,
            seed=seed,
        )
    share = num_envs if turns == 1 else (NUM_ENVS if num_envs is None else num_envs) // turns
    made: list[Actor] = []
    with contextlib.ExitStack() as errors:
        for _ in range(turns):
            vector = make_vector(env, num_envs=share, mode=vectorization_mode)
            errors.enter_context(closing_on_error(env, vector.close))
            environments = Environments(vector, seed=seed, first=len(made) * vector.num_envs)
            if turns > 1 and not environments.concurrent:
                raise ValueError(
                    "Only environments that are stepped by others than this thread can take turns: Atari games, or any "
                    f"with vectorization_mode='async'. Received: turns={turns}, env={env!r}"
                )
            processing = Preprocessing(preprocess, environments.observation_space)
            frames = Frames(frame_stack, "reset")
            made.append(Actor(environments, processing, frames=frames, discount=None, clip_rewards=clip_rewards))
            made[-1].start()
    return made[0] if turns == 1 else Turns(made)


def make_pace(actors, updates_per_step, updates_per_call, learning_starts):
    """Returns the `Pace`: exactly `updates_per_step`, or what `Actors` are allowed."""
    bounds = (1 / updates_per_step, math.inf) if actors is None else actors.bounds(updates_per_step)
    return Pace(*bounds, updates_per_call=updates_per_call, origin=(learning_starts, 0))


def connect(actor, learner, policy, make_choice, random, *, pace, chunk):
    """Tells an `Actor` or an `ActorPool` where rows go and how actions are chosen.

    Args:
        actor: Which; or `Turns`.
        learner: The `Learner`.
        policy: A policy or a `Selection`.
        make_choice: A function from a policy and a generator to a `Choice`.
        random: A dict of the `numpy.random.Generator`s of `"acting"` and `"selecting"`.
        pace: A `Pace`.
        chunk: Steps of all environments between two writes.
    """
    if isinstance(actor, ActorPool):
        actor.connect(learner, Writer(learner), policy, random=random, pace=pace)
        return
    if isinstance(actor, Turns):
        actor.connect(learner, make_choice(policy, random["acting"]), steps_per_chunk=chunk)
        return
    selection = policy if isinstance(policy, Selection) else None
    if selection:
        selection.start(actor.num_envs, random["selecting"])
    choice = make_choice(policy, random["acting"])
    actor.connect(Writer(learner), choice, selection=selection, steps_per_chunk=chunk)
