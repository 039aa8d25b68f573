"""What is raised for a file of weights that cannot be read or written."""

from __future__ import annotations

import os


class WeightsError(ValueError):
    """The message names the file and the reason."""

    def __init__(self, path: str | os.PathLike[str], reason: str):
        super().__init__(f"checkpoint {os.fspath(path)!s}: {reason}")
