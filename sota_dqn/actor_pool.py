"""Actors in processes of their own: `Actors`, their settings, and `ActorPool`, which keeps them busy.

Actors and learner run at their own paces, held within two bounds on the environment steps per update: actors are asked
for no more steps beyond the upper one, and the learner makes no update below the lower one. After Horgan et al. 2018
(Ape-X), whose actors compute first priorities, and Cassirer et al. 2021 (Reverb), whose rate limiter has such bounds.

What an actor does is in `remote_actor.py`, how it is reached in `processes.py`, or `ray_actors.py` for other machines.
"""

import math
import time
from typing import Any

import gymnasium
import numpy as np
from keras import ops

from sota_dqn.checks import check_count, check_count_or_none, is_integer, is_number
from sota_dqn.environments import Environments
from sota_dqn.preprocessing import Preprocessing
from sota_dqn.processes import SLOTS, Died, Processes, chunk_layout
from sota_dqn.remote_actor import Specification, pack_model
from sota_dqn.types import recorded
from sota_dqn.vectors import is_vector, make_vector

__all__ = ["ActorPool", "Actors"]

ROWS_PER_CHUNK = 128  # about, where the user names no number of steps
WAIT = 0.1  # seconds for which the learner waits for chunks before it looks at anything else
PROVEN = 100  # chunks after which an actor's death is its first again


@recorded
class Actors:
    """Actor processes on this machine.

    Args:
        number: N, at least 1. Each has `num_envs` environments and a copy of the policy on the CPU.
        steps_per_update: The least and the most environment steps per update, over all actors, counted from
            `learning_starts` on; None for half and twice what `updates_per_step` says. `(0, inf)` lets both sides run
            as fast as they can. At the upper bound a chunk of every actor may be on its way beyond it.
        weights_every: Updates between two sets of weights for the actors, at least: an actor takes one set over before
            it is offered the next.
        steps_per_chunk: Steps of all environments of an actor that travel together; None for about 128 rows.
        restarts: How often in a row an actor that dies is started again, before training stops. A row ends with 100
            chunks that the actor delivers.
    """

    def __init__(self, number, *, steps_per_update=None, weights_every=100, steps_per_chunk=None, restarts=3):
        check_count(1, number=number, weights_every=weights_every)
        check_count(0, restarts=restarts)
        check_count_or_none(1, steps_per_chunk=steps_per_chunk)
        if steps_per_update is not None:
            two = isinstance(steps_per_update, (tuple, list)) and len(steps_per_update) == 2
            two = two and all(is_number(bound) for bound in steps_per_update)
            if not two or not (0 <= steps_per_update[0] <= steps_per_update[1] > 0 and steps_per_update[0] < math.inf):
                raise ValueError(
                    "Argument `steps_per_update` must be two numbers, the first finite, at least 0, at most the other. "
                    f"Received: steps_per_update={steps_per_update}"
                )
        self.number = number
        self.steps_per_update = steps_per_update
        self.weights_every = weights_every
        self.steps_per_chunk = steps_per_chunk
        self.restarts = restarts

    def bounds(self, updates_per_step):
        """Returns the least and the most environment steps per update."""
        if self.steps_per_update is not None:
            return self.steps_per_update
        return 0.5 / updates_per_step, 2.0 / updates_per_step

    def connect(self, layout, weights):
        """Returns the way to the actors; see `Processes`, whose methods it must have."""
        return Processes(self.number, layout, weights)


def as_actors(actors):
    """Returns `Actors` for a number of them, and None for 0.

    Raises:
        ValueError: If the number is negative.
        TypeError: If it is neither a number nor `Actors`.
    """
    if isinstance(actors, Actors):
        return actors
    if not is_integer(actors):
        raise TypeError(f"Argument `actors` must be an integer or `Actors`. Received: actors={actors!r}")
    check_count(0, actors=actors)
    return Actors(int(actors)) if actors else None


