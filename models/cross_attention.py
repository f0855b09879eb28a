"""Decoupled cross-attention: Z = Attn(Q, K, V) + Σ_branch λ_branch · Attn(Q, K'_branch, V'_branch).

Q, K, V belong to the frozen UNet; K', V' are linear in the branch's context tokens, and those do not change during a
sampling run, so K', V' are computed once and only the attention itself runs in every step.

Source: IP-Adapter, equation 5 (https://arxiv.org/abs/2308.06721).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import nn

EMBEDS_SCALINGS = ("V only", "K+V", "K+V w/ C penalty", "K+mean(V) w/ C penalty")

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Multi-head attention of the host: query [b, n, h], key [b, t, h], value [b, t, h] → [b, n, h]."""


@dataclass(frozen=True, kw_only=True)
class CrossAttentionLayer:
    """One cross-attention layer of a UNet.

    Attributes:
        index: N of the public files: position in diffusers' `unet.attn_processors` (down, up, mid; odd numbers).
        section: "input", "middle" or "output".
        transformer_index: position of its transformer block in the order of execution, from 0 (SD1.5: 16, SDXL: 11).
        hidden_size: width h of the query, key and value.
        cross_attention_dim: width C of the text context.
    """

    index: int
    section: str
    transformer_index: int
    hidden_size: int
    cross_attention_dim: int


@dataclass(frozen=True, kw_only=True)
class KeyValue:
    """K' and V' of one layer, [b, t, h] each."""

    key: torch.Tensor
    value: torch.Tensor

    @property
    def nbytes(self) -> int:
        return self.key.nbytes + self.value.nbytes

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> KeyValue:
        """The same function of both."""
        return KeyValue(key=function(self.key), value=function(self.value))

    def split(self, tokens: Sequence[int]) -> list[KeyValue]:
        """Consecutive groups of tokens."""
        pairs = zip(self.key.split(tokens, dim=1), self.value.split(tokens, dim=1), strict=True)
        return [KeyValue(key=key, value=value) for key, value in pairs]

    def weighted(self, weight: float, embeds_scaling: str = "V only") -> KeyValue:
        """Fold a branch's weight λ in, so that no step has to multiply by it.

        Args:
            embeds_scaling: what λ multiplies. "V only" gives λ·Attn(Q, K', V'), the paper's form; the others also
                sharpen or flatten the attention by scaling K'. "C penalty" multiplies λ by h/1280 first, so that
                narrow layers get less.

        Raises:
            ValueError: unknown embeds_scaling.
        """
        key, value = self.key, self.value
        if embeds_scaling.endswith("C penalty"):
            weight = weight * key.shape[-1] / 1280
        if embeds_scaling == "V only":
            return KeyValue(key=key, value=value * weight)
        if embeds_scaling.startswith("K+V"):
            return KeyValue(key=key * weight, value=value * weight)
        if embeds_scaling.startswith("K+mean(V)"):
            mean = value.mean(dim=1, keepdim=True)
            return KeyValue(key=key * weight, value=value - mean + mean * weight)
        raise ValueError(f"Unknown embeds_scaling {embeds_scaling!r}; choose one of {', '.join(EMBEDS_SCALINGS)}.")


class KeyValueProjection(nn.Module):
    """The trained K', V' weights of one layer.

    Args:
        suffix: of the weights' names, which are those of the adapter file: `to_k_ip` in a face branch, `to_k` in a
            body branch.
    """

    def __init__(self, *, cross_attention_dim: int, hidden_size: int, suffix: str, operations: Any = nn):
        super().__init__()
        self._names = (f"to_k{suffix}", f"to_v{suffix}")
        for name in self._names:
            self.add_module(name, operations.Linear(cross_attention_dim, hidden_size, bias=False))

    def forward(self, tokens: torch.Tensor) -> KeyValue:
        """Tokens [b, t, C] → K', V' [b, t, h]."""
        key, value = (getattr(self, name)(tokens) for name in self._names)
        return KeyValue(key=key, value=value)


def key_value_projections(
    layers: Mapping[int, int], *, cross_attention_dim: int, suffix: str, operations: Any = nn
) -> nn.ModuleDict:
    """One `KeyValueProjection` per layer, keyed by the layer's index N.

    Args:
        layers: hidden size by layer index N.
        suffix: see `KeyValueProjection`.
    """
    return nn.ModuleDict(
        {
            str(index): KeyValueProjection(
                cross_attention_dim=cross_attention_dim, hidden_size=hidden_size, suffix=suffix, operations=operations
            )
            for index, hidden_size in layers.items()
        }
    )


def add_branch(
    hidden_states: torch.Tensor,
    query: torch.Tensor,
    key_value: KeyValue,
    attention: Attention,
    *,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Add one branch to the result of the layer's other attentions.

    Args:
        hidden_states: [b, n, h], not modified.
        query: [b, n, h].
        key_value: of batch 1, b or a divisor of b (one row per picture, the pictures repeated), the branch's weight
            folded in; without tokens it adds nothing.
        mask: [b or 1, n or 1, 1] factor per position, or None for 1 everywhere.
    """
    if key_value.key.shape[1] == 0:
        return hidden_states
    batched = key_value.map(lambda x: _of_batch(x, query.shape[0]))
    attended = attention(query, batched.key, batched.value)
    if mask is None:
        return hidden_states + attended
    return torch.addcmul(hidden_states, attended, mask)


def _of_batch(x: torch.Tensor, batch: int) -> torch.Tensor:
    return x.expand(batch, -1, -1) if x.shape[0] in (1, batch) else x.repeat(batch // x.shape[0], 1, 1)


def add_branch_by_role(
    hidden_states: torch.Tensor,
    query: torch.Tensor,
    key_values: Sequence[KeyValue],
    roles: Sequence[int],
    attention: Attention,
    *,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """`add_branch` for a batch whose parts need different K', V', such as the two halves of guidance.

    The parts attend apart, because they may have different numbers of tokens, and because nothing needs to be copied
    to line K', V' up with the batch.

    Args:
        key_values: by role.
        roles: the role of each of the batch's equal parts, in order.
    """
    size = query.shape[0] // len(roles)
    parts, start = [], 0
    for role, group in groupby(roles):
        rows = slice(start, start := start + size * len(list(group)))
        part_mask = mask[rows] if mask is not None and mask.shape[0] > 1 else mask
        parts.append(add_branch(hidden_states[rows], query[rows], key_values[role], attention, mask=part_mask))
    return parts[0] if len(parts) == 1 else torch.cat(parts)
