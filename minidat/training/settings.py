"""The settings of a training run: what its result depends on, as checkpoints keep it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from minidat.data import DATASETS, OF_FILES, SAMPLES
from minidat.data.augment import RECIPES
from minidat.data.sample_sets import SAMPLE_RECIPES
from minidat.dense import HEADS, SMALL, option_types
from minidat.fast.cuda.cublas import PRECISIONS
from minidat.fast.loops import LOOPS
from minidat.models import zoo
from minidat.training import schema
from minidat.training.finetune import FREEZE

MOST_IMAGES = 100_000_000  # an epoch's order lies in memory


@dataclass(frozen=True)
class Settings:
    """What a run is told.

    changes: of the model's configuration, "NAME=VALUE" each; see `models.changes`.
    epochs, warmup: passes over the data.
    batch: images a step; accumulate: the parts that it is cut into, which pass one after the other.
    lr: the highest learning rate; minimum_lr: the last one; warmup_lr: the first.
    clip: largest norm of the gradient (0: it is not clipped). smoothing: of the labels.
    drop_path: the last block's rate (None: the model's own). recipe: a name of `RECIPES`.
    train_size, test_size: use only so many images (None: all). skip_damaged: go on without image files that cannot be read.
    validation: share of the training images that is held out, to choose the best epoch (0: it is chosen on the test images).
    micro: images that a thread takes at a time; a GPU takes the whole batch, and draws the noise of as many micro-batches.
    precision: of products on a GPU, see `cublas.precision`. loops: on the CPU, see `fast.loops`.
    ema: decay of the moving average of parameters and running statistics that is tested in their place (0: none), see
    `average.Average`.
    weights: what the network's weights started from, as the user named it, and weights_digest, which weights these were (None:
    drawn from the seed). Both are kept for the record: a run goes on from its checkpoint alone.
    freeze, layer_decay: what does not move, and how much slower each layer is than the next; see `finetune.rates`.

    head: for detection or segmentation, of `dense.HEADS`, on the model's pyramid (None: classification); data and recipe are then
    of `SAMPLES` and `SAMPLE_RECIPES`. head_options: what `dense.create` takes for it.

    Raises ValueError, naming the setting and what it may be.
    """

    model: str = "dat_micro"
    changes: tuple[str, ...] = ()
    head: str | None = None
    head_options: dict[str, Any] = field(default_factory=dict)
    data: str = "shapes"
    data_dir: str | None = None
    epochs: int = 2
    batch: int = 64
    lr: float = 2e-3
    minimum_lr: float = 1e-5
    warmup: float = 0.5
    weight_decay: float = 0.05
    clip: float = 5.0
    smoothing: float = 0.0
    drop_path: float | None = None
    recipe: str = "none"
    seed: int = 0
    train_size: int | None = None
    test_size: int | None = None
    micro: int = 32
    precision: str = "fp32"
    validation: float = 0.0
    loops: str = "numpy"
    skip_damaged: bool = False
    warmup_lr: float = 0.0
    accumulate: int = 1
    ema: float = 0.0
    weights: str | None = None
    weights_digest: str | None = None
    freeze: str | None = None
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        schema.check(self)
        choices = {
            "model": zoo.MODELS,
            "data": DATASETS if self.head is None else SAMPLES,
            "recipe": RECIPES if self.head is None else SAMPLE_RECIPES,
            "precision": PRECISIONS,
            "loops": LOOPS,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r} is unknown; choose from {', '.join(known)}")
        zoo.config(self.model, changes=self.changes)  # raises ValueError for a change that cannot be made
        self._check_head()
        for name in ("epochs", "batch", "micro", "accumulate", "train_size", "test_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        for name in ("train_size", "test_size"):
            if (getattr(self, name) or 0) > MOST_IMAGES:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at most {MOST_IMAGES:,}")
        for name in ("smoothing", "drop_path", "validation", "ema"):
            if not 0 <= (getattr(self, name) or 0.0) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        for name in ("warmup", "minimum_lr", "warmup_lr", "weight_decay", "clip", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay is {self.layer_decay}; it must be above 0 and at most 1")
        if self.freeze is not None and not FREEZE.fullmatch(self.freeze):
            raise ValueError(
                f"freeze is {self.freeze!r}; it must be a number of stages, such as 2, or names of parts, such as stem,stages.0"
            )
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}; it must be positive")
        for name in ("minimum_lr", "warmup_lr"):
            if getattr(self, name) > self.lr:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be above lr, {self.lr}")
        if self.batch % self.accumulate:
            raise ValueError(f"accumulate is {self.accumulate}; it must divide batch, {self.batch}, into equal parts")
        if self.skip_damaged and (self.head is not None or self.data not in OF_FILES):
            where = f"data {self.data}" if self.head is None else f"head {self.head}"
            raise ValueError(
                f"skip_damaged is True, and {where} leaves no image out; it is for data {', '.join(OF_FILES)}"
            )
        if self.warmup >= self.epochs:
            raise ValueError(f"warmup is {self.warmup} epochs; it must be shorter than the run, {self.epochs} epochs")

    def _check_head(self) -> None:
        if self.head is None:
            if self.head_options:
                raise ValueError(
                    f"head_options are {self.head_options}, but there is no head; leave them out, or name one"
                )
            return
        if self.head not in HEADS:
            raise ValueError(f"head {self.head!r} is unknown; choose from {', '.join(HEADS)}")
        known = option_types(self.head)
        for name, value in self.head_options.items():
            if name not in known:
                raise ValueError(f"head {self.head} has no option {name!r}; it has {', '.join(known)}")
            schema.convert(known[name], value, f"option {name} of head {self.head}")
        if self.smoothing:
            raise ValueError(f"smoothing is {self.smoothing}; it is of classification, so with a head it must be 0")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def max_norm(self) -> float:
        """The norm to which gradients are clipped; infinite where they are not."""
        return self.clip or math.inf

    @classmethod
    def from_json(cls, values: Any) -> Settings:
        """Settings from a checkpoint. Raises ValueError for names that this version does not know, and for values of another
        type."""
        unknown = set(values) - {field.name for field in fields(cls)} if isinstance(values, Mapping) else set()
        if unknown:
            named = ", ".join(sorted(map(str, unknown)))
            raise ValueError(f"settings {named} are unknown to this version of minidat")
        return schema.build(cls, values, "settings")


DEFAULTS: dict[str, dict[str, Any]] = {
    "shapes": {},
    "cifar10": {"model": "dat_cifar", "epochs": 10, "lr": 1e-3, "recipe": "light", "validation": 0.1},
    "cifar100": {"model": "dat_cifar", "epochs": 20, "lr": 1e-3, "recipe": "light", "validation": 0.1},
    "folder": {"model": "dat_tiny", "epochs": 30, "lr": 5e-4, "warmup": 2.0, "smoothing": 0.1, "recipe": "crops"},
    "imagenet": {"model": "dat_tiny", "epochs": 300, "batch": 128, "recipe": "imagenet"},
}
"""What differs from `Settings` for each data set, where the user does not say; see `defaults`."""
HEAD_DEFAULTS: dict[str, dict[str, Any]] = {
    "shapes": {"model": "dat_scenes", "epochs": 6, "batch": 32, "micro": 16, "lr": 1.5e-3, "train_size": 6400},
    "coco": {"model": "dat_tiny", "epochs": 12, "batch": 16, "micro": 2, "lr": 1e-4, "recipe": "paper"},
    "ade20k": {"model": "dat_tiny", "epochs": 127, "batch": 16, "micro": 2, "lr": 6e-5, "recipe": "paper"},
}
"""The same with a head."""


def defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from `Settings` where the user does not say, for the data, the recipe and the head that were `given`."""
    if given.get("head") is not None:
        return _head_defaults(given.get("data", Settings.data), given["head"])
    values = dict(DEFAULTS[given.get("data", Settings.data)])
    chosen = values | dict(given)
    if chosen.get("recipe") == "imagenet":
        model, batch = chosen.get("model", Settings.model), chosen.get("batch", Settings.batch)
        values |= released(model, batch, chosen.get("epochs", Settings.epochs))
    return values


def _head_defaults(data: str, head: str) -> dict[str, Any]:
    """`defaults` with a head. Heads on `shapes` are small ones."""
    small = {"head_options": SMALL[head]} if data == "shapes" and head in SMALL else {}
    pixels = (
        {"lr": 4e-3, "epochs": 8} if data == "shapes" and head in HEADS and HEADS[head].kind == "segmentation" else {}
    )
    return {"head": head} | HEAD_DEFAULTS.get(data, {}) | small | pixels


def released(model: str, batch: int, epochs: int) -> dict[str, Any]:
    """The settings that the released code trains with, beside those that are defaults here: rates in proportion to the batch,
    20 of 300 epochs of warm-up; DAT-B has 50, a lower rate and a stricter clip. Source: its config.py, main.py and configs/."""
    base = model.startswith("dat_base")
    scale = batch / 512
    return {
        "lr": (4e-4 if base else 5e-4) * scale,
        "minimum_lr": 5e-6 * scale,
        "warmup_lr": 5e-7 * scale,
        "warmup": epochs * (50 if base else 20) / 300,
        "weight_decay": 0.05,
        "clip": 1.0 if base else 5.0,
        "smoothing": 0.1,
    }
