"""MPLBACKEND, the environment variable that names matplotlib's backend: what to do where it names one that is not there."""

from __future__ import annotations

import os
from importlib.util import find_spec

VARIABLE, MODULE = "MPLBACKEND", "module://"


def drop_missing_backend() -> None:
    """Remove MPLBACKEND where it names a module that is not installed: matplotlib would refuse to be imported.

    A notebook sets it for every program that it starts, also for one in another environment. The pictures here need no
    backend. A backend that is installed stays, for the user's own figures.
    """
    package = os.environ.get(VARIABLE, "").removeprefix(MODULE).partition(".")[0]
    if os.environ.get(VARIABLE, "").startswith(MODULE) and find_spec(package) is None:
        del os.environ[VARIABLE]
