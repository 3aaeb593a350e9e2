"""A recurrent model with its state in the open: what acting carries from step to step, and a sequence begins with.

The user's model has layers as `LSTM` or `GRU` over observations `[B, T, *O]`, whose state begins at zero wherever it is
called. `Recurrent` is another model on the same layers, and so on the same weights, whose state is given and returned.
It also holds the state before an episode's first step, where that is learned.
"""

import keras
from keras import ops, tree

from sota_dqn.models import takes_training

__all__ = ["Recurrent"]

NATIVE = (keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN)


class Recurrent:
    """The user's recurrent model, and the state of its layers beside it.

    Args:
        model: A model that `check_recurrent` accepts. Its layers are shared, its file stays as it is.
        learned: Whether the state before an episode's first step is trained, from zero on, or stays zero.

    Attributes:
        initial: That state where it is learned, `keras.Variable`s `[units]`, which are not the model's; else empty.
    """

    def __init__(self, model, *, learned=False):
        self._slots: list[_Slot] = []

        def call(layer, *arguments, **settings):
            if not isinstance(layer, keras.layers.RNN):
                return layer(*arguments, **settings)
            self._slots.append(_Slot(layer))
            return _Carrying(layer, self._slots[-1])(*arguments, **settings)

        inputs = model.inputs if len(model.inputs) > 1 else model.inputs[0]
        functional = keras.Model(inputs, model.outputs[0])
        self.model = keras.models.clone_model(functional, clone_function=lambda layer: layer, call_function=call)
        states = [state for slot in self._slots for state in tree.flatten(slot.initial)]
        self.shapes = [tuple(state.shape[1:]) for state in states]
        self.dtypes = [keras.backend.standardize_dtype(state.dtype) for state in states]
        self.initial = [
            keras.Variable("zeros", shape=shape, dtype="float32", autocast=False, name=f"initial_state_{i}")
            for i, shape in enumerate(self.shapes if learned else [])
        ]
        initial = iter(self.initial)
        for slot in self._slots:
            slot.learned = [next(initial) for _ in tree.flatten(slot.initial)] if learned else []

    def zeros(self, batch_size):
        """Returns a state of zeros: a list of `[B, units]`."""
        return [ops.zeros((batch_size, *shape), dtype) for shape, dtype in zip(self.shapes, self.dtypes, strict=True)]

    def unroll(self, observations, states, begun=None, *, training=False):
        """Returns the values of a sequence, and the state after it.

        Args:
            observations: `[B, T, *O]`, or a structure of the model's inputs.
            states: A list of `[B, units]`, the state before the first step.
            begun: `[B, T]`, 1 where a step is an episode's first, before which the state is zero, or the learned one;
                None for nowhere.
            training: Whether layers as `Dropout` behave as in training.

        Returns:
            `[B, T, A]`, and a list of `[B, units]`.
        """
        states = iter(states)
        for slot in self._slots:
            slot.before, slot.begun = tree.map_structure(lambda _: next(states), slot.initial), begun
        inputs = tree.flatten(observations)
        values = self.model(inputs if len(inputs) > 1 else inputs[0], training=training)
        after = [state for slot in self._slots for state in tree.flatten(slot.after)]
        for slot in self._slots:
            slot.before = slot.after = slot.begun = None  # what belongs to a program must not outlive it
        return values, after

    def begin(self, states, begun):
        """Returns the states (a list of `[E, units]`), those before a first step where one begins (`begun`, `[E]`
        bool)."""
        begun = ops.expand_dims(begun, -1)
        initial = self.initial or [ops.zeros(shape) for shape in self.shapes]
        pairs = zip(initial, states, strict=True)
        return [ops.where(begun, ops.cast(first, state.dtype), state) for first, state in pairs]

    def step(self, observations, states):
        """Returns the values of one step, and the state after it.

        Args:
            observations: `[E, *O]`, or a structure of the model's inputs.
            states: A list of `[E, units]`, the state before the step.

        Returns:
            `[E, A]`, and a list of `[E, units]`.
        """
        sequence = tree.map_structure(lambda one: ops.expand_dims(one, 1), observations)
        values, after = self.unroll(sequence, states)
        return values[:, 0], after


class _Slot:
    """Where the state of one layer is put before its model is called, and found afterwards."""

    def __init__(self, layer):
        self.initial = layer.get_initial_state(batch_size=1)
        self.learned: list = []  # the variables of the state before an episode's first step, or none
        self.before = self.after = self.begun = None


class _Carrying(keras.layers.Layer):
    """Calls a recurrent layer with the state in a slot."""

    def __init__(self, layer, slot):
        super().__init__(dtype=layer.dtype_policy)
        settings = {"return_sequences": True, "return_state": True, "unroll": layer.unroll, "dtype": layer.dtype_policy}
        self.layer = keras.layers.RNN(layer.cell, **settings)
        if type(layer) in NATIVE:  # these may have a faster loop than `RNN`
            self.layer = type(layer).from_config({**layer.get_config(), "return_state": True})
            self.layer.cell = layer.cell
        self.resetting = keras.layers.RNN(_Resetting(layer.cell, slot), **settings)
        self.built = self.layer.built = self.resetting.built = True  # with the cell
        self.slot = slot

    def call(self, sequences, mask=None, training=False):
        layer, before, begun = self.layer, self.slot.before, self.slot.begun
        if begun is not None:
            layer = self.resetting
            # Keras draws the masks of dropout before its loop, for cells that it knows: `_Resetting` hides this one.
            self.layer._maybe_config_dropout_masks(self.layer.cell, sequences[:, 0], before)
            sequences = ops.concatenate([sequences, ops.cast(begun, sequences.dtype)[..., None]], axis=-1)
        output, *self.slot.after = layer(sequences, initial_state=before, mask=mask, training=training)
        self.layer._maybe_reset_dropout_masks(self.layer.cell)
        return output


class _Resetting(keras.layers.Layer):
    """A cell whose last input is 1 where an episode begins with the step."""

    def __init__(self, cell, slot):
        super().__init__(dtype=cell.dtype_policy)
        self.cell = cell
        self.slot = slot
        self.state_size = cell.state_size
        self.output_size = getattr(cell, "output_size", None)
        self.built = True

    def call(self, inputs, states, training=False):
        begins = inputs[..., -1:]
        kept = [(1.0 - begins) * state for state in tree.flatten(states)]
        if self.slot.learned:
            pairs = zip(kept, self.slot.learned, strict=True)
            kept = [state + begins * ops.cast(first, state.dtype) for state, first in pairs]
        states = tree.pack_sequence_as(states, kept)
        settings = {"training": training} if takes_training(self.cell) else {}
        return self.cell(inputs[..., :-1], states, **settings)
