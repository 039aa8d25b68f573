"""What the drawn data sets show behind and beside their objects: background, clutter and grain, and colours that stand out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidat.data import draws
from minidat.data.outlines import Place

CELL = 8  # pixels a side of the cells that hold one piece of clutter each
GRAIN_WIDTH = 0.2  # of the uniform noise in each pixel, in RGB units of 0..1
CONTRAST = 0.4  # RGB units of 0..1: least distance between an object's colour and the background behind it

# One word for each independent stream of random numbers of an image.
LABEL, PLACE, BACKGROUND, TEXTURE, GRAIN, CLUTTER, COLOUR, COUNT = range(1, 9)


def background(keys: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A blend of four dark corner colours under a ripple: float32 (3, B, H, W), up to about 0.6."""
    u = draws.uniform(keys, BACKGROUND, 15)  # (B, 15)
    base = 0.1 + 0.3 * u[:, :3]  # (B, 3)
    corners = base.T[:, :, None] + (u[:, 3:].reshape(-1, 3, 4).transpose(1, 0, 2) - 0.5) * 0.3  # (3, B, 4)
    down, along = ((np.arange(n, dtype=np.float32) + 0.5) / n for n in size)
    top = corners[..., 0, None] + (corners[..., 1] - corners[..., 0])[..., None] * along  # (3, B, W)
    bottom = corners[..., 2, None] + (corners[..., 3] - corners[..., 2])[..., None] * along
    return top[:, :, None, :] + (bottom - top)[:, :, None, :] * down[:, None] + _ripple(keys, size)


