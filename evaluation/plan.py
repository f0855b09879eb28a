"""Which pictures an evaluation draws: of whom, from which photos, with which text and which noise.

Nothing of it depends on the method, so that methods are compared picture by picture.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from ..training.features import Person, Photo
from ..training.randomness import keyed_generator
from .config import EvaluationSettings, MethodSettings


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What is compared: its runs and seeds are averaged.

    Attributes:
        method: its name.
        references: number of photos; 0 where the base draws alone.
        guidance_scale: None where the pictures were drawn elsewhere.
    """

    method: str
    references: int
    guidance_scale: float | None

    @property
    def name(self) -> str:
        """For people."""
        parts = [self.method]
        if self.references:
            parts.append(f"{self.references} photo{'s' if self.references > 1 else ''}")
        if self.guidance_scale is not None:
            parts.append(f"guidance {self.guidance_scale:g}")
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Pictures that are drawn alike: those of a variant, by one run and with one seed.

    Attributes:
        variant: of which they are a part.
        run: number of the adapter among those of the method.
        seed: of the noise.
    """

    variant: Variant
    run: int
    seed: int

    @property
    def folder(self) -> str:
        """Where its pictures lie."""
        variant = self.variant
        guidance = "" if variant.guidance_scale is None else f"guidance_{variant.guidance_scale:g}/"
        return f"{variant.method}/run_{self.run}/{variant.references}_photos/{guidance}seed_{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One picture to be drawn.

    Attributes:
        person: whose picture it shall be.
        number: of the picture, among those of the person.
        prompt: the text.
        model: somebody else's photo, whose caption is the text and whose pose is the target; None where prompts are
            given.
    """

    person: Person
    number: int
    prompt: str
    model: Photo | None

    @property
    def file(self) -> str:
        """Name of the picture's file."""
        return f"{self.person.name}-{self.number}.png"


class Plan:
    """What is drawn.

    Args:
        people: who is drawn, with their photos.
        settings: of the evaluation.

    Raises:
        ValueError: too few people or photos for what the settings ask for.
    """

    def __init__(self, people: Sequence[Person], settings: EvaluationSettings):
        self.people = people[: settings.drawing.people]
        self._settings = settings
        self._places = {person.name: place for place, person in enumerate(self.people)}
        most = settings.most_references
        # One photo at least is left to compare with.
        poor = [person.name for person in self.people if len(self._usable(person)) <= most]
        if poor:
            raise ValueError(
                f"{len(poor)} people have too few photos for {most} references and one to compare with, such as "
                f"{poor[0]}. Lower references, or leave these people out."
            )
        if len(self.people) < 2:
            raise ValueError(
                f"There are {len(self.people)} people to draw; at least 2 are needed: texts and poses come from the "
                "photos of others."
            )

    @staticmethod
    def _usable(person: Person) -> list[Photo]:
        return [photo for photo in person.photos if photo.usable]

    def variants(self) -> list[Variant]:
        """Everything that is compared, those of a method next to each other."""
        return [
            Variant(method=name, references=references, guidance_scale=guidance_scale)
            for name, method in self._settings.methods.items()
            for references in method.photo_counts
            for guidance_scale in ((None,) if method.pictures else self._settings.drawing.guidance_scales)
        ]

    def settings_of(self, variant: Variant) -> list[Setting]:
        """All its runs, with all seeds."""
        return [
            Setting(variant=variant, run=run, seed=seed)
            for run in range(self._settings.methods[variant.method].runs)
            for seed in self._settings.drawing.seeds
        ]

    def settings(self) -> Iterator[Setting]:
        """Those of all variants."""
        for variant in self.variants():
            yield from self.settings_of(variant)

    @cached_property
    def requests(self) -> list[Request]:
        """The pictures of every setting, those of a person next to each other."""
        drawing = self._settings.drawing
        requests = []
        for place, person in enumerate(self.people):
            for number in range(drawing.pictures):
                if drawing.prompts:
                    prompt, model = drawing.prompts[(place + number) % len(drawing.prompts)], None
                else:
                    model = self._model(place, number)
                    prompt = model.prepared.caption
                requests.append(Request(person=person, number=number, prompt=prompt, model=model))
        return requests

    def _model(self, place: int, number: int) -> Photo:
        """A photo of somebody else."""
        generator = keyed_generator("model", self.people[place].name, number)
        other = self._another(place, generator)
        return other.photos[_below(len(other.photos), generator)]

    def references(self, request: Request, method: MethodSettings, count: int) -> list[Photo]:
        """The photos that a method sees: the first `count` of an order that is the person's own.

        Where some show somebody else, they are the last ones of these.
        """
        generator = self._generator(request.person)
        photos = self._shuffled(request.person, generator)[:count]
        place = self._places[request.person.name]
        for number in range(method.other_people):
            photos[count - 1 - number] = self._shuffled(self._another(place, generator), generator)[0]
        return photos

    def body_references(self, request: Request, method: MethodSettings, count: int) -> list[Photo]:
        """The photos that the body branch sees: the same, or as many of somebody else."""
        if not method.other_body:
            return self.references(request, method, count)
        generator = keyed_generator("other body", request.person.name)
        other = self._another(self._places[request.person.name], generator)
        return self._shuffled(other, self._generator(other))[:count]

    def _another(self, place: int, generator: torch.Generator) -> Person:
        """Anybody but the person of this place."""
        return self.people[(place + 1 + _below(len(self.people) - 1, generator)) % len(self.people)]

    def named(self, name: str) -> Person:
        """The person of this name."""
        return self.people[self._places[name]]

    def seen(self, person: Person) -> list[Photo]:
        """A person's own photos that methods may see, in the order in which they are taken."""
        return self._shuffled(person, self._generator(person))[: self._settings.most_references]

    def compared(self, person: Person) -> list[Photo]:
        """Photos of a person that no method sees: what the pictures are compared with."""
        return self._shuffled(person, self._generator(person))[self._settings.most_references :]

    def record(self) -> str:
        """The requests as lines of JSON, for other programs that draw them."""
        lines = []
        for request in self.requests:
            line = {
                "file": request.file,
                "person": request.person.name,
                "prompt": request.prompt,
                "pose_of": None if request.model is None else request.model.name,
                "references": [photo.name for photo in self.seen(request.person)],
                "compared_with": [photo.name for photo in self.compared(request.person)],
            }
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
        return "".join(lines)

    @staticmethod
    def _generator(person: Person) -> torch.Generator:
        return keyed_generator("references", person.name)

    def _shuffled(self, person: Person, generator: torch.Generator) -> list[Photo]:
        photos = self._usable(person)
        return [photos[number] for number in torch.randperm(len(photos), generator=generator).tolist()]


def _below(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))
