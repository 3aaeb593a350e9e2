"""Graphs of models, by hand, and layouts: where boxes must be, and what holds for any graph."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from sota_dqn.graphs import Box, graph, layout
from sota_dqn.layers import Dueling


def test_sequential_model():
    model = keras.Sequential(
        [
            keras.Input((84, 84, 4)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(32, 8, 4, activation="relu"),
            layers.Flatten(),
            Dueling(6, units=10, name="head"),
        ]
    )
    boxes, edges = graph(model)
    assert boxes == [
        Box("Input", "", (None, 84, 84, 4), 0),
        Box("Rescaling", "", (None, 84, 84, 4), 0),
        Box("Conv2D", "8x8, stride 4, relu", (None, 20, 20, 32), 8 * 8 * 4 * 32 + 32),
        Box("Flatten", "", (None, 12800), 0),
        Box("Dueling", "head, relu", (None, 6), 2 * (12800 * 10 + 10) + 10 * 1 + 1 + 10 * 6 + 6),
    ]
    assert edges == [(0, 1), (1, 2), (2, 3), (3, 4)]


def titled(boxes, edges):
    """Returns the edges with what the boxes are called in place of their numbers."""
    names = [box.detail.split(",")[0] or box.title for box in boxes]
    return {(names[source], names[target]) for source, target in edges}


def test_functional_model_with_branches():
    observation = keras.Input((8,), name="observation")
    previous = keras.Input((3,), name="previous_action")
    hidden = layers.Concatenate()([layers.Dense(5, "relu", name="hidden")(observation), previous])
    value = layers.Dense(1, name="value")(hidden)
    advantage = layers.Dense(3, name="advantage")(hidden)
    values = layers.Add()([value, ops.subtract(advantage, ops.mean(advantage, axis=-1, keepdims=True))])
    boxes, edges = graph(keras.Model([observation, previous], values))
    assert titled(boxes, edges) == {
        ("observation", "hidden"),
        ("hidden", "Concatenate"),
        ("previous_action", "Concatenate"),
        ("Concatenate", "value"),
        ("Concatenate", "advantage"),
        ("advantage", "Mean"),
        ("advantage", "Subtract"),
        ("Mean", "Subtract"),
        ("value", "Add"),
        ("Subtract", "Add"),
    }
    found = {box.detail.split(",")[0] or box.title: (box.shape, box.parameters) for box in boxes}
    assert len(found) == len(boxes) == 9
    assert found["hidden"] == ((None, 5), 8 * 5 + 5)
    assert found["Concatenate"] == ((None, 8), 0)
    assert found["advantage"] == ((None, 3), 8 * 3 + 3)
    assert found["Mean"] == ((None, 1), 0)
    assert found["Add"] == ((None, 3), 0)


def test_shared_layer_has_a_box_for_each_call():
    inputs = keras.Input((4,))
    shared = layers.Dense(4, name="shared")
    boxes, edges = graph(keras.Model(inputs, shared(shared(inputs))))
    assert boxes == [
        Box("Input", "", (None, 4), 0),
        Box("Dense", "shared", (None, 4), 20),
        Box("Dense", "shared, again", (None, 4), 0),
    ]
    assert edges == [(0, 1), (1, 2)]


def test_several_outputs():
    inputs = keras.Input((5, 3))
    _, state, _ = layers.LSTM(4, return_sequences=True, return_state=True)(inputs)
    boxes, edges = graph(keras.Model(inputs, {"z": layers.Dense(2)(state), "b": layers.Dense(7)(state)}))
    assert [(box.title, box.shape) for box in boxes[:2]] == [("Input", (None, 5, 3)), ("LSTM", (None, 4))]
    assert {box.shape for box in boxes[2:]} == {(None, 2), (None, 7)}
    assert set(edges) == {(0, 1), (1, 2), (1, 3)}


def test_wrapped_layers_and_models_inside():
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(2)])
    wrapped = keras.Sequential(
        [
            keras.Input((None, 6)),
            layers.TimeDistributed(layers.Dense(6, "relu")),
            layers.Bidirectional(layers.LSTM(3)),
            inner,
        ]
    )
    boxes, _ = graph(wrapped)
    assert [(box.title, box.detail, box.shape) for box in boxes] == [
        ("Input", "", (None, None, 6)),
        ("TimeDistributed Dense", "relu", (None, None, 6)),
        ("Bidirectional LSTM", "", (None, 6)),
        ("Sequential", "", (None, 2)),
    ]
    assert boxes[-1].parameters == 14


def test_subclass_with_a_functional_graph():
    class Model(keras.Model):
        def __init__(self):
            inputs = keras.Input((4,))
            super().__init__(inputs, layers.Dense(2)(inputs))

        def get_config(self):
            return {}

    assert [box.title for box in graph(Model())[0]] == ["Input", "Dense"]


def test_models_without_a_known_graph_are_refused():
    class Model(keras.Model):
        pass

    with pytest.raises(TypeError, match="must be a Sequential or a Functional model. Received: model of type Model"):
        graph(Model())
    with pytest.raises(TypeError, match="Received: model of type int"):
        graph(3)
    with pytest.raises(ValueError, match="must be built: begin it with keras.Input"):
        graph(keras.Sequential([layers.Dense(2)]))


def test_chain_is_a_straight_column():
    points, routes = layout(4, [(0, 1), (1, 2), (2, 3)])
    assert [row for _, row in points] == [0, 1, 2, 3]
    np.testing.assert_allclose([x for x, _ in points], 0, atol=1e-6)
    assert routes == [[0, 1], [1, 2], [2, 3]]


def test_branches_stand_side_by_side_under_the_middle():
    points, _ = layout(4, [(0, 1), (0, 2), (1, 3), (2, 3)])
    np.testing.assert_allclose(points, [(0.5, 0), (0, 1), (1, 1), (0.5, 2)], atol=1e-3)


def test_edge_over_several_rows_passes_beside_the_boxes():
    points, routes = layout(4, [(0, 1), (1, 2), (2, 3), (0, 3)])
    assert [row for _, row in points] == [0, 1, 2, 3, 1, 2]
    assert routes[-1] == [0, 4, 5, 3]
    assert points[4][0] == pytest.approx(points[5][0], abs=1e-3)  # straight
    assert abs(points[4][0] - points[1][0]) > 0.59  # half a box and half of its own width


def test_input_stands_right_above_what_takes_it():
    points, _ = layout(5, [(0, 1), (1, 2), (2, 3), (4, 3)])
    assert points[4][1] == 2


def test_single_box():
    assert layout(1, []) == ([(0.0, 0)], [])


def test_any_graph_is_laid_out_without_overlaps(random):
    for _ in range(20):
        number = int(random.integers(2, 15))
        edges = [(a, b) for a in range(number) for b in range(a + 1, number) if random.random() < 0.25]
        points, routes = layout(number, edges)
        x, rows = np.array([p[0] for p in points]), np.array([p[1] for p in points])
        assert x.min() == 0
        assert len(routes) == len(edges)
        for (source, target), route in zip(edges, routes, strict=True):
            assert (route[0], route[-1]) == (source, target)
            assert all(i >= number for i in route[1:-1])
            assert list(np.diff(rows[route])) == [1] * (len(route) - 1)
        for row in range(rows.max() + 1):
            boxes = np.sort(x[:number][rows[:number] == row])
            assert np.all(np.diff(boxes) > 1 - 1e-2)
