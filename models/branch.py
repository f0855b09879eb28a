"""One image branch as a graph asks for it; every host drives branches the same way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from .cross_attention import KeyValue

UNCONDITIONAL, CONDITIONAL = 0, 1
"""The roles of guidance: positions in `ContextTokens` and in what `Branch.key_values` returns."""

ContextTokens = tuple[torch.Tensor, torch.Tensor]
"""Unconditional tokens [1, t, C] and conditional tokens [1, s, C]; t and s may differ, and t may be 0: the branch then
adds nothing to the unconditional side, which is what tokens of zeros add, without the work. [k, t, C] on either side:
the k-th row belongs to the k-th picture of the batch."""


class TokenSource(Protocol):
    """Makes a branch's context tokens once the weights are where they compute."""

    def __call__(self, *, device: torch.device | str, dtype: torch.dtype) -> ContextTokens: ...


@dataclass(frozen=True, kw_only=True)
class Branch:
    """One term λ · Attn(Q, K', V').

    Attributes:
        name: what it is of, for messages.
        tokens: source of the context tokens.
        projections: K', V' weights by layer index N.
        layer_weights: λ by layer index N.
        opposed_layers: index N of the layers in which the conditional tokens act on the unconditional side, and nothing
            on the conditional one.
        start_percent, end_percent: part of the sampling run in which the branch acts, 0 to 1.
        weight_schedule: how the branch's output rises and falls in that part, see `weight_schedule`.
        mask: [m, H, W] in 0 to 1, where the branch acts; m is 1 or one mask per picture of the batch. None: everywhere.
        embeds_scaling: see `KeyValue.weighted`.
    """

    name: str = "image"
    tokens: TokenSource
    projections: nn.ModuleDict
    layer_weights: Mapping[int, float]
    opposed_layers: frozenset[int] = frozenset()
    start_percent: float = 0.0
    end_percent: float = 1.0
    weight_schedule: str = "constant"
    mask: torch.Tensor | None = None
    embeds_scaling: str = "V only"

    @property
    def acts(self) -> bool:
        """False if the branch would change nothing."""
        return any(self.layer_weights.values())

    def key_values(self, *, device: torch.device | str, dtype: torch.dtype) -> dict[int, list[KeyValue]]:
        """K', V' by layer index N and role, computed in float32, weighted, and returned in `dtype`.

        Layers of weight 0 are left out. The batch of K', V' is that of the tokens: 1, or one row per picture.
        """
        tokens = self.tokens(device=device, dtype=torch.float32)
        joined = torch.cat([part.flatten(0, 1) for part in tokens]).unsqueeze(0)

        def by_role(index: int, weight: float) -> list[KeyValue]:
            parts = self.projections[str(index)](joined).split([part.shape[:2].numel() for part in tokens])
            key_values = [
                key_value.map(lambda x, part=part: x.reshape(*part.shape[:2], x.shape[-1])).weighted(
                    weight, self.embeds_scaling
                )
                for part, key_value in zip(tokens, parts, strict=True)
            ]
            if index in self.opposed_layers:
                key_values = [key_values[CONDITIONAL], key_values[CONDITIONAL].map(lambda x: x[:1, :0])]
            return [key_value.map(lambda x: x.to(dtype)) for key_value in key_values]

        return {index: by_role(index, weight) for index, weight in self.layer_weights.items() if weight != 0}
