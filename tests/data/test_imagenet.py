"""Images on disk become what a network takes; accuracy on a folder of them is counted right."""

import io
import os
import re
import struct
import threading
import time
import zlib
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from minidat.data import imagenet, images
from minidat.data.dataset import DataError
from minidat.data.imagenet import ImageFolder, class_names, transform_for
from minidat.data.images import Transform, read_image
from minidat.models import create

SMALL = Transform(32, "whole")


def noise(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def fill(root, members):
    """A folder root/val with images that differ: class → number of images."""
    for k, (name, count) in enumerate(members.items()):
        (root / "val" / name).mkdir(parents=True)
        for i in range(count):
            noise(40 + i, 50 + k, seed=10 * k + i).save(root / "val" / name / f"{i:02d}.png")
    return root


def test_the_thousand_classes():
    lines = (imagenet.files("minidat.data") / "imagenet_classes.txt").read_text("utf-8").splitlines()
    assert len(lines) == len(class_names()) == len(set(class_names())) == 1000
    assert all(re.fullmatch(r"n\d{8} \S+( \S+)*", line) for line in lines)
    ids = [line.split()[0] for line in lines]
    assert all(a < b for a, b in pairwise(ids))


@pytest.mark.parametrize(
    ("label", "identity", "name"),
    [
        (0, "n01440764", "tench"),
        (1, "n01443537", "goldfish"),
        (24, "n01622779", "great grey owl"),
        (65, "n01751748", "sea snake"),
        (99, "n01855672", "goose"),
        (134, "n02012849", "crane (n02012849)"),
        (151, "n02085620", "Chihuahua"),
        (207, "n02099601", "golden retriever"),
        (250, "n02110185", "Siberian husky"),
        (281, "n02123045", "tabby"),
        (340, "n02391049", "zebra"),
        (388, "n02510455", "giant panda"),
        (404, "n02690373", "airliner"),
        (463, "n02909870", "bucket"),
        (517, "n03126707", "crane (n03126707)"),
        (639, "n03710721", "maillot (n03710721)"),
        (701, "n03888257", "parachute"),
        (779, "n04146614", "school bus"),
        (817, "n04285008", "sports car"),
        (895, "n04552348", "warplane"),
        (954, "n07753592", "banana"),
        (980, "n09472597", "volcano"),
        (999, "n15075141", "toilet tissue"),
    ],
)
def test_some_classes(label, identity, name):
    lines = (imagenet.files("minidat.data") / "imagenet_classes.txt").read_text("utf-8").splitlines()
    assert lines[label].split()[0] == identity
    assert class_names()[label] == name


@pytest.mark.parametrize(
    ("height", "width", "size", "protocol", "resized", "corner"),
    [
        (200, 301, 224, "released", (256, 256), (16, 16)),
        (200, 301, 384, "released", (438, 438), (27, 27)),
        (200, 301, 224, "whole", (224, 224), (0, 0)),
        (200, 301, 224, "short-side", (256, 385), (16, 80)),  # 80.5 goes to the even number
        (301, 200, 224, "short-side", (385, 256), (80, 16)),
        (200, 303, 224, "short-side", (256, 387), (16, 82)),  # 81.5 does too
        (333, 500, 224, "short-side", (256, 384), (16, 80)),
        (500, 333, 384, "short-side", (657, 438), (136, 27)),  # 136.5
    ],
)
def test_the_protocols_step_by_step(height, width, size, protocol, resized, corner):
    image = noise(height, width)
    (rows, cols), (top, left) = resized, corner
    steps = image.resize((cols, rows), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
    out = Transform(size, protocol)(image)
    assert out.shape == (size, size, 3) and out.dtype == np.uint8
    np.testing.assert_array_equal(out, np.asarray(steps))


def test_an_unknown_protocol_is_named():
    with pytest.raises(ValueError, match="protocol 'crop' is unknown; choose from released, short-side, whole"):
        Transform(224, "crop")


def test_which_networks_take_whole_images():
    from dataclasses import replace

    small = create("dat_micro").config
    cases = {("v1", 224): "released", ("v1", 384): "released", ("v2", 224): "released", ("v2", 384): "whole"}
    for (convention, image), protocol in cases.items():
        config = replace(small, convention=convention, image=image)
        assert transform_for(config) == Transform(image, protocol)
        assert transform_for(config, "short-side") == Transform(image, "short-side")


GREEN = (0, 255, 1)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "L", "LA", "1"])
def test_every_kind_of_image_becomes_rgb(mode, tmp_path):
    image = Image.new("RGB", (5, 3), GREEN).convert(mode)
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    image.save(path, **({"transparency": b"\x00\x80"} if mode == "P" else {}))
    out = read_image(path)
    assert (out.mode, out.size) == ("RGB", (5, 3))
    grey = {"L": 150, "LA": 150, "1": None}  # 0.587 · 255; one bit is dithered
    if grey.get(mode, 0) is not None:
        assert np.ptp(np.asarray(out).reshape(-1, 3), 0).max() == 0
        expected = np.full(3, grey[mode]) if mode in grey else np.array(GREEN)
        np.testing.assert_allclose(np.asarray(out)[0, 0], expected, atol=1)


