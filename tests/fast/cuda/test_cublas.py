"""`cublas.product` against NumPy, through a cuBLAS that is called as the real one is and keeps to its rules."""

import numpy as np
import pytest
import standin
import standin_cublas
import standin_cuda
from hypothesis import given, settings
from hypothesis import strategies as st

from minidat.autograd.backend import asnumpy
from minidat.fast.cuda import cublas


@pytest.fixture
def cupy(monkeypatch):
    return standin.install(monkeypatch)


@pytest.fixture(scope="module", autouse=True)
def shared():
    """Hypothesis runs many examples in one test: one machine for all of them."""
    with pytest.MonkeyPatch.context() as patch:
        yield standin.install(patch)


@st.composite
def operand(draw, lead, rows, cols):
    """(shape of an array, how a view of the wanted shape is made of it)"""
    broadcast = tuple(draw(st.sampled_from([n, n, 1])) for n in lead)[
        draw(st.integers(0, len(lead))) if draw(st.booleans()) else 0 :
    ]
    shape = (*broadcast, rows, cols)
    kind = draw(st.sampled_from(["plain", "transposed", "heads", "columns", "every second", "reversed", "repeated"]))
    return shape, kind


def view(xp, rng, shape, kind, dtype):
    """A device array of this shape that lies in memory as `kind` says, inside a larger one."""
    *lead, rows, cols = shape
    made = lambda *sizes: xp.asarray(rng.standard_normal(sizes).astype(dtype))  # noqa: E731
    if kind == "transposed":
        return made(*lead, cols, rows).swapaxes(-1, -2)
    if kind == "heads" and lead:  # (…, rows, heads, 3·cols): heads are side by side in a row, as in q | k | v
        return made(*lead[:-1], rows, lead[-1], 3 * cols)[..., cols : 2 * cols].swapaxes(-2, -3)
    if kind == "columns":
        return made(*lead, rows, cols + 3)[..., 1 : cols + 1]
    if kind == "every second":
        return made(*lead, rows, 2 * cols)[..., ::2]
    if kind == "reversed":
        return made(*lead, rows, cols)[..., ::-1, :]
    if kind == "repeated":
        return xp.broadcast_to(made(*lead, 1, cols), shape)
    return made(*shape)


@settings(max_examples=60)
@given(data=st.data())
def test_any_view_against_numpy(shared, data):
    draw, xp = data.draw, shared
    lead = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4]), max_size=3)))
    n, k, m = (draw(st.sampled_from([1, 1, 2, 3, 5])) for _ in range(3))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    a, b = (view(xp, rng, *draw(operand(lead, *sizes)), dtype) for sizes in ((n, k), (k, m)))
    expected = 0.5 * (asnumpy(a).astype(np.float64) @ asnumpy(b).astype(np.float64))
    kind = draw(st.sampled_from([None, "plain", "transposed", "heads", "columns", "every second"]))
    out = None if kind is None else view(xp, rng, expected.shape, kind, dtype)
    before = None if out is None else standin_cuda.root(out).copy()
    y = cublas.product(a, b, out=out, scale=0.5)
    assert y.dtype == dtype and (out is None or y is out)
    np.testing.assert_allclose(asnumpy(y), expected, rtol=1e-5, atol=1e-5 if dtype == np.float32 else 1e-12)
    if out is not None:  # nothing beside the view was written
        after = standin_cuda.root(out)
        assert (after != before).sum() <= y.size
    assert standin_cuda.machine.cublas.refused == []


def test_views_of_q_k_and_v_are_not_copied(cupy):
    """Heads side by side in a row: one batched product for each head, the batch along images and windows."""
    qkv = cupy.asarray(np.random.default_rng(0).standard_normal((2, 5, 7, 3, 4, 6)).astype(np.float32))
    q, k = (qkv[:, :, :, i].swapaxes(2, 3) for i in (0, 1))  # (2, 5, 4 heads, 7, 6)
    calls = standin_cuda.machine.cublas.calls
    y = cublas.product(q, k.swapaxes(-1, -2))
    assert calls.count("cublasGemmStridedBatchedEx") == 4 and calls.count("cublasGemmEx") == 0
    np.testing.assert_allclose(asnumpy(y), asnumpy(q) @ asnumpy(k).swapaxes(-1, -2), rtol=1e-5, atol=1e-6)


def test_one_matrix_for_all_is_one_product(cupy):
    x, w = cupy.ones((4, 5, 6), np.float32), cupy.ones((6, 3), np.float32)
    assert asnumpy(cublas.product(x, w)).tolist() == np.full((4, 5, 3), 6.0).tolist()
    assert standin_cuda.machine.cublas.calls.count("cublasGemmEx") == 1
    assert "cublasGemmStridedBatchedEx" not in standin_cuda.machine.cublas.calls


