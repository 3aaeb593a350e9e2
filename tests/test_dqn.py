"""One update of `DQNLearner` against numbers by hand and against a slow NumPy version of it.

The golden trace is made by `KERAS_BACKEND=tensorflow python tests/test_dqn.py`; both backends must give it.
"""

import itertools
import json
import pathlib

import keras
import numpy as np
import pytest
import reference
from learners import BATCH, CAPACITY, ROWS, STREAMS, UPDATES, Masked, linear_model, make_learner, one_row, random_rows

from sota_dqn import Replay, backend, layers, losses, samplers, schedules, targets
from sota_dqn.returns import Bounds, Rescaling

GOLDEN = pathlib.Path(__file__).parent / "golden" / "dqn.json"
STEP = 500  # environment steps so far


def returns_to_go(rows, discount):
    """The returns of the episodes that terminated, -inf in the others, and on final observations."""
    returns = np.full(rows.reward.shape, -np.inf)
    for stream, last in zip(*np.nonzero(rows.terminated), strict=True):
        total, time = 0.0, last
        while time >= 0 and rows.valid[stream, time] and (time == last or not rows.terminated[stream, time]):
            total = rows.reward[stream, time] + discount * total
            returns[stream, time] = total
            time -= 1
    return returns


class Oracle:
    """The same learner in float64, one sample at a time: a linear model, SGD, and derivatives by differences."""

    def __init__(
        self, kernel, rows, *, target, n_step, discount, target_update, loss, penalty=None, bounds=None, returns=None,
        prioritized=None, rate=0.1, rescaling=None, reach=0,
    ):  # fmt: skip
        # (h, its inverse)
        self.squash, self.unsquash = rescaling or (lambda x: x, lambda x: x)
        self.kernel, self.rows, self.returns = np.array(kernel, "float64"), rows, returns
        self.target_kernel = self.kernel.copy()
        self.target, self.n_step, self.discount = target, n_step, discount
        self.target_update, self.loss, self.penalty, self.bounds = target_update, loss, penalty, bounds
        self.rate, self.prioritized = rate, prioritized  # (alpha, beta, epsilon)
        after = max(n_step, reach, bounds.horizons + 1 if bounds else 0)
        self.places = [
            (stream, time) for stream in range(STREAMS) for time in range(ROWS - after) if rows.valid[stream, time]
        ]
        self.priority = dict.fromkeys(self.places, 1.0)
        self.updates = 0

    def sample(self, uniform):
        cumulative = np.cumsum([self.priority[place] for place in self.places])
        points = (np.arange(len(uniform)) + uniform) / len(uniform) * cumulative[-1]
        return [self.places[np.searchsorted(cumulative, point, side="right")] for point in points]

    def values(self, stream, time, kernel):
        return self.rows.observation[stream, time].astype("float64") @ kernel

    def judged(self, stream, time):
        kernel = self.kernel if self.target_update is None else self.target_kernel
        return self.values(stream, time, kernel)

    def bounds_of(self, stream, time):
        rows, horizons = self.rows, self.bounds.horizons
        around = slice(time, time + horizons + 2)
        values = [self.unsquash(max(self.judged(stream, t))) for t in range(time, time + horizons + 2)]
        to_go = -np.inf if self.returns is None else self.returns[stream, time]
        window = rows.reward[stream, around], rows.terminated[stream, around], rows.valid[stream, around]
        lower = self.squash(reference.lower_bound(*window, values, horizons, self.discount, to_go))
        if not self.bounds.upper:
            return lower, np.inf
        before = range(time - horizons - 1, time)
        connected = [t >= 0 and all(rows.valid[stream, t:time]) for t in before]
        times = [max(t, 0) for t in before]  # what is not connected does not count
        taken = [self.unsquash(self.judged(stream, t)[rows.action[stream, t]]) for t in times]
        past = rows.reward[stream, times].astype("float64"), rows.terminated[stream, times]
        return lower, self.squash(reference.upper_bound(*past, connected, taken, self.discount))

    def update(self, uniform):
        self.updates += 1
        sample, rows = self.sample(uniform), self.rows
        weights = np.ones(len(sample))
        if self.prioritized:
            priority = np.array([self.priority[place] for place in sample])
            weights = (min(priority) / priority) ** self.prioritized[1]
        total, gradient, errors = 0.0, np.zeros_like(self.kernel), []
        for weight, (stream, time) in zip(weights, sample, strict=True):
            window = rows.reward[stream, time:], rows.terminated[stream, time:], rows.valid[stream, time:]
            reward, factor, length = reference.n_step(*window, self.n_step, self.discount)
            values = self.values(stream, time + length, self.kernel)
            value = self.target(values, self.judged(stream, time + length))
            y = self.squash(reward + factor * self.unsquash(value))
            action = rows.action[stream, time]
            q = self.values(stream, time, self.kernel)[action]
            if self.bounds:
                bounds = self.bounds_of(stream, time)
                loss = lambda q, y=y, bounds=bounds: self.penalty(q, y, *bounds)  # noqa: E731
            else:
                loss = lambda q, y=y: self.loss(y, q)  # noqa: E731
            share = weight / len(sample)
            total += share * loss(q)
            slope = (loss(q + 1e-6) - loss(q - 1e-6)) / 2e-6
            gradient[:, action] += share * slope * rows.observation[stream, time]
            errors.append(y - q)
        self.kernel -= self.rate * gradient
        if self.prioritized:
            alpha, _, epsilon = self.prioritized
            for place, error in zip(sample, errors, strict=True):
                self.priority[place] = (abs(error) + epsilon) ** alpha
        if isinstance(self.target_update, float):
            self.target_kernel += self.target_update * (self.kernel - self.target_kernel)
        elif self.target_update and self.updates % self.target_update == 0:
            self.target_kernel = self.kernel.copy()
        return {"loss": total, "td_error": np.mean(np.abs(errors))}


