"""Which pictures an evaluation draws: of whom, from which photos, with which text and which noise.

Nothing of it depends on the method, so that methods are compared picture by picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ..training.features import Person, Photo
from ..training.randomness import keyed_generator
from .config import EvaluationSettings, MethodSettings


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Pictures that are drawn alike.

    Attributes:
        method: its name.
        references: number of photos.
    """

    method: str
    references: int
    guidance_scale: float
    seed: int

    @property
    def folder(self) -> str:
        """Where its pictures lie."""
        return f"{self.method}/{self.references}_photos/guidance_{self.guidance_scale:g}/seed_{self.seed}"


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
        most = max(max(method.references) for method in settings.methods.values())
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

    def settings(self) -> Iterator[Setting]:
        """Everything that is compared, the same methods next to each other."""
        drawing = self._settings.drawing
        for name, method in self._settings.methods.items():
            for references in method.references:
                for guidance_scale in drawing.guidance_scales:
                    for seed in drawing.seeds:
                        yield Setting(method=name, references=references, guidance_scale=guidance_scale, seed=seed)

    def requests(self) -> list[Request]:
        """The pictures of every setting."""
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
        other = self.people[(place + 1 + _below(len(self.people) - 1, generator)) % len(self.people)]
        return other.photos[_below(len(other.photos), generator)]

    def references(self, request: Request, method: MethodSettings, count: int) -> list[Photo]:
        """The photos that a method sees: the first `count` of an order that is the person's own.

        Where some show somebody else, they are the last ones of these.
        """
        generator = keyed_generator("references", request.person.name)
        photos = self._shuffled(request.person, generator)[:count]
        place = next(place for place, person in enumerate(self.people) if person is request.person)
        for number in range(method.other_people):
            other = self.people[(place + 1 + _below(len(self.people) - 1, generator)) % len(self.people)]
            photos[count - 1 - number] = self._shuffled(other, generator)[0]
        return photos

    def compared(self, person: Person) -> list[Photo]:
        """Photos of a person that no method sees: what the pictures are compared with."""
        most = max(max(method.references) for method in self._settings.methods.values())
        return self._shuffled(person, keyed_generator("references", person.name))[most:]

    def _shuffled(self, person: Person, generator: torch.Generator) -> list[Photo]:
        photos = self._usable(person)
        return [photos[number] for number in torch.randperm(len(photos), generator=generator).tolist()]


def _below(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))
