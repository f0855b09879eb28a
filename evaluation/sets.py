"""Distances between the set of all drawn pictures and that of real ones: what no single picture can show.

Features are read from the store in blocks, so that memory does not grow with the number of pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..metrics.distributions import (
    FeatureDistance,
    ProbabilityStatistics,
    feature_statistics,
    frechet_distance,
    inception_score,
    kernel_distance,
)
from ..training.randomness import keyed_generator
from .outputs import Outputs
from .sources import Source

BLOCK = 256
"""Pictures whose features are in memory at the same time."""

KERNEL_PICTURES = 4096
"""At most so many of each set enter the kernel distance, which looks at all pairs and has no bias that more would
lower."""

DEALS = 10
"""How often real pictures are dealt into two sets, for the floor."""

SCORE_SPLITS = 10


@dataclass(frozen=True, kw_only=True)
class SetDistances:
    """Of one set of drawn pictures, or of real ones from each other.

    Attributes:
        frechet: Fréchet distance (FID); lower is better.
        kernel: kernel distance (KID); lower is better, about 0 where sets do not differ.
        inception: Inception Score, of networks that classify; None without.
        count, reference_count: pictures in both sets.
        width: of the features.
        warnings: why the numbers mean little.
    """

    frechet: float
    kernel: float
    inception: float | None
    count: int
    reference_count: int
    width: int
    warnings: tuple[str, ...]


class Sets:
    """Distances in the features of one network.

    Args:
        source: of the network.
        outputs: filled with all pictures.
        real: keys of all real pictures.
        count: pictures in every drawn set. As many real ones are compared with them, or all where there are not twice
            as many.
    """

    def __init__(self, source: Source, outputs: Outputs, real: Sequence[str], *, count: int):
        self._source = source
        self._outputs = outputs
        self._count = count
        self._all_real = list(real)
        enough = len(real) >= 2 * count
        self._real = self._dealt("real pictures")[:count] if enough else self._all_real
        self._real_statistics = feature_statistics(self._blocks(self._real)) if self._real else None

    def distances(self, keys: Sequence[str]) -> SetDistances | None:
        """Of a drawn set from the real one; None where one of them has fewer than two pictures."""
        if min(len(keys), len(self._real)) < 2:
            return None
        found = frechet_distance(feature_statistics(self._blocks(keys)), self._real_statistics)
        return self._with_kernel(found, keys, self._real)

    def floor(self) -> SetDistances | None:
        """Of real pictures from other real ones, the mean of several deals; None with fewer than four.

        See `metrics.distributions.real_floor`, which does the same for features that are all in memory.
        """
        count = min(self._count, len(self._all_real) // 2)
        if count < 2:
            return None
        deals = []
        for deal in range(DEALS):
            order = self._dealt("floor", deal)
            ours, theirs = order[:count], order[count : 2 * count]
            distance = frechet_distance(
                feature_statistics(self._blocks(ours)), feature_statistics(self._blocks(theirs))
            )
            deals.append(self._with_kernel(distance, ours, theirs))
        too_high = f"The floor is of {count} real pictures twice, where sets have {self._count}: it lies too high."
        scores = [deal.inception for deal in deals if deal.inception is not None]
        return SetDistances(
            frechet=sum(deal.frechet for deal in deals) / DEALS,
            kernel=sum(deal.kernel for deal in deals) / DEALS,
            inception=sum(scores) / len(scores) if scores else None,
            count=count,
            reference_count=count,
            width=deals[0].width,
            warnings=(too_high,) if count < self._count else (),
        )

    def _with_kernel(self, distance: FeatureDistance, ours: Sequence[str], theirs: Sequence[str]) -> SetDistances:
        blocks = [torch.cat(list(self._blocks(_some(keys)))) for keys in (ours, theirs)]
        score, score_warning = self._score(ours)
        return SetDistances(
            frechet=distance.distance,
            kernel=kernel_distance(*blocks).distance,
            inception=score,
            count=distance.count,
            reference_count=distance.reference_count,
            width=distance.width,
            warnings=tuple(warning for warning in (distance.warning, score_warning) if warning),
        )

    def _score(self, keys: Sequence[str]) -> tuple[float | None, str]:
        if self._source.kind != "inception":
            return None, ""
        statistics = ProbabilityStatistics(splits=min(SCORE_SPLITS, len(keys)))
        for block in self._blocks(keys, "probabilities"):
            statistics.update(block)
        score = inception_score(statistics)
        return score.mean, score.warning

    def _blocks(self, keys: Sequence[str], name: str = "embeds") -> Iterator[torch.Tensor]:
        for first in range(0, len(keys), BLOCK):
            yield self._outputs.stacked(self._source, name, keys[first : first + BLOCK])

    def _dealt(self, *purpose: Any) -> list[str]:
        order = torch.randperm(len(self._all_real), generator=keyed_generator(*purpose)).tolist()
        return [self._all_real[number] for number in order]


def _some(keys: Sequence[str]) -> Sequence[str]:
    """At most `KERNEL_PICTURES` of them: of everybody, since keys of a person lie next to each other."""
    if len(keys) <= KERNEL_PICTURES:
        return keys
    order = torch.randperm(len(keys), generator=keyed_generator("kernel", len(keys)))
    return [keys[number] for number in order[:KERNEL_PICTURES].tolist()]
