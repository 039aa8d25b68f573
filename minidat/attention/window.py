"""Window attention and shifted-window attention, as in Swin: a token attends to the tokens of its window."""

from __future__ import annotations

import numpy as np

from minidat import nn, ops
from minidat.attention.entry import entered
from minidat.autograd import Tensor
from minidat.autograd.backend import like
from minidat.ops.checks import check_whole
from minidat.ops.heads import check_heads
from minidat.ops.windows import check_divisible, window_partition


def relative_index(window: int) -> np.ndarray:
    """(w², w²) → the row of the bias table for (query, key): (Δrow + w−1)(2w−1) + Δcol + w−1, Δ = query − key."""
    rows, cols = np.divmod(np.arange(window * window), window)
    return (rows[:, None] - rows + window - 1) * (2 * window - 1) + cols[:, None] - cols + window - 1


def shift_mask(height: int, width: int, window: int, shift: int) -> np.ndarray:
    """(windows, 1, w², w²): −100 for two tokens of one window that were no neighbours before the roll, else 0.

    As released: the slices [0:−w], [−w:−shift], [−shift:] of both axes make nine regions, and tokens of one region may
    attend to each other.
    """
    slices = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    region = np.zeros((1, height, width, 1))
    for i, rows in enumerate(slices):
        for j, cols in enumerate(slices):
            region[:, rows, cols] = 3 * i + j
    tokens = window_partition.raw(region, window=window)[0][0, :, :, 0]  # (windows, w²)
    return np.where(tokens[:, :, None] == tokens[:, None, :], 0.0, -100.0)[:, None]


class WindowAttention(nn.Module):
    """z⁽ᵐ⁾ = softmax(q⁽ᵐ⁾ k⁽ᵐ⁾ᵀ/√d + B⁽ᵐ⁾) v⁽ᵐ⁾ within each window of w×w tokens                       DAT eq. (1)–(3), Swin

    | symbol | attribute |
    |---|---|
    | W_q, W_k, W_v | `qkv`, side by side |
    | W_o | `out` |
    | B, by relative position | `table` ((2w−1)², M), read at `index` (w², w²) |
    | shift | `shift`; the map is rolled by −shift before and +shift after |

    `size`: (H, W) of the map that the mask is stored for; the mask of another map is computed in each call. `pad`: a map
    that windows do not tile is zero-padded at the bottom and on the right before W_q, W_k, W_v, and cropped at the end, as in the
    released code for detection and segmentation. The padding takes part: the biases of W_k and W_v are its key and value.
    Differences from the released code: other maps are possible. The released shift is ⌈w/2⌉ (Swin's is ⌊w/2⌋); here the
    caller chooses. Released shifted windows for detection and segmentation raise in `torch.roll`; these do not. Raises
    ValueError when heads do not divide dim, for a shift that is not in 0 … w, and, without `pad`, when windows do not tile the
    map, TypeError for an input that is no floating array.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        window: int,
        size: tuple[int, int],
        rng: np.random.Generator,
        shift: int = 0,
        pad: bool = False,
    ):
        check_heads("WindowAttention", dim, heads)
        check_whole("WindowAttention", window=window, height=size[0], width=size[1])
        check_whole("WindowAttention", 0, shift=shift)
        if shift > window:
            raise ValueError(f"WindowAttention: shift is {shift}; it must be at most the window, {window}")
        self.heads, self.window, self.shift, self.pad = heads, window, shift, pad
        self.check_size(size)
        self.size = self.padded_size(size)
        self.table = nn.table(rng, ((2 * window - 1) ** 2, heads))
        self.qkv = nn.Linear(dim, 3 * dim, rng=rng)
        self.out = nn.Linear(dim, dim, rng=rng)
        self.index = Tensor(relative_index(window))
        self.mask = self._mask(self.size) if shift else None

    def _mask(self, size: tuple[int, int]) -> Tensor:
        return Tensor(shift_mask(*size, self.window, self.shift).astype(np.float32))

    def mask_of(self, x: Tensor) -> Tensor | None:
        """The mask for the map x (B, H, W, C), on its device; None without a shift."""
        _, h, w, _ = x.shape
        if not self.shift or (h, w) == self.size:
            return self.mask
        mask = self._mask((h, w))
        mask.data = like(mask.data, x.data)
        return mask

    def bias(self) -> Tensor:
        """B (M, w², w²): the table, read at the relative position of every query and key."""
        return ops.take(self.table, indices=self.index.data, axis=0).transpose(2, 0, 1)

    def __call__(self, x: Tensor, record: dict | None = None) -> Tensor:
        """x (B, H, W, C), without `pad` of a size that windows tile → the same shape."""
        x = entered("WindowAttention", x, "B H W C", self.out.weight.shape[0])
        _, rows, cols, _ = x.shape
        h, w = self.padded_size((rows, cols))
        if (h, w) != (rows, cols):
            x = ops.pad(x, widths=((0, 0), (0, h - rows), (0, w - cols), (0, 0)))
        tokens = ops.window_partition(x, window=self.window, shift=self.shift)  # (B, windows, w², C)
        z = ops.self_attention(self.qkv(tokens), self.bias(), self.mask_of(x), heads=self.heads)
        y = ops.window_merge(self.out(z), height=h, width=w, window=self.window, shift=self.shift)
        return y if (h, w) == (rows, cols) else y[:, :rows, :cols]

    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of the map that windows are cut from, for a map of `size`."""
        if not self.pad:
            return size
        h, w = (-(-n // self.window) * self.window for n in size)
        return h, w

    def check_size(self, size: tuple[int, int]) -> None:
        """Raises ValueError for a map (H, W) that windows do not tile and that is not to be padded."""
        check_divisible(*self.padded_size(size), self.window)
