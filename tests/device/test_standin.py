"""The stand-in itself: it has CuPy's rules, so that what breaks them fails on a CPU too."""

import inspect

import numpy as np
import pytest
import standin

HOST = np.arange(6.0).reshape(2, 3)


@pytest.fixture
def cupy(monkeypatch):
    return standin.install(monkeypatch)


@pytest.mark.parametrize(
    "slip",
    [
        lambda cupy, x: np.asarray(x),
        lambda cupy, x: np.testing.assert_array_equal(x, x),
        lambda cupy, x: x + HOST,
        lambda cupy, x: HOST * x,
        lambda cupy, x: np.exp(x, out=np.zeros((2, 3))),
        lambda cupy, x: cupy.exp(HOST),
        lambda cupy, x: cupy.concatenate([x, HOST]),
        lambda cupy, x: x[np.array([0, 1])],
        lambda cupy, x: x.__setitem__(0, HOST[0]),
        lambda cupy, x: x.__iadd__(HOST),
        lambda cupy, x: cupy.add.at(x, cupy.asarray([0]), HOST[:1]),
        lambda cupy, x: cupy.asarray(["a"]),
        lambda cupy, x: hash(x),
        lambda cupy, x: cupy.sum(x, where=x > 2),
        lambda cupy, x: x.mean(where=x > 2),
        lambda cupy, x: cupy.exp(x, where=x > 2),
        lambda cupy, x: np.exp(x, where=x > 2),
        lambda cupy, x: cupy.concatenate([x, x], casting="unsafe"),
        lambda cupy, x: cupy.take(x, cupy.asarray([0]), mode="clip"),
        lambda cupy, x: cupy.exp([0.0, 1.0]),
        lambda cupy, x: cupy.add.at(cupy.zeros(3, np.int64), cupy.asarray([0]), 1),
        lambda cupy, x: x.__setitem__(cupy.asarray([0, 0]), 1.0),
        lambda cupy, x: x.__setitem__((slice(None), cupy.asarray([0, 3])), 1.0),
        lambda cupy, x: x[cupy.asarray([True, False]), cupy.asarray([True, False, True])],
        lambda cupy, x: (x * 100).astype(np.int8),
        lambda cupy, x: (x - 2).astype(np.uint8),
        lambda cupy, x: (x * np.nan).astype(np.int64),
    ],
)
def test_what_cupy_refuses_is_refused(slip, cupy):
    with pytest.raises((TypeError, ValueError)):
        slip(cupy, cupy.asarray(HOST))


@pytest.mark.parametrize(
    "product, name",
    [
        (lambda cupy, x: cupy.matmul(HOST, x), "a"),
        (lambda cupy, x: HOST @ x, "a"),
        (lambda cupy, x: x @ HOST, "b"),
        (lambda cupy, x: np.matmul(x, HOST), "b"),
    ],
)
def test_a_product_with_an_array_of_numpys_is_refused_in_cupys_words(product, name, cupy):
    with pytest.raises(
        TypeError, match=rf"^Argument '{name}' has incorrect type \(expected cupy\..*, got numpy.ndarray\)$"
    ):
        product(cupy, cupy.asarray(HOST.T.copy()))


def test_functions_that_cupy_lacks_are_not_there(cupy):
    for name in ("frompyfunc", "nditer", "float128", "object_"):
        with pytest.raises(AttributeError):
            getattr(cupy, name)


def test_all_that_it_has_is_in_cupy():
    """Where CuPy is installed, which needs no GPU: names, methods, constants and keywords."""
    cupy = pytest.importorskip("cupy")
    functions = f"{standin.LIFTED} {standin.MADE} asarray array take".split()
    methods = f"{standin.METHODS} astype take get item".split()
    for place, names in ((cupy, functions), (cupy.ndarray, methods)):
        for name in names:
            assert [word for word in standin.keywords(name) if word not in described(getattr(place, name))] == [], name
    for name in f"{standin.CONSTANTS} {standin.ADDABLE}".split():
        assert hasattr(cupy, name), name
    for name in ("T", "shape", "ndim", "size", "dtype", "nbytes", "itemsize", "flags"):
        assert hasattr(cupy.ndarray, name), name
    assert callable(cupy.add.at) and callable(cupy.cuda.is_available)


def described(function):
    """A function's parameters: its signature, or what its documentation says, where it is compiled."""
    try:
        return f"{inspect.signature(function)} {function.__doc__}"
    except ValueError:
        return function.__doc__


def test_results_without_axes_are_arrays(cupy):
    x = cupy.asarray(HOST)
    for y in (x.sum(), x[0, 1], cupy.max(x), x.mean(), x @ cupy.ones(3) @ cupy.ones(2)):
        assert isinstance(y, cupy.ndarray) and y.shape == ()
    assert float(x.sum()) == 15 and x.sum().item() == 15


def test_indices_out_of_range_wrap(cupy):
    x = cupy.asarray(HOST)
    np.testing.assert_array_equal(x[cupy.asarray([2, -1])].get(), HOST[[0, 1]])
    np.testing.assert_array_equal(x[..., cupy.asarray([4])].get(), HOST[:, [1]])
    np.testing.assert_array_equal(x[None, :, cupy.asarray([3])].get(), HOST[None, :, [0]])
    np.testing.assert_array_equal(cupy.take(x, cupy.asarray([5]), axis=1).get(), HOST[:, [2]])
    cupy.add.at(x, cupy.asarray([2, 2]), 1.0)
    np.testing.assert_array_equal(x.get()[0], HOST[0] + 2)
    np.testing.assert_array_equal(x[x > 4].get(), [5])


def test_copies_go_both_ways(cupy):
    host = HOST.copy()
    x = cupy.asarray(host)
    host[:] = 0
    out = x.get()
    out[:] = 0
    np.testing.assert_array_equal(x.get(), HOST)
    assert cupy.asarray(x) is x


def test_views_share_and_numbers_keep_the_dtype(cupy):
    x = cupy.asarray(HOST.astype(np.float32))
    row = x[0]
    row += 1
    assert float(x[0, 0]) == 1
    assert (2.0 * x).dtype == np.float32 and (x * np.float64(2)).dtype == np.float64
    assert np.exp(x).dtype == np.float32 and isinstance(np.exp(x), cupy.ndarray)
