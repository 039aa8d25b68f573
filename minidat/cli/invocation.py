"""How a user starts minidat here: a recommended command must work in the shell it is pasted into."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

PLAIN_PATH = re.compile(r"[\w@%+=:,./ -]+", re.ASCII)  # means the same inside make's ARGS="…"


def command_line(command: str, *arguments: object) -> str:
    """The line that runs a command of minidat: by `make train` where make started this process, else by the program that
    runs now."""
    words = [shlex.quote(str(argument)) for argument in arguments]
    if command == "train" and "MAKELEVEL" in os.environ and all(map(PLAIN_PATH.fullmatch, map(str, arguments))):
        return f'make train ARGS="{" ".join(words)}"'
    return " ".join([*_program(sys.argv[0]), command, *words])


def _program(started: str) -> Sequence[str]:
    """The words that start minidat. started: `sys.argv[0]`, the script, or a file of the package after `python -m minidat`."""
    script = Path(started)
    if script.stem == "minidat" and script.is_file():
        found = shutil.which("minidat")
        same = found is not None and os.path.samefile(found, script)
        return ["minidat" if same else shlex.quote(started)]
    python = shutil.which("python")
    same = python is not None and Path(python).absolute() == Path(sys.executable).absolute()
    return ["python" if same else shlex.quote(sys.executable), "-m", "minidat"]
