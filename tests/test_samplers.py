import keras
import numpy as np
import pytest
from keras import ops
from transforms import evaluated

from sota_dqn import backend, samplers

ALMOST_ONE = np.float32(1 - 2**-24)  # the largest float32 below 1
PLAN = backend.Plan(xla=True, fused=True, threads=False)
SIZES = [1, 2, 31, 32, 33, 1000, 1025, 3000]


class Built:
    """A sampler that has been built, with its methods compiled."""

    def __init__(self, sampler, num_rows):
        sampler.build(num_rows)
        self.sampler, self.variables = sampler, sampler.variables
        for name in ("admit", "retire", "sample", "update"):
            setattr(self, name, compiled(getattr(sampler, name), sampler.variables))

    def priorities(self, rows):
        return evaluated(self.sampler.tree.read, np.array(rows, "int32"), variables=self.variables)


def compiled(function, variables):
    """Returns `function` compiled, which may assign `variables`, with NumPy outputs."""
    program = backend.Program([], variables, PLAN).compile(function)

    def call(*arguments):
        return keras.tree.map_structure(ops.convert_to_numpy, program(*arguments))

    return call


class Tree:
    """A sum tree, the leaves that it should have, and its compiled functions."""

    def __init__(self, size, **settings):
        self.tree = samplers.SumTree(size, **settings)
        self.leaves = np.zeros(size, "float32")
        self._write = compiled(self.tree.write, self.tree.levels)
        self.find = compiled(self.tree.find, self.tree.levels)
        self.read = compiled(self.tree.read, self.tree.levels)

    def write(self, leaves, values):
        leaves, values = np.asarray(leaves, "int32"), np.asarray(values, "float32")
        self._write(leaves, values)
        self.leaves[leaves] = values
        self.check()

    def check(self):
        """The leaves are as written, and every entry is the sum of its row below."""
        levels = [ops.convert_to_numpy(level.value) for level in self.tree.levels]
        below = levels[0].reshape(-1)
        np.testing.assert_array_equal(below[: len(self.leaves)], self.leaves)
        assert not below[len(self.leaves) :].any()
        for row_sums, level in zip([level.astype("float64").sum(-1) for level in levels], levels[1:], strict=False):
            entries = level.reshape(-1)
            np.testing.assert_allclose(entries[: len(row_sums)], row_sums, rtol=1e-6)
            assert not entries[len(row_sums) :].any()
        assert len(levels[-1]) == 1
        np.testing.assert_allclose(ops.convert_to_numpy(self.tree.total()), levels[-1].sum(), rtol=1e-6)


def test_the_shape_of_a_tree():
    tree = samplers.SumTree(5, bits=1)
    assert [tuple(level.shape) for level in tree.levels] == [(3, 2), (2, 2), (1, 2)]
    assert [tuple(level.shape) for level in samplers.SumTree(2**20).levels] == [
        (131_072, 8),
        (16_384, 8),
        (2_048, 8),
        (256, 8),
        (32, 8),
        (4, 8),
        (1, 4),
    ]
    assert [tuple(level.shape) for level in samplers.SumTree(3).levels] == [(1, 4)]


def test_a_tree_by_hand():
    tree = Tree(5, bits=1)
    tree.write([0, 1, 2, 3, 4], [1, 0, 3, 4, 2])
    levels = [ops.convert_to_numpy(level.value).tolist() for level in tree.tree.levels]
    assert levels == [[[1, 0], [3, 4], [2, 0]], [[1, 7], [2, 0]], [[8, 2]]]
    leaves, values = tree.find(np.array([0, 0.05, 0.11, 0.39, 0.41, 0.79, 0.81, 0.99], "float32"))
    np.testing.assert_array_equal(leaves, [0, 0, 2, 2, 3, 3, 4, 4])
    np.testing.assert_array_equal(values, [1, 1, 3, 3, 4, 4, 2, 2])
    np.testing.assert_array_equal(tree.read(np.array([4, 1, 2], "int32")), [2, 0, 3])


