"""Augmentation by its properties: what each function may change, and that its targets tell what it did."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidat.data.augment import RECIPES, Recipe, augment, normalise, one_hot
from minidat.data.cropping import crop, draw_crops, draw_flips, flip
from minidat.data.erasing import draw_erased, erase
from minidat.data.mixing import draw_cutmix, draw_mixup, mix

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
SHAPE = (6, 11, 13, 3)  # (B, H, W, C)
seeds = st.integers(0, 2**32)


def rng(seed):
    return np.random.default_rng(seed)


# Each augmentation, drawn and applied


def random_crop(images, rng, padding=4):
    return crop(images, draw_crops(images.shape, rng, padding), padding)


def random_flip(images, rng):
    return flip(images, draw_flips(images.shape, rng))


def random_erasing(images, rng, probability, **ranges):
    return erase(images, *draw_erased(images.shape, rng, probability, **ranges))


def mixup(images, targets, rng, alpha):
    return mix(images, targets, draw_mixup(rng, alpha))


def cutmix(images, targets, rng, alpha):
    return mix(images, targets, draw_cutmix(images.shape, rng, alpha))


def pixels(seed=0, shape=SHAPE):
    """Images without a zero, so that padding can be told from content."""
    return rng(seed).integers(1, 256, shape, np.uint8)


def numbered(batch, height=11, width=13):
    """Floats in which image b has the value b everywhere, and targets one-hot at b."""
    images = np.broadcast_to(np.arange(batch, dtype=np.float32)[:, None, None, None], (batch, height, width, 3))
    return images.copy(), np.eye(batch, dtype=np.float32)


@given(seeds, st.integers(0, 5))
def test_a_crop_is_a_window_shifted_over_zeros(seed, padding):
    images = pixels(seed)
    cropped = random_crop(images, rng(seed), padding)
    assert cropped.shape == SHAPE and cropped.dtype == np.uint8
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    for image, wide in zip(cropped, padded, strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(wide, image.shape)[..., 0, :, :, :]
        assert (windows == image).all((2, 3, 4)).sum() == 1


def test_crops_take_every_shift_equally_often():
    images = np.zeros((4000, 5, 7, 1), np.uint8)
    images[:, 2, 3] = 9
    _, rows, cols, _ = np.nonzero(random_crop(images, rng(0), 2))
    assert len(rows) == 4000
    for places, middle in ((rows, 2), (cols, 3)):
        assert (np.abs(np.bincount(places - middle + 2, minlength=5) - 800) < 120).all()
    assert abs(np.corrcoef(rows, cols)[0, 1]) < 0.06


@given(seeds)
def test_a_flip_mirrors_the_columns_and_undoes_itself(seed):
    images = pixels(seed)
    once = random_flip(images, rng(seed))
    same = (once == images).all((1, 2, 3))
    mirrored = (once == images[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    np.testing.assert_array_equal(random_flip(once, rng(seed)), images)


def test_half_of_the_images_are_flipped():
    images = pixels(shape=(1000, 2, 3, 1))
    assert abs((random_flip(images, rng(0)) == images).all((1, 2, 3)).sum() - 500) < 60


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64])
def test_normalise(dtype):
    images = pixels()
    expected = (images / 255 - np.array(MEAN)) / np.array(STD)
    got = normalise(images.astype(dtype), MEAN, STD)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@given(seeds, st.floats(0, 1))
def test_erasing_overwrites_one_rectangle(seed, probability):
    images = np.zeros((20, 17, 19, 3), np.float32)
    erased = random_erasing(images, rng(seed), probability)
    assert erased.dtype == np.float32
    for image in erased:
        changed = image != 0
        assert (changed.all(2) == changed.any(2)).all()
        rows, cols = changed.any((1, 2)), changed.any((0, 2))
        assert (changed[..., 0] == rows[:, None] & cols).all()
        for side in (rows, cols):
            assert not side.all() and np.abs(np.diff(side.astype(int))).sum() <= 2


def test_how_often_how_large_and_with_what_erasing_overwrites():
    images = np.full((4000, 32, 32, 1), np.inf, np.float32)
    erased = random_erasing(images, rng(1), 0.25)
    changed = np.isfinite(erased[..., 0])
    touched = changed.any((1, 2))
    assert abs(touched.mean() - 0.25) < 0.025
    noise = erased[np.isfinite(erased)]
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    area = changed[touched].mean((1, 2))
    assert 0.012 < area.min() < 0.03 and 0.3 < area.max() < 0.36
    assert abs(area.mean() - (0.02 + 1 / 3) / 2) < 0.012
    tall, wide = changed[touched].any(2).sum(1), changed[touched].any(1).sum(1)
    assert abs(np.log(tall / wide).mean()) < 0.06
    assert 0.25 < (tall / wide).min() < 0.4 and 2.5 < (tall / wide).max() < 4
    for axis in (1, 2):
        side = changed[touched].any(axis)
        first, last = side.argmax(1), 31 - side[:, ::-1].argmax(1)
        assert abs((first + last).mean() / 2 - 15.5) < 0.5 and first.min() == 0 and last.max() == 31


class Extreme:
    """A generator whose uniform numbers are all at one end of their range."""

    def __init__(self, end):
        self.end = end

    def random(self, shape):
        return np.zeros(shape)

    def uniform(self, low, high, shape):
        return np.full(shape, (low, high)[self.end])

    def integers(self, low, high, shape):
        return np.zeros(shape, np.int64)


@pytest.mark.parametrize(("end", "aspect"), [(0, 0.3), (1, 10 / 3)])
def test_erasing_may_be_as_tall_as_wide(end, aspect):
    """The limits of height / width are each other's inverse, so that rectangles lean neither way."""
    index, _ = draw_erased((1, 3000, 3000, 1), Extreme(end), 1.0, area=(0.02, 0.02))
    row, column = np.divmod(index, 3000)
    assert abs((row.max() + 1) / (column.max() + 1) / aspect - 1) < 0.005


