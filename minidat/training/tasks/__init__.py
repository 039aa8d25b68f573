"""What a network is trained to do. A task prepares batches, has the loss and what is summed of it, and tests the network.

task.py says what a task is; classification.py, detection.py and segmentation.py are the three.
"""

from __future__ import annotations

from minidat import dense
from minidat.data.sample_sets import sample_recipe
from minidat.training.settings import Settings
from minidat.training.tasks.classification import Classification
from minidat.training.tasks.detection import Detection
from minidat.training.tasks.segmentation import Segmentation
from minidat.training.tasks.task import Sums, Task, Test

__all__ = ["Sums", "Task", "Test", "task_of"]


def task_of(settings: Settings) -> Task:
    """The task of a run with these settings."""
    if settings.head is None:
        return Classification(settings)
    kind = dense.HEADS[settings.head]
    options = dense.head_options(settings.head) | settings.head_options
    masks = kind.build.has_masks or bool(options.get("masks"))
    recipe = sample_recipe(settings.recipe, settings.data)
    return Segmentation(recipe) if kind.kind == "segmentation" else Detection(recipe, masks)
