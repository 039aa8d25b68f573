"""Tests on a device, unchanged: they hand NumPy arrays over and get NumPy arrays back; what happens between happens there.

While a `Crossing` is open, every op's function takes its arrays to the device and brings its value back, and its vjp does the
same. A module that is called crosses as a whole, tensors and all: from its input to its output, and backward, nothing leaves
the device. So what a test compares was computed there, or the device refused it.
"""

import functools
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from backends import restored

import minidat.models  # noqa: F401 (every module and op is known then)
from minidat.autograd import OPS, Tensor
from minidat.nn import Module

OPEN = []
"""The crossing that is open, if one is."""


class Crossing:
    """To a device and back. xp: its array module."""

    def __init__(self, xp):
        self.xp = xp
        self._thread = threading.local()

    @contextmanager
    def open(self):
        """Ops and modules cross, until the end of `with`."""
        with restored(), pytest.MonkeyPatch.context() as patch:
            Module().to(device="gpu")  # as a user gets there
            for op in OPS.values():
                patch.setattr(op, "raw", self.function(op.raw))
            for kind in _subclasses(Module):
                if "__call__" in vars(kind):
                    patch.setattr(kind, "__call__", self._module(vars(kind)["__call__"]))
            OPEN.append(self)
            try:
                yield
            finally:
                OPEN.pop()

    # Arrays

    def put(self, value):
        """NumPy arrays in `value` as arrays on the device; everything else as it is."""
        if isinstance(value, tuple | list):
            return type(value)(map(self.put, value))
        if not isinstance(value, np.ndarray):
            return value
        if value.flags.c_contiguous or value.flags.f_contiguous:
            return self.xp.asarray(value)
        return self.xp.repeat(self.xp.asarray(value.T.copy()), 2, axis=0)[::2].T  # no whole array there either

    def get(self, value):
        """Device arrays in `value` in NumPy. An array that is there already should not be."""
        if isinstance(value, tuple | list):
            return type(value)(map(self.get, value))
        assert not isinstance(value, np.ndarray), f"an array of NumPy's came back from the device: {value!r}"
        return value.get() if isinstance(value, self.xp.ndarray) else value

    def function(self, f, held=()):
        """f, given arrays and giving arrays, or functions of such. Nothing it is given or gave before may it write to."""

        @functools.wraps(f)
        def crossed(*arrays, **options):
            if self._inside or not _hosted([*arrays, *options.values()]):
                return f(*arrays, **options)
            there = self.put(list(arrays))
            with self._being_inside():
                result = f(*there, **{name: self.put(option) for name, option in options.items()})
            results = result if isinstance(result, tuple) else (result,)
            here = tuple(None if callable(value) else self.get(value) for value in results)
            known = *held, *_pairs(arrays, there), *_pairs(here, results)
            for before, now in known:
                assert before.tobytes() == now.get().tobytes(), (
                    f"{f.__name__} wrote to an array of shape {before.shape}"
                )
            given = tuple(
                self.function(value, known) if callable(value) else array
                for value, array in zip(results, here, strict=True)
            )
            return given if isinstance(result, tuple) else given[0]

        return crossed

    # Modules

    def _module(self, forward):
        @functools.wraps(forward)
        def crossed(module, *inputs, **options):
            if self._inside or not _hosted(inputs):
                return forward(module, *inputs, **options)
            with self._moved(module), self._being_inside():
                y = forward(module, *map(self._sent, inputs), **options)
            for record in (*inputs, *options.values()):
                if isinstance(record, dict):
                    self._fetch(record)
            return self._brought(y)

        return crossed

    def _sent(self, value):
        """A Tensor whose array is on the device and whose gradient goes to the one it stands for."""
        if isinstance(value, list):
            return [self._sent(item) for item in value]
        if not isinstance(value, Tensor):
            return self.put(value)
        if not value.requires_grad:
            return Tensor(self.put(value.data))
        return Tensor(self.put(value.data), True, parents=(value,), vjp=lambda dy: (self.get(dy),))

    def _brought(self, y):
        if not y.requires_grad:
            return Tensor(self.get(y.data))
        return Tensor(self.get(y.data), True, parents=(y,), vjp=lambda dy: (self.put(dy),))

    @contextmanager
    def _moved(self, module):
        """Inside, what stands at the module's tensors' places is on the device."""
        places = list(_places(module))
        try:
            for owner, name, tensor in places:
                vars(owner)[name] = self._sent(tensor)
            yield
        finally:
            for owner, name, tensor in places:
                vars(owner)[name] = tensor

    def _fetch(self, record):
        """What a forward pass recorded, in NumPy."""
        for key, value in record.items():
            if isinstance(value, dict):
                self._fetch(value)
            else:
                record[key] = self.get(value)

    # Where this thread is

    @property
    def _inside(self):
        return getattr(self._thread, "inside", False)

    @contextmanager
    def _being_inside(self):
        before, self._thread.inside = self._inside, True
        try:
            yield
        finally:
            self._thread.inside = before


def travelling(f):
    """A function of arrays that is no op's, which crosses while a crossing is open."""

    @functools.wraps(f)
    def call(*arrays, **options):
        return (OPEN[-1].function(f) if OPEN else f)(*arrays, **options)

    return call


def _hosted(value):
    """Whether this is an array of NumPy's, or holds one."""
    if isinstance(value, tuple | list):
        return any(map(_hosted, value))
    return isinstance(value.data if isinstance(value, Tensor) else value, np.ndarray)


def _pairs(here, there):
    """(the array in NumPy, the same on the device)"""
    return [(a, b) for a, b in zip(here, there, strict=True) if isinstance(a, np.ndarray)]


def _places(module):
    """(module, attribute, Tensor) of every tensor that the module has. Lists of its hold modules only."""
    for name, value in vars(module).items():
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, Module):
                yield from _places(child)
            elif isinstance(child, Tensor):
                yield module, name, child


def _subclasses(kind):
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)
