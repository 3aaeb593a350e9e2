"""What the writer hands to a learner."""

import types

import numpy as np
import pytest

from sota_dqn.storage import Storage
from sota_dqn.writer import Writer


@pytest.mark.parametrize("count", [0, 5, 7, 2**30 - 1, 2**30, 2**31 + 3, 2**40 + 6])
def test_rows_are_counted_beyond_32_bits(count):
    """Of a stream that is full the device needs no more than that, and where its newest row is."""
    storage = Storage(2, 7, observation_shape=(1,), observation_dtype="float32")
    told = []
    replay = types.SimpleNamespace(storage=storage)
    learner = types.SimpleNamespace(replay=replay, add=lambda rows, steps, count, states, td_error: told.append(count))
    Writer(learner).write(np.array([0]), np.array([count - 1]), None, np.array([count, 3]))
    (found, other), dtype = told[0], told[0].dtype
    assert dtype == "int32" and other == 3
    assert found % 7 == count % 7 and min(found, 14) == min(count, 14)
    assert found == count or count >= 2**30
