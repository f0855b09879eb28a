"""Distances between two sets of pictures: Fréchet distance (FID), kernel distance (KID), and the Inception Score.

They see pictures through a network that the caller brings: features of any width for the distances, class probabilities
for the score. Only with InceptionV3's 2048 features are they the FID and KID that papers print; numbers from other
networks compare with each other alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .checks import Numbers, as_features, check_widths, double

PICTURES_PER_FEATURE = 5
"""Below it a Fréchet distance comes with a warning. The authors of the FID ask for 10,000 pictures, for 2048 features
(https://github.com/bioinf-jku/TTUR)."""

KERNEL_ROWS = 1024
"""Rows of the kernel matrix that are in memory at a time."""


@dataclass(frozen=True, kw_only=True)
class FeatureDistance:
    """A distance between two sets of pictures, and what it takes to judge it.

    Attributes:
        distance: lower is better.
        count: generated pictures.
        reference_count: real pictures.
        width: of the features.
        warning: why the number means little; empty where nothing is wrong.
    """

    distance: float
    count: int
    reference_count: int
    width: int
    warning: str = ""


@dataclass(frozen=True, kw_only=True)
class InceptionScore:
    """The score of a set of pictures.

    Attributes:
        mean: over the splits; from 1 to the number of classes, higher is better.
        deviation: standard deviation over the splits (of the population, as in the source); 0 for one split.
        count: pictures.
        splits: into how many parts they were divided.
        classes: of the classifier.
        warning: why the number means little; empty where nothing is wrong.
    """

    mean: float
    deviation: float
    count: int
    splits: int
    classes: int
    warning: str = ""


class FeatureStatistics:
    """Mean and covariance of feature vectors that come in batches, in float64.

    Batches and the parts of several processes give what all vectors at once would give. Kept are the count, the mean
    and the sum of outer products of what deviates from it, added up as in Chan, Golub and LeVeque (1979), "Updating
    Formulae and a Pairwise Algorithm for Computing Sample Variances": plain sums of products lose the covariance of
    features whose mean is far from 0. An instance can be pickled and sent to another process.

    Attributes:
        count: vectors seen.
        mean: [d], or None as long as nothing was seen.
        scatter: [d, d] sum over vectors of (f - mean)(f - mean)ᵀ, or None.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: torch.Tensor | None = None
        self.scatter: torch.Tensor | None = None

    @property
    def covariance(self) -> torch.Tensor:
        """[d, d], with n - 1 in the denominator.

        Raises:
            ValueError: fewer than two vectors.
        """
        if self.count < 2:
            raise ValueError(f"A covariance needs the features of at least 2 pictures, got {self.count}.")
        return self.scatter / (self.count - 1)

    def update(self, features: Numbers) -> None:
        """Take in a batch.

        Args:
            features: [n, d] of any dtype, on any device; the statistics stay on that of the first batch.

        Raises:
            ValueError: no features, another shape or width, or values that are NaN or infinite.
        """
        rows = double(as_features(features, name="features"))
        mean = rows.mean(dim=0)
        centred = rows - mean
        self._add(len(rows), mean, centred.T @ centred)

    def merge(self, *others: FeatureStatistics) -> FeatureStatistics:
        """Those of this set and of others together, as a new instance. A part that saw nothing changes nothing.

        Raises:
            ValueError: another width.
        """
        merged = FeatureStatistics()
        for part in (self, *others):
            if part.count:
                merged._add(part.count, part.mean, part.scatter)
        return merged

    def _add(self, count: int, mean: torch.Tensor, scatter: torch.Tensor) -> None:
        if self.mean is None:
            self.count, self.mean, self.scatter = count, mean, scatter
            return
        mean, scatter = mean.to(self.mean.device), scatter.to(self.mean.device)
        check_widths(mean, self.mean, name="A batch", other_name="what came before")
        total = self.count + count
        step = mean - self.mean
        self.mean = self.mean + step * (count / total)
        self.scatter = self.scatter + scatter + torch.outer(step, step) * (self.count * count / total)
        self.count = total


def feature_statistics(
    batches: Iterable[Any], *, feature_function: Callable[[Any], Numbers] | None = None
) -> FeatureStatistics:
    """Statistics of everything that `batches` yields.

    Args:
        batches: batches of pictures for `feature_function`, or of features [n, d] without one.
        feature_function: batch → features [n, d]; preprocessing, device and gradients are its own affair.
    """
    statistics = FeatureStatistics()
    with torch.no_grad():
        for batch in batches:
            statistics.update(batch if feature_function is None else feature_function(batch))
    return statistics


def frechet_distance(generated: FeatureStatistics | Numbers, reference: FeatureStatistics | Numbers) -> FeatureDistance:
    """Fréchet distance of two Gaussians that are fitted to features: ‖μ_p - μ_q‖² + Tr(Σ_p + Σ_q - 2(Σ_p Σ_q)^½).

    Heusel et al., equation 6, https://arxiv.org/abs/1706.08500. From 0 on, lower is better. The unit is that of the
    features, squared: only distances in features of one network compare.

    The trace of the root is the sum of the singular values of AᵀB, with Σ_p = AAᵀ and Σ_q = BBᵀ, whose squares are the
    eigenvalues of Σ_p Σ_q. Taking roots of those eigenvalues, as usual, turns rounding errors of 1e-16 into 1e-8
    apiece where covariances have no full rank; this way two equal sets are 0 apart within 1e-12 of the features'
    variance, however few pictures they have.

    Pitfalls: few pictures make the distance too large (https://arxiv.org/abs/1911.07023). Two sets of N from one
    whitened Gaussian of width d are about (2d + d(d+1)/2) / N apart, 2.2 for d = 64 and N = 1000. So compare sets of
    equal size, print N and d, and set the number beside `real_floor`. `warning` is filled where a set has fewer than
    `PICTURES_PER_FEATURE` pictures per feature. Pictures that were saved or resized differently differ in this distance
    too.

    Args:
        generated, reference: statistics, or features [n, d]; at least two pictures each.

    Raises:
        ValueError: too few pictures, different widths, or features that are NaN or infinite.
    """
    p, q = _statistics(generated), _statistics(reference)
    covariances = p.covariance, q.covariance.to(p.mean.device)
    check_widths(p.mean, q.mean, name="generated", other_name="reference")
    step = p.mean - q.mean.to(p.mean.device)
    factors = [_factor(covariance) for covariance in covariances]
    root_trace = torch.linalg.svdvals(factors[0].T @ factors[1]).sum()
    distance = step.square().sum() + sum(covariance.trace() for covariance in covariances) - 2 * root_trace
    width = len(step)
    return FeatureDistance(
        # Never below 0 but for rounding.
        distance=max(0.0, float(distance)),
        count=p.count,
        reference_count=q.count,
        width=width,
        warning=small_sample_warning(min(p.count, q.count), width),
    )


def real_floor(features: Numbers, *, count: int | None = None, repeats: int = 10, seed: int = 0) -> FeatureDistance:
    """The Fréchet distance that real pictures have from each other: what a perfect generator could reach.

    Real pictures are dealt at random into two sets without a picture in common, `repeats` times; the distance is the
    mean. It falls with the number of pictures like the distance of a generator does, so for a comparison of N generated
    with N real pictures it takes 2N real ones and `count=N`. A floor from smaller halves lies too high.

    Args:
        features: [n, d] of real pictures, n at least 4.
        count: pictures in each of the two sets; None: half of them all.
        repeats: how often they are dealt.
        seed: the same seed, the same sets.

    Raises:
        ValueError: too few pictures for two sets of `count`.
    """
    rows = as_features(features, name="features")
    count = len(rows) // 2 if count is None else count
    if not 2 <= count <= len(rows) // 2 or repeats < 1:
        raise ValueError(
            f"The real-versus-real floor needs two sets of at least 2 pictures, dealt at least once; got {len(rows)} "
            f"pictures for two sets of {count}, and {repeats} repeats."
        )
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(repeats):
        order = torch.randperm(len(rows), generator=generator).to(rows.device)
        found.append(frechet_distance(rows[order[:count]], rows[order[count : 2 * count]]))
    return FeatureDistance(
        distance=sum(each.distance for each in found) / repeats,
        count=count,
        reference_count=count,
        width=rows.shape[1],
        warning=found[0].warning,
    )


def small_sample_warning(count: int, width: int) -> str:
    """What to say of a Fréchet distance from `count` pictures, those of the smaller set; empty where they suffice.

    The rule: a warning below `PICTURES_PER_FEATURE` pictures per feature, and a stronger one where there are no more
    pictures than features, for their covariance has no full rank.
    """
    if count >= PICTURES_PER_FEATURE * width:
        return ""
    if count <= width:
        return (
            f"{count} pictures for features of width {width}: the covariance has no full rank, and the distance says "
            "more about the number of pictures than about what they show."
        )
    return (
        f"{count} pictures for features of width {width}, fewer than {PICTURES_PER_FEATURE} per feature: the distance "
        "is too large. Compare it only with distances and floors of as many pictures."
    )


def kernel_distance(generated: Numbers, reference: Numbers) -> FeatureDistance:
    """Kernel distance (KID): the unbiased estimate of the squared maximum mean discrepancy of two sets of features.

    (1/m(m-1)) Σ_{i≠j} k(x_i, x_j) + (1/n(n-1)) Σ_{i≠j} k(y_i, y_j) - (2/mn) Σ_ij k(x_i, y_j), with the cubic kernel
    k(x, y) = (x·y/d + 1)³ (Bińkowski et al., https://arxiv.org/abs/1801.01401). Lower is better. Unlike the
    Fréchet distance it is not too large for few pictures, so it may come out slightly below 0, where the sets do not
    differ.

    Pitfalls: the published KID is the mean over random subsets of 1000 pictures; this one takes all pairs of all
    pictures at once, which has the same expectation and less noise, and needs the features themselves, not their
    statistics. Papers often print 1000 times the value.

    Args:
        generated, reference: [m, d] and [n, d]; at least two pictures each.

    Raises:
        ValueError: too few pictures, different widths, or features that are NaN or infinite.
    """
    x = double(as_features(generated, name="generated"))
    y = double(as_features(reference, name="reference")).to(x.device)
    check_widths(x, y, name="generated", other_name="reference")
    if min(len(x), len(y)) < 2:
        raise ValueError(
            f"The kernel distance needs at least 2 pictures on both sides, got {len(x)} generated and {len(y)} "
            "reference pictures."
        )
    within = sum((_kernel_sum(set_, set_) - _kernel_diagonal(set_)) / (len(set_) * (len(set_) - 1)) for set_ in (x, y))
    distance = within - 2 * _kernel_sum(x, y) / (len(x) * len(y))
    return FeatureDistance(distance=float(distance), count=len(x), reference_count=len(y), width=x.shape[1])


class ProbabilityStatistics:
    """What the Inception Score needs of class probabilities that come in batches, in float64.

    Which of the splits a picture belongs to follows from its number: number modulo splits. Numbers are those of arrival
    unless they are given; with given ones neither batches, nor their order, nor parts of several processes change the
    score. An instance can be pickled and sent to another process.

    Args:
        splits: into how many parts the pictures are divided; the source takes 10, of 5,000 pictures each.
    """

    def __init__(self, *, splits: int = 10) -> None:
        if splits < 1:
            raise ValueError(f"The Inception Score needs at least 1 split, got {splits}.")
        self.splits = splits
        self.counts = torch.zeros(splits, dtype=torch.int64)
        self.sums: torch.Tensor | None = None
        self.negative_entropies: torch.Tensor | None = None

    @property
    def count(self) -> int:
        """Pictures seen."""
        return int(self.counts.sum())

    def update(self, probabilities: Numbers, *, numbers: torch.Tensor | Sequence[int] | None = None) -> None:
        """Take in a batch.

        Args:
            probabilities: [n, K] of each class, such as `logits.softmax(dim=-1)`; rows sum to 1.
            numbers: [n] integers, the pictures' numbers in the whole set; None: they go on from those seen so far.

        Raises:
            ValueError: no pictures, another shape or width, values that are no probabilities, or not n numbers.
        """
        rows = double(as_features(probabilities, name="probabilities"))
        totals = rows.sum(dim=-1, keepdim=True)
        if bool((rows < 0).any()) or bool(((totals - 1).abs() > 0.01).any()):
            raise ValueError(
                f"probabilities has values from {float(rows.min()):.3g} to {float(rows.max()):.3g} and rows that sum "
                f"to {float(totals.min()):.3g} to {float(totals.max()):.3g}; expected none below 0 and sums of 1. "
                "Apply softmax to logits first."
            )
        # Half precision rounds the sums.
        rows = rows / totals
        order = torch.arange(self.count, self.count + len(rows)) if numbers is None else torch.as_tensor(numbers)
        if order.shape != (len(rows),) or order.is_floating_point():
            raise ValueError(
                f"numbers has the shape {list(order.shape)} and the type {order.dtype}; expected {len(rows)} integers, "
                "one per picture."
            )
        place = (order.cpu() % self.splits).to(rows.device)
        sums = rows.new_zeros(self.splits, rows.shape[1]).index_add_(0, place, rows)
        entropies = rows.new_zeros(self.splits).index_add_(0, place, torch.special.xlogy(rows, rows).sum(dim=-1))
        self._add(place.cpu().bincount(minlength=self.splits), sums, entropies)

    def merge(self, *others: ProbabilityStatistics) -> ProbabilityStatistics:
        """Those of this set and of others together, as a new instance. A part that saw nothing changes nothing.

        Raises:
            ValueError: another number of splits or of classes.
        """
        merged = ProbabilityStatistics(splits=self.splits)
        for part in (self, *others):
            if part.splits != self.splits:
                raise ValueError(f"Statistics of {part.splits} splits cannot be merged with those of {self.splits}.")
            if part.count:
                merged._add(part.counts, part.sums, part.negative_entropies)
        return merged

    def _add(self, counts: torch.Tensor, sums: torch.Tensor, entropies: torch.Tensor) -> None:
        if self.sums is None:
            self.counts, self.sums, self.negative_entropies = counts, sums, entropies
            return
        check_widths(sums, self.sums, name="A batch", other_name="what came before")
        self.counts = self.counts + counts
        self.sums = self.sums + sums.to(self.sums.device)
        self.negative_entropies = self.negative_entropies + entropies.to(self.sums.device)


def inception_score(probabilities: ProbabilityStatistics | Numbers, *, splits: int | None = None) -> InceptionScore:
    """Inception Score: exp(E_x KL(p(y|x) ‖ p(y))), with p(y) the mean over the pictures of a split.

    Salimans et al., section 4, https://arxiv.org/abs/1606.03498; the score is the mean over splits. From 1, where every
    picture gives the same probabilities, to the number of classes, where pictures are sure and all classes equally
    frequent; higher is better.

    Pitfalls: it knows no real pictures, so it says nothing about who is in them; it cannot exceed the number of
    pictures in a split, which `warning` says; and a classifier for other things than the pictures show makes it
    meaningless (https://arxiv.org/abs/1801.01973). The source cuts its (shuffled) pictures into blocks; here every
    `splits`-th picture is in a split, so pictures that are sorted by class do no harm.

    Args:
        probabilities: statistics, or probabilities [n, K] of each class.
        splits: for probabilities, as in `ProbabilityStatistics`, 10 if None; statistics have their own.

    Raises:
        ValueError: fewer pictures than splits, a split without a picture, or no probabilities.
    """
    if isinstance(probabilities, ProbabilityStatistics):
        statistics = probabilities
        if splits is not None and splits != statistics.splits:
            raise ValueError(f"These statistics are of {statistics.splits} splits, and cannot be scored in {splits}.")
    else:
        statistics = ProbabilityStatistics(splits=10 if splits is None else splits)
        statistics.update(probabilities)
    if not bool((statistics.counts > 0).all()):
        raise ValueError(
            f"The Inception Score of {statistics.count} pictures in {statistics.splits} splits has splits without a "
            "picture. Give more pictures or fewer splits."
        )
    counts = statistics.counts.to(statistics.sums)
    marginals = statistics.sums / counts.unsqueeze(-1)
    divergences = statistics.negative_entropies / counts - torch.special.xlogy(marginals, marginals).sum(dim=-1)
    scores = divergences.exp()
    classes, smallest = marginals.shape[1], int(statistics.counts.min())
    return InceptionScore(
        mean=float(scores.mean()),
        deviation=float(scores.std(correction=0)),
        count=statistics.count,
        splits=statistics.splits,
        classes=classes,
        warning=""
        if smallest >= classes
        else f"{smallest} pictures in a split for {classes} classes: the score cannot exceed {smallest}.",
    )


def _statistics(given: FeatureStatistics | Numbers) -> FeatureStatistics:
    return given if isinstance(given, FeatureStatistics) else feature_statistics([given])


def _factor(covariance: torch.Tensor) -> torch.Tensor:
    """[d, r] A with Σ = AAᵀ; r is the rank."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt())[:, values > 0]


def _kernel_sum(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return sum(((rows @ y.T / x.shape[1] + 1) ** 3).sum() for rows in x.split(KERNEL_ROWS))


def _kernel_diagonal(x: torch.Tensor) -> torch.Tensor:
    return ((x.square().sum(dim=1) / x.shape[1] + 1) ** 3).sum()