def stored_priorities(learner):
    """Returns the leaf of every row, `[E, T]`."""
    storage = learner.replay.storage
    leaves = keras.ops.convert_to_numpy(learner.replay.sampler.tree.read(np.arange(storage.bin, dtype="int32")))
    return leaves.reshape(storage.num_streams, -1)


def check_against_oracle(settings, oracle_settings, *, sampler=None, prioritized=None, returns=False, calls=2):
    random = np.random.default_rng(7)
    rows, kernel = random_rows(random), random.normal(size=(3, 3)).astype("float32")
    to_go = returns_to_go(rows, 0.9) if returns else None
    model = linear_model(kernel)
    learner = make_learner(
        model, Replay(CAPACITY, sampler=sampler or samplers.Uniform()), rows=rows, returns=to_go, **settings
    )
    common = {name: settings[name] for name in ("n_step", "target_update") if name in settings}
    common = {"n_step": 1, "target_update": None, "discount": 0.9, "loss": reference.huber, **common}
    oracle = Oracle(kernel, rows, returns=to_go, prioritized=prioritized, **{**common, **oracle_settings})
    uniform = np.random.default_rng(1).random((calls, UPDATES, BATCH), dtype="float32")
    for call in range(calls):
        metrics = learner.learn(STEP)
        expected = [oracle.update(numbers) for numbers in uniform[call].astype("float64")]
        for name in ("loss", "td_error"):
            numbers = [update[name] for update in expected]
            np.testing.assert_allclose(keras.ops.convert_to_numpy(metrics[name]), numbers, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(model.get_weights()[0], oracle.kernel, rtol=1e-4, atol=1e-5)
        if settings.get("target_update") is not None:
            target = keras.ops.convert_to_numpy(learner.target_variables[0])
            np.testing.assert_allclose(target, oracle.target_kernel, rtol=1e-4, atol=1e-5)
        leaves = stored_priorities(learner)
        for (stream, time), value in np.ndenumerate(leaves):
            expected_leaf = oracle.priority.get((stream, time), 0.0)
            assert value == pytest.approx(expected_leaf, rel=1e-3, abs=1e-5), (stream, time)
    assert learner.compilations() == 1


TARGETS = {
    "maximum": (targets.maximum, lambda values, judged: max(judged)),
    "double": (targets.double, reference.double),
    "mellowmax": (targets.mellowmax(5), lambda values, judged: reference.mellowmax(judged, 5)),
    "expected_sarsa": (targets.expected_sarsa(0.3), lambda v, j: reference.expected_sarsa(v, j, 0.3)),
    "expected_sarsa of a schedule": (  # 0.5 at step 500
        targets.expected_sarsa(schedules.linear(1.0, 0.0, steps=1000)),
        lambda v, j: reference.expected_sarsa(v, j, 0.5),
    ),
}


@pytest.mark.parametrize(
    ("name", "n_step", "target_update"),
    [
        ("maximum", 1, 0.2),
        ("maximum", 3, 3),
        ("double", 3, 0.2),
        ("double", 1, 3),
        ("mellowmax", 3, None),
        ("expected_sarsa", 1, 0.2),
        ("expected_sarsa of a schedule", 3, None),
    ],
)
def test_update_agrees_with_the_oracle(name, n_step, target_update):
    ours, theirs = TARGETS[name]
    settings = {"target": ours, "n_step": n_step, "target_update": target_update}
    check_against_oracle(settings, {"target": theirs})


def test_a_schedule_of_n_steps_agrees_with_the_oracle():
    settings = {"target": targets.double, "n_step": schedules.linear(5, 1, steps=1000), "target_update": 0.2}
    check_against_oracle(settings, {"target": reference.double, "n_step": 3, "reach": 5})  # 3 at step 500


def test_prioritized_update_agrees_with_the_oracle():
    sampler = samplers.Prioritized(0.7, schedules.linear(0.4, 0.8, steps=1000), epsilon=0.01)  # beta 0.6 at step 500
    settings = {"target": targets.double, "n_step": 3, "target_update": 0.2}
    check_against_oracle(settings, {"target": reference.double}, sampler=sampler, prioritized=(0.7, 0.6, 0.01), calls=3)


HE = (losses.lower_bound(4.0), lambda q, y, lower, upper: reference.lower_bound_penalty(q, y, lower, upper, 4.0))
LINEAR = (losses.linear_lower_bound(), lambda q, y, lower, _: reference.linear_lower_bound_penalty(q, y, lower))


@pytest.mark.parametrize(
    ("bounds", "penalty"),
    [
        (Bounds(3), HE),
        (Bounds(3, upper=True), HE),
        (Bounds(2, return_to_go=True), HE),
        (Bounds(2, return_to_go=True), LINEAR),
    ],
    ids=["lower", "upper", "return to go", "linear"],
)
def test_update_with_bounds_agrees_with_the_oracle(bounds, penalty):
    ours, theirs = penalty
    settings = {"bounds": bounds, "penalty": ours, "target": targets.double, "n_step": 3, "target_update": 0.2}
    oracle = {"bounds": bounds, "penalty": theirs, "target": reference.double}
    check_against_oracle(settings, oracle, returns=bounds.return_to_go)


@pytest.mark.parametrize("n_step", [1, 2, 4, 5])
def test_bounds_of_two_to_four_steps_beside_a_target_of_n_steps(n_step):
    settings = {"bounds": Bounds(3), "penalty": HE[0], "target": targets.double, "n_step": n_step, "target_update": 0.2}
    oracle = {"bounds": Bounds(3), "penalty": HE[1], "target": reference.double}
    check_against_oracle(settings, oracle)


@pytest.mark.parametrize("bounds", [None, Bounds(3), Bounds(2, upper=True, return_to_go=True)])
def test_rescaled_update_agrees_with_the_oracle(bounds):
    epsilon = 0.01
    both = lambda x: reference.squash(x, epsilon), lambda x: reference.unsquash(x, epsilon)
    settings = {"target": targets.double, "n_step": 3, "target_update": 0.2, "rescaling": Rescaling(epsilon)}
    oracle = {"target": reference.double, "rescaling": both}
    if bounds:
        settings |= {"bounds": bounds, "penalty": HE[0]}
        oracle |= {"bounds": bounds, "penalty": HE[1]}
    check_against_oracle(settings, oracle, returns=bool(bounds and bounds.return_to_go))


@pytest.mark.parametrize(
    "settings",
    [
        {"target": targets.maximum},
        {"target": targets.double, "rescaling": Rescaling()},
        {"rescaling": Rescaling(), "bounds": Bounds(3, upper=True, return_to_go=True), "penalty": HE[0]},
    ],
    ids=["maximum", "rescaled double", "rescaled bounds"],
)
def test_actions_of_minus_infinity_are_as_if_they_were_not_there(settings):
    """Updates are those of a model that gives them a very low value instead."""
    random = np.random.default_rng(7)
    rows, kernel = random_rows(random, num_actions=2), random.normal(size=(3, 3)).astype("float32")
    for stream, final in ((0, 6), (0, 15), (1, 4)):  # after a termination no action is legal, and 0 is stored
        rows.observation[stream, final, 0] = 9.0
        rows.action[stream, final] = 0
    traces = []
    for value in (-np.inf, -1e9):
        observation = keras.Input((3,))
        values = keras.layers.Dense(3, use_bias=False)(observation)
        model = keras.Model(observation, Masked(value)(values, observation))
        model.set_weights([kernel])
        replay = Replay(CAPACITY, sampler=samplers.Prioritized(0.7))
        common = {"rows": rows, "returns": returns_to_go(rows, 0.9), "n_step": 2, "target_update": 0.2}
        learner = make_learner(model, replay, **common, **settings)
        traces.append(trace(learner, 2))
    for name, expected in traces[1].items():
        assert np.isfinite(traces[0][name]).all(), name
        np.testing.assert_allclose(traces[0][name], expected, rtol=1e-5, atol=1e-6, err_msg=name)
    assert not np.allclose(traces[0]["weights"], kernel.ravel())


@pytest.mark.parametrize(
    ("case", "y"),
    [
        ({}, 1 + 0.5 * 2 * 2.0),  # the best action of the second row has the value 2 * 2
        ({"final": True}, 1 + 0.5 * 2 * 2.0),  # so it has where a time limit cut the episode off
        ({"terminated": 1, "final": True}, 1.0),  # a termination has no value after it
        ({"terminated": 1}, 1.0),  # nor has a life lost in a game that goes on
    ],
)
def test_one_update_by_hand(case, y):
    model = linear_model([[0.5, 2.0]])  # q of the first row's action is 0.5
    learner = make_learner(
        model,
        Replay(8, sampler=samplers.Prioritized(0.5, epsilon=1e-6)),
        observation=(1,),
        rows=one_row(**case),
        discount=0.5,
        loss=losses.squared,
        target_update=0.25,
        batch_size=1,
        updates_per_call=1,
    )
    metrics = learner.learn(0)
    error = y - 0.5
    assert float(metrics["loss"][0]) == pytest.approx(error**2)
    assert float(metrics["q"][0]) == pytest.approx(0.5)
    assert float(metrics["td_error"][0]) == pytest.approx(error)
    moved = 0.5 + 0.1 * 2 * error  # SGD at 0.1 on (y - q)^2
    np.testing.assert_allclose(model.get_weights()[0], [[moved, 2.0]], rtol=1e-6)
    target = keras.ops.convert_to_numpy(learner.target_variables[0])
    np.testing.assert_allclose(target, [[0.25 * moved + 0.75 * 0.5, 2.0]], rtol=1e-6)
    np.testing.assert_allclose(stored_priorities(learner)[0, :3], [np.sqrt(error), 0, 0], rtol=1e-5)


def test_target_model_is_copied_at_multiples_of_the_interval_and_only_there():
    model = linear_model([[0.5, 2.0]])
    learner = make_learner(
        model, Replay(8), observation=(1,), rows=one_row(), target_update=3, batch_size=1, updates_per_call=1
    )
    copied = [model.get_weights()[0]]
    for number in range(1, 8):
        learner.learn(0)
        now = model.get_weights()[0]
        assert not np.array_equal(now, copied[-1])
        if number % 3 == 0:
            copied.append(now)
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(learner.target_variables[0]), copied[-1])


