"""`python -m gpu_steps MODULE RESULT OPTIONS`: one step, whose findings are in the file RESULT after each of them."""

from __future__ import annotations

import json
import os
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any


class Found:
    """What a step found so far, as JSON in a file. `lines`: of the page. `failures`: what went wrong, each with its traceback."""

    def __init__(self, file: Path):
        self.file = file
        self.data: dict[str, Any] = {}
        self.lines: list[str] = []
        self.failures: list[dict[str, str]] = []

    def say(self, *lines: str) -> None:
        """Add lines to the page, and print them."""
        self.lines += lines
        print(*lines, sep="\n", flush=True)
        self.save()

    def fail(self, what: str, details: str) -> None:
        """Note a failure; the step goes on."""
        self.failures.append({"what": what, "details": details})
        print(f"FAILED {what}\n{details}", flush=True)
        self.save()

    def attempt(self, what: str, function: Any, *arguments: Any) -> Any:
        """function(*arguments); None where it raises, which is noted."""
        try:
            return function(*arguments)
        except Exception:
            self.fail(what, traceback.format_exc())
            return None

    def save(self) -> None:
        """Whole, or as before."""
        unfinished = self.file.with_suffix(".part")
        unfinished.write_text(json.dumps({"data": self.data, "lines": self.lines, "failures": self.failures}), "utf-8")
        os.replace(unfinished, self.file)


def main() -> int:
    name, file, options = sys.argv[1:]
    found = Found(Path(file))
    found.save()
    found.attempt(name, lambda: import_module(name).run(json.loads(options), found))
    found.save()
    return 1 if found.failures else 0


if __name__ == "__main__":
    sys.exit(main())
