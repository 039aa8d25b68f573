"""Folders of one's own pictures: their classes, which are tested on, what they become, and what is said of bad ones."""

import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from minidat.data import load_pictures
from minidat.data.dataset import DataError
from minidat.data.folder import HELD_OUT, read_folder, spread
from minidat.data.imagenet import class_names
from minidat.data.images import Transform
from minidat.data.reading import Reader

READER = Reader(Transform(16, "whole"), upright=True)


def picture(path, seed=0, size=(20, 24)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path, "PNG")


def fill(root, members):
    for k, (name, count) in enumerate(members.items()):
        for i in range(count):
            picture(root / name / f"{i:02d}.png", 100 * k + i)
    return root


def read(split, place, **options):
    return read_folder(split, place, **{"reader": READER} | options)


def test_classes_are_folders_labels_their_sorted_names_and_pictures_what_the_network_takes(tmp_path):
    fill(tmp_path / "train", {"dog": 3, "ant": 2, "Cat": 4})
    fill(tmp_path / "val", {"ant": 1, "dog": 2})
    train, test = read("train", tmp_path), read("test", tmp_path)
    assert train.classes == test.classes == ("Cat", "ant", "dog")
    assert len(train) == 9 and sorted(test.files) == ["ant/00.png", "dog/00.png", "dog/01.png"]
    for data in (train, test):
        assert [data.classes[label] for label in data.labels] == [file.split("/")[0] for file in data.files]
    images, labels = train.batch([4, 0])
    assert images.shape == (2, 16, 16, 3) and labels.tolist() == train.labels[[4, 0]].tolist()
    with Image.open(tmp_path / "train" / train.files[4]) as image:
        np.testing.assert_array_equal(images[0], np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC)))
    with pytest.raises(IndexError, match=r"indices run 0\.\.9, expected within 0\.\.8"):
        train.batch([0, 9])


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test"])
def test_the_names_of_the_folder_that_is_tested_on(name, tmp_path):
    fill(tmp_path / "train", {"a": 1, "b": 1})
    fill(tmp_path / name, {"a": 2})
    assert sorted(read("test", tmp_path).files) == ["a/00.png", "a/01.png"]
    assert (read("train", tmp_path).root, read("test", tmp_path).root) == (tmp_path / "train", tmp_path / name)


def test_numbers_are_sorted_as_numbers(tmp_path):
    fill(tmp_path / "train", {"10": 1, "9": 1, "1": 1})
    fill(tmp_path / "val", {"1": 1})
    assert read("train", tmp_path).classes == ("1", "9", "10")


@pytest.mark.parametrize("below", ["", "train"])
def test_a_fifth_of_each_class_is_held_out_by_name_and_stays_so(below, tmp_path):
    fill(tmp_path / below, {"a": 60, "b": 2, "c": 40})
    train, test = read("train", tmp_path), read("test", tmp_path)
    assert set(train.files) | set(test.files) == {
        f"{c}/{i:02d}.png" for c, n in (("a", 60), ("b", 2), ("c", 40)) for i in range(n)
    }
    assert not set(train.files) & set(test.files)
    assert 0.1 < len(test) / 102 < 0.3 and abs(HELD_OUT - 0.2) < 1e-9
    assert sum(file.startswith("b/") for file in test.files) == 1  # at least one of each class, and not all
    for i in range(60, 80):
        picture(tmp_path / below / "a" / f"{i:02d}.png")
    assert set(test.files) <= set(read("test", tmp_path).files)
    assert set(train.files) <= set(read("train", tmp_path).files)


def test_equal_names_in_two_classes_are_not_held_out_together(tmp_path):
    fill(tmp_path, {"a": 40, "b": 40})
    held = {kind: {file[2:] for file in read("test", tmp_path).files if file[0] == kind} for kind in "ab"}
    assert held["a"] != held["b"]


