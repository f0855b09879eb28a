"""The Body-ID encoder: proportions, image features and an optional pose → context tokens."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from .image_projection import PerceiverAttention, PerceiverResampler, feed_forward
from .keypoints import BONES, JOINTS

OCTAVES = 4
"""Frequencies of a joint's position, 2⁰ to 2³ waves over the picture: a perceptron alone is blind to small
differences of x and y (https://arxiv.org/abs/2006.10739)."""

POSITION_FEATURES = 3 + 4 * OCTAVES
"""The first of what is told of a joint; then come `seen` and the proportions."""

_JOINT_FEATURES = POSITION_FEATURES + 1 + 2 * len(BONES)


class BodyIDEncoder(nn.Module):
    """Twelve joint tokens read the grids of all photos, and a small resampler makes the body tokens of them.

    A joint takes part if the photos show it or the target pose places it; the others are masked in every attention.
    The identity comes from the photos alone (which joints and how long the bones are, and the image features); x and y
    come from the target pose alone, so that the places of the joints in the photos cannot be copied.

    Args:
        hidden_size: width H of the image encoder's hidden states.
        dim: inner width, a multiple of 64.
        depth: layers in which the joint tokens read the grids.
        resampler_depth: layers of the resampler.
        num_tokens: body tokens.
        cross_attention_dim: width C of the UNet's context tokens.
        operations: the host's layers.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        dim: int,
        depth: int,
        resampler_depth: int,
        num_tokens: int,
        cross_attention_dim: int,
        operations: Any = nn,
    ):
        super().__init__()
        self.joint_embedding = nn.Parameter(torch.randn(1, len(JOINTS), dim) / dim**0.5)
        self.joint_in = nn.Sequential(operations.Linear(_JOINT_FEATURES, dim), nn.GELU(), operations.Linear(dim, dim))
        self.grid_in = operations.Linear(hidden_size, dim)
        self.null_grid = nn.Parameter(torch.randn(1, 1, dim) / dim**0.5)
        self.layers = nn.ModuleList(
            nn.ModuleList((PerceiverAttention(dim=dim, operations=operations), feed_forward(dim, operations)))
            for _ in range(depth)
        )
        self.latents = nn.Parameter(torch.randn(1, num_tokens, dim) / dim**0.5)
        self.resampler = PerceiverResampler(
            hidden_size=dim,
            dim=dim,
            depth=resampler_depth,
            cross_attention_dim=cross_attention_dim,
            operations=operations,
        )

    def forward(
        self,
        *,
        proportions: torch.Tensor,
        seen: torch.Tensor,
        target_pose: torch.Tensor,
        hidden_states: torch.Tensor | None,
        in_use: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Body tokens [b, num_tokens, C].

        Args:
            proportions: [b, 7, 2] as `body.proportions` returns them.
            seen: [b, 12] bool, joints that the photos show.
            target_pose: [b, 12, 3] x, y in 0 to 1, and visibility; all zero for a joint that has no place.
            hidden_states: [b, T, H] hidden states of all photos in a row, or None without image features.
            in_use: [b, T] bool, hidden states that are there; the others fill the batch. None: all of them.
        """
        batch = proportions.shape[0]
        placed = target_pose[..., 2:] > 0
        features = torch.cat(
            (
                torch.where(placed, _position_features(target_pose), 0.0),
                seen.unsqueeze(-1).to(proportions),
                proportions.flatten(1).unsqueeze(1).expand(-1, len(JOINTS), -1),
            ),
            dim=-1,
        )
        # Bare parameters are not cast by the host's layers.
        joints = self.joint_in(features) + self.joint_embedding.to(features)
        null_grid = self.null_grid.to(features).expand(batch, -1, -1)
        if hidden_states is None:
            grid = null_grid
        elif in_use is None:
            grid = self.grid_in(hidden_states)
        else:
            grid = torch.cat((null_grid, self.grid_in(hidden_states)), dim=1)
            in_use = torch.cat((~in_use.any(dim=1, keepdim=True), in_use), dim=1)
        takes_part = seen | placed.squeeze(-1)
        grid_in_use = takes_part.new_ones(batch, grid.shape[1]) if in_use is None else in_use
        keys_in_use = torch.cat((grid_in_use, takes_part), dim=1)
        for attention, feed in self.layers:
            joints = attention(grid, joints, keys_in_use) + joints
            joints = feed(joints) + joints
        return self.resampler.resample(joints, self.latents.to(features).expand(batch, -1, -1), takes_part)


def _position_features(target_pose: torch.Tensor) -> torch.Tensor:
    """[..., 3] → [..., 3 + 4 · OCTAVES]: x and y in -1 to 1, visibility, and sine and cosine of x and y."""
    position = target_pose[..., :2] * 2 - 1
    octaves = math.pi * 2.0 ** torch.arange(OCTAVES, device=position.device, dtype=position.dtype)
    phases = (position.unsqueeze(-1) * octaves).flatten(-2)
    return torch.cat((position, target_pose[..., 2:], phases.sin(), phases.cos()), dim=-1)
