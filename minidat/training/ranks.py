"""The processes that train one network together, and what each asks of the others. One process is alone."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import astuple
from typing import Any, TypeVar

from minidat.training.errors import TrainingError
from minidat.training.parallel import available_cores

T = TypeVar("T")
S = TypeVar("S")

EXPECTED = (ValueError, OSError, RuntimeError, MemoryError)  # what a user can cause, on one rank or on all


class Ranks:
    """This process among those that train together. Here: it is alone.

    rank: its number, 0 … count − 1. beside: how many are on this host, this one among them. cores: how many each of them has.
    All ranks call `gather`, `send`, `add`, `total`, and what is made of them, in the same order; each waits for the others there.
    """

    rank, count, beside = 0, 1, 1

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    @property
    def cores(self) -> int:
        return available_cores()

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order."""
        return [value]

    def send(self, value: Any) -> Any:
        """The first rank's value, on every rank."""
        return value

    def add(self, *flats: Any) -> None:
        """Flat arrays ← their sums over all ranks, in place."""

    def abort(self, code: int) -> None:
        """End all ranks at once."""

    def total(self, *numbers: float) -> list[float]:
        """Their sums over all ranks, added in the ranks' order."""
        return [sum(column) for column in zip(*self.gather(numbers))]

    def sum_of(self, result: S) -> S:
        """A dataclass of numbers, added up over all ranks field by field."""
        if self.count == 1:
            return result
        numbers = astuple(result)  # ty: ignore[invalid-argument-type]
        return type(result)(*(type(own)(total) for own, total in zip(numbers, self.total(*numbers))))

    def any(self, asked: bool) -> bool:
        """Whether one of the ranks is asked."""
        return any(self.gather(asked))

    def from_first(self, work: Callable[[], T]) -> T:
        """What `work` returns on the first rank, which alone calls it. Where it fails there, all ranks fail."""
        value = failure = None
        if self.first:
            try:
                value = work()
            except EXPECTED as error:
                failure = error
        value, text = self.send((value, failure and (str(failure) or type(failure).__name__)))
        if text is not None:
            raise everywhere(failure or TrainingError(text))
        return value

    def together(self, work: Callable[[], T]) -> T:
        """What `work` returns, which every rank calls for itself; it must not call another rank. Where it fails on one, all
        fail, and the message names the rank."""
        value = failure = None
        try:
            value = work()
        except EXPECTED as error:
            failure = error
        texts = self.gather(failure and (str(failure) or type(failure).__name__))
        failed = [rank for rank, text in enumerate(texts) if text is not None]
        if not failed:
            return value  # ty: ignore[invalid-explicit-return]
        same = len(failed) == self.count and len(set(texts)) == 1
        names = self.gather(str(self))
        if failure is not None and (same or self.count == 1):
            raise everywhere(failure)
        raise everywhere(TrainingError(f"{names[failed[0]]}: {texts[failed[0]]}")) from failure

    def check_same(self, what: Mapping[str, str]) -> None:
        """Raise TrainingError, which names the rank, where an entry of `what` is another than on the first rank."""
        names, found = self.gather(str(self)), self.gather(dict(what))
        for name, other in zip(names, found):
            for key in [key for key in {**found[0], **other} if found[0].get(key) != other.get(key)]:
                raise everywhere(
                    TrainingError(
                        f"{name} has {key} {other.get(key, 'none')}, {names[0]} has {found[0].get(key, 'none')}; "
                        "all ranks need the same"
                    )
                )

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.count} on {socket.gethostname()}"


ALONE = Ranks()


def everywhere(error: Exception) -> Exception:
    """`error`, marked as one that every rank raises at the same place, so that all of them end by themselves."""
    error.everywhere = True  # ty: ignore[missing-attribute]
    return error
