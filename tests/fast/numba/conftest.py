"""Ops with their compiled twins, and without them."""

import pytest

from minidat.autograd import OPS
from minidat.fast import numba as compiled


@pytest.fixture
def plain(monkeypatch):
    """op → its function without twins. Every op is as it was when the test is over."""
    for op in OPS.values():
        monkeypatch.setattr(op, "raw", op.raw)
    return {name: op.raw for name, op in OPS.items()}


@pytest.fixture
def twins(plain):
    """Ops with their twins; skips where there is no numba."""
    pytest.importorskip("numba")
    compiled.install()
    return plain
