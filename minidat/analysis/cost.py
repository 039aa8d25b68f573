"""Parameters and multiply-adds of a model, from its shapes alone: nothing is run.

A layer that meets its weight once at each of n positions does n · (number of its weights) multiply-adds, be
it linear, a convolution or a depthwise convolution; the attention products are the only other large term. All
counts are for one image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from math import prod
from typing import Any, NamedTuple

from minidat import nn
from minidat.attention import DeformableAttention, MultiHeadSelfAttention, WindowAttention
from minidat.models.pyramid import Block, PatchMerge, Pyramid, StageConfig


@dataclass(frozen=True)
class Price:
    """What an output element costs where no weight is met: of a layer norm, of a bilinear sample."""

    norm: int
    sample: int


CONVENTIONS = {"macs": Price(norm=0, sample=0), "paper": Price(norm=5, sample=4)}
""""macs": multiply-adds of convolutions, linear layers and attention products. "paper": these and the prices
above, with which the counts of DAT come out to the digit they are printed with. GELU, softmax, sums and
pooling are free."""


@dataclass(frozen=True)
class BlockCost:
    """One block. All but the first three are multiply-adds, and they add up to `multiply_adds`."""

    block: int  # from 1, in its stage
    mixer: str  # letter of `models.pyramid.MIXERS`
    parameters: int
    projections: int  # W_q, W_k, W_v, W_o
    products: int  # q kᵀ and softmax(…) v
    points: int  # θ_offset, and reading x̃ at the points
    position: int  # looking up φ(B̂; R), or the depthwise convolution in its place
    mlp: int
    norms: int

    @property
    def multiply_adds(self) -> int:
        return sum(getattr(self, kind) for kind in KINDS)


KINDS = tuple(field.name for field in fields(BlockCost))[3:]
"""What a block's multiply-adds are spent on."""


@dataclass(frozen=True)
class Row:
    """One part of a model. `shape`: (H, W, C) of what it puts out; (1, 1, classes) for the head. `blocks`:
    the letters of a stage's mixers, "L S"; empty elsewhere. `detail`: a stage's blocks, one by one."""

    name: str
    shape: tuple[int, int, int]
    blocks: str
    parameters: int
    multiply_adds: int
    detail: tuple[BlockCost, ...] = ()


class Totals(NamedTuple):
    """Of the whole model."""

    parameters: int
    multiply_adds: int


class Omega(NamedTuple):
    """Ω(DMHA) in multiply-adds: attention with its projections, and the offset network."""

    attention: int
    offsets: int


