"""Values as they come, picture by picture: added up by person, and written down row by row."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ..training.files import replaced
from .measure import Values
from .plan import Variant

DIGITS = 7
"""Significant ones, in files."""

TOLD_APART = ("method", "references", "guidance_scale")
"""Columns that tell variants apart."""


class Scores:
    """Sums of values by person and column, for each run of something that is compared."""

    def __init__(self) -> None:
        self._sums: dict[int, dict[str, dict[str, tuple[float, int]]]] = defaultdict(lambda: defaultdict(dict))

    def add(self, run: int, person: str, values: Values) -> None:
        """Take in the values of one picture or person; those that are None are nobody's."""
        sums = self._sums[run]
        for column, value in values.items():
            if value is not None:
                total, count = sums[column].get(person, (0.0, 0))
                sums[column][person] = total + value, count + 1

    @property
    def runs(self) -> list[int]:
        """Their numbers."""
        return sorted(self._sums)

    def mean(self, column: str, person: str, run: int) -> float | None:
        """Of one person by one run; None without a value."""
        total, count = self._sums[run].get(column, {}).get(person, (0.0, 0))
        return total / count if count else None

    def by_person(self, column: str, run: int | None = None) -> dict[str, float]:
        """Mean of each person, over all runs if none is given; without the people who have no value."""
        found: dict[str, list[float]] = {}
        for number in self.runs if run is None else [run]:
            for person, (total, count) in self._sums[number].get(column, {}).items():
                found.setdefault(person, []).append(total / count)
        return {person: sum(means) / len(means) for person, means in found.items()}


class Table:
    """All scores of an evaluation.

    Attributes:
        variants: what is compared.
        real, others: what real pictures reach, and what those of other people or texts do.
    """

    def __init__(self) -> None:
        self.variants: dict[Variant, Scores] = defaultdict(Scores)
        self.real, self.others = Scores(), Scores()


class Rows:
    """A CSV file that is written row by row.

    Args:
        file: open for text.
        columns: of the head.
    """

    def __init__(self, file: Any, columns: Sequence[str]):
        self._writer = csv.DictWriter(file, columns, lineterminator="\n")
        self._writer.writeheader()

    def write(self, row: Mapping[str, Any]) -> None:
        """A row; None is an empty cell."""
        self._writer.writerow({name: cell(value) for name, value in row.items()})


@contextmanager
def rows_to(path: Path, columns: Sequence[str]) -> Iterator[Rows]:
    """A CSV file that takes the place of `path` once all rows are written."""
    with ExitStack() as stack:
        partial = stack.enter_context(replaced(path))
        yield Rows(stack.enter_context(partial.open("w", encoding="utf-8", newline="")), columns)


def described(variant: Variant) -> dict[str, Any]:
    """The columns that tell variants apart."""
    values = (variant.method, variant.references or None, variant.guidance_scale)
    return dict(zip(TOLD_APART, values, strict=True))


def cell(value: Any) -> Any:
    """A value as it stands in a file."""
    if value is None:
        return ""
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else value
