"""Pictures a second that worker processes read, against their number: what feeds a network, without one.

    python benchmarks/reading.py                                  drawn photographs of 500 × 375 pixels, as JPEG
    python benchmarks/reading.py --data-dir PICTURES              your own: PICTURES/CLASS/*.jpg
    python benchmarks/reading.py --recipe none --image 384        as images are tested, at another size

Every picture is read and changed as in training. The processes are started before the clock.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from minidat.data import load, load_pictures
from minidat.data.augment import RECIPES
from minidat.data.decoders import Decoders
from minidat.data.images import Transform
from minidat.data.pictures import Pictures
from minidat.data.reading import Reader

DRAWN = 64  # files
SIZE = (500, 375)  # pixels of each, about ImageNet's mean
WORKERS = (0, 1, 2, 4, 8)


def draw(folder: Path) -> None:
    """Photographs of a kind: drawn shapes made large, with the grain that a camera has."""
    data = load("shapes", "train", size=DRAWN)
    rng = np.random.default_rng(0)
    for i, (pixels, label) in enumerate(zip(*data.batch(np.arange(DRAWN)), strict=True)):
        place = folder / data.classes[label]
        place.mkdir(parents=True, exist_ok=True)
        large = np.asarray(Image.fromarray(pixels).resize(SIZE, Image.Resampling.BICUBIC)).astype(int)
        grain = rng.integers(-6, 7, large.shape)
        Image.fromarray(np.clip(large + grain, 0, 255).astype(np.uint8)).save(place / f"{i:03d}.jpg", quality=90)


def speed(pictures: Pictures, recipe: str, seconds: float) -> float:
    """Pictures a second of `pictures.decoders`, over about so many seconds."""
    requests = ((i % len(pictures), (0, i)) for i in range(10**9))
    results = pictures.read(requests, ahead=max(32, 4 * pictures.decoders.workers), recipe=RECIPES[recipe])
    for _ in range(16):
        next(results)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        next(results)
        count += 1
    return count / (time.perf_counter() - began)


def main(arguments: list[str] | None = None) -> int:
    """Print a line for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="class folders of pictures (default: drawn ones)")
    parser.add_argument("--recipe", choices=RECIPES, default="imagenet")
    parser.add_argument("--image", type=int, default=224, help="pixels a side that the network takes (default: 224)")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=WORKERS, help="numbers of processes (default: 0 1 2 4 8)"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="for each number (default: 5)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as made:
        folder = options.data_dir or Path(made)
        if options.data_dir is None:
            draw(folder)
        reader = Reader(Transform(options.image), upright=True)
        print("workers  pictures/s")
        for workers in options.workers:
            with Decoders(workers) as decoders:
                pictures = load_pictures("folder", "train", reader=reader, data_dir=folder, decoders=decoders)
                print(f"{workers:7d}  {speed(pictures, options.recipe, options.seconds):10.1f}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
