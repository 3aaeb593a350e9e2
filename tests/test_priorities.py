"""First errors against the windows that the learner reads, computed one by one."""

import numpy as np
import pytest

from sota_dqn.priorities import FirstErrors
from sota_dqn.returns import Rescaling

STREAMS, TIME = 3, 60
SEQUENCE = ("burn_in", "length", "eta")


def play(random):
    """Rows of three streams: (reward, terminated, valid, taken, best), each `[E, T]`; the last row of an episode that
    is cut off has no action of its own, and in stream 0 no values either."""
    terminated = random.random((STREAMS, TIME)) < 0.1
    valid = random.random((STREAMS, TIME)) > 0.15
    terminated &= valid
    valid[:, 1:] &= ~terminated[:, :-1]  # a final observation follows
    reward = np.where(valid, random.normal(size=(STREAMS, TIME)), 0.0)
    best = random.normal(size=(STREAMS, TIME))
    taken = best - random.random((STREAMS, TIME))
    best[0, ~valid[0]] = np.nan
    return reward, terminated, valid, taken, best


def expected(rows, stream, time, *, n_step, discount, rescaling):
    """The error of one row, by a loop; NaN for a final observation, and where a value is not known."""
    reward, terminated, valid, taken, best = (field[stream] for field in rows)
    if not valid[time]:
        return np.nan
    unsquash, squash = (np.asarray, np.asarray) if rescaling is None else (rescaling.unsquash, rescaling.squash)
    total = 0.0
    for k in range(n_step):
        now = time + k
        if not valid[now]:
            total += discount**k * float(unsquash(np.float32(best[now])))
            break
        total += discount**k * reward[now]
        if terminated[now]:
            break
    else:
        total += discount**n_step * float(unsquash(np.float32(best[time + n_step])))
    return abs(float(squash(np.float32(total))) - taken[time])


@pytest.mark.parametrize(
    "settings",
    [
        {"n_step": 1, "after": 1},
        {"n_step": 3, "after": 3},
        {"n_step": 2, "after": 5},
        {"n_step": 2, "after": 8, "burn_in": 3, "length": 4, "eta": 0.9},
        {"n_step": 3, "after": 3, "rescaling": Rescaling()},
    ],
)
def test_errors_are_those_of_a_loop(random, settings):
    rows = play(random)
    errors = FirstErrors(STREAMS, discount=0.9, **settings)
    after, n_step = settings["after"], settings["n_step"]
    burn_in, length, eta = (settings.get(name, default) for name, default in zip(SEQUENCE, (0, 1, 1.0), strict=True))
    known = 0
    for time in range(TIME):
        for streams in ([0, 2], [1]):  # not always all of them at once
            reward, terminated, valid, taken, best = (field[streams, time] for field in rows)
            found = errors.add(np.array(streams), reward, terminated, valid, taken=taken, best=best)
            if time < after:
                continue
            for stream, error in zip(streams, found, strict=True):
                first = time - after + burn_in
                alike = {"n_step": n_step, "discount": 0.9, "rescaling": settings.get("rescaling")}
                each = np.array([expected(rows, stream, t, **alike) for t in range(first, first + length)])
                each = each[~np.isnan(each)]
                if not len(each):
                    assert np.isnan(error)
                    continue
                np.testing.assert_allclose(error, eta * each.max() + (1 - eta) * each.mean(), rtol=1e-4, atol=1e-5)
                known += 1
    assert known > 60


def test_nothing_is_known_of_what_came_before(random):
    """The first rows of a stream complete no window."""
    errors = FirstErrors(1, after=2, n_step=2, discount=0.9)
    found = [errors.add(np.array([0]), 1.0, False, True, taken=0.0, best=1.0)[0] for _ in range(3)]
    np.testing.assert_allclose(found, [np.nan, np.nan, 1 + 0.9 + 0.81], rtol=1e-6)
