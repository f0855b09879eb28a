"""Statistics over people: which variants are compared, and how much of a gap is closed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bolid.evaluation.comparison import Comparison, gap_closed
from bolid.evaluation.measure import Column
from bolid.evaluation.plan import Variant
from bolid.evaluation.table import Table
from bolid.metrics.bootstrap import bootstrap_difference, bootstrap_mean

from .conftest import Toy

LIKE, ERROR = Column(name="like", meaning=""), Column(name="error", meaning="", higher_is_better=False)
PEOPLE = [f"p{number}" for number in range(20)]
RESAMPLES = 400


def numbers(mean: float, *, seed: int, spread: float = 0.05) -> np.ndarray:
    return mean + spread * np.random.default_rng(seed).normal(size=len(PEOPLE))


def variant(method: str, references: int = 0, guidance_scale: float | None = 3.0) -> Variant:
    return Variant(method=method, references=references, guidance_scale=guidance_scale)


def comparison(
    toy: Toy, means: dict[Variant, float], *, baseline: str | None = "base", methods: dict[str, Any] | None = None
) -> Comparison:
    methods = {name: {} for name in dict.fromkeys([*(each.method for each in means), "base"])} | (methods or {})
    settings = toy.settings(Path("out"), methods, baseline=baseline, measures={"resamples": RESAMPLES})
    table = Table()
    for number, (each, mean) in enumerate(means.items()):
        for run in (0, 1):
            values = numbers(mean, seed=number * 2 + run)
            for person, value in zip(PEOPLE, values, strict=True):
                table.variants[each].add(run, person, {"like": value, "error": 1 - value})
    for person, real, others in zip(PEOPLE, numbers(0.8, seed=90), numbers(0.2, seed=91), strict=True):
        table.real.add(0, person, {"like": real, "error": 1 - real})
        table.others.add(0, person, {"like": others, "error": None})
    return Comparison(settings, table, [LIKE, ERROR, Column(name="unknown", meaning="")])


def test_the_baseline_is_that_of_as_many_photos_and_the_same_guidance(toy: Toy) -> None:
    theirs = [variant("base", references, scale) for references in (1, 9) for scale in (2.0, 4.0)]
    ours = [variant("m", 1, 4.0), variant("m", 4, 2.0), variant("m", 9, None), variant("m", 9, 7.0)]
    found = comparison(toy, dict.fromkeys([*theirs, *ours], 0.5))
    assert [found.baseline_of(each) for each in ours] == [
        variant("base", 1, 4.0),
        variant("base", 9, 2.0),
        variant("base", 9, 2.0),
        variant("base", 9, 2.0),
    ]
    assert found.baseline_of(theirs[0]) is None
    assert comparison(toy, dict.fromkeys(ours, 0.5), baseline=None).baseline_of(ours[0]) is None


def test_summary(toy: Toy) -> None:
    base, mine = variant("base"), variant("m", 9)
    found = comparison(toy, {base: 0.3, mine: 0.6})
    summary = found.summary(mine)
    assert list(summary) == ["like", "error"]
    like = summary["like"]
    by_person = {
        person: float(value)
        for person, value in zip(PEOPLE, (numbers(0.6, seed=2) + numbers(0.6, seed=3)) / 2, strict=True)
    }
    expected = bootstrap_mean(by_person, resamples=RESAMPLES)
    assert [like[key] for key in ("mean", "low", "high", "people")] == pytest.approx(
        [expected.mean, expected.low, expected.high, 20]
    )
    assert like["runs"] == pytest.approx([numbers(0.6, seed=2).mean(), numbers(0.6, seed=3).mean()])
    assert like["gap_closed"]["mean"] == pytest.approx(4 / 6, abs=0.04)
    assert like["gap_closed_from_baseline"]["mean"] == pytest.approx(3 / 5, abs=0.04)
    # An error is closed downwards, by as much.
    error = summary["error"]
    assert error["gap_closed"] is None
    assert error["gap_closed_from_baseline"] == pytest.approx(like["gap_closed_from_baseline"])
    assert found.summary(base)["like"]["gap_closed_from_baseline"] is None
    bounds = found.bounds()
    assert bounds["like"]["real"]["mean"] == pytest.approx(numbers(0.8, seed=90).mean())
    assert bounds["error"]["others"] is None and bounds["unknown"] == {"real": None, "others": None}


def test_differences_are_paired(toy: Toy) -> None:
    variants = [variant("base"), variant("m", 1), variant("m", 9), variant("n", 9)]
    found = comparison(toy, dict(zip(variants, (0.3, 0.5, 0.6, 0.7), strict=True)))
    differences = found.differences(variants)
    assert [(each["variant"], each["against"], each["reason"]) for each in differences] == [
        (variant("m", 1), variant("base"), "baseline"),
        (variant("m", 9), variant("base"), "baseline"),
        (variant("m", 9), variant("m", 1), "one photo"),
        (variant("n", 9), variant("base"), "baseline"),
    ]
    values = [
        dict(zip(PEOPLE, (numbers(mean, seed=seed) + numbers(mean, seed=seed + 1)) / 2, strict=True))
        for mean, seed in ((0.6, 4), (0.5, 2))
    ]
    expected = bootstrap_difference(*values, resamples=RESAMPLES)
    like = differences[2]["columns"]["like"]
    assert [like[key] for key in ("mean", "low", "high")] == pytest.approx([expected.mean, expected.low, expected.high])
    assert differences[2]["columns"]["error"]["mean"] == pytest.approx(-like["mean"])


def test_named_methods_are_compared(toy: Toy) -> None:
    variants = [variant("m", 9, 2.0), variant("n", 1, 2.0), variant("n", 9, 1.0), variant("n", 9, 2.0)]
    found = comparison(
        toy, dict.fromkeys(variants, 0.5), baseline=None, methods={"m": {"compare_with": ["n"]}, "n": {}}
    )
    differences = found.differences(variants)
    assert [(each["variant"], each["against"]) for each in differences if each["reason"] == "compare_with"] == [
        (variant("m", 9, 2.0), variant("n", 9, 2.0))
    ]


def test_gap_closed_by_hand() -> None:
    start, end = np.full(9, 0.2), np.full(9, 0.8)
    found = gap_closed(np.full(9, 0.5), start, end, resamples=50)
    assert [found.mean, found.low, found.high] == pytest.approx([0.5] * 3)
    assert gap_closed(end, start, end, resamples=50).mean == 1 and gap_closed(start, start, end, resamples=50).mean == 0
    downwards = gap_closed(1 - np.full(9, 0.5), 1 - start, 1 - end, resamples=50, higher_is_better=False)
    assert downwards.mean == pytest.approx(0.5)
    assert gap_closed(start, end, start, resamples=50) is None


def test_the_interval_of_a_share_holds_its_truth() -> None:
    """In about 95 of 100 worlds; a standard error is 1.5."""
    held = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        common = 0.2 * generator.normal(size=40)
        start, end, values = (mean + common + 0.1 * generator.normal(size=40) for mean in (0.1, 0.9, 0.1 + 0.6 * 0.8))
        found = gap_closed(values, start, end, resamples=300)
        held += found.low <= 0.6 <= found.high
    assert 178 <= held <= 198


def test_no_share_of_what_may_be_no_gap() -> None:
    generator = np.random.default_rng(0)
    start, values = generator.normal(size=30), generator.normal(size=30)
    assert gap_closed(values, start, start + 0.01 * generator.normal(size=30) + 0.001, resamples=300) is None
