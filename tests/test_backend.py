import math

import keras
import numpy as np
import pytest
from keras import ops

from sota_dqn import backend

ON_JAX = backend.BACKEND == "jax"
PLANS = [backend.Plan(xla=True, fused=True, threads=False), backend.Plan(xla=True, fused=False, threads=True)]
FUSED = PLANS[0]


def variable(value, dtype="float32"):
    return keras.Variable(np.asarray(value, dtype), trainable=False, dtype=dtype)


def numpy(tensors):
    return keras.tree.map_structure(ops.convert_to_numpy, tensors)


# Programs


@pytest.mark.parametrize("plan", [*PLANS, backend.Plan(xla=False, fused=True, threads=False)])
def test_a_program_reads_and_assigns(plan):
    read, written = variable([1, 2]), variable([10, 20])
    program = backend.Program([read], [written], plan)

    def function(x):
        written.assign(written.value + x * read.value)
        return {"sum": ops.sum(written.value)}

    call = program.compile(function)
    assert numpy(call(np.float32(2))) == {"sum": 36}
    assert numpy(call(np.float32(1))) == {"sum": 39}
    np.testing.assert_array_equal(numpy(written.value), [13, 26])
    np.testing.assert_array_equal(numpy(read.value), [1, 2])


def test_a_variable_may_be_named_as_read_and_written():
    both = variable(1)
    call = backend.Program([both], [both], FUSED).compile(lambda: both.assign(both.value + 1))
    call()
    assert numpy(both.value) == 2


def test_a_program_takes_structures():
    call = backend.Program([], [], FUSED).compile(lambda pair, x: (pair[0] + x["a"], pair[1] * 2))
    first, second = numpy(call((np.float32([1]), np.int32([2])), {"a": np.float32([3])}))
    assert (first.tolist(), second.tolist()) == ([4], [4])


def test_a_program_returns_structures_whatever_the_order_of_names():
    def function(given, empty):
        assert empty == ()
        return {"z": given["z"] * 2, "a": [given["a"] + 1, ()]}

    call = backend.Program([], [], FUSED).compile(function)
    for shift in (0, 10):
        found = numpy(call({"z": np.float32(3 + shift), "a": np.float32([1])}, ()))
        assert found["z"] == 6 + 2 * shift
        assert (found["a"][0].tolist(), found["a"][1]) == ([2], ())


def test_a_program_sees_what_is_assigned_outside():
    read = variable(1)
    call = backend.Program([read], [], FUSED).compile(lambda x: read.value * x)
    assert numpy(call(np.float32(3))) == 3
    read.assign(5.0)
    assert numpy(call(np.float32(3))) == 15


def test_a_program_compiles_once_for_a_shape():
    total = variable(0)

    def function(x):
        total.assign(total.value + ops.sum(x))
        return total.value * 1

    call = backend.Program([], [total], FUSED).compile(function)
    assert call.compilations() == 0
    for _ in range(3):
        call(np.ones(4, "float32"))
    total.assign(7.0)
    call(np.zeros(4, "float32"))
    assert call.compilations() == 1
    call(np.ones(5, "float32"))
    assert call.compilations() == 2


def test_a_variable_made_of_a_python_number_compiles_once():
    weak, weak_read = keras.Variable(1.0), keras.Variable(2.0)
    program = backend.Program([weak_read], [weak], FUSED)

    def function(x):
        weak.assign(weak.value * weak_read.value + x)
        return {"weak": weak.value * 1}

    call = program.compile(lambda x: program.repeat(function, (x,), ("weak",)))
    for _ in range(3):
        outputs = call(np.zeros(2, "float32"))
    weak.assign(3.0)
    weak_read.assign(4.0)
    call(np.zeros(2, "float32"))
    assert call.compilations() == 1
    np.testing.assert_array_equal(numpy(outputs["weak"]), [32, 64])


@pytest.mark.skipif(not ON_JAX, reason="TensorFlow's variables are assigned in place")
@pytest.mark.parametrize("where", ["compile", "repeat", "value_and_grad"])
def test_assigning_a_variable_that_is_only_read(where):
    read, written = keras.Variable(np.float32(1), name="mine"), variable(1)
    program = backend.Program([read], [written], FUSED)

    def assign():
        read.assign(read.value + 1)
        return read.value * written.value

    functions = {
        "compile": assign,
        "repeat": lambda: program.repeat(lambda x: {"x": assign()}, (ops.zeros(2),), ("x",)),
        "value_and_grad": lambda: program.value_and_grad(lambda: (assign(), 0.0), [written]),
    }
    with pytest.raises(RuntimeError, match="A program assigned a variable that it may only read. Received: mine"):
        program.compile(functions[where])()
    assert numpy(read.value) == 1


