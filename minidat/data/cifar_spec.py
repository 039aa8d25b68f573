"""What is known of CIFAR-10 and CIFAR-100: their archives, files and records.

Source: https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

from dataclasses import dataclass

SIDE = 32  # pixels
PLANES = 3 * SIDE * SIDE  # bytes of one image: red, green and blue planes


@dataclass(frozen=True)
class Distribution:
    """One form in which a CIFAR data set is published: an archive, and the folder that it unpacks to."""

    archive: str
    folder: str
    splits: dict[str, tuple[str, ...]]
    names: str  # the file with the names of the classes
    pickled: bool

    @property
    def archives(self) -> tuple[str, str]:
        """The archive's name, and the one that it has where a browser took off the compression."""
        return self.archive, self.archive.removesuffix(".gz")

    def wanted(self, split: str, records: int, limit: int) -> tuple[str, ...]:
        """The files of a split that hold its first `limit` images, `records` in each."""
        return self.splits[split][: -(-limit // records)]


@dataclass(frozen=True)
class Cifar:
    """One of the two data sets."""

    name: str
    title: str
    records: dict[str, int]  # images in each file of a split
    labels: tuple[tuple[str, int], ...]  # the label bytes of a binary record: (kind, number of classes)
    keys: tuple[str, str]  # where a pickle holds the labels, and the names file's pickle the names
    classes: tuple[str, ...] | None  # the names where no file says them
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    distributions: tuple[Distribution, ...]


CLASSES10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_BATCHES = tuple(f"data_batch_{k}" for k in range(1, 6))

CIFAR = {
    "cifar10": Cifar(
        name="cifar10",
        title="CIFAR-10",
        records={"train": 10_000, "test": 10_000},
        labels=(("label", 10),),
        keys=("labels", "label_names"),
        classes=CLASSES10,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        distributions=(
            Distribution(
                archive="cifar-10-binary.tar.gz",
                folder="cifar-10-batches-bin",
                splits={"train": tuple(f"{name}.bin" for name in _BATCHES), "test": ("test_batch.bin",)},
                names="batches.meta.txt",
                pickled=False,
            ),
            Distribution(
                archive="cifar-10-python.tar.gz",
                folder="cifar-10-batches-py",
                splits={"train": _BATCHES, "test": ("test_batch",)},
                names="batches.meta",
                pickled=True,
            ),
        ),
    ),
    "cifar100": Cifar(
        name="cifar100",
        title="CIFAR-100",
        records={"train": 50_000, "test": 10_000},
        labels=(("coarse label", 20), ("fine label", 100)),
        keys=("fine_labels", "fine_label_names"),
        classes=None,
        mean=(0.5071, 0.4866, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        distributions=(
            Distribution(
                archive="cifar-100-binary.tar.gz",
                folder="cifar-100-binary",
                splits={"train": ("train.bin",), "test": ("test.bin",)},
                names="fine_label_names.txt",
                pickled=False,
            ),
            Distribution(
                archive="cifar-100-python.tar.gz",
                folder="cifar-100-python",
                splits={"train": ("train",), "test": ("test",)},
                names="meta",
                pickled=True,
            ),
        ),
    ),
}
