"""Detection and segmentation: what stands on the pyramid, one part a file.

A model is a backbone (`models.Backbone`) with a head of `HEADS`; `create` makes one by name. `model.losses(images, targets, rng)`
is a training pass, `model.predict(images)` gives `Detections`, or the label of every pixel. Boxes are (row0, col0, row1, col1),
edges in pixels of the image that the network sees. What is not differentiated (anchors, assignment, suppression) is NumPy on the
host.
"""

from minidat.dense.detector import DenseModel, Detector
from minidat.dense.heads import HEADS, SMALL, Head, build, create, head_options, option_types
from minidat.dense.segmenter import Segmenter
from minidat.dense.targets import IGNORED, Detections, Objects, padded

__all__ = [
    "HEADS",
    "IGNORED",
    "SMALL",
    "DenseModel",
    "Detections",
    "Detector",
    "Head",
    "Objects",
    "Segmenter",
    "build",
    "create",
    "head_options",
    "option_types",
    "padded",
]
