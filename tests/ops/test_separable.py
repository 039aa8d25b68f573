"""Resizing, pooling and RoIAlign at their simplest: what they leave as it is; φ where points stand on a grid."""

import numpy as np
import pytest

from minidat import ops
from minidat.ops.roi_align import bin_matrix


def a(*shape):
    return np.random.default_rng(0).standard_normal(shape)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_a_map_resized_to_its_own_size_is_itself(mode):
    x = a(2, 5, 3, 4)
    np.testing.assert_array_equal(ops.resize.raw(x, size=(5, 3), mode=mode)[0], x)
    np.testing.assert_allclose(ops.adaptive_average_pool.raw(x, size=(5, 3))[0], x, rtol=1e-15)


def test_nearest_twice_as_large_repeats_and_pooling_to_one_is_the_mean():
    x = a(2, 3, 5, 4)
    twice = ops.resize.raw(x, size=(6, 10), mode="nearest")[0]
    np.testing.assert_array_equal(twice, x.repeat(2, 1).repeat(2, 2))
    np.testing.assert_allclose(ops.adaptive_average_pool.raw(twice, size=(3, 5))[0], x, rtol=1e-14)
    np.testing.assert_allclose(ops.adaptive_average_pool.raw(x, size=(1, 1))[0][:, 0, 0], x.mean((1, 2)), rtol=1e-13)


def test_bilinear_twice_as_large_by_hand():
    x = np.array([0.0, 4.0, 12.0]).reshape(1, 1, 3, 1)
    y = ops.resize.raw(x, size=(1, 6))[0]
    np.testing.assert_array_equal(y.ravel(), [0, 1, 3, 6, 10, 12])  # a quarter and three quarters; the edge is repeated


def test_a_box_around_the_whole_map_with_a_bin_for_each_pixel_reads_the_map():
    x, boxes = a(2, 5, 7, 3), np.array([[0.0, 0, 20, 28]] * 2)
    y, vjp = ops.roi_align.raw(x, boxes, np.array([1, 0]), size=(5, 7), scale=0.25, samples=1)
    np.testing.assert_allclose(y, x[::-1], rtol=1e-14)
    dy = a(2, 5, 7, 3)
    np.testing.assert_allclose(vjp(dy)[0], dy[::-1], rtol=1e-14)


def test_a_sample_of_a_bin_is_phi_at_its_place():
    x, box = a(1, 9, 11, 3), np.array([[1.3, 2.6, 7.9, 9.2]])
    y = ops.roi_align.raw(x, box, np.array([0]), size=(2, 3), samples=1)[0]
    (row0, col0, row1, col1), half = box[0], 0.5
    rows = row0 - half + (np.arange(2) + 0.5) * (row1 - row0) / 2
    cols = col0 - half + (np.arange(3) + 0.5) * (col1 - col0) / 3
    points = np.stack(np.meshgrid(rows, cols, indexing="ij"), -1).reshape(1, 1, 6, 2)
    np.testing.assert_allclose(y.reshape(1, 6, 3), ops.bilinear_sample.raw(x, points)[0], rtol=1e-12)


def test_without_the_half_pixel_everything_is_read_half_a_pixel_too_far():
    x, box, images = a(1, 9, 11, 2), np.array([[1.3, 2.6, 5.9, 7.2]]), np.array([0])
    wrong = ops.roi_align.raw(x, box, images, size=(2, 2), half_pixel=False)[0]
    np.testing.assert_allclose(wrong, ops.roi_align.raw(x, box + 0.5, images, size=(2, 2))[0], rtol=1e-12)


def test_rows_of_a_matrix_add_up_to_one_where_all_samples_are_on_the_map():
    start, stop = np.array([0.5, 2.0, -30.0, 3.0, 5.0]), np.array([6.0, 2.5, -20.0, 3.0, 4.0])
    total = bin_matrix(start, stop, 3, 8, 0).sum(-1)
    np.testing.assert_allclose(total, [[1] * 3, [1] * 3, [0] * 3, [0] * 3, [0] * 3], atol=1e-14)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: ops.resize(a(1, 4, 4, 2), size=(0, 3)),
            "resize: height is 0; it must be a whole number of at least 1",
        ),
        (lambda: ops.resize(a(1, 4, 4, 2), size=(2, 3), mode="cubic"), "mode 'cubic' is unknown; choose from bilinear"),
        (lambda: ops.resize(a(1, 4, 0, 2), size=(2, 3)), "resize: a map of 4×0 has no pixels"),
        (lambda: ops.adaptive_average_pool(a(1, 4, 4, 2), size=(2, 1.5)), "adaptive_average_pool: width is 1.5"),
        (
            lambda: ops.roi_align(a(2, 4, 4, 2), np.ones((1, 4)), np.array([2]), size=(2, 2)),
            r"boxes are of images \[2\] …, but axis 'b' is 2",
        ),
        (
            lambda: ops.roi_align(a(2, 4, 4, 2), np.ones((1, 4)), np.array([0]), size=(2, 2), samples=-1),
            "roi_align: samples is -1",
        ),
        (
            lambda: ops.separable_resample(a(2, 4, 4, 2), a(3, 5, 4), a(6, 4)),
            "are neither one for all nor one for each of 2 maps",
        ),
        (
            lambda: ops.batch_norm(a(1, 1, 1, 2), a(2), a(2), None, None),
            r"batch_norm: 1 value\(s\) a channel in training",
        ),
        (lambda: ops.batch_norm(a(3, 2), a(2), a(2), a(2), None), "mean and var are both given, or both None"),
        (lambda: ops.group_norm(a(1, 2, 2, 6), a(6), a(6), groups=4), "axis 'c' is 6 .* 4 groups must divide it"),
        (lambda: ops.smooth_l1(a(3), a(3), beta=-1.0), "smooth_l1: beta is -1.0; it must be at least 0"),
        (
            lambda: ops.pixel_cross_entropy(a(2, 3), np.array([0, 3])),
            r"label 3 is none of 3 classes \(axis 'k'\) and not ignored",
        ),
        (lambda: ops.pixel_cross_entropy(a(2, 3), np.array([0, 1]), average="some"), "average 'some' is unknown"),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("average", ["all", "valid"])
def test_pixels_that_are_all_ignored_cost_nothing(average):
    y, vjp = ops.pixel_cross_entropy.raw(a(2, 3, 4), np.full((2, 3), 255), average=average)
    assert y == 0 and not vjp(np.ones_like(y))[0].any()


def test_losses_of_logits_do_not_overflow():
    x, t = np.array([-1e4, 1e4, -1e4, 1e4]), np.array([0.0, 1.0, 1.0, 0.0])
    np.testing.assert_array_equal(ops.binary_cross_entropy.raw(x, t)[0], [0, 0, 1e4, 1e4])
    y, vjp = ops.focal_loss.raw(x, t)
    np.testing.assert_allclose(y, [0, 0, 0.25e4, 0.75e4])
    np.testing.assert_allclose(vjp(np.ones(4))[0], [0, 0, -0.25, 0.75])
