"""RandomResizedCrop against its definition: which boxes, how often, and what becomes of them."""

import math

import numpy as np
import pytest
from PIL import Image

from minidat.data.resized_crop import AREA, ASPECT, draw_box, resized_crop


def rng(seed):
    return np.random.default_rng(seed)


def test_the_image_is_the_box_resized():
    pixels = rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    top, left, tall, wide = draw_box(37, 53, rng(5))
    box = Image.fromarray(pixels[top : top + tall, left : left + wide])
    got = resized_crop(Image.fromarray(pixels), 16, rng(5))
    np.testing.assert_array_equal(np.asarray(got), np.asarray(box.resize((16, 16), Image.Resampling.BICUBIC)))
    assert (np.asarray(resized_crop(Image.fromarray(pixels), 16, rng(6))) != np.asarray(got)).any()


def test_areas_aspects_and_places_are_spread_as_they_should_be():
    """In a large square image nearly every box fits whose area is not near the whole: of those, areas are uniform, logarithms
    of aspects too, and places are anywhere."""
    assert AREA == (0.08, 1.0) and ASPECT == (3 / 4, 4 / 3)
    generator = rng(1)
    boxes = np.array([draw_box(1000, 1000, generator) for _ in range(6000)])
    top, left, tall, wide = boxes.T
    assert (boxes >= 0).all() and (top + tall <= 1000).all() and (left + wide <= 1000).all()
    area, aspect = tall * wide / 1e6, np.log(wide / tall)
    assert area.min() > AREA[0] - 0.01 and area.max() <= 1 and abs(aspect).max() < math.log(4 / 3) + 0.01
    small = area < 0.7  # these always fit: √(0.7 · 4/3) < 1
    counts, _ = np.histogram(area[small], 5, (AREA[0], 0.7))
    assert (abs(counts - small.sum() / 5) < 110).all()
    counts, _ = np.histogram(aspect[small], 5, (math.log(ASPECT[0]), math.log(ASPECT[1])))
    assert (abs(counts - small.sum() / 5) < 110).all()
    for start, length in ((top, tall), (left, wide)):
        share = start[small] / (1000 - length[small])
        assert abs(share.mean() - 0.5) < 0.02 and abs(share.var() - 1 / 12) < 0.005 and share.max() > 0.99


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(1, 100, (0, 49, 1, 1)), (100, 1, (49, 0, 1, 1)), (3, 200, (0, 98, 3, 4)), (200, 3, (98, 0, 4, 3))],
)
def test_an_image_that_no_box_fits_gives_its_centre_at_the_nearest_aspect(height, width, box):
    boxes = {draw_box(height, width, rng(seed)) for seed in range(20)}
    assert box in boxes and boxes <= {box} | {b for b in boxes if b[2] <= min(height, 3) and b[3] <= min(width, 4)}
    if min(height, width) == 1:
        assert boxes == {box}
