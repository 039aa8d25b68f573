"""`shapes`: a data set drawn on the fly, one object among clutter, so that training needs no files.

Colour, place and background say nothing about the class: a linear model stays below twice chance, and a model
that finds the object first has the easier task. The boxes and masks of the objects are known, so that what a
model attends to can be compared with where the object is.
"""

from __future__ import annotations

import operator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

CLASSES = ("disc", "ring", "square", "frame", "triangle", "plus", "ex", "star", "crescent", "bar")
SIZES = {"train": 20_000, "test": 2_000}
MEAN = (0.305, 0.305, 0.305)
STD = (0.183, 0.183, 0.183)

IMAGE = 32  # pixels a side
CELL = 8  # pixels a side of the cells that hold one piece of clutter each
RADII = (5.2, 7.0)  # pixels: half of what an object measures across
REACH = 1.12  # no outline goes further than this many radii from its centre
GRAIN_WIDTH = 0.2  # of the uniform noise in each pixel, in RGB units of 0..1
CONTRAST = 0.4  # RGB units of 0..1: least distance between an object's colour and the background behind it
UPRIGHT = ("plus", "ex")  # turned by 45 degrees they become each other, so they lean by 15 at most

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
# One word for each independent stream of random numbers of an image.
LABEL, PLACE, BACKGROUND, TEXTURE, GRAIN, CLUTTER, COLOUR = range(1, 8)


