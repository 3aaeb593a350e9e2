"""A Keras model as a graph of boxes, and where the boxes of a graph go on paper.

Both are pure functions; `sota_dqn.plots` draws what they return. To let a box say more of a layer, read it from the
layer's configuration in `_describe`.
"""

import itertools
import math
import re
from typing import NamedTuple

import keras
import numpy as np

__all__ = ["Box", "graph", "layout"]

NARROW = 0.2  # width that an edge takes beside boxes, in boxes
CHAIN = 1e4  # weight of an edge that is its source's only one and its target's only one
SWEEPS = 8  # over the rows, to find their order
ITERATIONS = 500  # until positions rest


class Box(NamedTuple):
    """What the diagram says about one call of a layer."""

    title: str  # the layer's class
    detail: str  # its name where the user chose it, and what tells it from others of its class
    shape: tuple  # of the first of its outputs that is used, None where it is free
    parameters: int


def graph(model):
    """Returns the boxes and edges of a model, as public configurations tell them.

    Returns:
        A list of `Box`es and a list of pairs of their indices, from a box to one that takes its output.
    """
    functional = isinstance(model, keras.Model) and isinstance(model, keras.Function)
    if not functional and not isinstance(model, keras.Sequential):
        kind = type(model).__name__
        raise TypeError(f"Argument `model` must be a Sequential or a Functional model. Received: model of type {kind}")
    if not model.built:
        raise ValueError(f"Argument `model` must be built: begin it with keras.Input(shape). Received: {model}")
    if isinstance(model, keras.Sequential):
        shape = tuple(model.input_shape)
        boxes = [Box("Input", "", shape, 0)]
        for layer in model.layers:
            shape = tuple(layer.compute_output_shape(shape))
            title, detail = _describe(type(layer).__name__, layer.name, layer.get_config())
            boxes.append(Box(title, detail, shape, layer.count_params()))
        return boxes, [(i, i + 1) for i in range(len(boxes) - 1)]
    return _functional_graph(model)


def _functional_graph(model):
    # A model of the same graph: a subclass may have a configuration of its own.
    config = keras.Model(model.inputs, model.outputs).get_config()
    parameters = {layer.name: layer.count_params() for layer in model.layers}
    outputs = zip(config["output_layers"], model.outputs, strict=True)
    shapes = {tuple(reference): tuple(tensor.shape) for reference, tensor in outputs}
    found, sources = [], []
    for layer in config["layers"]:
        for call, arguments in enumerate(layer["inbound_nodes"] or [None]):
            tensors = list(_tensors(arguments))
            shapes.update({tuple(tensor["keras_history"]): tuple(tensor["shape"]) for tensor in tensors})
            found.append((layer, call))
            sources.append([tuple(tensor["keras_history"][:2]) for tensor in tensors])
    boxes = []
    for layer, call in found:
        name = layer["name"]
        title, detail = _describe(layer["class_name"], name, layer["config"])
        if call:
            detail = f"{name}, again" if name not in detail else f"{detail}, again"
        shape = shapes[min(reference for reference in shapes if reference[:2] == (name, call))]
        boxes.append(Box(title, detail, shape, 0 if call else parameters.get(name, 0)))
    index = {(layer["name"], call): i for i, (layer, call) in enumerate(found)}
    return boxes, list(dict.fromkeys((index[source], i) for i, s in enumerate(sources) for source in s))


def _tensors(arguments):
    """Yields the symbolic tensors in the arguments of a call, as Keras serialises them."""
    if isinstance(arguments, dict) and arguments.get("class_name") == "__keras_tensor__":
        yield arguments["config"]
    elif isinstance(arguments, (dict, list, tuple)):
        for value in arguments.values() if isinstance(arguments, dict) else arguments:
            yield from _tensors(value)


def _describe(title, name, config):
    """Returns the title and the detail of a box: the user's name for it, kernel and stride, activation."""
    own = re.sub(r"_\d+$", "", name).replace("_", "") != title.lower()
    details = [name] if own else []
    wrapped = config.get("layer") or config.get("cell")
    if isinstance(wrapped, dict):
        title, config = f"{title} {wrapped['class_name']}", wrapped["config"]
    if config.get("kernel_size"):
        details.append("x".join(map(str, config["kernel_size"])))
        if max(config.get("strides", (1,))) > 1:
            details.append(f"stride {config['strides'][0]}")
    activation = config.get("activation")
    if isinstance(activation, str) and activation != "linear" and "recurrent_activation" not in config:
        details.append(activation)
    return title.removesuffix("Layer") if title == "InputLayer" else title, ", ".join(details)


