"""One image branch as a graph asks for it; every host drives branches the same way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from .cross_attention import KeyValue, weighted_key_values


class TokenSource(Protocol):
    """Makes a branch's context tokens once the weights are where they compute."""

    def __call__(self, *, device: torch.device | str, dtype: torch.dtype) -> torch.Tensor:
        """Return [2, t, C]: unconditional tokens first."""
        ...


@dataclass(frozen=True, kw_only=True)
class Branch:
    """One term λ · Attn(Q, K', V').

    Attributes:
        tokens: source of the context tokens.
        projections: K', V' weights by layer index N.
        layer_weights: λ by layer index N.
        start_percent, end_percent: part of the sampling run in which the branch acts, 0 to 1.
        mask: [m, H, W] in 0 to 1, where the branch acts; m is 1 or one mask per picture of the batch. None: everywhere.
        embeds_scaling: see `weighted_key_values`.
    """

    tokens: TokenSource
    projections: nn.ModuleDict
    layer_weights: Mapping[int, float]
    start_percent: float = 0.0
    end_percent: float = 1.0
    mask: torch.Tensor | None = None
    embeds_scaling: str = "V only"

    @property
    def acts(self) -> bool:
        """False if the branch would change nothing."""
        return any(self.layer_weights.values())

    def key_values(self, *, device: torch.device | str, dtype: torch.dtype) -> dict[int, KeyValue]:
        """K', V' by layer index N, computed in float32 and returned in `dtype`."""
        return weighted_key_values(
            self.projections,
            self.tokens(device=device, dtype=torch.float32),
            layer_weights=self.layer_weights,
            embeds_scaling=self.embeds_scaling,
            dtype=dtype,
        )
