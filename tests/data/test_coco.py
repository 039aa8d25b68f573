"""COCO's files: written and read again, beside cocoapi, what training leaves out, and each rule that a damaged file breaks."""

import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from minidat.data.coco import Coco
from minidat.data.dataset import DataError
from minidat.data.samples import extents
from minidat.data.scene_files import write_coco
from minidat.data.scenes import Scenes
from minidat.metrics.average_precision import AveragePrecision, Found

SIZE = (30, 44)
BOX = [4.5, 6.0, 10.0, 8.5]
POLYGON = [[4.5, 6, 14.5, 6, 14.5, 14.5, 4.5, 14.5]]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("coco")
    scenes = Scenes("test", seed=1, size=12, image=(40, 56))
    write_coco(scenes, root, "val")
    return root, scenes


def annotation(**more):
    item = {"id": 1, "image_id": 7, "category_id": 3, "bbox": BOX, "area": 85.0, "iscrowd": 0, "segmentation": POLYGON}
    return {**item, **more}


def made(root, annotations, *, images=None, categories=None, size=SIZE):
    """A folder of one image, with these annotations."""
    (root / "val2017").mkdir()
    (root / "annotations").mkdir()
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(root / "val2017" / "a.png")
    content = {
        "images": [{"id": 7, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}] if images is None else images,
        "annotations": annotations,
        "categories": [{"id": 3, "name": "cat"}, {"id": 1, "name": "dog"}] if categories is None else categories,
    }
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return root


def test_scenes_there_and_back(written):
    root, scenes = written
    coco = Coco(root, "val")
    assert (coco.classes, len(coco)) == (scenes.classes, 12)
    for drawn, read in zip(scenes.samples(np.arange(12)), coco.samples(np.arange(12)), strict=True):
        for name in ("image", "boxes", "labels", "masks", "crowd"):
            np.testing.assert_array_equal(getattr(read, name), getattr(drawn, name))
        assert (read.identity, read.original) == (drawn.identity + 1, drawn.original)
    forms = {type(a["segmentation"]) for a in json.loads(coco.file.read_text())["annotations"]}
    assert forms == {list, dict}  # polygons, and run lengths of shapes with holes
    np.testing.assert_array_equal(coco.truth(4).extents, scenes.truth(4).extents)
    np.testing.assert_array_equal(coco.truth(4).areas, scenes.truth(4).areas)


def test_cocoapi_reads_the_same_masks(written):
    official = pytest.importorskip("pycocotools.coco")
    root, scenes = written
    with contextlib.redirect_stdout(io.StringIO()):
        coco = official.COCO(str(root / "annotations" / "instances_val2017.json"))
    for drawn in scenes.samples(np.arange(12)):
        own = coco.loadAnns(coco.getAnnIds(drawn.identity + 1))
        np.testing.assert_array_equal([coco.annToMask(a).astype(bool) for a in own], drawn.masks)


def test_results_are_judged_by_cocoapi_as_here(written, tmp_path):
    """Shifted true boxes and masks as detections, through a file of results."""
    official = pytest.importorskip("pycocotools.coco")
    judging = pytest.importorskip("pycocotools.cocoeval")
    root, _ = written
    coco, rng = Coco(root, "val"), np.random.default_rng(0)
    metrics = {"boxes": AveragePrecision(10), "masks": AveragePrecision(10, "masks")}
    results = {"boxes": [], "masks": []}
    for i, sample in enumerate(coco.samples(np.arange(12))):
        boxes = sample.boxes + rng.integers(-1, 2, sample.boxes.shape)
        scores = rng.random(len(boxes))
        truth = coco.truth(i)
        found = Found(extents(boxes), sample.labels, scores, truth.masks)
        for kind, metric in metrics.items():
            metric.add(sample.identity, truth, found)
            masks = truth.masks if kind == "masks" else None
            results[kind] += coco.results(i, found.extents, sample.labels, scores, masks)
    for kind, key in (("boxes", "bbox"), ("masks", "segm")):
        (tmp_path / f"{kind}.json").write_text(json.dumps(results[kind]))
        with contextlib.redirect_stdout(io.StringIO()):
            whole = official.COCO(str(coco.file))
            judge = judging.COCOeval(whole, whole.loadRes(str(tmp_path / f"{kind}.json")), key)
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
        np.testing.assert_array_equal(list(metrics[kind].result().numbers.values()), judge.stats)
    assert 0.2 < metrics["boxes"].result().ap() < 0.99


