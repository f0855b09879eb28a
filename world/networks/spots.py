"""What each spot of a picture shows, read off a network's features: a lesson beside the one that a network is for.

Small networks that learn from pictures see colours long before they see shapes, unless something asks for shapes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from ..parts import BACKGROUND, FACE, HAIR, PARTS
from .dataset import Pictures

SPOT = 4
"""Pixels along a side of what is one answer."""


def spots_of(pictures: Pictures, numbers: Sequence[int]) -> torch.Tensor:
    """[b, S/4, S/4] number of the part that 4×4 pixels show in their middle, see `world.parts`."""
    return pictures.parts(numbers)[:, SPOT // 2 :: SPOT, SPOT // 2 :: SPOT]


def cell_weights(spots: torch.Tensor, *, pixels: int, person: float, head: float) -> torch.Tensor:
    """[b, h, w] how much the cells of latents count.

    Args:
        spots: see `spots_of`.
        pixels: along a side of a cell, a multiple of 4.
        person, head: weight where the person is seen, and beside it of face and hair; 1 elsewhere.
    """
    is_head = (spots == FACE) | (spots == HAIR)
    weights = (1 + (person - 1) * (spots != BACKGROUND)) * (1 + (head - 1) * is_head)
    return functional.avg_pool2d(weights.float(), pixels // SPOT)


class PartsHead(nn.Module):
    """Features [b, width, h, w] → logits [b, parts, S/4, S/4].

    Args:
        width: of the features.
        pixels: along a side of what one feature stands for, a multiple of 4.
    """

    def __init__(self, width: int, pixels: int):
        super().__init__()
        self._spots = pixels // SPOT
        self.layer = nn.Conv2d(width, len(PARTS) * self._spots**2, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Float32."""
        return functional.pixel_shuffle(self.layer(features).float(), self._spots)


def parts_loss(logits: torch.Tensor, spots: torch.Tensor) -> torch.Tensor:
    """[b] cross-entropy, mean over the spots of a picture."""
    return functional.cross_entropy(logits, spots, reduction="none").mean(dim=(1, 2))
