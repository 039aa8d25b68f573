"""ADE20K's folders: written and read again, and what is refused."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from minidat.data.ade20k import Ade20k, labels_of
from minidat.data.dataset import DataError
from minidat.data.scene_files import write_ade20k
from minidat.data.scenes import Scenes


@pytest.fixture
def root(tmp_path):
    write_ade20k(Scenes("test", seed=1, size=3, image=(40, 56)), tmp_path, "val")
    return tmp_path


def png(root, k=1):
    return root / "annotations" / "validation" / f"ADE_val_0000000{k}.png"


def test_scenes_there_and_back(root):
    scenes = Scenes("test", seed=1, size=3, image=(40, 56))
    ade = Ade20k(root, "val")
    assert (ade.semantic_classes, ade.classes, len(ade)) == (scenes.semantic_classes, (), 3)
    for drawn, read in zip(scenes.samples(np.arange(3)), ade.samples(np.arange(3)), strict=True):
        np.testing.assert_array_equal(read.image, drawn.image)
        np.testing.assert_array_equal(read.semantic, drawn.semantic)
        assert read.boxes.shape == (0, 4) and read.masks.shape == (0, 40, 56)
        np.testing.assert_array_equal(ade.semantic_truth(read.identity), drawn.semantic)
    assert len(Ade20k(root, "val", size=2)) == 2


def test_0_is_ignored(root):
    values = np.asarray(Image.open(png(root))).copy()
    values[:5] = 0
    Image.fromarray(values).save(png(root))
    semantic = Ade20k(root).samples([0])[0].semantic
    assert (semantic[:5] == 255).all() and semantic[5:].max() < 11
    assert labels_of(np.array([0, 1, 150], np.uint8)).tolist() == [255, 0, 149]


def test_the_archive_s_own_folder_and_classes_without_names(root):
    (root / "objectInfo150.txt").unlink()
    inside = root / "around" / "ADEChallengeData2016"
    inside.mkdir(parents=True)
    for kind in ("images", "annotations"):
        (root / kind).rename(inside / kind)
    ade = Ade20k(root / "around")
    assert len(ade) == 3 and len(ade.semantic_classes) == 150 and ade.semantic_classes[149] == "class 150"


def other_size(root):
    Image.fromarray(np.ones((56, 40), np.uint8)).save(png(root))


def colours(root):
    Image.fromarray(np.ones((40, 56, 3), np.uint8)).save(png(root))


def another_class(root):
    Image.fromarray(np.full((40, 56), 12, np.uint8)).save(png(root))


def four_bits(root):
    rows = zlib.compress(b"".join(b"\0" + b"\x11" * 28 for _ in range(40)))
    header = struct.pack(">IIBBBBB", 56, 40, 4, 0, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")):
        parts.append(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
    png(root).write_bytes(b"".join(parts))


def jpeg(root):
    Image.fromarray(np.full((40, 56), 1, np.uint8)).save(png(root), "jpeg")


def cut_short(root):
    png(root).write_bytes(png(root).read_bytes()[:200])


def no_annotation(root):
    png(root, 2).unlink()


def no_name(root):
    (root / "objectInfo150.txt").write_text("Idx\tName\n1\twall\n2\t\n")


def no_class(root):
    (root / "objectInfo150.txt").write_text("Idx\tName\n")


def no_images(root):
    for file in (root / "images" / "validation").iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (other_size, r"ADE_val_00000001\.png: has 40×56 pixels \(rows × columns\), its annotation 56×40"),
        (colours, "has pixels of mode RGB, expected a PNG of 8 bits a pixel"),
        (four_bits, "has pixels of mode L;4, expected a PNG of 8 bits a pixel"),
        (jpeg, "is a JPEG, expected a PNG of 8 bits a pixel"),
        (another_class, r"ADE_val_00000001\.png: has the class 12, expected 0 \(of no class\) or 1 to 11"),
        (cut_short, r"ADE_val_00000001\.png: cannot be read"),
        (no_annotation, r"ADE_val_00000002\.png: has no annotation, expected .*annotations"),
        (no_name, r"objectInfo150\.txt: class 2 has no name"),
        (no_class, r"objectInfo150\.txt: names 0 classes, expected 1 to 254"),
        (no_images, "validation has no images"),
    ],
)
def test_damaged_folders(root, damage, message):
    damage(root)
    with pytest.raises(DataError, match=message):
        Ade20k(root).samples([0])


def test_folders_that_are_not_there(root):
    with pytest.raises(DataError, match=r"holds annotations, images, objectInfo150\.txt; expected .*images/training"):
        Ade20k(root, "train")
    with pytest.raises(DataError, match="nowhere does not exist"):
        Ade20k(root / "nowhere")
    with pytest.raises(ValueError, match="split is 'test', expected one of train, val"):
        Ade20k(root, "test")
    with pytest.raises(ValueError, match="size is 4, expected 1 to the 3 images"):
        Ade20k(root, size=4)
    with pytest.raises(ValueError, match="a detection head needs coco or shapes"):
        Ade20k(root).truth(0)


def test_hidden_files_are_passed_over(root):
    (root / "images" / "validation" / "._ADE_val_00000001.jpg").write_bytes(b"of macOS")
    assert all(not file.name.startswith(".") for file in Ade20k(root).files)
