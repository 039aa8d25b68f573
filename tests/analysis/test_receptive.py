"""What a query sees: exactly what each attention's definition lets it see, on a map of 6×9."""

import numpy as np
import pytest

from minidat import Tensor, nn, ops
from minidat.analysis.receptive import receptive_field
from minidat.attention import (
    DeformableAttention,
    DeformableConv2d,
    DeformableSelfAttention,
    MultiHeadSelfAttention,
    NeighborhoodAttention,
    Offsets,
    SpatialReductionAttention,
    WindowAttention,
)

H, W, C = 6, 9, 8
QUERIES = [(0, 0), (2, 4), (5, 8), (3, 1)]
ZERO = 1e-20  # a mask of −100 leaves 10⁻⁴⁴


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def seen(module, query, rng):
    """The pixels that it sees, (H, W) bool."""
    module.to(dtype=np.float64)
    return receptive_field(module, rng.normal(size=(H, W, C)), query, rng=rng) > ZERO


def box(rows, cols):
    """True in rows[0] ≤ row < rows[1], and so the columns."""
    where = np.zeros((H, W), bool)
    where[max(rows[0], 0) : max(rows[1], 0), max(cols[0], 0) : max(cols[1], 0)] = True
    return where


def corners(points):
    """The neighbours, inside the map, that each of the points (n, 2) lies between: four, or fewer on whole pixels."""
    where = np.zeros((H, W), bool)
    for first, last in zip(np.floor(points).astype(int), np.ceil(points).astype(int)):
        where |= box((first[0], last[0] + 1), (first[1], last[1] + 1))
    return where


@pytest.mark.parametrize("query", QUERIES)
def test_full_attention_sees_everything(query, rng):
    assert seen(MultiHeadSelfAttention(C, 2, rng=rng), query, rng).all()


@pytest.mark.parametrize("query", QUERIES)
def test_spatial_reduction_sees_all_whole_patches_and_itself(query, rng):
    expected = box((0, 6), (0, 8))  # 6×9 leaves the last column in no patch of 2×2
    expected[query] = True
    np.testing.assert_array_equal(seen(SpatialReductionAttention(C, 2, reduction=2, rng=rng), query, rng), expected)