def test_labels_are_ranks_of_ids_and_go_back(tmp_path):
    coco = Coco(made(tmp_path, [annotation(), annotation(id=2, category_id=1)]))
    assert coco.classes == ("dog", "cat") and coco.category_ids == (1, 3)
    (sample,) = coco.samples([0])
    assert sample.labels.tolist() == [1, 0]
    assert sample.boxes[0].tolist() == [6.0, 4.5, 14.5, 14.5]
    (result,) = coco.results(0, extents([[6.0, 4.5, 14.5, 14.5]]), np.array([1]), np.array([0.5]))
    assert result == {"image_id": 7, "category_id": 3, "score": 0.5, "bbox": BOX}


def test_what_training_leaves_out(tmp_path):
    left_out = [
        annotation(id=2, bbox=[44.0, 0, 5, 5]),
        annotation(id=3, bbox=[0, -5.0, 5, 5]),
        annotation(id=4, bbox=[1, 1, 0.5, 5]),
        annotation(id=5, bbox=[1, 1, 5, 0]),
        annotation(id=6, area=0),
    ]
    inside = [annotation(), annotation(id=7, bbox=[-3.0, 25, 60, 10]), annotation(id=8, iscrowd=1)]
    coco = Coco(made(tmp_path, left_out + inside))
    (sample,) = coco.samples([0])
    assert coco.dropped == [2, 3, 4, 5, 6]
    assert sample.boxes[1].tolist() == [25, 0, 30, 44]  # cut at the border
    assert sample.crowd.tolist() == [False, False, True]
    assert len(coco.truth(0).labels) == 8 and coco.truth(0).extents[6].tolist() == [25, -3, 10, 60]


def test_images_without_objects(tmp_path):
    coco = Coco(made(tmp_path, [annotation(iscrowd=1)], categories=[{"id": 3, "name": "cat"}]))
    assert coco.samples([0])[0].crowd.all()
    with pytest.raises(DataError, match=r"instances_val2017\.json: has no image with an object"):
        Coco(tmp_path, training=True)
    content = json.loads(coco.file.read_text())
    coco.file.write_text(json.dumps({**content, "annotations": []}))
    (sample,) = Coco(tmp_path).samples([0])
    assert sample.boxes.shape == (0, 4) and sample.masks.shape == (0, *SIZE) and sample.labels.shape == (0,)
    assert Coco(tmp_path).truth(0).extents.shape == (0, 4)


def test_training_keeps_images_of_32_pixels_or_more(tmp_path):
    root = made(tmp_path, [annotation(), annotation(id=2, image_id=8)])
    file = root / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    content["images"].append({"id": 8, "file_name": "b.png", "height": 32, "width": 32})
    file.write_text(json.dumps(content))
    assert [image.identity for image in Coco(root, training=True).images] == [8]  # the other has 30 rows
    assert [image.identity for image in Coco(root).images] == [7, 8]
    assert [image.identity for image in Coco(root, size=1).images] == [7]


