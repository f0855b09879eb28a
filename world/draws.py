"""Random numbers that depend on their key alone, and come out the same in every version of Python."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


class Draws:
    """A stream of random numbers; streams of different keys have nothing to do with each other.

    Of `random.Random` only `random()` is used: the one method whose numbers Python promises never to change.
    """

    def __init__(self, *key: object):
        digest = hashlib.blake2b("\0".join(map(str, key)).encode(), digest_size=16).digest()
        self._random = random.Random(int.from_bytes(digest, "big"))

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self._random.random()

    def normal(self, middle: float, deviation: float) -> float:
        """Bell-shaped, and never further from the middle than three deviations."""
        return middle + 2 * deviation * (self.uniform(0, 1) + self.uniform(0, 1) + self.uniform(0, 1) - 1.5)

    def chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def side(self) -> int:
        """-1 or 1."""
        return -1 if self.chance(0.5) else 1

    def integer(self, low: int, high: int) -> int:
        """Both ends included."""
        return low + int(self._random.random() * (high - low + 1))

    def choice(self, values: Sequence[T]) -> T:
        return values[self.integer(0, len(values) - 1)]

    def weighted(self, weights: Mapping[T, float]) -> T:
        totals = list(itertools.accumulate(weights.values()))
        # Not sum(), which rounds otherwise from Python 3.12 on.
        threshold = self.uniform(0, totals[-1])
        return next(value for value, total in zip(weights, totals, strict=True) if total > threshold)

    def shuffled(self, values: Sequence[T]) -> list[T]:
        rest = list(values)
        return [rest.pop(self.integer(0, len(rest) - 1)) for _ in values]
