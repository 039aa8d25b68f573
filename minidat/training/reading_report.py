"""What a person should know while image files are read: which are damaged, and whether reading limits the speed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from minidat.data import Dataset
from minidat.data.pictures import Pictures
from minidat.training.feed import Feed, ReadAhead
from minidat.training.parallel import available_cores
from minidat.training.ranks import ALONE, Ranks

LIMIT = 0.25  # share of the time that steps wait for pictures, from which on reading is said to be the limit


class ReadingReport:
    """Of one sitting. It says nothing where no image files are read."""

    def __init__(self, feed: Feed | None, *datasets: Dataset):
        self.feed = feed if isinstance(feed, ReadAhead) else None
        self.pictures = [data for data in datasets if isinstance(data, Pictures)]
        self.told: set[str] = set()  # of damaged files
        self.laps, self.said = 0, False

    def waiting(self, seconds: float) -> dict[str, float]:
        """{"waiting": the share of the last `seconds` in which steps waited for pictures}, and begin to measure anew; {} where
        nothing is read."""
        if self.feed is None:
            return {}
        waited, self.feed.waited = self.feed.waited, 0.0
        return {"waiting": round(min(waited / max(seconds, 1e-9), 1.0), 3)}

    def damaged(self, ranks: Ranks = ALONE) -> list[str]:
        """A line for each image that one of the ranks found damaged since the last time."""
        if not self.pictures:
            return []
        own = [message for pictures in self.pictures for message in pictures.damaged if message not in self.told]
        lines = []
        for message in dict.fromkeys(chain.from_iterable(ranks.gather(own))):
            self.told.add(message)
            lines.append(f"left out, {len(self.told)} so far: {message}")
        return lines

    def limit(self, record: dict[str, float]) -> Iterator[str]:
        """Once, that the steps of a record waited for pictures; not in the first record, in which processes start."""
        self.laps += 1
        if self.feed is None or self.said or self.laps == 1 or record["waiting"] < LIMIT:
            return
        self.said = True
        readers = self.feed.pictures.decoders.workers
        by = f"{readers} worker{'s' * (readers > 1)} read" if readers else "this process reads"
        yield (
            f"reading pictures limits the speed: steps wait {record['waiting']:.0%} of the time\n"
            f"{by} {record['images_per_second']:,.0f} pictures/s; see --workers (cores here: {available_cores()})"
        )
