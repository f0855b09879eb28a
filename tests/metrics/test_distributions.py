"""Distances between sets, held against closed forms, torchmetrics, scipy and sums written out."""

from __future__ import annotations

import math
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore as TorchmetricsInceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from bolid.metrics import distributions
from bolid.metrics.distributions import (
    PICTURES_PER_FEATURE,
    FeatureStatistics,
    ProbabilityStatistics,
    feature_statistics,
    frechet_distance,
    inception_score,
    kernel_distance,
    real_floor,
    small_sample_warning,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_moments(mean: torch.Tensor, covariance: torch.Tensor, *, count: int, seed: int = 0) -> torch.Tensor:
    """[n, d] features whose mean and covariance are exactly these."""
    raw = normal(count, len(mean), seed=seed)
    orthogonal = torch.linalg.qr(raw - raw.mean(dim=0)).Q
    return orthogonal * math.sqrt(count - 1) @ torch.linalg.cholesky(covariance).T + mean


def random_covariance(width: int, *, seed: int) -> torch.Tensor:
    root = normal(width, width, seed=seed)
    return root @ root.T / width + 0.1 * torch.eye(width, dtype=torch.float64)


class Features(torch.nn.Module):
    """A feature network for torchmetrics that leaves features as they are."""

    def __init__(self, width: int):
        super().__init__()
        self.num_features = width

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def sent(statistics: Any) -> Any:
    """What arrives in another process."""
    return ForkingPickler.loads(ForkingPickler.dumps(statistics))


def torchmetrics_fid(generated: torch.Tensor, reference: torch.Tensor) -> float:
    metric = FrechetInceptionDistance(feature=Features(generated.shape[1]))
    metric.update(generated, real=False)
    metric.update(reference, real=True)
    return float(metric.compute())


# Fréchet distance


def test_closed_form_of_two_gaussians():
    """Covariances that commute: ‖Δμ‖² + Σ (√a - √b)²."""
    a, b = torch.tensor([4.0, 1.0, 0.25]).double(), torch.tensor([1.0, 9.0, 0.25]).double()
    mean = torch.tensor([1.0, -2.0, 0.5]).double()
    generated = with_moments(mean, a.diag(), count=50, seed=1)
    reference = with_moments(torch.zeros(3).double(), b.diag(), count=80, seed=2)
    found = frechet_distance(generated, reference)
    assert found.distance == pytest.approx((1 + 4 + 0.25) + (1 + 4 + 0), rel=1e-12)
    assert (found.count, found.reference_count, found.width, found.warning) == (50, 80, 3, "")


@pytest.mark.parametrize("width", [1, 2, 16])
def test_the_root_of_the_covariances_is_scipys(width: int):
    means = normal(2, width, seed=3)
    covariances = [random_covariance(width, seed=seed) for seed in (4, 5)]
    sets = [
        with_moments(mean, covariance, count=6 * width + 4, seed=seed)
        for seed, (mean, covariance) in enumerate(zip(means, covariances, strict=True))
    ]
    root = np.atleast_2d(scipy.linalg.sqrtm((covariances[0] @ covariances[1]).numpy()))
    expected = float((means[0] - means[1]).square().sum())
    expected += float(covariances[0].trace() + covariances[1].trace()) - 2 * np.trace(root).real
    assert frechet_distance(*sets).distance == pytest.approx(expected, rel=1e-9)


def test_it_is_that_of_torchmetrics():
    generated = normal(300, 24, seed=6) * torch.linspace(0.1, 3, 24) + 0.3
    reference = normal(500, 24, seed=7) @ normal(24, 24, seed=8)
    assert frechet_distance(generated, reference).distance == pytest.approx(
        torchmetrics_fid(generated, reference), rel=1e-10
    )


def test_without_full_rank_it_is_that_of_torchmetrics_up_to_its_rounding():
    generated, reference = normal(10, 24, seed=6), normal(15, 24, seed=7)
    ours, theirs = frechet_distance(generated, reference).distance, torchmetrics_fid(generated, reference)
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert frechet_distance(generated, generated).distance < 1e-12 < abs(torchmetrics_fid(generated, generated))


def test_sampled_gaussians_approach_the_closed_form():
    mean = torch.tensor([0.5, -0.5, 0.0, 0.0]).double()
    deviations = torch.tensor([1.0, 2.0, 0.5, 1.0]).double()
    generated = normal(40_000, 4, seed=9) * deviations + mean
    reference = normal(40_000, 4, seed=10)
    expected = 0.5 + float((deviations - 1).square().sum())
    assert frechet_distance(generated, reference).distance == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(("count", "width"), [(2, 1), (5, 64), (64, 64), (1000, 64)])
def test_a_set_is_at_distance_0_from_itself(count: int, width: int):
    features = normal(count, width) * 10 + 100
    shuffled = features[torch.randperm(count, generator=torch.Generator().manual_seed(1))]
    variance = float(features.var(dim=0).sum())
    assert frechet_distance(features, features).distance <= 1e-12 * variance
    assert frechet_distance(features, shuffled).distance <= 1e-12 * variance


def test_a_mean_far_from_0_changes_nothing():
    generated, reference = normal(200, 8, seed=1), normal(200, 8, seed=2) * 1.5
    near, far = frechet_distance(generated, reference), frechet_distance(generated + 1e6, reference + 1e6)
    assert far.distance == pytest.approx(near.distance, rel=1e-8)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), shift=st.floats(-50, 50), scale=st.floats(0.1, 10))
