"""The report: one page of HTML with all its pictures inside, so that one looks before one believes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ..training.files import write_text
from .config import EvaluationSettings
from .measure import Column
from .measuring import Measured
from .pictures import PictureFiles
from .plan import Plan, Variant
from .sheets import Sheets

TEMPLATE = Path(__file__).with_name("report.html.jinja")

PLOTTED = ("bone_error", "pck")
"""Columns that are plotted by number of photos, beside likeness and text."""


def write_report(
    folder: Path,
    results: Mapping[str, Any],
    *,
    settings: EvaluationSettings,
    plan: Plan,
    files: PictureFiles,
    measured: Measured,
) -> None:
    """Write report.html.

    Args:
        folder: of the evaluation, with pictures.csv.
        results: of `results.results_of`.
        settings: of the evaluation.
        plan: what was drawn.
        files: the pictures.
        measured: all numbers.
    """
    from .plots import by_photos, frontier  # matplotlib takes its time, and only the last minute needs it

    columns = [Column(**values) for values in results["columns"].values()]
    main = [column for column in columns if not column.is_detail]
    likeness = next(iter(settings.measures.identity), None)
    text = next((name for name in ("attributes", "text") if name in results["columns"]), None)
    plotted = [name for name in (likeness, text, *PLOTTED) if name in results["columns"]]
    leading = next((column for column in columns if column.name == likeness), main[0] if main else None)
    below = [name for name in (likeness, text) if name is not None]
    seed = settings.drawing.seeds[0]
    sheets = Sheets(plan, files, folder, below, seed=seed, resolution=settings.base.resolution)
    page = _environment().from_string(TEMPLATE.read_text(encoding="utf-8"))
    html = page.render(
        results=results,
        main=main,
        details=[column for column in columns if column.is_detail],
        leading=leading,
        frontier=Markup(frontier(results, likeness, text) if likeness and text else ""),
        by_photos=Markup(by_photos(results, plotted) if plotted else ""),
        text=text,
        side_by_side=sheets.side_by_side(_one_each(plan.variants())),
        cases=_cases(sheets, plan, measured, leading),
        people=len(plan.people),
    )
    write_text(folder / "report.html", html)


def _cases(sheets: Sheets, plan: Plan, measured: Measured, leading: Column | None) -> dict[str, Any]:
    """By variant, best, median and worst people; of each method one variant."""
    if leading is None:
        return {}
    return {
        variant.name: sheets.cases(variant, measured.table.variants[variant], leading)
        for variant in _one_each(plan.variants())
    }


def _one_each(variants: Sequence[Variant]) -> list[Variant]:
    """Of each method the variant with most photos, at the first guidance scale."""
    chosen: dict[str, Variant] = {}
    for variant in variants:
        before = chosen.get(variant.method)
        if before is None or variant.references > before.references:
            chosen[variant.method] = variant
    return list(chosen.values())


def _environment() -> Environment:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = _number
    environment.filters["share"] = _share
    return environment


def _number(value: float | None, digits: int = 3) -> str:
    """A number, with a proper minus; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _share(interval: Mapping[str, float] | None) -> str:
    """A share with its interval, in percent."""
    if interval is None:
        return "–"
    mean, low, high = (f"{100 * interval[key]:.0f}".replace("-", "\N{MINUS SIGN}") for key in ("mean", "low", "high"))
    return f"{mean} % [{low}, {high}]"
