"""Which share of a trained network's deformable points lies in the box of the object, on 400 test images of `shapes`.

python chapters/results/14_in_box.py              the network that chapter 14 keeps, 14_shapes.safetensors
python chapters/results/14_in_box.py RUN          the best weights of a run of `minidat train` on shapes

Two controls stand beside it: the same points in the box of the image before, and the reference points, which do not move.
"""

import sys
from pathlib import Path

import numpy as np

from minidat import Tensor, no_grad
from minidat.analysis.looking import in_box
from minidat.analysis.points import reference_pixels
from minidat.data import load
from minidat.data.augment import normalise
from minidat.models import create
from minidat.training import checkpoint

IMAGES, SIZE = 400, (32, 32)
STORED = Path(__file__).with_name("14_shapes.safetensors")


def network(run: Path | None):
    """A trained model, and its accuracy on the test images."""
    arrays, about = checkpoint.load(STORED if run is None else run / "best.safetensors")
    name, accuracy = (about["model"], about["accuracy"]) if run is None else (about["settings"]["model"], about["best"])
    model = create(name)
    model.load({n.removeprefix("parameters/"): a.astype(np.float32) for n, a in arrays.items() if "adamw" not in n})
    return model, accuracy


def shares(model) -> dict:
    """(stage, block) → the shares: own box, another image's box, reference points in the own box."""
    test = load("shapes", "test")
    images, _ = test.batch(np.arange(IMAGES))
    boxes, record = test.objects(np.arange(IMAGES))[0], {}
    with no_grad():
        model(Tensor(normalise(images, test.mean, test.std)), record=record)
    found = {}
    for key, entry in record.items():
        points, size = entry["points"], entry["size"]
        still = np.broadcast_to(reference_pixels(entry["reference"], size), points.shape)
        given = (points, boxes), (points, np.roll(boxes, 1, axis=0)), (still, boxes)
        found[key] = [float(in_box(p, size, b, SIZE).mean()) for p, b in given]
    return found


def main(run: str | None = None) -> None:
    model, accuracy = network(None if run is None else Path(run))
    print(f"accuracy {accuracy:.2%}; share of the points in the box of the object, {IMAGES} test images")
    for (stage, block), (own, other, still) in shares(model).items():
        print(
            f"stage {stage + 1}, block {block + 1}: {own:.1%}, in another image's {other:.1%}, reference points {still:.1%}"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
