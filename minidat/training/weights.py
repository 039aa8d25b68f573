"""Weights that a run starts from: another run's, those of a file that minidat wrote, or a released checkpoint's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

import numpy as np

from minidat.attention import DeformableAttention, WindowAttention
from minidat.attention.positions import RelativePosition
from minidat.models import Pyramid
from minidat.released import official, resize
from minidat.released.recognise import recognise
from minidat.training import checkpoint
from minidat.training.checkpoint import CheckpointError
from minidat.training.errors import TrainingError
from minidat.training.folder import BEST, LAST
from minidat.training.included import located
from minidat.training.state import RunState, tested

HEAD, RELEASED_HEAD = ("head.weight", "head.bias"), ("cls_head.weight", "cls_head.bias")


@dataclass(frozen=True)
class Weights:
    """named: as the user names them. arrays: by our names, or by the released ones where `released`. model, changes: the name
    of `zoo.MODELS` that they belong to, None where that cannot be told, and what was changed in it. classes: the head's,
    where their names are known."""

    named: str
    path: Path
    arrays: Mapping[str, np.ndarray]
    model: str | None
    classes: tuple[str, ...] | None
    released: bool
    changes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """BLAKE2b over every array's name, dtype, shape and bytes: the same for the same weights in another file."""
        digest = hashlib.blake2b(digest_size=16)
        for name in sorted(self.arrays):
            array = np.ascontiguousarray(self.arrays[name])
            digest.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
            digest.update(array.data)
        return digest.hexdigest()

    def put_into(self, model: Pyramid, classes: Sequence[str]) -> str:
        """Copy them into a new network that is to tell `classes` apart; a line on what was not taken as it is.

        The head stays as the network drew it, fresh, where the weights' classes are others: where the names differ, or, of
        weights that keep no names, their number. Position tables of another image size are resized by the released rule
        (`released.resize`), and so are ViT's vectors. Raises ValueError, naming the file, where the weights are another
        network's.
        """
        bias = self.arrays.get((RELEASED_HEAD if self.released else HEAD)[1])
        count = len(bias) if bias is not None and bias.ndim else 0
        kept = tuple(classes) == self.classes if self.classes is not None else len(classes) == count > 0
        resized = self._put_released(model, kept) if self.released else self._put_ours(model, kept)
        head = "its head is kept" if kept else f"a fresh head for {len(classes):,} classes (it has {count:,})"
        tables = f"; {resized} position tables resized" if resized else ""
        return f"starts from {self.named}: {head}{tables}"

    def _put_released(self, model: Pyramid, kept: bool) -> int:
        """How many tables were resized."""
        drawn = {} if kept else {name: official.to_official(model)[name] for name in RELEASED_HEAD}
        state = dict(self.arrays) | drawn
        try:
            fitted = official.adapted(model, state)
            official.load(model, fitted)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}{self._whose()}") from error
        return sum(array.shape != state[name].shape for name, array in fitted.items())

    def _put_ours(self, model: Pyramid, kept: bool) -> int:
        """How many tables were resized."""
        parameters = model.parameters()
        found = dict(self.arrays) | ({} if kept else {name: parameters[name].data for name in HEAD})
        try:
            fitted = found | _resized(model, found)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}{self._whose()}") from error
        shapes = ({name: each.shape for name, each in arrays.items()} for arrays in (parameters, fitted))
        try:
            checkpoint.check_names(*shapes, self.path)
        except CheckpointError as error:
            raise ValueError(f"{error}{self._whose()}") from error
        model.load(fitted)
        return sum(array.shape != found[name].shape for name, array in fitted.items())

    def _whose(self) -> str:
        return f"; these weights are {self.model}'s" if self.model else ""


def read_weights(named: str, key: str | None = None) -> Weights:
    """The weights that a user names: a run's folder (its best ones, its last where it has no best yet), one of its
    checkpoints, another file that minidat wrote, included weights, or a file with the released names.

    key: where in a file of PyTorch the state dict is. Raises ValueError or TrainingError, naming the file, for what cannot be
    read.
    """
    path = located(named)
    if path.is_dir():
        path = next((path / name for name in (BEST, LAST) if (path / name).exists()), path)
        if path.is_dir():
            raise TrainingError(f"--weights {named}: the folder holds no run: there is no {LAST} in it")
    if not checkpoint.is_ours(path):
        state = official.read_weights(path, key)
        return Weights(named, path, state, _recognised(state), None, released=True)
    if key is not None:
        raise TrainingError(f"--weights {named} is no file of PyTorch; leave out --key")
    arrays, meta = checkpoint.load(path)
    if meta.get("kind") == "run":
        state = RunState.from_meta(path, meta)
        settings = state.settings
        return Weights(
            named, path, tested(arrays), settings.model, state.classes, released=False, changes=settings.changes
        )
    model, classes = meta.get("model"), meta.get("classes")
    return Weights(named, path, arrays, model, None if classes is None else tuple(classes), released=False)


def _recognised(state: Mapping[str, np.ndarray]) -> str | None:
    try:
        return recognise(state)
    except ValueError:
        return None


def _resized(model: Pyramid, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those of the arrays that are position tables of another image size, at the network's."""
    names, wanted = {id(t): name for name, t in model.tensors()}, {}
    for mixer in (block.mixer for stage in model.stages for block in stage.blocks):
        if isinstance(mixer, WindowAttention):
            wanted[names[id(mixer.table)]] = mixer.table
        elif isinstance(mixer, DeformableAttention) and isinstance(mixer.position, RelativePosition):
            wanted[names[id(mixer.position.table)]] = mixer.position.table
    if model.positions is not None:
        wanted["positions"] = model.positions
    out = {}
    for name, t in wanted.items():
        array = found.get(name)
        if array is None or array.shape == t.shape or array.ndim != t.ndim:
            continue
        if name == "positions" and array.shape[2:] == t.shape[2:]:  # (h, w, C)
            out[name] = resize.bicubic(array.transpose(2, 0, 1), t.shape[:2]).transpose(1, 2, 0)
        elif t.ndim == 2 and array.shape[1:] == t.shape[1:]:  # ((2w − 1)², M)
            out[name] = resize.window_table(array, (isqrt(t.shape[0]) + 1) // 2)
        elif len(array) == t.shape[0]:  # (M, 2H − 1, 2W − 1)
            out[name] = resize.bicubic(array, t.shape[1:])
    return out
