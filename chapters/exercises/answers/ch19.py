"""Answers to chapter 19: `right` ones, written otherwise than the solution; `wrong` ones, with what must be said of them."""

import numpy as np


def put_aside(numbers, share):
    order = np.argsort(numbers)
    count = min(max(int((numbers < share).sum()), 1), len(numbers) - 1)
    return [int(i in order[:count]) for i in range(len(numbers))]


def by_count(numbers, share):
    count = max(1, round(share * len(numbers)))
    return np.isin(np.arange(len(numbers)), np.argsort(numbers)[:count])


def confusion(labels, predicted, classes):
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def once(labels, predicted, classes):
    counts = np.zeros((classes, classes))
    counts[labels, predicted] += 1
    return counts


def balanced(counts):
    return np.mean([row[i] / row.sum() for i, row in enumerate(counts) if row.any()])


def of_those_right(counts):
    accuracy = np.diag(counts) / np.maximum(counts.sum(1), 1)
    return accuracy[accuracy > 0].mean()


ANSWERS = {
    "19.1": {
        "right": [put_aside],
        "wrong": [
            (by_count, "a fixed number of them moves when pictures are added"),
            (lambda numbers, share: numbers < share, "aside"),
        ],
    },
    "19.2": {
        "right": [confusion, lambda a, b, k: np.eye(k)[a].T @ np.eye(k)[b]],
        "wrong": [
            (lambda a, b, k: confusion(b, a, k), "the row is the picture's own class"),
            (once, "counts a pair once, however often it comes"),
        ],
    },
    "19.3": {
        "right": [balanced],
        "wrong": [
            (lambda counts: np.trace(counts) / counts.sum(), "in which large classes count more"),
            (lambda counts: (np.diag(counts) / np.maximum(counts.sum(1), 1)).mean(), "leave it out"),
            (of_those_right, "yours"),
        ],
    },
}