def cost(model: Pyramid, convention: str = "macs") -> list[Row]:
    """The parts of a model in the order an image passes them: "stem", "stage 1", "down 1", …, "head".

    convention: see `CONVENTIONS`. The parameters are counted from the model's own and add up to all of them.
    "head" is the last layer norm, the mean over the map, and the linear layer. Raises ValueError for an
    unknown convention, TypeError for a mixer that no rule here counts.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"cost: convention {convention!r} is unknown; choose from {', '.join(CONVENTIONS)}")
    price, rows = CONVENTIONS[convention], []
    for i, (stage, config, side) in enumerate(
        zip(model.stages, model.config.stages, model.config.map_sizes(), strict=True)
    ):
        shape = (side, side, config.dim)
        merge, name = (model.downs[i - 1], f"down {i}") if i else (model.stem, "stem")
        rows.append(_merge(merge, name, shape, price))
        letters = enumerate(zip(stage.blocks, config.mixers, strict=True), 1)
        detail = tuple(_block(block, n, letter, side * side, price) for n, (block, letter) in letters)
        work = sum(block.multiply_adds for block in detail)
        rows.append(Row(f"stage {i + 1}", shape, " ".join(config.mixers), _parameters(stage), work, detail))
    parameters = _parameters(model.norm) + _parameters(model.head)
    work = _norm(model.norm, prod(shape[:2]), price) + _weights(model.head)
    rows.append(Row("head", (1, 1, model.config.classes), "", parameters, work))
    return rows


def totals(rows: Sequence[Row]) -> Totals:
    """Sums over the rows."""
    return Totals(sum(row.parameters for row in rows), sum(row.multiply_adds for row in rows))


def omega_dmha(h: int, w: int, c: int, n_keys: int, k: int) -> Omega:
    """Ω(DMHA) = 2HWN_sC + 2HWC² + 2N_sC² + (k²+2)N_sC, the last term the offset network       DAT, complexity

    h, w: the map; c: channels; n_keys: N_s = H_G·W_G sampled points; k: kernel of the offset network. The
    paper's example, H = W = 14, N_s = 49, C = 384, k = 5, is 79.63M + 0.51M here; the text puts the second at
    5.08M, ten times what its formula gives. The formula, like "macs", leaves out the bilinear samples.
    """
    attention = 2 * h * w * n_keys * c + 2 * h * w * c * c + 2 * n_keys * c * c
    return Omega(attention, (k * k + 2) * n_keys * c)


def _parameters(module: nn.Module) -> int:
    return sum(prod(t.shape) for t in module.parameters().values())


def _weights(layer: Any) -> int:
    return prod(layer.weight.shape)


def _norm(norm: nn.LayerNorm, positions: int, price: Price) -> int:
    return price.norm * positions * norm.gamma.shape[0]


def _merge(merge: PatchMerge, name: str, shape: tuple[int, int, int], price: Price) -> Row:
    positions = prod(shape[:2])
    work = positions * _weights(merge.conv) + _norm(merge.norm, positions, price)
    return Row(name, shape, "", _parameters(merge), work)


def _block(block: Block, number: int, letter: str, positions: int, price: Price) -> BlockCost:
    for kind, rule in MIXER_RULES.items():
        if isinstance(block.mixer, kind):
            mixer = rule(block.mixer, positions, price)
            break
    else:
        known = ", ".join(kind.__name__ for kind in MIXER_RULES)
        raise TypeError(f"cost: no rule for {type(block.mixer).__name__} (letter {letter}); known: {known}")
    mlp = positions * (_weights(block.mlp.hidden) + _weights(block.mlp.out))
    norms = _norm(block.norm1, positions, price) + _norm(block.norm2, positions, price)
    return BlockCost(number, letter, _parameters(block), **mixer, mlp=mlp, norms=norms)


def _full(mixer: MultiHeadSelfAttention, positions: int, price: Price) -> dict[str, int]:
    return _self_attention(mixer, positions, keys=positions)


def _window(mixer: WindowAttention, positions: int, price: Price) -> dict[str, int]:
    return _self_attention(mixer, positions, keys=mixer.window**2)  # reading its table is no arithmetic


def _self_attention(mixer: Any, positions: int, keys: int) -> dict[str, int]:
    """Every token looks at `keys` others."""
    return {
        "projections": positions * (_weights(mixer.qkv) + _weights(mixer.out)),
        "products": 2 * positions * keys * mixer.out.weight.shape[0],
        "points": 0,
        "position": 0,
    }


def _deformable(mixer: DeformableAttention, positions: int, price: Price) -> dict[str, int]:
    dim, keys = mixer.out.weight.shape[0], prod(mixer.key_size)
    points = price.sample * keys * dim
    if mixer.offsets:
        theta = _weights(mixer.depthwise) + _weights(mixer.pointwise)
        points += mixer.groups * (keys * theta + _norm(mixer.norm, keys, price))
    position = 0
    if mixer.position == "relative":
        position = price.sample * mixer.heads * positions * keys
    elif mixer.position == "depthwise":
        position = positions * _weights(mixer.local)
    return {
        "projections": positions * (_weights(mixer.query) + _weights(mixer.out))
        + keys * (_weights(mixer.key) + _weights(mixer.value)),
        "products": 2 * positions * keys * dim,
        "points": points,
        "position": position,
    }


MIXER_RULES: dict[type, Callable[[Any, int, Price], dict[str, int]]] = {
    MultiHeadSelfAttention: _full,
    WindowAttention: _window,
    DeformableAttention: _deformable,
}


def table(model: Pyramid, convention: str = "macs", *, detail: bool = False) -> str:
    """The model as aligned text: a line for each part, and the totals; what `minidat info` prints.

    "points" is the key grid of a stage's deformable blocks. detail: under it, what a block's work is spent
    on. convention, errors: see `cost`.
    """
    rows = cost(model, convention)
    total = totals(rows)
    stages = {f"stage {i}": (stage, model.stages[i - 1]) for i, stage in enumerate(model.config.stages, 1)}
    cells = [["", "map", "blocks", "heads", "window", "groups", "points", "parameters", "multiply-adds"]]
    for row in rows:
        settings = _settings(*stages[row.name]) if row.name in stages else [""] * 4
        counts = [f"{row.parameters:,}", f"{row.multiply_adds:,}"]
        cells.append([row.name, "×".join(map(str, row.shape)), repeats(row.blocks), *settings, *counts])
    cells.append(["total", *[""] * 6, f"{total.parameters:,}", f"{total.multiply_adds:,}"])
    text = _align(cells, left=3)
    billions, side = total.multiply_adds / 1e9, model.config.image
    work = f"{billions:.4f} G" if billions >= 1 else f"{1e3 * billions:.2f} M"
    counted = {"macs": "multiply-adds", "paper": "multiply-adds (counted as the paper does)"}[convention]
    text += f"\n\n{total.parameters / 1e6:.2f} M parameters, {work} {counted} for one {side}×{side} image"
    return text + "\n\n" + _details(rows) if detail else text


def _settings(stage: StageConfig, built: Any) -> list[str]:
    """Heads, window, groups and points of a stage; – where none of its blocks has them."""
    deformable = [block.mixer for block in built.blocks if isinstance(block.mixer, DeformableAttention)]
    windowed = any(isinstance(block.mixer, WindowAttention) for block in built.blocks)
    return [
        str(stage.heads),
        f"{stage.window}×{stage.window}" if windowed else "–",
        str(stage.groups) if deformable else "–",
        "×".join(map(str, deformable[0].key_size)) if deformable else "–",
    ]


def repeats(letters: str) -> str:
    """ "L D L D L D" → "L D ×3"; "L S" stays."""
    words = letters.split()
    for n in range(1, len(words) // 2 + 1):
        if len(words) % n == 0 and words == words[:n] * (len(words) // n):
            return f"{' '.join(words[:n])} ×{len(words) // n}"
    return letters


def _details(rows: Sequence[Row]) -> str:
    """A line for each kind of block of a stage: its multiply-adds by what they are spent on."""
    cells = [["", "block", *KINDS, "all"]]
    for row in rows:
        for letter in dict.fromkeys(block.mixer for block in row.detail):
            same = [block for block in row.detail if block.mixer == letter]
            counts = [getattr(same[0], kind) for kind in (*KINDS, "multiply_adds")]
            name = letter if len(same) == 1 else f"{letter} ×{len(same)}, each"
            cells.append([row.name, name, *(f"{n / 1e6:,.2f}" if n else "–" for n in counts)])
    spent = [sum(getattr(block, kind) for row in rows for block in row.detail) for kind in KINDS]
    shares = [n / totals(rows).multiply_adds for n in (*spent, sum(spent))]
    cells.append(["of the model", "", *(f"{share:.1%}" if share else "–" for share in shares)])
    return "Millions of multiply-adds in a block:\n" + _align(cells, left=2)


def _align(cells: Sequence[Sequence[str]], left: int) -> str:
    """Columns two spaces apart, `left` of them flush left; a rule under the first line and over the last."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    justify = [str.ljust if i < left else str.rjust for i in range(len(widths))]
    padded = [[j(c, n) for j, c, n in zip(justify, line, widths, strict=True)] for line in cells]
    lines = ["  ".join(line).rstrip() for line in padded]
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])