def test_transparency_is_left_out(tmp_path):
    Image.new("RGBA", (5, 3), (*GREEN, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").getpixel((0, 0)) == GREEN


def test_orientation_is_ignored(tmp_path):
    image = Image.new("RGB", (5, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").size == (5, 3)


def damaged(path, kind):
    if kind == "text":
        path.write_text("no image")
    elif kind == "cut short":
        noise(60, 60).save(path, "JPEG")
        path.write_bytes(path.read_bytes()[:900])
    elif kind == "deep":
        Image.fromarray(np.full((3, 5), 1000, np.uint16)).save(path, "PNG")
    elif kind == "folder":
        path.mkdir()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "cannot be read: No such file"),
        ("folder", "cannot be read: Is a directory"),
        ("text", "is no image that can be read"),
        ("cut short", "cannot be read: .*truncated"),
        ("deep", "has pixels of mode I;16; 8 bits a channel are read"),
    ],
)
def test_a_file_that_is_no_good_is_named(kind, said, tmp_path):
    path = tmp_path / "image.jpg"
    damaged(path, kind)
    with pytest.raises(DataError, match=f"image.jpg: {said}"):
        read_image(path)


# Files that mean harm


def test_a_picture_that_is_a_program_is_not_run(tmp_path):
    """Pillow has Ghostscript run an EPS, whatever its name."""
    path = tmp_path / "image.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 3\n%%EndComments\n(x) print\n%%EOF\n")
    with Image.open(path) as image:
        assert image.format == "EPS"
    with pytest.raises(DataError, match=r"image.jpg: is no image that can be read \(JPEG, PNG, .*WEBP"):
        read_image(path)


@pytest.mark.parametrize("form", images.FORMATS)
def test_every_format_is_read(form, tmp_path):
    if form not in images._formats():
        pytest.skip("this Pillow does not have it")
    noise(6, 8).save(tmp_path / "image", form)
    assert read_image(tmp_path / "image").size == (8, 6)


def claiming(form, width, height):
    """A small file whose header has another size."""
    buffer = io.BytesIO()
    noise(16, 16).save(buffer, form)
    data = bytearray(buffer.getvalue())
    if form == "PNG":
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif form == "BMP":
        data[18:26] = struct.pack("<ii", width, height)
    elif form == "GIF":
        data[6:10] = struct.pack("<HH", width, height)
    elif form == "WEBP":  # an animation, whose frames are small and whose canvas is not
        canvas = (
            b"VP8X"
            + struct.pack("<I", 10)
            + b"\2\0\0\0"
            + b"".join((n - 1).to_bytes(3, "little") for n in (width, height))
        )
        frame = bytes(6) + (15).to_bytes(3, "little") * 2 + bytes(4) + bytes(data[12:])
        body = (
            b"WEBP"
            + canvas
            + b"ANIM"
            + struct.pack("<I", 6)
            + bytes(6)
            + b"ANMF"
            + struct.pack("<I", len(frame))
            + frame
        )
        data = b"RIFF" + struct.pack("<I", len(body)) + body
    return bytes(data)


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "WEBP"])
@pytest.mark.parametrize(("width", "height"), [(7100, 7100), (13_000, 13_000), (16_383, 16_383)])
def test_images_of_too_many_pixels_are_refused_before_they_are_decoded(form, width, height, tmp_path):
    """Above 89 and above 179 million Pillow has a warning and an error of its own."""
    path = tmp_path / "image.webp"
    path.write_bytes(claiming(form, width, height))
    with pytest.raises(DataError) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert re.search(r"has [\d,]+ pixels, more than 50,000,000; make it smaller first|exceeds limit", str(caught.value))


def test_as_many_pixels_as_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MOST_PIXELS", 48)
    noise(6, 8).save(tmp_path / "a.png")
    noise(7, 7).save(tmp_path / "b.png")
    assert read_image(tmp_path / "a.png").size == (8, 6)
    with pytest.raises(DataError, match=r"b.png: has 49 pixels, more than 48"):
        read_image(tmp_path / "b.png")


