"""Sheets of the report: the right people, and the right pictures in a row."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bolid.evaluation.measure import Column
from bolid.evaluation.pictures import PictureFiles
from bolid.evaluation.plan import Plan, Variant
from bolid.evaluation.sheets import CELL, Cell, Sheets
from bolid.evaluation.table import Scores, rows_to

from .conftest import PEOPLE, Toy

LIKE, ERROR = Column(name="like", meaning=""), Column(name="error", meaning="", higher_is_better=False)


def grey(place: int, picture: int) -> int:
    """The drawn pictures are grey, each in its own shade."""
    return 40 * place + 15 * picture


@pytest.fixture
def sheets(toy: Toy, tmp_path: Path) -> tuple[Sheets, Plan, Variant]:
    methods = {"mine": {"adapter": str(toy.adapters[0]), "references": [2]}}
    settings = toy.settings(tmp_path / "out", methods, drawing={"seeds": [5]})
    plan = toy.plan(settings)
    files = PictureFiles(settings, plan, tmp_path / "pictures")
    (setting,) = plan.settings()
    columns = ["method", "references", "guidance_scale", "run", "seed", "person", "file", "like"]
    with rows_to(tmp_path / "pictures.csv", columns) as rows:
        for request in plan.requests:
            shade = grey(plan.people.index(request.person), request.number)
            path = files.path(setting, request)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 64), (shade, shade, shade)).save(path)
            told = {"method": "mine", "references": 2, "guidance_scale": 3.0, "run": 0, "seed": 5}
            rows.write({**told, "person": request.person.name, "file": request.file, "like": shade / 100})
    return Sheets(plan, files, tmp_path, ["like"], seed=5, resolution=64), plan, setting.variant


def image_of(cell: Cell) -> np.ndarray:
    prefix, content = cell.source.split(",")
    assert prefix == "data:image/jpeg;base64"
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert image.size == (CELL, CELL)
    return np.asarray(image)


def scores(plan: Plan, variant: Variant, values: list[float]) -> Scores:
    found = Scores()
    for person, value in zip(plan.people, values, strict=True):
        found.add(0, person.name, {"like": value, "error": value})
    return found


@pytest.mark.parametrize(("column", "order"), [(LIKE, [2, 0, 3, 1]), (ERROR, [1, 3, 0, 2])])
def test_best_median_and_worst_people(sheets: tuple[Sheets, Plan, Variant], column: Column, order: list[int]) -> None:
    made, plan, variant = sheets
    found = made.cases(variant, scores(plan, variant, [0.5, 0.1, 0.9, 0.3]), column)
    names = [plan.people[place].name for place in order]
    shown = {kind: [row.name.split(":")[0] for row in rows] for kind, rows in found.items()}
    assert shown == {"best": names[:1], "median": names[1:2], "worst": names[-1:]}


def test_nobody_is_in_two_kinds(sheets: tuple[Sheets, Plan, Variant]) -> None:
    made, plan, variant = sheets
    for count in range(1, PEOPLE + 1):
        few = Scores()
        for person in plan.people[:count]:
            few.add(0, person.name, {"like": 0.5})
        names = [row.name for rows in made.cases(variant, few, LIKE).values() for row in rows]
        assert len(set(names)) == len(names) == min(count, 3)


def test_a_row_has_references_pictures_and_a_real_one(sheets: tuple[Sheets, Plan, Variant]) -> None:
    made, plan, variant = sheets
    (row,) = made.cases(variant, scores(plan, variant, [0.5, 0.1, 0.9, 0.3]), LIKE)["best"]
    person = plan.people[2]
    requests = [request for request in plan.requests if request.person is person]
    assert row.name == f"{person.name}: like 0.900"
    references, *drawn, real = row.cells
    assert [cell.title for cell in row.cells] == ["references", *(each.prompt for each in requests), "real"]
    assert references.text == "2 photos" and np.ptp(image_of(references)) > 100
    # Two photos take half of a mosaic of four.
    assert (image_of(references)[CELL // 2 + 8 :] > 245).all()
    for picture, cell in enumerate(drawn):
        assert np.abs(image_of(cell).astype(int) - grey(2, picture)).max() <= 3
        assert cell.text == f"like {grey(2, picture) / 100:.2f}"
    expected = np.asarray(Image.open(plan.compared(person)[0].path).convert("RGB").resize((CELL, CELL)))
    assert np.abs(image_of(real).astype(int) - expected).mean() < 6


def test_side_by_side_are_the_first_people_whatever_came_out(sheets: tuple[Sheets, Plan, Variant]) -> None:
    made, plan, variant = sheets
    rows = made.side_by_side([variant, variant])
    assert [row.name.split(":")[0] for row in rows] == [person.name for person in plan.people]
    for place, row in enumerate(rows):
        assert [cell.title for cell in row.cells] == ["references", variant.name, variant.name, "real"]
        assert np.abs(image_of(row.cells[1]).astype(int) - grey(place, 0)).max() <= 3
