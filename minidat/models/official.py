"""The released checkpoints' configuration, names and layouts, and ours. The only file that knows channels first.

Source: the released DAT v1 (tag CVPR2022): its constructor's keywords and its state dict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidat import nn
from minidat.attention import DeformableAttention, WindowAttention
from minidat.autograd import Tensor
from minidat.autograd.backend import asnumpy
from minidat.models.pyramid import Config, Pyramid, StageConfig
from minidat.ops.deformable import to_normalised

KERNELS = (9, 7, 5, 3)
"""Released v1: the offset network's kernel is fixed by the stage."""


@dataclass(frozen=True)
class Layout:
    """How one kind of released array becomes ours, and back."""

    ours: Callable[[np.ndarray], np.ndarray]
    released: Callable[[np.ndarray], np.ndarray]


SAME = Layout(lambda a: a, lambda a: a)
LINEAR = Layout(lambda a: a.T, lambda a: a.T)  # (out, in) ↔ (in, out)
POINTWISE = Layout(lambda a: a[:, :, 0, 0].T, lambda a: a.T[:, :, None, None])  # (out, in, 1, 1) ↔ (in, out)
CONV = Layout(lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1))  # (out, in, k, k) ↔ (k, k, in, out)
DEPTHWISE = Layout(
    lambda a: a[:, 0].transpose(1, 2, 0), lambda a: a.transpose(2, 0, 1)[:, None]
)  # (c, 1, k, k) ↔ (k, k, c)

Entry = tuple[str, Tensor, Layout]


def build(
    config: Mapping[str, Any], state: Mapping[str, np.ndarray] | None = None, *, dtype: Any = np.float32
) -> Pyramid:
    """Our model from the released constructor's keywords (with "version": 1) and, where given, a released state dict.

    state: name → array, as released; index and mask buffers may be there and are checked against ours. dtype: of the
    parameters. Call the model with a Tensor (B, H, W, 3) for logits. Raises ValueError for an option that is not
    supported here and for a state dict whose names, shapes or buffers do not fit.
    """
    model = Pyramid(translate(config), np.random.default_rng(0))
    model.to(dtype=dtype)
    if state is not None:
        load(model, state)
    return model


def translate(config: Mapping[str, Any]) -> Config:
    """The released constructor's keywords as a Config."""
    if config.get("version", 1) != 1:
        raise ValueError(f"released version {config['version']} is not supported; supported: 1")
    for key in ("use_dwc_mlps", "use_conv_patches"):
        if np.any(config.get(key, False)):
            raise ValueError(f"released option {key} = {config[key]} is not supported")
    if config["dim_stem"] != config["dims"][0]:
        raise ValueError(f"dim_stem {config['dim_stem']} differs from dims[0] {config['dims'][0]}: not supported")
    stages = tuple(_stage(config, i) for i in range(len(config["dims"])))
    return Config(
        image=config["img_size"],
        patch=config["patch_size"],
        classes=config["num_classes"],
        stages=stages,
        expansion=config["expansion"],
        drop_path=config.get("drop_path_rate", 0.0),
        convention="v1",
    )


def _stage(config: Mapping[str, Any], i: int) -> StageConfig:
    def option(key: str, default: Any = False) -> Any:
        return config[key][i] if key in config else default

    letters = tuple(config["stage_spec"][i])
    if "D" in letters and min(option("groups"), option("strides")) < 1:
        raise ValueError(
            f"stage {i} has a D block, but groups {option('groups')} and strides {option('strides')}: "
            "−1 marks a stage without one; both must be at least 1"
        )
    s = option("offset_range_factor", 2)
    return StageConfig(
        dim=config["dims"][i],
        heads=config["heads"][i],
        mixers=letters,
        window=config["window_sizes"][i],
        groups=max(option("groups", 1), 1),
        stride=max(option("strides", 1), 1),
        kernel=KERNELS[i],
        range_factor=s,
        limit="tanh" if s > 0 else "none" if s == 0 else "squash",
        position=_position(option("use_pes"), option("dwc_pes"), option("fixed_pes")),
        offsets=not option("no_offs"),
    )


def _position(use: bool, depthwise: bool, fixed: bool) -> str:
    if not use:
        return "none"
    return "depthwise" if depthwise else "fixed" if fixed else "relative"


def entries(model: Pyramid) -> Iterator[Entry]:
    """(released name, our parameter, layout) of every parameter."""
    yield from _merge(model.stem, "patch_proj")
    for i, stage in enumerate(model.stages):
        for j, block in enumerate(stage.blocks):
            yield from _norm(block.norm1, f"stages.{i}.layer_norms.{2 * j}.norm")
            yield from _norm(block.norm2, f"stages.{i}.layer_norms.{2 * j + 1}.norm")
            yield from _layer(block.mlp.hidden, f"stages.{i}.mlps.{j}.chunk.linear1", LINEAR)
            yield from _layer(block.mlp.out, f"stages.{i}.mlps.{j}.chunk.linear2", LINEAR)
            yield from _mixer(block.mixer, f"stages.{i}.attns.{j}")
    for i, down in enumerate(model.downs):
        yield from _merge(down, f"down_projs.{i}")
    yield from _norm(model.norm, "cls_norm.norm")
    yield from _layer(model.head, "cls_head", LINEAR)


