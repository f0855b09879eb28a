"""What every measure has in common: columns of results, values of pictures and people, and what real pictures reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..training.features import Person
from .pictures import Shown
from .plan import Request

Values = Mapping[str, float | None]
"""By column; None where the picture or the person cannot be asked this, whichever the method."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A number that is measured.

    Attributes:
        name: of the column in all tables.
        meaning: a sentence for the report.
        higher_is_better: the direction.
        digits: decimals that are worth printing.
        is_detail: of another column, and shown apart from it.
    """

    name: str
    meaning: str
    higher_is_better: bool = True
    digits: int = 3
    is_detail: bool = False


@dataclass(frozen=True, kw_only=True)
class Portraits:
    """Pictures that are to show one person.

    Attributes:
        person: who that is.
        keys: of the pictures.
        requests: what each was drawn for; empty for photos of the person, which were drawn for nothing.
    """

    person: Person
    keys: Sequence[str]
    requests: Sequence[Request] = ()


class Measure:
    """Values of pictures, and of people, from what networks say about them.

    Attributes:
        columns: of each picture.
        person_columns: of all pictures of a person together.
    """

    columns: tuple[Column, ...] = ()
    person_columns: tuple[Column, ...] = ()

    def fill(self, drawn: Sequence[tuple[Person, Shown]]) -> None:
        """Ask networks what they were not asked yet, beyond what they say about single pictures.

        Args:
            drawn: all pictures that are measured, with whom they are to show.
        """

    def of_pictures(self, portraits: Portraits) -> list[Values]:
        """Of each picture, by `columns`."""
        return [{} for _ in portraits.keys]

    def of_person(self, portraits: Portraits) -> Values:
        """Of all of them, by `person_columns`."""
        return {}

    def real(self, person: Person) -> Portraits | None:
        """Real pictures that stand for the best that can be reached; None where there are none."""
        raise NotImplementedError

    def others(self, person: Person) -> Values:
        """What pictures of other people, or for other texts, get on average."""
        return {}


def mean_direction(embeds: torch.Tensor) -> torch.Tensor:
    """[d] mean of [n, d] at length 1: its products with others are mean cosines."""
    return torch.nn.functional.normalize(embeds.double(), dim=-1).mean(dim=0)