class Shapes:
    """Images of one shape each, 32×32×3 uint8, in ten balanced classes.

    An image depends on (seed, split, index) alone, not on the batch it is drawn in.

    split: "train" or "test"; `data.load` holds out validation images of "train". size: number of images; None is 20,000 for
    train and 2,000 for test. Raises
    ValueError for another split or a size below 1.
    """

    name: str = "shapes"
    classes: tuple[str, ...] = CLASSES
    image_size: int = IMAGE
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD

    def __init__(self, split: str, *, seed: int = 0, size: int | None = None):
        if split not in SIZES:
            raise ValueError(f"shapes: split is {split!r}, expected one of {', '.join(SIZES)}")
        self.split = split
        self.seed = operator.index(seed)
        self.size = SIZES[split] if size is None else operator.index(size)
        if self.size < 1:
            raise ValueError(f"shapes: size is {size}, expected at least 1 image")

    def __len__(self) -> int:
        return self.size

    def batch(self, indices: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Draw images.

        indices: (B,) integers in 0..len-1. Returns images uint8 (B, 32, 32, 3) and labels int64 (B,). Raises
        IndexError for an index outside the data set.
        """
        keys, labels = self._keys(indices)
        place = _place(keys, labels)
        return _paint(keys, place, _cover(labels, place)), labels

    def objects(self, indices: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Where the objects are.

        indices: (B,) integers in 0..len-1. Returns boxes float32 (B, 4), each (row0, col0, row1, col1) in
        pixels, and masks bool (B, 32, 32), true where the object covers at least half of a pixel. A box is
        the tight, half-open range of its mask's rows and columns: mask[row0:row1, col0:col1] holds the whole
        object. Raises IndexError for an index outside the data set.
        """
        keys, labels = self._keys(indices)
        masks = _cover(labels, _place(keys, labels)) >= 0.5  # (B, H, W)
        rows, cols = np.any(masks, 2), np.any(masks, 1)  # (B, H), (B, W)
        first = rows.argmax(1), cols.argmax(1)
        end = IMAGE - rows[:, ::-1].argmax(1), IMAGE - cols[:, ::-1].argmax(1)
        return np.stack(first + end, 1).astype(np.float32), masks

    def _keys(self, indices: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Each image's random key, uint64 (B,), and its label, int64 (B,)."""
        indices = np.asarray(indices)
        shape, kind = indices.shape, indices.dtype
        if indices.ndim != 1 or (indices.size and kind.kind not in "iu"):
            raise IndexError(f"shapes: indices have shape {shape} and type {kind}, expected (B,) integers")
        if indices.size and (indices.min() < 0 or indices.max() >= self.size):
            span = f"{indices.min()}..{indices.max()}"
            raise IndexError(f"shapes: indices run {span}, expected within 0..{self.size - 1}")
        indices = indices.astype(np.uint64)
        seed = np.array([self.seed & (2**64 - 1)], np.uint64)
        root = _mix(_mix(seed) + np.uint64(list(SIZES).index(self.split)))  # (1,)
        # Every ten consecutive images show the ten classes, in a random order.
        tens, unit = np.divmod(indices, np.uint64(len(CLASSES)))
        order = _uniform(_mix(root + GOLDEN * tens), LABEL, len(CLASSES)).argsort(1, kind="stable")  # (B, 10)
        labels = order[np.arange(len(indices)), unit.astype(np.int64)]
        return _mix(~root + GOLDEN * indices), labels.astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """The splitmix64 finaliser: a bijection of uint64 that turns a counter into random bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _bits(keys: np.ndarray, stream: int, count: int) -> np.ndarray:
    """Random bits, uint64 (B, count), a function of each key, the stream and the position alone."""
    counters = (np.arange(count, dtype=np.uint64) + np.uint64(stream << 32)) * GOLDEN
    return _mix(keys[:, None] + counters)


def _uniform(keys: np.ndarray, stream: int, count: int) -> np.ndarray:
    """Uniform numbers in [0, 1), float32 (B, count)."""
    return (_bits(keys, stream, count) >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


class _Place(NamedTuple):
    """Where the objects are, each float32 (B,): pixels from the top left corner of the image, radians."""

    row: np.ndarray
    col: np.ndarray
    radius: np.ndarray
    turn: np.ndarray


def _place(keys: np.ndarray, labels: np.ndarray) -> _Place:
    u = _uniform(keys, PLACE, 4)  # (B, 4)
    radius = RADII[0] + (RADII[1] - RADII[0]) * u[:, 0]
    start = REACH * radius + 0.5  # closer to the border an object might be cut off
    room = IMAGE - 2 * start
    upright = np.isin(labels, [CLASSES.index(name) for name in UPRIGHT])
    turn = np.where(upright, (u[:, 3] - 0.5) * np.float32(np.pi / 6), u[:, 3] * np.float32(2 * np.pi))
    return _Place(start + room * u[:, 1], start + room * u[:, 2], radius, turn)


def _disc(x, y, r):
    return np.sqrt(x * x + y * y) - r


def _ring(x, y, r):
    return np.abs(np.sqrt(x * x + y * y) - 0.82 * r) - 0.18 * r


def _square(x, y, r):
    return np.maximum(np.abs(x), np.abs(y)) - 0.78 * r


def _frame(x, y, r):
    return np.abs(np.maximum(np.abs(x), np.abs(y)) - 0.63 * r) - 0.16 * r


def _triangle(x, y, r):
    # Three half-planes at 120 degrees; corners at twice the distance of the sides.
    return np.maximum(0.8660254 * np.abs(x) + 0.5 * y, -y) - 0.56 * r


def _plus(x, y, r):
    x, y = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(x - r, y - 0.26 * r), np.maximum(x - 0.26 * r, y - r))


def _ex(x, y, r):
    return _plus(0.70710678 * (x + y), 0.70710678 * (x - y), 1.08 * r)


def _star(x, y, r):
    # A pentagram is where at most one of five half-planes is left: the second largest distance is negative.
    first = second = np.float32(-np.inf)
    for k in range(5):
        angle = 2 * np.pi * k / 5
        d = float(np.cos(angle)) * x + float(np.sin(angle)) * y
        first, second = np.maximum(first, d), np.maximum(second, np.minimum(first, d))
    return second - 0.345 * r  # tips at 0.345 / cos 72° = 1.116 radii


def _crescent(x, y, r):
    return np.maximum(np.sqrt(x * x + y * y) - r, 0.8 * r - np.sqrt((x - 0.5 * r) ** 2 + y * y))


def _bar(x, y, r):
    return np.maximum(np.abs(x) - 1.05 * r, np.abs(y) - 0.3 * r)


# Signed distance to the outline, in pixels, negative inside; in the order of CLASSES.
_OUTLINES = (_disc, _ring, _square, _frame, _triangle, _plus, _ex, _star, _crescent, _bar)


def _cover(labels: np.ndarray, place: _Place) -> np.ndarray:
    """How much of each pixel the object covers, float32 (B, H, W) in 0..1."""
    centres = np.arange(IMAGE, dtype=np.float32) + 0.5  # pixel centres, from the top left corner
    y = (centres - place.row[:, None])[:, :, None]  # (B, H, 1)
    x = (centres - place.col[:, None])[:, None, :]  # (B, 1, W)
    cos, sin = (f(place.turn)[:, None, None] for f in (np.cos, np.sin))
    x, y = cos * x + sin * y, cos * y - sin * x  # (B, H, W) in the object's own axes
    distance = np.empty_like(x)
    for label, outline in enumerate(_OUTLINES):
        (mine,) = np.nonzero(labels == label)
        if mine.size:
            distance[mine] = outline(x[mine], y[mine], place.radius[mine, None, None])
    return np.clip(0.5 - distance, 0, 1)


def _paint(keys: np.ndarray, place: _Place, cover: np.ndarray) -> np.ndarray:
    """Background, clutter, object and grain, in this order: uint8 (B, H, W, 3)."""
    canvas = _background(keys)  # (3, B, H, W): planes first, so that a cover broadcasts over whole planes
    behind = _sample(canvas, place.row, place.col)  # (3, B)
    colour = _contrasting(_bright(_uniform(keys, COLOUR, 3).T), behind)  # (3, B)
    clutter, colours = _clutter(keys, place, canvas)  # (B, H, W), (3, B, H, W)
    canvas += clutter * (colours - canvas)
    canvas += cover * (colour[:, :, None, None] - canvas)
    canvas += _grain(keys)
    np.clip(canvas * 255 + 0.5, 0, 255, out=canvas)
    return np.ascontiguousarray(canvas.astype(np.uint8).transpose(1, 2, 3, 0))


def _background(keys: np.ndarray) -> np.ndarray:
    """A blend of four dark corner colours under a ripple: float32 (3, B, H, W), up to about 0.6."""
    u = _uniform(keys, BACKGROUND, 15)  # (B, 15)
    base = 0.1 + 0.3 * u[:, :3]  # (B, 3)
    corners = base.T[:, :, None] + (u[:, 3:].reshape(-1, 3, 4).transpose(1, 0, 2) - 0.5) * 0.3  # (3, B, 4)
    along = (np.arange(IMAGE, dtype=np.float32) + 0.5) / IMAGE
    top = corners[..., 0, None] + (corners[..., 1] - corners[..., 0])[..., None] * along  # (3, B, W)
    bottom = corners[..., 2, None] + (corners[..., 3] - corners[..., 2])[..., None] * along
    return top[:, :, None, :] + (bottom - top)[:, :, None, :] * along[:, None] + _ripple(keys)


def _ripple(keys: np.ndarray) -> np.ndarray:
    """Waves of random direction, length (6 to 16 pixels) and strength in each colour: (3, B, H, W)."""
    u = _uniform(keys, TEXTURE, 6)  # (B, 6)
    turn, rate = np.float32(2 * np.pi) * u[:, 0], 1 / (6 + 10 * u[:, 1])  # radians, waves a pixel
    grid = np.arange(IMAGE, dtype=np.float32)
    down = (np.sin(turn) * rate)[:, None] * grid + u[:, 2, None]  # (B, H)
    right = (np.cos(turn) * rate)[:, None] * grid  # (B, W)
    phase = down[:, :, None] + right[:, None, :]  # (B, H, W)
    wave = np.abs(phase - np.floor(phase) - 0.5) * 4 - 1  # -1..1, a triangle wave
    return wave * (0.12 * (u[:, 3:] - 0.5)).T[:, :, None, None]


def _pieces(keys: np.ndarray, place: _Place, canvas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One dot, stroke or blob, or none, for each cell of a grid that is shifted at random.

    Each stays inside its cell, so that no two of them touch and form a shape, and outside the object.
    Returns the shift, int64 (2, B) rows and columns by which the grid starts outside the image, and the
    pieces, float32 (B, cells, cells, 8): row and column of the middle, half the spine as rows and columns,
    half the width (all in pixels), red, green, blue.
    """
    side = IMAGE // CELL + 1  # cells a side: one more than fit, for the shift
    u = _uniform(keys, CLUTTER, 2 + 10 * side * side)
    shift = (u[:, :2].T * CELL).astype(np.int64)
    u = u[:, 2:].reshape(-1, 10, side, side).transpose(1, 0, 2, 3)  # (10, B, cells, cells)

    dot, stroke = u[0] < 1 / 3, u[0] > 2 / 3  # the rest are blobs
    half = np.where(dot, 0, np.where(stroke, 1.2 + 0.8 * u[1], 0.8 * u[1]))  # half the length of the spine
    thin, broad = np.where(stroke, 0.5, 0.7), np.where(stroke, 0.7, 1.2)
    thick = np.where(dot | stroke, thin + (broad - thin) * u[2], 1.2 + 0.5 * u[2])  # half the width
    turn = np.float32(np.pi) * u[3]

    room = CELL - 2 * (half + thick)
    start = np.arange(side) * CELL - shift[:, :, None]  # (2, B, cells) where the cells begin
    row = start[0, :, :, None] + half + thick + room * u[4]  # (B, cells, cells)
    col = start[1, :, None, :] + half + thick + room * u[5]
    away = (row - place.row[:, None, None]) ** 2 + (col - place.col[:, None, None]) ** 2
    shown = (u[6] < 0.7) & (away > (place.radius[:, None, None] + 1) ** 2)
    thick = np.where(shown, thick, -1)  # a negative width draws nothing

    colours = _contrasting(_bright(u[7:10]), _sample(canvas, row, col))
    pieces = row, col, half * np.sin(turn), half * np.cos(turn), thick, *colours
    return shift, np.stack(pieces, -1).astype(np.float32)


def _clutter(keys: np.ndarray, place: _Place, canvas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much of each pixel the clutter covers, float32 (B, H, W), and in which colours, (3, B, H, W)."""
    shift, pieces = _pieces(keys, place, canvas)
    batch, side = pieces.shape[:2]
    grid = np.arange(IMAGE)
    down, right = (grid + shift[:, :, None]) // CELL  # (B, H), (B, W): the cell of each row, of each column
    cell = (np.arange(batch)[:, None, None] * side + down[:, :, None]) * side + right[:, None, :]  # (B, H, W)
    row, col, dy, dx, thick, *colours = np.moveaxis(pieces.reshape(-1, 8).take(cell, 0), -1, 0)

    centres = grid.astype(np.float32) + 0.5
    y, x = centres[:, None] - row, centres - col  # (B, H, W) from the middle of the piece
    along = np.clip((y * dy + x * dx) / np.maximum(dy * dy + dx * dx, 1e-6), -1, 1)  # -1..1 on the spine
    distance = np.sqrt((y - along * dy) ** 2 + (x - along * dx) ** 2) - thick
    return np.clip(0.5 - distance, 0, 1), np.stack(colours)


def _sample(canvas: np.ndarray, row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """Colours (3, B, ...) of a canvas (3, B, H, W) at points (B, ...) in pixels, clipped to the image."""
    row, col = (np.clip(np.floor(p).astype(np.int64), 0, IMAGE - 1) for p in (row, col))
    image = np.arange(canvas.shape[1]).reshape(-1, *[1] * (row.ndim - 1))
    return canvas[:, image, row, col]


def _bright(u: np.ndarray) -> np.ndarray:
    """Colours, brighter than most of the background: uniform numbers of 0..1 to RGB of 0.4..1."""
    return 0.4 + 0.6 * u


def _contrasting(colours: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """Bright colours (3, ...), moved towards white until CONTRAST away from the dark ones behind at least."""
    for _ in range(4):  # at the end at most 0.18 of the way to white is left, and white is 0.7 away or more
        near = ((colours - behind) ** 2).sum(0) < CONTRAST**2
        colours = np.where(near, colours + 0.35 * (1 - colours), colours)
    return colours


def _grain(keys: np.ndarray) -> np.ndarray:
    """Uniform noise, independent in every pixel and colour: float32 (3, B, H, W)."""
    bits = _bits(keys, GRAIN, IMAGE * IMAGE).reshape(-1, IMAGE, IMAGE)
    words = [(bits >> np.uint64(shift)).astype(np.uint16) for shift in (0, 16, 32)]
    return (np.stack(words).astype(np.float32) * np.float32(2**-16) - 0.5) * GRAIN_WIDTH
