"""COCO's numbers: worked by hand, those of its own evaluation on stored cases, and beside pycocotools on random ones."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidat.data.rle import Rle
from minidat.data.samples import Truth, extents
from minidat.metrics.average_precision import AveragePrecision, Found
from minidat.metrics.dense_tables import ap_by_class, coco_table

FIXTURES = Path(__file__).parents[1] / "fixtures" / "dense"
SMALL = json.loads((FIXTURES / "coco_small.json").read_text())
RANDOM = json.loads((FIXTURES / "coco_random.json").read_text())


def flipped(items):
    """COCO's [x, y, width, height] of items as (row, col, height, width)."""
    return np.array([[b[1], b[0], b[3], b[2]] for b in (item["bbox"] for item in items)], float).reshape(-1, 4)


def mask_of(item):
    size = tuple(item["segmentation"]["size"])
    counts = item["segmentation"]["counts"]
    return Rle.parse(counts, size) if isinstance(counts, str) else Rle(size, np.array(counts))


def evaluated(truth, found, kind="boxes", areas_of_boxes=False):
    """The curves of COCO's dictionaries."""
    ranks = {c["id"]: rank for rank, c in enumerate(sorted(truth["categories"], key=lambda c: c["id"]))}
    metric = AveragePrecision(len(ranks), kind)
    for image in (entry["id"] for entry in truth["images"]):
        own = [a for a in truth["annotations"] if a["image_id"] == image]
        mine = [d for d in found if d["image_id"] == image]
        masks = kind == "masks"
        boxes = flipped(mine)
        metric.add(
            image,
            Truth(
                flipped(own),
                np.array([ranks[a["category_id"]] for a in own], int),
                np.array([a["area"] for a in own], float),
                np.array([a["iscrowd"] for a in own], bool),
                [mask_of(a) for a in own] if masks else (),
            ),
            Found(
                boxes,
                np.array([ranks[d["category_id"]] for d in mine], int),
                np.array([d["score"] for d in mine], float),
                [mask_of(d) for d in mine] if masks else (),
                boxes[:, 2] * boxes[:, 3] if areas_of_boxes else None,
            ),
        )
    return metric.result()


@pytest.mark.parametrize("case", SMALL, ids=[case["what"][:30] for case in SMALL])
def test_cases_worked_by_hand(case):
    curves = evaluated(case["gt"], case["dt"])
    assert curves.numbers == case["stats"]
    assert curves.ap() == pytest.approx(case["hand"], abs=1e-12)


@pytest.mark.parametrize(("kind", "key"), [("boxes", "bbox"), ("masks", "segm")])
def test_a_random_set_with_crowds_and_ties(kind, key):
    curves = evaluated(RANDOM["gt"], RANDOM["dt"], kind)
    assert curves.numbers == RANDOM[key]
    with np.load(FIXTURES / "coco_random_precision.npz") as stored:
        np.testing.assert_array_equal(curves.precision[..., 0, 2], stored[key])
    np.testing.assert_array_equal(curves.recall[..., 0, 2], RANDOM[f"{key}_recall_per_iou_class"])
    by_class = list(RANDOM[f"{key}_ap_per_class"].values())
    assert [curves.ap(label=k) for k in range(4)] == pytest.approx(by_class, abs=1e-15)
    by_threshold = [curves.ap(0.5 + 0.05 * t) for t in range(10)]
    assert by_threshold == pytest.approx(RANDOM[f"{key}_ap_per_iou"], abs=1e-15)


def test_masks_with_the_areas_of_boxes_fall_into_other_ranges():
    """What happens in COCO's own tool where a result has a box beside its mask."""
    curves = evaluated(RANDOM["gt"], RANDOM["dt"], "masks", areas_of_boxes=True)
    assert curves.numbers == RANDOM["segm_if_bbox_is_left_in"]
    assert RANDOM["segm_if_bbox_is_left_in"]["APs"] != RANDOM["segm"]["APs"]


