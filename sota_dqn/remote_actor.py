"""What an actor process does: it steps environments of its own with a copy of the model, and collects chunks of rows.

How chunks and weights travel is the business of `processes.py` and `ray_actors.py`.
"""

import types
from typing import Any, NamedTuple

import gymnasium
import keras
from keras import ops

from sota_dqn.actor import Actor
from sota_dqn.choice import Choice, Frames
from sota_dqn.environments import Environments
from sota_dqn.mixtures import Selection
from sota_dqn.models import has_convolutions, layers_of
from sota_dqn.preprocessing import Preprocessing
from sota_dqn.priorities import FirstErrors
from sota_dqn.recurrent import Recurrent
from sota_dqn.types import Steps
from sota_dqn.vectors import make_vector

__all__ = ["Chunk", "Specification", "RemoteActor", "pack_model"]

PARTS = keras.initializers.Initializer, keras.regularizers.Regularizer, keras.constraints.Constraint


class Specification(NamedTuple):
    """All that a remote actor is made from."""

    model: tuple  # of `pack_model`
    initial_state: list | None  # of a recurrent model, where it is learned; empty where it is zero
    env: Any
    registered: Any  # the `EnvSpec` of an id, which the user's script may have registered
    num_envs: int  # E, of this actor
    vectorization_mode: str | None
    preprocess: Any
    frame_stack: int | None
    padding: str
    return_to_go: float | None  # the discount of stored returns to go
    clip_rewards: bool
    policy: Any
    acting: Any  # the `numpy.random.Generator` of the policy
    selecting: Any  # and of a `Selection`
    seed: int
    first_stream: int
    num_streams: int  # of all actors
    counts: list  # rows that each stream has produced
    episodes: list  # and episodes that have begun
    updates: int  # that made the weights
    steps_per_chunk: int
    stored_states: list  # the shapes of a recurrent model's states in the replay
    first_errors: dict | None  # the settings of `FirstErrors`


class Chunk(NamedTuple):
    """Rows that an actor has collected, M with padding, and what came with them."""

    streams: Any  # [M] int64, counted from the actor's first
    times: Any  # [M] int64, -1 for padding
    steps: Steps  # [M, ...]
    states: list  # [M, units] each
    td_error: Any  # [M] float32 for first priorities, or ()
    counts: list  # [E] rows that each stream has produced
    episodes: list  # `Episode`s that ended
    begun: list  # [E] episodes that have begun
    returns: list  # (stream, times, returns) of episodes that terminated, where they are stored
    made: int  # environment steps
    updates: int  # that made the weights which acted
    waited: float = 0.0  # seconds before it was asked for


