"""What turns stored rows into a better model: one compiled program for new rows, one for K updates in a row.

`Learner` is abstract. An algorithm is a subclass with one method, `update`, that reads as the algorithm box of its
paper.
"""

import abc
import contextlib
from typing import Any

import keras
import numpy as np
from keras import ops

from sota_dqn import backend
from sota_dqn.models import check_moving_average, has_convolutions, model_inputs, noise_of, previous_inputs

__all__ = ["Learner"]

AVERAGE_EVERY = 8  # updates between two additions to the average: each reads and writes all weights
LEAST_SHARE = 2.0**-16  # of new weights in the average: float32 loses what is added in smaller portions


class Learner(abc.ABC):
    """A model, its target model, its optimizer, and the replay that it learns from.

    Args:
        model: The user's Keras model, `[B, *O]` to `[B, A]`.
        optimizer: A Keras optimizer.
        replay: A built `Replay`.
        target_update: In (0, 1): the part of the model that is blended into the target model after every update. An
            integer from 1 on: the updates between two copies. None: there is no target model, the model's own values
            stand in.
        batch_size: B, windows in one update.
        updates_per_call: K, updates in one call of the compiled program.
        random: The `numpy.random.Generator` that draws for the sampler.
        average: In (0, 1): the share of the updates so far over which the weights are averaged that `settle` shows.
            None: it shows the last ones.
        recurrent: The `Recurrent` of a recurrent model, whose learned state is trained and copied with the model.
    """

    metrics = ("loss", "q", "td_error")  # what `update` returns, float32 scalars

    def __init__(
        self,
        model,
        optimizer,
        replay,
        *,
        target_update,
        batch_size,
        updates_per_call,
        random,
        average=None,
        recurrent=None,
    ):
        self.model = model
        self.optimizer = optimizer
        self.replay = replay
        self.target_update = target_update
        self.average = average
        self.batch_size = batch_size
        self.updates_per_call = updates_per_call
        self.random = random
        self.recurrent = recurrent
        self.updates = 0
        initial = recurrent.initial if recurrent else []
        self.model_variables = [*model.variables, *initial]  # what the target model has too
        self.trainable_variables = [*model.trainable_variables, *initial]
        self.target_variables = []
        if target_update is not None:
            # Not in half precision, which loses the small part of the model that is blended in.
            self.target_variables = [_copy(variable, "target", least="float32") for variable in self.model_variables]
        floating = [variable for variable in self.model_variables if keras.backend.is_float_dtype(variable.dtype)]
        self._averaged = [] if average is None else floating
        self.average_variables = [_copy(variable, "average", least="float32") for variable in self._averaged]
        self._trained: Any = None  # while the averages are in the model: what is trained
        self._shown: list = []  # and the arrays that the model was given
        if not optimizer.built:
            optimizer.build(self.trainable_variables)
        _check_optimizer(optimizer, self.trainable_variables)
        self._in_turn = updates_per_call < AVERAGE_EVERY  # not every call adds to the average, but a program of its own
        trained = [*self.model_variables, *optimizer.variables, *self.target_variables]
        if not self._in_turn:
            trained += self.average_variables
        written = {id(variable) for variable in [*trained, *replay.sampler.variables]}
        stored = [variable for variable in replay.variables if id(variable) not in written]
        plan = backend.plan(convolutions=has_convolutions(model), host_rows=replay.on_host)
        self.program = backend.Program(stored, [*trained, *replay.sampler.variables], plan)
        self._learn = self.program.compile(self._updates)
        writing = backend.Program([], replay.variables, backend.WRITING)
        self._add = writing.compile(replay.add)
        self._set_returns = writing.compile(replay.set_returns)
        self._cut = writing.compile(replay.cut)
        averaging = backend.Program(self._averaged, self.average_variables, backend.WRITING)
        self._add_to_average = averaging.compile(self._blend)

    @abc.abstractmethod
    def update(self, uniform, step, number):
        """Makes one update inside the compiled program.

        Args:
            uniform: `[B]` random numbers in [0, 1) for the sampler.
            step: `[]` float32, environment steps so far.
            number: `[]` int32, counts this update, from 1, and anew after every copy of the target model.

        Returns:
            A dict of `metrics`.
        """

    @property
    def variables(self):
        """All variables whose values make up the state of learning, the replay's excepted."""
        return [*self.model_variables, *self.optimizer.variables, *self.target_variables, *self.average_variables]

    def add(self, rows, steps, count, states=(), td_error=()):
        """Writes a chunk of rows to the replay; see `Replay.add`."""
        self._add(rows, steps, count, states, td_error)

    def set_returns(self, rows, returns):
        """Writes returns to go; see `Replay.set_returns`."""
        self._set_returns(rows, returns)

    def cut(self, rows):
        """Ends episodes in the middle; see `Replay.cut`."""
        self._cut(rows)

    def learn(self, step):
        """Makes K updates in one compiled call, and returns before the device is done with them.

        The average goes on as well: after t updates new weights count for `1 / (average * t)`, the ones before them for
        the rest, which to the first order is the power function of Karras et al., 2024, of the exponent
        `1 / average - 1`. Updates are taken 8 at a time, or K, or so many that float32 sees what they add.

        Args:
            step: Environment steps so far.

        Returns:
            A dict of `metrics`, each `[K]`, still on the device.
        """
        times = self.updates_per_call
        uniform = self.random.random((times, self.batch_size), dtype="float32")
        period = self.target_update if self.target_update is not None and self.target_update >= 1 else 2**31 - 1
        numbers = (np.arange(self.updates, self.updates + times) % period + 1).astype("int32")
        every = AVERAGE_EVERY
        if self._averaged:
            every = max(every, round(LEAST_SHARE * self.average * self.updates))
        due = self.updates // every < (self.updates + times) // every
        self.updates += times
        part = min(1.0, max(times, every) / (self.average * self.updates)) if self._averaged and due else 0.0
        part = np.asarray(part, "float32")
        learned = self._learn(uniform, np.full(times, step, "float32"), numbers, part)
        if self._in_turn and due and self._averaged:
            self._add_to_average(part)
        return learned

    @contextlib.contextmanager
    def training(self):
        """Has the trained weights in the model while the block runs, and `settle`s it afterwards."""
        self._take_up()
        self._give_back()
        try:
            yield
        finally:
            self.settle()

    def settle(self):
        """Gives the model the average of its weights, and keeps those that are trained.

        One snapshot wavers from update to update, an average less (Polyak and Juditsky, 1992). Its span is a share of
        the training so far: new weights soon count while everything changes, and the longer it lasts, the calmer it is.
        It is what is evaluated and saved. Weights that a user sets then are trained from there on. Without an average
        the model is left alone.
        """
        self._trained = [ops.copy(variable.value) for variable in self._averaged]
        pairs = zip(self.average_variables, self._averaged, strict=True)
        self._shown = [ops.copy(ops.cast(average.value, variable.dtype)) for average, variable in pairs]
        _assign(self._averaged, self._shown)

    @contextlib.contextmanager
    def settled(self):
        """Has the average in the model while the block runs, also in the middle of `training`."""
        self._take_up()
        if self._trained is not None:
            yield
            return
        self.settle()
        try:
            yield
        finally:
            self._give_back()

    def trained(self):
        """Returns what is trained, in the order of `model_variables`: arrays on the host, or variables that hold it."""
        self._take_up()
        kept = dict(zip(map(id, self._averaged), map(ops.convert_to_numpy, self._trained or ()), strict=False))
        return [kept.get(id(variable), variable) for variable in self.model_variables]

    def compilations(self):
        """Returns how often the update has been compiled: 1 after the first `learn`, and ever after."""
        return self._learn.compilations()

    def observe(self, rows, distance=0):
        """Returns what the model sees `distance` rows after `rows` (`[B]`): the observations, `[B, *O]`, or with them
        what it asks for of the rows before those."""
        observations = self.replay.observe(rows, distance)
        if not previous_inputs(self.model):
            return observations
        storage = self.replay.storage
        action, reward, begun = storage.previous(storage.shift(rows, distance))
        return model_inputs(self.model, observations, action=action, reward=reward, begun=begun)

    def values(self, observations, *, training=False):
        """Returns the model's values of what it sees, `[B, *O]` to `[B, A]`, float32 whatever it computes in."""
        return ops.cast(self.model(observations, training=training), "float32")

    def target_values(self, observations):
        """Returns the target model's values, `[B, *O]` to `[B, A]`; the model's own where there is no target model."""
        return self.judged(lambda: self.values(observations))

    def judged(self, function):
        """Returns what `function()` gives where the target model's weights stand in for the model's.

        It must read no other variables: what they hold would be taken for a constant. Layers that draw go on where they
        were, so that the two models draw one after the other.
        """
        if self.target_update is None:
            return function()
        noise = noise_of(self.model)
        pairs = zip(self.target_variables, self.model_variables, strict=True)
        targets = [ops.cast(target.value, variable.dtype) for target, variable in pairs]
        mapping = [*zip(self.model_variables, targets, strict=True), *((seed, seed.value) for seed in noise)]
        # Not `model.stateless_call`, which skips what calling a model does: a `call` need not take `training`.
        with keras.StatelessScope(mapping) as scope:
            found = function()
        for seed in noise:
            seed.assign(scope.get_current_value(seed))
        return found

    def update_target(self, number):
        """Blends or copies the model into the target model after update `number`."""
        if self.target_update is None:
            return
        part = self.target_update
        if part >= 1:
            part = ops.cast(ops.equal(number % part, 0), "float32")
        for variable, target in zip(self.model_variables, self.target_variables, strict=True):
            if keras.backend.is_float_dtype(variable.dtype):
                share, value = (ops.cast(x, target.dtype) for x in (part, variable.value))
                target.assign(share * value + (1.0 - share) * target.value)  # exact where the share is 0 or 1

    def _give_back(self):
        """Puts what is trained into the model, if it is not there already."""
        if self._trained is not None:
            _assign(self._averaged, self._trained)
            self._trained = None

    def _take_up(self):
        """Has the target model and the average begin where a user has set the weights, and trains these."""
        changed = self._trained is not None and not all(map(_holds, self._averaged, self._shown))
        if changed or not self.updates:
            _assign(self.average_variables, [ops.copy(variable.value) for variable in self._averaged])
            if self.target_update is not None:
                _assign(self.target_variables, [ops.copy(variable.value) for variable in self.model_variables])
        if changed:
            self.settle()

    def _blend(self, part):
        for variable, average in zip(self._averaged, self.average_variables, strict=True):
            share, value = (ops.cast(x, average.dtype) for x in (part, variable.value))
            average.assign(share * value + (1.0 - share) * average.value)

    def _updates(self, uniform, step, number, part):
        metrics = self.program.repeat(self.update, (uniform, step, number), self.metrics)
        if not self._in_turn:
            self._blend(part)
        return metrics


def _check_optimizer(optimizer, variables):
    """Raises ValueError where a built optimizer is another model's, as far as it tells: Keras keeps that private."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    check_moving_average(optimizer)
    known = {id(variable) for variable in getattr(optimizer, "_trainable_variables", variables)}
    if any(id(variable) not in known for variable in variables):
        raise ValueError(
            "The model's optimizer has been built for another model, or for another part of this one. Compile the "
            "model with an optimizer of its own."
        )


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _holds(variable, value):
    """Returns whether a variable still holds the array that it was assigned."""
    return variable.value is value or np.array_equal(*map(ops.convert_to_numpy, (variable.value, value)))


def _copy(variable, role, *, least):
    """Returns a variable of the same value that no optimizer sees; one of floats is not narrower than `least`."""
    dtype = variable.dtype
    if keras.backend.is_float_dtype(dtype):
        dtype = keras.backend.result_type(dtype, least)
    value = ops.copy(ops.cast(variable.value, dtype))
    return keras.Variable(value, dtype=dtype, trainable=False, autocast=False, name=f"{role}_{variable.name}")
