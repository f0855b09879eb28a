"""Self-attention over nine reference photos: a trained alternative to pooling, before the image projection."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .references import Embeds, PhotoReport, References

PHOTOS = 9
HEADS = 8


class SelfAttentionBlock(nn.Module):
    """A pre-norm transformer block without positions: [b, n, D] → [b, n, D]."""

    def __init__(self, *, dim: int, operations: Any = nn):
        super().__init__()
        self.norm1 = operations.LayerNorm(dim)
        self.to_qkv = operations.Linear(dim, 3 * dim, bias=False)
        self.to_out = operations.Linear(dim, dim)
        self.norm2 = operations.LayerNorm(dim)
        self.feed_forward = nn.Sequential(operations.Linear(dim, 4 * dim), nn.GELU(), operations.Linear(4 * dim, dim))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        projected = self.to_qkv(self.norm1(hidden_states)).chunk(3, dim=-1)
        query, key, value = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in projected)
        attended = functional.scaled_dot_product_attention(query, key, value)
        hidden_states = hidden_states + self.to_out(attended.transpose(1, 2).flatten(2))
        return hidden_states + self.feed_forward(self.norm2(hidden_states))


class SelfAttentionAggregator(nn.Module):
    """Photos look at each other, and what they find corrects their average.

    The last layer starts at zero: an untrained aggregator is the average, exactly. It does not depend on the order of
    the photos.
    """

    def __init__(self, *, dim: int, depth: int, operations: Any = nn):
        super().__init__()
        self.blocks = nn.ModuleList(SelfAttentionBlock(dim=dim, operations=operations) for _ in range(depth))
        self.norm_out = operations.LayerNorm(dim)
        self.proj_out = operations.Linear(dim, dim)
        for weight in (self.proj_out.weight, self.proj_out.bias):
            if weight is not None:  # ComfyUI's layers may get theirs only when they are loaded
                nn.init.zeros_(weight)

    def forward(
        self, features: torch.Tensor, places: torch.Tensor | None = None, in_use: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[b, n, D] features of n photos → [b, D].

        Args:
            places: [m] or [b, m] numbers of the photos that self-attention sees, in which a photo may occur repeatedly;
                None: each once. The average is that of the n photos in any case.
            in_use: [b, n] bool, photos that are there; the others fill the batch, and `places` names none of them.
        """
        if places is None:
            hidden_states = features
        elif places.ndim == 1:
            hidden_states = features[:, places]
        else:
            hidden_states = features.gather(1, places.unsqueeze(-1).expand(-1, -1, features.shape[-1]))
        for block in self.blocks:
            hidden_states = block(hidden_states)
        correction = self.proj_out(self.norm_out(hidden_states).mean(dim=1))
        return average(features, in_use) + correction


def average(features: torch.Tensor, in_use: torch.Tensor | None = None) -> torch.Tensor:
    """[b, n, D] → [b, D], the mean of the photos that are there; see `SelfAttentionAggregator.forward`."""
    if in_use is None:
        return features.mean(dim=1)
    return (features * in_use.unsqueeze(-1)).sum(dim=1) / in_use.sum(dim=1, keepdim=True)


def fill_places(photos: int, *, seed: int) -> torch.Tensor:
    """[9] numbers of the photos that take the aggregator's nine places, sorted.

    Of more than nine photos the first nine; fewer are all there, and the rest is drawn from them with replacement.
    """
    kept = torch.arange(min(photos, PHOTOS))
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(kept), (PHOTOS - len(kept),), generator=generator)
    return torch.cat((kept, drawn)).sort().values


def aggregate(
    references: References, aggregators: nn.ModuleDict, *, fill_seed: int, device: torch.device | str
) -> Embeds:
    """One set of features of several photos, by trained self-attention.

    Args:
        references: at least one photo, with all features that `aggregators` names (`Adapter.check_features`).
        aggregators: `SelfAttentionAggregator` by the name of the feature it reads. Hidden states are aggregated token
            by token.
        fill_seed: for the draw that fills nine places with fewer photos.
        device: where to compute; the result is on the references' device.
    """
    usable = torch.ones(references.count, dtype=torch.bool)
    if "face_embeds" in aggregators and references.has_face is not None:
        usable = references.has_face
    photos = usable.nonzero().flatten()[:PHOTOS]
    places = fill_places(len(photos), seed=fill_seed)
    aggregated = {}
    for name, aggregator in aggregators.items():
        features = getattr(references, name)[photos].float()
        by_token = features.unsqueeze(0) if features.ndim == 2 else features.transpose(0, 1)
        result = aggregator(by_token.to(device), places.to(device)).to(features)
        aggregated[name] = result if features.ndim == 2 else result.unsqueeze(0)
    return Embeds(
        **aggregated,
        zero_hidden_states=references.zero_hidden_states,
        report=_report(references.report, usable.tolist(), Counter(places.tolist())),
    )


def _report(report: tuple[PhotoReport, ...], usable: list[bool], uses: Counter[int]) -> tuple[PhotoReport, ...]:
    """What became of each photo; `usable` counts those that the encoder kept, `uses` those that have a face too."""
    remaining, number = iter(usable), 0
    entries = []
    for entry in report:
        if entry.status == "kept":
            if not next(remaining):
                entry = replace(entry, status="dropped", reason="no face embedding")
            else:
                if number >= PHOTOS:
                    entry = replace(entry, status="dropped", reason=f"only the first {PHOTOS} photos are used")
                elif uses[number] > 1:
                    reason = f"takes {uses[number]} of {PHOTOS} places"
                    entry = replace(entry, status="repeated", reason=", ".join(filter(None, (entry.reason, reason))))
                number += 1
        entries.append(entry)
    return tuple(entries)
