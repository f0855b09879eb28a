"""Distances of whole sets: those of bolid.metrics, from features that are read in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import bolid.evaluation.sets as sets_module
from bolid.evaluation.sets import Sets
from bolid.evaluation.sources import Source
from bolid.metrics.distributions import frechet_distance, inception_score, kernel_distance

from .conftest import Said

WORLD, INCEPTION = Source("recognition", Path("a")), Source("inception", Path("b"))
WIDTH = 3


class Counting(Said):
    """Remembers the largest number of features that were asked for at once."""

    most = 0

    def stacked(self, source: Source, name: str, keys: Sequence[str]) -> torch.Tensor:
        self.most = max(self.most, len(keys))
        return super().stacked(source, name, keys)


def features(count: int, *, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed)) + shift


def said(real: torch.Tensor, drawn: torch.Tensor) -> Counting:
    rows = {f"r{number}": row for number, row in enumerate(real)} | {
        f"d{number}": row for number, row in enumerate(drawn)
    }
    return Counting({key: {"embeds": row, "probabilities": row.softmax(dim=0)} for key, row in rows.items()})


def keys(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sets_module, "BLOCK", 7)


def test_all_real_pictures_where_there_are_not_twice_as_many() -> None:
    real, drawn = features(30, seed=1), features(20, seed=2, shift=1)
    outputs = said(real, drawn)
    found = Sets(WORLD, outputs, keys("r", 30), count=20).distances(keys("d", 20))
    assert found.frechet == pytest.approx(frechet_distance(drawn, real).distance, rel=1e-9)
    assert found.kernel == pytest.approx(kernel_distance(drawn, real).distance, rel=1e-9)
    assert (found.count, found.reference_count, found.width, found.inception) == (20, 30, WIDTH, None)
    assert found.warnings == ()
    assert outputs.most == 7


def test_as_many_real_pictures_where_there_are_enough() -> None:
    real, drawn = features(60, seed=1), features(20, seed=2)
    sets = Sets(WORLD, said(real, drawn), keys("r", 60), count=20)
    found = sets.distances(keys("d", 20))
    assert (found.count, found.reference_count) == (20, 20)
    assert len(set(sets._real)) == 20
    floor = sets.floor()
    assert (floor.count, floor.reference_count, floor.warnings) == (20, 20, ())
    # Of one distribution: what real pictures reach is what these reach, about.
    assert 0.3 < found.frechet / floor.frechet < 3
    assert sets.distances(sets._real).frechet == pytest.approx(0, abs=1e-9)
    assert Sets(WORLD, said(real, drawn), keys("r", 60), count=20).floor() == floor


def test_few_pictures_are_told() -> None:
    real, drawn = features(6, seed=1), features(4, seed=2)
    sets = Sets(WORLD, said(real, drawn), keys("r", 6), count=4)
    assert sets.floor().warnings == ("The floor is of 3 real pictures twice, where sets have 4: it lies too high.",)
    (warning,) = sets.distances(keys("d", 4)).warnings
    assert warning.startswith("4 pictures for features of width 3, fewer than 5 per feature")
    assert sets.distances(keys("d", 1)) is None
    assert Sets(WORLD, said(real, drawn), keys("r", 3), count=4).floor() is None


def test_kernel_distances_look_at_no_more_than_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sets_module, "KERNEL_PICTURES", 10)
    real, drawn = features(40, seed=1), features(40, seed=2, shift=1)
    outputs = said(real, drawn)
    chosen = sets_module._some(keys("d", 40))
    assert len(set(chosen)) == 10 and chosen != keys("d", 10) and sets_module._some(keys("d", 40)) == chosen
    found = Sets(WORLD, outputs, keys("r", 40), count=40).distances(keys("d", 40))
    numbers = [int(key[1:]) for key in chosen]
    assert found.kernel == pytest.approx(kernel_distance(drawn[numbers], real[numbers]).distance, rel=1e-9)


def test_the_inception_score_is_that_of_drawn_pictures() -> None:
    real, drawn = features(30, seed=1), 3 * features(25, seed=2)
    found = Sets(INCEPTION, said(real, drawn), keys("r", 30), count=25).distances(keys("d", 25))
    expected = inception_score(drawn.softmax(dim=1), splits=10)
    assert found.inception == pytest.approx(expected.mean) and found.inception > 1.1
    assert expected.warning in found.warnings
