"""Which photo is drawn from which others, in which step: planned from the seed alone."""

from __future__ import annotations

import bisect
import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch

from .randomness import keyed_generator


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One target and the photos of the same person that describe it.

    Attributes:
        person: number of the person.
        target: number of the person's photo that is noised and drawn; never among the references.
        references: numbers of the photos that the adapter sees, each once.
        other_people: which of the references show somebody else instead: by their place among the references, the
            number of another person and of that person's photo.
    """

    person: int
    target: int
    references: tuple[int, ...]
    other_people: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def shown(self) -> list[tuple[int, int]]:
        """Person and photo of each reference, as the adapter sees them."""
        return [self.other_people.get(place, (self.person, photo)) for place, photo in enumerate(self.references)]


class LeaveOneOut:
    """Batches of leave-one-out samples.

    In every epoch each person is drawn once, with a uniformly chosen target; the others (at most `references` of them,
    drawn without replacement) describe it. All targets of a batch are of one shape; where the people of a shape do not
    fill the last batch of an epoch, some are drawn again.

    Args:
        buckets: for every person the shape of each photo.
        usable: for every person whether each photo may be a reference. A photo is a target where another one may be a
            reference; every person has such a photo.
        references: photos that the adapter may see.
        other_people: references that show somebody else: of each sample so many or fewer, all numbers alike, and
            always less than half of its references.
        batch_size: samples of all processes in one forward pass.
        seed, purpose: of the plan.

    Raises:
        ValueError: `other_people`, but there is nobody else.
    """

    def __init__(
        self,
        buckets: Sequence[Sequence[Hashable]],
        usable: Sequence[Sequence[bool]],
        *,
        references: int,
        batch_size: int,
        seed: int,
        purpose: str,
        other_people: int = 0,
    ):
        if other_people and len(buckets) < 2:
            raise ValueError(
                f"data.other_people is {other_people}, but the data set has one person to train on, and nobody else. "
                "Set it to 0, or add people."
            )
        self._buckets = buckets
        self._usable = usable
        self._references = references
        self._other_people = other_people
        self._batch_size = batch_size
        self._key = seed, purpose
        self._epoch = lru_cache(maxsize=2)(self._plan)
        # With one shape every epoch has the same length, and a run that goes on need not plan those before.
        shapes = {shape for photos in buckets for shape in photos}
        self._batches_per_epoch = math.ceil(len(buckets) / batch_size) if len(shapes) == 1 else None
        self._starts = [0]

    def batch(self, number: int) -> list[Sample]:
        """The samples of forward pass `number`, from 0 on without end."""
        if self._batches_per_epoch is not None:
            epoch, place = divmod(number, self._batches_per_epoch)
        else:
            while number >= self._starts[-1]:
                self._starts.append(self._starts[-1] + len(self._epoch(len(self._starts) - 1)))
            epoch = bisect.bisect_right(self._starts, number) - 1
            place = number - self._starts[epoch]
        return self._epoch(epoch)[place]

    def _plan(self, epoch: int) -> list[list[Sample]]:
        generator = keyed_generator(*self._key, epoch)
        by_bucket: dict[Hashable, list[Sample]] = defaultdict(list)
        for person in torch.randperm(len(self._buckets), generator=generator).tolist():
            sample = self._draw(person, generator)
            by_bucket[self._buckets[person][sample.target]].append(sample)
        batches = []
        for samples in by_bucket.values():
            lacking = -len(samples) % self._batch_size
            again = torch.randint(len(samples), (lacking,), generator=generator).tolist()
            filled = samples + [samples[index] for index in again]
            batches += [filled[start : start + self._batch_size] for start in range(0, len(filled), self._batch_size)]
        order = torch.randperm(len(batches), generator=generator).tolist()
        return [batches[index] for index in order]

    def _draw(self, person: int, generator: torch.Generator) -> Sample:
        usable = self._usable[person]
        order = torch.randperm(len(usable), generator=generator).tolist()
        target = next(photo for photo in order if sum(usable) > usable[photo])
        references = [photo for photo in order if photo != target and usable[photo]][: self._references]
        return Sample(
            person=person,
            target=target,
            references=tuple(references),
            other_people=self._draw_others(person, len(references), generator) if self._other_people else {},
        )

    def _draw_others(self, person: int, references: int, generator: torch.Generator) -> dict[int, tuple[int, int]]:
        def below(number: int) -> int:
            return int(torch.randint(number, (), generator=generator))

        many = below(min(self._other_people, (references - 1) // 2) + 1)
        found = {}
        for place in torch.randperm(references, generator=generator)[:many].tolist():
            other = (person + 1 + below(len(self._usable) - 1)) % len(self._usable)
            photos = [photo for photo, is_usable in enumerate(self._usable[other]) if is_usable]
            found[place] = other, photos[below(len(photos))]
        return found
