"""Image projections: features of one or more reference photos → context tokens for cross-attention.

Parameter names are those of the public IP-Adapter files, so that their state dicts load strictly. Each class names the
features that it reads in `inputs`; hosts never need to know which projection they hold.

Sources: IP-Adapter (https://arxiv.org/abs/2308.06721) and its public weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

HEAD_DIM = 64


class ImageProjection(nn.Module):
    """One linear layer and a LayerNorm: image_embeds [b, D] → tokens [b, num_tokens, C]."""

    inputs: tuple[str, ...] = ("image_embeds",)

    def __init__(self, *, image_embed_dim: int, cross_attention_dim: int, num_tokens: int, operations: Any = nn):
        super().__init__()
        self.num_tokens = num_tokens
        self.proj = operations.Linear(image_embed_dim, num_tokens * cross_attention_dim)
        self.norm = operations.LayerNorm(cross_attention_dim)

    def forward(self, image_embeds: torch.Tensor) -> torch.Tensor:
        tokens = self.proj(image_embeds)
        return self.norm(tokens.unflatten(-1, (self.num_tokens, -1)))


class FullImageProjection(nn.Module):
    """A two-layer perceptron over every hidden state ("full face"): [b, T, H] → [b, T, C]."""

    inputs: tuple[str, ...] = ("hidden_states",)

    def __init__(self, *, hidden_size: int, inner_dim: int, cross_attention_dim: int, operations: Any = nn):
        super().__init__()
        self.proj = nn.Sequential(
            operations.Linear(hidden_size, inner_dim),
            nn.GELU(),
            operations.Linear(inner_dim, cross_attention_dim),
            operations.LayerNorm(cross_attention_dim),
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.proj(hidden_states)


class FaceIDImageProjection(nn.Module):
    """A two-layer perceptron over an ArcFace vector: face_embeds [b, 512] → tokens [b, num_tokens, C]."""

    inputs: tuple[str, ...] = ("face_embeds",)

    def __init__(
        self, *, face_embed_dim: int, inner_dim: int, cross_attention_dim: int, num_tokens: int, operations: Any = nn
    ):
        super().__init__()
        self.num_tokens = num_tokens
        self.proj = nn.Sequential(
            operations.Linear(face_embed_dim, inner_dim),
            nn.GELU(),
            operations.Linear(inner_dim, num_tokens * cross_attention_dim),
        )
        self.norm = operations.LayerNorm(cross_attention_dim)

    def forward(self, face_embeds: torch.Tensor) -> torch.Tensor:
        tokens = self.proj(face_embeds)
        return self.norm(tokens.unflatten(-1, (self.num_tokens, -1)))


class PerceiverAttention(nn.Module):
    """Latents attend to the features and to themselves: features [b, n, d], latents [b, m, d] → [b, m, d].

    `keys_in_use` [b, n + m] bool hides features and latents where it is False; None hides nothing.
    """

    def __init__(self, *, dim: int, operations: Any = nn):
        super().__init__()
        self.heads = dim // HEAD_DIM
        self.norm1 = operations.LayerNorm(dim)
        self.norm2 = operations.LayerNorm(dim)
        self.to_q = operations.Linear(dim, dim, bias=False)
        self.to_kv = operations.Linear(dim, 2 * dim, bias=False)
        self.to_out = operations.Linear(dim, dim, bias=False)

    def forward(
        self, features: torch.Tensor, latents: torch.Tensor, keys_in_use: torch.Tensor | None = None
    ) -> torch.Tensor:
        latents = self.norm2(latents)
        query = self.to_q(latents)
        key, value = self.to_kv(torch.cat((self.norm1(features), latents), dim=1)).chunk(2, dim=-1)
        query, key, value = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, key, value))
        mask = None if keys_in_use is None else keys_in_use[:, None, None, :]
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.to_out(attended.transpose(1, 2).flatten(2))


def feed_forward(dim: int, operations: Any) -> nn.Sequential:
    """The second half of a perceiver layer: [..., d] → [..., d]."""
    return nn.Sequential(
        operations.LayerNorm(dim),
        operations.Linear(dim, 4 * dim, bias=False),
        nn.GELU(),
        operations.Linear(4 * dim, dim, bias=False),
    )


class PerceiverResampler(nn.Module):
    """Perceiver layers over image features: features [b, T, H], latents [b, m, d] → tokens [b, m, C].

    `in_use` [b, T] bool hides features where it is False.
    """

    def __init__(self, *, hidden_size: int, dim: int, depth: int, cross_attention_dim: int, operations: Any = nn):
        super().__init__()
        self.proj_in = operations.Linear(hidden_size, dim)
        self.proj_out = operations.Linear(dim, cross_attention_dim)
        self.norm_out = operations.LayerNorm(cross_attention_dim)
        self.layers = nn.ModuleList(
            nn.ModuleList((PerceiverAttention(dim=dim, operations=operations), feed_forward(dim, operations)))
            for _ in range(depth)
        )

    def resample(
        self, features: torch.Tensor, latents: torch.Tensor, in_use: torch.Tensor | None = None
    ) -> torch.Tensor:
        features = self.proj_in(features)
        if in_use is not None:
            in_use = torch.cat((in_use, in_use.new_ones(latents.shape[:2])), dim=1)
        for attention, feed in self.layers:
            latents = attention(features, latents, in_use) + latents
            latents = feed(latents) + latents
        return self.norm_out(self.proj_out(latents))


class PlusImageProjection(PerceiverResampler):
    """Learned latents read the hidden states ("plus"): hidden_states [b, T, H] → tokens [b, num_tokens, C]."""

    inputs: tuple[str, ...] = ("hidden_states",)

    def __init__(
        self,
        *,
        hidden_size: int,
        dim: int,
        depth: int,
        cross_attention_dim: int,
        num_tokens: int,
        operations: Any = nn,
    ):
        super().__init__(
            hidden_size=hidden_size,
            dim=dim,
            depth=depth,
            cross_attention_dim=cross_attention_dim,
            operations=operations,
        )
        self.latents = nn.Parameter(torch.randn(1, num_tokens, dim) / dim**0.5)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # A bare parameter is not cast by the host's layers.
        latents = self.latents.to(hidden_states).expand(hidden_states.shape[0], -1, -1)
        return self.resample(hidden_states, latents)


class FaceIDPlusImageProjection(FaceIDImageProjection):
    """ArcFace tokens that read the face crop's hidden states ("FaceID plus").

    face_embeds [b, 512], hidden_states [b, T, H] → tokens [b, num_tokens, C]. Version 2 of the public weights adds the
    ArcFace tokens to the result (`shortcut`); version 1 has the same tensors and does not.
    """

    inputs = ("face_embeds", "hidden_states")

    def __init__(
        self,
        *,
        face_embed_dim: int,
        inner_dim: int,
        hidden_size: int,
        depth: int,
        cross_attention_dim: int,
        num_tokens: int,
        shortcut: bool,
        operations: Any = nn,
    ):
        super().__init__(
            face_embed_dim=face_embed_dim,
            inner_dim=inner_dim,
            cross_attention_dim=cross_attention_dim,
            num_tokens=num_tokens,
            operations=operations,
        )
        self.shortcut = shortcut
        self.perceiver_resampler = PerceiverResampler(
            hidden_size=hidden_size,
            dim=cross_attention_dim,
            depth=depth,
            cross_attention_dim=cross_attention_dim,
            operations=operations,
        )

    def forward(self, face_embeds: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        tokens = super().forward(face_embeds)
        resampled = self.perceiver_resampler.resample(hidden_states, tokens)
        return tokens + resampled if self.shortcut else resampled
