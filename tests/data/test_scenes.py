"""The drawn data set with several objects: what an image depends on, and that boxes, masks, pixels and pictures agree."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidat.data import draws
from minidat.data.scenes import RADII, Scenes, _seen
from minidat.data.shapes import Shapes

WIDE = (48, 80)


@pytest.fixture(scope="module")
def drawn():
    """200 images wider than high."""
    return Scenes("train", seed=3, image=WIDE).samples(np.arange(200))


def test_form(drawn):
    for sample in drawn[:20]:
        count = len(sample.labels)
        assert sample.image.shape == (*WIDE, 3) and sample.image.dtype == np.uint8 and sample.image.flags.c_contiguous
        assert sample.boxes.shape == (count, 4) and sample.boxes.dtype == np.float64
        assert sample.labels.dtype == np.int64 and sample.labels.min() >= 0 and sample.labels.max() < 10
        assert sample.masks.shape == (count, *WIDE) and sample.masks.dtype == bool
        assert sample.semantic.shape == WIDE and sample.semantic.dtype == np.uint8
        assert sample.size == sample.original == WIDE and not sample.crowd.any()
    scenes = Scenes("test")
    assert (len(scenes), len(Scenes("train")), scenes.image) == (500, 20_000, (64, 64))
    assert scenes.samples([]) == []


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 199), min_size=1, max_size=9))
def test_an_image_does_not_depend_on_its_batch(drawn, indices):
    for index, sample in zip(indices, Scenes("train", seed=3, image=WIDE).samples(indices), strict=True):
        for name in ("image", "boxes", "labels", "masks", "semantic"):
            np.testing.assert_array_equal(getattr(sample, name), getattr(drawn[index], name))
        assert sample.identity == index


def test_seed_split_and_index_each_change_the_image():
    sets = [Scenes(split, seed=seed, image=(32, 32), objects=1) for split in ("train", "test") for seed in (0, 1)]
    images = [sample.image for scenes in sets for sample in scenes.samples(np.arange(10))]
    images += list(Shapes("train").batch(np.arange(10))[0])
    assert len(np.unique(np.reshape(images, (50, -1)), axis=0)) == 50


def test_boxes_masks_and_pixels_agree(drawn):
    for sample in drawn:
        assert (sample.masks.sum(0) <= 1).all()  # a pixel shows one object
        expected = np.zeros(WIDE, int)
        for label, mask, box in zip(sample.labels, sample.masks, sample.boxes, strict=True):
            row, col = np.nonzero(mask)
            assert box.tolist() == [row.min(), col.min(), row.max() + 1, col.max() + 1]
            expected[mask] = label + 1
        np.testing.assert_array_equal(sample.semantic, expected)


def test_counts_classes_and_sizes(drawn):
    counts = np.bincount([len(sample.labels) for sample in drawn], minlength=5)
    assert counts[0] == 0 and len(counts) == 5 and counts[1:].min() > 25
    labels = np.concatenate([sample.labels for sample in drawn])
    assert np.bincount(labels, minlength=10).min() > 25
    boxes = np.concatenate([sample.boxes for sample in drawn])
    across = (boxes[:, 2:] - boxes[:, :2]).max(1)
    assert across.min() >= 7 and across.max() <= 2 * 1.12 * RADII[1] + 2
    assert across.std() > 3  # of many sizes
    assert boxes.min() >= 0 and (boxes[:, 2:] <= WIDE).all()
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 / WIDE
    assert (np.abs(centres.mean(0) - 0.5) < 0.04).all() and (centres.std(0) > 0.15).all()


def test_objects_keep_their_distance():
    """Two centres are at least the sum of the radii apart, and not always much further."""
    keys = draws.mix(np.arange(2000, dtype=np.uint64))
    labels, places = Scenes("train")._objects(keys)
    gaps = []
    for k, a in enumerate(places):
        for b in places[:k]:
            both = (a.radius > 0) & (b.radius > 0)
            gaps.append((np.hypot(a.row - b.row, a.col - b.col) - a.radius - b.radius)[both])
    assert -1e-4 < np.concatenate(gaps).min() < 0.1
    assert ((labels >= 0) == (np.stack([place.radius for place in places], 1) > 0)).all()


def test_the_picture_shows_each_object_where_its_mask_is(drawn):
    """Inside a mask there is one colour and grain."""
    spreads = []
    for sample in drawn[:60]:
        for mask in sample.masks:
            inside = mask.copy()
            for axis in (0, 1):
                inside &= np.roll(mask, 1, axis) & np.roll(mask, -1, axis)
            if inside.sum() > 8:
                spreads.append(np.ptp(sample.image[inside], axis=0).max())
    assert len(spreads) > 80 and np.median(spreads) <= 0.2 * 255 + 1


def test_mean_and_std_are_those_of_the_images():
    images = np.stack([sample.image for sample in Scenes("train").samples(np.arange(300))]) / 255
    np.testing.assert_allclose(images.mean((0, 1, 2)), Scenes.mean, atol=0.02)
    np.testing.assert_allclose(images.std((0, 1, 2)), Scenes.std, atol=0.02)


def test_later_objects_hide_earlier_ones():
    masks = np.zeros((1, 3, 1, 4), bool)
    masks[0, 0, 0, :3] = masks[0, 1, 0, 1:3] = masks[0, 2, 0, 2:] = True
    assert _seen(masks)[0, :, 0].tolist() == [
        [True, *[False] * 3],
        [False, True, False, False],
        [False] * 2 + [True] * 2,
    ]


def test_truth_is_the_sample():
    scenes = Scenes("test", image=WIDE)
    (sample,) = scenes.samples([7])
    truth = scenes.truth(7)
    row, col, height, width = truth.extents[-1]
    assert [row, col, row + height, col + width] == sample.boxes[-1].tolist()
    np.testing.assert_array_equal(truth.areas, sample.masks.sum((1, 2)))
    np.testing.assert_array_equal([mask.mask for mask in truth.masks], sample.masks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, "split is 'val', expected one of train, test"),
        ({"size": 0}, "size is 0, expected at least 1 image"),
        ({"image": (64, 20)}, "image is 64×20, expected sides of 26 pixels or more"),
        ({"objects": 0}, "objects is 0, expected at least 1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Scenes(**{"split": "test", **options})


def test_indices_outside_are_refused():
    with pytest.raises(IndexError, match=r"scenes: indices run 3\.\.9, expected within 0\.\.8"):
        Scenes("test", size=9).samples([3, 9])