@pytest.mark.parametrize("size", SIZES)
def test_the_tree_holds_after_every_operation(random, size):
    tree = Tree(size)
    fractions = np.concatenate([random.random(60, "float32"), np.float32([0, 0, 1e-30, ALMOST_ONE])])
    for round in range(12):
        leaves = random.choice(size, min(size, 40), replace=False)
        leaves = np.resize(leaves, 40)  # repeated where there are fewer
        values = 10.0 ** random.uniform(-8, 8, size) if round % 2 else random.random(size)
        values[random.random(size) < 0.5] = 0
        tree.write(leaves, values[leaves])
        np.testing.assert_array_equal(tree.read(np.asarray(leaves, "int32")), tree.leaves[leaves])
        if tree.leaves.any():
            found, found_values = tree.find(fractions)
            assert found.dtype == "int32"
            assert (found_values > 0).all()
            np.testing.assert_array_equal(found_values, tree.leaves[found])


def test_zero_leaves_are_never_found(random):
    # One leaf above zero, first, last or in the middle, beside much larger ones or alone.
    size, ends = 1025, np.float32([0, 0.5, ALMOST_ONE, 1 - 1e-6] * 16)
    tree = Tree(size)
    for leaf in (0, 31, 32, 1000, 1023, 1024):
        for value in (1e-12, 1.0, 1e12):
            tree.write([leaf], [value])
            assert set(tree.find(ends)[0].tolist()) == {leaf}
        tree.write([leaf], [0])
    tree.write([7, 500, 1024], [1e-10, 1e10, 1e-10])
    assert set(tree.find(ends)[0].tolist()) <= {7, 500, 1024}


def test_leaves_are_found_in_order():
    # A fraction reaches the leaf that the running sum passes it in.
    size = 100
    tree = Tree(size)
    tree.write(np.arange(size), np.ones(size))
    np.testing.assert_array_equal(tree.find((np.arange(64, dtype="float32") + 0.5) / 100)[0], np.arange(64))


@pytest.mark.parametrize("scale", ["even", "uneven"])
def test_frequencies_are_the_probabilities(random, scale):
    size, draws = 300, 1 << 16
    values = random.random(size) if scale == "even" else 10.0 ** random.uniform(-3, 3, size)
    values[::7] = 0
    tree = Tree(size)
    tree.write(np.arange(size), values)
    # Evenly spaced fractions: the count of a leaf differs from its share by less than the rounding of the ends.
    found, _ = tree.find((np.arange(draws, dtype="float32") + 0.5) / draws)
    counts = np.bincount(found, minlength=size)
    expected = draws * values / values.sum()
    np.testing.assert_allclose(counts, expected, atol=2.0)
    # Independent fractions: a chi-square statistic of its degrees of freedom, give or take 5 standard deviations.
    found, _ = tree.find(random.random(draws, "float32"))
    counts = np.bincount(found, minlength=size)
    often = expected >= 5
    statistic = np.sum((counts[often] - expected[often]) ** 2 / expected[often])
    assert abs(statistic - often.sum()) < 5 * np.sqrt(2 * often.sum())
    assert not counts[values == 0].any()


def test_stratify():
    result = ops.convert_to_numpy(samplers.stratify(np.float32([0, 0.5, ALMOST_ONE, 0.25])))
    np.testing.assert_allclose(result, [0, 0.375, 0.75, 0.8125])


# Uniform


def test_uniform_draws_rows_that_are_admitted():
    sampler = Built(samplers.Uniform(), 10)
    sampler.admit(np.array([1, 3, 5, 7], "int32"), np.float32([1, 1, 0, 1]))
    rows, weights = sampler.sample(np.full(6, 0.5, "float32"), np.float32(0))
    np.testing.assert_array_equal(rows, [1, 1, 3, 3, 7, 7])
    np.testing.assert_array_equal(weights, np.ones(6))
    sampler.update(rows, np.full(6, 100, "float32"))
    sampler.retire(np.array([3, 5], "int32"))
    rows, _ = sampler.sample(np.full(6, 0.5, "float32"), np.float32(0))
    np.testing.assert_array_equal(rows, [1, 1, 1, 7, 7, 7])


# Prioritized


def test_priorities_by_hand():
    sampler = Built(samplers.Prioritized(alpha=0.5, beta=1.0, epsilon=1.0), 8)
    sampler.admit(np.array([0, 1, 2, 3], "int32"), np.ones(4, "float32"))
    np.testing.assert_array_equal(sampler.priorities([0, 1, 2, 3, 4]), [1, 1, 1, 1, 0])
    # |3| + 1 = 4, |-8| + 1 = 9, and their square roots.
    sampler.update(np.array([0, 1], "int32"), np.float32([3, -8]))
    np.testing.assert_allclose(sampler.priorities([0, 1, 2, 3]), [2, 3, 1, 1])
    # New rows get the highest priority seen, also after that row is gone.
    sampler.update(np.array([1], "int32"), np.float32([0]))
    sampler.retire(np.array([0], "int32"))
    sampler.admit(np.array([4, 5], "int32"), np.float32([1, 0]))
    np.testing.assert_allclose(sampler.priorities(range(8)), [0, 1, 1, 1, 3, 0, 0, 0])