@pytest.mark.parametrize("query", QUERIES)
def test_a_window_sees_itself(query, rng):
    row, col = (n // 3 * 3 for n in query)
    mixer = WindowAttention(C, 2, window=3, size=(H, W), rng=rng)
    np.testing.assert_array_equal(seen(mixer, query, rng), box((row, row + 3), (col, col + 3)))


@pytest.mark.parametrize("query", QUERIES)
def test_a_shifted_window_sees_itself_and_not_around_the_border(query, rng):
    """Shifted by 2: rows 2–4 are one window, 5 and 0–1 share another, but do not touch. Columns likewise."""
    rows, cols = (next((a, b) for a, b in edges if a <= n < b) for n, edges in zip(query, (CUTS[H], CUTS[W])))
    mixer = WindowAttention(C, 2, window=3, size=(H, W), shift=2, rng=rng)
    np.testing.assert_array_equal(seen(mixer, query, rng), box(rows, cols))


CUTS = {6: [(0, 2), (2, 5), (5, 6)], 9: [(0, 2), (2, 5), (5, 8), (8, 9)]}


@pytest.mark.parametrize("query", QUERIES)
def test_neighbourhood_attention_sees_the_nearest_inside_the_map(query, rng):
    row, col = (min(max(n - 2, 0), size - 5) for n, size in zip(query, (H, W)))
    mixer = NeighborhoodAttention(C, 2, kernel=5, rng=rng)
    np.testing.assert_array_equal(seen(mixer, query, rng), box((row, row + 5), (col, col + 5)))


@pytest.mark.parametrize("query", QUERIES)
def test_a_deformable_convolution_sees_its_taps_and_what_its_offsets_are_made_of(query, rng):
    mixer = DeformableConv2d(C, C, 3, rng=rng)
    for layer in (mixer.offset, mixer.modulation):
        layer.weight.data[...] = rng.normal(0, 0.1, layer.weight.shape)
    record, x = {}, np.random.default_rng(1).normal(size=(H, W, C))
    mixer.to(dtype=np.float64)
    mixer(Tensor(x[None]), record=record)
    start = (query[0] * W + query[1]) * 9
    around = box((query[0] - 1, query[0] + 2), (query[1] - 1, query[1] + 2))
    expected = corners(record["points"][0, 0, start : start + 9]) | around
    np.testing.assert_array_equal(receptive_field(mixer, x, query, rng=rng) > 0, expected)
    assert expected.sum() <= 9 * 4 + 9


@pytest.mark.parametrize("query", QUERIES)
def test_deformable_detr_sees_its_points_and_itself(query, rng):
    mixer = DeformableSelfAttention(C, 2, points=3, rng=rng).to(dtype=np.float64)
    for layer in (mixer.attention.offset, mixer.attention.weigh):
        layer.weight.data[...] = rng.normal(0, 0.1, layer.weight.shape)
    record, x = {}, rng.normal(size=(H, W, C))
    mixer(Tensor(x[None]), record=record)
    start = (query[0] * W + query[1]) * 3
    expected = corners(record["points"][0, :, start : start + 3].reshape(-1, 2))
    expected[query] = True
    np.testing.assert_array_equal(receptive_field(mixer, x, query, rng=rng) > 0, expected)


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("query", QUERIES)
def test_dat_sees_what_its_points_read_and_what_moves_them(query, stride, rng):
    """θ_offset with a 1×1 kernel sees the queries at every stride-th pixel, nothing more."""
    mixer = DeformableAttention(C, 2, Offsets(stride, kernel=1), size=(H, W), rng=rng).to(dtype=np.float64)
    record, x = {}, rng.normal(size=(H, W, C))
    mixer(Tensor(x[None]), record=record)
    expected = corners(record["points"][0].reshape(-1, 2))
    expected[::stride, ::stride] = True
    expected[query] = True
    assert stride == 1 or not expected.all()
    np.testing.assert_array_equal(receptive_field(mixer, x, query, rng=rng) > 0, expected)


def test_dat_whose_offsets_stay_sees_the_points_alone(rng):
    mixer = DeformableAttention(C, 2, Offsets(3, kernel=3, learned=False), size=(H, W), convention="v1", rng=rng)
    mixer.to(dtype=np.float64)
    record, x = {}, rng.normal(size=(H, W, C))
    mixer(Tensor(x[None]), record=record)
    expected = corners(record["points"][0].reshape(-1, 2))
    expected[2, 4] = True
    np.testing.assert_array_equal(receptive_field(mixer, x, (2, 4), rng=rng) > 0, expected)
    assert not expected.all()


class Twice(nn.Module):
    """y(p) = 2 x(p) + ½ x(one to the left of p)"""

    def __call__(self, x):
        return x * 2.0 + ops.take(x, indices=np.array([W - 1, *range(W - 1)]), axis=2) * 0.5


def test_values_are_mean_absolute_gradients(rng):
    x, state = rng.normal(size=(H, W, C)), np.random.default_rng(3)
    field = receptive_field(Twice(), x, (2, 4), rng=state, draws=5)
    dy = np.random.default_rng(3).normal(size=(5, C))
    expected = np.zeros((H, W))
    expected[2, 4], expected[2, 3] = 2 * abs(dy).sum(1).mean(), 0.5 * abs(dy).sum(1).mean()
    np.testing.assert_allclose(field, expected, rtol=1e-12)


def test_no_gradient_is_left_behind(rng):
    mixer = MultiHeadSelfAttention(C, 2, rng=rng)
    x = rng.normal(size=(H, W, C)).astype(np.float32)
    field = receptive_field(mixer, x, (0, 1), rng=rng)
    assert field.shape == (H, W) and field.dtype == np.float64
    assert all(t.grad is None for t in mixer.parameters().values())


@pytest.mark.parametrize(
    ("shape", "query", "message"),
    [
        ((1, H, W, C), (0, 0), r"one map \(H, W, C\), got \(1, 6, 9, 8\)"),
        ((H, W, C), (0, 9), r"query \(0, 9\) is outside the map of 6×9"),
        ((H, W, C), (-1, 0), r"query \(-1, 0\) is outside the map of 6×9"),
    ],
)
def test_what_does_not_fit_is_refused(shape, query, message, rng):
    with pytest.raises(ValueError, match=message):
        receptive_field(MultiHeadSelfAttention(C, 2, rng=rng), np.zeros(shape), query, rng=rng)
