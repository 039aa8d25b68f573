"""The drawn data set: what an image depends on, what boxes and masks say, who can learn it and who cannot."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidat.data.outlines import CLASSES, cover, turned
from minidat.data.painting import bright, contrasting
from minidat.data.shapes import Shapes, _place

HUNDREDS = np.arange(600)


@pytest.fixture(scope="module")
def drawn():
    """600 images with their labels, boxes and masks."""
    shapes = Shapes("train", seed=3)
    return *shapes.batch(HUNDREDS), *shapes.objects(HUNDREDS)


def grown(masks):
    """Masks with the eight neighbours of each of their pixels."""
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
    height, width = masks.shape[1:]
    return np.any([padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=0)


def eroded(masks):
    """Masks without the pixels that touch their outside at a side."""
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
    sides = padded[:, :-2, 1:-1], padded[:, 2:, 1:-1], padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]
    return masks & np.all(sides, axis=0)


def covered(shapes, indices):
    """How much of each pixel the object covers."""
    keys, labels = shapes._keys(indices)
    return cover(labels, _place(keys, labels), (32, 32))


def mean_colour(images, masks):
    weights = masks[..., None] / np.maximum(masks.sum((1, 2)), 1)[:, None, None, None]
    return (images / 255 * weights).sum((1, 2))  # (B, 3)


def test_form():
    shapes = Shapes("train")
    images, labels = shapes.batch([0, 5, 7])
    assert images.shape == (3, 32, 32, 3) and images.dtype == np.uint8 and images.flags.c_contiguous
    assert labels.shape == (3,) and labels.dtype == np.int64
    assert (shapes.name, shapes.image_size, len(shapes), len(Shapes("test"))) == ("shapes", 32, 20_000, 2_000)
    assert shapes.classes == CLASSES
    assert shapes.batch([])[0].shape == (0, 32, 32, 3)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 599), min_size=1, max_size=40))
def test_an_image_does_not_depend_on_its_batch(indices):
    shapes = Shapes("train", seed=3)
    images, labels = shapes.batch(indices)
    for k in {0, len(indices) - 1}:
        alone, label = Shapes("train", seed=3).batch(indices[k : k + 1])
        np.testing.assert_array_equal(images[k], alone[0])
        assert labels[k] == label[0]


def test_seed_split_and_index_each_change_the_image():
    indices = np.arange(30)
    draws = [Shapes(split, seed=seed).batch(indices)[0] for split in ("train", "test") for seed in (0, 1, -1)]
    everything = np.concatenate(draws).reshape(180, -1)
    assert len(np.unique(everything, axis=0)) == 180


def test_shapes_that_could_be_taken_for_each_other_hardly_turn():
    u = np.linspace(0, 1, 50)
    for name in CLASSES:
        angles = turned(np.full(50, CLASSES.index(name)), u)
        expected = np.pi / 6 if name in ("plus", "ex") else 2 * np.pi
        assert np.ptp(angles) == pytest.approx(expected, rel=1e-6)
        assert name not in ("plus", "ex") or angles.mean() == pytest.approx(0, abs=1e-6)


def test_size_does_not_change_the_images():
    np.testing.assert_array_equal(Shapes("test", size=9).batch([4])[0], Shapes("test").batch([4])[0])


def test_classes_are_balanced_and_not_in_a_fixed_order(drawn):
    labels = drawn[1].reshape(-1, 10)
    assert (np.sort(labels, 1) == np.arange(10)).all()
    assert (np.abs(np.array([np.bincount(column, minlength=10) for column in labels.T]) - 6) <= 11).all()
    assert len(np.unique(labels, axis=0)) > 50


def test_mean_and_std_are_those_of_the_images(drawn):
    scaled = drawn[0] / 255
    np.testing.assert_allclose(scaled.mean((0, 1, 2)), Shapes.mean, atol=0.02)
    np.testing.assert_allclose(scaled.std((0, 1, 2)), Shapes.std, atol=0.02)


def test_boxes_are_the_tight_boxes_of_the_masks(drawn):
    boxes, masks = drawn[2:]
    assert boxes.dtype == np.float32 and masks.dtype == bool
    for box, mask in zip(boxes, masks, strict=True):
        row, col = np.nonzero(mask)
        assert box.tolist() == [row.min(), col.min(), row.max() + 1, col.max() + 1]


def test_objects_are_whole_of_the_promised_size_and_differ(drawn):
    boxes, masks = drawn[2:]
    across = (boxes[:, 2:] - boxes[:, :2]).max(1)
    assert across.min() >= 8 and across.max() <= 16
    assert 11.5 < across.mean() < 12.5
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert (centres.std(0) > 4).all() and (np.abs(centres.mean(0) - 16) < 0.7).all()
    assert abs(np.corrcoef(centres.T)[0, 1]) < 0.15
    assert len(np.unique(masks.reshape(600, -1), axis=0)) > 590


def test_no_object_is_cut_by_the_border():
    masks = Shapes("train").objects(np.arange(5000))[1]
    assert not masks[:, [0, -1]].any() and not masks[:, :, [0, -1]].any()


def test_masks_show_the_shape(drawn):
    """Solid and hollow, round and square shapes fill different shares of their boxes."""
    labels, boxes, masks = drawn[1:]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    share = masks.sum((1, 2)) / area
    mean = dict(zip(CLASSES, [share[labels == k].mean() for k in range(10)], strict=True))
    assert abs(mean["disc"] - np.pi / 4) < 0.05
    assert mean["disc"] > mean["ring"] + 0.2 and mean["square"] > mean["frame"] + 0.2
    middle = np.stack([(boxes[:, 0] + boxes[:, 2]) // 2, (boxes[:, 1] + boxes[:, 3]) // 2]).astype(int)
    filled = masks[np.arange(600), middle[0], middle[1]]
    for name in ("disc", "square", "triangle", "plus", "ex", "star", "bar"):
        assert filled[labels == CLASSES.index(name)].all(), name
    for name in ("ring", "frame"):
        assert not filled[labels == CLASSES.index(name)].any(), name


def test_the_picture_shows_the_object_where_the_mask_is(drawn):
    """Inside a mask there is one colour and grain; around it there is another colour."""
    images, _, _, masks = drawn
    whole = covered(Shapes("train", seed=3), HUNDREDS) == 1
    spreads = [np.ptp(image[core], axis=0).max() for image, core in zip(images, whole, strict=True)]
    assert max(spreads) <= 0.2 * 255 + 1  # the width of the grain
    inside = eroded(masks)
    solid = inside.sum((1, 2)) >= 12
    assert solid.mean() > 0.75
    once = grown(masks)
    around = grown(grown(once)) & ~once
    contrast = np.linalg.norm(mean_colour(images, inside) - mean_colour(images, around), axis=1)
    assert contrast[solid].min() > 0.2


def test_clutter_is_there_and_its_colours_are_like_the_objects(drawn):
    """Pixels far from the object that stand out from their surroundings: the background alone is smooth."""
    images, _, _, masks = drawn
    away = ~grown(grown(grown(masks)))
    planes = images[:200].astype(np.float32) / 255
    step = np.abs(np.diff(planes, axis=2)).max(-1)  # (B, H, W-1) between neighbours
    edges = (step > 0.3) & away[:200, :, 1:] & away[:200, :, :-1]
    assert np.median(edges.sum((1, 2))) > 20


def test_colours_keep_their_distance_from_what_is_behind():
    rng = np.random.default_rng(0)
    behind = rng.uniform(-0.05, 0.6, (3, 5000)).astype(np.float32)
    colours = contrasting(bright(rng.random((3, 5000), np.float32)), behind)
    assert np.linalg.norm(colours - behind, axis=0).min() > 0.399 and colours.max() <= 1


def test_no_clutter_inside_the_object(drawn):
    """The hole of a ring or frame shows the smooth background."""
    images, labels, boxes, _ = drawn
    hollow = np.isin(labels, [CLASSES.index("ring"), CLASSES.index("frame")])
    middle = ((boxes[:, :2] + boxes[:, 2:]) / 2).astype(int)
    holes = [image[r - 1 : r + 2, c - 1 : c + 2] for image, (r, c) in zip(images, middle, strict=True)]
    spread = np.std(holes, axis=(1, 2)).max(-1)
    assert spread[hollow].max() < 0.14 * 255


def ridge(x, targets, strength, steps=15):
    """The weights that minimise |x w − targets|² + strength |w|², by conjugate gradients."""
    weights = np.zeros((x.shape[1], targets.shape[1]), x.dtype)
    rest = way = x.T @ targets
    for _ in range(steps):
        bent = x.T @ (x @ way) + strength * way
        size = (rest * rest).sum(0)
        length = size / (way * bent).sum(0)
        weights, rest = weights + length * way, rest - length * bent
        way = rest + (rest * rest).sum(0) / size * way
    return weights


def test_a_linear_model_fails():
    """Ridge regression on the pixels of 3000 images, of a strength that suits it, stays below twice chance."""
    x, labels = Shapes("train").batch(np.arange(3000))
    z, truth = Shapes("test").batch(np.arange(1000))
    x, z = (images.reshape(len(images), -1) / np.float32(255) - np.float32(0.5) for images in (x, z))
    weights = ridge(x, np.eye(10, dtype=np.float32)[labels] - np.float32(0.1), 1000)
    assert ((x @ weights).argmax(1) == labels).mean() > 0.4  # it did learn what there is for it
    assert ((z @ weights).argmax(1) == truth).mean() < 0.2


def test_the_mask_tells_the_class():
    """The outlines themselves, centred, are learnt from few: nearest neighbour among 900 masks."""
    shapes = Shapes("train")
    indices = np.arange(1100)
    labels = shapes.batch(indices)[1]
    boxes, masks = shapes.objects(indices)
    middle = ((boxes[:, :2] + boxes[:, 2:]) / 2 - 8).astype(int)
    padded = np.pad(masks, ((0, 0), (8, 8), (8, 8)))
    window = np.arange(16) + 8
    cut = np.stack([m[r + window][:, c + window] for m, (r, c) in zip(padded, middle, strict=True)])
    flat = cut.reshape(1100, -1).astype(np.float32)
    apart = flat[900:].sum(1)[:, None] + flat[:900].sum(1) - 2 * flat[900:] @ flat[:900].T
    assert (labels[:900][apart.argmin(1)] == labels[900:]).mean() > 0.8


@pytest.mark.parametrize("indices", [[20_000], [-1], [0.5], [[1, 2]], 3])
def test_indices_outside_are_refused(indices):
    for method in (Shapes("train").batch, Shapes("train").objects):
        with pytest.raises(IndexError, match="shapes: indices"):
            method(indices)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="'val', expected one of train, test"):
        Shapes("val")
    with pytest.raises(ValueError, match="size is 0"):
        Shapes("train", size=0)
