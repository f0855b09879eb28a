"""How sure a mean is: bootstrap over identities.

Pictures and seeds of one person are alike, so the person is what is drawn, not the picture: values of an identity are
averaged first. Two methods are compared identity by identity, which cancels that some people are harder than others.
Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13: the percentile interval.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

Scores: TypeAlias = Mapping[Hashable, "float | Sequence[float] | np.ndarray"]
"""Identity → its value, or its values over pictures and seeds."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and where it may lie.

    Attributes:
        mean: over identities.
        low, high: ends of the interval.
        n: identities.
    """

    mean: float
    low: float
    high: float
    n: int


def bootstrap_mean(scores: Scores, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Mean over identities with its percentile interval.

    Every identity has the same weight, however many pictures it has. Percentile intervals are too narrow for few
    identities: in simulations an interval of 95 % held the true mean of normally distributed values in 90 % of cases
    with 10 identities and in 94 % with 40, that of exponentially distributed ones in 87 % and 92 %.

    Args:
        scores: one value or several per identity; failures are in it with the value of a failure, not as NaN.
        confidence: of the interval.
        resamples: how many sets of identities are drawn, with replacement.
        seed: the same seed and values, the same interval, whatever their order.

    Raises:
        ValueError: fewer than two identities, one without values, or values that are NaN or infinite.
    """
    return _interval(list(_means(scores, name="scores").values()), confidence, resamples, seed)


def bootstrap_difference(
    scores: Scores, baseline: Scores, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Mean over identities of `scores` - `baseline`, paired by identity, with its percentile interval.

    An interval that leaves out 0 is a difference at this confidence, for this one comparison: of twenty comparisons of
    equal methods, one shows it at 95 %.

    Args:
        scores, baseline: both of the same identities; the number of values may differ. See `bootstrap_mean`.

    Raises:
        ValueError: as `bootstrap_mean`, or an identity that only one of them has.
    """
    ours, theirs = _means(scores, name="scores"), _means(baseline, name="baseline")
    unpaired = sorted(map(str, ours.keys() ^ theirs.keys()))
    if unpaired:
        raise ValueError(
            f"{len(unpaired)} identities have values of one method only ({', '.join(unpaired[:5])}). A paired "
            "comparison needs both for everybody; give failures the value of a failure."
        )
    return _interval([ours[identity] - theirs[identity] for identity in ours], confidence, resamples, seed)


def _means(scores: Scores, *, name: str) -> dict[Hashable, float]:
    means = {}
    for identity, given in scores.items():
        values = np.asarray(given, dtype=np.float64)
        if values.size == 0 or not np.isfinite(values).all():
            raise ValueError(
                f"{name} has {values.size} values of the identity {identity!r}, {int((~np.isfinite(values)).sum())} of "
                "them NaN or infinite; expected at least one, all finite. Give failures the value of a failure."
            )
        means[identity] = float(values.mean())
    return means


def _interval(values: Sequence[float], confidence: float, resamples: int, seed: int) -> Interval:
    if len(values) < 2:
        raise ValueError(f"A bootstrap over identities needs at least 2 of them, got {len(values)}.")
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(
            f"confidence is {confidence} and resamples {resamples}; expected a confidence between 0 and 1, and at "
            "least one resample."
        )
    # Sorted: the interval shall not depend on the order of the identities.
    ordered = np.sort(values)
    drawn = np.random.default_rng(seed).integers(len(ordered), size=(resamples, len(ordered)))
    low, high = np.quantile(ordered[drawn].mean(axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean=math.fsum(ordered) / len(ordered), low=float(low), high=float(high), n=len(ordered))
