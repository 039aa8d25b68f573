"""Who watches a run."""

from __future__ import annotations

from typing import Any, Protocol


class Reporter(Protocol):
    """Is told how a run goes. A class that inherits from this one needs to define only the methods that it uses.

    A record is a line of the log. It is in the log by then, and an epoch is saved.
    """

    def train(self, record: dict[str, Any]) -> None:
        """Some steps were taken: "step", "epoch", "loss" and what else the task sums, such as "accuracy" (means over them), "lr",
        "images_per_second" (over them), "seconds" (of all sittings)."""

    def testing(self, done: int, total: int) -> None:
        """`done` of `total` images were tested."""

    def test(self, record: dict[str, Any]) -> None:
        """A data set was tested: "kind" says which, "validation" or "test"; "step", "epoch", "seconds", and what the task's test
        tells, such as "loss" and "accuracy"."""

    def note(self, text: str) -> None:
        """Something that a person should know."""


class Silent:
    """A reporter that says nothing."""

    def train(self, record: dict[str, Any]) -> None:
        pass

    def testing(self, done: int, total: int) -> None:
        pass

    def test(self, record: dict[str, Any]) -> None:
        pass

    def note(self, text: str) -> None:
        pass
