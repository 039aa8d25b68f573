"""The network of a run, of its settings: what it is, what it starts from, and what of it is trained."""

from __future__ import annotations

from typing import Any

from minidat import dense
from minidat.data import Dataset
from minidat.models import create, zoo
from minidat.training import finetune
from minidat.training.arena import Arena
from minidat.training.errors import TrainingError
from minidat.training.settings import Settings
from minidat.training.weights import Weights


def network(settings: Settings, classes: int) -> Any:
    """A `Pyramid`, or with a head a `DenseModel`, new: float32 on the CPU, its weights drawn from the seed."""
    s = settings
    if s.head is None:
        return create(s.model, classes=classes, drop_path=s.drop_path, seed=s.seed, changes=s.changes)
    config = zoo.config(s.model, drop_path=s.drop_path, changes=s.changes)
    return dense.create(config, s.head, classes=classes, seed=s.seed, **s.head_options)


def network_for(settings: Settings, training: Dataset) -> Any:
    """The network that settings name, new. Raises TrainingError where a classifier's images are not the data's."""
    model = network(settings, len(training.classes))
    if settings.head is None and model.config.image != training.image_size:
        raise TrainingError(
            f"model {settings.model} takes images of {model.config.image} pixels, "
            f"data {settings.data} has {training.image_size}"
        )
    return model


def start_from(weights: Weights, model: Any, settings: Settings, training: Dataset) -> str:
    """Put weights into the network, with a head into its backbone alone; a line on what was taken. Raises as
    `Weights.put_into`."""
    s = settings
    if s.head is None:
        return weights.put_into(model, training.classes)
    classifier = create(s.model, changes=s.changes)
    weights.put_into(classifier, ())
    model.backbone.take_over(classifier)
    return f"starts from {weights.named}: its stages are the backbone's; head {s.head} is fresh"


def arena_of(model: Any, settings: Settings) -> Arena:
    """All parameters, each with its share of the learning rate. Those that are frozen require no gradient from here on, so
    that where the network begins with them a backward pass ends before it reaches them. Raises as `finetune.rates`."""
    s, parameters = settings, model.parameters()
    if s.freeze is None and s.layer_decay == 1:
        return Arena(parameters)
    stages = model.stages if s.head is None else model.backbone.stages
    own = {name: name.removeprefix("backbone.") for name in parameters}
    blocks = [len(stage.blocks) for stage in stages]
    found = finetune.rates(own.values(), blocks, freeze=s.freeze, layer_decay=s.layer_decay)
    rates = {name: found[short] for name, short in own.items()}
    for name, tensor in parameters.items():
        tensor.requires_grad = rates[name] > 0
    return Arena(parameters, rates)
