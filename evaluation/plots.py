"""The plots of the report, as SVG: likeness against text, and what more photos bring."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#1f6fb4", "#d1592a", "#3a8f3a", "#8a4fb0", "#b8860b", "#c2477f", "#4f8f8f", "#7a5c42", "#666666")
MARKERS = "osD^vPX*h"
PANEL = 3.6
"""Inches along a side of a panel."""


def frontier(results: Mapping[str, Any], likeness: str, text: str) -> str:
    """Likeness against text: a line per method, a point per guidance scale; empty where nobody has both.

    Args:
        results: of `results.results_of`.
        likeness, text: names of columns.
    """
    lines = _by_method(_of_most_photos(results), likeness, text)
    if not lines:
        return ""
    figure = Figure(figsize=(2 * PANEL, 1.3 * PANEL), layout="constrained")
    axes = figure.subplots()
    for number, (method, points) in enumerate(lines.items()):
        across, up = ([point["columns"][column] for point in points] for column in (text, likeness))
        label = f"{method}, {points[0]['references']} photos" if points[0]["references"] else method
        _line(axes, number, label, [x["mean"] for x in across], up, across=across)
        for point, x, y in zip(points, across, up, strict=True):
            if point["guidance_scale"] is not None:
                axes.annotate(
                    f"{point['guidance_scale']:g}",
                    (x["mean"], y["mean"]),
                    xytext=(5, 4),
                    textcoords="offset points",
                    fontsize=7,
                )
    real = [results["bounds"][column]["real"] for column in (text, likeness)]
    if None not in real:
        axes.plot(real[0]["mean"], real[1]["mean"], "k*", markersize=11, label="real pictures", linestyle="none")
    _others(axes, results, likeness)
    axes.set_xlabel(_label(results, text))
    axes.set_ylabel(_label(results, likeness))
    _legend(figure, axes)
    return _svg(figure)


def by_photos(results: Mapping[str, Any], columns: Sequence[str]) -> str:
    """What numbers of photos reach: a panel per column, a line per method, all at the first guidance scale; empty where
    no method has two numbers."""
    variants = _of_first_guidance(results)
    counts = sorted({variant["references"] for variant in variants if variant["references"]})
    lines = {column: _by_method(variants, column) for column in columns}
    if len(counts) < 2:
        return ""
    figure = Figure(figsize=(PANEL * len(columns), PANEL), layout="constrained")
    panels = figure.subplots(1, len(columns), squeeze=False)[0]
    for axes, column in zip(panels, columns, strict=True):
        for number, (method, points) in enumerate(lines[column].items()):
            up = [point["columns"][column] for point in points]
            if points[0]["references"]:
                _line(axes, number, method, [point["references"] for point in points], up)
            else:
                axes.axhline(up[0]["mean"], color=_colour(number), linestyle="--", linewidth=1.2, label=method)
        _others(axes, results, column)
        real = results["bounds"][column]["real"]
        if real is not None:
            axes.axhline(real["mean"], color="black", linestyle="-", linewidth=0.9, label="real pictures")
        axes.set_xticks(counts)
        axes.set_xlabel("photos")
        axes.set_ylabel(_label(results, column))
    _legend(figure, panels[0])
    return _svg(figure)


def _line(
    axes: Axes,
    number: int,
    label: str,
    places: Sequence[float],
    up: Sequence[Mapping[str, float]],
    *,
    across: Sequence[Mapping[str, float]] | None = None,
) -> None:
    """Means with their intervals, joined in their order."""
    axes.errorbar(
        places,
        [y["mean"] for y in up],
        yerr=_reach(up),
        xerr=None if across is None else _reach(across),
        color=_colour(number),
        marker=MARKERS[number % len(MARKERS)],
        markersize=5,
        linewidth=1.4,
        elinewidth=0.7,
        capsize=2,
        label=label,
    )


def _reach(intervals: Sequence[Mapping[str, float]]) -> list[list[float]]:
    """From the mean down and up; rounding must not make it negative."""
    below = [max(0.0, interval["mean"] - interval["low"]) for interval in intervals]
    above = [max(0.0, interval["high"] - interval["mean"]) for interval in intervals]
    return [below, above]


def _others(axes: Axes, results: Mapping[str, Any], column: str) -> None:
    others = results["bounds"][column]["others"]
    if others is not None:
        axes.axhline(others["mean"], color="grey", linestyle=":", linewidth=1.2, label="other people")


def _of_most_photos(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    most: dict[str, int] = {}
    for variant in results["variants"]:
        most[variant["method"]] = max(most.get(variant["method"], 0), variant["references"] or 0)
    return [variant for variant in results["variants"] if (variant["references"] or 0) == most[variant["method"]]]


def _of_first_guidance(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    first = results["settings"]["drawing"]["guidance_scales"][0]
    return [variant for variant in results["variants"] if variant["guidance_scale"] in (None, first)]


def _by_method(variants: Sequence[Mapping[str, Any]], *columns: str) -> dict[str, list[Mapping[str, Any]]]:
    """Those that have all of the columns."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for variant in variants:
        if all(column in variant["columns"] for column in columns):
            found.setdefault(variant["method"], []).append(variant)
    key = "references" if len(columns) == 1 else "guidance_scale"
    return {method: sorted(points, key=lambda point: point[key] or 0) for method, points in found.items()}


def _label(results: Mapping[str, Any], column: str) -> str:
    better = "" if results["columns"][column]["higher_is_better"] else " (lower is better)"
    return column.replace("_", " ") + better


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _legend(figure: Figure, axes: Axes) -> None:
    for each in figure.axes:
        each.grid(alpha=0.25)
        for side in ("top", "right"):
            each.spines[side].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)


def _svg(figure: Figure) -> str:
    """The same text each time: without the date, and with names of its parts that do not change."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "bolid", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
