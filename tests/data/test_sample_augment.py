"""Augmentation: boxes, masks and classes of pixels follow the image."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidat.data.sample_augment import SampleRecipe, augment_sample, cropped, flipped, released_size, resized
from minidat.data.samples import mask_boxes
from minidat.data.scenes import Scenes

SIZE = (40, 56)


@pytest.fixture(scope="module")
def samples():
    return Scenes("train", seed=2, image=SIZE).samples(np.arange(12))


def told_by_masks(sample):
    """The class of each pixel, as masks say."""
    semantic = np.zeros(sample.size, int)
    for label, mask in zip(sample.labels, sample.masks, strict=True):
        semantic[mask] = label + 1
    return semantic


def assert_agree(sample):
    assert sample.image.shape[:2] == sample.masks.shape[1:] == sample.semantic.shape == sample.size
    assert sample.image.dtype == np.uint8 and sample.masks.dtype == bool
    np.testing.assert_array_equal(sample.semantic, told_by_masks(sample))
    assert len(sample.boxes) == len(sample.labels) == len(sample.masks) == len(sample.crowd)


def test_flip(samples):
    for sample in samples:
        mirrored = flipped(sample)
        assert_agree(mirrored)
        np.testing.assert_array_equal(mirrored.image, sample.image[:, ::-1])
        np.testing.assert_array_equal(mirrored.boxes, mask_boxes(mirrored.masks))
        for name in ("image", "boxes", "masks", "semantic"):
            np.testing.assert_array_equal(getattr(flipped(mirrored), name), getattr(sample, name))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 11), st.integers(20, 90), st.integers(20, 90))
def test_resize(samples, i, height, width):
    sample = resized(samples[i], (height, width))
    assert sample.size == (height, width) and sample.original == SIZE
    assert_agree(sample)
    ratio = np.tile([height / SIZE[0], width / SIZE[1]], 2)
    np.testing.assert_allclose(sample.boxes, samples[i].boxes * ratio)
    kept = sample.masks.any((1, 2))
    tight, boxes = mask_boxes(sample.masks)[kept], sample.boxes[kept]
    assert (tight[:, :2] >= boxes[:, :2] - 0.5).all() and (tight[:, 2:] <= boxes[:, 2:] + 0.5).all()
    if min(ratio) >= 1:  # every pixel of the object is still there
        assert kept.all() and (np.abs(tight - boxes) <= 0.5).all()


def test_an_enlarged_mask_repeats_its_pixels(samples):
    sample = resized(samples[0], (2 * SIZE[0], 3 * SIZE[1]))
    np.testing.assert_array_equal(sample.masks, samples[0].masks.repeat(2, 1).repeat(3, 2))


def test_a_smooth_image_keeps_its_place():
    """A ramp resized is a ramp: its value is the place of the pixel's centre."""
    ramp = np.broadcast_to((np.arange(40)[:, None, None] + 0.5) * 4, (40, 24, 3)).astype(np.uint8)
    (sample,) = Scenes("train", image=(40, 26), objects=1).samples([0])
    out = resized(replace(sample, image=np.ascontiguousarray(ramp)), (20, 24)).image
    np.testing.assert_allclose(
        out[2:-2, :, 0], np.broadcast_to((np.arange(20)[2:-2, None] + 0.5) * 8, (16, 24)), atol=1
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 11), st.data())
def test_crop(samples, i, data):
    top, left = data.draw(st.integers(0, 39)), data.draw(st.integers(0, 55))
    size = data.draw(st.integers(1, 40 - top)), data.draw(st.integers(1, 56 - left))
    sample = cropped(samples[i], (top, left), size)
    np.testing.assert_array_equal(sample.image, samples[i].image[top : top + size[0], left : left + size[1]])
    assert_agree(sample)
    assert sample.size == size
    np.testing.assert_array_equal(sample.boxes.reshape(-1, 4), np.clip(sample.boxes, 0, [*size, *size]))
    seen = samples[i].masks[:, top : top + size[0], left : left + size[1]].any((1, 2))
    assert sample.labels.tolist() == samples[i].labels[seen].tolist()
    inside = mask_boxes(sample.masks)
    assert (sample.boxes[:, :2] <= inside[:, :2]).all() and (sample.boxes[:, 2:] >= inside[:, 2:]).all()
    if top <= samples[i].boxes[:, 0].min(initial=99) and left == 0 and size[1] == 56:
        assert (sample.boxes[:, 3] == samples[i].boxes[seen, 3]).all()


def test_a_crop_without_objects_has_none(samples):
    sample = samples[0]
    empty = cropped(replace(sample, masks=np.zeros_like(sample.masks)), (0, 0), (20, 20))
    assert empty.boxes.shape == (0, 4) and empty.masks.shape == (0, 20, 20) and empty.crowd.shape == (0,)


def test_recipe_draws_each_choice(samples):
    recipe = SampleRecipe(flip=0.5, scale=(0.5, 2.0), crop=(32, 32))
    rng = np.random.default_rng(0)
    drawn = [augment_sample(samples[k % 12], recipe, rng) for k in range(60)]
    for sample in drawn:
        assert_agree(sample)
        assert max(sample.size) <= 32
    sizes = {sample.size for sample in drawn}
    assert (32, 32) in sizes and len(sizes) > 5
    again = augment_sample(samples[0], recipe, np.random.default_rng(7))
    np.testing.assert_array_equal(again.image, augment_sample(samples[0], recipe, np.random.default_rng(7)).image)
    same = augment_sample(samples[0], SampleRecipe(flip=0), rng)
    np.testing.assert_array_equal(same.image, samples[0].image)
    always = augment_sample(samples[0], SampleRecipe(flip=1), rng)
    np.testing.assert_array_equal(always.image, flipped(samples[0]).image)


def test_crops_with_too_much_of_one_class_are_drawn_again(samples):
    """Of a picture with one class on the left three quarters, crops that show both are taken."""
    semantic = np.zeros((40, 56), np.uint8)
    semantic[:, 42:] = 1
    sample = replace(samples[0], semantic=semantic)
    rng = np.random.default_rng(0)
    shares = {}
    for dominant in (1.0, 0.75):
        recipe = SampleRecipe(flip=0, crop=(20, 20), dominant=dominant)
        crops = [augment_sample(sample, recipe, rng).semantic for _ in range(200)]
        shares[dominant] = np.mean([max(crop.mean(), 1 - crop.mean()) >= 0.75 for crop in crops])
    assert shares[0.75] < 0.2 < 0.6 < shares[1.0]


def test_a_crop_is_drawn_again_ten_times_at_most(samples):
    """mmsegmentation's rule: one class alone can never do, so the eleventh crop is taken."""
    drawn = []

    class Counted:
        def integers(self, high):
            drawn.append(high)
            return 0

        def random(self):
            return 1.0

    one = replace(samples[0], semantic=np.zeros(SIZE, np.uint8))
    augment_sample(one, SampleRecipe(crop=(20, 20), dominant=0.75), Counted())
    assert len(drawn) == 2 * 11


@pytest.mark.parametrize(
    ("size", "expected"),
    [((480, 640), (800, 1067)), ((640, 480), (1067, 800)), ((375, 1242), (402, 1333)), ((1, 3000), (1, 1333))],
)
def test_released_size(size, expected):
    assert released_size(size) == expected
