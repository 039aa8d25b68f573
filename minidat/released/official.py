"""The released models: their constructor's keywords, their state dicts and their checkpoint files, as models of ours.

Source: the released DAT v1 (tag CVPR2022) and v2 (DAT++).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from minidat.autograd.backend import asnumpy, like
from minidat.models import zoo
from minidat.models.pyramid import Pyramid
from minidat.ops.coordinates import to_normalised
from minidat.released import resize
from minidat.released.contents import kind_of_weights
from minidat.released.errors import WeightsError
from minidat.released.layouts import Entry, buffers, entries, unused
from minidat.released.options import translate
from minidat.released.pth import read_pth
from minidat.released.pth_write import write_pth
from minidat.released.recognise import recognise
from minidat.released.safetensors_file import read_safetensors, write_safetensors
from minidat.released.state_dict import without_wrappers
from minidat.unpickle import shown


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


def from_file(
    path: str | Path,
    name: str | None = None,
    *,
    classes: int | None = None,
    image: int | None = None,
    rows: Sequence[int] | None = None,
    key: str | None = None,
) -> Pyramid:
    """A model with the weights of a checkpoint that has the released names: a file of PyTorch (.pth, .pth.tar, .bin, .ckpt …)
    or of safetensors, told apart by its content.

    name: of `zoo.MODELS`; by default the one that the weights' names and shapes belong to. classes: by default the
    checkpoint's. image: another image size than the model's own. Tables of another size are resized as the released code
    does, so weights for 224 start a model for 384. rows: class k of the model is row rows[k] of the checkpoint's head.
    key: where in a file of PyTorch the state dict is, such as "model_ema"; None: see `state_dict.find_state`.
    Raises ValueError, naming the file and what in it does not fit.
    """
    state = read_weights(path, key)
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


def read_weights(path: str | Path, key: str | None = None, *, whole: bool = False) -> dict[str, np.ndarray]:
    """The arrays of a file of weights by name: of PyTorch or safetensors, told apart by its content, whatever its name.

    key: where in a file of PyTorch the state dict is; None: see `state_dict.find_state`. What wrappers put before the names
    is taken off; so is the head of a detector, unless `whole`. Raises WeightsError, naming the file, for one that is missing,
    damaged, or of another kind.
    """
    path = Path(path)
    if kind_of_weights(path) == "pth":
        state = read_pth(path, key)
    elif key is None:
        state = read_safetensors(path)
    else:
        raise WeightsError(path, f"key {key!r} was given, but a safetensors file has its arrays under no key")
    return without_wrappers(path, state, whole=whole)


def save(model: Pyramid, path: str | Path) -> None:
    """Write the model with the released names: as a .safetensors where the path ends so, else as a .pth that PyTorch, and the
    released model, loads, {"model": state dict}. Raises ValueError for a part that has no counterpart, and as `write_pth`."""
    write = write_safetensors if Path(path).suffix.lower() == ".safetensors" else write_pth
    write(path, to_official(model))


def _classes(state: Mapping[str, np.ndarray], rows: Sequence[int] | None) -> int | None:
    head = state.get("cls_head.weight")
    return len(rows) if rows is not None else len(head) if head is not None and head.ndim else None


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
    count = len(head) if head.ndim else 0
    wrong = [row for row in rows if not 0 <= row < count]
    if wrong:
        raise ValueError(f"the checkpoint's head has {count} classes, so there is no class {wrong[0]} to take over")
    return head[np.asarray(rows)]


def load(model: Pyramid, state: Mapping[str, np.ndarray]) -> None:
    """Copy a released state dict into the model. Raises ValueError naming what is missing, extra or of another shape."""
    fill(entries(model), buffers(model), unused(model), state)


def fill(
    pairs: Iterable[Entry],
    constants: Mapping[str, np.ndarray],
    ignored: tuple[str, ...],
    state: Mapping[str, np.ndarray],
) -> None:
    """Copy arrays into the Tensors of `pairs`. constants: those that may be there, and must be these. ignored: prefixes of names
    that do not matter. Raises ValueError as `load` does."""
    wanted = {name: (t, axes) for name, t, axes in pairs}
    missing = sorted(wanted.keys() - state.keys())
    extra = sorted(name for name in state.keys() - wanted.keys() - constants.keys() if not name.startswith(ignored))
    if missing or extra:
        raise ValueError(f"state dict: missing {some(missing)}; not in this model {some(extra)}")
    for name, (t, axes) in wanted.items():
        array = np.asarray(state[name])
        fits = axes.released(np.broadcast_to(0, t.shape)).shape
        if array.shape != fits:
            raise ValueError(f"state dict: {name} has shape {array.shape}, this model needs {fits}")
    for name, array in constants.items():
        if name in state and not np.array_equal(state[name], array):
            raise ValueError(f"state dict: buffer {name} differs from this model's: window or image size is another")
    for name, (t, axes) in wanted.items():  # all fit: where one does not, the model keeps its weights
        t.data[...] = like(axes.ours(np.asarray(state[name])), t.data)


def some(names: list[str]) -> str:
    """The first three names, and how many more."""
    return (
        ", ".join(map(shown, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        if names
        else "nothing"
    )


def to_official(model: Pyramid, grads: bool = False) -> dict[str, np.ndarray]:
    """Name → array in the released layout: the parameters and buffers, or the parameters' gradients (`.grad`).
    Raises ValueError when a gradient is asked for that no backward pass has made."""
    if not grads:
        return {name: axes.released(asnumpy(t.data)) for name, t, axes in entries(model)} | buffers(model)
    without = [name for name, t, _ in entries(model) if t.grad is None]
    if without:
        raise ValueError(f"to_official: no gradient yet for {some(without)}; run loss.backward() first")
    return {name: axes.released(asnumpy(t.grad)) for name, t, axes in entries(model)}


def points(record: Mapping[tuple[int, int], Mapping[str, Any]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Where the deformable blocks read: "stage.block" → (positions, references), each (B, G, H_G, W_G, 2), normalised (row, col),
    as the released model returns them. record: of a forward pass."""
    out = {}
    for (stage, block), entry in record.items():
        pixels = asnumpy(entry["points"])
        normalised = np.stack([to_normalised(pixels[..., i], n) for i, n in enumerate(entry["size"])], -1)
        shape = (*pixels.shape[:2], *entry["grid"], 2)
        reference = np.broadcast_to(asnumpy(entry["reference"]), pixels.shape)
        out[f"{stage}.{block}"] = normalised.reshape(shape), reference.reshape(shape)
    return out
