"""The runs that are done, as tables (`report.md`), pictures (`figures/`), and data that chapter 15 reads (`runs.json`)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from experiments import records
from experiments.figure import draw
from experiments.statistics import mean, paired
from experiments.tables import TABLES, Row, Table, key
from minidat.files import atomic_write

HERE = Path(__file__).parent
HEADER = """# What the runs say

Made by `python -m experiments report` from `records/`, one file a run. Accuracy, in percent, is of the epoch that was best on
the held-out images, on the test images: mean ± standard deviation over seeds. The difference to the base is paired by seed,
with its 95 % interval (t-test): where the interval holds 0, these runs do not tell the two apart. The recipe is how images are
varied: "light" crops and flips them, "none" leaves them as they are.
"""


class Result(NamedTuple):
    """A row with the records of its seeds."""

    row: Row
    records: dict[int, records.Record]

    @property
    def accuracy(self) -> dict[int, float]:
        """seed → percent."""
        return {seed: round(100 * record["test_accuracy"], 4) for seed, record in self.records.items()}


def results(table: Table, folder: Path = records.FOLDER) -> list[Result]:
    """What is known of each row, in the table's order."""
    found = []
    for row in table.rows:
        known = {seed: records.read(key(table, row, seed), folder) for seed in range(table.seeds)}
        found.append(Result(row, {seed: record for seed, record in known.items() if record is not None}))
    return found


def write(tables: list[Table], folder: Path = records.FOLDER, out: Path = HERE) -> None:
    """Write the report, the same as data, and a picture of each table that has a run. Every table is in the report; pictures of
    others than `tables` are left as they are."""
    parts, condensed = [HEADER], {}
    (out / "figures").mkdir(exist_ok=True)
    for name, table in TABLES.items():
        found = results(table, folder)
        parts.append(section(name, table, found))
        condensed[name] = data(table, found)
        if table in tables and any(result.records for result in found):
            draw(table, [(r.row.name, r.accuracy) for r in found], out / "figures" / f"{name}.png")
    with atomic_write(out / "report.md") as file:
        file.write("\n".join(parts).encode())
    with atomic_write(out / "runs.json") as file:
        file.write((json.dumps(condensed, indent=1, ensure_ascii=False) + "\n").encode())


def data(table: Table, found: list[Result]) -> dict[str, Any]:
    """One table as data: accuracies in percent by seed; `difference` to the base, paired by seed, and half of its 95 % interval,
    from two common seeds on; `moved`: how far the points of each deformable block went, in pixels of its map."""
    rows = {}
    for result in found:
        rows[result.row.name] = {"accuracy": result.accuracy, "difference": None, "moved": []}
        if not result.records:
            continue
        some, difference = next(iter(result.records.values())), paired(result.accuracy, _base(table, found).accuracy)
        rows[result.row.name] |= {
            "run": key(table, result.row, 0),  # the same in every table that the row stands in
            "parameters": some["parameters"],
            "multiply_adds": some["multiply_adds"],
            "minutes": round(mean([record["seconds"] for record in result.records.values()]).value / 60, 1),
            "moved": [round(mean(values).value, 2) for values in _by_block(result, "moved")],
        }
        if result.row.name != table.base and difference and difference[2] > 1:
            rows[result.row.name]["difference"] = [round(number, 4) for number in difference[:2]]
    images = table.settings.get("test_size", 10_000)  # of CIFAR-10 all
    about = {"question": table.question, "base": table.base, "seeds": table.seeds, "conditions": _conditions(table)}
    return about | {"test_images": images, "rows": rows}


def _base(table: Table, found: list[Result]) -> Result:
    return next(result for result in found if result.row.name == table.base)


def _by_block(result: Result, measure: str) -> list[list[Any]]:
    """For each deformable block, the first one first: the measure of each seed."""
    blocks = [record["points"] for record in result.records.values()]
    return [[points[name][measure] for points in blocks] for name in blocks[0]]


def section(name: str, table: Table, found: list[Result]) -> str:
    """One table as Markdown."""
    done, wanted = sum(len(result.records) for result in found), len(table.rows) * table.seeds
    head = [f"## {table.question}", ""]
    state = "" if done == wanted else f" **{done} of {wanted} runs are done.**"
    head += [f"{_conditions(table)}. Base: {table.base}.{state} `python -m experiments run {name}`", ""]
    if not done:
        return "\n".join(head)
    more = EXTRA.get(name, {})
    titles = ["", "parameters", "multiply-adds", "seeds", "accuracy", "difference to the base", *more]
    lines = [_line(titles), _line(["---", *["--:"] * (len(titles) - 1)])]
    base = _base(table, found)
    for result in found:
        cells = [cell(result) if result.records else "" for cell in more.values()]
        lines.append(_line([result.row.name, *_numbers(result, base), *cells]))
    picture = f"![Each dot is a run, each bar the mean of a row](figures/{name}.png)"
    return "\n".join([*head, *lines, "", picture, ""])


def _conditions(table: Table) -> str:
    s = table.settings
    share = s["validation"]
    trained = round((1 - share) * s["train_size"])
    return f"{s['data']}: {trained:,} images to train on, {s['epochs']} epochs, recipe {s.get('recipe', 'none')}"


def _numbers(result: Result, base: Result) -> list[str]:
    if not result.records:
        return ["", "", "0", "not run yet", ""]
    some = next(iter(result.records.values()))
    accuracy = mean(list(result.accuracy.values()))
    spread = "" if math.isnan(accuracy.spread) else f" ± {accuracy.spread:.2f}"
    cells = [f"{some['parameters']:,}", f"{some['multiply_adds']:,}", str(accuracy.count)]
    return [*cells, f"{accuracy.value:.2f}{spread}", _difference(result, base)]


def _difference(result: Result, base: Result) -> str:
    found = paired(result.accuracy, base.accuracy)
    if result is base or found is None:
        return ""
    difference, half, _ = found
    signed = f"{difference:+.2f}".replace("-", "−")
    return signed + (f" ± {half:.2f}" if math.isfinite(half) else " (one seed)")


def _of_blocks(measure: str, told: Callable[[list], str]) -> Callable[[Result], str]:
    """A cell: what `told` says of the measure's values, one for each seed, in each deformable block, the first block first."""
    return lambda result: " · ".join(told(values) for values in _by_block(result, measure))


def _moved(seeds: list[float]) -> str:
    return f"{mean(seeds).value:.2f}"


def _apart(seeds: list[list[float]]) -> str:
    own, other = (mean(values).value for values in map(list, zip(*seeds, strict=True)))
    return f"{own:.2f} ({other:.2f})"


def _in_box(seeds: list[list[float]]) -> str:
    own, other, still = (100 * mean(values).value for values in map(list, zip(*seeds, strict=True)))
    return f"{own:.1f} ({other:.1f}, {still:.1f})"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


EXTRA: dict[str, dict[str, Callable[[Result], str]]] = {
    "range": {"moved, in pixels of the map, block by block": _of_blocks("moved", _moved)},
    "groups": {
        "groups apart, in pixels of the map (from another image's points), block by block": _of_blocks(
            "groups_apart", _apart
        ),
        "moved, in pixels of the map": _of_blocks("moved", _moved),
    },
    "looking": {
        "% of points in the box (another image's box, reference points), block by block": _of_blocks("in_box", _in_box)
    },
}
"""Further columns, of tables that ask where points go."""
