"""The released models: their constructor's keywords, their state dicts and their checkpoint files, as models of ours.

Source: the released DAT v1 (tag CVPR2022) and v2 (DAT++).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from minidat.attention import Offsets
from minidat.autograd.backend import asnumpy, like
from minidat.models import zoo
from minidat.models.config import Config, StageConfig
from minidat.models.pyramid import Pyramid
from minidat.ops.coordinates import to_normalised
from minidat.released import pth, resize
from minidat.released.layouts import buffers, entries, unused
from minidat.released.recognise import recognise

KERNELS = (9, 7, 5, 3)
"""Released v1: the offset network's kernel is fixed by the stage."""

SUFFIXES = {".pth": "PyTorch", ".pt": "PyTorch", ".safetensors": "safetensors"}


def build(
    config: Mapping[str, Any], state: Mapping[str, np.ndarray] | None = None, *, dtype: Any = np.float32
) -> Pyramid:
    """Our model from the released constructor's keywords (with "version": 1 or 2) and, where given, a released state dict.

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
    """The released constructor's keywords as a Config. Options that crash there do here what they say."""
    version = config.get("version", 1)
    if version not in (1, 2):
        raise ValueError(f"released version {version} is not supported; supported: 1, 2")
    convolutions = bool(config.get("use_conv_patches", False))
    stem = "patch" if not convolutions else "overlap" if version == 1 else "conv"
    image, patch = config["img_size"], config["patch_size"]
    stride = (
        (patch // 2) ** 2 if stem == "conv" else patch
    )  # two strides of patch // 2: patch itself only where that is 4
    return Config(
        image=image,
        patch=stride,
        classes=config["num_classes"],
        stages=tuple(_stage(config, version, i) for i in range(len(config["dims"]))),
        drop_path=config.get("drop_path_rate", 0.0),
        convention=f"v{version}",
        stem=stem,
        stem_dim=config["dim_stem"],
        tables=image // patch * stride if convolutions else None,
    )


def _stage(config: Mapping[str, Any], version: int, i: int) -> StageConfig:
    def option(key: str, default: Any = False) -> Any:
        return config[key][i] if key in config else default

    letters = tuple(config["stage_spec"][i])
    scale = option("layer_scale_values", -1)
    if "D" in letters and min(option("groups"), option("strides")) < 1:
        raise ValueError(
            f"stage {i} has a D block, but groups {option('groups')} and strides {option('strides')}: "
            "−1 marks a stage without one; both must be at least 1"
        )
    if "X" in letters and scale > 0:
        raise ValueError(
            f"stage {i} has an X block and layer_scale_values {scale}: the released X block makes a layer scale and does "
            "not use it, ours uses it; give −1"
        )

    def of(letter: str, value: int) -> int:
        """An option of blocks with this letter. Where a stage has none, −1 and 0 mark an option that is not used."""
        return value if set(letter) & set(letters) else max(value, 1)

    s = option("offset_range_factor", 2)
    learned = not option("no_offs")
    stride = max(option("strides", 1), 1)
    kernel = of("D", config["ksizes"][i] if version == 2 else KERNELS[i])
    residual = "residual conv" if version == 2 else "conv"
    return StageConfig(
        dim=config["dims"][i],
        heads=config["heads"][i],
        mixers=letters,
        window=of("LSX", config["window_sizes"][i]),
        neighborhood=of("N", option("nat_ksizes", 3)),
        reduction=max(option("sr_ratios", 1), 1),
        groups=max(option("groups", 1), 1),
        offsets=Offsets(
            stride,
            kernel,
            padding=0 if version == 2 and kernel == stride else None,  # whole cells
            range_factor=s,
            limit=_limit(s, version),
            learned=learned,
        ),
        position=_position(option, version, learned),
        expansion=config["expansion"],
        mlp=residual if option("use_dwc_mlps") else "plain",
        lpu=bool(option("use_lpus")),
        layer_scale=max(scale, 0.0),
    )


def _limit(s: float, version: int) -> str:
    if version == 1:
        return "tanh" if s > 0 else "none" if s == 0 else "squash"
    return "tanh" if s >= 0 else "clamp"


def _position(option: Any, version: int, learned: bool) -> str:
    if not option("use_pes"):
        return "none"
    if option("dwc_pes"):
        return "depthwise"
    if version == 2 and not learned:
        return "none"
    return "fixed" if option("fixed_pes") else "log" if option("log_cpb") else "relative"


def from_file(
    path: str | Path,
    name: str | None = None,
    *,
    classes: int | None = None,
    image: int | None = None,
    rows: Sequence[int] | None = None,
) -> Pyramid:
    """A model with the weights of a released checkpoint: .pth, or .safetensors with the released names.

    name: of `zoo.MODELS`; by default the one that the weights' names and shapes belong to. classes: by default the
    checkpoint's. image: another image size than the model's own. Tables of another size are resized as the released code
    does, so weights for 224 start a model for 384. rows: class k of the model is row rows[k] of the checkpoint's head.
    Raises OSError and ValueError, naming the file and what in it does not fit.
    """
    state = read(path)
    try:
        config = zoo.config(name or recognise(state), classes=classes or _classes(state, rows))
        model = Pyramid(replace(config, image=image or config.image), np.random.default_rng(0))
        load(model, adapted(model, state, rows))
    except ValueError as error:
        raise ValueError(f"{path}: {error}{_fits(state, name)}") from error
    return model


def _fits(state: Mapping[str, np.ndarray], name: str | None) -> str:
    """A hint at the model that the weights do belong to, where another was named."""
    try:
        found = recognise(state)
    except ValueError:
        return ""
    return f"; these weights are {found}'s" if name not in (None, found) else ""


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a .pth or .safetensors file, by name. Raises OSError, or ValueError for another kind of file."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"{path}: weights come in files of {', '.join(SUFFIXES)}, not {path.suffix or 'without a suffix'}"
        )
    if SUFFIXES[path.suffix] == "PyTorch":
        return pth.read(path)
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error})") from error