def test_any_first_and_any_last_pictures_have_all_classes_in_proportion():
    files, labels = spread([("a", [f"{i}" for i in range(30)]), ("b", [f"{i}" for i in range(60)]), ("c", ["0"] * 10)])
    assert len(set(files)) == 91 and [("a", "b", "c")[label] for label in labels] == [file[0] for file in files]
    for n in (10, 20, 50):
        for part in (labels[:n], labels[-n:]):
            assert np.abs(np.bincount(part, minlength=3) / n - [0.3, 0.6, 0.1]).max() <= 1.01 / n
    inside = [file for file in files if file[0] == "a"]
    assert inside != sorted(inside) and sorted(inside) == sorted(f"a/{i}" for i in range(30))


def test_classes_of_a_network_give_the_labels(tmp_path):
    fill(tmp_path / "val", {"dog": 2, "ant": 1})
    (tmp_path / "train").mkdir()
    data = read("test", tmp_path, classes=("zebra", "dog", "ant"))
    assert sorted(data.labels.tolist()) == [1, 1, 2] and data.classes == ("zebra", "dog", "ant")


def test_names_in_any_script_and_bytes_that_are_no_text(tmp_path):
    composed, apart = unicodedata.normalize("NFC", "Käfer"), unicodedata.normalize("NFD", "Käfer")
    fill(tmp_path / "train", {composed: 1, "蝶": 1, "नमस्ते": 1})
    fill(tmp_path / "val", {apart: 1})
    picture(tmp_path / "train" / "蝶" / "写真 1.png")
    test = read("test", tmp_path)
    assert test.classes[test.labels[0]] == composed
    assert test.batch([0])[0].shape == (1, 16, 16, 3)
    odd = os.fsencode(tmp_path / "train" / "蝶") + b"/\xff.png"
    try:
        os.rename(tmp_path / "train" / "蝶" / "写真 1.png", odd)
    except OSError:
        pytest.skip("this file system has no such names")
    train = read("train", tmp_path)
    assert train.batch(np.arange(len(train)))[0].shape == (4, 16, 16, 3)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"train": {"a": 2}, "val": {"a": 1}}, "has one class only, a; a network needs two to choose from"),
        ({"": {"a": 2}}, "has one class only, a"),
        ({"": {"a": 3, "b": 1}}, "class b has one picture only, 00.png; it needs two, one of them to test on"),
        ({"train": {"a": 1, "b": 1}, "val": {"a": 1, "c": 1}}, "class c of .*val is none of the 2 classes .*: a, b"),
        ({"val": {"a": 1, "b": 1}}, r"holds val/ but no train/: there is nothing to train on"),
    ],
)
def test_classes_that_make_no_sense_are_one_line(members, said, tmp_path):
    for split, classes in members.items():
        fill(tmp_path / split, classes)
    with pytest.raises(DataError, match=said) as caught:
        read("train", tmp_path)
        read("test", tmp_path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("folder: ")


def test_folders_that_hold_something_else_are_one_line(tmp_path):
    with pytest.raises(DataError, match="nowhere does not exist; point --data-dir at"):
        read("train", tmp_path / "nowhere")
    with pytest.raises(DataError, match="say where the pictures are: --data-dir DIR"):
        read("train", None)
    picture(tmp_path / "loose" / "a.png")
    with pytest.raises(DataError, match=r"has no class folders, it holds a.png; move the pictures of each class"):
        read("train", tmp_path / "loose")
    with pytest.raises(DataError, match=r"a.png is no folder"):
        read("train", tmp_path / "loose" / "a.png")
    fill(tmp_path / "train", {"a": 1})
    (tmp_path / "train" / "b").mkdir()
    (tmp_path / "train" / "b" / "IMG_1.HEIC").write_text("")
    with pytest.raises(DataError, match=r"class folder .*b has no pictures \(.jpg, .*\); it holds IMG_1.HEIC"):
        read("train", tmp_path)
    picture(tmp_path / "train" / "b" / "1.png")
    (tmp_path / "train" / "a" / "more").mkdir()
    (tmp_path / "train" / "b" / ".DS_Store").write_text("")
    (tmp_path / "val").mkdir()
    with pytest.raises(ValueError, match="size is 9, expected 1 to the 2 pictures of"):
        read("train", tmp_path, size=9)
    assert read("train", tmp_path).notes == [
        f"passed over: 2 in {tmp_path}/train that no picture's name ends like, such as a/more"
    ]


def test_links_are_followed_and_one_that_leads_nowhere_is_named(tmp_path):
    fill(tmp_path / "elsewhere", {"a": 2})
    fill(tmp_path / "in" / "train", {"b": 1})
    fill(tmp_path / "in" / "val", {"b": 1})
    (tmp_path / "in" / "train" / "a").symlink_to(tmp_path / "elsewhere" / "a")
    (tmp_path / "in" / "train" / "b" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    train = read("train", tmp_path / "in")
    assert len(train) == 4
    with pytest.raises(DataError, match=r"train/b/gone.jpg: cannot be read: No such file"):
        train.batch(np.arange(4))


def test_pictures_are_read_upright_and_what_cannot_be_is_skipped_only_where_asked(tmp_path):
    fill(tmp_path / "train", {"a": 2, "b": 2})
    fill(tmp_path / "val", {"a": 1})
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    strip = Image.new("RGB", (30, 10), "blue")
    strip.paste("red", (0, 0, 10, 10))
    strip.save(tmp_path / "train" / "a" / "turned.png", exif=exif)
    (tmp_path / "train" / "b" / "text.jpg").write_text("no image")
    Image.fromarray(np.full((3, 5), 1000, np.uint16)).save(tmp_path / "train" / "b" / "deep.png")
    train = read("train", tmp_path)
    turned = train.batch([train.files.index("a/turned.png")])[0][0]
    assert (turned[1] == (255, 0, 0)).all() and (turned[-2] == (0, 0, 255)).all()
    with pytest.raises(DataError, match=r"b/text.jpg: is no image that can be read"):
        list(train.in_order(2))
    skipping = read("train", tmp_path, skip_damaged=True)
    pieces = list(skipping.in_order(2))
    indices = np.concatenate([indices for _, _, indices in pieces])
    assert len(indices) == len(skipping) - 1 and skipping.files.index("b/text.jpg") not in indices
    np.testing.assert_array_equal(np.concatenate([labels for _, labels, _ in pieces]), skipping.labels[indices])
    assert [message.split(": ")[0].rsplit("/", 1)[1] for message in skipping.damaged] == ["text.jpg"]
    for file in (tmp_path / "val" / "a").iterdir():
        file.write_text("no image")
    with pytest.raises(DataError, match=r"none of the 1 images can be read; the first: .*00.png"):
        list(read("test", tmp_path, skip_damaged=True).in_order(2))


def test_imagenet_is_the_same_with_its_names(tmp_path):
    fill(tmp_path / "train", {"n01443537": 2, "n01440764": 1})
    fill(tmp_path / "val", {"n01443537": 1})
    options = {"reader": Reader(Transform(16)), "data_dir": tmp_path}
    train = load_pictures("imagenet", "train", **options)
    assert train.classes == class_names()[:2] == ("tench", "goldfish")
    assert sorted(train.files)[0] == "n01440764/00.png" and sorted(train.labels.tolist()) == [0, 1, 1]
    assert load_pictures("imagenet", "test", classes=train.classes, **options).labels.tolist() == [1]
    with pytest.raises(DataError, match=r"imagenet: .*val has one class only, goldfish"):
        load_pictures("imagenet", "test", **options)
    with pytest.raises(DataError, match=r"imagenet: .*nowhere does not exist; expected .*/train/nXXXXXXXX/\*.JPEG"):
        load_pictures("imagenet", "train", reader=READER, data_dir=tmp_path / "nowhere")
