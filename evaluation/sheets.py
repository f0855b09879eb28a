"""Pictures of the report: references, drawn pictures and a real one of the same person, side by side."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..training.features import Person, Photo
from .measure import Column
from .pictures import PictureFiles, Shown, shown_photo, squared
from .plan import Plan, Request, Setting, Variant
from .table import TOLD_APART, Scores, cell, described

CELL = 160
"""Pixels of a picture in the report."""
MOSAIC = 3
"""References along a side of their mosaic."""
QUALITY = 82
CASES = 3
"""People of each kind: best, median, worst."""
SHOWN = 3
"""Pictures of each."""
SIDE_BY_SIDE = 6
"""People in whom all methods are compared; the first ones, whatever came out."""

Values = dict[tuple[str, ...], dict[str, str]]
"""Rows of pictures.csv by what tells them apart."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A picture and what stands below it.

    Attributes:
        source: as a data URI.
        title: what it is.
        text: its values, or its prompt.
    """

    source: str
    title: str
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """The pictures of one person."""

    name: str
    cells: tuple[Cell, ...]


class Sheets:
    """Makes the sheets of an evaluation.

    Args:
        plan: what was drawn.
        files: the pictures.
        folder: with pictures.csv.
        columns: whose values stand below pictures.
        seed: whose pictures are shown.
        resolution: of the pictures.
    """

    def __init__(
        self, plan: Plan, files: PictureFiles, folder: Path, columns: Sequence[str], *, seed: int, resolution: int
    ):
        self._plan = plan
        self._files = files
        self._columns = columns
        self._seed = seed
        self._resolution = resolution
        self._values = self._read_values(folder / "pictures.csv")
        self._made: dict[str, str] = {}

    def cases(self, variant: Variant, scores: Scores, column: Column) -> dict[str, list[Row]]:
        """Rows of the best, the median and the worst people of a variant by a column; nobody is in two of them."""
        means = scores.by_person(column.name)
        sign = -1 if column.higher_is_better else 1
        ordered = sorted(means, key=lambda name: (sign * means[name], name))
        count = min(CASES, len(ordered) // 3) or 1
        middle = max(count, (len(ordered) - count) // 2)
        chosen = {
            "best": ordered[:count],
            "median": ordered[middle : middle + count],
            "worst": ordered[max(middle + count, len(ordered) - count) :],
        }
        return {
            kind: [self._case(variant, self._plan.named(name), f"{column.name} {means[name]:.3f}") for name in names]
            for kind, names in chosen.items()
            if names
        }

    def side_by_side(self, variants: Sequence[Variant]) -> list[Row]:
        """The same picture of the same people by all variants."""
        rows = []
        for person in self._plan.people[:SIDE_BY_SIDE]:
            request = self._requests(person)[0]
            drawn = [self._drawn(variant, request, title=variant.name) for variant in variants]
            cells = (self._references(self._plan.seen(person)), *drawn, self._real(person))
            rows.append(Row(name=f"{person.name}: {request.prompt}", cells=cells))
        return rows

    def _case(self, variant: Variant, person: Person, score: str) -> Row:
        requests = self._requests(person)[:SHOWN]
        drawn = [self._drawn(variant, request, title=request.prompt) for request in requests]
        references = self._plan.seen(person)[: variant.references]
        first = () if not references else (self._references(references),)
        return Row(name=f"{person.name}: {score}", cells=(*first, *drawn, self._real(person)))

    def _requests(self, person: Person) -> list[Request]:
        return [request for request in self._plan.requests if request.person is person]

    def _drawn(self, variant: Variant, request: Request, *, title: str) -> Cell:
        setting = Setting(variant=variant, run=0, seed=self._seed)
        values = self._values.get(_key(variant, request.file), {})
        told = [f"{column} {float(values[column]):.2f}" for column in self._columns if values.get(column)]
        return Cell(source=self._uri(self._files.shown(setting, request)), title=title, text="\n".join(told))

    def _real(self, person: Person) -> Cell:
        photo = shown_photo(self._plan.compared(person)[0])
        return Cell(source=self._uri(photo), title="real", text="seen by no method")

    def _references(self, photos: Sequence[Photo]) -> Cell:
        shown = photos[: MOSAIC**2]
        side = next(side for side in range(1, MOSAIC + 1) if side**2 >= len(shown))
        small = CELL // side
        sheet = Image.new("RGB", (CELL, CELL), "white")
        for number, photo in enumerate(shown):
            place = (number % side * small, number // side * small)
            sheet.paste(self._image(shown_photo(photo), small), place)
        count = f"{len(photos)} photo{'s' if len(photos) > 1 else ''}"
        return Cell(source=_data_uri(sheet), title="references", text=count)

    def _image(self, shown: Shown, side: int) -> Image.Image:
        return squared(Image.fromarray(shown.pixels(self._resolution).movedim(0, -1).contiguous().numpy()), side)

    def _uri(self, shown: Shown) -> str:
        if shown.key not in self._made:
            self._made[shown.key] = _data_uri(self._image(shown, CELL))
        return self._made[shown.key]

    def _read_values(self, path: Path) -> Values:
        """Of the pictures of the first run and of the seed that is shown."""
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            of_seed = [row for row in rows if row["run"] == "0" and row["seed"] == str(self._seed)]
        return {(*(row[name] for name in TOLD_APART), row["file"]): row for row in of_seed}


def _key(variant: Variant, file: str) -> tuple[str, ...]:
    return (*(str(cell(value)) for value in described(variant).values()), file)


def _data_uri(image: Image.Image) -> str:
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
