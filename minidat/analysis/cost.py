"""Parameters and multiply-adds of a model, from its shapes alone: nothing is run.

A linear layer, a convolution and a depthwise convolution do one multiply-add per weight and output position; the attention
products are the only other large term. All counts are for one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import prod
from typing import Any, NamedTuple

from minidat import nn
from minidat.analysis.mixer_cost import COUNTING, Price, Size, convolved, mixer_cost, norm_cost, prices, weights
from minidat.attention import DeformableAttention
from minidat.models.blocks import Block, ConvBlock, ConvNorm, ConvStem, PatchMerge
from minidat.models.pyramid import Pyramid, Trunk
from minidat.ops.coordinates import output_size


@dataclass(frozen=True)
class BlockCost:
    """One block. The fields after `parameters` are multiply-adds; their sum is `multiply_adds`."""

    block: int  # from 1, in its stage
    mixer: str  # letter of `models.mixers.MIXERS`
    parameters: int
    projections: int  # this and the next four: see `MixerCost`; norms also counts those before the mixer and the MLP
    products: int
    points: int
    position: int
    norms: int
    mlp: int
    lpu: int  # DAT++'s local perception unit, a depthwise convolution at the start of the block

    @property
    def multiply_adds(self) -> int:
        return sum(getattr(self, kind) for kind in KINDS)


KINDS = tuple(field.name for field in fields(BlockCost))[3:]
"""The parts of a block's multiply-adds."""


@dataclass(frozen=True)
class Row:
    """One part of a model. `shape`: (H, W, C) of its output; (1, 1, classes) for the head. `blocks`: the letters of a stage's
    mixers, "L S"; "" for other parts. `detail`: the blocks of a stage."""

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

    @property
    def share(self) -> float:
        """The offset network's share of the sum."""
        return self.offsets / sum(self)


def cost(model: Pyramid, convention: str = "macs", image: int | Size | None = None) -> list[Row]:
    """The parts of a model in forward order: "stem", "stage 1", "down 1", …, "head".

    model: a built one, or a `skeleton`. convention: see `COUNTING`. image: the image's side, or (H, W); None: the model's own.
    The rows' parameters add up to the model's. "stem" includes ViT's vector for each position, "head" is the last layer norm,
    the mean over the map, and the linear layer. Raises ValueError for an unknown convention and for an image that the model
    does not take, TypeError for a mixer that `mixer_cost.RULES` does not have.
    """
    rows = trunk_cost(model, sides(model.config.image if image is None else image), convention)
    h, w, _ = rows[-1].shape
    parameters = parameters_of(model.norm, model.head)
    work = norm_cost(model.norm, h * w, prices(convention)) + weights(model.head)
    return [*rows, Row("head", (1, 1, model.config.classes), "", parameters, work)]


def sides(image: int | Size) -> Size:
    """(H, W) of an image, of which one number is both."""
    return (image, image) if isinstance(image, int) else image


def trunk_cost(model: Trunk, image: Size, convention: str) -> list[Row]:
    """The rows from "stem" to the last stage. Arguments and errors: see `cost`."""
    price, config = prices(convention), model.config
    model.check_image(image)
    stem, size = _stem(model, image, price)
    rows = [stem]
    for i, (stage, options) in enumerate(zip(model.stages, config.stages, strict=True)):
        if i:
            down, size = _down(model.downs[i - 1], f"down {i}", size, price)
            rows.append(down)
        letters = enumerate(zip(stage.blocks, options.mixers, strict=True), 1)
        detail = tuple(_block(block, n, letter, size, convention) for n, (block, letter) in letters)
        work = sum(block.multiply_adds for block in detail)
        rows.append(
            Row(f"stage {i + 1}", (*size, options.dim), " ".join(options.mixers), parameters_of(stage), work, detail)
        )
    return rows


def totals(rows: Sequence[Row]) -> Totals:
    """Sums over the rows."""
    return Totals(sum(row.parameters for row in rows), sum(row.multiply_adds for row in rows))


