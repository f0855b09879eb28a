"""Who draws what, by which process: the part of a run's data that all tasks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from .batches import TIMESTEPS
from .features import Person
from .leave_one_out import LeaveOneOut, Sample


@dataclass(frozen=True, kw_only=True)
class Share:
    """Rows of every batch that this process computes.

    Attributes:
        process: number of this process.
        processes: how many there are.
        batch_size: rows of each.
    """

    process: int
    processes: int
    batch_size: int

    @property
    def rows(self) -> range:
        return range(self.process * self.batch_size, (self.process + 1) * self.batch_size)

    @property
    def all_rows(self) -> int:
        return self.processes * self.batch_size

    def even_timesteps(self, number: int, batches: int) -> torch.Tensor:
        """Timesteps of this process's rows of batch `number`, evenly spread over all rows of so many batches."""
        places = torch.tensor([number * self.all_rows + row + 0.5 for row in self.rows])
        return (places * TIMESTEPS / (self.all_rows * batches)).long()


ONE_ROW = Share(process=0, processes=1, batch_size=1)


class Totals(dict[str, torch.Tensor]):
    """Sum and number [2] of values by name, float64: what processes add up before they take the mean."""

    def add(self, name: str, values: torch.Tensor) -> None:
        """Add the values [n] of n rows."""
        total = torch.tensor((values.sum(), len(values)), dtype=torch.float64)
        self[name] = self[name] + total if name in self else total


T = TypeVar("T")


class Ahead(Generic[T]):
    """Makes the next one while a device computes; a CPU has enough to do, and makes each when it is asked for.

    Args:
        make: batches by their number, the same each time.
        device: that computes with them.
    """

    def __init__(self, make: Callable[[int], T], *, device: torch.device):
        self._make = make
        self._thread = None if device.type == "cpu" else ThreadPoolExecutor(max_workers=1)
        self._next: dict[int, Future[T]] = {}

    def get(self, number: int) -> T:
        """Batch `number`; the one after it is likely to be asked for next."""
        if self._thread is None:
            return self._make(number)
        made = self._next.pop(number, None) or self._thread.submit(self._make, number)
        self._next = {number + 1: self._thread.submit(self._make, number + 1)}
        return made.result()


class Draws:
    """Samples of people, and the keys of their random numbers; the same for any number of processes.

    Args:
        people: at least one.
        references, other_people: see `LeaveOneOut`.
        purpose: what the samples are for; other purposes draw others.
    """

    def __init__(
        self,
        people: Sequence[Person],
        *,
        references: int,
        share: Share,
        seed: int,
        purpose: str,
        other_people: int = 0,
    ):
        self.people = people
        self._share = share
        self._purpose = purpose
        self._plan = LeaveOneOut(
            [[photo.placement.size for photo in person.photos] for person in people],
            [[photo.usable for photo in person.photos] for person in people],
            references=references,
            other_people=other_people,
            batch_size=share.all_rows,
            seed=seed,
            purpose=purpose,
        )

    def batch(self, number: int) -> tuple[list[Sample], list[str]]:
        """This process's samples of a forward pass, and a key for each."""
        samples, rows = self._plan.batch(number), self._share.rows
        return [samples[row] for row in rows], [f"{self._purpose}-{number}-{row}" for row in rows]
