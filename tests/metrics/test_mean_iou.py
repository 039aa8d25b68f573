"""IoU and accuracy of pixels: cases worked by hand, and what must not count."""

import json
from pathlib import Path

import numpy as np
import pytest

from minidat.data.ade20k import labels_of
from minidat.metrics.dense_tables import iou_table
from minidat.metrics.mean_iou import Confusion

CASES = json.loads((Path(__file__).parents[1] / "fixtures" / "dense" / "miou_small.json").read_text())


def counted(case):
    total = Confusion(np.zeros((case["num_classes"],) * 2, np.int64))
    for predicted, png in zip(case["pred"], case["annotation_png"], strict=True):
        total += Confusion.of(np.array(predicted), labels_of(np.array(png, np.uint8)), case["num_classes"])
    return total


@pytest.mark.parametrize("case", CASES, ids=[case["hand"] for case in CASES])
def test_cases_worked_by_hand(case):
    total = counted(case)
    assert total.counts.tolist() == case["confusion_rows_truth"]
    for found, expected in ((total.iou, case["IoU"]), (total.accuracy, case["Acc"])):
        np.testing.assert_array_equal(found, [np.nan if value is None else value for value in expected])
    assert total.numbers == {name: case[name] for name in ("mIoU", "mAcc", "aAcc")}


def test_against_loops_over_pixels():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 5, (2, 7, 11)), rng.integers(0, 5, (2, 7, 11))
    truth[rng.random(truth.shape) < 0.2] = 255
    predicted[truth == 255] = 99  # of no class, where nobody looks
    numbers = Confusion.of(predicted, truth, 5)
    for k in range(5):
        inside = [(p == k, t == k) for p, t in zip(predicted.flat, truth.flat) if t != 255]
        both, either = sum(p and t for p, t in inside), sum(p or t for p, t in inside)
        assert numbers.iou[k] == both / either
        assert numbers.accuracy[k] == both / sum(t for _, t in inside)


def test_nothing_counted():
    none = Confusion.of(np.zeros((2, 2), int), np.full((2, 2), 255), 3)
    assert np.isnan(list(none.numbers.values())).all()
    assert "–" in iou_table(none, ["a", "b", "c"])


def test_what_is_no_prediction_is_refused():
    with pytest.raises(ValueError, match=r"the prediction has shape \(2, 3\), the truth \(3, 2\)"):
        Confusion.of(np.zeros((2, 3), int), np.zeros((3, 2), int), 3)
    with pytest.raises(ValueError, match=r"the prediction's classes run 0\.\.3, expected within 0\.\.2"):
        Confusion.of(np.array([0, 3]), np.array([0, 1]), 3)
    with pytest.raises(ValueError, match=r"the truth's classes run 0\.\.4, expected within 0\.\.2"):
        Confusion.of(np.array([0, 1]), np.array([0, 4]), 3)


def test_table():
    text = iou_table(
        counted(CASES[1]), ["wall", "sky", "a class of a very long name, longer than there is room", "door"]
    )
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[2].split() == ["wall", "75.00", "75.00"] and lines[3].split() == ["sky", "–", "–"]
    assert lines[-1] == "mIoU 37.50  mAcc 75.00  aAcc 75.00"
