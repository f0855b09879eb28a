"""Markdown tables and the statistics in them."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterable, Sequence


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    print(f"| {' | '.join(header)} |")
    print(f"|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")


def median_and_interval(values: Sequence[float], *, resamples: int = 2000) -> tuple[float, float, float]:
    """Median with its 95 % bootstrap interval."""
    generator = random.Random(0)
    medians = sorted(statistics.median(generator.choices(values, k=len(values))) for _ in range(resamples))
    return statistics.median(values), medians[int(0.025 * resamples)], medians[int(0.975 * resamples)]


def median_and_range(values: Sequence[float]) -> str:
    """Of too few values for an interval."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def ratios(seconds: Sequence[float], others: Sequence[float]) -> list[float]:
    """Of pairs from the same round."""
    return [one / other for one, other in zip(seconds, others, strict=True)]


def gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB"


def megabytes(count: int) -> str:
    return f"{count / 1e6:.2f} MB"