def test_a_target_model_of_half_precision_follows_by_small_parts():
    """A hundredth of a difference is less than bfloat16 can add to a weight."""
    layer = keras.layers.Dense(2, use_bias=False, dtype="bfloat16")
    model = keras.Sequential([keras.Input((3,)), layer])
    learner = make_learner(model, Replay(CAPACITY), rows=random_rows(np.random.default_rng(0)), target_update=0.01)
    model.set_weights([np.ones((3, 2), "float32")])
    learner.target_variables[0].assign(np.zeros((3, 2)))
    for _ in range(100):
        learner.update_target(1)
    found = keras.ops.convert_to_numpy(learner.target_variables[0])
    np.testing.assert_allclose(found, 1 - 0.99**100, rtol=1e-4)
    judged = keras.ops.convert_to_numpy(learner.target_values(np.ones((1, 3), "float32")))
    np.testing.assert_allclose(judged, 3 * (1 - 0.99**100), rtol=1e-2)


@pytest.mark.parametrize("target_update", [0.5, 300])
def test_updates_are_counted_beyond_32_bits(target_update):
    rows = random_rows(np.random.default_rng(0))
    model = linear_model(np.ones((3, 2)))
    learner = make_learner(model, Replay(CAPACITY), rows=rows, optimizer=keras.optimizers.SGD(0.1), target_update=0.5)
    learner.target_update = target_update
    learner.updates = 300 * 2**33 - UPDATES
    before = keras.ops.convert_to_numpy(learner.target_variables[0])
    learner.learn(0)
    assert learner.updates == 300 * 2**33  # at which the target model is copied
    after = keras.ops.convert_to_numpy(learner.target_variables[0])
    assert (after != before).any()
    assert target_update < 1 or np.array_equal(after, model.get_weights()[0])


