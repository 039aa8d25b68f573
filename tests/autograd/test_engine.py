"""The engine: what backward does, frees and refuses."""

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from minidat import ops
from minidat.autograd import OPS, Op, Tensor, gradients, is_recording, no_grad, op, pull
from minidat.autograd.engine import takes_needed

LONG = 20_000


def leaf(*shape, seed=0, dtype=np.float64):
    return Tensor(np.random.default_rng(seed).standard_normal(shape).astype(dtype), requires_grad=True)


@pytest.fixture
def no_collector():
    """Only reference counts free memory."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def new_op():
    """Makes ops that are forgotten after the test."""
    before = dict(OPS)
    yield op
    OPS.clear()
    OPS.update(before)


def chain(x, length=LONG):
    y = x
    for i in range(length):
        y = y + 1.0 if i % 2 else y * 1.0
    return y


# Long and branching graphs


def test_a_long_chain_is_pulled_back():
    x = leaf(3)
    y = chain(x)
    y.backward(np.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(x.grad, [1, 2, 3])
    np.testing.assert_allclose(y.data, x.data + LONG // 2)


@pytest.mark.parametrize("residual", [False, True])
def test_a_layers_weights_have_their_gradients_before_the_layers_under_it_are_reached(residual):
    weights = [(leaf(2, 2, seed=i), leaf(2, seed=i)) for i in range(4)]
    y = x = leaf(3, 2)
    for w, b in weights:
        y = ops.gelu(ops.linear(y, w, b)) + (y if residual else 0.0)
    found = [id(each) for each, _ in pull(y, np.ones(y.shape))]
    assert found == [id(each) for w, b in reversed(weights) for each in (b, w)] + [id(x)]


def test_weights_that_two_layers_share_wait_for_both():
    x, w = leaf(3, 2), leaf(2, 2)
    y = ops.gelu(x @ w) @ w
    gradients_of = dict((id(each), dx) for each, dx in pull(y, np.ones(y.shape)))
    one, two = Tensor(w.data, requires_grad=True), Tensor(w.data, requires_grad=True)
    apart = gradients(ops.gelu(x @ one) @ two, [one, two], np.ones(y.shape))
    np.testing.assert_allclose(gradients_of[id(w)], apart[0] + apart[1])


@pytest.mark.parametrize("step", [lambda y: y * 1.0, lambda y: y.reshape(3, 1).reshape(3), lambda y: y[::-1]])
@pytest.mark.parametrize("backward", [False, True])
def test_a_long_chain_is_dropped(step, backward, no_collector):
    x = leaf(3)
    y = x
    for _ in range(LONG):
        y = step(y)
    middle = weakref.ref(y.parents[0])
    if backward:
        y.backward(np.ones(3))
    del y
    assert middle() is None


def test_a_diamond_adds_its_branches_up():
    x = leaf(5)
    a = ops.exp(x)
    b, c = a * 2.0, a * a
    (b * c + b).sum().backward()  # 2e³ˣ + 2eˣ
    np.testing.assert_allclose(x.grad, 6 * np.exp(3 * x.data) + 2 * np.exp(x.data))


def test_a_leaf_may_be_used_twice_by_one_op():
    x = leaf(3, 3)
    (x @ x).backward(np.eye(3))
    np.testing.assert_allclose(x.grad, 2 * x.data.T)
    y = leaf(4)
    ops.concatenate(y, y, y, axis=0).backward(np.arange(12.0))
    np.testing.assert_array_equal(y.grad, np.arange(12.0).reshape(3, 4).sum(0))


def test_each_vjp_runs_once_however_many_paths_lead_to_it(new_op):
    calls = []

    @new_op("... -> ...")
    def counted(x):
        return x * 1, lambda dy: calls.append(1) or (dy,)

    y = counted(leaf(2))
    for _ in range(30):
        y = y + y  # 2³⁰ paths
    y.backward(np.ones(2))
    assert calls == [1]


def test_branches_that_do_not_reach_the_loss_cost_nothing(new_op):
    @new_op("... -> ...")
    def never(x):
        def vjp(dy):
            raise AssertionError("called")

        return x * 1, vjp

    x = leaf(3)
    never(x)
    (x * 2.0).backward(np.ones(3))
    np.testing.assert_array_equal(x.grad, 2)


def test_a_path_without_a_gradient_ends_there():
    logits, targets = leaf(3, 5), leaf(3, 5, seed=1)
    ops.cross_entropy(logits, targets * 2.0).backward()
    assert logits.grad is not None and targets.grad is None


# Memory


def test_the_graph_is_freed_without_the_collector(no_collector):
    x = leaf(3)
    h = ops.layer_norm(x * 2.0, np.ones(3), np.zeros(3))
    y = ops.softmax(h).sum()
    seen = [weakref.ref(t) for t in (h, y, h.parents[0], h.data, h.vjp)]
    del h, y
    assert [ref() for ref in seen] == [None] * len(seen)


def test_backward_frees_as_it_goes(no_collector, new_op):
    """When a vjp runs, what came after it in the graph is gone, even while the loss is held."""
    alive = []

    @new_op("... -> ...")
    def watched(x):
        return x * 1, lambda dy: alive.append(later() is not None) or (dy,)

    h = watched(leaf(3)) * 2.0
    later = weakref.ref(h)
    loss = h.sum()
    del h
    loss.backward()
    assert alive == [False]


def test_leaves_do_not_keep_the_graph(no_collector):
    x = leaf(3)
    y = (x * 2.0).sum()
    y.backward()
    ref = weakref.ref(y)
    del y
    assert ref() is None and x.grad is not None


# What is refused


def test_a_graph_is_used_up():
    y = (leaf(3) * 2.0).sum()
    y.backward()
    with pytest.raises(RuntimeError, match=r"used up by an earlier backward pass.*run the forward again"):
        y.backward()


def test_a_shared_part_of_a_graph_is_used_up():
    h = leaf(3) * 2.0
    one, other = h.sum(), (h * h).sum()
    one.backward()
    with pytest.raises(RuntimeError, match="used up"):
        other.backward()


def test_no_gradient_is_kept_of_a_graph_that_is_used_up_in_part():
    w = leaf(3)
    h = leaf(3) * 2.0
    h.sum().backward()
    with pytest.raises(RuntimeError, match="used up"):
        (h * w).sum().backward()
    assert w.grad is None


def test_a_number_is_a_cotangent_and_a_tensor_is_none():
    x = leaf(3)
    (x * x).sum().backward(2.0)
    np.testing.assert_array_equal(x.grad, 4 * x.data)
    with pytest.raises(TypeError, match=r"dy is a Tensor; it must be an array, such as dy\.data"):
        (x * x).backward(leaf(3))


def test_only_a_scalar_may_leave_dy_out():
    with pytest.raises(ValueError, match=r"shape \(2, 3\); only a scalar may leave dy out"):
        (leaf(2, 3) * 1.0).backward()
    x = leaf(1, 1)
    (x * 3.0).backward()
    np.testing.assert_array_equal(x.grad, [[3.0]])


@pytest.mark.parametrize("dy", [np.ones(3), np.ones((1, 3)), np.ones((3, 2)), 1.0])
def test_dy_must_have_the_shape_of_y(dy):
    with pytest.raises(ValueError, match=r"dy has shape .*, y has \(2, 3\)"):
        (leaf(2, 3) * 1.0).backward(dy)


def test_nothing_to_differentiate():
    with pytest.raises(RuntimeError, match="no input requires a gradient"):
        (Tensor(np.ones(3)) * 2.0).sum().backward()


def test_a_tensor_of_a_tensor():
    with pytest.raises(TypeError, match="is a Tensor already"):
        Tensor(Tensor(np.ones(3)))


def test_a_vjp_with_too_few_gradients(new_op):
    @new_op("..., ... -> ...")
    def forgetful(x, y):
        return x * y, lambda dz: (dz * y,)

    with pytest.raises(ValueError, match="zip"):
        forgetful(leaf(2), leaf(2)).backward(np.ones(2))


def test_names_of_ops_are_unique(new_op):
    with pytest.raises(ValueError, match="op 'softmax' is defined twice"):
        Op(lambda x: (x, None), "... -> ...", "softmax")


# .grad and gradients


def test_grad_is_for_leaves_that_ask_for_it():
    x, constant = leaf(3), Tensor(np.ones(3))
    h = x * constant
    y = (h + 1.0).sum()
    y.backward()
    assert x.grad is not None and [t.grad for t in (constant, h, y)] == [None] * 3


def test_grad_adds_up_over_backward_passes_without_touching_what_was_there():
    x = leaf(3)
    (x * 2.0).sum().backward()
    first = x.grad
    (x * 3.0).sum().backward()
    np.testing.assert_array_equal(first, 2)
    np.testing.assert_array_equal(x.grad, 5)


def test_leaves_that_share_a_gradient_keep_their_own_sum():
    a, b = leaf(3), leaf(3, seed=1)
    (a + b + a).backward(np.ones(3))
    (a + b).backward(np.ones(3))
    np.testing.assert_array_equal(a.grad, 3)
    np.testing.assert_array_equal(b.grad, 2)


def test_dy_is_not_written_to():
    dy = np.ones(3)
    dy.flags.writeable = False
    x = leaf(3)
    h = x * 1.0
    (h + h + x).backward(dy)
    np.testing.assert_array_equal(x.grad, 3)


def test_gradients_touches_no_grad():
    x, unused = leaf(3), leaf(2)
    known = x.grad = np.full(3, 7.0)
    dx, du, again = gradients((x * 2.0).sum(), [x, unused, x])
    np.testing.assert_array_equal(dx, 2)
    np.testing.assert_array_equal(again, 2)
    assert du is None and x.grad is known and unused.grad is None


def test_gradients_uses_the_graph_up_and_takes_dy():
    x = leaf(3)
    y = x * x
    np.testing.assert_allclose(gradients(y, [x], np.arange(3.0))[0], 2 * x.data * np.arange(3.0))
    with pytest.raises(RuntimeError, match="used up"):
        gradients(y, [x], np.ones(3))
    with pytest.raises(ValueError, match="only a scalar"):
        gradients(x * x, [x])


def test_four_threads_share_leaves():
    x, w = leaf(7, 5), leaf(5, 5, seed=1)
    ready = threading.Barrier(4)

    def work(i):
        ready.wait()
        for _ in range(20):
            h = x
            for _ in range(5):
                h = ops.tanh(h @ w)
            found = gradients((h * float(i)).sum(), [x, w])
        return found

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(4)))
    for i, found in enumerate(results):
        for one, unit in zip(found, results[1], strict=True):
            np.testing.assert_allclose(one, i * unit, rtol=1e-12)
    assert x.grad is None and w.grad is None


# Recording


def test_no_grad_keeps_nothing():
    x = leaf(3)
    assert is_recording()
    with no_grad():
        assert not is_recording()
        y = (x * 2.0).sum()
        with no_grad():
            pass
        assert not is_recording()
    assert is_recording()
    assert not y.requires_grad and y.parents == () and y.vjp is None
    with pytest.raises(RuntimeError, match=r"no_grad\(\)"):
        y.backward()


def test_no_grad_ends_with_an_error():
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert is_recording()


def test_no_grad_is_of_one_thread():
    with no_grad(), ThreadPoolExecutor(1) as pool:
        assert pool.submit(is_recording).result()

    entered, leave = threading.Event(), threading.Event()

    def elsewhere():
        with no_grad():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    assert entered.wait(10) and is_recording()
    leave.set()
    thread.join()


def test_detach_shares_the_array_and_cuts_the_graph():
    x = leaf(3)
    y = (x * 2.0).detach()
    assert not y.requires_grad and (x.detach().data is x.data)
    (y * x).sum().backward()
    np.testing.assert_allclose(x.grad, y.data)


# Tensors


OPERATORS = {
    "-x": (lambda x, y: -x, 1),
    "x + y": (lambda x, y: x + y, 2),
    "x - y": (lambda x, y: x - y, 2),
    "x * y": (lambda x, y: x * y, 2),
    "x / y": (lambda x, y: x / y, 2),
    "x ** 3": (lambda x, y: x**3, 1),
    "x @ y": (lambda x, y: x @ y, 2),
    "2 + x": (lambda x, y: 2.0 + x, 1),
    "2 - x": (lambda x, y: 2.0 - x, 1),
    "2 * x": (lambda x, y: 2.0 * x, 1),
    "2 / x": (lambda x, y: 2.0 / x, 1),
    "x[1:, ::-1]": (lambda x, y: x[1:, ::-1], 1),
    "x[..., None]": (lambda x, y: x[..., None], 1),
    "x.reshape": (lambda x, y: x.reshape(9), 1),
    "x.transpose": (lambda x, y: x.transpose(1, 0), 1),
    "x.sum": (lambda x, y: x.sum(axis=0, keepdims=True), 1),
    "x.mean": (lambda x, y: x.mean(1), 1),
    "x.max": (lambda x, y: x.max(axis=-1), 1),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_those_of_arrays(name):
    f, used = OPERATORS[name]
    x, y = leaf(3, 3), leaf(3, 3, seed=1)
    z = f(x, y)
    np.testing.assert_array_equal(z.data, f(x.data, y.data))
    dz = np.random.default_rng(2).standard_normal(z.shape)
    dx, dy = gradients(z, [x, y], dz)
    assert (dy is not None) == (used == 2)
    for i, dt in enumerate((dx, dy)[:used]):
        v = np.random.default_rng(3).standard_normal((3, 3)) * 1e-6
        up, down = (f(*(t.data + s * v if j == i else t.data for j, t in enumerate((x, y)))) for s in (1, -1))
        np.testing.assert_allclose((dt * v).sum() * 2, (dz * (up - down)).sum(), rtol=1e-5, atol=1e-11)


def test_an_array_may_be_the_left_factor():
    array, x = np.arange(6.0).reshape(2, 3), leaf(3, 5)
    y = array @ x
    np.testing.assert_array_equal(y.data, array @ x.data)
    dy = np.random.default_rng(2).standard_normal((2, 5))
    np.testing.assert_allclose(gradients(y, [x], dy)[0], array.T @ dy, rtol=1e-14)


@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "divide"])
def test_arrays_meet_tensors_on_either_side(name):
    f = {
        "add": lambda a, b: a + b,
        "subtract": lambda a, b: a - b,
        "multiply": lambda a, b: a * b,
        "divide": lambda a, b: a / b,
    }[name]
    array, x = np.arange(1.0, 7).reshape(2, 3), leaf(3)
    for z, value in ((f(array, x), f(array, x.data)), (f(x, array), f(x.data, array))):
        assert isinstance(z, Tensor) and z.requires_grad
        np.testing.assert_array_equal(z.data, value)
        assert gradients(z.sum(), [x])[0].shape == (3,)


@pytest.mark.parametrize("name", OPERATORS)
def test_python_numbers_keep_float32(name):
    x, y = leaf(3, 3, dtype=np.float32), leaf(3, 3, seed=1, dtype=np.float32)
    z = OPERATORS[name][0](x, y)
    assert z.dtype == np.float32
    dx, _ = gradients(z, [x, y], np.ones_like(z.data))
    assert dx.dtype == np.float32


def test_a_scalar_loss_keeps_float32():
    x = leaf(5, dtype=np.float32)
    loss = (x * x).mean() * 3.0 / 2.0 - 1.0
    assert loss.dtype == np.float32 and loss.shape == ()
    loss.backward()
    assert x.grad.dtype == np.float32


def test_a_tensor_tells_what_it_is():
    x = leaf(2, 3)
    assert (x.shape, x.ndim, len(x), x.dtype) == ((2, 3), 2, 2, np.float64)
    assert "shape=(2, 3), dtype=float64, requires_grad=True" in repr(x)
    assert Tensor(1.5).shape == () and Tensor([1, 2]).shape == (2,)
    assert [row.shape for row in x] == [(3,), (3,)]


def test_an_op_knows_its_name_signature_and_equation():
    assert repr(ops.softmax) == "<op softmax: ... n -> ... n>"
    assert ops.softmax.__name__ == "softmax" and "Σ_j" in ops.softmax.__doc__
    assert OPS["softmax"] is ops.softmax


def test_grad_is_the_leafs_own_array():
    x, y = Tensor(np.ones((2, 3)), requires_grad=True), Tensor(np.ones((2, 3)), requires_grad=True)
    dy = np.full((2, 3), 5.0)
    (x + y).backward(dy)
    assert not any(np.shares_memory(a, b) for a, b in ((x.grad, y.grad), (x.grad, dy), (y.grad, dy)))
    z = Tensor(np.ones((2, 3)), requires_grad=True)
    z.sum().backward()
    z.grad += 1  # not a read-only broadcast
    np.testing.assert_array_equal(z.grad, 2.0)


# What is no floating-point array


@pytest.mark.parametrize("data", [[1, 2, 3], np.arange(3), np.array([True, False]), np.array([1.0, None], object)])
def test_a_leaf_that_requires_a_gradient_is_floating(data):
    with pytest.raises(TypeError, match=r"requires_grad needs floating-point data, got (int64|bool|object)"):
        Tensor(data, requires_grad=True)
    Tensor(data)  # a constant may be anything


@pytest.mark.parametrize("number", [np.float64(2), np.float32(2), np.int64(2), 2, 2.0])
def test_a_number_leaves_the_dtype_alone_and_gets_no_gradient(number):
    x = Tensor(np.ones(3, np.float32), requires_grad=True)
    for y in (x * number, number * x, x**number, x / number, number - x):
        assert y.dtype == np.float32
        y.sum().backward()
        assert x.grad.dtype == np.float32 and np.isfinite(x.grad).all()


def test_a_numpy_scalar_is_an_array_of_no_axis():
    x = Tensor(np.float32(2), requires_grad=True)
    (x * x).backward()
    assert type(x.data) is np.ndarray and x.grad == 4 and x.grad.dtype == np.float32


def test_a_tensor_is_no_array():
    x = Tensor(np.ones(3))
    for convert in (np.asarray, np.array, np.sum):
        with pytest.raises(TypeError):
            convert(x)
    with pytest.raises(TypeError, match=r"take its array, x\.data"):
        np.asarray(x)


def test_the_zeroth_power_has_slope_0_everywhere():
    x = Tensor(np.array([0.0, 2.0]), requires_grad=True)
    (x**0).sum().backward()
    np.testing.assert_array_equal(x.grad, [0, 0])


def test_a_vjp_may_be_told_which_inputs_need_a_gradient(new_op):
    told = []

    @new_op("..., ... -> ...")
    def doubled_sum(x, y):
        @takes_needed
        def vjp(dy, needed=(True, True)):
            told.append(needed)
            return tuple(2 * dy if need else None for need in needed)

        return 2 * (x + y), vjp

    x = Tensor(np.ones(3), requires_grad=True)
    doubled_sum(x, np.ones(3)).sum().backward()
    doubled_sum.raw(np.ones(3), np.ones(3))[1](np.ones(3))
    assert told == [(True, False), (True, True)]
    np.testing.assert_array_equal(x.grad, [2, 2, 2])
