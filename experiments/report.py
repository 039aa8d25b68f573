"""The runs that are done, as tables (`report.md`) and pictures (`figures/`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from experiments import records
from experiments.figure import draw
from experiments.statistics import mean, paired
from experiments.tables import TABLES, Row, Table, key
from minidat.files import atomic_write

HERE = Path(__file__).parent
HEADER = """# What the runs say

Made by `python -m experiments report` from `records/`, one file a run. Accuracy, in percent, is of the epoch that was best on
the held-out images, on the test images: mean ± standard deviation over seeds. The difference to the base is paired by seed,
with its 95 % interval (t-test): where the interval holds 0, these runs do not tell the two apart.
"""


class Result(NamedTuple):
    """A row with the records of its seeds."""

    row: Row
    records: dict[int, records.Record]

    @property
    def accuracy(self) -> dict[int, float]:
        """seed → percent."""
        return {seed: 100 * record["test_accuracy"] for seed, record in self.records.items()}


def results(table: Table, folder: Path = records.FOLDER) -> list[Result]:
    """What is known of each row, in the table's order."""
    found = []
    for row in table.rows:
        known = {seed: records.read(key(table, row, seed), folder) for seed in range(table.seeds)}
        found.append(Result(row, {seed: record for seed, record in known.items() if record is not None}))
    return found


def write(tables: list[Table], folder: Path = records.FOLDER, out: Path = HERE) -> None:
    """Write the report, and a picture of each table that has a run. Every table is in the report; pictures of others than
    `tables` are left as they are."""
    parts = [HEADER]
    (out / "figures").mkdir(exist_ok=True)
    for name, table in TABLES.items():
        found = results(table, folder)
        parts.append(section(name, table, found))
        if table in tables and any(result.records for result in found):
            draw(table, [(r.row.name, r.accuracy) for r in found], out / "figures" / f"{name}.png")
    with atomic_write(out / "report.md") as file:
        file.write("\n".join(parts).encode())


def section(name: str, table: Table, found: list[Result]) -> str:
    """One table as Markdown."""
    done, wanted = sum(len(result.records) for result in found), len(table.rows) * table.seeds
    head = [f"## {table.question}", ""]
    state = "" if done == wanted else f" **{done} of {wanted} runs are done.**"
    head += [f"{_conditions(table)} Base: {table.base}.{state} `python -m experiments run {name}`", ""]
    if not done:
        return "\n".join(head)
    more = EXTRA.get(name, {})
    titles = ["", "parameters", "multiply-adds", "seeds", "accuracy", "difference to the base", *more]
    lines = [_line(titles), _line(["---", *["--:"] * (len(titles) - 1)])]
    base = next(result for result in found if result.row.name == table.base)
    for result in found:
        cells = [cell(result) if result.records else "" for cell in more.values()]
        lines.append(_line([result.row.name, *_numbers(result, base), *cells]))
    picture = f"![Each dot is a run, each bar the mean of a row](figures/{name}.png)"
    return "\n".join([*head, *lines, "", picture, ""])


def _conditions(table: Table) -> str:
    s = table.settings
    share = s["validation"]
    trained = round((1 - share) * s["train_size"])
    return f"{s['data']}: {trained:,} images to train on, {s['epochs']} epochs, recipe {s.get('recipe', 'none')}."


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


def _of_blocks(measure: Callable[[dict], str]) -> Callable[[Result], str]:
    """A cell: `measure` of the means over seeds in each deformable block, the first block first."""

    def cell(result: Result) -> str:
        blocks = [record["points"] for record in result.records.values()]
        return " · ".join(measure({"seeds": [points[name] for points in blocks]}) for name in blocks[0])

    return cell


def _moved(block: dict) -> str:
    return f"{mean([seed['moved'] for seed in block['seeds']]).value:.2f}"


def _apart(block: dict) -> str:
    own, other = (mean([seed["groups_apart"][i] for seed in block["seeds"]]).value for i in (0, 1))
    return f"{own:.2f} ({other:.2f})"


def _in_box(block: dict) -> str:
    own, other, still = (100 * mean([seed["in_box"][i] for seed in block["seeds"]]).value for i in (0, 1, 2))
    return f"{own:.1f} ({other:.1f}, {still:.1f})"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


EXTRA: dict[str, dict[str, Callable[[Result], str]]] = {
    "range": {"moved, in pixels of the map, block by block": _of_blocks(_moved)},
    "groups": {
        "groups apart, in pixels of the map (from another image's points)": _of_blocks(_apart),
        "moved": _of_blocks(_moved),
    },
    "looking": {"% of points in the box (another image's box, reference points)": _of_blocks(_in_box)},
}
"""Further columns, of tables that ask where points go."""