RULES = [
    ({"annotations": [annotation(id=5, category_id=2)]}, "annotation 5: category_id is 2, and no category has this id"),
    ({"annotations": [annotation(id=5, image_id=8)]}, "annotation 5: image_id is 8, and no image has this id"),
    ({"annotations": [annotation(), annotation()]}, "annotation 1: two annotations have this id"),
    ({"annotations": [annotation(bbox=[1, 2, 3])]}, r"annotation 1: bbox is \[1, 2, 3\], expected four numbers"),
    ({"annotations": [annotation(bbox=[1, 2, 3, float("nan")])]}, "annotation 1: bbox is .* expected four numbers"),
    ({"annotations": [annotation(area=None)]}, "annotation 1: area is None, expected a number"),
    ({"annotations": [annotation(iscrowd=2)]}, "annotation 1: iscrowd is 2, expected 0 or 1"),
    ({"annotations": [annotation(segmentation=[])]}, "annotation 1: has no segmentation"),
    (
        {"annotations": [annotation(segmentation={"size": [44, 30], "counts": [1320]})]},
        r"annotation 1: its mask has size \[44, 30\], its image \[30, 44\] \(rows, columns\)",
    ),
    ({"categories": [{"id": 3}]}, "category 3: has no name"),
    ({"categories": [{"id": 3, "name": " "}]}, "category 3: has no name"),
    ({"categories": [{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]}, "category 3: two categories have this id"),
    ({"categories": []}, "has no categories"),
    ({"categories": [{"name": "a"}]}, "a category's id is None, expected an integer"),
    (
        {"images": [{"id": 7, "file_name": "a.png", "height": 0, "width": 44}]},
        "image 7: height is 0, expected an integer of 1",
    ),
    ({"images": [{"id": 7, "height": 30, "width": 44}]}, "image 7: has no file_name"),
    (
        {"images": [{"id": 7, "file_name": "a.png", "height": 10**6, "width": 10**6}]},
        "image 7: has .* pixels, more than",
    ),
    (
        {"images": [{"id": 7, "file_name": "../a.png", "height": 30, "width": 44}]},
        r"image 7: file_name is \.\./a\.png, expected one inside the folder",
    ),
]


@pytest.mark.parametrize(("parts", "message"), RULES, ids=[message[:40] for _, message in RULES])
def test_rules_that_a_file_breaks(tmp_path, parts, message):
    root = made(tmp_path, **{"annotations": [annotation()], **parts})
    with pytest.raises(DataError, match=r"instances_val2017\.json: " + message) as caught:
        Coco(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 2, 3, 4]], "annotation 1: a polygon has 4 coordinates"),
        ([["a"] * 6], "annotation 1: could not convert string"),
        ({"size": [30, 44], "counts": [7]}, "annotation 1: run lengths sum to 7, expected 30·44 = 1320"),
        ({"size": [30, 44], "counts": "ab"}, "annotation 1: an RLE string"),
        (
            {"size": [30, 44], "counts": ["a"]},
            "annotation 1: its counts are not all run lengths, whole numbers of 0 to 1320",
        ),
        ({"size": [30, 44], "counts": [2**62] * 4 + [1320]}, "annotation 1: its counts are not all run lengths"),
        ({"size": [30, 44], "counts": [[0, 1320]]}, "annotation 1: its counts are not all run lengths"),
        ({"size": [30, 44], "counts": [0.9, 1320]}, "annotation 1: its counts are not all run lengths"),
        ({"size": [30, 44], "counts": [10**30]}, "annotation 1: "),
    ],
)
def test_masks_that_do_not_fit(tmp_path, segmentation, message):
    coco = Coco(made(tmp_path, [annotation(segmentation=segmentation)]))
    for read in (lambda: coco.samples([0]), lambda: coco.truth(0)):
        with pytest.raises(DataError, match=r"instances_val2017\.json: " + message):
            read()


def test_an_image_of_another_size_than_the_json_says(tmp_path):
    coco = Coco(made(tmp_path, [annotation()], size=(44, 30)))
    message = r"a\.png: has 44×30 pixels \(rows × columns\), image 7 of .*instances_val2017\.json 30×44"
    with pytest.raises(DataError, match=message):
        coco.samples([0])
    (tmp_path / "val2017" / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png: cannot be read"):
        coco.samples([0])


def test_a_json_cut_short(written, tmp_path):
    text = (written[0] / "annotations" / "instances_val2017.json").read_text()
    root = made(tmp_path, [])
    file = root / "annotations" / "instances_val2017.json"
    for content, message in (
        (text[: len(text) // 2], r"is no complete JSON: .* at character [\d,]+ of [\d,]+; fetch it again"),
        ("", "is no complete JSON"),
        ("[" * 100_000, "is no"),
        ("[]", "is a JSON list, expected COCO's dictionary"),
        ("{}", "has no list of categories"),
    ):
        file.write_text(content)
        with pytest.raises(DataError, match=r"instances_val2017\.json: " + message):
            Coco(root)
    file.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DataError, match="is no JSON"):
        Coco(root)


def test_folders_that_are_not_there(tmp_path):
    with pytest.raises(
        DataError, match=r"nowhere does not exist; expected .*instances_val2017\.json; point --data-dir"
    ):
        Coco(tmp_path / "nowhere")
    root = made(tmp_path, [annotation()])
    with pytest.raises(DataError, match=r"annotations holds instances_val2017\.json; expected .*instances_train2017"):
        Coco(root, "train")
    with pytest.raises(ValueError, match="split is 'test', expected one of train, val"):
        Coco(root, "test")
    with pytest.raises(ValueError, match="size is 2, expected 1 to the 1 images"):
        Coco(root, size=2)
    (root / "annotations" / "instances_val2017.json").rename(root / "annotations" / "instances_val2014.json")
    with pytest.raises(DataError, match="val2014 does not exist; the images of"):
        Coco(root)
    (root / "val2017").rename(root / "val2014")
    assert len(Coco(root)) == 1


@pytest.mark.parametrize("damage", [{"bbox": [0, 0, 10**400, 2]}, {"area": 10**400}, {"area": float("nan")}])
def test_numbers_beyond_any_image_are_refused(tmp_path, damage):
    with pytest.raises(DataError, match=r"instances_val2017\.json: "):
        Coco(made(tmp_path, [annotation() | damage]))
