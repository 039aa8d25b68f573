"""What is compared: networks, batches and work."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minidat.models import Config, Pyramid
from minidat.models.zoo import config, stages


@dataclass(frozen=True)
class Case:
    """work: "step" is forward, backward and AdamW; "forward" is inference. repeats: how often, in one turn. micro: images in
    one of our micro-batches on the CPU. together: at most so many sides hold their memory at a time. image: the side of the
    images, where it is not the network's own."""

    name: str
    model: str
    batch: int
    work: str
    repeats: int = 1
    micro: int = 32
    together: int = 6
    image: int = 0

    def inputs(self, image: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
        """Images float32 (B, S, S, 3) and labels (B,): noise, the same on all sides."""
        rng = np.random.default_rng(0)
        x = rng.standard_normal((self.batch, image, image, 3)).astype(np.float32)
        return x, rng.integers(0, classes, self.batch)


WINDOWS = (8, 8, 8, 4)
"""Of `dat_tiny` for images of 128, 256 and 384: its own windows of 7 tile no map of theirs."""


def configuration(name: str, image: int = 0) -> Config:
    """Of a model by its name, without drop path; of "one D" and "one P", a block of deformable and one of full attention on
    maps of a quarter of the image, as wide as DAT-T's first stage; or of "tiny", to rehearse with: windows, shifted or not, and
    deformed points, on maps of 4×4 and 2×2. image: another side than its own."""
    if name == "tiny":
        made = Config(32, 8, 10, stages((8, 16), (2, 4), ("LS", "D"), window=2, groups=(1, 2), kernel=3))
    elif name in ("one D", "one P"):
        made = Config(224, 4, 10, stages((96,), (3,), (name[-1],), kernel=9, expansion=1))
    else:
        made = config(name, drop_path=0.0)
    if name == "dat_tiny" and image not in (0, made.image):
        tiled = (stage.changed(window=w) for stage, w in zip(made.stages, WINDOWS, strict=True))
        made = replace(made, stages=tuple(tiled))
    return replace(made, image=image or made.image)


def network(name: str, image: int = 0) -> Pyramid:
    """With the weights that all sides share."""
    return Pyramid(configuration(name, image), np.random.default_rng(0))


def keywords(c: Config) -> dict[str, Any]:
    """The released constructor's, which is PyTorch's network's: of a network of local, shifted, deformable and full attention."""
    each, offsets = list(c.stages), [stage.offsets for stage in c.stages]
    off = ("dwc_pes", "fixed_pes", "no_offs", "use_dwc_mlps")
    return {
        "version": 2 if any("P" in stage.mixers for stage in each) else 1,
        "img_size": c.image,
        "patch_size": c.patch,
        "num_classes": c.classes,
        "expansion": each[0].expansion,
        "dim_stem": each[0].dim,
        "dims": [stage.dim for stage in each],
        "depths": [len(stage.mixers) for stage in each],
        "stage_spec": [list(stage.mixers) for stage in each],
        "heads": [stage.heads for stage in each],
        "window_sizes": [stage.window for stage in each],
        "groups": [stage.groups for stage in each],
        "sr_ratios": [stage.reduction for stage in each],
        "strides": [o.stride for o in offsets],
        "ksizes": [o.kernel for o in offsets],
        "offset_range_factor": [o.range_factor for o in offsets],
        "use_pes": [True] * len(each),
        "use_conv_patches": False,
        **{name: [False] * len(each) for name in off},
    }


CASES = {
    "cpu": (
        Case("dat_cifar step, batch 128", "dat_cifar", 128, "step"),
        Case("dat_cifar forward, batch 256", "dat_cifar", 256, "forward"),
        Case("dat_tiny 224 forward, batch 8", "dat_tiny", 8, "forward", micro=2),
        Case("dat_tiny 224 step, batch 8", "dat_tiny", 8, "step", micro=2),
    ),
    "gpu": (  # enough repeats for a GPU to reach its clock rate
        Case("dat_cifar step, batch 128", "dat_cifar", 128, "step", repeats=50),
        Case("dat_tiny 224 step, batch 64", "dat_tiny", 64, "step", repeats=50, together=4),
        Case("dat_cifar step, batch 512", "dat_cifar", 512, "step", repeats=50),
    ),
}
