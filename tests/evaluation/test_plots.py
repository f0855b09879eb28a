"""Plots of the report: the points are the means, and the text is the same each time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from bolid.evaluation import plots
from bolid.evaluation.plots import by_photos, frontier


def interval(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.2}


def variant(method: str, references: int | None, scale: float | None, like: float, text: float) -> dict[str, Any]:
    columns = {"like": interval(like), "text": interval(text)}
    return {"method": method, "references": references, "guidance_scale": scale, "columns": columns}


def results(*variants: dict[str, Any]) -> dict[str, Any]:
    return {
        "variants": list(variants),
        "bounds": {
            "like": {"real": interval(0.9), "others": interval(0.05)},
            "text": {"real": interval(0.7), "others": None},
        },
        "columns": {"like": {"higher_is_better": True}, "text": {"higher_is_better": False}},
        "settings": {"drawing": {"guidance_scales": [3.0, 6.0]}},
    }


RESULTS = results(
    variant("base", None, 6.0, 0.2, 0.65),
    variant("base", None, 3.0, 0.1, 0.6),
    variant("mine", 1, 3.0, 0.4, 0.5),
    variant("mine", 9, 3.0, 0.6, 0.4),
    variant("mine", 9, 6.0, 0.7, 0.3),
    variant("theirs", 4, None, 0.5, 0.2),
)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Those that are made."""
    made: list[Figure] = []
    svg = plots._svg

    def keep(figure: Figure) -> str:
        made.append(figure)
        return svg(figure)

    monkeypatch.setattr(plots, "_svg", keep)
    return made


def lines_of(axes: Any) -> dict[str, list[tuple[float, float]]]:
    """Points by label."""
    found = {}
    for container in axes.containers:
        x, y = container.lines[0].get_data()
        found[container.get_label()] = list(zip(np.asarray(x).tolist(), np.asarray(y).tolist(), strict=True))
    return found


def levels_of(axes: Any) -> dict[str, float]:
    """Heights of horizontal lines by label, and the star."""
    return {
        line.get_label(): float(np.asarray(line.get_ydata())[0])
        for line in axes.lines
        if not line.get_label().startswith("_")
    }


def test_frontier_has_a_line_per_method_with_most_photos(figures: list[Figure]) -> None:
    frontier(RESULTS, "like", "text")
    (axes,) = figures[0].axes
    assert lines_of(axes) == {
        "base": [(0.6, 0.1), (0.65, 0.2)],
        "mine, 9 photos": [(0.4, 0.6), (0.3, 0.7)],
        "theirs, 4 photos": [(0.2, 0.5)],
    }
    assert levels_of(axes) == {"real pictures": 0.9, "other people": 0.05}
    assert [text.get_text() for text in axes.texts] == ["3", "6", "3", "6"]
    assert axes.get_ylabel() == "like" and axes.get_xlabel() == "text (lower is better)"
    # Intervals lie where they are, also where they are not even.
    bars = axes.containers[1].lines[2]
    ends = {round(float(end), 6) for segment in bars[1].get_segments() for end in np.asarray(segment)[:, 1]}
    assert ends == {0.5, 0.8, 0.6, 0.9}


def test_photos_have_a_panel_per_column_at_the_first_guidance(figures: list[Figure]) -> None:
    by_photos(RESULTS, ["like", "text"])
    first, second = figures[0].axes
    assert lines_of(first) == {"mine": [(1, 0.4), (9, 0.6)], "theirs": [(4, 0.5)]}
    assert levels_of(first) == {"base": 0.1, "other people": 0.05, "real pictures": 0.9}
    assert lines_of(second) == {"mine": [(1, 0.5), (9, 0.4)], "theirs": [(4, 0.2)]}
    assert levels_of(second) == {"base": 0.6, "real pictures": 0.7}


def test_plots_that_would_be_empty_are_left_out() -> None:
    one = results(variant("base", None, 3.0, 0.1, 0.6), variant("mine", 9, 3.0, 0.6, 0.4))
    assert by_photos(one, ["like"]) == ""
    for each in one["variants"]:
        del each["columns"]["text"]
    assert frontier(one, "like", "text") == ""


def test_the_same_text_each_time_and_nothing_from_elsewhere() -> None:
    first, second = (frontier(RESULTS, "like", "text") for _ in range(2))
    assert first == second and first.startswith("<svg") and first.rstrip().endswith("</svg>")
    assert "other people" in first and "<image" not in first