def save(model: Pyramid, path: str | Path) -> None:
    """Write the model as a .pth that PyTorch, and the released model, loads: {"model": state dict}."""
    pth.write(path, to_official(model))


def _classes(state: Mapping[str, np.ndarray], rows: Sequence[int] | None) -> int | None:
    head = state.get("cls_head.weight")
    return len(rows) if rows is not None else None if head is None else len(head)


def adapted(
    model: Pyramid, state: Mapping[str, np.ndarray], rows: Sequence[int] | None = None
) -> dict[str, np.ndarray]:
    """A released state dict with its position tables resized to the model's, by bicubic interpolation, buffers of another
    size left out, and the head's rows picked. Source: the released `load_pretrained`. Raises ValueError for a row that
    the head does not have."""
    out = dict(state)
    for name, t, _ in entries(model):
        array = out.get(name)
        if array is None or array.shape == t.shape:
            continue
        if name.endswith("relative_position_bias_table") and array.shape[1:] == t.shape[1:]:
            out[name] = resize.window_table(array, (round(t.shape[0] ** 0.5) + 1) // 2)
        elif name.endswith("rpe_table") and array.ndim == t.ndim == 3 and len(array) == t.shape[0]:
            out[name] = resize.bicubic(array, t.shape[1:])
    for name, constant in buffers(model).items():
        if name in out and out[name].shape != constant.shape:
            del out[name]
    if rows is not None:
        out |= {name: _picked(out[name], rows) for name in ("cls_head.weight", "cls_head.bias") if name in out}
    return out


def _picked(head: np.ndarray, rows: Sequence[int]) -> np.ndarray:
    wrong = [row for row in rows if not 0 <= row < len(head)]
    if wrong:
        raise ValueError(f"the checkpoint's head has {len(head)} classes, so there is no class {wrong[0]} to take over")
    return head[np.asarray(rows)]


def load(model: Pyramid, state: Mapping[str, np.ndarray]) -> None:
    """Copy a released state dict into the model. Raises ValueError naming what is missing, extra or of another shape."""
    wanted, constants = {name: (t, layout) for name, t, layout in entries(model)}, buffers(model)
    missing = sorted(wanted.keys() - state.keys())
    ignored = unused(model)
    extra = sorted(name for name in state.keys() - wanted.keys() - constants.keys() if not name.startswith(ignored))
    if missing or extra:
        raise ValueError(f"state dict: missing {_some(missing)}; not in this model {_some(extra)}")
    for name, (t, layout) in wanted.items():
        array = np.asarray(state[name])
        fits = layout.released(np.broadcast_to(0, t.shape)).shape
        if array.shape != fits:
            raise ValueError(f"state dict: {name} has shape {array.shape}, this model needs {fits}")
        t.data[...] = like(layout.ours(array), t.data)
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
