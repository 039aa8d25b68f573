"""The device tests, on the GPU, in parallel."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SHOWN = 25  # failures in the page; all are in the JSON


def run(options: dict[str, Any], found: Any) -> None:
    if not _there("pytest") or not _there("hypothesis"):
        raise SystemExit("the tests need pytest and hypothesis: pip install pytest hypothesis pytest-xdist")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "--device", "gpu", "-m", "gpu", "--tb", "short"]
        command += ["-p", "no:cacheprovider", "-p", "no:benchmark", f"--junitxml={report}"]
        workers = options["workers"] or min(8, os.cpu_count() or 1)
        command += ["-n", str(workers)] if _there("xdist") and workers > 1 else []
        command += ["--timeout", str(options["timeout"])] if _there("pytest_timeout") else []
        command += [str(ROOT / path) for path in options["paths"]]
        done = subprocess.run(command, cwd=ROOT, check=False)
        if not report.exists():
            raise RuntimeError(f"pytest ended with code {done.returncode} and wrote no report")
        read(report, found)


def read(report: Path, found: Any) -> None:
    """Count, and name what failed."""
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    reasons: dict[str, int] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        bad = next((case.find(kind) for kind in ("failure", "error") if case.find(kind) is not None), None)
        skipped = case.find("skipped")
        if bad is not None:
            name = f"{case.get('classname')}::{case.get('name')}"
            found.fail(name, f"{bad.get('message') or ''}\n{bad.text or ''}"[-4000:])
            counts["failed"] += 1
        elif skipped is not None:
            reason = skipped.get("message") or "no reason"
            reasons[reason] = reasons.get(reason, 0) + 1
            counts["skipped"] += 1
        else:
            counts["passed"] += 1
    found.data.update(counts, skips=reasons)
    found.say(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped.")
    if reasons:
        found.say("", *(f"- skipped {count}: {reason}" for reason, count in reasons.items()))


def _there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
