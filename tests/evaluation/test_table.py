"""Scores by person, and rows of CSV files."""

from __future__ import annotations

from pathlib import Path

import pytest

from bolid.evaluation.plan import Variant
from bolid.evaluation.table import Scores, cell, described, rows_to


def test_means_of_people_over_pictures_and_runs() -> None:
    scores = Scores()
    for run, person, value in ((0, "a", 1.0), (0, "a", 2.0), (1, "a", 4.0), (0, "b", 7.0), (1, "b", None)):
        scores.add(run, person, {"x": value, "y": None})
    assert scores.runs == [0, 1]
    assert scores.by_person("x") == {"a": (1.5 + 4) / 2, "b": 7}
    assert scores.by_person("x", 0) == {"a": 1.5, "b": 7} and scores.by_person("x", 1) == {"a": 4}
    assert scores.by_person("y") == {}
    assert (scores.mean("x", "a", 0), scores.mean("x", "b", 1), scores.mean("y", "a", 0)) == (1.5, None, None)


def test_rows_take_the_place_of_the_file_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with rows_to(path, ["a", "b"]) as rows:
        rows.write({"a": 1 / 3, "b": None})
        rows.write({"b": 'with "quotes", and a comma', "a": 2})
        assert not path.exists()
    assert path.read_text() == 'a,b\n0.3333333,\n2,"with ""quotes"", and a comma"\n'
    with pytest.raises(RuntimeError), rows_to(path, ["a"]) as rows:
        rows.write({"a": 5})
        raise RuntimeError
    assert path.read_text().startswith("a,b\n") and list(tmp_path.iterdir()) == [path]


def test_variants_are_told_apart() -> None:
    assert described(Variant(method="base", references=0, guidance_scale=3.0)) == {
        "method": "base",
        "references": None,
        "guidance_scale": 3.0,
    }
    assert [cell(value) for value in (None, 3.0, 1, "x")] == ["", "3", 1, "x"]
