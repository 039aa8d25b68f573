"""What `minidat predict` says and draws of an image with a classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from minidat import ops
from minidat.autograd import Tensor, no_grad
from minidat.autograd.backend import asnumpy, to_device
from minidat.cli.photograph import read_photograph
from minidat.cli.pictures import last_blocks
from minidat.cli.terminal import printable
from minidat.data.augment import normalise
from minidat.metrics.top_k import check_finite
from minidat.models import Pyramid


@dataclass(frozen=True)
class Viewer:
    """A classifier, and what is between an image file and its answer. transform: from an image to the network's square. mean,
    std: of the images that it was trained on. names: of its classes, of which `top` are told. For a network with a head
    there is `dense.Viewer`."""

    model: Pyramid
    transform: Callable[[Image.Image], np.ndarray]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    names: Sequence[str]
    device: str
    top: int

    def read(self, path: Path) -> np.ndarray:
        """uint8 (S, S, 3). Raises DataError where the image cannot be read."""
        return self.transform(read_photograph(path))

    def tell(self, path: Path, pixels: np.ndarray, picture: Path) -> Iterator[str]:
        """Blocks of lines: the classes, and where the picture is. Raises ValueError for outputs that are not finite."""
        record: dict = {}
        x = to_device(normalise(pixels[None], self.mean, self.std), self.device)  # (1, S, S, 3)
        with no_grad():
            logits = self.model(Tensor(x), record=record)  # (1, K)
            check_finite(asnumpy(logits.data), [path])
            probabilities = asnumpy(ops.softmax(logits).data)[0]  # (K,)
        best = np.argsort(-probabilities, kind="stable")[: self.top]
        named = [(self.names[i], float(probabilities[i])) for i in best]
        yield f"{printable(str(path))}\n{_table(named)}"
        yield f"  {_draw(pixels, record, named, picture)}"


def _table(named: Sequence[tuple[str, float]]) -> str:
    width = max(len(name) for name, _ in named)
    return "\n".join(f"  {name:{width}}  {100 * share:6.2f} %" for name, share in named)


def _draw(pixels: np.ndarray, records: dict, named: Sequence[tuple[str, float]], picture: Path) -> str:
    """Draw the picture; a line on where it is."""
    shown = last_blocks(records)
    if not shown:
        return "no picture: the network has no deformable block"
    from minidat.analysis.predictions import prediction_figure  # matplotlib takes a moment to import

    prediction_figure(pixels, shown, picture, named=named)
    return f"points in {printable(str(picture))}"