def test_whatever_a_decoder_raises_is_one_line(tmp_path, monkeypatch):
    noise(6, 8).save(tmp_path / "a.png")
    for error in (RuntimeError("tile\nfailed"), SystemError("no"), MemoryError(), KeyError("x"), AssertionError()):

        def fail(*_, error=error):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(Image.Image, "convert", fail)
            with pytest.raises(DataError, match=r"a.png: cannot be read: \S") as caught:
                read_image(tmp_path / "a.png")
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_and_a_name_that_no_file_can_have(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(DataError, match=r"pipe.jpg: cannot be read: it is a pipe, a device or a socket"):
        read_image(tmp_path / "pipe.jpg")
    with pytest.raises(DataError, match="cannot be read: no file has such a name"):
        read_image(f"{tmp_path}/a\0b.jpg")


def test_a_narrow_image_is_refused_where_its_long_side_would_be_huge():
    with pytest.raises(DataError, match="1×100000 pixels would become 256×25600000; choose another protocol"):
        Transform(224, "short-side")(Image.new("RGB", (1, 100_000)))


def test_classes_and_files_are_sorted_and_nothing_else_is_taken(tmp_path):
    fill(tmp_path, {"n02": 2, "n10": 1, "n01": 3})
    (tmp_path / "val" / ".cache").mkdir()
    (tmp_path / "val" / "labels.txt").write_text("")
    (tmp_path / "val" / "n01" / "Thumbs.db").write_text("")
    folder = ImageFolder(tmp_path, transform=SMALL)
    assert folder.classes == ("n01", "n02", "n10")
    assert [f"{path.parent.name}/{path.name}" for path in folder.files] == [
        "n01/00.png", "n01/01.png", "n01/02.png", "n02/00.png", "n02/01.png", "n10/00.png"
    ]  # fmt: skip
    assert folder.labels.tolist() == [0, 0, 0, 1, 1, 2]


def test_a_part_is_spread_over_the_classes(tmp_path):
    fill(tmp_path, {"n01": 4, "n02": 4, "n03": 4})
    folder = ImageFolder(tmp_path, transform=SMALL, size=6)
    assert folder.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert [path.stem for path in folder.files] == ["00", "02"] * 3
    for size in (0, 13):
        with pytest.raises(ValueError, match=f"size is {size}, expected 1 to the 12 images"):
            ImageFolder(tmp_path, transform=SMALL, size=size)


@pytest.mark.parametrize(("size", "threads"), [(1, 1), (2, 3), (3, 2), (7, 2), (50, 1)])
def test_batches_are_all_images_in_order(size, threads, tmp_path):
    folder = ImageFolder(fill(tmp_path, {"n01": 3, "n02": 4}), transform=SMALL)
    batches = list(folder.batches(size, threads))
    assert [len(images) for images, _ in batches] == [min(size, 7 - i) for i in range(0, 7, size)]
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), folder.labels)
    images = np.concatenate([images for images, _ in batches])
    np.testing.assert_array_equal(images, [SMALL(read_image(path)) for path in folder.files])


def test_few_images_are_read_ahead_and_no_thread_is_left(tmp_path, monkeypatch):
    folder, seen = ImageFolder(fill(tmp_path, {"n01": 9}), transform=SMALL), []
    monkeypatch.setattr(imagenet, "read_image", lambda path: seen.append(path) or read_image(path))
    threads = threading.active_count()
    batches = folder.batches(1, 2)
    assert not seen
    next(batches)
    end = time.monotonic() + 5
    while len(seen) < 1 + imagenet.AHEAD and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.05)  # in which more would be read
    assert len(seen) == 1 + imagenet.AHEAD
    batches.close()
    assert threading.active_count() == threads


def test_a_damaged_image_is_named_when_its_turn_comes(tmp_path):
    folder = ImageFolder(fill(tmp_path, {"n01": 2, "n02": 3}), transform=SMALL)
    damaged(folder.files[3], "text")
    batches = folder.batches(2, 1)
    next(batches)
    with pytest.raises(DataError, match=r"n02/01.png: is no image"):
        next(batches)