def random_set(rng, images=5, classes=3, side=(40, 130)):
    """COCO's dictionaries: objects of several sizes, detections near them and elsewhere, crowds, equal scores."""
    truth = {
        "info": {},
        "images": [],
        "categories": [{"id": 2 * k + 1, "name": str(k)} for k in range(classes)],
        "annotations": [],
    }
    found = []

    def item(box, size, image, category, **more):
        row, col, height, width = (int(n) for n in box)
        mask = np.zeros(size, bool)
        mask[row : row + height, col : col + width] = rng.random((height, width)) < 0.9
        rle = Rle.of(mask)
        return {
            "image_id": image,
            "category_id": int(category),
            "bbox": [float(col), float(row), float(width), float(height)],
            "segmentation": {"size": list(size), "counts": str(rle)},
            "area": float(rle.area),
            **more,
        }

    for image in range(3, 3 + images):
        size = tuple(int(n) for n in rng.integers(*side, 2))
        truth["images"].append({"id": image, "height": size[0], "width": size[1], "file_name": f"{image}.png"})
        for _ in range(rng.integers(0, 6)):
            extent = rng.integers(2, size)
            box = np.concatenate([rng.integers(0, size - extent + 1), extent])
            category = rng.choice([c["id"] for c in truth["categories"]])
            crowd, identity = int(rng.random() < 0.2), len(truth["annotations"]) + 1
            truth["annotations"].append(item(box, size, image, category, iscrowd=crowd, id=identity))
            for _ in range(rng.integers(0, 4)):
                near = box + rng.integers(-2, 3, 4)
                near = np.clip(near, 0, np.concatenate([np.array(size) - 1, size]))
                near[2:] = np.clip(near[2:], 1, size - near[:2])
                found.append(item(near, size, image, category, score=int(rng.integers(1, 9)) / 10))
        for _ in range(rng.integers(0, 4)):
            box = np.concatenate([rng.integers(0, np.array(size) - 5), [4, 5]])
            found.append(item(box, size, image, truth["categories"][0]["id"], score=int(rng.integers(1, 9)) / 10))
    return truth, found


def official(truth, found, kind):
    """What pycocotools gives: its twelve numbers, precision, recall and the table that it prints."""
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    key = {"boxes": "bbox", "masks": "segm"}[kind]
    left_out = {"boxes": ("segmentation", "area"), "masks": ("bbox", "area")}[kind]
    found = [{name: value for name, value in item.items() if name not in left_out} for item in found]
    printed = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()):
        whole = coco.COCO()
        whole.dataset = truth
        whole.createIndex()
        judge = evaluation.COCOeval(whole, whole.loadRes(found), key)
        judge.evaluate()
        judge.accumulate()
        with contextlib.redirect_stdout(printed):
            judge.summarize()
    return judge.stats, judge.eval["precision"], judge.eval["recall"], printed.getvalue()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["boxes", "masks"]))
def test_random_sets_equal_pycocotools_to_the_last_digit(seed, kind):
    truth, found = random_set(np.random.default_rng(seed))
    if not found:
        return
    stats, precision, recall, printed = official(json.loads(json.dumps(truth)), found, kind)
    curves = evaluated(truth, found, kind)
    np.testing.assert_array_equal(curves.precision, precision)
    np.testing.assert_array_equal(curves.recall, recall)
    np.testing.assert_array_equal(list(curves.numbers.values()), stats)
    assert coco_table(curves) == printed.rstrip("\n")


def test_more_than_a_hundred_detections_of_an_image():
    """The object is found by the 101st and by no other: it is not found."""
    boxes = np.concatenate([np.tile([[50.0, 50, 60, 60]], (100, 1)), [[0.0, 0, 10, 10]]])
    scores = np.linspace(1, 0.5, 101)
    metric = AveragePrecision(1)
    truth = Truth(extents([[0, 0, 10, 10]]), np.array([0]), np.array([100.0]), np.array([False]))
    metric.add(0, truth, Found(extents(boxes), np.zeros(101, int), scores))
    assert metric.result().ap() == 0
    last = AveragePrecision(1)
    last.add(0, truth, Found(extents(boxes[1:]), np.zeros(100, int), scores[1:]))
    assert last.result().ap() == pytest.approx(0.01)