def _ripple(keys: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Waves of random direction, length (6 to 16 pixels) and strength in each colour: (3, B, H, W)."""
    u = draws.uniform(keys, TEXTURE, 6)  # (B, 6)
    turn, rate = np.float32(2 * np.pi) * u[:, 0], 1 / (6 + 10 * u[:, 1])  # radians, waves a pixel
    rows, cols = (np.arange(n, dtype=np.float32) for n in size)
    down = (np.sin(turn) * rate)[:, None] * rows + u[:, 2, None]  # (B, H)
    right = (np.cos(turn) * rate)[:, None] * cols  # (B, W)
    phase = down[:, :, None] + right[:, None, :]  # (B, H, W)
    wave = np.abs(phase - np.floor(phase) - 0.5) * 4 - 1  # -1..1, a triangle wave
    return wave * (0.12 * (u[:, 3:] - 0.5)).T[:, :, None, None]


def _pieces(keys: np.ndarray, places: Sequence[Place], canvas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One dot, stroke or blob, or none, for each cell of a grid that is shifted at random.

    Each stays inside its cell, so that no two of them touch and form a shape, and outside the objects.
    Returns the shift, int64 (2, B) rows and columns by which the grid starts outside the image, and the
    pieces, float32 (B, cells down, cells across, 8): row and column of the middle, half the spine as rows and columns,
    half the width (all in pixels), red, green, blue.
    """
    down, across = (n // CELL + 1 for n in canvas.shape[2:])  # cells: one more than fit, for the shift
    u = draws.uniform(keys, CLUTTER, 2 + 10 * down * across)
    shift = (u[:, :2].T * CELL).astype(np.int64)
    u = u[:, 2:].reshape(-1, 10, down, across).transpose(1, 0, 2, 3)  # (10, B, cells, cells)

    dot, stroke = u[0] < 1 / 3, u[0] > 2 / 3  # the rest are blobs
    half = np.where(dot, 0, np.where(stroke, 1.2 + 0.8 * u[1], 0.8 * u[1]))  # half the length of the spine
    thin, broad = np.where(stroke, 0.5, 0.7), np.where(stroke, 0.7, 1.2)
    thick = np.where(dot | stroke, thin + (broad - thin) * u[2], 1.2 + 0.5 * u[2])  # half the width
    turn = np.float32(np.pi) * u[3]

    room = CELL - 2 * (half + thick)
    top, left = (np.arange(n) * CELL - start[:, None] for n, start in zip((down, across), shift, strict=True))
    row = top[:, :, None] + half + thick + room * u[4]  # (B, cells, cells)
    col = left[:, None, :] + half + thick + room * u[5]
    shown = u[6] < 0.7
    for place in places:
        away = (row - place.row[:, None, None]) ** 2 + (col - place.col[:, None, None]) ** 2
        shown &= away > (place.radius[:, None, None] + 1) ** 2
    thick = np.where(shown, thick, -1)  # a negative width draws nothing

    colours = contrasting(bright(u[7:10]), sample(canvas, row, col))
    pieces = row, col, half * np.sin(turn), half * np.cos(turn), thick, *colours
    return shift, np.stack(pieces, -1).astype(np.float32)


def clutter(keys: np.ndarray, places: Sequence[Place], canvas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much of each pixel the clutter covers, float32 (B, H, W), and in which colours, (3, B, H, W).

    places: the objects that clutter keeps away from, one of each image in each; a radius of −1 is none. canvas: the
    background, (3, B, H, W).
    """
    shift, pieces = _pieces(keys, places, canvas)
    batch, high, wide = pieces.shape[:3]
    grids = [np.arange(n) for n in canvas.shape[2:]]
    # (B, H), (B, W): the cell of each row, of each column
    down, right = ((grid + start[:, None]) // CELL for grid, start in zip(grids, shift, strict=True))
    cell = (np.arange(batch)[:, None, None] * high + down[:, :, None]) * wide + right[:, None, :]  # (B, H, W)
    row, col, dy, dx, thick, *colours = np.moveaxis(pieces.reshape(-1, 8).take(cell, 0), -1, 0)

    rows, cols = (grid.astype(np.float32) + 0.5 for grid in grids)
    y, x = rows[:, None] - row, cols - col  # (B, H, W) from the middle of the piece
    along = np.clip((y * dy + x * dx) / np.maximum(dy * dy + dx * dx, 1e-6), -1, 1)  # -1..1 on the spine
    distance = np.sqrt((y - along * dy) ** 2 + (x - along * dx) ** 2) - thick
    return np.clip(0.5 - distance, 0, 1), np.stack(colours)


def sample(canvas: np.ndarray, row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """Colours (3, B, ...) of a canvas (3, B, H, W) at points (B, ...) in pixels, clipped to the image."""
    high, wide = canvas.shape[2:]
    row, col = (np.clip(np.floor(p).astype(np.int64), 0, n - 1) for p, n in ((row, high), (col, wide)))
    image = np.arange(canvas.shape[1]).reshape(-1, *[1] * (row.ndim - 1))
    return canvas[:, image, row, col]


def bright(u: np.ndarray) -> np.ndarray:
    """Colours, brighter than most of the background: uniform numbers of 0..1 to RGB of 0.4..1."""
    return 0.4 + 0.6 * u


def contrasting(colours: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """Bright colours (3, ...), moved towards white until CONTRAST away from the dark ones behind at least."""
    for _ in range(4):  # at the end at most 0.18 of the way to white is left, and white is 0.7 away or more
        near = ((colours - behind) ** 2).sum(0) < CONTRAST**2
        colours = np.where(near, colours + 0.35 * (1 - colours), colours)
    return colours


def grain(keys: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Uniform noise, independent in every pixel and colour: float32 (3, B, H, W)."""
    bits = draws.bits(keys, GRAIN, size[0] * size[1]).reshape(-1, *size)
    words = [(bits >> np.uint64(shift)).astype(np.uint16) for shift in (0, 16, 32)]
    return (np.stack(words).astype(np.float32) * np.float32(2**-16) - 0.5) * GRAIN_WIDTH


def pixels(canvas: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """A canvas (3, B, H, W) of 0..1, which is written to, under its grain: uint8 (B, H, W, 3)."""
    canvas += grain(keys, (canvas.shape[2], canvas.shape[3]))
    np.clip(canvas * 255 + 0.5, 0, 255, out=canvas)
    return np.ascontiguousarray(canvas.astype(np.uint8).transpose(1, 2, 3, 0))
