"""Exercises of chapter 19: your own pictures."""

import numpy as np

from minidat.tutorial.contracts import Value
from minidat.tutorial.report import Exercise


def put_aside(numbers, share):
    aside = numbers < share
    aside[numbers.argmin()] = True
    aside[numbers.argmax()] = False
    return aside


def a_class(rng):
    """A class with all numbers below the share, one with none, and one with some: the first seeds have one of each."""
    first = rng.random()
    low, high = (0.0, 0.19) if first > 0.6 else (0.5, 1.0) if first > 0.4 else (0.0, 1.0)
    return rng.permutation(low + (high - low) * (np.arange(7) + 0.5) / 7), 0.2


def rounded(numbers, share):
    aside = np.zeros(len(numbers), bool)
    aside[np.argsort(numbers)[: max(1, round(share * len(numbers)))]] = True
    return aside


def confusion(labels, predicted, classes):
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def overwritten(labels, predicted, classes):
    counts = np.zeros((classes, classes), int)
    counts[labels, predicted] += 1
    return counts


def answers(rng):
    labels = rng.integers(0, 4, 60)
    return labels, np.where(rng.random(60) < 0.5, labels, rng.integers(0, 4, 60)), 4


def balanced(counts):
    there = counts.sum(1) > 0
    return (np.diag(counts)[there] / counts.sum(1)[there]).mean()


def a_matrix(rng):
    counts = rng.integers(1, 9, (4, 4)) * rng.integers(1, 40, (4, 1))
    counts[2] = 0  # a class without a test picture
    counts[3, 3] = 0  # and one of which nothing is right
    return (counts,)


EXERCISES = {
    "19.1": Exercise(
        Value(
            lambda numbers, share: put_aside(numbers, share).astype(float),
            a_class,
            names=("aside",),
            mistakes={
                "in a class where no number is below the share, one is put aside all the same": lambda n, s: (
                    (n < s) & (n != n.max())
                ).astype(float),
                "not all of a class: the picture with the highest number stays": lambda n, s: (
                    (n < s) | (n == n.min())
                ).astype(float),
                "a fixed number of them moves when pictures are added; ask each number alone": lambda n, s: rounded(
                    n, s
                ).astype(float),
            },
        ),
        [
            "Begin with `numbers < share`.",
            "The lowest number can always be set to True: if any is below the share, it is.",
            "The highest can always be set to False: it is below the share only if all are.",
        ],
    ),
    "19.2": Exercise(
        Value(
            confusion,
            answers,
            names=("counts",),
            mistakes={
                "the row is the picture's own class, the column what it was taken for": lambda a, b, k: confusion(
                    b, a, k
                ),
                "`counts[labels, predicted] += 1` counts a pair once, however often it comes; see `np.add.at`": overwritten,
                "counts, not shares of a row": lambda a, b, k: (
                    confusion(a, b, k) / np.maximum(confusion(a, b, k).sum(1, keepdims=True), 1)
                ),
            },
        ),
        [
            "A (K, K) array of zeros, and a one is added for each picture.",
            "Two index arrays choose the squares: rows by `labels`, columns by `predicted`.",
            "Pairs come more than once: `np.add.at(counts, (labels, predicted), 1)`.",
        ],
    ),
    "19.3": Exercise(
        Value(
            balanced,
            a_matrix,
            names=("balanced",),
            mistakes={
                "that is the accuracy, in which large classes count more": lambda c: np.trace(c) / c.sum(),
                "a class without a picture has no accuracy: leave it out": lambda c: (
                    np.diag(c) / np.maximum(c.sum(1), 1)
                ).mean(),
                "divide by the row, which has the pictures of a class; the column has those taken for it": lambda c: (
                    np.diag(c)[c.sum(1) > 0] / np.maximum(c.sum(0), 1)[c.sum(1) > 0]
                ).mean(),
            },
        ),
        [
            "The accuracy of one class is its number on the diagonal, divided by the sum of its row.",
            "Then the mean over the classes that have pictures.",
        ],
    ),
}
