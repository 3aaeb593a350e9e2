"""What is asked of the user's Keras model, and what it is called with.

Beside the observation a Functional model may have inputs named `previous_action` and `previous_reward`, by the name of
their `keras.Input`. To offer one more, name it in `PREVIOUS`, and give it its shape and its values below.
"""

import inspect

import keras
from keras import ops, tree

from sota_dqn.checks import check_named

__all__ = [
    "check_model",
    "check_moving_average",
    "check_recurrent",
    "check_shapes",
    "differs_in_training",
    "has_convolutions",
    "is_recurrent",
    "layers_of",
    "model_inputs",
    "noise_of",
    "observation_shape",
    "previous_inputs",
    "takes_training",
]

PREVIOUS = ("previous_action", "previous_reward")
CONVOLUTIONAL = (keras.layers.ConvLSTM1D, keras.layers.ConvLSTM2D, keras.layers.ConvLSTM3D)


def check_model(model, observations, num_actions, *, frame_stack=None):
    """Raises ValueError unless `model` maps such observations to one value per action and can be saved and loaded
    safely.

    Args:
        model: A Keras model.
        observations: `[E, *O]`, preprocessed, their frames merged.
        num_actions: A.
        frame_stack: How many frames have been merged, for the error; None for no stack.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"Argument `model` must be a Keras model. Received: model={model!r}")
    for layer in layers_of(model):
        if isinstance(layer, keras.layers.Lambda):
            raise ValueError(
                f"The model has a Lambda layer, {layer.name!r}, which cannot be loaded safely from a checkpoint: "
                "write it as a keras.layers.Layer subclass, or use a layer that Keras has (Rescaling, for example)."
            )
        for name, value in vars(layer).items():
            check_named(value, f"the `{name}` of the layer {layer.name!r}")
    advice = f"Their last axis is that of `frame_stack={frame_stack}` frames. " if frame_stack else ""
    check_shapes(model, observations, num_actions, advice=advice)


def check_moving_average(optimizer):
    """Raises ValueError where a Keras optimizer keeps an average of the weights that would not be used."""
    if optimizer.use_ema and optimizer.ema_overwrite_frequency is None:
        raise ValueError(
            "The optimizer's `use_ema=True` keeps an average of the weights that Keras takes up at the end of `fit`, "
            "which is not called here: leave it out. `DQNTrainer` keeps one by its argument `average`."
        )


def check_shapes(model, observations, num_actions, *, advice=""):
    """Raises ValueError unless `model` maps such observations to one value per action.

    Args:
        model: A Keras model.
        observations: `[E, *O]`, preprocessed, their frames merged.
        num_actions: A.
        advice: A sentence for the error where the observations do not fit, and a blank.
    """
    recurrent = is_recurrent(model)
    if recurrent:
        check_recurrent(model)
    time = (None,) if recurrent else ()
    shape = (*time, *observations.shape[1:])
    previous = {"previous_action": num_actions, "previous_reward": 1}
    if model.built:
        _check_inputs(model, time, previous)
    expected = observation_shape(model) if model.built else None
    wrong = ValueError(
        f"The model's input does not match the preprocessed observations, which have shape {shape}. "
        f"{advice}Received: input_shape={expected and expected[1:]}"
    )
    if expected and not _fits(shape, expected[1:]):
        raise wrong
    batch = (len(observations), 1) if recurrent else (len(observations),)  # and time
    like = keras.KerasTensor((*batch, *observations.shape[1:]), keras.backend.standardize_dtype(observations.dtype))
    like = _pack(model, like, **{name: keras.KerasTensor((*batch, size)) for name, size in previous.items()})
    try:
        # The shapes alone say enough, and cost no compilation of single operations.
        values = model.compute_output_spec(like) if model.built else model(observations, training=False)
    except Exception as error:  # whatever the user's layers raise
        raise wrong from error
    if tuple(getattr(values, "shape", ())) != (*batch, num_actions):
        found = tuple(getattr(values, "shape", ()))[len(batch) :] or type(values).__name__
        raise ValueError(f"The model must output one value for each of the {num_actions} actions. Received: {found}")


def is_recurrent(model):
    """Returns whether any layer of a model carries a state along a sequence."""
    return any(isinstance(layer, (keras.layers.RNN, keras.layers.Bidirectional)) for layer in layers_of(model))


def check_recurrent(model):
    """Raises ValueError unless the state of a recurrent model can be carried.

    Args:
        model: A `keras.Sequential` or Functional model, observations `[B, T, *O]` to `[B, T, A]`, with T left open.
    """
    functional = isinstance(model, keras.Model) and isinstance(model, (keras.Function, keras.Sequential))
    if not functional or not model.built:
        raise ValueError(
            "A recurrent model must be a built Sequential or Functional one: the state of its layers is not seen in a "
            f"subclass. Received: {type(model).__name__}"
        )
    graph = {id(layer) for layer in model.layers}
    given = _given_states(model)
    for layer in layers_of(model):
        what = None
        if isinstance(layer, keras.layers.Bidirectional):
            what = "is Bidirectional, and would see the future"
        elif isinstance(layer, keras.layers.RNN):
            if id(layer) not in graph:
                what = "is inside another layer or model, where its state is not seen: put it into the model itself"
            elif isinstance(layer, CONVOLUTIONAL) or not isinstance(layer.cell, keras.layers.Layer):
                what = "has a state that is not carried: a cell must be a Keras layer with states of one axis"
            elif layer.activity_regularizer is not None:
                what = "has an activity_regularizer, which sequences do not see"
            elif layer.go_backwards:
                what = "has go_backwards=True, and would see the future"
            elif layer.stateful:
                what = "has stateful=True: the trainer carries the state"
            elif id(layer) in given:
                what = "is called with initial_state=: the trainer carries the state"
            elif not layer.return_sequences:
                what = "needs return_sequences=True: a value is learned at every step"
        if what:
            raise ValueError(f"The recurrent layer {layer.name!r} {what}.")
        if isinstance(layer, keras.layers.Masking) or getattr(layer, "mask_zero", False):
            raise ValueError(
                f"The layer {layer.name!r} makes a mask, which a recurrent model must do without: every step of a "
                "sequence counts."
            )
    for tensor in [*model.inputs, *model.outputs]:
        if len(tensor.shape) < 3 or tensor.shape[1] is not None:
            raise ValueError(
                "A recurrent model must map [B, T, ...] to [B, T, A] with T left open: keras.Input((None, ...)). "
                f"Received: input_shape={model.input_shape}, output_shape={model.output_shape}"
            )


def has_convolutions(model):
    """Returns whether any layer convolves: the one property of a model that decides how it is compiled."""
    return any("Conv" in kind.__name__ for layer in layers_of(model) for kind in type(layer).__mro__)


def noise_of(model):
    """Returns the variables from which layers draw, as `Dropout` and `NoisyDense` do: the states of their seeds."""
    weights = {id(variable) for variable in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def differs_in_training(model):
    """Returns whether any layer behaves differently in training, as `Dropout` does."""
    for layer in layers_of(model):
        if hasattr(layer, "state_size"):  # a recurrent layer or its cell
            differs = getattr(layer, "dropout", 0) or getattr(layer, "recurrent_dropout", 0)
        elif isinstance(layer, keras.Model):
            continue  # its layers tell
        elif type(layer).__module__.startswith("keras."):
            differs = layer.non_trainable_variables  # averages, or the state of random numbers
        else:
            differs = takes_training(layer)
        if differs:
            return True
    return False


def takes_training(layer):
    """Returns whether the `call` of a layer has an argument `training`."""
    return "training" in inspect.signature(type(layer).call).parameters


def layers_of(layer, seen=None):
    """Yields the layers inside a model, however deep, each once."""
    seen = {id(layer)} if seen is None else seen
    for held in vars(layer).values():
        held = held.values() if isinstance(held, dict) else held if isinstance(held, (list, tuple)) else [held]
        for child in held:
            if isinstance(child, keras.layers.Layer) and id(child) not in seen:
                seen.add(id(child))
                yield child
                yield from layers_of(child, seen)


def previous_inputs(model):
    """Returns the names in `PREVIOUS` that a model's inputs have; none where the observation is its only one."""
    names = [tensor.name for tensor in getattr(model, "inputs", None) or []]
    return [name for name in names if name in PREVIOUS] if len(names) > 1 else []