def test_a_rectangle_that_never_fits_leaves_the_image():
    images = np.zeros((50, 8, 8, 3), np.float32)
    assert not random_erasing(images, rng(0), 1, area=(1, 1), aspect=(1, 1)).any()


@given(seeds, st.sampled_from([0.2, 0.8, 1.0]), st.integers(1, 7))
def test_mixup_blends_pixels_as_it_blends_targets(seed, alpha, batch):
    images, targets = numbered(batch)
    mixed, told = mixup(images, targets, rng(seed), alpha)
    assert mixed.dtype == told.dtype == np.float32
    np.testing.assert_allclose(told.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(
        mixed, np.broadcast_to((told @ np.arange(batch))[:, None, None, None], mixed.shape), 1e-5
    )
    partner = np.arange(batch)[::-1]
    assert (told[(np.arange(batch)[:, None] != np.arange(batch)) & (partner[:, None] != np.arange(batch))] == 0).all()


@given(seeds, st.sampled_from([0.2, 1.0]), st.integers(1, 7))
def test_cutmix_targets_are_the_shares_of_the_pixels(seed, alpha, batch):
    images, targets = numbered(batch)
    mixed, told = cutmix(images, targets, rng(seed), alpha)
    assert mixed.dtype == told.dtype == np.float32
    for b in range(batch):
        shares = np.array([(mixed[b, ..., 0] == k).mean() for k in range(batch)])
        np.testing.assert_allclose(told[b], shares, atol=1e-6)
        if b != batch - 1 - b:
            taken = mixed[b, ..., 0] == batch - 1 - b
            assert (taken == taken.any(1)[:, None] & taken.any(0)).all()


def test_cutmix_takes_the_partners_pixels_from_the_same_place():
    images, targets = rng(0).random(SHAPE, np.float32), np.eye(6, dtype=np.float32)
    mixed, _ = cutmix(images, targets, rng(4), 1.0)
    taken = mixed != images
    assert taken.any()
    np.testing.assert_array_equal(mixed[taken], images[::-1][taken])


def test_the_mixing_strength_follows_beta():
    images, targets = numbered(2, 32, 32)
    for function, alpha, spread in ((mixup, 0.8, 1 / 10.4), (cutmix, 1.0, 1 / 12)):
        generator = rng(0)
        shares = np.array([function(images, targets, generator, alpha)[1][0, 0] for _ in range(2000)])
        if function is mixup:  # Beta(α, α): mean ½, variance 1 / (4 (2α + 1))
            assert abs(shares.mean() - 0.5) < 0.02 and abs(shares.var() - spread) < 0.006
        else:  # the border cuts boxes, so less is replaced than λ asks for
            assert 0.55 < shares.mean() < 0.75 and shares.min() < 0.3 and shares.max() > 0.97


def test_one_hot():
    rows = one_hot(np.array([2, 0]), 4, np.float64)
    assert rows.dtype == np.float64 and rows.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    for wrong in (-1, 4):
        with pytest.raises(ValueError, match=r"expected within 0\.\.3"):
            one_hot(np.array([0, wrong]), 4)


@pytest.mark.parametrize("recipe", [RECIPES["none"], Recipe(mix_probability=0, mixup=0.8, cutmix=1)])
def test_a_recipe_of_zeros_only_normalises(recipe):
    images, labels = pixels(), np.array([3, 1, 0, 2, 2, 1])
    generator = rng(0)
    got, targets = augment(images, labels, recipe, generator, classes=4, mean=MEAN, std=STD)
    np.testing.assert_array_equal(got, normalise(images, MEAN, STD))
    np.testing.assert_array_equal(targets, np.eye(4)[labels])
    assert got.dtype == targets.dtype == np.float32


def steps(images, labels, seed):
    """Each recipe with one thing switched on, and what it must equal."""
    plain, targets = normalise(images, MEAN, STD), one_hot(labels, 4)
    shown = lambda x: (normalise(x, MEAN, STD), targets)  # noqa: E731
    yield Recipe(crop=3), shown(random_crop(images, rng(seed), 3))
    yield Recipe(flip=True), shown(random_flip(images, rng(seed)))
    yield Recipe(erasing=0.7), (random_erasing(plain, rng(seed), 0.7), targets)


def test_each_switch_turns_on_its_function():
    images, labels = pixels(), np.array([3, 1, 0, 2, 2, 1])
    for recipe, (expected, targets) in steps(images, labels, 5):
        got, told = augment(images, labels, recipe, rng(5), classes=4, mean=MEAN, std=STD)
        np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(told, targets)
        assert (got != normalise(images, MEAN, STD)).any()


@pytest.mark.parametrize(
    "recipe, mixups, cutmixes",
    [
        (Recipe(mixup=0.8), 400, 0),
        (Recipe(cutmix=1.0), 0, 400),
        (Recipe(mixup=0.8, cutmix=1.0), 200, 200),
        (Recipe(mixup=0.8, cutmix=1.0, switch_probability=0.25), 300, 100),
        (Recipe(mixup=0.8, cutmix=1.0, mix_probability=0.5, switch_probability=1), 0, 200),
    ],
)
def test_how_often_a_batch_is_mixed(recipe, mixups, cutmixes):
    images = np.broadcast_to(np.array([0, 255], np.uint8)[:, None, None, None], (2, 32, 32, 3)).copy()
    generator, counts = rng(0), {"mixup": 0, "cutmix": 0}
    for _ in range(400):
        got, told = augment(images, [0, 1], recipe, generator, classes=2, mean=(0, 0, 0), std=(1, 1, 1))
        if 0 < told[0, 1] < 1:
            counts["cutmix" if set(np.unique(got.round(5))) <= {0, 1} else "mixup"] += 1
    assert abs(counts["mixup"] - mixups) < 40 and abs(counts["cutmix"] - cutmixes) < 40
    assert not mixups == 0 < counts["mixup"] and not cutmixes == 0 < counts["cutmix"]


@pytest.mark.parametrize("name", RECIPES)
def test_the_same_generator_gives_the_same_batch_and_inputs_stay(name):
    images, labels = pixels(), np.array([3, 1, 0, 2, 2, 1])
    before = images.copy(), labels.copy()
    runs = [augment(images, labels, RECIPES[name], rng(8), classes=4, mean=MEAN, std=STD) for _ in range(2)]
    other = augment(images, labels, RECIPES[name], rng(9), classes=4, mean=MEAN, std=STD)
    for first, second in zip(*runs, strict=True):
        np.testing.assert_array_equal(first, second)
        assert not np.may_share_memory(first, images)
    assert (runs[0][0] == other[0]).all() == (name == "none")
    np.testing.assert_allclose(runs[0][1].sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(images, before[0])
    np.testing.assert_array_equal(labels, before[1])


def test_no_function_writes_to_its_inputs():
    images, floats, targets = pixels(), rng(0).random(SHAPE, np.float32), np.eye(6, dtype=np.float32)
    for array in (images, floats, targets):
        array.flags.writeable = False
    random_crop(images, rng(0))
    random_flip(images, rng(0))
    normalise(images, MEAN, STD)
    random_erasing(floats, rng(0), 1.0)
    mixup(floats, targets, rng(0), 0.8)
    cutmix(floats, targets, rng(0), 1.0)


def test_presets():
    paper = RECIPES["paper"]
    assert (paper.erasing, paper.mixup, paper.cutmix) == (0.25, 0.8, 1.0)
    assert (paper.mix_probability, paper.switch_probability) == (1.0, 0.5)
    assert RECIPES["light"] == Recipe(crop=4, flip=True) and not RECIPES["light"].single
    released = RECIPES["imagenet"]
    assert released == dataclasses.replace(paper, crop=0, resized_crop=True, rand_augment=True) and released.single
    with pytest.raises(dataclasses.FrozenInstanceError):
        paper.crop = 1


@pytest.mark.parametrize(
    "field, value",
    [
        ("crop", -1),
        ("crop", 1.5),
        ("crop", True),
        ("flip", 0.5),
        ("resized_crop", 1),
        ("rand_augment", "m9"),
        ("erasing", 1.1),
        ("erasing", float("nan")),
        ("mixup", -0.1),
        ("cutmix", float("inf")),
        ("mix_probability", 2),
        ("switch_probability", -1),
    ],
)
def test_a_recipe_of_nonsense_is_refused(field, value):
    with pytest.raises(ValueError, match=f"recipe: {field} is .*, expected"):
        Recipe(**{field: value})


def test_labels_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"labels run 0\.\.7, expected within 0\.\.3"):
        augment(pixels(), [0, 0, 0, 0, 0, 7], Recipe(), rng(0), classes=4, mean=MEAN, std=STD)
