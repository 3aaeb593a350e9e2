import numpy as np
import pytest
from keras import ops
from transforms import compiled

from sota_dqn import schedules


def test_constant():
    assert schedules.constant(0.25)(0) == schedules.constant(0.25)(10**9) == 0.25


def test_linear():
    # From 1 at step 10 down by 0.8 over 40 steps: step 20 is a quarter of the way.
    schedule = schedules.linear(1.0, 0.2, steps=40, start=10)
    assert [schedule(step) for step in (0, 10)] == [1.0, 1.0]
    assert schedule(20) == pytest.approx(0.8)
    assert schedule(30) == pytest.approx(0.6)
    assert [schedule(step) for step in (50, 51, 10**9)] == [0.2, 0.2, 0.2]


def test_linear_can_rise():
    assert schedules.linear(0.4, 1.0, steps=100)(50) == pytest.approx(0.7)


def test_exponential():
    # The distance to 0.2 is 0.8, then 0.4 after one half-life, 0.2 after two.
    schedule = schedules.exponential(1.0, 0.2, half_life=100)
    assert schedule(0) == 1.0
    assert schedule(100) == pytest.approx(0.6)
    assert schedule(200) == pytest.approx(0.4)
    assert schedule(10**9) == pytest.approx(0.2)


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.constant(0.3),
        schedules.linear(1.0, 0.05, steps=20_000, start=500),
        schedules.exponential(1.0, 0.01, half_life=3000),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_tensors_give_what_numbers_give(schedule, dtype):
    program = compiled(lambda step: ops.convert_to_tensor(schedule(step), "float32"))
    for step in (0, 499, 500, 7000, 20_500, 50_000_000):
        number = schedule(step)
        assert type(number) is float
        assert float(program(ops.convert_to_tensor(step, dtype))) == pytest.approx(number, rel=1e-5)


def test_numpy_steps_are_numbers():
    assert schedules.linear(1.0, 0.0, steps=4)(np.int64(1)) == 0.75


def test_as_schedule():
    schedule = schedules.linear(1, 0, steps=5)
    assert schedules.as_schedule(schedule) is schedule
    assert schedules.as_schedule(np.float32(0.5))(3) == 0.5
    assert schedules.as_schedule(1)(3) == 1.0


def test_schedules_remember_how_they_were_made():
    factory, arguments = schedules.linear(1, 0.1, steps=5).recipe
    assert factory is schedules.linear
    assert arguments == {"initial": 1, "final": 0.1, "steps": 5, "start": 0}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: schedules.constant("x"), TypeError, r"Argument `value` must be a number. Received: value='x'"),
        (lambda: schedules.constant(np.inf), ValueError, r"Argument `value` must be finite. Received: value=inf"),
        (lambda: schedules.linear(None, 0, steps=1), TypeError, r"Argument `initial` must be a number. .*=None"),
        (lambda: schedules.linear(0, np.nan, steps=1), ValueError, r"Argument `final` must be finite. .*=nan"),
        (
            lambda: schedules.linear(1, 0, steps=0),
            ValueError,
            r"Argument `steps` must be finite and above 0. Received: steps=0",
        ),
        (
            lambda: schedules.linear(1, 0, steps=1, start=-1),
            ValueError,
            r"Argument `start` must be finite and at least 0. .*=-1",
        ),
        (
            lambda: schedules.exponential(1, 0, half_life=-2),
            ValueError,
            r"Argument `half_life` must be finite and above 0. .*=-2",
        ),
        (
            lambda: schedules.as_schedule("x", "beta"),
            TypeError,
            r"Argument `beta` must be a number or a function .*'x'",
        ),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()