@pytest.mark.parametrize(("size", "threads"), [(1, 1), (3, 2), (50, 1)])
def test_damaged_images_are_left_out_where_asked_to(size, threads, tmp_path):
    folder = ImageFolder(fill(tmp_path, {"n01": 3, "n02": 4}), transform=SMALL, skip_damaged=True)
    damaged(folder.files[1], "text")
    damaged(folder.files[5], "cut short")
    kept = [0, 2, 3, 4, 6]
    for _ in range(2):  # noted anew each time
        batches = list(folder.batches(size, threads))
        np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), folder.labels[kept])
        images = np.concatenate([images for images, _ in batches])
        np.testing.assert_array_equal(images, [SMALL(read_image(folder.files[i])) for i in kept])
        assert [
            re.search(r"n0\d/\d\d.png: (is no image|cannot be read)", said) is not None for said in folder.damaged
        ] == [True] * 2
        assert "n01/01.png" in folder.damaged[0] and "n02/02.png" in folder.damaged[1]


def test_a_folder_of_damaged_images_alone(tmp_path):
    folder = ImageFolder(fill(tmp_path, {"n01": 2}), transform=SMALL, skip_damaged=True)
    for file in folder.files:
        damaged(file, "text")
    with pytest.raises(DataError, match=r"none of the 2 images can be read; the first: .*n01/00.png: is no image"):
        list(folder.batches(2, 1))


@pytest.mark.parametrize("name", ["._00.png", ".hidden.JPEG"])
def test_hidden_files_are_passed_over(name, tmp_path):
    fill(tmp_path, {"n01": 2})
    (tmp_path / "val" / "n01" / name).write_bytes(b"resource fork")
    (tmp_path / "val" / "n01" / "folder.jpg").mkdir()
    assert [file.name for file in ImageFolder(tmp_path, transform=SMALL).files] == ["00.png", "01.png"]


# The order of the classes


def make(root, names):
    for name in names:
        (root / "val" / name).mkdir(parents=True)
        (root / "val" / name / "a.png").touch()
    return ImageFolder(root, transform=SMALL)


def test_numbers_are_sorted_as_numbers(tmp_path):
    """ImageNetV2's folders are 0 … 999: as text, 10 comes before 2."""
    folder = make(tmp_path, map(str, range(12)))
    assert folder.classes == tuple(map(str, range(12)))
    assert [(file.parent.name, label) for file, label in zip(folder.files, folder.labels.tolist(), strict=True)] == [
        (str(k), k) for k in range(12)
    ]


def test_numbers_filled_up_with_zeros(tmp_path):
    assert make(tmp_path, ("002", "000", "001")).classes == ("000", "001", "002")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("0", "1", "3"), "the 3 class folders of .* are numbers, but not 0 … 2: 2 is missing"),
        (("1", "2", "3"), "0 is missing, so their labels are unknown"),
        (("0", "00", "1"), "2 is missing"),
        (("5", "6", "7", "8"), "0, 1, 2 are missing"),
    ],
)
def test_numbers_that_are_not_labels_are_refused(names, said, tmp_path):
    with pytest.raises(DataError, match=said):
        make(tmp_path, names)


def test_other_names_are_sorted_as_text_and_a_thousand_must_be_imagenet_s(tmp_path):
    assert make(tmp_path / "a", ("dog", "Cat", "ant", "10")).classes == ("10", "Cat", "ant", "dog")
    identities = [identity for identity, _ in imagenet._classes()]
    assert make(tmp_path / "b", reversed(identities)).classes == tuple(identities)
    with pytest.raises(DataError, match="has 1000 class folders, and tench is none of ImageNet's WordNet ids"):
        make(tmp_path / "c", ["tench", *identities[1:]])


def test_folders_that_are_not_imagenet(tmp_path):
    with pytest.raises(
        DataError, match=r"nowhere does not exist; expected .*nowhere/val/nXXXXXXXX/\*.JPEG; point --data-dir"
    ):
        ImageFolder(tmp_path / "nowhere", transform=SMALL)
    (tmp_path / "n01").mkdir()
    with pytest.raises(DataError, match=r"holds n01; expected .*; point --data-dir at the folder that holds val/"):
        ImageFolder(tmp_path, transform=SMALL)
    (tmp_path / "val").mkdir()
    for i in range(5):
        (tmp_path / "val" / f"{i}.JPEG").write_text("")
    with pytest.raises(
        DataError, match=r"no class folders, it holds 0.JPEG, 1.JPEG, 2.JPEG and 2 more; move the images"
    ):
        ImageFolder(tmp_path, transform=SMALL)
    (tmp_path / "val" / "n01").mkdir()
    with pytest.raises(DataError, match=r"class folder .*val/n01 has no images \(.jpg"):
        ImageFolder(tmp_path, transform=SMALL)
