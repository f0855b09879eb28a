"""From scores to results: means with intervals, differences, and how much of a gap is closed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ..metrics.bootstrap import Interval, bootstrap_difference, bootstrap_mean
from .config import EvaluationSettings
from .measure import Column
from .plan import Variant
from .table import Scores, Table

PersonScores = Mapping[Any, Any]
"""Person → mean; `metrics.bootstrap` allows other keys and several values."""

CONFIDENCE = 0.95
SEED = 0
"""Of all resamples."""


class Comparison:
    """Statistics over the people of an evaluation.

    Args:
        settings: of the evaluation.
        table: all scores.
        columns: that are compared.
    """

    def __init__(self, settings: EvaluationSettings, table: Table, columns: Sequence[Column]):
        self._settings = settings
        self._table = table
        self._columns = columns
        self._resamples = settings.measures.resamples

    def bounds(self) -> dict[str, dict[str, Any]]:
        """By column: "real" and "others", an interval each, or None."""
        return {
            column.name: {
                "real": self._interval(self._table.real.by_person(column.name)),
                "others": self._interval(self._table.others.by_person(column.name)),
            }
            for column in self._columns
        }

    def summary(self, variant: Variant) -> dict[str, dict[str, Any]]:
        """By column: interval, the means of the single runs, and the shares of the gap that are closed.

        `gap_closed` begins at what other people's pictures (or other texts) get, `gap_closed_from_baseline` at what the
        baseline gets; both end at what real pictures get.
        """
        scores = self._table.variants[variant]
        baseline = self.baseline_of(variant)
        found = {}
        for column in self._columns:
            values = scores.by_person(column.name)
            interval = self._interval(values)
            if interval is None:
                continue
            real = self._table.real.by_person(column.name)
            others = self._table.others.by_person(column.name)
            start = None if baseline is None else self._table.variants[baseline].by_person(column.name)
            found[column.name] = {
                **interval,
                "runs": [_mean(scores.by_person(column.name, run)) for run in scores.runs],
                "gap_closed": self._gap(values, others, real, column),
                "gap_closed_from_baseline": None if start is None else self._gap(values, start, real, column),
            }
        return found

    def differences(self, variants: Sequence[Variant]) -> list[dict[str, Any]]:
        """Of every variant from the baseline, from one photo, and from what `compare_with` names, person by person."""
        found = []
        for variant in variants:
            one = Variant(method=variant.method, references=1, guidance_scale=variant.guidance_scale)
            pairs = [("baseline", self.baseline_of(variant)), ("one photo", one if one in variants else None)]
            named = self._settings.methods[variant.method].compare_with
            pairs += [("compare_with", self._counterpart(variant, name)) for name in named]
            for reason, against in pairs:
                if against is not None and against != variant:
                    ours, theirs = self._table.variants[variant], self._table.variants[against]
                    found.append(
                        {
                            "variant": variant,
                            "against": against,
                            "reason": reason,
                            "columns": self._differences(ours, theirs),
                        }
                    )
        return found

    def baseline_of(self, variant: Variant) -> Variant | None:
        """The baseline's counterpart of a variant; None for the baseline itself, or without one."""
        name = self._settings.baseline
        return None if name is None or variant.method == name else self._counterpart(variant, name)

    def _counterpart(self, variant: Variant, name: str) -> Variant:
        """The variant of method `name` that comes nearest: of as many photos, else of most; of the same guidance, else
        of the first."""
        theirs = [other for other in self._table.variants if other.method == name]
        photos = {other.references for other in theirs}
        references = variant.references if variant.references in photos else max(photos)
        theirs = [other for other in theirs if other.references == references]
        same = [other for other in theirs if other.guidance_scale == variant.guidance_scale]
        return (same or theirs)[0]

    def _differences(self, ours: Scores, theirs: Scores) -> dict[str, dict[str, Any]]:
        found = {}
        for column in self._columns:
            values: PersonScores = ours.by_person(column.name)
            others: PersonScores = theirs.by_person(column.name)
            if min(len(values), len(others)) >= 2:
                interval = bootstrap_difference(
                    values, others, confidence=CONFIDENCE, resamples=self._resamples, seed=SEED
                )
                found[column.name] = _as_dict(interval)
        return found

    def _interval(self, values: PersonScores) -> dict[str, Any] | None:
        if len(values) < 2:
            return None
        return _as_dict(bootstrap_mean(values, confidence=CONFIDENCE, resamples=self._resamples, seed=SEED))

    def _gap(
        self, values: Mapping[str, float], start: Mapping[str, float], end: Mapping[str, float], column: Column
    ) -> dict[str, Any] | None:
        people = sorted(values.keys() & start.keys() & end.keys())
        rows = np.array([[mapping[person] for person in people] for mapping in (values, start, end)])
        if len(people) < 2:
            return None
        interval = gap_closed(*rows, resamples=self._resamples, higher_is_better=column.higher_is_better)
        return None if interval is None else _as_dict(interval)


def gap_closed(
    values: np.ndarray, start: np.ndarray, end: np.ndarray, *, resamples: int, higher_is_better: bool = True
) -> Interval | None:
    """(mean of values - mean of start) / (mean of end - mean of start), with its interval over the people.

    1 is at the end, 0 at the start, below 0 is behind it. Every resample of people counts with all three of their
    numbers.

    Args:
        values, start, end: [n] of the same people in the same order.

    Returns:
        None where the end is not surely better than the start: shares of a gap that may be none mean nothing.
    """
    drawn = np.random.default_rng(SEED).integers(len(values), size=(resamples, len(values)))
    means = [numbers[drawn].mean(axis=1) for numbers in (values, start, end)]
    gaps = (means[2] - means[1]) * (1 if higher_is_better else -1)
    if np.quantile(gaps, (1 - CONFIDENCE) / 2) <= 0:
        return None
    shares = (means[0] - means[1])[gaps > 0] / (means[2] - means[1])[gaps > 0]
    low, high = np.quantile(shares, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    share = (values.mean() - start.mean()) / (end.mean() - start.mean())
    return Interval(mean=float(share), low=float(low), high=float(high), n=len(values))


def _mean(values: Mapping[str, float]) -> float | None:
    return sum(values.values()) / len(values) if values else None


def _as_dict(interval: Interval) -> dict[str, Any]:
    found = asdict(interval)
    return {"mean": found["mean"], "low": found["low"], "high": found["high"], "people": found["n"]}