def test_an_area_on_a_border_belongs_to_both_ranges():
    metric = AveragePrecision(1)
    truth = Truth(extents([[0, 0, 32, 32]]), np.array([0]), np.array([1024.0]), np.array([False]))
    metric.add(0, truth, Found(extents([[0, 0, 32, 32]]), np.array([0]), np.array([0.5])))
    assert [metric.result().ap(area=area) for area in ("small", "medium", "large")] == [pytest.approx(1)] * 2 + [-1]


def test_an_image_without_objects_counts_by_its_detections():
    metric = AveragePrecision(2)
    one = Truth(extents([[0, 0, 10, 10]]), np.array([1]), np.array([100.0]), np.array([False]))
    none = Truth(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0), np.zeros(0, bool))
    metric.add(0, one, Found(extents([[0, 0, 10, 10]]), np.array([1]), np.array([0.5])))
    metric.add(7, none, Found(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0)))
    assert metric.result().ap() == pytest.approx(1)
    metric.add(8, none, Found(extents([[0, 0, 10, 10]]), np.array([1]), np.array([0.9])))
    assert metric.result().ap() == pytest.approx(0.5)
    assert metric.result().ap(label=0) == -1


def test_without_detections_ap_is_0_and_without_objects_minus_1():
    metric = AveragePrecision(1)
    assert set(metric.result().numbers.values()) == {-1}
    nothing = Found(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
    metric.add(0, Truth(extents([[0, 0, 9, 9]]), np.array([0]), np.array([81.0]), np.array([False])), nothing)
    assert (metric.result().ap(), metric.result().ar(), metric.result().ap(area="large")) == (0, 0, -1)


def test_order_of_adding_does_not_matter():
    case = SMALL[3]  # equal scores in two images
    backwards = {**case["gt"], "images": case["gt"]["images"][::-1]}
    assert evaluated(backwards, case["dt"]).numbers == case["stats"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([3])}, r"image 4: labels of a detection run 3\.\.3, expected within 0\.\.2"),
        ({"scores": np.array([np.nan])}, "image 4: a detection's score is not finite"),
        ({"masks": []}, "image 4: 1 detections have 0 masks"),
        ({"masks": [Rle.of(np.ones((5, 6), bool))]}, "masks of 5×6 and 6×5 pixels have no overlap"),
    ],
)
def test_what_is_no_result_is_refused(change, message):
    masks = [Rle.of(np.ones((6, 5), bool))]
    truth = Truth(np.zeros((1, 4)), np.array([0]), np.array([30.0]), np.array([False]), masks)
    found = Found(np.zeros((1, 4)), np.array([0]), np.array([0.5]), masks)
    with pytest.raises(ValueError, match=message):
        AveragePrecision(3, "masks").add(4, truth, found._replace(**change))


def test_an_image_twice_and_an_unknown_kind():
    metric = AveragePrecision(1)
    none = Truth(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0), np.zeros(0, bool))
    nothing = Found(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
    metric.add(1, none, nothing)
    with pytest.raises(ValueError, match="image 1 was added before"):
        metric.add(1, none, nothing)
    with pytest.raises(ValueError, match="expected boxes or masks"):
        AveragePrecision(1, "bbox")
    with pytest.raises(ValueError, match=r"threshold is 0\.51, expected one of 0\.50, 0\.55"):
        metric.result().ap(0.51)


def test_tables_fit_80_columns():
    curves = evaluated(RANDOM["gt"], RANDOM["dt"])
    text = coco_table(curves) + "\n" + ap_by_class(curves, ["a", "b" * 70, "c", "d"])
    assert max(map(len, text.splitlines())) <= 80
    assert "Average Recall     (AR) @[ IoU=0.50:0.95 | area= large | maxDets=100 ]" in text
    assert f"{100 * RANDOM['bbox_ap_per_class']['1']:.2f}" in text