def test_fused_equals_unrolled_equals_one_by_one(random):
    inputs = random.normal(size=(5, 3)).astype("float32"), np.arange(5, dtype="int32")
    names = ("total", "last")

    def run(plan):
        state, counter = variable([1, 2, 3]), variable(0, "int32")
        program = backend.Program([], [state, counter], plan or FUSED)

        def step(x, number):
            state.assign(0.5 * state.value + x)
            counter.assign(counter.value + number)
            return {"total": ops.sum(state.value), "last": ops.cast(counter.value, "float32"), "unused": 0.0}

        if plan:
            repeated = program.compile(lambda *inputs: program.repeat(step, inputs, names))
            outputs = numpy(repeated(*inputs))
        else:
            once = program.compile(step)
            single = [numpy(once(*row)) for row in zip(*inputs, strict=True)]
            outputs = {name: np.array([output[name] for output in single]) for name in names}
        assert set(outputs) == set(names)
        return [outputs["total"], outputs["last"], numpy(state.value), numpy(counter.value)]

    results = [run(plan) for plan in (*PLANS, None)]
    np.testing.assert_array_equal(results[0][1], [0, 1, 3, 6, 10])
    for result in results[1:]:
        for value, expected in zip(result, results[0], strict=True):
            assert value.dtype == expected.dtype
            np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("plan", PLANS)
def test_gradients_by_hand(plan):
    x, y, unused = variable([2, 3]), variable(5), variable([7])
    program = backend.Program([], [x, y, unused], plan)

    def loss():
        return ops.sum(ops.square(x.value)) * y.value, {"twice": 2 * y.value}

    call = program.compile(lambda: program.value_and_grad(loss, [x, y, unused]))
    (value, auxiliary), gradients = numpy(call())
    assert (value, auxiliary) == (65, {"twice": 10})
    np.testing.assert_array_equal(gradients[0], [20, 30])
    assert gradients[1] == 13
    np.testing.assert_array_equal(gradients[2], [0])


@pytest.mark.parametrize("plan", PLANS)
def test_the_state_of_layers_survives_the_gradient(plan, random):
    # BatchNormalization moves its averages and Dropout its seed inside the loss, once per repetition.
    layers = [keras.layers.BatchNormalization(momentum=0.5), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((2,)), *layers])
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    program = backend.Program([], [*model.variables, *optimizer.variables], plan)
    x = random.normal(size=(3, 8, 2)).astype("float32")
    seed = numpy(model.layers[1].seed_generator.state.value)

    def step(x):
        def loss():
            return ops.mean(model(x, training=True)), ()

        (value, _), gradients = program.value_and_grad(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return {"loss": value}

    program.compile(lambda x: program.repeat(step, (x,), ("loss",)))(x)
    mean = np.zeros(2)
    for batch in x:
        mean = 0.5 * mean + 0.5 * batch.mean(axis=0)
    np.testing.assert_allclose(numpy(model.layers[0].moving_mean.value), mean, rtol=1e-4, atol=1e-6)
    assert numpy(optimizer.iterations.value) == 3
    assert (numpy(model.layers[1].seed_generator.state.value) != seed).any()


# Rows


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (2,), (2, 3, 1)])
def test_rows_of_any_kind(dtype, shape):
    values = (np.arange(6 * int(np.prod(shape))) % 2 + 1).reshape(6, *shape).astype(dtype)
    rows = variable(np.zeros((6, *shape)), dtype)
    write = backend.Program([], [rows], backend.Plan(False, True, False)).compile(
        lambda where, values: backend.write_rows(rows, where, values)
    )
    write(np.array([4, 1], "int32"), values[[4, 1]])
    expected = np.zeros_like(values)
    expected[[4, 1]] = values[[4, 1]]
    np.testing.assert_array_equal(numpy(rows.value), expected)
    read = backend.Program([rows], [], FUSED).compile(lambda where: backend.read_rows(rows, where))
    where = np.array([[1, 4, 4], [0, 5, 1]], "int32")
    found = numpy(read(where))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected[where])


