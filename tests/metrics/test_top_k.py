"""Accuracy is counted right, of logits."""

import numpy as np

from minidat.metrics.top_k import Accuracy, accuracy


def test_accuracy_counts_ranks():
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((40, 11)), rng.integers(0, 11, 40)
    top1 = top5 = 0
    for row, label in zip(logits, labels, strict=True):
        before = sum(value > row[label] for value in row)
        top1, top5 = top1 + (before < 1), top5 + (before < 5)
    assert accuracy(logits, labels) == Accuracy(top1, top5, 40)
    assert 0 < top1 < top5 < 40


def test_a_network_that_says_nothing_is_not_right():
    logits = np.zeros((3, 7))
    assert accuracy(logits, np.array([6, 1, 0])) == Accuracy(1, 2, 3)
    assert accuracy(np.full((2, 7), np.nan), np.array([0, 5])) == Accuracy(0, 0, 2)
    one = np.array([[0.0, 1, np.nan], [0, 1, np.inf]])
    assert accuracy(one, np.array([1, 2])) == Accuracy(1, 1, 2)
