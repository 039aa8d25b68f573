"""Every twin is its op: value and gradients, float64 to 1e-9 and float32 to rounding, on the op's cases and awkward sizes."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from ops.cases import normal, of, points_around

from minidat import Tensor, ops
from minidat.autograd import OPS, gradients, no_grad
from minidat.models import create

TWINS = (
    *("softmax", "attention", "self_attention", "gelu", "mlp", "layer_norm"),
    *("position_bias", "bilinear_sample", "depthwise_conv"),
)
CHAINED = (
    *("offset_network", "deformable_attention", "deformable_conv"),
    *("multiscale_deformable_attention", "neighborhood_attention"),
)


def results(raw, arrays, options):
    y, vjp = raw(*arrays, **options)
    dy = np.random.default_rng(7).standard_normal(y.shape)
    return [y, *vjp(np.asarray(dy, dtype=y.dtype))]


def assert_same(found, expected, dtype, tolerance):
    for i, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert (one is None) == (other is None), f"output {i}"
        if other is not None:
            assert one.dtype == dtype and one.shape == other.shape, f"output {i}"
            scale = max(1.0, float(abs(other).max()))
            np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale, err_msg=f"output {i}")


def compare(plain, name, arrays, options, dtypes=((np.float64, 1e-9), (np.float32, 2e-5))):
    """The twin in each dtype against the op's own function in float64, with the inputs as the dtype rounds them."""
    for dtype, tolerance in dtypes:
        rounded = [a.astype(dtype) if isinstance(a, np.ndarray) else a for a in arrays]
        before = [a.copy() if isinstance(a, np.ndarray) else a for a in rounded]
        found = results(OPS[name].raw, rounded, options)
        for one, other in zip(rounded, before, strict=True):
            np.testing.assert_array_equal(one, other)  # inputs are never written to
        exact = [a.astype(np.float64) if isinstance(a, np.ndarray) else a for a in rounded]
        assert_same(found, results(plain[name], exact, options), dtype, tolerance)


def test_these_are_the_ops_with_twins(twins):
    assert {name for name, op in OPS.items() if op.raw is not twins[name]} == set(TWINS)


@pytest.mark.parametrize("case", of(*TWINS), ids=str)
def test_agrees_with_the_op(case, twins):
    arrays, options = case.make(np.random.default_rng(0), (2, 3))
    compare(twins, case.op, arrays, options)


@pytest.mark.parametrize("case", of(*CHAINED), ids=str)
def test_ops_made_of_twins_agree(case, twins, monkeypatch):
    arrays, options = case.make(np.random.default_rng(0), (2, 3))
    found = results(case.raw, arrays, options)
    for name in TWINS:
        monkeypatch.setattr(OPS[name], "raw", twins[name])
    assert_same(found, results(case.raw, arrays, options), np.float64, 1e-9)


AWKWARD = (1, 2, 7, 8, 9, 15, 16, 17, 33, 64, 67)  # around what is done for eight at a time, and four times that


@pytest.mark.parametrize("m", AWKWARD)
def test_rows_of_any_length(m, twins):
    rng = np.random.default_rng(m)
    compare(twins, "softmax", [normal(rng, (3, m), 5.0)], {})
    compare(twins, "layer_norm", [normal(rng, (5, m)), normal(rng, m), normal(rng, m)], {"eps": 0.01})
    compare(twins, "gelu", [normal(rng, (3, m), 3.0)], {})
    compare(twins, "mlp", [normal(rng, s) for s in ((300, 3), (3, m), m, (m, 2), 2)], {})
    heads = [normal(rng, (2, 3, n, 4)) for n in (5, m, m)]
    compare(twins, "attention", [*heads, normal(rng, (3, 5, m)), normal(rng, (2, 1, 1, m))], {"scale": 0.5})


