"""Masks as run lengths, strings and polygons: cocoapi's own on stored cases, and beside pycocotools on random ones."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from minidat.data.polygons import rasterise, trace
from minidat.data.rle import Rle, common

CASES = json.loads((Path(__file__).parents[1] / "fixtures" / "dense" / "masks.json").read_text())
MASKS = st.tuples(st.integers(1, 9), st.integers(1, 13)).flatmap(lambda size: arrays(bool, size))


def drawn(case):
    if case["rows"] == "all ones":
        return np.ones((case["h"], case["w"]), bool)
    return np.array([[pixel == "1" for pixel in row] for row in case["rows"]])


@pytest.mark.parametrize("case", CASES["rle"], ids=[case["string"] for case in CASES["rle"]])
def test_stored_run_lengths_and_strings(case):
    rle = Rle.of(drawn(case))
    assert (rle.counts.tolist(), str(rle), rle.area) == (case["counts"], case["string"], case["area"])
    again = Rle.parse(case["string"], rle.size)
    np.testing.assert_array_equal(again.counts, rle.counts)
    np.testing.assert_array_equal(again.mask, drawn(case))


@pytest.mark.parametrize("case", CASES["polygons"], ids=[case["note"] for case in CASES["polygons"]])
def test_stored_polygons(case):
    parts = case["polygon"] if isinstance(case["polygon"][0], list) else [case["polygon"]]
    mask = rasterise(parts, (case["h"], case["w"]))
    np.testing.assert_array_equal(mask, drawn(case))
    assert str(Rle.of(mask)) == case["rle"]


@given(MASKS)
def test_there_and_back(mask):
    rle = Rle.of(mask)
    np.testing.assert_array_equal(rle.mask, mask)
    np.testing.assert_array_equal(Rle.parse(str(rle), rle.size).mask, mask)
    assert rle.area == mask.sum() and (rle.counts[1:] > 0).all()


@given(st.integers(0, 2**32 - 1))
def test_common_pixels(seed):
    rng = np.random.default_rng(seed)
    masks = rng.random((5, *rng.integers(1, 12, 2))) < rng.random((5, 1, 1))
    rles = [Rle.of(mask) for mask in masks]
    expected = (masks[0] & masks).sum((1, 2))
    np.testing.assert_array_equal(common(rles[0], rles), expected)
    split = Rle(rles[0].size, np.concatenate([[0, 0], rles[0].counts, [0]]))  # runs of no pixels mean nothing
    np.testing.assert_array_equal(common(split, rles), expected)
    np.testing.assert_array_equal(common(rles[1], [split]), expected[1:2])


@given(MASKS)
def test_borders_as_polygons(mask):
    polygons = trace(mask)
    if polygons is None:
        outside = np.pad(~mask, 1)
        reached = np.zeros_like(outside)
        reached[0, 0] = True
        for _ in range(outside.size):  # flood what is outside, through corners too
            near = np.pad(reached, 1)
            spread = [np.roll(near, (i, j), (0, 1))[1:-1, 1:-1] for i in (-1, 0, 1) for j in (-1, 0, 1)]
            reached = outside & np.any(spread, axis=0)
        assert not mask.any() or (outside & ~reached).any() or mask.sum() >= 4  # a hole, or one closed at corners
    else:
        np.testing.assert_array_equal(rasterise(polygons, mask.shape), mask)


def test_a_border_has_its_corners_alone():
    mask = np.zeros((5, 6), bool)
    mask[1:4, 2:5] = True
    assert trace(mask) == [[2, 1, 5, 1, 5, 4, 2, 4]]
    mask[2, 3] = False
    assert trace(mask) is None
    mask[2, 4] = False
    assert trace(mask) == [[2, 1, 5, 1, 5, 2, 3, 2, 3, 3, 5, 3, 5, 4, 2, 4]]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_random_polygons_and_masks_equal_cocoapi_s(seed):
    official = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(1, 30, 2))
    corners = rng.uniform(-0.3, 1.3, (rng.integers(3, 9), 2)) * [width, height]
    if rng.random() < 0.5:
        corners = np.round(corners * 2) / 2  # halves: corners on pixel centres and borders
    if rng.random() < 0.3:
        corners = np.repeat(corners, 2, 0)  # edges of no length
    part = corners.ravel().tolist()
    (expected,) = official.frPyObjects([part], height, width)
    mask = rasterise([part], (height, width))
    assert str(Rle.of(mask)) == expected["counts"].decode()
    np.testing.assert_array_equal(mask, official.decode(expected).astype(bool))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rle((2, 3), np.array([4, 1])), "run lengths sum to 5, expected 2·3 = 6"),
        (lambda: Rle((2, 3), np.array([4, -1, 3])), "a run length is -1, expected 0 or more"),
        (lambda: Rle.parse("03", (2, 3)), "run lengths sum to 3, expected 2·3 = 6"),
        (lambda: Rle.parse("0 ", (2, 3)), "an RLE string has ' ' at a place"),
        (lambda: Rle.parse("0`", (2, 3)), "ends in the middle of a number"),
        (lambda: Rle.parse("o" * 40 + "0", (2, 3)), "an RLE string has 'o' at a place"),
        (lambda: Rle.parse("0nnnnnnnnnnn1", (2, 3)), "a run longer than the mask's"),
        (lambda: rasterise([[1, 2, 3, 4]], (5, 5)), "a polygon has 4 coordinates"),
        (lambda: rasterise([[1, 2, 3, 4, 5, 6, 7]], (5, 5)), "a polygon has 7 coordinates"),
        (lambda: rasterise([[1, 2, 3, 4, 5, float("nan")]], (5, 5)), "a corner at nan, beyond all images"),
        (lambda: rasterise([[1, 2, 3, 4, 5, 1e9]], (5, 5)), r"a corner at 1e\+09, beyond all images"),
    ],
)
def test_damaged_masks_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
