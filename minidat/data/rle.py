"""Masks as COCO stores them: run lengths of the pixels read column by column, and these numbers as a short string.

Source: cocoapi, `maskApi.c`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FIRST = 48  # the character of a group of five zero bits
MORE = 32  # the bit that says that another group follows
BITS = 5  # of a number in one character
LONGEST = 13  # characters of a number: 65 bits


@dataclass(frozen=True, eq=False)
class Rle:
    """A mask of `size` (H, W). counts: int64 (R,), how many pixels in a row are alike, the first run being zeros (it may be
    empty), then ones, and so on in turn; pixels run down the first column, then down the second.

    Raises ValueError for a negative count, and for counts that do not sum to H·W.
    """

    size: tuple[int, int]
    counts: np.ndarray

    def __post_init__(self) -> None:
        height, width = self.size
        if len(self.counts) and self.counts.min() < 0:
            raise ValueError(f"a run length is {self.counts.min()}, expected 0 or more")
        if self.counts.sum() != height * width:
            raise ValueError(f"run lengths sum to {self.counts.sum()}, expected {height}·{width} = {height * width}")

    @classmethod
    def of(cls, mask: np.ndarray) -> Rle:
        """The mask bool (H, W), as run lengths none of which but the first is 0."""
        pixels = np.asarray(mask, bool).ravel(order="F")  # (H W,)
        return cls.between(np.flatnonzero(np.diff(pixels, prepend=False)), mask.shape)

    @classmethod
    def between(cls, changes: np.ndarray, size: tuple[int, ...]) -> Rle:
        """changes: the places in 0 … H·W − 1 at which zeros turn to ones or back, ascending; pixels begin as zeros."""
        height, width = size
        return cls((height, width), np.diff(changes, prepend=0, append=height * width))

    @classmethod
    def parse(cls, text: str, size: tuple[int, int]) -> Rle:
        """From COCO's string: five bits a character, the lowest first, the sixth bit says that the number goes on, 48 is added.
        From the fourth on, a number is the difference to the one two before. Raises ValueError for other strings."""
        counts: list[int] = []
        value = shift = 0
        for character in text:
            group = ord(character) - FIRST
            if not 0 <= group < 2 * MORE or shift >= BITS * LONGEST:
                raise ValueError(f"an RLE string has {character!r} at a place where COCO's has none")
            value |= (group % MORE) << shift
            shift += BITS
            if group < MORE:
                value -= (group >> (BITS - 1)) << shift  # the last group's highest bit is the sign
                counts.append(value + counts[-2] if len(counts) > 2 else value)
                value = shift = 0
        if shift:
            raise ValueError("an RLE string ends in the middle of a number")
        if any(not 0 <= count <= size[0] * size[1] for count in counts):
            raise ValueError(f"an RLE string has a run longer than the mask's {size[0]}·{size[1]} pixels, or below 0")
        return cls(size, np.array(counts, np.int64))

    def __str__(self) -> str:
        """COCO's string, as `parse` reads it."""
        text = []
        counts = self.counts.tolist()
        for i, count in enumerate(counts):
            value = count - counts[i - 2] if i > 2 else count
            while True:
                group, value = value & (MORE - 1), value >> BITS
                done = value == (-1 if group & (MORE >> 1) else 0)
                text.append(chr(FIRST + group + (0 if done else MORE)))
                if done:
                    break
        return "".join(text)

    @property
    def mask(self) -> np.ndarray:
        """bool (H, W)"""
        ones = np.arange(len(self.counts)) % 2 == 1
        return np.repeat(ones, self.counts).reshape(self.size[::-1]).T

    @property
    def area(self) -> int:
        """The number of ones."""
        return int(self.counts[1::2].sum())


def common(a: Rle, others: Sequence[Rle]) -> np.ndarray:
    """|a ∩ b| for each mask b of `others`, all of a's size: pixels, int64 (N,).

    ones(x), the number of a's ones among its first x pixels, is linear within a run; a run of b's ones from s to e then has
    ones(e) − ones(s) pixels in common with a. Raises ValueError for masks of different sizes.
    """
    for b in others:
        if b.size != a.size:
            raise ValueError(f"masks of {b.size[0]}×{b.size[1]} and {a.size[0]}×{a.size[1]} pixels have no overlap")
    starts = np.concatenate([[0], np.cumsum(a.counts)])  # (R + 1,) of a's runs, and the end
    slope = np.append(np.arange(len(a.counts)) % 2, 0)  # (R + 1,)
    before = np.concatenate([[0], np.cumsum(a.counts * slope[:-1])])  # (R + 1,) ones before each run

    def ones(x: np.ndarray) -> np.ndarray:
        run = np.searchsorted(starts, x, side="right") - 1
        return before[run] + slope[run] * (x - starts[run])

    found = []
    for b in others:
        edges = np.cumsum(b.counts)  # (R',) the end of each run
        found.append(ones(edges[1::2]).sum() - ones(edges[: len(edges) - 1 : 2]).sum())
    return np.array(found, np.int64)