def test_an_mlp_in_blocks_of_rows(twins, monkeypatch):
    from minidat.fast.numba import mlp

    monkeypatch.setattr(mlp, "HIDDEN", 1)  # blocks of 128 rows, the last one of 44
    rng = np.random.default_rng(0)
    compare(twins, "mlp", [normal(rng, s) for s in ((300, 3), (3, 5), 5, (5, 2), 2)], {})


@pytest.mark.parametrize("c", [1, 7, 8, 17, 33])
@pytest.mark.parametrize("stride, padding", [(1, 0), (1, 2), (2, 1), (3, 4)])
def test_channels_of_any_number(c, stride, padding, twins):
    rng = np.random.default_rng(c)
    conv = [normal(rng, (2, 7, 5, c)), normal(rng, (5, 3, c)), normal(rng, c)]
    compare(twins, "depthwise_conv", conv, {"stride": stride, "padding": padding})
    compare(twins, "bilinear_sample", [normal(rng, (2, 4, 6, 2 * c)), points_around(rng, (2, 2, 9), 4, 6)], {})


@pytest.mark.parametrize(
    "bias", [(), (7,), (5, 1), (1, 1), (3, 5, 7), (2, 1, 5, 7), (2, 1, 1, 7), (2, 1, 2, 1, 1, 5, 7), (2, 2, 3, 5, 7)]
)
def test_biases_and_masks_repeated_in_every_way(bias, twins):
    rng = np.random.default_rng(0)
    heads = [normal(rng, (2, 2, 2, 2, 3, n, 4)) for n in (5, 7, 7)]
    for term in ((normal(rng, bias), None), (None, normal(rng, bias)), (normal(rng, bias), normal(rng, bias))):
        compare(twins, "attention", [*heads, *term], {"scale": 0.5}, ((np.float64, 1e-9),))


def test_arrays_in_any_order_and_read_only(twins):
    rng = np.random.default_rng(0)
    frozen = normal(rng, (6, 5))
    frozen.flags.writeable = False
    for x in (normal(rng, (5, 6)).T, normal(rng, (12, 10))[::2, 1::2], frozen):
        compare(twins, "layer_norm", [x, normal(rng, 5), normal(rng, 5)], {}, ((np.float64, 1e-9),))
        compare(twins, "softmax", [x], {}, ((np.float64, 1e-9),))


def test_without_a_tape_the_values_are_the_same(twins):
    rng = np.random.default_rng(0)
    x, weights = normal(rng, (300, 3)), [normal(rng, s) for s in ((3, 5), 5, (5, 2), 2)]
    with no_grad():
        np.testing.assert_array_equal(ops.gelu(x).data, ops.gelu.raw(x)[0])
        mlp = ops.mlp(x, *weights).data
    np.testing.assert_array_equal(mlp, ops.mlp.raw(x, *weights)[0])


def loss_and_gradients(model, images, targets):
    loss = ops.cross_entropy(model(Tensor(images)), targets)
    return [loss.data, *gradients(loss, list(model.parameters().values()))]


@pytest.fixture
def micro():
    """dat_micro, and its loss and gradients for a batch in a dtype; a batch for each number."""
    model = create("dat_micro", drop_path=0.0)

    def step(dtype, batch=0):
        rng = np.random.default_rng(batch)
        images = rng.standard_normal((4, *[model.config.image] * 2, 3)).astype(dtype)
        targets = np.eye(model.config.classes, dtype=dtype)[rng.integers(0, model.config.classes, 4)]
        return loss_and_gradients(model.to(dtype=dtype), images, targets)

    return step


def test_a_training_step_is_the_same(micro, plain, request):
    expected = micro(np.float64)
    request.getfixturevalue("twins")
    assert_same(micro(np.float64), expected, np.float64, 1e-9)
    assert_same(micro(np.float32), expected, np.float32, 2e-5)


def test_two_threads_at_once(micro, twins):
    alone = [micro(np.float32, batch) for batch in range(8)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda batch: micro(np.float32, batch), range(8)))
    for one, other in zip(alone, together, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
