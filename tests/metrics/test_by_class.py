"""Counts by class, against loops."""

import numpy as np
import pytest

from minidat.metrics.by_class import KEPT, ByClass


def made(count, classes, seed=0):
    rng = np.random.default_rng(seed)
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 2, 3, 3), np.uint8)
    return images, rng.integers(0, classes, count), rng.standard_normal((count, classes)).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 7, 60])
def test_the_confusion_matrix_and_its_pairs(batch):
    images, labels, logits = made(60, 5)
    report = ByClass("abcde")
    for i in range(0, 60, batch):
        report.add(*(array[i : i + batch] for array in (images, labels, logits)))
    expected = np.zeros((5, 5), int)
    for label, row in zip(labels, logits):
        expected[label, int(np.argmax(row))] += 1
    np.testing.assert_array_equal(report.confusion, expected)
    np.testing.assert_array_equal(report.count, np.bincount(labels, minlength=5))
    np.testing.assert_array_equal(report.right, np.diag(expected))
    pairs = sorted(
        ((expected[i, j], -i, -j) for i in range(5) for j in range(5) if i != j and expected[i, j]), reverse=True
    )
    assert report.confusions(7) == [(-i, -j, n) for n, i, j in pairs[:7]]
    assert ByClass("abc").confusions(5) == []


@pytest.mark.parametrize("batch", [1, 11, 200])
def test_the_surest_mistakes_are_kept_with_their_images(batch):
    images, labels, logits = made(200, 4, seed=1)
    report = ByClass("abcd")
    for i in range(0, 200, batch):
        report.add(*(array[i : i + batch] for array in (images, labels, logits)))
    shares = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(1, keepdims=True)
    wrong = [i for i in range(200) if logits[i].argmax() != labels[i]]
    surest = sorted(wrong, key=lambda i: -shares[i].max())[:KEPT]
    assert len(wrong) > KEPT
    assert [int(mistake.image[0, 0, 0]) for mistake in report.mistakes] == surest
    for mistake, i in zip(report.mistakes, surest):
        assert (mistake.label, mistake.predicted) == (labels[i], logits[i].argmax())
        assert mistake.confidence == pytest.approx(shares[i].max())


def test_no_mistakes_and_outputs_that_are_not_finite():
    report = ByClass("ab")
    report.add(np.zeros((2, 1, 1, 3), np.uint8), np.array([0, 1]), np.eye(2, dtype=np.float32))
    assert report.mistakes == [] and report.confusions(3) == []
    report.add(np.zeros((2, 1, 1, 3), np.uint8), np.array([0, 1]), np.full((2, 2), np.nan, np.float32))
    report.add(np.zeros((1, 1, 1, 3), np.uint8), np.array([1]), np.array([[np.inf, 0]], np.float32))
    assert report.confusion.sum() == 5