def test_without_a_target_model_there_is_no_second_copy():
    learner = make_learner(linear_model([[0.5, 2.0]]), Replay(8), observation=(1,), rows=one_row(), batch_size=1)
    assert learner.target_variables == []


def deep_learner(random, *, convolves=False, **changes):
    """A learner with all that it can have, on random rows; its weights come from `random` alone.

    `convolves` puts a convolution over all three features in the place of the first layer, which computes the same.
    """
    convolution = [keras.layers.Reshape((3, 1, 1)), keras.layers.Conv2D(6, (3, 1)), keras.layers.Flatten()]
    model = keras.Sequential(
        [
            keras.Input((3,)),
            *(convolution if convolves else [keras.layers.Dense(6)]),
            keras.layers.LayerNormalization(),
            keras.layers.Activation("relu"),
            layers.Dueling(3, units=4),
        ]
    )
    model.set_weights([random.normal(0, 0.5, weight.shape).astype("float32") for weight in model.get_weights()])
    rows = random_rows(random)
    return make_learner(
        model,
        Replay(CAPACITY, sampler=samplers.Prioritized(0.6, 0.4)),
        optimizer=keras.optimizers.Adam(1e-2, global_clipnorm=1.0),
        rows=rows,
        **{
            "target": targets.double,
            "n_step": 3,
            "bounds": Bounds(3, upper=True, return_to_go=True),
            "penalty": losses.lower_bound(4.0),
            "returns": returns_to_go(rows, 0.9),
            "target_update": 0.05,
            **changes,
        },
    )