def omega_dmha(h: int, w: int, c: int, n_keys: int, k: int) -> Omega:
    """Ω(DMHA) = 2HWN_sC + 2HWC² + 2N_sC² + (k²+2)N_sC, the last term the offset network       DAT, complexity

    h, w: the map; c: channels; n_keys: N_s = H_G·W_G sampled points; k: kernel of the offset network. For the paper's example,
    H = W = 14, N_s = 49, C = 384, k = 5, this gives 79.63M + 0.51M; the offset network has 0.63 %. The paper's text says 5.08M
    and 6.0 %, ten times what its formula gives. The formula, like "macs", leaves out the bilinear samples.
    """
    attention = 2 * h * w * n_keys * c + 2 * h * w * c * c + 2 * n_keys * c * c
    return Omega(attention, (k * k + 2) * n_keys * c)


def offset_shares(model: Pyramid, image: int | Size | None = None) -> dict[int, Omega]:
    """Stage, from 1 → Ω(DMHA) of its last deformable block, counted by `cost` in "macs"; of stages with learned offsets only.
    Raises ValueError as `cost` does."""
    shares = {}
    for i, row in enumerate(cost(model, image=image)[1::2], 1):
        for block, counted in zip(model.stages[i - 1].blocks, row.detail, strict=True):
            if isinstance(block.mixer, DeformableAttention) and block.mixer.offsets.learned:
                shares[i] = Omega(counted.projections + counted.products, counted.points)
    return shares


def parameters_of(*modules: nn.Module) -> int:
    """How many parameters they have."""
    return sum(prod(t.shape) for module in modules for t in module.parameters().values())


def _stem(model: Trunk, size: Size, price: Price) -> tuple[Row, Size]:
    """Everything before the first stage."""
    parts = [model.stem.first, model.stem.second] if isinstance(model.stem, ConvStem) else [model.stem]
    row, size = _convolutions(parts, "stem", size, price)
    parameters, work = row.parameters, row.multiply_adds
    if model.widen:
        parameters += parameters_of(model.widen)
        work += prod(size) * weights(model.widen)
    if model.positions is not None:
        parameters += prod(model.positions.shape)
    return Row("stem", (*size, model.config.stages[0].dim), "", parameters, work), size


def _convolutions(parts: Sequence[ConvNorm], name: str, size: Size, price: Price) -> tuple[Row, Size]:
    """A sequence of convolutions, each with its layer norm: its row, and the size of the last map."""
    work = 0
    for part in parts:
        k, dim = part.conv.weight.shape[0], part.conv.weight.shape[3]
        rows, cols = (output_size(n, k, part.conv.stride, part.conv.padding) for n in size)
        size = rows, cols
        work += prod(size) * convolved(price, part.conv) + norm_cost(part.norm, prod(size), price)
    return Row(name, (*size, dim), "", parameters_of(*parts), work), size


def _down(part: ConvNorm | PatchMerge, name: str, size: Size, price: Price) -> tuple[Row, Size]:
    """What is between two stages: its row, and the size of the next stage's map."""
    if not isinstance(part, PatchMerge):
        return _convolutions([part], name, size, price)
    h, w = (n // 2 for n in size)
    work = h * w * weights(part.reduce) + norm_cost(part.norm, h * w, price)
    return Row(name, (h, w, part.reduce.weight.shape[1]), "", parameters_of(part), work), (h, w)


def _block(block: Block | ConvBlock, number: int, letter: str, size: Size, convention: str) -> BlockCost:
    price, positions, mixer = COUNTING[convention], prod(size), mixer_cost(block.mixer, size, convention)
    norms = [block.norm] if isinstance(block, ConvBlock) else [block.norm1, block.norm2]
    counts = mixer._asdict() | {"norms": mixer.norms + sum(norm_cost(norm, positions, price) for norm in norms)}
    lpu = positions * convolved(price, block.lpu) if block.lpu else 0
    return BlockCost(number, letter, parameters_of(block), **counts, mlp=positions * _mlp(block.mlp, price), lpu=lpu)


def _mlp(mlp: Any, price: Price) -> int:
    if isinstance(mlp, nn.ConvMLP):  # all three are convolutions
        return convolved(price, mlp.hidden, mlp.conv, mlp.out)
    return weights(mlp.hidden, mlp.out)
