"""What is asked of the user's Keras model."""

import keras

__all__ = ["check_model", "check_recurrent", "has_convolutions", "is_recurrent", "layers_of"]


def check_model(model, observations, num_actions):
    """Raises ValueError unless `model` maps such observations to one value per action and can be saved and loaded
    safely.

    Args:
        model: A Keras model.
        observations: `[E, *O]`, preprocessed, their frames merged.
        num_actions: A.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"Argument `model` must be a Keras model. Received: model={model!r}")
    for layer in layers_of(model):
        if isinstance(layer, keras.layers.Lambda):
            raise ValueError(
                f"The model has a Lambda layer, {layer.name!r}, which cannot be loaded safely from a checkpoint: "
                "write it as a keras.layers.Layer subclass, or use a layer that Keras has (Rescaling, for example)."
            )
    recurrent = is_recurrent(model)
    if recurrent:
        check_recurrent(model)
    shape = (None, *observations.shape[1:]) if recurrent else tuple(observations.shape[1:])
    expected = getattr(model, "input_shape", None) if model.built else None
    if isinstance(expected, (list, dict)):
        raise ValueError(f"The model must have one input, the observation. Received: input_shape={expected}")
    wrong = ValueError(
        f"The model's input does not match the preprocessed observations, which have shape {shape}. "
        f"Received: input_shape={expected and expected[1:]}"
    )
    if expected and not _fits(shape, expected[1:]):
        raise wrong
    batch = (len(observations), 1) if recurrent else (len(observations),)  # and time
    like = keras.KerasTensor((*batch, *observations.shape[1:]), keras.backend.standardize_dtype(observations.dtype))
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
    for layer in layers_of(model):
        what = None
        if isinstance(layer, keras.layers.Bidirectional):
            what = "is Bidirectional, and would see the future"
        elif isinstance(layer, keras.layers.RNN):
            if layer.go_backwards:
                what = "has go_backwards=True, and would see the future"
            elif layer.stateful:
                what = "has stateful=True: the trainer carries the state"
            elif not layer.return_sequences:
                what = "needs return_sequences=True: a value is learned at every step"
        if what:
            raise ValueError(f"The recurrent layer {layer.name!r} {what}.")
    for shape in (model.input_shape, model.output_shape):
        if isinstance(shape, tuple) and (len(shape) < 3 or shape[1] is not None):
            raise ValueError(
                "A recurrent model must map [B, T, ...] to [B, T, A] with T left open: keras.Input((None, ...)). "
                f"Received: input_shape={model.input_shape}, output_shape={model.output_shape}"
            )


def has_convolutions(model):
    """Returns whether any layer convolves: the one property of a model that decides how it is compiled."""
    return any("Conv" in type(layer).__name__ for layer in layers_of(model))


def layers_of(layer):
    """Yields the layers inside a model, however deep."""
    inside = [*getattr(layer, "layers", []), *(getattr(layer, name, None) for name in ("layer", "cell"))]
    for child in inside:
        if isinstance(child, keras.layers.Layer):
            yield child
            yield from layers_of(child)


def _fits(shape, expected):
    return len(shape) == len(expected) and all(e is None or s == e for s, e in zip(shape, expected, strict=True))