def test_symmetry_shift_and_scale(seed: int, shift: float, scale: float):
    generated, reference = normal(12, 5, seed=seed), normal(9, 5, seed=seed + 1) + 0.5
    distance = frechet_distance(generated, reference).distance
    assert frechet_distance(reference, generated).distance == pytest.approx(distance, rel=1e-9, abs=1e-9)
    moved = frechet_distance(generated * scale + shift, reference * scale + shift).distance
    assert moved == pytest.approx(distance * scale**2, rel=1e-8, abs=1e-8)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    cuts=st.lists(st.integers(1, 39), max_size=6, unique=True),
    processes=st.integers(1, 4),
)
def test_any_batches_in_any_number_of_processes_are_all_at_once(seed: int, cuts: list[int], processes: int):
    features = normal(40, 6, seed=seed) + 3
    batches = features.tensor_split(sorted(cuts))
    parts = [feature_statistics(batches[number::processes]) for number in range(processes)]
    merged = parts[0].merge(*parts[1:])
    at_once = feature_statistics([features[torch.randperm(40, generator=torch.Generator().manual_seed(seed))]])
    assert merged.count == at_once.count == 40
    torch.testing.assert_close(merged.mean, features.mean(dim=0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(merged.covariance, features.T.cov(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(at_once.covariance, merged.covariance, rtol=1e-10, atol=1e-12)
    # Merging changes none of the parts.
    assert sum(part.count for part in parts) == 40


def test_statistics_go_to_another_process():
    statistics = feature_statistics([normal(20, 3)])
    copy = sent(statistics)
    assert frechet_distance(copy, statistics).distance < 1e-12
    assert frechet_distance(FeatureStatistics().merge(copy, FeatureStatistics()), statistics).count == 20


def test_features_come_from_a_function():
    pictures = normal(12, 3, 4, 4)
    seen = []

    def feature_function(batch: torch.Tensor) -> np.ndarray:
        seen.append((len(batch), torch.is_grad_enabled()))
        return batch.mean(dim=(2, 3)).numpy()

    statistics = feature_statistics(pictures.split(5), feature_function=feature_function)
    assert seen == [(5, False), (5, False), (2, False)]
    torch.testing.assert_close(statistics.mean, pictures.mean(dim=(0, 2, 3)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sums_are_in_double_precision(dtype: torch.dtype):
    features = (normal(500, 4) + 30).to(dtype)
    statistics = feature_statistics(features.split(7))
    assert statistics.mean.dtype == statistics.covariance.dtype == torch.float64
    torch.testing.assert_close(statistics.covariance, features.double().T.cov(), rtol=1e-10, atol=1e-10)


def test_few_pictures_make_it_too_large_as_the_docstring_says():
    width, count = 16, 400
    found = [
        frechet_distance(normal(count, width, seed=seed), normal(count, width, seed=seed + 1000)).distance
        for seed in range(40)
    ]
    assert np.mean(found) == pytest.approx((2 * width + width * (width + 1) / 2) / count, rel=0.05)


def test_too_few_pictures_are_said():
    width = 10
    enough = PICTURES_PER_FEATURE * width
    assert small_sample_warning(enough, width) == ""
    assert "fewer than 5 per feature" in small_sample_warning(enough - 1, width)
    assert "fewer than 5 per feature" in small_sample_warning(width + 1, width)
    assert "no full rank" in small_sample_warning(width, width)
    few, many = normal(11, width, seed=1), normal(200, width, seed=2)
    assert frechet_distance(many, many).warning == ""
    for found in (frechet_distance(few, many), frechet_distance(many, few)):
        assert found.warning == small_sample_warning(11, width)


# Real against real


def test_the_floor_is_between_two_sets_without_a_picture_in_common():
    """0, 1, 2, 3 in two pairs: 01|23 and 02|13 differ by the mean, 03|12 by the spread."""
    features = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    found = {round(real_floor(features, repeats=1, seed=seed).distance, 9) for seed in range(40)}
    assert found == {4.0, 1.0, 2.0}


def test_the_floor_is_what_a_perfect_generator_reaches():
    features = normal(800, 8)
    floor = real_floor(features, count=200, repeats=40)
    assert (floor.count, floor.reference_count, floor.width, floor.warning) == (200, 200, 8, "")
    assert floor.distance == pytest.approx((16 + 36) / 200, rel=0.15)
    assert real_floor(features).count == 400
    assert real_floor(features).distance < floor.distance
    worse = frechet_distance(normal(200, 8, seed=1) * 1.3, features[:200])
    assert worse.distance > 2 * floor.distance


def test_the_floor_depends_on_its_seed_alone():
    features = normal(40, 3)
    before = torch.get_rng_state()
    torch.manual_seed(1)
    first = real_floor(features, seed=5)
    torch.manual_seed(2)
    assert real_floor(features, seed=5) == first != real_floor(features, seed=6)
    state = torch.get_rng_state()
    real_floor(features)
    assert torch.equal(torch.get_rng_state(), state)
    torch.set_rng_state(before)


# Kernel distance


def slow_kernel_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        return (float(a @ b) / len(a) + 1) ** 3

    def mean(pairs: list[float]) -> float:
        return sum(pairs) / len(pairs)

    return (
        mean([kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
        + mean([kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
        - 2 * mean([kernel(a, b) for a in x for b in y])
    )


def test_kernel_distance_is_that_of_all_pairs(monkeypatch: pytest.MonkeyPatch):
    x, y = normal(7, 5, seed=1), normal(4, 5, seed=2) + 0.3
    found = kernel_distance(x, y)
    assert found.distance == pytest.approx(slow_kernel_distance(x, y), rel=1e-12)
    assert (found.count, found.reference_count, found.width) == (7, 4, 5)
    monkeypatch.setattr(distributions, "KERNEL_ROWS", 3)
    assert kernel_distance(x, y).distance == pytest.approx(found.distance, rel=1e-12)
    assert kernel_distance(y, x).distance == pytest.approx(found.distance, rel=1e-12)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
def test_kernel_distance_is_that_of_torchmetrics():
    x, y = normal(60, 10, seed=1), normal(60, 10, seed=2) * 1.5
    metric = KernelInceptionDistance(feature=Features(10), subsets=1, subset_size=60)
    metric.update(y, real=True)
    metric.update(x, real=False)
    assert kernel_distance(x, y).distance == pytest.approx(float(metric.compute()[0]), rel=1e-9)


def test_kernel_distance_is_not_too_large_for_few_pictures():
    found = [kernel_distance(normal(20, 4, seed=seed), normal(20, 4, seed=seed + 5000)).distance for seed in range(400)]
    assert abs(np.mean(found)) < 4 * np.std(found) / math.sqrt(len(found))
    assert min(found) < 0 < max(found)


# Inception Score


def slow_inception_score(probabilities: torch.Tensor, splits: int) -> list[float]:
    scores = []
    for split in range(splits):
        part = probabilities[split::splits]
        marginal = part.mean(dim=0)
        divergences = [
            sum(float(p) * math.log(float(p) / float(q)) for p, q in zip(row, marginal, strict=True) if p > 0)
            for row in part
        ]
        scores.append(math.exp(sum(divergences) / len(divergences)))
    return scores


def random_probabilities(count: int, classes: int, *, seed: int = 0) -> torch.Tensor:
    return (2 * normal(count, classes, seed=seed)).softmax(dim=-1)


def test_sure_and_varied_pictures_score_the_number_of_classes():
    logits = 1000 * torch.eye(5).repeat(20, 1)
    found = inception_score(logits.softmax(dim=-1), splits=1)
    assert found.mean == pytest.approx(5, rel=1e-12)
    assert (found.deviation, found.count, found.splits, found.classes, found.warning) == (0, 100, 1, 5, "")


@pytest.mark.parametrize("probabilities", [torch.full((30, 4), 0.25), torch.tensor([[0.0, 1.0, 0.0]] * 30)])
def test_pictures_that_are_alike_score_1(probabilities: torch.Tensor):
    assert inception_score(probabilities, splits=3).mean == pytest.approx(1, abs=1e-12)


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore`")
@pytest.mark.filterwarnings("ignore:std:UserWarning")
def test_inception_score_is_that_of_torchmetrics():
    logits = 2 * normal(90, 7)
    metric = TorchmetricsInceptionScore(feature=Features(7), splits=1)
    metric.update(logits)
    assert inception_score(logits.softmax(dim=-1), splits=1).mean == pytest.approx(float(metric.compute()[0]), rel=1e-9)


def test_splits_take_every_nth_picture():
    probabilities = random_probabilities(50, 4)
    scores = slow_inception_score(probabilities, 3)
    found = inception_score(probabilities, splits=3)
    assert found.mean == pytest.approx(np.mean(scores), rel=1e-12)
    assert found.deviation == pytest.approx(np.std(scores), rel=1e-9)
    assert inception_score(probabilities).splits == 10


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), cuts=st.lists(st.integers(1, 39), max_size=5, unique=True))
def test_batches_parts_and_their_order_do_not_change_the_score(seed: int, cuts: list[int]):
    probabilities = random_probabilities(40, 4, seed=seed)
    numbers = torch.arange(40)
    expected = inception_score(probabilities, splits=3)
    in_turn = ProbabilityStatistics(splits=3)
    for batch in probabilities.tensor_split(sorted(cuts)):
        in_turn.update(batch)
    parts = [ProbabilityStatistics(splits=3) for _ in range(3)]
    batches = zip(probabilities.tensor_split(sorted(cuts)), numbers.tensor_split(sorted(cuts)), strict=True)
    for turn, (batch, which) in enumerate(reversed(list(batches))):
        parts[turn % 3].update(batch, numbers=which)
    merged = sent(parts[0]).merge(*parts[1:])
    for statistics in (in_turn, merged):
        found = inception_score(statistics)
        assert found.count == 40
        assert found.mean == pytest.approx(expected.mean, rel=1e-12)
        assert found.deviation == pytest.approx(expected.deviation, rel=1e-9, abs=1e-12)
        assert 1 <= found.mean <= 4


def test_no_score_exceeds_the_pictures_of_a_split():
    found = inception_score(torch.eye(12), splits=4)
    assert found.mean == pytest.approx(3)
    assert found.warning.startswith("3 pictures in a split for 12 classes")


def test_probabilities_in_half_precision():
    probabilities = random_probabilities(60, 20)
    rounded_down = inception_score(0.995 * torch.eye(4), splits=1)
    assert rounded_down.mean == pytest.approx(4, rel=1e-6)
    half = inception_score(probabilities.bfloat16(), splits=2)
    assert half.mean == pytest.approx(inception_score(probabilities, splits=2).mean, rel=0.01)


# What is refused


def test_features_that_are_none():
    with pytest.raises(ValueError, match=r"features has the shape \[0, 3\]; expected \[n, d\]"):
        FeatureStatistics().update(torch.zeros(0, 3))
    with pytest.raises(ValueError, match=r"features has the shape \[3\]"):
        FeatureStatistics().update(torch.zeros(3))
    with pytest.raises(ValueError, match=r"features has the shape \[2, 3, 4\]"):
        FeatureStatistics().update(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="at least 2 pictures, got 1"):
        frechet_distance(torch.zeros(1, 3), torch.zeros(5, 3))
    with pytest.raises(ValueError, match="at least 2 pictures, got 0"):
        frechet_distance(torch.zeros(5, 3), FeatureStatistics())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_finite(bad: float):
    features = normal(6, 3)
    features[2, 1] = features[4, 0] = bad
    with pytest.raises(ValueError, match="NaN or infinite values in 2 of 6 rows, first in row 2"):
        frechet_distance(features, normal(6, 3))
    statistics = feature_statistics([normal(6, 3)])
    with pytest.raises(ValueError, match="NaN or infinite"):
        statistics.update(features)
    assert statistics.count == 6 and statistics.mean.isfinite().all()
    with pytest.raises(ValueError, match="NaN or infinite"):
        kernel_distance(features, normal(6, 3))
    with pytest.raises(ValueError, match="NaN or infinite"):
        real_floor(features)


def test_features_of_two_networks():
    with pytest.raises(ValueError, match="generated has features of width 3, but reference of width 4"):
        frechet_distance(normal(6, 3), normal(6, 4))
    with pytest.raises(ValueError, match="generated has features of width 3, but reference of width 4"):
        kernel_distance(normal(6, 3), normal(6, 4))
    with pytest.raises(ValueError, match="A batch has features of width 4, but what came before of width 3"):
        feature_statistics([normal(6, 3), normal(6, 4)])
    with pytest.raises(ValueError, match="of width 4"):
        feature_statistics([normal(6, 3)]).merge(feature_statistics([normal(6, 4)]))


@pytest.mark.parametrize(("pictures", "count", "repeats"), [(3, None, 10), (10, 6, 10), (10, 1, 10), (10, 5, 0)])
def test_a_floor_of_too_few(pictures: int, count: int | None, repeats: int):
    with pytest.raises(ValueError, match=f"got {pictures} pictures for two sets of"):
        real_floor(normal(pictures, 2), count=count, repeats=repeats)


def test_a_kernel_distance_of_too_few():
    with pytest.raises(ValueError, match="got 1 generated and 6 reference pictures"):
        kernel_distance(normal(1, 2), normal(6, 2))


@pytest.mark.parametrize(
    "values", [2 * torch.eye(4), torch.tensor([[1.5, -0.5]]), torch.zeros(3, 4)], ids=["logits", "negative", "zero"]
)
def test_what_is_no_probability(values: torch.Tensor):
    with pytest.raises(ValueError, match="Apply softmax to logits first"):
        inception_score(values, splits=1)


def test_scores_that_cannot_be():
    with pytest.raises(ValueError, match="The Inception Score of 4 pictures in 5 splits"):
        inception_score(torch.eye(4), splits=5)
    with pytest.raises(ValueError, match="at least 1 split, got 0"):
        inception_score(torch.eye(4), splits=0)
    statistics = ProbabilityStatistics(splits=2)
    with pytest.raises(ValueError, match="The Inception Score of 0 pictures"):
        inception_score(statistics)
    with pytest.raises(ValueError, match="expected 4 integers"):
        statistics.update(torch.eye(4), numbers=[1, 2])
    with pytest.raises(ValueError, match="expected 4 integers"):
        statistics.update(torch.eye(4), numbers=torch.rand(4))
    statistics.update(torch.eye(4))
    with pytest.raises(ValueError, match="of width 5"):
        statistics.update(torch.eye(5))
    with pytest.raises(ValueError, match="of 2 splits, and cannot be scored in 3"):
        inception_score(statistics, splits=3)
    with pytest.raises(ValueError, match="Statistics of 3 splits cannot be merged with those of 2"):
        statistics.merge(ProbabilityStatistics(splits=3))