class ActorPool:
    """N actors, in the place of the one `Actor` of a trainer without actor processes.

    Args:
        settings: `Actors`.
        env: What the actors make their environments from: an id, a callable, or what makes its own vector.
        num_envs: E, environments of each actor.
        vectorization_mode: As in `make_vector`.
        preprocess: As in `Preprocessing`.
        frames: A `Frames`.
        clip_rewards: Whether rewards are stored clipped to [-1, 1].
        seed: The run's seed.
    """

    def __init__(self, settings, *, env, num_envs, vectorization_mode, preprocess, frames, clip_rewards, seed):
        if not hasattr(env, "make_vector") and (is_vector(env) or not (isinstance(env, str) or callable(env))):
            raise ValueError(
                "Actor processes make environments of their own: pass an id or a callable that makes one. "
                f"Received: env={env!r}, actors={settings.number}"
            )
        if vectorization_mode == "async":
            raise ValueError(
                "Actors are processes already, in which environments are stepped one after the other or natively: "
                "more actors take the place of vectorization_mode='async'. "
                f"Received: actors={settings.number}, vectorization_mode='async'"
            )
        self.settings = settings
        self.frames = frames
        self.clip_rewards = clip_rewards
        self.discount = None
        self.first_errors: dict | None = None
        self._made_from = {
            "env": env,
            "num_envs": num_envs,
            "vectorization_mode": vectorization_mode,
            "preprocess": preprocess,
            "frame_stack": frames.frame_stack,
            "padding": frames.padding,
            "clip_rewards": clip_rewards,
            "seed": seed,
        }
        # One environment tells what the others are like.
        vector = make_vector(env, num_envs=1, mode=vectorization_mode)
        try:
            self.environments = Environments(vector, seed=seed)
            self.preprocess = Preprocessing(preprocess, self.environments.observation_space)
            self.stacked = frames(self.preprocess(self.environments.reset()), np.ones(1, bool))
        finally:
            vector.close()
        self.num_envs = settings.number * num_envs  # of all actors
        self.share = num_envs
        self.count = np.zeros(self.num_envs, "int64")
        self.steps_per_chunk = settings.steps_per_chunk or max(1, ROWS_PER_CHUNK // num_envs)
        self.steps = 0  # taken in so far
        self.last_step = math.inf  # the total of steps beyond which no more are asked for
        self.waited = {"learner": 0.0, "actors": 0.0}  # seconds, since the last logs
        self._lag = (0.0, 0)  # its sum over environment steps, and their number
        self._begun = np.zeros(self.num_envs, "int64")  # episodes
        self._lives = [0] * settings.number
        self._failures = [0] * settings.number  # deaths in a row
        self._delivered = [0] * settings.number  # chunks in this life
        self._made = [0] * settings.number  # environment steps in this life
        self._asked = [0] * settings.number  # when each was asked last, as a running number
        self._outstanding: list[list[int]] = [[] for _ in range(settings.number)]  # steps asked for, chunk by chunk
        self._looked = 0  # updates when it was last seen whether an actor wants weights
        self._copies: tuple | None = None
        self._dead: list[tuple] = []  # actors and their deaths, to be dealt with
        self._transport: Any = None

    @property
    def steps_between_draws(self):
        """Steps of one stream that may be written between two updates, at most."""
        return self.steps_per_chunk * SLOTS

    @property
    def processes(self):
        """The numbers by which the operating system knows the actors that run on this machine."""
        return [] if self._transport is None else self._transport.processes

    def connect(self, learner, writer, policy, *, random, pace):
        """Tells where rows go, and by what the actors choose their actions.

        Args:
            learner: The `Learner` whose model acts.
            writer: A `Writer`.
            policy: A policy or a `Selection`.
            random: A dict of the `numpy.random.Generator`s of `"acting"` and `"selecting"`.
            pace: A `Pace`.
        """
        self.learner = learner
        self.writer = writer
        self.policy = policy
        self.random = random
        self.pace = pace

    def advance(self, step, learn, clock):
        """Takes in what has arrived, learns, and sees to it that the actors have something to do.

        Args:
            step: Environment steps taken in so far.
            learn: A function that hands the updates that are due to the device, and returns how many.
            clock: A `Clock`.

        Returns:
            How many environment steps have come in, and the `Episode`s that ended in them.

        Raises:
            RuntimeError: If an actor has died too often.
        """
        self.steps = step
        with clock("environment"):
            self._open() if self._transport is None else self._revive()
        self._ask(self.last_step)  # before learning, which takes a while
        learned = learn()
        self._exchange_weights()
        since = time.perf_counter()
        with clock("environment"):
            messages = self._transport.poll(0 if learned else WAIT)
        if not learned:
            self.waited["learner"] += time.perf_counter() - since
        with clock("insert"):
            return self._take(messages)

    def logs(self):
        """Returns what has happened since the last call: `lag`, the updates made since those whose weights acted, and
        the seconds that the learner and an actor have waited for each other."""
        steps = max(self._lag[1], 1)
        logs = {
            "lag": self._lag[0] / steps if self._lag[1] else math.nan,
            "learner_waited": self.waited["learner"],
            "actors_waited": self.waited["actors"] / self.settings.number,
        }
        self._lag, self.waited = (0.0, 0), dict.fromkeys(self.waited, 0.0)
        return logs

    def flush(self):
        """Takes in nothing: what has not arrived yet is not part of a checkpoint."""

    def arrays(self):
        """Returns what `restore` needs besides `state`: no arrays."""
        return {}

    def state(self):
        """Returns what `restore` needs."""
        return {"count": self.count.tolist(), "episodes": self._begun.tolist(), "lives": list(self._lives)}

    def restore(self, state, arrays):
        """Goes on with the streams of a checkpoint, of a pool or an `Actor`; episodes begin afresh.

        Returns:
            True: that is what actor processes do.
        """
        self.count = np.array(state["count"], "int64")
        begun = state["environments"] if "environments" in state else state
        self._begun = np.array(begun["episodes"], "int64")
        self._lives = [*state.get("lives", []), *[1] * self.settings.number][: self.settings.number]
        return True

    def close(self):
        """Ends the actors."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    def _open(self):
        """Starts all actors."""
        weights = [(tuple(variable.shape), variable.dtype) for variable in self.learner.model_variables]
        rows = self.share * (self.steps_per_chunk + 1)
        observation = self.preprocess.shape, self.preprocess.dtype
        states, errors = self.writer.state_shapes, self.first_errors is not None
        layout = chunk_layout(observation, states, rows, errors=errors)
        self._transport = self.settings.connect(layout, weights)
        self._looked, self._copies = self.learner.updates, None
        self._dead.clear()
        try:
            for actor in range(self.settings.number):
                self._start(actor)
        except BaseException:
            self.close()
            raise

    def _start(self, actor):
        """Starts an actor, also in the place of one that has died, whose episodes end where they were."""
        streams = np.arange(actor * self.share, (actor + 1) * self.share)
        if self.count[streams].any():
            self.writer.cut(streams, self.count)
        acting, selecting = self._generators(actor)
        recurrent, env = self.learner.recurrent, self._made_from["env"]
        self._lives[actor] += 1
        self._outstanding[actor] = []
        self._delivered[actor] = self._made[actor] = 0
        self._transport.start(
            actor,
            Specification(
                **self._made_from,
                registered=gymnasium.spec(env) if isinstance(env, str) else None,
                model=pack_model(self.learner.model),
                initial_state=None if recurrent is None else [ops.convert_to_numpy(x) for x in recurrent.initial],
                return_to_go=self.discount,
                policy=self.policy,
                acting=acting,
                selecting=selecting,
                first_stream=int(streams[0]),
                num_streams=self.num_envs,
                counts=self.count[streams].tolist(),
                episodes=self._begun[streams].tolist(),
                updates=self.learner.updates,
                steps_per_chunk=self.steps_per_chunk,
                stored_states=self.writer.state_shapes,
                first_errors=self.first_errors,
            ),
        )

    def _generators(self, actor):
        """Returns the generators of an actor's life; those of the first are what a trainer without processes has."""
        if actor == 0 and self._lives[0] == 0:
            return self.random["acting"], self.random["selecting"]
        entropy = (self._made_from["seed"], actor, self._lives[actor])
        return [np.random.default_rng([kind, *entropy]) for kind in (1, 2)]

    def _take(self, messages):
        """Writes chunks to the replay, and takes note of who has died.

        Returns:
            How many environment steps have come in, and the `Episode`s that ended in them.
        """
        made, episodes = 0, []
        for actor, message in messages:
            if isinstance(message, Died):
                self._dead.append((actor, message))
                continue
            self._outstanding[actor].pop(0)
            self._delivered[actor] += 1
            if self._delivered[actor] == PROVEN:
                self._failures[actor] = 0
            first = actor * self.share
            mine = slice(first, first + self.share)
            self.count[mine], self._begun[mine] = message.counts, message.begun
            rows = (message.streams + first, message.times, message.steps)
            self.writer.write(*rows, self.count, message.states, message.td_error)
            for stream, times, returns in message.returns:
                self.writer.write_returns(stream + first, times, returns, int(self.count[stream + first]))
            episodes += [episode._replace(stream=episode.stream + first) for episode in message.episodes]
            made += message.made
            self._made[actor] += message.made
            lag = self.learner.updates - message.updates
            self._lag = (self._lag[0] + lag * message.made, self._lag[1] + message.made)
            self.waited["actors"] += message.waited
        return made, episodes

    def _revive(self):
        """Starts actors that have died again, and gives up where that has not helped before."""
        while self._dead:
            actor, death = self._dead.pop(0)
            self._failures[actor] += 1
            times = self._failures[actor]
            if times > self.settings.restarts:
                self._failures = [0] * self.settings.number
                self.close()
                raise RuntimeError(f"Actor {actor} has died {times} times in a row. {death.reason}")
            print(f"Actor {actor} has died and is started again. {death.reason}")
            self._start(actor)

    def _exchange_weights(self):
        """Offers the actors a copy of the weights that the device was asked for on an earlier call."""
        if self._copies is not None:
            updates, copies = self._copies
            self._transport.publish([ops.convert_to_numpy(copy) for copy in copies], updates)
            self._copies = None
        if self.learner.updates - self._looked >= self.settings.weights_every:
            self._looked = self.learner.updates
            if self._transport.wants_weights():  # copies cost the learner time
                self._copies = (self._looked, [ops.copy(variable.value) for variable in self.learner.model_variables])

    def _ask(self, last_step):
        """Asks the actors for as many chunks as the pace allows."""
        size = self.share * self.steps_per_chunk
        limit = min(last_step, self.pace.allowed(self.learner.updates) + self.settings.number * size)
        while True:
            sure = [a for a in range(self.settings.number) if self._delivered[a] or self._transport.starts_at_once]
            room = limit - self.steps - sum(sum(self._outstanding[a]) for a in sure)
            free = [
                a
                for a, asked in enumerate(self._outstanding)
                if len(asked) < (self._transport.slots if a in sure else 1)
            ]
            if not free or room <= 0 or (room < size and limit < last_step):
                return
            actor = min(free, key=lambda one: (len(self._outstanding[one]), self._asked[one]))
            steps = math.ceil(min(room, size) / self.share)
            self._transport.collect(actor, steps, self.steps - self._made[actor])
            self._outstanding[actor].append(steps * self.share)
            self._asked[actor] = max(self._asked) + 1
