"""The bootstrap, held against a loop, against scipy, and against how often it is right."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from bolid.metrics.bootstrap import Interval, bootstrap_difference, bootstrap_mean


def values(count: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=count)


def test_it_is_the_loop():
    scores = values(9)
    ordered, generator = sorted(scores), np.random.default_rng(3)
    means = []
    for _ in range(400):
        drawn = generator.integers(9, size=9)
        means.append(sum(ordered[number] for number in drawn) / 9)
    found = bootstrap_mean(dict(enumerate(scores)), resamples=400, seed=3)
    assert (found.mean, found.n) == (pytest.approx(scores.mean()), 9)
    assert [found.low, found.high] == pytest.approx(np.quantile(means, [0.025, 0.975]).tolist())


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_it_is_scipys(confidence: float):
    scores = values(30) ** 2
    theirs = scipy.stats.bootstrap(
        (scores,), np.mean, confidence_level=confidence, n_resamples=40_000, method="percentile", rng=1
    ).confidence_interval
    found = bootstrap_mean(dict(enumerate(scores)), confidence=confidence, resamples=40_000)
    assert [found.low, found.high] == pytest.approx([theirs.low, theirs.high], abs=0.02)


def test_the_interval_holds_the_truth_as_often_as_the_docstring_says():
    """A standard error of the share is .008."""
    found = [bootstrap_mean(dict(enumerate(values(40, seed=seed))), resamples=500, seed=seed) for seed in range(800)]
    share = np.mean([each.low <= 0 <= each.high for each in found])
    assert 0.915 <= share <= 0.965


def test_a_difference_is_found_as_seldom_between_equal_methods():
    found = []
    for seed in range(800):
        people, noise = values(40, seed=seed), values(80, seed=seed + 10_000).reshape(2, 40)
        ours, theirs = (dict(enumerate(people + 0.5 * own)) for own in noise)
        found.append(bootstrap_difference(ours, theirs, resamples=500, seed=seed))
    share = np.mean([each.low <= 0 <= each.high for each in found])
    assert 0.915 <= share <= 0.965


def test_pairing_cancels_what_people_have_in_common():
    people = dict(enumerate(10 * values(20)))
    better = {identity: score + 0.1 + 0.01 * values(20, seed=1)[identity] for identity, score in people.items()}
    difference = bootstrap_difference(better, people)
    assert 0.09 < difference.low < difference.mean < difference.high < 0.11
    single = bootstrap_mean(people)
    assert single.high - single.low > 100 * (difference.high - difference.low)


def test_seeds_of_an_identity_are_averaged_first():
    seeds = {"anna": [0.0, 1.0, 5.0], "ben": [5.0], "cem": np.array([[0.0, 1.0], [2.0, 3.0]])}
    assert bootstrap_mean(seeds) == bootstrap_mean({"anna": 2.0, "ben": 5.0, "cem": 1.5})
    # Copies of a value are no more knowledge.
    assert bootstrap_mean({name: np.tile(given, 7) for name, given in seeds.items()}) == bootstrap_mean(seeds)
    baseline = {"cem": [1.0, 2.0], "anna": 0.0, "ben": [1, 2, 3]}
    found = bootstrap_difference(seeds, baseline)
    assert (found.mean, found.n) == (pytest.approx((2 + 3 + 0) / 3), 3)


@settings(deadline=None, max_examples=40)
@given(
    scores=st.dictionaries(st.text(max_size=3), st.floats(-1e3, 1e3), min_size=2, max_size=8),
    shift=st.floats(-100, 100),
    seed=st.integers(0, 100),
)
def test_order_shift_and_sign(scores: dict[str, float], shift: float, seed: int):
    found = bootstrap_mean(scores, resamples=200, seed=seed)
    assert found.n == len(scores)
    assert min(scores.values()) - 1e-9 <= found.low <= found.high <= max(scores.values()) + 1e-9
    assert bootstrap_mean(dict(reversed(scores.items())), resamples=200, seed=seed) == found
    moved = bootstrap_mean({name: score + shift for name, score in scores.items()}, resamples=200, seed=seed)
    assert moved.low == pytest.approx(found.low + shift, abs=1e-8)
    nothing = dict.fromkeys(scores, 0.0)
    assert bootstrap_difference(scores, nothing, resamples=200, seed=seed) == found
    mirrored = bootstrap_difference(nothing, scores, resamples=200, seed=seed)
    assert mirrored.mean == pytest.approx(-found.mean, abs=1e-9)
    same = bootstrap_difference(scores, dict(reversed(scores.items())), resamples=200, seed=seed)
    assert same == Interval(mean=0, low=0, high=0, n=len(scores))


def test_it_depends_on_its_seed_alone():
    scores = dict(enumerate(values(10)))
    np.random.seed(1)
    state = np.random.get_state()[1].copy()
    first = bootstrap_mean(scores, seed=4)
    assert (np.random.get_state()[1] == state).all()
    assert bootstrap_mean(scores, seed=4) == first != bootstrap_mean(scores, seed=5)
    wider = bootstrap_mean(scores, seed=4, confidence=0.99)
    assert wider.low < first.low < first.high < wider.high


def test_what_cannot_be_drawn():
    with pytest.raises(ValueError, match="at least 2 of them, got 1"):
        bootstrap_mean({"anna": [1.0, 2.0]})
    with pytest.raises(ValueError, match="at least 2 of them, got 0"):
        bootstrap_mean({})
    with pytest.raises(ValueError, match="scores has 0 values of the identity 'ben'"):
        bootstrap_mean({"anna": 1.0, "ben": []})
    with pytest.raises(ValueError, match="baseline has 2 values of the identity 'anna', 1 of them NaN or infinite"):
        bootstrap_difference({"anna": 1.0, "ben": 1.0}, {"anna": [1.0, math.nan], "ben": 1.0})
    with pytest.raises(ValueError, match=r"2 identities have values of one method only \(ben, cem\)"):
        bootstrap_difference({"anna": 1.0, "ben": 1.0}, {"anna": 1.0, "cem": 1.0})
    with pytest.raises(ValueError, match="confidence is 95 and resamples 10000"):
        bootstrap_mean({"anna": 1.0, "ben": 1.0}, confidence=95)
    with pytest.raises(ValueError, match="resamples 0"):
        bootstrap_mean({"anna": 1.0, "ben": 1.0}, resamples=0)
