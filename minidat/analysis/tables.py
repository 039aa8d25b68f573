"""Costs as aligned text: one model part by part, or several models side by side. `minidat info` prints them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minidat.analysis.cost import KINDS, Row, cost, offset_shares, omega_dmha, sides, totals
from minidat.analysis.dense_cost import IMAGE, PRINTED, dense_cost
from minidat.analysis.mixer_cost import Size
from minidat.attention import DeformableAttention, NeighborhoodAttention, SpatialReductionAttention, WindowAttention
from minidat.dense import HEADS, DenseModel
from minidat.models.config import StageConfig
from minidat.models.pyramid import Pyramid, Trunk

COUNTED = {
    "macs": "multiply-adds",
    "paper": "multiply-adds (counted as the paper does)",
    "dense": "multiply-adds (as mmcv counts, with attention)",
}


def table(model: Pyramid, convention: str = "macs", *, image: int | Size | None = None, detail: bool = False) -> str:
    """The model as aligned text: a line for each part, and the totals.

    Columns: "window" is the size of Swin's window or NAT's neighbourhood, "keys" the key grid that all queries of a map share:
    DAT's points, PVT's reduced map. A last line gives the offset network's share of deformable attention. detail: add a table
    of the parts of each block's multiply-adds. convention, image, errors: see `cost`.
    """
    size = sides(model.config.image if image is None else image)
    rows = cost(model, convention, size)
    text = _parts_table(rows, model, convention, size)
    if shares := _shares(model, size):
        text += "\n" + shares
    return text + "\n\n" + _details(rows) if detail else text


def dense_table(
    model: DenseModel, backbone: str, head: str, convention: str = "macs", *, image: Size, detail: bool = False
) -> str:
    """A detector or segmenter as aligned text, like `table`; and what the paper prints for it. image: (H, W)."""
    rows = dense_cost(model, image, convention)
    text = _parts_table(rows, model.backbone, convention, image)
    if note := _printed(backbone, head):
        text += "\n" + note
    return text + "\n\n" + _details(rows) if detail else text


def _printed(backbone: str, head: str) -> str:
    """What DAT's paper says of this backbone and head; "" where nothing."""
    found = PRINTED.get((backbone, head))
    if found is None:
        return ""
    h, w = IMAGE[HEADS[head].kind]
    text = f"The paper prints {found}G for {h}×{w}"
    if backbone.startswith("swin"):
        return f"{text}; --convention dense counts so (9 of 10 rows of Swin)."
    return (
        f"{text}. No rule that is known gives its\nFLOPs of DAT in detection and segmentation: keys with stride 1, as released,\n"
        "are 3 to 26 % above; with stride 2 in stage 3 within 1 % (detection), and up\nto 8 % below (segmentation)."
    )


def _parts_table(rows: Sequence[Row], trunk: Trunk, convention: str, size: Size) -> str:
    """A line for each row, and the totals."""
    total = totals(rows)
    stages = {f"stage {i}": (stage, trunk.stages[i - 1]) for i, stage in enumerate(trunk.config.stages, 1)}
    cells = [["", "map", "blocks", "heads", "window", "groups", "keys", "parameters", "multiply-adds"]]
    for row in rows:
        settings = _settings(*stages[row.name], row.shape[:2]) if row.name in stages else [""] * 4
        counts = [f"{row.parameters:,}", f"{row.multiply_adds:,}"]
        cells.append([row.name, _shape(row), repeats(row.blocks), *settings, *counts])
    cells.append(["total", *[""] * 6, f"{total.parameters:,}", f"{total.multiply_adds:,}"])
    text = _align(cells, left=3)
    text += f"\n\n{total.parameters / 1e6:.2f} M parameters, {_work(total.multiply_adds)} {COUNTED[convention]} "
    return text + f"for one {size[0]}×{size[1]} image"


def compare(models: Mapping[str, Pyramid], convention: str = "macs", *, image: int | Size | None = None) -> str:
    """Models side by side, part by part: for each part a line per model, with the ratios of its counts to the first model's.

    models: name → model. The convolutions between stages are one part, "downs". image: of all models; by default each has its
    own. Errors: see `cost`.
    """
    parts = {}
    for name, model in models.items():
        try:
            parts[name] = _parts(cost(model, convention, image))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    longest = max(parts.values(), key=len)
    first = next(iter(parts.values()))
    lines: list[list[str]] = []
    for part in longest:
        label = part
        for name, own in parts.items():
            if part in own:
                lines.append([label, name, *_counts(own[part], first.get(part))])
                label = ""
        lines.append([])
    head = ["", "model", "map", "blocks", "parameters", "ratio", "multiply-adds", "ratio"]
    sizes = {sides(model.config.image if image is None else image) for model in models.values()}
    images = " and ".join(f"{h}×{w}" for h, w in sorted(sizes))
    per = f"one {images} image" if len(sizes) == 1 else f"one image of each model's own size, {images}"
    text = _align([head, *lines[:-1]], left=4, last=False)
    return text + f"\n\nCounts are {COUNTED[convention]} for {per}; ratios are to {next(iter(models))}."


