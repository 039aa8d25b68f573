"""The network of a run, of its settings."""

from __future__ import annotations

from typing import Any

from minidat import dense
from minidat.models import create, zoo
from minidat.training.settings import Settings


def network(settings: Settings, classes: int) -> Any:
    """A `Pyramid`, or with a head a `DenseModel`, new: float32 on the CPU, its weights drawn from the seed."""
    s = settings
    if s.head is None:
        return create(s.model, classes=classes, drop_path=s.drop_path, seed=s.seed, changes=s.changes)
    config = zoo.config(s.model, drop_path=s.drop_path, changes=s.changes)
    return dense.create(config, s.head, classes=classes, seed=s.seed, **s.head_options)
