"""RandAugment against its definition: each operation in plain NumPy, and how often and how strongly it is drawn."""

import numpy as np
import pytest
from PIL import Image

from minidat.data import augment, reading
from minidat.data.images import Transform
from minidat.data.rand_augment import FILL, NAMES, OPERATIONS, draw_operations, rand_augment
from minidat.data.recipe import Recipe

PIXELS = np.random.default_rng(0).integers(20, 230, (24, 24, 3), np.uint8)


def apply(name, value, pixels=PIXELS):
    out = OPERATIONS[name].apply(Image.fromarray(pixels), value)
    assert out.mode == "RGB" and out.size == pixels.shape[1::-1]
    return np.asarray(out).astype(int)


def test_the_fifteen_operations():
    assert NAMES == (
        "AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd", "Color", "Contrast",
        "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY",
    )  # fmt: skip
    signed = {name for name in NAMES if OPERATIONS[name].signed}
    assert signed == set(NAMES) - {"AutoContrast", "Equalize", "Invert", "Posterize", "Solarize", "SolarizeAdd"}
    assert tuple(round(255 * mean) for mean in (0.485, 0.456, 0.406)) == FILL


@pytest.mark.parametrize(
    ("name", "at_9", "at_10"),
    [
        ("Rotate", 27, 30),
        ("Posterize", 1, 0),
        ("Solarize", 26, 0),
        ("SolarizeAdd", 99, 110),
        ("Color", 0.81, 0.9),
        ("Sharpness", 0.81, 0.9),
        ("ShearX", 0.27, 0.3),
        ("TranslateY", 0.405, 0.45),
    ],
)
def test_values_at_levels(name, at_9, at_10):
    value = OPERATIONS[name].value
    assert value(9.0) == pytest.approx(at_9) and value(10.0) == pytest.approx(at_10)


def test_how_often_and_how_strongly():
    generator = np.random.default_rng(3)
    drawn = [draw_operations(generator) for _ in range(6000)]
    counts = np.bincount([len(one) for one in drawn], minlength=3)
    assert len(counts) == 3 and (abs(counts / 6000 - [0.25, 0.5, 0.25]) < 0.025).all()
    flat = [item for one in drawn for item in one]
    chosen = np.array([sum(name == one for name, _ in flat) for one in NAMES])
    assert (abs(chosen - 400) < 80).all()
    assert any(a[0] == b[0] for a, b in (one for one in drawn if len(one) == 2))  # with replacement
    degrees = np.array([value for name, value in flat if name == "Rotate"])
    level = abs(degrees) / 3
    assert abs((degrees < 0).mean() - 0.5) < 0.1 and level.max() == 10
    assert abs(level.mean() - 9) < 0.1 and abs(level.std() - 0.49) < 0.06


def test_the_operations_follow_one_another():
    class Both:
        """Draws Invert, then SolarizeAdd."""

        def integers(self, high, size):
            return np.array([2, 6])

        def random(self, size):
            return np.array([0.1, 0.9])

        def normal(self, mean, deviation):
            return 12.0

    x = 255 - PIXELS.astype(int)
    expected = np.where(x < 128, np.minimum(x + 110, 255), x)
    np.testing.assert_array_equal(np.asarray(rand_augment(Image.fromarray(PIXELS), Both())), expected)