def test_single_elements_of_a_matrix():
    matrix = variable(np.zeros((3, 4)))
    where = np.array([[0, 1], [2, 3], [0, 1]], "int32")
    for plan in PLANS:
        write = backend.Program([], [matrix], plan).compile(
            lambda where, values: backend.write_rows(matrix, where, values)
        )
        write(where, np.float32([5, 6, 5]))
        np.testing.assert_array_equal(numpy(matrix.value), [[0, 5, 0, 0], [0] * 4, [0, 0, 0, 6]])


@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_assign_slices(size):
    values = np.arange(20, dtype="float32").reshape(10, 2)
    large = variable(np.zeros((10, 2)))
    backend.assign_slices(large, values, size)
    np.testing.assert_array_equal(numpy(large.value), values)
    call = backend.Program([large], [], FUSED).compile(lambda: ops.sum(large.value))
    assert numpy(call()) == 190


# The rest


@pytest.mark.parametrize(
    ("name", "device", "convolutions", "expected"),
    [
        ("tensorflow", "cpu", False, (True, True, False)),
        ("tensorflow", "cpu", True, (False, True, True)),
        ("tensorflow", "gpu", False, (True, True, True)),
        ("tensorflow", "gpu", True, (True, True, True)),
        ("jax", "cpu", False, (True, True, False)),
        ("jax", "cpu", True, (True, False, True)),
        ("jax", "gpu", False, (True, True, True)),
        ("jax", "gpu", True, (True, True, True)),
    ],
)
def test_plan(name, device, convolutions, expected):
    assert backend.plan(convolutions=convolutions, backend=name, device=device) == backend.Plan(*expected)


@pytest.mark.skipif(not ON_JAX, reason="an option of XLA's that TensorFlow does not pass on")
@pytest.mark.parametrize(("kernels", "known"), [(None, True), ({"xla_cpu_no_such_option": True}, False)])
def test_kernels_that_xla_does_not_know_are_its_own_choice(monkeypatch, kernels, known):
    from sota_dqn.backend import jax as backend_jax

    backend_jax._known_kernels.cache_clear()
    if kernels is not None:
        monkeypatch.setattr(backend_jax, "KERNELS", kernels)
    try:
        assert backend_jax._known_kernels() == (backend_jax.KERNELS if known else {})
        assert numpy(backend.Program([], [], FUSED).compile(lambda x: x + 1)(np.float32(1))) == 2
    finally:
        backend_jax._known_kernels.cache_clear()


def test_plan_asks_for_the_device():
    assert backend.plan(convolutions=True) == backend.plan(convolutions=True, device=backend.device_kind())


def test_memory_is_known_on_a_cpu(monkeypatch):
    monkeypatch.setattr(backend, "device_kind", lambda: "cpu")
    assert 2**20 < backend.memory_available() < 2**60


@pytest.mark.parametrize("version", [1, 2])
def test_memory_left_to_a_container(tmp_path, version):
    folder = tmp_path if version == 2 else tmp_path / "memory"
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        folder.mkdir()
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    assert backend._left_to_container(tmp_path) == math.inf
    for name, text in zip((*names[:2], "memory.stat"), ("5000\n", "4000\n", f"anon 3\n{names[2]} 700\n"), strict=True):
        (folder / name).write_text(text)
    assert backend._left_to_container(tmp_path) == 1_700
    (folder / names[0]).write_text("max\n")
    assert backend._left_to_container(tmp_path) == math.inf


def test_wait_and_asynchronous():
    total = variable(0)

    def function(x):
        total.assign(total.value + ops.sum(ops.matmul(x, x)))
        return {"total": total.value * 1}

    call = backend.Program([], [total], FUSED).compile(function)
    with backend.asynchronous():
        for _ in range(3):
            outputs = call(np.ones((50, 50), "float32"))
        backend.wait(outputs)
    assert numpy(outputs["total"]) == 3 * 50**3


def test_asynchronous_ends_with_its_context():
    with pytest.raises(KeyError), backend.asynchronous():
        raise KeyError
    if not ON_JAX:
        import tensorflow as tf

        assert tf.config.experimental.get_synchronous_execution()
