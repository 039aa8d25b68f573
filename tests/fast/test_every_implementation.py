"""Every implementation of every op is the op as its equation is written: value and gradients, in float64 to 1e-9 and in
float32 to rounding, over the op's own cases and over sizes and memory orders that are awkward."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module

import numpy as np
import pytest
from backends import call, restored
from equal import assert_equal
from ops.cases import normal, of, points_around

from minidat import Tensor, ops
from minidat.autograd import OPS, gradients, no_grad
from minidat.fast import plain_only
from minidat.fast.dispatch import CUDA, NUMBA, NUMPY
from minidat.models import create

with restored():  # registers what there is, and leaves it disabled
    import_module("minidat.fast.cuda").install()
    with suppress(ImportError):
        import_module("minidat.fast.numba.first_use")
BACKENDS = {"numpy": NUMPY, "numba": NUMBA, "cuda": CUDA}
DTYPES = pytest.mark.parametrize("dtype", ["float64", "float32"])
FLOAT32_ALONE = {(NUMBA, "gelu"), (NUMBA, "mlp"), (NUMPY, "gelu"), (NUMPY, "mlp")}


def implemented(backend):
    """The names of the ops that a backend implements."""
    return [op.name for op, _ in BACKENDS[backend].implementations]


def strided(array):
    """The same numbers, every second of a larger array whose axes are in reverse order in memory."""
    return array.T.repeat(2, axis=0)[::2].T if array.ndim else array


def permuted(array):
    """The same numbers with the leading axes in another order in memory."""
    if array.ndim < 3:
        return array
    order = (*range(array.ndim - 3, -1, -1), array.ndim - 2, array.ndim - 1)
    return array.transpose(order).copy().transpose(np.argsort(order).tolist())


def every(cases, *names):
    """(backend, case) for each case of an op that the backend implements."""
    return [
        pytest.param(BACKENDS[name], case, id=f"{name}-{case}")
        for name in names
        for case in cases
        if case.op in implemented(name)
    ]


def serves(backend, op, dtype):
    """Whether an implementation must compute a case of its op; None: NumPy's may leave it to the plain op."""
    if (backend, op) in FLOAT32_ALONE:
        return dtype == "float32"
    return None if backend is NUMPY else True


def agree(backend, name, arrays, options, dtype, **how):
    """The implementation of op `name` on the CPU is the plain op."""
    return assert_equal(OPS[name].raw, arrays, options, np, dtype, backend=backend, **how)


@pytest.fixture
def enabled(request):
    """Enables the backend of a test that is parametrized by one of the CPU's."""
    if request.node.callspec.params["backend"] is NUMBA:
        request.getfixturevalue("compiled")


on_cpu = pytest.mark.usefixtures("enabled")
both = pytest.mark.parametrize("backend", [NUMPY, NUMBA], ids=["numpy", "numba"])
ARRANGE = pytest.mark.parametrize("arrange", [np.asarray, strided, permuted], ids=["contiguous", "strided", "permuted"])
LEADING = pytest.mark.parametrize("leading", [(2, 3), ()], ids=["leading", "no leading"])
ALL = of(*OPS)


@on_cpu
@DTYPES
@ARRANGE
@pytest.mark.parametrize("backend, case", every(ALL, "numpy", "numba"))
def test_agrees_with_its_equation(backend, case, arrange, dtype):
    arrays, options = case.make(np.random.default_rng(0), (2, 3))
    agree(backend, case.op, arrays, options, dtype, served=serves(backend, case.op, dtype), arrange=arrange)


@DTYPES
@LEADING
@pytest.mark.parametrize("backend, case", every(ALL, "cuda"))
def test_agrees_with_its_equation_on_a_gpu(backend, case, leading, dtype, device):
    arrays, options = case.make(np.random.default_rng(0), leading)
    assert_equal(OPS[case.op].raw, arrays, options, device, dtype, backend=backend)