def test_first_priorities_by_hand():
    sampler = Built(samplers.Prioritized(alpha=0.5, epsilon=1.0), 8)
    # |8| + 1 = 9, |-3| + 1 = 4; the unknown gets the highest so far, and what may not be drawn counts for nothing.
    sampler.admit(np.arange(4, dtype="int32"), np.float32([1, 1, 1, 0]), np.float32([8, -3, np.nan, 99]))
    np.testing.assert_allclose(sampler.priorities(range(4)), [3, 2, 1, 0])
    sampler.admit(np.array([4, 5], "int32"), np.ones(2, "float32"), np.float32([np.nan, 0]))
    np.testing.assert_allclose(sampler.priorities([4, 5]), [3, 1])


@pytest.mark.parametrize("alpha", [0.6, 1.0])
@pytest.mark.parametrize("error", [np.nan, np.inf, 3e38])
def test_errors_of_a_model_that_diverges(alpha, error):
    """Rows are drawn as before, and priorities stay finite: a draw from a tree that is not would leave it."""
    sampler = Built(samplers.Prioritized(alpha=alpha), 64)
    rows = np.arange(48, dtype="int32")
    sampler.admit(rows, np.ones(48, "float32"), np.full(48, error, "float32"))
    for _ in range(2):
        sampler.update(rows, np.full(48, error, "float32"))
        assert np.isfinite(sampler.priorities(range(64))).all()
        drawn, weights = sampler.sample(np.full(32, 0.5, "float32"), np.float32(0))
        assert len({*drawn.tolist()} & {*range(48)}) == 32
        np.testing.assert_array_equal(weights, 1.0)


def test_weights_by_hand():
    sampler = Built(samplers.Prioritized(alpha=1.0, beta=0.5, epsilon=1.0), 4)
    sampler.admit(np.arange(3, dtype="int32"), np.ones(3, "float32"))
    sampler.update(np.arange(3, dtype="int32"), np.float32([0, 3, 11]))  # priorities 1, 4, 12 of 17
    # (N P)^-beta over the largest, which is the least likely row's: (1/1)^0.5, (1/4)^0.5, (1/12)^0.5.
    rows, weights = sampler.sample(np.full(17, 0.5, "float32"), np.float32(0))
    np.testing.assert_array_equal(rows, [0] + 4 * [1] + 12 * [2])
    np.testing.assert_allclose(weights, [1] + 4 * [0.5] + 12 * [12**-0.5], rtol=1e-5)


def test_weights_are_relative_to_the_batch():
    sampler = Built(samplers.Prioritized(alpha=1.0, beta=1.0, epsilon=1.0), 4)
    sampler.admit(np.arange(3, dtype="int32"), np.ones(3, "float32"))
    sampler.update(np.arange(3, dtype="int32"), np.float32([0, 49, 49]))
    rows, weights = sampler.sample(np.full(2, 0.5, "float32"), np.float32(0))  # the unlikely row is not drawn
    np.testing.assert_array_equal(rows, [1, 2])
    np.testing.assert_array_equal(weights, [1, 1])


def test_beta_follows_its_schedule():
    sampler = Built(samplers.Prioritized(alpha=1.0, beta=lambda step: step / 10, epsilon=1.0), 4)
    sampler.admit(np.arange(2, dtype="int32"), np.ones(2, "float32"))
    sampler.update(np.arange(2, dtype="int32"), np.float32([0, 3]))
    for step, expected in ((0, 1.0), (5, 0.5), (10, 0.25)):
        _, weights = sampler.sample(np.full(5, 0.5, "float32"), np.float32(step))
        np.testing.assert_allclose(weights, [1] + 4 * [expected], rtol=1e-5)


def test_the_default_beta_is_annealed():
    beta = samplers.Prioritized().beta
    assert [beta(step) for step in (0, 50_000, 100_000, 10**6)] == pytest.approx([0.4, 0.7, 1.0, 1.0])