def trace(learner, calls):
    """Returns the metrics of so many calls and the weights, target weights and priorities after them."""
    metrics = [learner.learn(STEP) for _ in range(calls)]
    return {
        **{name: np.concatenate([m[name] for m in metrics]).tolist() for name in learner.metrics},
        "weights": np.concatenate([w.ravel() for w in learner.model.get_weights()]).tolist(),
        "target": np.concatenate([np.ravel(v) for v in learner.target_variables]).tolist(),
        "priorities": stored_priorities(learner)[:, :ROWS].ravel().tolist(),
    }


@pytest.fixture(scope="module")
def traced():
    """The learner of the golden trace, and its trace."""
    learner = deep_learner(np.random.default_rng(11))
    return learner, trace(learner, calls=5)


def test_both_backends_give_the_golden_trace(traced):
    """20 updates with Adam: single float32 operations differ in their last bit, and the updates pass that on."""
    golden = json.loads(GOLDEN.read_text())
    assert golden["settings"] == golden_settings()
    for name, values in traced[1].items():
        np.testing.assert_allclose(values, golden[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_fused_updates_equal_single_ones(traced):
    single = trace(deep_learner(np.random.default_rng(11), updates_per_call=1), calls=5 * UPDATES)
    for name, values in traced[1].items():
        np.testing.assert_allclose(values, single[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_convolutions_are_compiled_otherwise_and_learn_the_same(traced):
    learner = deep_learner(np.random.default_rng(11), convolves=True)
    assert learner.program.plan == backend.plan(convolutions=True)
    for name, values in trace(learner, calls=5).items():
        np.testing.assert_allclose(values, traced[1][name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert learner.compilations() == 1


def golden_settings():
    """What the trace was made with, so that a change of it is not taken for a bug."""
    return {
        "command": "KERAS_BACKEND=tensorflow python tests/test_dqn.py",
        "model": "Dense 6, LayerNormalization, relu, Dueling 3 of 4 units",
        "optimizer": "Adam 0.01, global norm 1",
        "learner": "double, 3 steps, discount 0.9, target blend 0.05, Bounds(3, upper, return to go), weight 4, Huber",
        "replay": "Prioritized(0.6, 0.4)",
        "numbers": f"weights and rows of default_rng(11), {BATCH} of default_rng(1) per update",
        "updates": 5 * UPDATES,
    }


def test_compiles_once_whatever_happens_between_two_calls(traced, tmp_path):
    learner, _ = traced
    model, optimizer = learner.model, learner.optimizer
    for change in itertools.chain(
        [
            lambda: setattr(optimizer, "learning_rate", 1e-3),
            lambda: optimizer.learning_rate.assign(0.5),
            lambda: model.set_weights([0.5 * weight for weight in model.get_weights()]),
            lambda: model(np.zeros((2, 3), "float32")),
            lambda: model.save(tmp_path / "model.keras"),
        ],
        itertools.repeat(lambda: None, 3),
    ):
        learner.learn(STEP)
        change()
    learner.learn(10 * STEP)
    assert learner.compilations() == 1


def test_learning_rate_set_between_two_calls_counts():
    learner = make_learner(
        linear_model([[0.5, 2.0]]), Replay(8), observation=(1,), rows=one_row(), batch_size=1, updates_per_call=1
    )
    learner.learn(0)
    before = learner.model.get_weights()[0]
    learner.optimizer.learning_rate = 0.0
    learner.learn(0)
    np.testing.assert_array_equal(learner.model.get_weights()[0], before)
    learner.optimizer.learning_rate = 0.5
    error = 1 + 0.9 * 2 * 2.0 - before[0, 0]  # its target is the model itself; the Huber loss clips what is above 1
    assert error > 1
    learner.learn(0)
    np.testing.assert_allclose(learner.model.get_weights()[0], before + [[0.5, 0.0]], rtol=1e-6)


if __name__ == "__main__":
    made = trace(deep_learner(np.random.default_rng(11)), calls=5)
    GOLDEN.write_text(json.dumps({"settings": golden_settings(), **made}, indent=1) + "\n")