def test_colours_by_value():
    x = PIXELS.astype(int)
    np.testing.assert_array_equal(apply("Invert", 0), 255 - x)
    np.testing.assert_array_equal(apply("Solarize", 100), np.where(x < 100, x, 255 - x))
    np.testing.assert_array_equal(apply("SolarizeAdd", 99), np.where(x < 128, np.minimum(x + 99, 255), x))
    for bits in range(5):
        np.testing.assert_array_equal(apply("Posterize", bits), x // 2 ** (8 - bits) * 2 ** (8 - bits))


def test_contrast_is_stretched_and_histograms_are_made_even():
    x = PIXELS.astype(int)
    low, high = x.min((0, 1)), x.max((0, 1))
    np.testing.assert_allclose(apply("AutoContrast", 0), (x - low) * 255 / (high - low), atol=1)
    got = apply("Equalize", 0)
    for c in range(3):
        counts = np.bincount(x[..., c].ravel(), minlength=256)
        step = (counts.sum() - counts[counts.nonzero()[0][-1]]) // 255
        before = np.concatenate([[0], counts.cumsum()[:-1]])
        np.testing.assert_array_equal(got[..., c], np.clip((step // 2 + before) // step, 0, 255)[x[..., c]])


@pytest.mark.parametrize("by", [-0.81, 0.81, -0.95])
def test_enhancements_mix_with_black_grey_the_mean_and_a_blur(by):
    x, factor = PIXELS.astype(float), max(0.1, 1 + by)
    grey = np.rint(x @ [0.299, 0.587, 0.114])[..., None]
    blurred = sum(np.roll(x, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)) + 4 * x
    others = {
        "Brightness": 0 * x,
        "Color": grey + 0 * x,
        "Contrast": 0 * x + np.rint(grey.mean()),
        "Sharpness": blurred / 13,
    }
    for name, other in others.items():
        expected = np.clip(other + factor * (x - other), 0, 255)
        inside = slice(1, -1)  # a blur leaves the border as it is
        np.testing.assert_allclose(apply(name, by)[inside, inside], expected[inside, inside], atol=2.6)


def test_geometry_by_ramps_and_fills_with_the_mean_colour():
    """A bicubic filter keeps a linear ramp: each pixel tells where it was read, to a third of a pixel."""
    row, col = np.mgrid[:24, :24]
    ramp = np.stack([5 * col, 5 * row, 0 * row], -1).astype(np.uint8)
    places = {
        ("ShearX", 0.27): (row, col + 0.27 * (row + 0.5)),
        ("ShearY", -0.27): (row - 0.27 * (col + 0.5), col),
        ("TranslateX", 0.405): (row, col + 0.405 * 24),
        ("TranslateY", -0.405): (row - 0.405 * 24, col),
    }
    for (name, value), (y, x) in places.items():
        got = apply(name, value, ramp)
        inside = (y > 2) & (y < 20) & (x > 2) & (x < 20)
        outside = (y < -1) | (y > 24) | (x < -1) | (x > 24)
        assert inside.sum() > 100 and outside.sum() > 5, name
        np.testing.assert_allclose(got[inside][:, :2], np.stack([5 * x, 5 * y], -1)[inside], atol=1.6, err_msg=name)
        assert (got[outside] == FILL).all(), name
    turned = apply("Rotate", 27, ramp)
    angle, y, x = np.deg2rad(27), row - 11.5, col - 11.5
    source = np.stack([11.5 + np.cos(angle) * x - np.sin(angle) * y, 11.5 + np.sin(angle) * x + np.cos(angle) * y], -1)
    inside = np.hypot(x, y) < 8
    np.testing.assert_allclose(turned[inside][:, :2], 5 * source[inside], atol=1.6)
    assert (turned[0, 0] == FILL).all()


def test_the_same_random_numbers_give_the_same_image_and_inputs_stay():
    image = Image.fromarray(PIXELS)
    runs = [np.asarray(rand_augment(image, np.random.default_rng(8))) for _ in range(2)]
    np.testing.assert_array_equal(*runs)
    np.testing.assert_array_equal(np.asarray(image), PIXELS)


def test_images_are_mirrored_before_and_no_more_in_the_batch(tmp_path, monkeypatch):
    """As released: a shear down the columns holds the left border still, whether the image was mirrored or not."""
    given = []
    monkeypatch.setattr(reading, "rand_augment", lambda image, rng: given.append(np.asarray(image)) or image)
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    recipe = Recipe(flip=True, rand_augment=True)
    read = reading.Reader(Transform(24, "whole"), recipe=recipe)
    for i in range(200):
        read(str(tmp_path / "a.png"), (3, i))
    mirrored = [np.array_equal(one, PIXELS[:, ::-1]) for one in given]
    plain = [np.array_equal(one, PIXELS) for one in given]
    assert all(a ^ b for a, b in zip(mirrored, plain, strict=True)) and 70 < sum(mirrored) < 130
    assert augment.draw((50, 24, 24, 3), recipe, np.random.default_rng(0)).arrays == {}