def test_alpha_of_zero_is_uniform():
    sampler = Built(samplers.Prioritized(alpha=0, beta=1.0), 4)
    sampler.admit(np.arange(4, dtype="int32"), np.ones(4, "float32"))
    sampler.update(np.arange(4, dtype="int32"), np.float32([0, 1, 10, 1e6]))
    rows, weights = sampler.sample(np.full(4, 0.5, "float32"), np.float32(0))
    np.testing.assert_array_equal(rows, [0, 1, 2, 3])
    np.testing.assert_array_equal(weights, np.ones(4))


def test_a_row_drawn_twice_is_updated_once():
    sampler = Built(samplers.Prioritized(alpha=1.0, beta=1.0, epsilon=1.0), 40)
    sampler.admit(np.arange(40, dtype="int32"), np.ones(40, "float32"))
    sampler.update(np.array([3, 35, 3, 3, 35], "int32"), np.float32([4, 6, 4, 4, 6]))
    np.testing.assert_array_equal(sampler.priorities([2, 3, 35]), [1, 5, 7])
    assert sampler.priorities(range(40)).sum() == 38 + 5 + 7


def test_no_error_still_draws():
    sampler = Built(samplers.Prioritized(), 4)
    sampler.admit(np.arange(2, dtype="int32"), np.ones(2, "float32"))
    sampler.update(np.arange(2, dtype="int32"), np.zeros(2, "float32"))
    rows, weights = sampler.sample(np.float32([0, ALMOST_ONE]), np.float32(0))
    np.testing.assert_array_equal(rows, [0, 1])
    np.testing.assert_allclose(weights, [1, 1])


def test_fused_equals_one_by_one(random):
    # Draw, then write what was drawn: each repetition sees the priorities of those before.
    times, batch, size = 8, 16, 200
    uniform = random.random((times, batch), dtype="float32")
    results = []
    for fused in (True, False):
        sampler = samplers.Prioritized(alpha=0.7, beta=0.5)
        sampler.build(size)
        compiled(sampler.admit, sampler.variables)(np.arange(size, dtype="int32"), np.ones(size, "float32"))
        program = backend.Program([], sampler.variables, PLAN)

        def step(uniform, sampler=sampler):
            rows, weights = sampler.sample(uniform, np.float32(0))
            sampler.update(rows, ops.cast(rows % 7, "float32") * weights)
            return {"rows": ops.sum(ops.cast(rows, "float32")), "weights": ops.sum(weights)}

        if fused:
            repeated = program.compile(lambda x, p=program, s=step: p.repeat(s, (x,), ("rows", "weights")))
            outputs = keras.tree.map_structure(ops.convert_to_numpy, repeated(uniform))
        else:
            once = program.compile(step)
            single = [once(row) for row in uniform]
            outputs = {name: np.array([float(output[name]) for output in single]) for name in ("rows", "weights")}
        results.append((outputs, [ops.convert_to_numpy(variable.value) for variable in sampler.variables]))
    (outputs, variables), (expected, expected_variables) = results
    for name in outputs:
        np.testing.assert_allclose(outputs[name], expected[name], rtol=1e-6)
    for variable, expected_variable in zip(variables, expected_variables, strict=True):
        np.testing.assert_allclose(variable, expected_variable, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": -0.1}, "Argument `alpha` must be between 0 and 1. Received: alpha=-0.1"),
        ({"alpha": 1.1}, "Argument `alpha` must be between 0 and 1. Received: alpha=1.1"),
        ({"epsilon": 0}, "Argument `epsilon` must be finite and above 0. Received: epsilon=0"),
        ({"epsilon": np.inf}, "Argument `epsilon` must be finite and above 0. Received: epsilon=inf"),
        ({"beta": np.nan}, "Argument `beta` must be finite. Received: beta=nan"),
        ({"beta": 1.5}, "Argument `beta` must be between 0 and 1. Received: beta=1.5"),
        ({"beta": -1}, "Argument `beta` must be between 0 and 1. Received: beta=-1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        samplers.Prioritized(**arguments)


def test_bad_types():
    with pytest.raises(
        TypeError, match="Argument `beta` must be a number or a function of the step. Received: beta='1'"
    ):
        samplers.Prioritized(beta="1")
    with pytest.raises(TypeError, match="Argument `alpha` must be a number. Received: alpha='a'"):
        samplers.Prioritized(alpha="a")
    with pytest.raises(TypeError, match="Argument `alpha` must be a number. Received: alpha=True"):
        samplers.Prioritized(alpha=True)
