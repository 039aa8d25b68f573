"""Some epochs of CIFAR-10 by `minidat train`, with its log and its curve."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def run(options: dict[str, Any], found: Any) -> None:
    if options["data"] == "cifar10" and not options["place"]:
        raise SystemExit("no CIFAR-10: name its folder or archive with --cifar")
    with tempfile.TemporaryDirectory() as folder:
        out, kept = Path(folder) / "run", Path(options["out"])
        command = ["train", "--data", options["data"], "--device", "gpu", "--epochs", str(options["epochs"])]
        command += ["--out", str(out), *options["more"]]
        command += ["--data-dir", options["place"]] if options["data"] == "cifar10" else []
        done = subprocess.run([sys.executable, "-m", "minidat", *command], check=False)
        for name, new in (("log.jsonl", "train.jsonl"), ("curves.png", "curves.png")):
            if (out / name).exists():
                shutil.copyfile(out / name, kept / new)
        if done.returncode:
            raise RuntimeError(f"minidat {' '.join(command)} ended with code {done.returncode}")
        shown = " ".join(["minidat", *command]).replace(str(out), "DIR")
        records = [json.loads(line) for line in (out / "log.jsonl").read_text("utf-8").splitlines()]
        tell(records, shown, found)


def tell(records: list[dict[str, Any]], command: str, found: Any) -> None:
    """The accuracy after each epoch, and the pace."""
    tests = [r for r in records if r["kind"] in ("test", "validation")]
    paces = [r["images_per_second"] for r in records if r.get("images_per_second")]
    found.data["epochs"] = [{k: r.get(k) for k in ("epoch", "accuracy", "seconds")} for r in tests]
    found.data["images_per_second"] = paces
    found.say(f"`{command}`", "", "| epoch | accuracy, % | s |", "|---|---|---|")
    found.say(*(f"| {r['epoch']} | {100 * r['accuracy']:.2f} | {r.get('seconds', 0.0):.1f} |" for r in tests))
    if paces:
        found.say("", f"{sorted(paces)[len(paces) // 2]:,.0f} images a second (median of the log's lines).")
    found.say("", "![loss and accuracy](curves.png)")
