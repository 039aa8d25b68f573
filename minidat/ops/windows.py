"""Windows of a map as batches of tokens, and back: a permutation, so each one's vjp is the other."""

from __future__ import annotations

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op


def check_divisible(h: int, w: int, window: int) -> None:
    """Raises ValueError when windows do not tile the map."""
    if window < 1:
        raise ValueError(f"window attention: window is {window}; it must be at least 1")
    if h % window or w % window:
        raise ValueError(f"window attention: a map of {h}×{w} cannot be cut into windows of {window}×{window}")


def _partition(x, window: int, shift: int):
    """(B, H, W, C) → (B, windows, window², C), after rolling the map by −shift along both axes."""
    b, h, w, c = x.shape
    if shift:
        x = array_module(x).roll(x, (-shift, -shift), (1, 2))
    x = x.reshape(b, h // window, window, w // window, window, c).swapaxes(2, 3)
    return x.reshape(b, (h // window) * (w // window), window * window, c)


def _merge(t, height: int, width: int, window: int, shift: int):
    """The inverse of `_partition`."""
    b, c = t.shape[0], t.shape[-1]
    x = t.reshape(b, height // window, width // window, window, window, c).swapaxes(2, 3)
    x = x.reshape(b, height, width, c)
    return array_module(x).roll(x, (shift, shift), (1, 2)) if shift else x


@op("b h w c -> b n t c")
def window_partition(x, *, window: int, shift: int = 0):
    """Cut a map, rolled by −shift, into n = (H/window)·(W/window) windows of t = window² tokens, row by row.

    Raises ValueError when window does not divide H and W.
    """
    h, w = x.shape[1:3]
    check_divisible(h, w, window)
    return _partition(x, window, shift), lambda dy: (_merge(dy, h, w, window, shift),)


@op("b n t c -> b h w c")
def window_merge(t, *, height: int, width: int, window: int, shift: int = 0):
    """Put windows back into a map (B, height, width, C) and roll it by +shift.

    Raises ValueError when window does not divide height and width, and for another number of windows or of their tokens.
    """
    check_divisible(height, width, window)
    n, tokens = (height // window) * (width // window), window * window
    if t.shape[1:3] != (n, tokens):
        raise ValueError(
            f"window_merge: a map of {height}×{width} has {n} windows of {tokens} tokens, input 0 has {t.shape[1:3]}"
        )
    return _merge(t, height, width, window, shift), lambda dy: (_partition(dy, window, shift),)
