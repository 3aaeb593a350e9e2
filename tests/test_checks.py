"""What is let pass and what is refused, by name; that every part asks is tested beside the part."""

import math

import ml_dtypes
import numpy as np
import pytest
from keras import ops

from sota_dqn import checks
from sota_dqn.checks import flaw_of, one_per_sample


@pytest.mark.parametrize("value", [0, 5, np.int64(5), np.uint8(0)])
def test_a_count(value):
    checks.check_count(0, number=value)
    checks.check_count_or_none(0, number=value, other=None)


@pytest.mark.parametrize("value", [None, True, np.True_, 1.0, np.float32(1), "1", math.nan, [1]])
def test_what_is_no_count(value):
    with pytest.raises(TypeError) as error:
        checks.check_count(1, number=value)
    assert str(error.value) == f"Argument `number` must be an integer. Received: number={value!r}"


def test_a_count_that_is_too_small():
    with pytest.raises(ValueError, match="^Argument `number` must be at least 3. Received: number=2$"):
        checks.check_count(3, other=3, number=2)
    with pytest.raises(ValueError, match="^Argument `least` must be at least 0. Received: least=-1$"):
        checks.check_count_or_none(0, least=-1)


@pytest.mark.parametrize("value", [0, 1, 0.0, 0.5, np.float32(1), np.int64(0)])
def test_a_probability(value):
    checks.check_probability(chance=value)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (None, TypeError, "a number"),
        (True, TypeError, "a number"),
        ("a", TypeError, "a number"),
        (1j, TypeError, "a number"),
        (-0.1, ValueError, "between 0 and 1"),
        (1.1, ValueError, "between 0 and 1"),
        (math.nan, ValueError, "between 0 and 1"),
    ],
)
def test_what_is_no_probability(value, error, message):
    with pytest.raises(error) as found:
        checks.check_probability(other=1, chance=value)
    assert str(found.value) == f"Argument `chance` must be {message}. Received: chance={value!r}"


@pytest.mark.parametrize(
    ("bounds", "value", "error", "message"),
    [
        ({}, "a", TypeError, "a number"),
        ({}, True, TypeError, "a number"),
        ({}, None, TypeError, "a number"),
        ({}, math.nan, ValueError, "finite"),
        ({}, -math.inf, ValueError, "finite"),
        ({"least": 0}, -1e-9, ValueError, "finite and at least 0"),
        ({"least": 0}, math.inf, ValueError, "finite and at least 0"),
        ({"above": 0}, 0, ValueError, "finite and above 0"),
        ({"above": 0}, math.nan, ValueError, "finite and above 0"),
    ],
)
def test_what_is_no_such_number(bounds, value, error, message):
    with pytest.raises(error) as found:
        checks.check_number(**bounds, rate=value)
    assert str(found.value) == f"Argument `rate` must be {message}. Received: rate={value!r}"


def test_a_number():
    checks.check_number(rate=-5, other=np.float32(0.5))
    checks.check_number(least=0, rate=0)
    checks.check_number(above=0, rate=1e-300)


@pytest.mark.parametrize("value", [0, 1, "yes", np.int64(1)])
def test_what_is_neither_true_nor_false(value):
    with pytest.raises(TypeError) as error:
        checks.check_bool(flag=value)
    assert str(error.value) == f"Argument `flag` must be True or False. Received: flag={value!r}"


def test_none_where_it_is_and_is_not_allowed():
    checks.check_bool(flag=np.True_, other=False)
    checks.check_bool_or_none(flag=True, other=None)
    with pytest.raises(TypeError, match="Argument `flag` must be True or False. Received: flag=None"):
        checks.check_bool(flag=None)
    with pytest.raises(TypeError, match="Received: flag='no'"):
        checks.check_bool_or_none(flag="no")


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_flaws(dtype):
    values = np.zeros(3, ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    assert flaw_of(values) is None
    values[1] = np.inf
    assert (flaw_of(values), flaw_of(values[1]), flaw_of(values[0])) == ("infinite", "infinite", None)
    values[2] = np.nan
    assert flaw_of(values) == "NaN"
    assert flaw_of(np.zeros(3, "uint8")) is None


def test_one_per_sample():
    assert ops.convert_to_numpy(one_per_sample([3, 4], 2, "policy", integer=True)).tolist() == [3, 4]
    one_per_sample(np.array([True, False]), 2, "policy", integer=True)
    one_per_sample(np.zeros(2, "float32"), 2, "loss")
    for wrong in (np.zeros(2, "float32"), np.zeros((2, 1), "int32"), np.zeros(3, "int32"), 1):
        with pytest.raises(
            ValueError, match=r"`policy` must be a function that returns one integer .* \(2,\)\. Received"
        ):
            one_per_sample(wrong, 2, "policy", integer=True)