def test_these_are_the_ops_with_implementations():
    assert set(implemented("numpy")) == {
        *("softmax", "attention", "self_attention", "layer_norm", "gelu", "mlp", "conv2d", "depthwise_conv"),
        *("bilinear_sample", "position_bias", "neighborhood_attention", "roi_align"),
    }
    pytest.importorskip("numba")
    assert set(implemented("numba")) == {
        *("softmax", "attention", "self_attention", "layer_norm", "gelu", "mlp", "depthwise_conv"),
        *("bilinear_sample", "position_bias"),
    }


# What NumPy's implementations serve, each of their ways once.

NUMPYS = {
    "bilinear_sample by product": ("bilinear_sample", ((2, 3, 4, 6), (2, 2, 5, 2)), {}, True),
    "bilinear_sample by corners": ("bilinear_sample", ((2, 5, 7, 6), (2, 2, 5, 2)), {}, True),
    "conv2d of tiles": ("conv2d", ((2, 4, 6, 3), (2, 2, 3, 5), (5,)), {"stride": 2}, True),
    "conv2d of every pixel": ("conv2d", ((2, 4, 6, 3), (3, 3, 3, 5), (5,)), {"padding": 1}, True),
    "conv2d of every pixel on the map": ("conv2d", ((2, 4, 6, 3), (2, 3, 3, 5), None), {}, True),
    "conv2d of every pixel and beyond": ("conv2d", ((2, 4, 6, 3), (2, 3, 3, 5), (5,)), {"padding": 2}, False),
    "conv2d of overlapping patches": ("conv2d", ((2, 4, 6, 3), (3, 3, 3, 5), (5,)), {"stride": 2, "padding": 1}, False),
    "conv2d of tiles and a rest": ("conv2d", ((2, 5, 6, 3), (2, 2, 3, 5), (5,)), {"stride": 2}, False),
    "depthwise_conv of many small maps": ("depthwise_conv", ((12, 3, 4, 5), (3, 5, 5), (5,)), {"padding": 2}, True),
    "depthwise_conv of 64 pixels": ("depthwise_conv", ((64, 8, 8, 1), (3, 3, 1), None), {"stride": 2}, True),
    "depthwise_conv of 65 pixels": ("depthwise_conv", ((65, 5, 13, 1), (3, 3, 1), None), {}, False),
    "depthwise_conv of few small maps": ("depthwise_conv", ((11, 3, 4, 5), (3, 5, 5), (5,)), {"padding": 2}, False),
    "neighborhood_attention in one tile": ("neighborhood_attention", ((1, 5, 6, 12), (2, 5, 5)), {"heads": 2, "kernel": 3}, True),
    "neighborhood_attention in tiles": ("neighborhood_attention", ((2, 9, 11, 12), (2, 5, 5)), {"heads": 2, "kernel": 3}, True),
}  # fmt: skip


@DTYPES
@pytest.mark.parametrize("name", NUMPYS)
def test_numpy_serves(name, dtype):
    op, shapes, options, served = NUMPYS[name]
    rng = np.random.default_rng(0)
    arrays = [None if s is None else normal(rng, s) for s in shapes]
    if op == "bilinear_sample":
        arrays[1] = points_around(rng, shapes[1][:-1], *shapes[0][1:3])
    agree(NUMPY, op, arrays, options, dtype, served=served)


@DTYPES
@pytest.mark.parametrize("name", [name for name, (*_, served) in NUMPYS.items() if served])
def test_one_nan_of_a_map_shows_and_stays_in_its_image(name, dtype):
    """As in the plain op: where a formulation leaves out what has weight 0, a NaN that is read may not get lost."""
    op, shapes, options, _ = NUMPYS[name]
    rng = np.random.default_rng(0)
    arrays = [None if s is None else normal(rng, s).astype(dtype) for s in shapes]
    if op == "bilinear_sample":
        arrays[1] = np.full(shapes[1], 1.5, dtype)  # between pixels 1 and 2
    arrays[0][0, 1, 1, 0] = np.nan
    y, _ = OPS[op].raw(*arrays, **options)
    with plain_only():
        plain, _ = OPS[op].raw(*arrays, **options)
    assert np.isnan(y[0]).any() and np.isnan(plain[0]).any()
    assert np.isfinite(y[1:]).all() and np.isfinite(plain[1:]).all()


