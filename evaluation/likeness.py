"""How much pictures are like a person: cosines of embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache

import torch

from ..metrics.similarity import image_alignment
from ..training.features import Person
from .measure import Column, Measure, Portraits, Values, mean_direction
from .outputs import Outputs
from .pictures import shown_photo
from .plan import Plan
from .sources import Source


class Likeness(Measure):
    """Mean cosine of a picture with the person's photos that no method sees.

    Args:
        name: of the column.
        source: of the network.
        outputs: filled with all pictures and photos.
        plan: who is drawn.
    """

    def __init__(self, name: str, source: Source, outputs: Outputs, plan: Plan):
        self._name = name
        self._source = source
        self._outputs = outputs
        self._plan = plan
        self._finds = source.kind == "faces"
        # One person after the other is asked for.
        self._references = lru_cache(maxsize=1)(self._read_references)
        meaning = f"mean cosine with the person's photos that no method sees, by {source.name}"
        self.columns = (Column(name=name, meaning=meaning),)
        if self._finds:
            found = Column(name=f"{name}_found", meaning="pictures in which a face was found", is_detail=True)
            self.columns = (*self.columns, found)

    def of_pictures(self, portraits: Portraits) -> list[Values]:
        """A picture without a face counts 0; a person none of whose photos shows one is asked nothing."""
        references = self._references(portraits.person.name)
        found = self._found(portraits.keys)
        if not len(references):
            return [dict.fromkeys(column.name for column in self.columns)] * len(portraits.keys)
        embeds = self._outputs.stacked(self._source, "embeds", portraits.keys)
        cosines = image_alignment(embeds, references, found=found).tolist()
        if not self._finds:
            return [{self._name: cosine} for cosine in cosines]
        return [
            {self._name: cosine, f"{self._name}_found": float(is_found)}
            for cosine, is_found in zip(cosines, found.tolist(), strict=True)
        ]

    def real(self, person: Person) -> Portraits:
        """The person's photos that methods may see, which are not among those that are compared with."""
        return Portraits(person=person, keys=[shown_photo(photo).key for photo in self._plan.seen(person)])

    def others(self, person: Person) -> Values:
        """Photos of everybody else."""
        directions = dict(self._directions)
        own = directions.pop(person.name, None)
        if own is None or not directions:
            return {self._name: None}
        cosines = torch.stack(list(directions.values())) @ own
        return {self._name: float(cosines.mean())}

    @cached_property
    def _directions(self) -> dict[str, torch.Tensor]:
        people = [person.name for person in self._plan.people]
        references = {name: self._references(name) for name in people}
        return {name: mean_direction(rows) for name, rows in references.items() if len(rows)}

    def _read_references(self, person: str) -> torch.Tensor:
        """[n, d] of the photos that are compared with and in which something was found."""
        keys = [shown_photo(photo).key for photo in self._plan.compared(self._plan.named(person))]
        return self._outputs.stacked(self._source, "embeds", keys)[self._found(keys)]

    def _found(self, keys: Sequence[str]) -> torch.Tensor:
        """[n] bool."""
        if not self._finds:
            return torch.ones(len(keys), dtype=torch.bool)
        return self._outputs.stacked(self._source, "found", keys) > 0
