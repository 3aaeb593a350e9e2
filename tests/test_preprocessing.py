import numpy as np
import pytest
from gymnasium import spaces

from sota_dqn import preprocessing
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
    [
        ("float64", "float32"),
        ("int64", "int32"),
        ("uint64", "uint32"),
        ("uint8", "uint8"),
        ("float16", "float16"),
        ("bool", "bool"),
    ],
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


def test_a_number_that_is_not_finite():
    preprocess = Preprocessing(lambda x: np.divide(1, x, where=x < 5, out=np.full_like(x, np.nan)), BOX)
    given = np.ones((3, 2), "float32")
    preprocess(given)
    given[1, 1] = 7
    with pytest.raises(ValueError, match=r"must return finite numbers. Received: \[ 1. nan\] for environment 1"):
        preprocess(given)
    given[1, 1] = np.nan  # the environment's own, of which the actor tells
    assert np.isnan(preprocess(given)).any()


@pytest.mark.parametrize("dtype, number", [("int64", 2**35), ("int64", -(2**40)), ("uint64", 2**33)])
def test_integers_that_are_too_large(dtype, number):
    preprocess = Preprocessing(None, BOX)
    assert preprocess(np.array([[7]], dtype)).dtype == dtype.replace("64", "32")
    with pytest.raises(ValueError, match=f"in the range of u?int32, the widest .* Received: {number}"):
        preprocess(np.array([[number]], dtype))


@pytest.mark.parametrize("wrong", [np.array([[{}]]), np.zeros((1, 2), complex), np.array([["a"]])])
def test_what_are_no_numbers(wrong):
    with pytest.raises(ValueError, match=f"must return numbers, .* Received: dtype={wrong.dtype}"):
        Preprocessing(lambda x: wrong, BOX)(np.zeros((1, 2), "float32"))


@pytest.mark.parametrize("functions", ["rescale", 3, [abs, None]])
def test_what_is_not_callable(functions):
    with pytest.raises(
        TypeError, match="Argument `preprocess` must be a callable on a batch of observations or a list"
    ):
        Preprocessing(functions, BOX)


# Pictures


def test_grayscale_by_hand():
    frames = np.zeros((2, 1, 4, 3), "uint8")
    frames[1, 0] = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]
    gray = preprocessing.grayscale(frames)
    assert (gray.dtype, gray.shape) == ("uint8", (2, 1, 4))
    np.testing.assert_array_equal(gray[:, 0], [[0, 0, 0, 0], [76, 150, 29, 255]])  # 255 times .299, .587, .114, 1


def test_resize_by_hand():
    frames = np.array([[[0, 4, 8, 8], [4, 8, 0, 8], [1, 1, 9, 9], [1, 1, 9, 9]]] * 3, "uint8")
    small = preprocessing.resize(2, 2)(frames)
    np.testing.assert_array_equal(small, [[[4, 6], [1, 9]]] * 3)  # means of four
    assert preprocessing.resize(height=2, width=3)(np.zeros((1, 6, 6, 3), "uint8")).shape == (1, 2, 3, 3)


def test_resize_of_any_number_of_channels(random):
    frames = random.integers(256, size=(2, 210, 160, 9), dtype="uint8")
    small = preprocessing.resize(84, 84)(frames)
    for channel in range(9):
        np.testing.assert_array_equal(small[..., channel], preprocessing.resize(84, 84)(frames[..., channel]))


def test_crop():
    frames = np.arange(2 * 4 * 5, dtype="uint8").reshape(2, 4, 5)
    np.testing.assert_array_equal(preprocessing.crop(top=1, left=2)(frames), frames[:, 1:, 2:])
    np.testing.assert_array_equal(preprocessing.crop(bottom=1, right=2)(frames), frames[:, :3, :3])
    np.testing.assert_array_equal(preprocessing.crop()(frames), frames)


def test_atari_is_grayscale_then_resize(random):
    screens = random.integers(0, 256, (3, 210, 160, 3), "uint8")
    steps = preprocessing.resize(84, 84)(preprocessing.grayscale(screens))
    np.testing.assert_array_equal(preprocessing.atari(screens), steps)
    preprocess = Preprocessing([preprocessing.crop(top=30), preprocessing.atari], BOX)
    assert preprocess(screens).shape == (3, 84, 84)


@pytest.mark.parametrize(
    ("function", "frames", "message"),
    [
        (preprocessing.grayscale, np.zeros((1, 4, 4), "uint8"), r"uint8 \[E, H, W, 3\]. Received: uint8 \[1, 4, 4\]"),
        (preprocessing.grayscale, np.zeros((1, 4, 4, 3), "float32"), "Received: float32"),
        (preprocessing.resize(2, 2), np.zeros((4, 4), "uint8"), r"\[E, H, W\] or \[E, H, W, C\]. Received: uint8"),
        (preprocessing.crop(top=2, bottom=2), np.zeros((1, 4, 4), "uint8"), "Nothing is left of frames of 4 by 4"),
    ],
)
def test_frames_that_do_not_fit(function, frames, message):
    with pytest.raises(ValueError, match=message):
        function(frames)


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="`height` must be at least 1. Received: height=0"):
        preprocessing.resize(0, 84)
    with pytest.raises(TypeError, match="`height` must be an integer. Received: height=None"):
        preprocessing.resize(None, 84)
    with pytest.raises(ValueError, match="`left` must be at least 0. Received: left=-1"):
        preprocessing.crop(left=-1)