AWKWARD = (1, 2, 7, 8, 9, 15, 16, 17, 33, 64, 67)  # around what is done for eight at a time, and four times that


@on_cpu
@both
@DTYPES
@pytest.mark.parametrize("m", AWKWARD)
def test_rows_of_any_length(m, backend, dtype):
    rng = np.random.default_rng(m)
    agree(backend, "softmax", [normal(rng, (3, m), 5.0)], {}, dtype)
    agree(backend, "layer_norm", [normal(rng, (5, m)), normal(rng, m), normal(rng, m)], {"eps": 0.01}, dtype)
    agree(backend, "gelu", [normal(rng, (3, m), 3.0)], {}, dtype, served=dtype == "float32")
    mlp = [normal(rng, s) for s in ((300, 3), (3, m), m, (m, 2), 2)]
    agree(backend, "mlp", mlp, {}, dtype, served=dtype == "float32")
    heads = [normal(rng, (2, 3, n, 4)) for n in (5, m, m)]
    terms = normal(rng, (3, 5, m)), normal(rng, (2, 1, 1, m))
    agree(backend, "attention", [*heads, *terms], {"scale": 0.5}, dtype)


@DTYPES
@pytest.mark.parametrize("most", [1, 20, 35, 4096])
def test_compiled_softmax_in_blocks_of_scores(most, dtype, compiled, monkeypatch):
    """Rows of 7 scores: one, two, five and all nine at a time, with a bias and a mask of their own shapes."""
    monkeypatch.setattr(import_module("minidat.fast.numba.softmax"), "BLOCK", most)
    rng = np.random.default_rng(0)
    heads = [normal(rng, (2, 3, n, 4)) for n in (9, 7, 7)]
    terms = normal(rng, (3, 9, 7)), normal(rng, (2, 1, 9, 7), 3.0)
    agree(NUMBA, "attention", [*heads, *terms], {"scale": 0.5}, dtype)


@on_cpu
@both
def test_an_mlp_in_blocks_of_rows(backend, monkeypatch):
    module = import_module("minidat.fast.numpy.mlp")
    monkeypatch.setattr(module, "HIDDEN", 1)
    monkeypatch.setattr(module, "ROWS", 128)  # the last block has 44
    rng = np.random.default_rng(0)
    arrays = [normal(rng, s) for s in ((300, 3), (3, 5), 5, (5, 2), 2)]
    agree(backend, "mlp", arrays, {}, "float32")
    arrays = [a.astype(np.float32) for a in arrays]
    with no_grad():  # one block's memory serves all
        np.testing.assert_array_equal(ops.mlp(*arrays).data, ops.mlp.raw(*arrays)[0])


@on_cpu
@both
@pytest.mark.parametrize(("op", "shapes"), [("mlp", ((300, 3), (3, 5), 5, (5, 2), 2)), ("gelu", ((300, 3),))])
def test_what_kept_nothing_gives_no_gradient(op, shapes, backend):
    """Either it needs its inputs alone, or it says what is missing; no wrong numbers."""
    rng = np.random.default_rng(0)
    arrays = [normal(rng, shape).astype(np.float32) for shape in shapes]
    made = next(one for one in OPS[op].raw.implementations if one.backend is backend)
    (right, *_) = OPS[op].plain(*arrays)[1](np.ones((300, shapes[-1] if op == "mlp" else 3), np.float32))
    with no_grad():
        y, vjp = call(made, arrays, {})
    try:
        found = vjp(np.ones_like(y))
    except RuntimeError as error:
        assert "it ran under no_grad()" in str(error)
    else:
        np.testing.assert_allclose(found[0], right, rtol=1e-4, atol=1e-5)