def _mixer(mixer: nn.Module, name: str) -> Iterator[Entry]:
    if isinstance(mixer, WindowAttention):
        yield from _window(mixer, name)
    elif isinstance(mixer, DeformableAttention):
        yield from _deformable(mixer, name)
    else:
        raise ValueError(f"{name}: {type(mixer).__name__} has no counterpart among the released models")


def _layer(layer: Any, name: str, layout: Layout) -> Iterator[Entry]:
    yield f"{name}.weight", layer.weight, layout
    if layer.bias is not None:
        yield f"{name}.bias", layer.bias, SAME


def _norm(norm: nn.LayerNorm, name: str) -> Iterator[Entry]:
    yield f"{name}.weight", norm.gamma, SAME
    yield f"{name}.bias", norm.beta, SAME


def _merge(merge: Any, name: str) -> Iterator[Entry]:
    yield from _layer(merge.conv, f"{name}.0", CONV)
    yield from _norm(merge.norm, f"{name}.1.norm")


def _window(mixer: WindowAttention, name: str) -> Iterator[Entry]:
    yield f"{name}.relative_position_bias_table", mixer.table, SAME
    yield from _layer(mixer.qkv, f"{name}.proj_qkv", LINEAR)
    yield from _layer(mixer.out, f"{name}.proj_out", LINEAR)


def _deformable(mixer: DeformableAttention, name: str) -> Iterator[Entry]:
    if mixer.offsets:
        yield from _layer(mixer.depthwise, f"{name}.conv_offset.0", DEPTHWISE)
        yield from _norm(mixer.norm, f"{name}.conv_offset.1.norm")
        yield from _layer(mixer.pointwise, f"{name}.conv_offset.3", POINTWISE)
    for ours, released in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "out")):
        yield from _layer(getattr(mixer, ours), f"{name}.proj_{released}", POINTWISE)
    if mixer.position in ("relative", "fixed"):
        yield f"{name}.rpe_table", mixer.table, SAME
    elif mixer.position == "depthwise":
        yield from _layer(mixer.local, f"{name}.rpe_table", DEPTHWISE)


def buffers(model: Pyramid) -> dict[str, np.ndarray]:
    """The index and mask buffers of a released state dict."""
    out: dict[str, np.ndarray] = {}
    for i, stage in enumerate(model.stages):
        for j, block in enumerate(stage.blocks):
            if isinstance(block.mixer, WindowAttention):
                out[f"stages.{i}.attns.{j}.relative_position_index"] = asnumpy(block.mixer.index.data)
                if block.mixer.mask is not None:
                    out[f"stages.{i}.attns.{j}.attn_mask"] = asnumpy(block.mixer.mask.data)[:, 0]
    return out


def load(model: Pyramid, state: Mapping[str, np.ndarray]) -> None:
    """Copy a released state dict into the model. Raises ValueError naming what is missing, extra or of another shape."""
    wanted, constants = {name: (t, layout) for name, t, layout in entries(model)}, buffers(model)
    missing = sorted(wanted.keys() - state.keys())
    extra = sorted(state.keys() - wanted.keys() - constants.keys())
    if missing or extra:
        raise ValueError(f"state dict: missing {_some(missing)}; not in this model {_some(extra)}")
    for name, (t, layout) in wanted.items():
        array = np.asarray(state[name])
        fits = layout.released(np.broadcast_to(0, t.shape)).shape
        if array.shape != fits:
            raise ValueError(f"state dict: {name} has shape {array.shape}, this model needs {fits}")
        t.data[...] = layout.ours(array)
    for name, array in constants.items():
        if name in state and not np.array_equal(state[name], array):
            raise ValueError(f"state dict: buffer {name} differs from this model's: window or image size is another")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "nothing"


def to_official(model: Pyramid, grads: bool = False) -> dict[str, np.ndarray]:
    """Name → array in the released layout: the parameters and buffers, or the parameters' gradients (`.grad`).
    Raises ValueError when a gradient is asked for that no backward pass has made."""
    if not grads:
        return {name: layout.released(asnumpy(t.data)) for name, t, layout in entries(model)} | buffers(model)
    without = [name for name, t, _ in entries(model) if t.grad is None]
    if without:
        raise ValueError(f"to_official: no gradient yet for {_some(without)}; run loss.backward() first")
    return {name: layout.released(asnumpy(t.grad)) for name, t, layout in entries(model)}


def points(record: Mapping[tuple[int, int], Mapping[str, Any]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """ "stage.block" → (positions, references), each (B, G, H_G, W_G, 2), normalised (row, col), as the released model
    returns them, from the record of a forward pass."""
    out = {}
    for (stage, block), entry in record.items():
        pixels = asnumpy(entry["points"])
        normalised = np.stack([to_normalised(pixels[..., i], n) for i, n in enumerate(entry["size"])], -1)
        shape = (*pixels.shape[:2], *entry["grid"], 2)
        reference = np.broadcast_to(asnumpy(entry["reference"]), pixels.shape)
        out[f"{stage}.{block}"] = normalised.reshape(shape), reference.reshape(shape)
    return out