class RemoteActor:
    """An actor with environments and a model of its own.

    Args:
        specification: A `Specification`.
    """

    def __init__(self, specification):
        self.model = unpack_model(*specification.model)
        initial = specification.initial_state
        self.recurrent = None if initial is None else Recurrent(self.model, learned=bool(initial))
        self.variables = [*self.model.variables, *(self.recurrent.initial if self.recurrent else [])]
        for variable, values in zip(self.variables[len(self.model.variables) :], initial or [], strict=True):
            variable.assign(values)
        self.num_envs = specification.num_envs
        self.steps = 0  # of all environments of this actor
        self.updates = specification.updates
        self.state_shapes = specification.stored_states
        if specification.registered is not None:
            gymnasium.registry.setdefault(specification.registered.id, specification.registered)
        vector = make_vector(specification.env, num_envs=self.num_envs, mode=specification.vectorization_mode)
        environments = Environments(vector, seed=specification.seed, first=specification.first_stream)
        environments.episodes[:] = specification.episodes
        self.actor = Actor(
            environments,
            Preprocessing(specification.preprocess, environments.observation_space),
            frames=Frames(specification.frame_stack, specification.padding),
            discount=specification.return_to_go,
            clip_rewards=specification.clip_rewards,
        )
        self.actor.count[:] = specification.counts
        self.actor.start()
        self._connect(specification)
        self._rows: tuple = ()
        self._returns: list[tuple] = []
        self._error: Exception | None = None

    def _connect(self, specification):
        policy = specification.policy
        for part in policy.parts if isinstance(policy, Selection) else [policy]:
            if hasattr(part, "streams"):
                part.streams = (specification.first_stream, specification.num_streams)
        selection = policy if isinstance(policy, Selection) else None
        if selection:
            selection.start(self.num_envs, specification.selecting)
        choice = Choice(
            self.model,
            policy,
            random=specification.acting,
            convolutions=has_convolutions(self.model),
            stacked=specification.frame_stack is not None,
            recurrent=self.recurrent,
            clip_rewards=specification.clip_rewards,
        )
        errors = specification.first_errors
        self.actor.connect(
            self,
            choice,
            selection=selection,
            steps_per_chunk=specification.steps_per_chunk,
            first_errors=None if errors is None else FirstErrors(self.num_envs, **errors),
        )

    def load(self, weights, updates):
        """Takes over weights.

        Args:
            weights: The values of `variables`, in their order.
            updates: The number of updates that made them.
        """
        for variable, values in zip(self.variables, weights, strict=True):
            variable.assign(values)
        self.updates = updates

    def collect(self, most, others, *, stopping=lambda: False):
        """Steps its environments and returns a `Chunk`.

        Args:
            most: Steps of all environments; there are fewer where the chunk is full before.
            others: Environment steps made by others so far, and by this actor in earlier lives, for schedules.
            stopping: A function that says whether to leave it at what there is.

        Raises:
            Exception: Whatever the environments raise, once the steps before it have been returned.
        """
        if self._error:
            raise self._error
        made, episodes = 0, []
        try:
            while made < most and not (made and (self.actor.full or stopping())):
                actions = ops.convert_to_numpy(self.actor.choose(self.steps + others))
                episodes += self.actor.step(actions)
                made += 1
                self.steps += self.num_envs
        except Exception as error:
            if not made:
                raise
            self._error = error
        self.actor.flush()
        returns, self._returns = self._returns, []
        streams, times, steps, states, td_error = self._rows
        return Chunk(
            streams=streams,
            times=times,
            steps=steps,
            states=states,
            td_error=td_error,
            counts=self.actor.count.tolist(),
            episodes=episodes,
            begun=self.actor.environments.episodes.tolist(),
            returns=returns,
            made=made * self.num_envs,
            updates=self.updates,
        )

    def close(self):
        """Closes the environments."""
        self.actor.close()

    def write(self, streams, times, steps, count, states, td_error):
        """Takes the rows of the actor, as a `Writer` does."""
        self._rows = (streams, times, steps, states, td_error)

    def write_returns(self, stream, times, returns, count):
        """Takes the returns to go of an episode, as a `Writer` does."""
        self._returns.append((stream, times, returns))


def pack_model(model):
    """Returns a model's configuration, the values of its variables, and a dict of what is not Keras's own in it."""
    values = [keras.ops.convert_to_numpy(variable) for variable in model.variables]
    configuration = keras.saving.serialize_keras_object(model)
    configuration.pop("compile_config", None)  # an actor does not train
    own = {part for part in _parts(model) if not part.__module__.startswith("keras.")}
    registered = {keras.saving.get_registered_name(part): part for part in own}
    named = {part.__name__: part for part in own}
    return configuration, values, {**keras.saving.get_custom_objects(), **named, **registered}


def _parts(model):
    """Yields the classes and functions that a model is made of: layers, activations, initializers and the like."""
    for layer in [model, *layers_of(model)]:
        yield type(layer)
        for value in vars(layer).values():
            if isinstance(value, types.FunctionType):
                yield value
            elif isinstance(value, PARTS):
                yield type(value)


def unpack_model(configuration, values, custom_objects):
    """Returns the model of `pack_model`."""
    model = keras.saving.deserialize_keras_object(configuration, custom_objects=custom_objects, safe_mode=True)
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)
    return model