def observation_shape(model):
    """Returns the shape of the model's observation, `[B, ...]`, or None where a subclass does not tell."""
    if not previous_inputs(model):
        return getattr(model, "input_shape", None)
    return next(tuple(tensor.shape) for tensor in model.inputs if tensor.name not in PREVIOUS)


def model_inputs(model, observations, *, action, reward, begun):
    """Returns what a model is called with: the observations, and what it asks for of the step before.

    Args:
        model: A model that `check_model` accepts.
        observations: `[..., *O]`, where `[...]` is `[B]` or `[B, T]`.
        action: `[...]` int32, the action before.
        reward: `[...]` float32, the reward that it brought, as it is learned from.
        begun: `[...]` bool, where there is none before: the observation is an episode's first.

    Returns:
        The observations, or a structure as the model was made with: the action one-hot, `[..., A]`, and the reward,
        `[..., 1]`, both zero where there is none before.
    """
    if not previous_inputs(model):
        return observations
    begun = ops.expand_dims(begun, -1)
    previous = {"previous_reward": ops.where(begun, 0.0, ops.expand_dims(reward, -1))}
    for tensor in model.inputs:
        if tensor.name == "previous_action":
            previous[tensor.name] = ops.where(begun, 0.0, ops.one_hot(action, tensor.shape[-1], dtype="float32"))
    return _pack(model, observations, **previous)


