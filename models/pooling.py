"""Pooling several reference photos into one, before the unchanged image projection.

No training is involved, so every pretrained IP-Adapter can be used with it. CLIP `image_embeds` are pooled over photos,
hidden states token by token, ArcFace vectors as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate

import torch

from .references import Embeds, PhotoReport, References, weights_of_entries


def _average(features: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (features * weights).sum(dim=0, keepdim=True) / weights.sum()


def _maximum(features: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return features.amax(dim=0, keepdim=True)


def _median(features: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    # torch.median takes the lower of the two middle photos; torch.quantile refuses the hidden states of 51 photos.
    ordered = features.sort(dim=0).values
    middle = features.shape[0] // 2
    return ordered[[middle - 1 + features.shape[0] % 2, middle]].mean(dim=0, keepdim=True)


def _normalised_average(features: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    direction = _average(torch.nn.functional.normalize(features, dim=-1), weights)
    return _with_norm(direction, _average(features.norm(dim=-1, keepdim=True), weights))


def _unpooled(features: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return features


def _with_norm(features: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(features, dim=-1) * norm


POOLING_METHODS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "avg": _average,
    "max": _maximum,
    "normalised_avg": _normalised_average,
    "median": _median,
    "stack": _unpooled,
    "per_picture": _unpooled,
}


def pool(
    references: References,
    method: str = "avg",
    *,
    photo_weights: Sequence[float] | None = None,
    rescale_norm: bool = False,
) -> Embeds:
    """Pool n reference photos into one set of embeddings (or keep them apart, with "stack" and "per_picture").

    Args:
        references: n photos of one person.
        method: "avg", the weighted mean; "max" and "median", per feature over the photos; "normalised_avg", the
            weighted mean of L2-normalised features, brought back to the photos' mean norm; "stack", no pooling: every
            photo contributes its own tokens; "per_picture", one photo for each picture of the batch.
        photo_weights: weights ≥ 0, one per photo that went into the encoder, dropped ones included, so that positions
            stay those of the user's photos. A photo of weight 0 is left out before any method; for max, median and
            per_picture any other weight only says that the photo counts.
        rescale_norm: bring the result to the photos' mean norm (a maximum is longer than any of its inputs).

    Raises:
        ValueError: unknown method, no photo, a photo without a face where photos stay apart, or weights of the wrong
            number, negative, not finite or all zero.
    """
    if method not in POOLING_METHODS:
        raise ValueError(f"Unknown pooling method {method!r}; choose one of {', '.join(POOLING_METHODS)}.")
    if references.count == 0:
        raise ValueError("There is no reference photo left to pool; see the report of MultiRefImageEncoder.")
    weights = _kept_weights(references, photo_weights)
    in_use = weights > 0
    weights = weights[in_use]
    report = _report_unused(references.report, in_use)
    apart = POOLING_METHODS[method] is _unpooled

    def pooled(features: torch.Tensor | None, available: torch.Tensor | None = None) -> torch.Tensor | None:
        if features is None:
            return None
        features, feature_weights = features[in_use].float(), weights
        if available is not None:
            features, feature_weights = features[available[in_use]], weights[available[in_use]]
        if features.shape[0] == 0:
            return None
        if method == "per_picture" and report:
            return features[_photo_of_each_picture(report)]
        # Only ratios matter, and float32 holds neither 1e-50 nor 1e50.
        relative_weights = feature_weights / feature_weights.max()
        shaped_weights = relative_weights.to(features).view(-1, *[1] * (features.ndim - 1))
        result = POOLING_METHODS[method](features, shaped_weights)
        if rescale_norm and not apart:
            result = _with_norm(result, _average(features.norm(dim=-1, keepdim=True), shaped_weights))
        return result

    if apart and references.has_face is not None and not bool(references.has_face[in_use].all()):
        raise ValueError(
            f"method {method!r} needs a face embedding for every photo, but some photos have no face. Set on_missing "
            "of MultiRefImageEncoder to 'skip', or choose another method."
        )
    return Embeds(
        image_embeds=pooled(references.image_embeds),
        hidden_states=pooled(references.hidden_states),
        zero_hidden_states=references.zero_hidden_states,
        face_embeds=pooled(references.face_embeds, references.has_face),
        token_weights=_mean_one(weights) if method == "stack" else None,
        per_picture=method == "per_picture",
        report=report,
    )


def _photo_of_each_picture(report: Sequence[PhotoReport]) -> list[int]:
    """Position among the kept photos of the photo in each place; where one was left out, of the one before it."""
    kept = accumulate(entry.status == "kept" for entry in report)
    return [max(number, 1) - 1 for number in kept]


def _mean_one(weights: torch.Tensor) -> torch.Tensor:
    relative_weights = weights / weights.max()
    return (relative_weights / relative_weights.mean()).float()


def _kept_weights(references: References, photo_weights: Sequence[float] | None) -> torch.Tensor:
    """[n] weights of the kept photos, n ≥ 1, at least one of them above 0."""
    if photo_weights is None:
        return torch.ones(references.count, dtype=torch.float64)
    given = weights_of_entries(references.report, [float(weight) for weight in photo_weights])
    if len(given) != len(references.report):
        raise ValueError(
            f"photo_weights has {len(given)} values, but MultiRefImageEncoder was given {len(references.report)} "
            "photos. Give one weight per photo, or leave photo_weights empty."
        )
    if any(not math.isfinite(weight) or weight < 0 for weight in given):
        raise ValueError(f"photo_weights must be finite and not negative, got {given}.")
    kept = [weight for weight, entry in zip(given, references.report, strict=True) if entry.status == "kept"]
    if not any(kept):
        raise ValueError(
            f"photo_weights {given} leave no photo: at least one photo that was kept needs a weight above 0 "
            "(the report of MultiRefImageEncoder says which photos were dropped, and why)."
        )
    return torch.tensor(kept, dtype=torch.float64)


def _report_unused(report: tuple[PhotoReport, ...], in_use: torch.Tensor) -> tuple[PhotoReport, ...]:
    """Mark photos of weight 0 as dropped; `in_use` counts only the photos that had been kept."""
    kept = iter(in_use.tolist())
    return tuple(
        replace(entry, status="dropped", reason="photo weight 0")
        if entry.status == "kept" and not next(kept)
        else entry
        for entry in report
    )
