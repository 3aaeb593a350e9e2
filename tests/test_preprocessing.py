import numpy as np
import pytest
from gymnasium import spaces

from sota_dqn.preprocessing import Preprocessing, one_hot

BOX = spaces.Box(-1, 1, (2,))


def test_nothing_is_changed_without_functions():
    observations = np.array([[1, 2], [3, 4]], "float32")
    preprocess = Preprocessing(None, BOX)
    np.testing.assert_array_equal(preprocess(observations), observations)
    assert (preprocess.shape, preprocess.dtype) == ((2,), "float32")


def test_functions_are_applied_in_order():
    preprocess = Preprocessing([lambda x: x + 1, lambda x: x * 10], BOX)
    np.testing.assert_array_equal(preprocess(np.zeros((3, 2), "float32")), np.full((3, 2), 10))
    preprocess = Preprocessing((lambda x: x * 10, lambda x: x + 1), BOX)
    np.testing.assert_array_equal(preprocess(np.zeros((3, 2), "float32")), np.ones((3, 2)))
    preprocess = Preprocessing(lambda x: x[:, :1], BOX)
    assert preprocess(np.zeros((3, 2), "float32")).shape == (3, 1)
    assert preprocess.shape == (1,)


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [("float64", "float32"), ("int64", "int32"), ("uint8", "uint8"), ("float16", "float16"), ("bool", "bool")],
)
def test_dtypes(dtype, stored):
    preprocess = Preprocessing(None, BOX)
    assert preprocess(np.ones((1, 2), dtype)).dtype == stored
    assert preprocess.dtype == stored


def test_lists_become_arrays():
    preprocess = Preprocessing(lambda x: [[1, 2] for _ in x], BOX)
    result = preprocess(np.zeros((2, 2), "float32"))
    np.testing.assert_array_equal(result, [[1, 2], [1, 2]])
    assert result.dtype == "int32"


def test_a_callable_that_fills_one_array_again_and_again():
    own = np.zeros((2, 2), "float32")

    def fill(x):
        own[:] = x
        return own

    preprocess = Preprocessing(fill, BOX)
    first = preprocess(np.full((2, 2), 1, "float32"))
    preprocess(np.full((2, 2), 2, "float32"))
    np.testing.assert_array_equal(first, np.ones((2, 2)))


def test_discrete_observations_become_one_hot():
    space = spaces.Discrete(3, start=5)
    encoded = one_hot(space)(np.array([5, 7]))
    assert encoded.dtype == "float32"
    np.testing.assert_array_equal(encoded, [[1, 0, 0], [0, 0, 1]])
    preprocess = Preprocessing(lambda x: 2 * x, space)  # sees what is one-hot already
    np.testing.assert_array_equal(preprocess(np.array([6])), [[0, 2, 0]])
    assert preprocess.shape == (3,)


def test_another_number_of_observations():
    with pytest.raises(ValueError, match=r"as many observations as it is given, 3. Received: shape=\(2, 2\)"):
        Preprocessing(lambda x: x[:2], BOX)(np.zeros((3, 2), "float32"))
    with pytest.raises(ValueError, match=r"as many observations as it is given, 3. Received: shape=\(\)"):
        Preprocessing(lambda x: x.sum(), BOX)(np.zeros((3, 2), "float32"))


@pytest.mark.parametrize(
    ("then", "message"),
    [
        (lambda x: x[:, :1], r"\(2,\) of float32 so far. Received: \(1,\) of float32"),
        (lambda x: x.astype("uint8"), r"\(2,\) of float32 so far. Received: \(2,\) of uint8"),
    ],
)
def test_a_changed_shape_or_dtype(then, message):
    functions = iter([lambda x: x, then])
    preprocess = Preprocessing(lambda x: next(functions)(x), BOX)
    preprocess(np.zeros((3, 2), "float32"))
    with pytest.raises(ValueError, match=r"the same shape and dtype at every call, " + message):
        preprocess(np.zeros((3, 2), "float32"))


@pytest.mark.parametrize("functions", ["rescale", 3, [abs, None]])
def test_what_is_not_callable(functions):
    with pytest.raises(
        TypeError, match="Argument `preprocess` must be a callable on a batch of observations or a list"
    ):
        Preprocessing(functions, BOX)