def layout(num_boxes, edges):
    """Returns where the boxes of a graph go, and the way of each edge.

    Rows follow the longest path from an input, and an input stands right above the first that takes it. An edge over
    several rows passes through a narrow point in each. The order in a row is that of the neighbours' means, over a few
    sweeps (Sugiyama et al., 1981); then the squared horizontal lengths of all edges are made least, where those of
    chains count most, so that chains are straight.

    Args:
        num_boxes: How many.
        edges: Pairs of indices, without cycles.

    Returns:
        A list of (x, row), of the boxes and then of the points that edges pass through, with x in widths of a box and a
        gap, and for each edge the list of the indices it goes along.
    """
    rows = _rows(num_boxes, edges)
    routes = []
    for source, target in edges:
        passed = range(len(rows), len(rows) + rows[target] - rows[source] - 1)
        rows += range(rows[source] + 1, rows[target])
        routes.append([source, *passed, target])
    links = [link for route in routes for link in itertools.pairwise(route)]
    above, below = _neighbours(len(rows), links)
    widths = np.where(np.arange(len(rows)) < num_boxes, 1.0, NARROW)
    members = [np.flatnonzero(np.equal(rows, row)) for row in range(max(rows, default=-1) + 1)]
    x = np.zeros(len(rows))
    for row in members:
        x[row] = _apart(np.zeros(len(row)), widths[row])
    for sweep in range(SWEEPS):
        near = (above, below)[sweep % 2]
        for k, row in enumerate(members):
            wanted = np.array([x[near[i]].mean() if near[i] else x[i] for i in row])
            order = np.argsort(wanted, kind="stable")
            members[k] = row[order]
            x[members[k]] = _apart(wanted[order], widths[members[k]])
    weights = [CHAIN if len(below[source]) == len(above[target]) == 1 else 1.0 for source, target in links]
    x = _shortened(x, members, widths, links=links, weights=weights)
    return list(zip((x - x.min(initial=math.inf)).tolist(), rows, strict=True)), routes


def _shortened(x, members, widths, *, links, weights):
    """Returns positions with the least weighted sum of squared lengths of `links`, rows keeping order and distances.

    By the alternating direction method of multipliers: the sum is a linear system, each row a projection.
    """
    system = np.eye(len(x))
    for (source, target), weight in zip(links, weights, strict=True):
        ends = [source, target]
        system[np.ix_(ends, ends)] += weight * np.array([[1, -1], [-1, 1]])
    inverse = np.linalg.inv(system)
    feasible, dual = x.copy(), np.zeros(len(x))
    for _ in range(ITERATIONS):
        x = inverse @ (feasible - dual)
        for row in members:
            feasible[row] = _apart((x + dual)[row], widths[row])
        dual += x - feasible
    return x


def _rows(num_boxes, edges):
    """Returns the row of each box."""
    sources, targets = _neighbours(num_boxes, edges)
    rows, missing = [0] * num_boxes, [len(s) for s in sources]
    ready = [i for i in range(num_boxes) if not missing[i]]
    for i in ready:  # grows while it is read: each box after all that it takes from
        for target in targets[i]:
            rows[target] = max(rows[target], rows[i] + 1)
            missing[target] -= 1
            if not missing[target]:
                ready.append(target)
    return [min((rows[t] for t in targets[i]), default=1) - 1 if not sources[i] else rows[i] for i in range(num_boxes)]


def _neighbours(number, links):
    """Returns where the links to each point come from, and where those from it go."""
    sources: list[list[int]] = [[] for _ in range(number)]
    targets: list[list[int]] = [[] for _ in range(number)]
    for source, target in links:
        sources[target].append(source)
        targets[source].append(target)
    return sources, targets


def _apart(wanted, widths):
    """Returns the positions nearest to `wanted` (least squares), in its order, at which the widths do not overlap."""
    offsets = np.cumsum(widths) - widths / 2
    blocks = []  # (mean, size) of neighbours that touch: pool adjacent violators
    for position in wanted - offsets:
        blocks.append((position, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (first, m), (second, n) = blocks[-2:]
            blocks[-2:] = [((first * m + second * n) / (m + n), m + n)]
    return np.repeat([mean for mean, _ in blocks], [size for _, size in blocks]) + offsets
