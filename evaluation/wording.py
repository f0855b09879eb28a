"""How well pictures fit their texts, by a pair of encoders."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch

from ..metrics.similarity import clip_score
from ..training.features import Person
from .measure import Column, Measure, Portraits, Values, mean_direction
from .outputs import Outputs
from .pictures import Shown, shown_photo
from .plan import Plan, Request
from .sources import Source


class OfRequests(Measure):
    """What is asked of a picture by its request; real pictures are the photos that texts and poses come from."""

    def __init__(self, plan: Plan):
        self._plan = plan

    @cached_property
    def _requests(self) -> dict[str, list[Request]]:
        """Those with a photo that they come from, by person."""
        found: dict[str, list[Request]] = {}
        for request in self._plan.requests:
            if request.model is not None:
                found.setdefault(request.person.name, []).append(request)
        return found

    def real(self, person: Person) -> Portraits | None:
        """The photos themselves, which show somebody else."""
        requests = self._requests.get(person.name)
        if not requests:
            return None
        keys = [shown_photo(request.model).key for request in requests]
        return Portraits(person=person, keys=keys, requests=requests)


class Text(OfRequests):
    """Cosine of a picture and its text.

    Args:
        source: of the pair.
        outputs: filled with all pictures.
        plan: what is drawn.
    """

    def __init__(self, source: Source, outputs: Outputs, plan: Plan):
        super().__init__(plan)
        self._source = source
        self._outputs = outputs
        self.columns = (Column(name="text", meaning=f"cosine of picture and text, by {source.name}"),)

    def fill(self, drawn: Sequence[tuple[Person, Shown]]) -> None:
        """Ask the pair about the texts."""
        self._outputs.fill_texts(self._source, list(dict.fromkeys(request.prompt for request in self._plan.requests)))

    def of_pictures(self, portraits: Portraits) -> list[Values]:
        """The CLIP score of the pair."""
        pictures = self._outputs.stacked(self._source, "embeds", portraits.keys)
        texts = torch.stack([self._outputs.text(self._source, request.prompt) for request in portraits.requests])
        return [{"text": score} for score in clip_score(pictures, texts).tolist()]

    def others(self, person: Person) -> Values:
        """The same photos with the texts of all other people."""
        real = self.real(person)
        if real is None:
            return {"text": None}
        own = mean_direction(self._outputs.stacked(self._source, "embeds", real.keys))
        texts = [direction for name, direction in self._directions.items() if name != person.name]
        return {"text": float((torch.stack(texts) @ own).mean())}

    @cached_property
    def _directions(self) -> dict[str, torch.Tensor]:
        """Of the texts of each person."""
        return {
            name: mean_direction(torch.stack([self._outputs.text(self._source, each.prompt) for each in requests]))
            for name, requests in self._requests.items()
        }