@DTYPES
@pytest.mark.parametrize("rows", [1, 2, 5, 11, 15, 20, 25, 30])
def test_conv2d_in_blocks_of_rows_and_of_images(rows, dtype, monkeypatch):
    """Five images of five rows: one, two or all rows of an image at a time; two, three, four or all five images."""
    monkeypatch.setattr(import_module("minidat.fast.numpy.conv2d"), "PATCHES", rows * 7 * 3 * 3 * 2)
    rng = np.random.default_rng(0)
    arrays = [normal(rng, s) for s in ((5, 5, 7, 2), (3, 3, 2, 4), 4)]
    agree(NUMPY, "conv2d", arrays, {"padding": 1}, dtype)


@on_cpu
@both
@DTYPES
@pytest.mark.parametrize("c", [1, 7, 8, 17, 33])
@pytest.mark.parametrize("stride, padding", [(1, 0), (1, 2), (2, 1), (3, 4)])
def test_channels_of_any_number(c, stride, padding, backend, dtype):
    rng = np.random.default_rng(c)
    conv = [normal(rng, (36, 7, 5, c)), normal(rng, (5, 3, c)), normal(rng, c)]
    agree(backend, "depthwise_conv", conv, {"stride": stride, "padding": padding}, dtype)
    agree(backend, "bilinear_sample", [normal(rng, (2, 4, 6, 2 * c)), points_around(rng, (2, 2, 9), 4, 6)], {}, dtype)


@on_cpu
@both
@pytest.mark.parametrize(
    "bias", [(), (7,), (5, 1), (1, 1), (3, 5, 7), (2, 1, 5, 7), (2, 1, 1, 7), (2, 1, 2, 1, 1, 5, 7), (2, 2, 3, 5, 7)]
)
def test_biases_and_masks_repeated_in_every_way(bias, backend):
    rng = np.random.default_rng(0)
    heads = [normal(rng, (2, 2, 2, 2, 3, n, 4)) for n in (5, 7, 7)]
    for term in ((normal(rng, bias), None), (None, normal(rng, bias)), (normal(rng, bias), normal(rng, bias))):
        agree(backend, "attention", [*heads, *term], {"scale": 0.5}, "float64")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_far_below_the_largest_score_of_their_tile_keep_their_softmax(dtype):
    q = np.array([[1.0], [-3.0], [2.0]], dtype)
    k = np.array([[200.0], [199.5], [201.0], [0.0]], dtype)
    p = import_module("minidat.fast.numpy.attention").weights(q, k, None, None, 1.0)
    np.testing.assert_allclose(p, ops.softmax.plain(q @ k.T)[0], rtol=1e-5)
    assert p[1, 3] == 1 and p[0, 2] > 0.5 and p[2, 2] > 0.5


@on_cpu
@both
def test_arrays_that_are_read_only(backend):
    frozen = normal(np.random.default_rng(0), (6, 5))
    frozen.flags.writeable = False
    one = np.ones(5)
    agree(backend, "softmax", [frozen], {}, "float64")
    agree(backend, "layer_norm", [frozen, one, one], {}, "float64")


# A whole network.


@pytest.fixture
def micro():
    """dat_micro, and its loss and gradients for a batch in a dtype; a batch for each number."""
    model = create("dat_micro", drop_path=0.0)

    def step(dtype, batch=0):
        rng = np.random.default_rng(batch)
        images = rng.standard_normal((4, *[model.config.image] * 2, 3)).astype(dtype)
        targets = np.eye(model.config.classes, dtype=dtype)[rng.integers(0, model.config.classes, 4)]
        model.to(dtype=dtype)
        loss = ops.cross_entropy(model(Tensor(images)), targets)
        return [loss.data, *gradients(loss, list(model.parameters().values()))]

    return step


@on_cpu
@both
def test_a_training_step_is_the_same(backend, micro):
    with plain_only():
        expected = micro(np.float64)
    for dtype, tolerance in ((np.float64, 1e-9), (np.float32, 2e-5)):
        for i, (one, other) in enumerate(zip(micro(dtype), expected, strict=True)):
            scale = max(1.0, float(abs(other).max()))
            np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale, err_msg=f"output {i}")


@on_cpu
@both
def test_two_threads_at_once(backend, micro):
    alone = [micro(np.float32, batch) for batch in range(8)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda batch: micro(np.float32, batch), range(8)))
    for one, other in zip(alone, together, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