def _pack(model, observation, **previous):
    """Returns the model's inputs in the structure with which it was made."""
    if not previous_inputs(model):
        return observation
    return tree.pack_sequence_as(model.input, [previous.get(tensor.name, observation) for tensor in model.inputs])


def _check_inputs(model, time, previous):
    """Raises ValueError unless a model has one observation, and else nothing but what is in `previous`, of its size."""
    found = getattr(model, "input_shape", None)
    inputs = getattr(model, "inputs", None) or []
    several = isinstance(found, (list, dict)) or len(inputs) > 1
    if several and (not previous_inputs(model) or sum(tensor.name not in PREVIOUS for tensor in inputs) != 1):
        raise ValueError(
            f"The model must have one input, the observation. Received: input_shape={found}. Beside it there may be "
            "inputs named previous_action and previous_reward."
        )
    for tensor in inputs if several else []:
        if tensor.name not in previous:
            continue
        shape = (*time, previous[tensor.name])
        if tuple(tensor.shape[1:]) != shape or not keras.backend.is_float_dtype(tensor.dtype):
            raise ValueError(
                f"The model's input {tensor.name!r} must be keras.Input({shape}), of floating-point numbers. "
                f"Received: shape={tuple(tensor.shape[1:])}, dtype={tensor.dtype}"
            )


def _given_states(model):
    """Returns the ids of the recurrent layers that a model calls with a state of its own making."""
    given = set()

    def call(layer, *arguments, **settings):
        states = *arguments[1:2], settings.get("initial_state")
        if isinstance(layer, keras.layers.RNN) and any(state is not None for state in states):
            given.add(id(layer))
        return layer(*arguments, **settings)

    # A copy of the graph on the same layers, of which Keras tells every call.
    functional = keras.Model(model.inputs, model.outputs)
    keras.models.clone_model(functional, clone_function=lambda layer: layer, call_function=call)
    return given


def _fits(shape, expected):
    return len(shape) == len(expected) and all(e is None or s == e for s, e in zip(shape, expected, strict=True))
