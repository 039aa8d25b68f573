"""Fine-tuning: which parameters do not move, and how fast the others do, by where in the network they are.

The depth of a parameter is counted as in Swin's fine-tuning, which follows BEiT: the stem is 0; the blocks of all stages are
1 … L, and the convolution after a stage has the depth of its last block; the last norm and the head are L + 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from minidat.training.errors import TrainingError

FREEZE = re.compile(r"\d{1,3}|[a-z]\w*(\.\w+)*(,[a-z]\w*(\.\w+)*)*", re.ASCII)
"""A number of stages, or names of parts of the network."""


def rates(names: Iterable[str], blocks: Sequence[int], *, freeze: str | None, layer_decay: float) -> dict[str, float]:
    """{name: the parameter's share of the learning rate}: layer_decay^(L + 1 − depth), and 0 for what is frozen.

    names: of all parameters. blocks: of each stage, so many. freeze: see `parts`. Raises TrainingError for a part that the
    network does not have, and where nothing is left to train.
    """
    names = list(names)
    last = sum(blocks) + 1
    found = {name: layer_decay ** (last - depth(name, blocks)) for name in names}
    for part in parts(freeze, blocks) if freeze is not None else ():
        inside = [name for name in names if name == part or name.startswith(f"{part}.")]
        if not inside and not (freeze or "").isdigit():
            known = dict.fromkeys(name.partition(".")[0] for name in names)
            raise TrainingError(
                f"freeze {freeze}: the network has no {part}; its parts are {', '.join(known)}, or longer names"
            )
        found |= dict.fromkeys(inside, 0.0)
    if not any(found.values()):
        raise TrainingError(f"freeze {freeze}: every parameter is frozen, so there is nothing to train")
    return found


def depth(name: str, blocks: Sequence[int]) -> int:
    """0 for the stem … L + 1 for the last norm and the head, of a network with L = Σ `blocks` blocks."""
    part, *rest = name.split(".")
    if part == "stages":  # stages.STAGE.blocks.BLOCK.…
        return sum(blocks[: int(rest[0])]) + int(rest[2]) + 1
    if part == "downs":
        return sum(blocks[: int(rest[0]) + 1])
    return 0 if part in ("stem", "widen", "positions") else sum(blocks) + 1


def parts(freeze: str, blocks: Sequence[int]) -> list[str]:
    """The parts of the network that `freeze` names: "stem,stages.0" as it says; a number n stands for the first n stages and
    all before them, the convolution after each included. Raises TrainingError for more stages than there are."""
    if not freeze.isdigit():
        return freeze.split(",")
    count = int(freeze)
    if count > len(blocks):
        raise TrainingError(f"freeze {freeze}: the network has {len(blocks)} stages")
    numbered = [f"{part}.{i}" for i in range(count) for part in ("stages", "downs")]
    return ["stem", "widen", "positions", *numbered]