def test_transposed_matrices_are_no_more_rows(cupy):
    """Their batch lies as if they were: 3 rows by a leading dimension of 3 apart."""
    x = cupy.asarray(np.random.default_rng(0).standard_normal((4, 3, 3)))[:, :2].swapaxes(1, 2)
    w = cupy.asarray(np.random.default_rng(1).standard_normal((2, 5)))
    np.testing.assert_allclose(asnumpy(cublas.product(x, w)), asnumpy(x) @ asnumpy(w), rtol=1e-12)


def test_many_small_pieces_are_copied_once(cupy):
    """40 × 40 × 2 matrices that fold into no one batch: a loop would be 40 calls or more."""
    x = cupy.asarray(np.random.default_rng(0).standard_normal((40, 3, 40, 2, 4)).astype(np.float32)).swapaxes(1, 2)
    x = x.swapaxes(2, 3).swapaxes(0, 1)[:, :, :, ::1]  # (40, 40, 2, 3, 4)
    y = cublas.product(x, x.swapaxes(-1, -2))
    assert standin_cuda.machine.cublas.calls.count("cublasGemmStridedBatchedEx") == 1
    np.testing.assert_allclose(asnumpy(y), asnumpy(x) @ asnumpy(x).swapaxes(-1, -2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shapes", [((0, 3), (3, 2)), ((2, 3), (3, 0)), ((2, 0), (0, 3)), ((0, 2, 3), (3, 2))])
def test_nothing_to_multiply(shapes, cupy):
    y = cublas.product(*(cupy.ones(shape, np.float32) for shape in shapes))
    np.testing.assert_array_equal(asnumpy(y), np.ones(shapes[0]) @ np.ones(shapes[1]))


def test_what_does_not_fit_is_refused(cupy):
    x = cupy.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"shapes \(2, 3\) and \(2, 3\) do not fit"):
        cublas.product(x, x)
    with pytest.raises(ValueError, match="dtypes are float32, float64; they must be"):
        cublas.product(x, cupy.ones((3, 2)))
    with pytest.raises(ValueError, match=r"out has shape \(2, 3\), the result \(2, 2\)"):
        cublas.product(x, x.T, out=x)
    with (
        pytest.raises(ValueError, match="precision 'fp8' is unknown; choose from fp32, tf32, bf16"),
        cublas.precision("fp8"),
    ):
        pass


def test_a_status_is_named(cupy):
    fake = standin_cuda.machine.cublas
    x = cupy.ones((2, 2), np.float32)
    cublas.product(x, x)
    fake.cublasGemmEx = lambda *_: 13
    with pytest.raises(cublas.CublasError, match="cublasGemmEx: CUBLAS_STATUS_EXECUTION_FAILED"):
        cublas.product(x, x)


def test_the_stream_is_followed_and_has_its_workspace(cupy):
    x = cupy.ones((2, 2), np.float32)
    cublas.product(x, x)
    calls = standin_cuda.machine.cublas.calls
    cupy.cuda.get_current_stream().synchronize()
    del calls[:]
    with cupy.cuda.Stream(non_blocking=True) as stream:
        cublas.product(x, x)
        cublas.product(x, x)
        stream.synchronize()
    assert calls == ["cublasSetStream_v2", "cublasSetWorkspace_v2", "cublasGemmEx", "cublasGemmEx"]


@pytest.mark.parametrize("name, bits", [("fp32", 23), ("tf32", 10), ("bf16", 7)])
def test_a_precision_rounds_the_operands_and_nothing_else(name, bits, cupy):
    x = np.float32(1 + 2.0**-bits)  # the last number above 1 that is kept
    finer = np.float32(1 + 2.0 ** -(bits + 2))
    one = cupy.ones((1, 1), np.float32)
    with cublas.precision(name):
        assert float(cublas.product(cupy.full((1, 1), x), one)[0, 0]) == x
        assert name == "fp32" or float(cublas.product(cupy.full((1, 1), finer), one)[0, 0]) == 1
        sum_of = cublas.product(cupy.full((1, 3), x), cupy.ones((3, 1), np.float32))
        assert sum_of.dtype == np.float32 and float(sum_of[0, 0]) == np.float32(3 * x)  # sums have all bits
        assert float(cublas.product(cupy.full((1, 1), 1 + 2.0**-40), cupy.ones((1, 1)))[0, 0]) == 1 + 2.0**-40
    assert float(cublas.product(cupy.full((1, 1), np.float32(1 + 2.0**-23)), one)[0, 0]) == np.float32(1 + 2.0**-23)


def test_signatures_are_those_of_the_header(cupy):
    """The fake's prototypes are typed off cublas_api.h by themselves."""
    fake = standin_cublas.FakeCublas(standin_cuda.machine)
    for name, arguments in cublas.SIGNATURES.items():
        assert [*getattr(fake, name).argtypes] == [*arguments], name
