"""Which implementation a call gets, and what it gets for its arrays."""

import subprocess
import sys

import numpy as np
import pytest

from minidat import ops
from minidat.autograd import Op
from minidat.fast import dispatch, plain_only
from minidat.fast.dispatch import CUDA, NUMBA, NUMPY, Backend


def doubled(x):
    return 2 * x, lambda dy: (2 * dy,)


@pytest.fixture
def op():
    """An op y = 2x, which is not on the list of all ops."""
    made = Op.__new__(Op)
    made.plain = made.raw = doubled
    return made


@pytest.fixture
def backend(monkeypatch):
    """Backends of one's own, enabled by their tests: the list of what each was called with is `backend.calls`."""

    def make(name, accepts=dispatch.in_memory, contiguous=True):
        made = Backend(name, accepts, contiguous=contiguous)
        monkeypatch.setattr(dispatch, "BACKENDS", (*dispatch.BACKENDS, made))
        return made

    return make


def recorded(op, backend, *, declines=lambda x: False, **options):
    """Implements the op; the list of arrays that the implementation was called with."""
    calls = []

    @backend.implements(op, **options)
    def implementation(x):
        calls.append(x)
        return NotImplemented if declines(x) else doubled(x)

    backend.enable()
    return calls


@pytest.mark.parametrize(
    ("make", "reaches"),
    [
        (lambda: np.ones((2, 4)), True),
        (lambda: np.ones((2, 4), np.float32), True),
        (lambda: np.ones((4, 2)).T, True),
        (lambda: np.ones((2, 4), np.float16), False),
        (lambda: np.ones((2, 4), ">f4"), False),
        (lambda: np.ones((2, 4), np.int32), False),
        (lambda: np.ones((0, 4)), False),
        (lambda: np.ma.ones((2, 4)), False),
        (lambda: 3.0, False),
    ],
)
def test_what_reaches_an_implementation(make, reaches, op, backend):
    calls = recorded(op, backend("one"))
    y, _ = op.raw(make())
    assert len(calls) == reaches and all(x.flags.c_contiguous for x in calls)
    np.testing.assert_array_equal(y, 2 * make())


def test_arrays_are_as_they_are_where_the_backend_or_the_input_says_so(op, backend):
    x = np.ones((4, 2)).T
    (given,) = (recorded(op, backend("strided", contiguous=False)),)
    op.raw(x)
    assert given[0] is x
    other = Op.__new__(Op)
    other.plain = other.raw = doubled
    given = recorded(other, backend("contiguous"), strided=(0,))
    other.raw(x)
    assert given[0] is x


def test_a_case_that_is_declined_goes_to_the_next_and_last_to_the_plain_op(op, backend):
    first = recorded(op, backend("first"), declines=lambda x: x.size > 1)
    second = recorded(op, backend("second"), declines=lambda x: x.size > 2)
    for n, reached in ((1, (1, 0)), (2, (1, 1)), (3, (1, 1))):
        first.clear(), second.clear()
        assert (op.raw(np.ones(n))[0] == 2).all()
        assert (len(first), len(second)) == reached


def test_enabling_again_changes_nothing(op, backend):
    made = backend("one")
    recorded(op, made)
    raw, before = op.raw, list(op.raw.implementations)
    made.enable()
    assert op.raw is raw and raw.implementations == before and raw.plain is doubled


def test_arrays_of_two_dtypes_are_left_to_the_plain_op():
    x, gamma, beta = np.ones((2, 3), np.float32), np.ones(3), np.zeros(3)
    (implementation,) = (one for one in ops.layer_norm.raw.implementations if one.backend is NUMPY)
    assert implementation.inputs((x, gamma, beta)) is None
    assert implementation.inputs((x, gamma.astype("f4"), beta.astype("f4"))) is not None


def test_constants_get_the_dtype_of_the_others():
    (implementation,) = (one for one in ops.position_bias.raw.implementations if one.backend is NUMPY)
    shapes = ((2, 5, 7), (1, 1, 3, 2), (3,), (4,))
    dtypes = ("f4", "f4", "f8", "i8")
    given = implementation.inputs(tuple(np.ones(s, d) for s, d in zip(shapes, dtypes, strict=True)))
    assert [a.dtype for a in given] == [np.float32] * 4


def test_gpu_arrays_go_to_cuda_and_others_do_not(device):
    assert dispatch.on_gpu(device.ones(2)) and not dispatch.on_gpu(np.ones(2))
    assert dispatch.in_memory(np.ones(2)) and not dispatch.in_memory(device.ones(2))
    assert not dispatch.on_gpu(device.ones(2, dtype=np.int32))


def test_the_order_of_backends():
    assert dispatch.BACKENDS == (CUDA, NUMBA, NUMPY)


def test_inside_plain_only_every_op_is_plain(op, backend):
    calls = recorded(op, backend("one"))
    with plain_only():
        op.raw(np.ones(2))
        with plain_only():
            pass
        op.raw(np.ones(2))
        assert dispatch.is_off()
    assert not calls and not dispatch.is_off()
    op.raw(np.ones(2))
    assert len(calls) == 1


@pytest.mark.parametrize(("value", "off"), [("off", True), ("OFF", True), ("on", False), (None, False)])
def test_the_environment_switches_it_off(value, off):
    code = "from minidat.fast.dispatch import is_off; print(is_off())"
    environment = {"PYTHONPATH": ":".join(sys.path)} | ({} if value is None else {"MINIDAT_FAST": value})
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(off)