def _parts(rows: Sequence[Row]) -> dict[str, Row]:
    """Rows by name, with the convolutions between stages added up as "downs", and "total" as the last."""
    downs = [row for row in rows if row.name.startswith("down")]
    parts = {row.name: row for row in rows if row not in downs}
    head = parts.pop("head")
    if downs:
        parts["downs"] = Row("downs", (0, 0, 0), "", *totals(downs))
    return parts | {"head": head, "total": Row("total", (0, 0, 0), "", *totals(rows))}


def _counts(row: Row, first: Row | None) -> list[str]:
    ratios = ["–", "–"]
    if first:
        ratios = [f"{row.parameters / first.parameters:.2f}", f"{row.multiply_adds / first.multiply_adds:.2f}"]
    counts = [f"{row.parameters:,}", ratios[0], f"{row.multiply_adds:,}", ratios[1]]
    return [_shape(row) if row.shape[0] else "", repeats(row.blocks), *counts]


def _shape(row: Row) -> str:
    return "×".join(map(str, row.shape))


def _work(multiply_adds: int) -> str:
    billions = multiply_adds / 1e9
    return f"{billions:.4f} G" if billions >= 1 else f"{1e3 * billions:.2f} M"


def _settings(stage: StageConfig, built: Any, size: tuple[int, ...]) -> list[str]:
    """Heads, window, groups and keys of a stage; "–" where no block of it has any."""
    mixers = [block.mixer for block in built.blocks]
    deformable = [mixer for mixer in mixers if isinstance(mixer, DeformableAttention)]
    windows = [mixer.window for mixer in mixers if isinstance(mixer, WindowAttention)]
    windows += [mixer.kernel for mixer in mixers if isinstance(mixer, NeighborhoodAttention)]
    keys = [mixer.offsets.key_size(size) for mixer in deformable]
    keys += [tuple(n // m.reduction for n in size) for m in mixers if isinstance(m, SpatialReductionAttention)]
    return [
        str(stage.heads),
        f"{windows[0]}×{windows[0]}" if windows else "–",
        str(stage.groups) if deformable else "–",
        "×".join(map(str, keys[0])) if keys else "–",
    ]


def repeats(letters: str) -> str:
    """ "L D L D L D" → "L D ×3"; "L S" stays."""
    words = letters.split()
    for n in range(1, len(words) // 2 + 1):
        if len(words) % n == 0 and words == words[:n] * (len(words) // n):
            return f"{' '.join(words[:n])} ×{len(words) // n}"
    return letters


def _shares(model: Pyramid, image: Size) -> str:
    """The offset network's share of deformable attention, and what the paper's text says of it."""
    shares = offset_shares(model, image)
    if not shares:
        return ""
    found = ", ".join(f"stage {stage} {omega.share:.2%}" for stage, omega in shares.items())
    example = omega_dmha(14, 14, 384, 49, 5)
    return (
        f"Offset network, of a deformable attention's multiply-adds: {found}.\n(The paper's text says 6.0% for its example, a "
        f"14×14×384 map with 49 keys; its formula gives {example.share:.2%}.)"
    )


def _details(rows: Sequence[Row]) -> str:
    """A line for each kind of block of a stage: the parts of its multiply-adds."""
    cells = [["", "block", *KINDS, "all"]]
    for row in rows:
        for letter in dict.fromkeys(block.mixer for block in row.detail):
            same = [block for block in row.detail if block.mixer == letter]
            counts = [getattr(same[0], kind) for kind in (*KINDS, "multiply_adds")]
            name = letter if len(same) == 1 else f"{letter} ×{len(same)}, each"
            cells.append([row.name, name, *(f"{n / 1e6:,.2f}" if n else "–" for n in counts)])
    spent = [sum(getattr(block, kind) for row in rows for block in row.detail) for kind in KINDS]
    shares = [n / totals(rows).multiply_adds for n in (*spent, sum(spent))]
    cells.append(["of the model", "", *(f"{share:.1%}" if share else "–" for share in shares)])
    return "Millions of multiply-adds in a block:\n" + _align(cells, left=2)


def _align(cells: Sequence[Sequence[str]], left: int, *, last: bool = True) -> str:
    """Columns two spaces apart, the first `left` of them flush left. A rule stands under the first line, above the last one
    (if `last`), and for each empty line."""
    widths = [max(len(line[i]) for line in cells if line) for i in range(len(cells[0]))]
    justify = [str.ljust if i < left else str.rjust for i in range(len(widths))]
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    lines = ["  ".join(j(c, n) for j, c, n in zip(justify, line, widths)).rstrip() if line else rule for line in cells]
    return "\n".join([lines[0], rule, *lines[1:-1], *([rule] if last else []), lines[-1]])
