"""Where the points of a trained detector and of a trained segmenter go on drawn scenes, for chapters 20 and 21:

minidat train --head retina_mask --out runs/boxes
minidat train --head semantic_fpn --out runs/pixels
python chapters/results/20_points.py runs/boxes runs/pixels
"""

import json
import sys
from pathlib import Path

import numpy as np

from minidat import dense
from minidat.analysis.points import map_to_image, reference_pixels
from minidat.autograd import Tensor, no_grad
from minidat.data.augment import normalise
from minidat.data.samples import Sample
from minidat.data.scenes import Scenes
from minidat.training import checkpoint

SHOWN, COUNTED = (5, 35, 41), 100  # images that are drawn, and over which is counted
PREFIX = "parameters/"


def main(*runs: str) -> None:
    found = {}
    for run in map(Path, runs):
        settings = json.loads((run / "settings.json").read_text("utf-8"))
        model = trained(run, settings)
        samples = Scenes("test").samples(np.arange(COUNTED))
        records: dict = {}
        x = normalise(np.stack([sample.image for sample in samples]), Scenes.mean, Scenes.std)
        with no_grad():
            answers = model.predict(Tensor(x), record=records)
        found[model.kind] = {
            "head": settings["head"],
            "steps": checkpoint.load(run / "best.safetensors")[1]["step"],
            "images": [shown(answers[i], i) for i in SHOWN],
            "blocks": {f"stage {stage + 1}": block(record, samples) for (stage, _), record in records.items()},
        }
    text = json.dumps(found, indent=None, separators=(",", ":"))
    Path(__file__).with_suffix(".json").write_text(text + "\n", "utf-8")


def trained(run: Path, settings: dict) -> dense.DenseModel:
    """The run's best weights in its network."""
    classes = len(Scenes.semantic_classes if "fpn" in settings["head"] else Scenes.classes)
    model = dense.create(settings["model"], settings["head"], classes=classes, **settings["head_options"])
    arrays, _ = checkpoint.load(run / "best.safetensors")
    model.load({name.removeprefix(PREFIX): array for name, array in arrays.items() if name.startswith(PREFIX)})
    return model


def shown(answer: "dense.Detections | np.ndarray", index: int) -> dict:
    """An answer to image `index`: boxes with a score above ½, or the class of each pixel, row by row, a letter each."""
    if isinstance(answer, np.ndarray):
        return {"index": index, "classes": ["".join(chr(97 + label) for label in row) for row in answer]}
    sure = answer.scores > 0.5
    return {
        "index": index,
        "boxes": answer.boxes[sure].astype(float).round(1).tolist(),
        "labels": answer.labels[sure].tolist(),
    }


def block(record: dict, samples: list[Sample]) -> dict:
    """Points of the images that are drawn, in pixels of the image, and how many of all points are on an object."""
    image = samples[0].size
    start = map_to_image(reference_pixels(record["reference"], record["size"]), record["size"], image)  # (P, 2)
    ends = map_to_image(record["points"], record["size"], image)  # (B, G, P, 2)
    return {
        "references": start.round(1).tolist(),
        "points": [ends[i].astype(float).round(1).tolist() for i in SHOWN],
        "references on objects": float(np.mean([on_objects(start, sample) for sample in samples])),
        "points on objects": float(np.mean([on_objects(end.reshape(-1, 2), s) for end, s in zip(ends, samples)])),
        "objects": float(np.mean([sample.masks.any(0).mean() for sample in samples])),
        "mean move": float(np.linalg.norm(ends - start, axis=-1).mean()),
    }


def on_objects(points: np.ndarray, sample: Sample) -> float:
    """The share of points (N, 2) whose pixel is on an object."""
    row, col = np.clip(np.round(points), 0, np.array(sample.size) - 1).astype(int).T
    return float(sample.masks.any(0)[row, col].mean())


if __name__ == "__main__":
    main(*sys.argv[1:])
