"""Measured tables, put into a page of Markdown between two marks: `<!-- NAME: begin -->` and `<!-- NAME: end -->`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def write(page: Path, name: str, lines: Sequence[str]) -> None:
    """Replace what stands between the page's marks of this name. Raises ValueError where it has none."""
    begin, end = (f"<!-- {name}: {mark} -->\n" for mark in ("begin", "end"))
    before, found, rest = page.read_text("utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{page} has no marks {begin.strip()} and {end.strip()}")
    content = "\n".join(lines)
    page.write_text(f"{before}{begin}{content}\n{end}{after}", "utf-8")
