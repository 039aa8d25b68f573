"""A user's photograph: what is read, how it is turned, what lies behind transparent pixels, and the letterbox."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minidat.cli.photograph import TURNS, Letterbox, read_photograph
from minidat.data import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


def saved(path, image, **options):
    image.save(path, **options)
    return path


def read(path):
    return np.asarray(read_photograph(path))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_orientation_says(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = Image.fromarray(PIXELS)
    back = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}.get(orientation, TURNS.get(orientation))
    stored = upright if back is None else upright.transpose(back)
    np.testing.assert_array_equal(read(saved(tmp_path / "a.png", stored, exif=exif)), PIXELS)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0" + b"\xff" * 40,
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\x00\x99\x00\xff\xff\xff\x00\x06",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04abc\0\0\0\0\0",  # an orientation that is text
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x05\0\0\0\x01\0\0\0\x1a\0\0\0\0\0\0\0\x06\0\0\0\0",  # 6 / 0
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0",  # 99
    ],
)
def test_odd_exif_leaves_the_image_as_it_is(exif, tmp_path, recwarn):
    image = Image.fromarray(PIXELS)
    plain = read(saved(tmp_path / "plain.jpg", image))
    np.testing.assert_array_equal(read(saved(tmp_path / "odd.jpg", image, exif=exif)), plain)
    assert not recwarn.list


@given(data=st.binary(max_size=200))
def test_no_exif_stops_an_image(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("exif") / "a.jpg"
    assert read(saved(path, Image.fromarray(PIXELS), exif=b"Exif\0\0MM\0*\0\0\0\x08" + data)).shape in (
        (6, 9, 3),
        (9, 6, 3),
    )


def test_transparent_pixels_lie_on_white(tmp_path):
    alpha = np.arange(54).reshape(6, 9) * 4
    image = Image.fromarray(np.dstack([PIXELS, alpha]).astype(np.uint8))
    share = alpha[..., None] / 255
    np.testing.assert_allclose(read(saved(tmp_path / "a.png", image)), share * PIXELS + (1 - share) * 255, atol=1)
    palette = Image.fromarray(np.tile([[0, 1, 2]], (2, 1)).astype(np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    seen = read(saved(tmp_path / "p.png", palette, transparency=1))
    np.testing.assert_array_equal(seen[0], [[10, 20, 30], [255, 255, 255], [70, 80, 90]])
    grey = Image.fromarray(np.dstack([PIXELS[..., 0], np.zeros((6, 9))]).astype(np.uint8))
    assert (read(saved(tmp_path / "la.png", grey)) == 255).all()


@pytest.mark.parametrize("mode", ["L", "1", "CMYK"])
def test_other_modes_become_rgb(mode, tmp_path):
    image = Image.fromarray(PIXELS).convert(mode)
    ending = "tiff" if mode == "CMYK" else "png"
    np.testing.assert_array_equal(read(saved(tmp_path / f"a.{ending}", image)), np.asarray(image.convert("RGB")))


def test_sixteen_bit_grey_is_scaled_to_eight(tmp_path):
    values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    for ending in ("png", "tiff"):
        seen = read(saved(tmp_path / f"a.{ending}", Image.fromarray(values)))
        np.testing.assert_array_equal(seen[0, :, 0], [0, 0, 1, 1, 128, 255])
    assert seen.shape == (1, 6, 3)
    wide = Image.fromarray(np.array([[0, 65536]], np.int32))
    with pytest.raises(DataError, match=r"b\.tiff: cannot be read: its grey values run 0\.\.65536, beyond 16 bits"):
        read(saved(tmp_path / "b.tiff", wide))


def test_what_cannot_be_read_is_refused_by_name(tmp_path):
    for name, content, said in (
        ("text.jpg", b"hello", "is no image that can be read"),
        (
            "a.png",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n",
            "is no image that can be read",
        ),
        ("empty.png", b"", "is no image that can be read"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: {said}"):
            read(tmp_path / name)
    whole = saved(tmp_path / "cut.png", Image.fromarray(PIXELS)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:-40])
    with pytest.raises(DataError, match=r"cut\.png: cannot be read: "):
        read(tmp_path / "cut.png")
    with pytest.raises(DataError, match=r"float\.tiff: cannot be read: its pixels are floating-point"):
        read(saved(tmp_path / "float.tiff", Image.fromarray(np.ones((2, 3), np.float32))))
    with pytest.raises(DataError, match=r"nowhere\.png: cannot be read: No such file"):
        read(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png: cannot be read: .*not a regular file"):
        read(tmp_path / "pipe.png")


def test_too_many_pixels_are_refused_before_they_take_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("minidat.data.images.MOST_PIXELS", 1_000_000)
    path = saved(tmp_path / "a.png", Image.new("L", (1000, 1001)))
    with pytest.raises(DataError, match=r"a\.png: has 1,001,000 pixels, more than 1,000,000; make it smaller first"):
        read(path)


def test_a_square_image_fills_the_letterbox():
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (50, 50, 3), np.uint8))
    seen = Letterbox(32, (0.5, 0.5, 0.5))(image)
    np.testing.assert_array_equal(seen, np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC)))


@given(st.integers(1, 300), st.integers(1, 300), st.integers(8, 40))
def test_a_letterbox_keeps_the_whole_image_and_its_aspect_ratio(height, width, side):
    """A white image on black: how much of the square it covers, and where."""
    seen = Letterbox(side, (0.0, 0.0, 0.0))(Image.new("RGB", (width, height), "white"))
    assert seen.shape == (side, side, 3) and seen.dtype == np.uint8
    rows, cols = (np.flatnonzero(seen[..., 0].max(axis)) for axis in (1, 0))
    assert max(len(rows), len(cols)) == side
    assert abs(len(rows) - side * height / max(height, width)) <= 1
    assert abs(len(cols) - side * width / max(height, width)) <= 1
    for found in (rows, cols):
        assert abs(found[0] - (side - 1 - found[-1])) <= 1  # in the middle


def test_the_rest_of_a_letterbox_is_the_colour():
    seen = Letterbox(32, (0.485, 0.0, 1.0))(Image.new("RGB", (60, 20), "white"))
    np.testing.assert_array_equal(seen[0, 0], [124, 0, 255])
