"""Aesthetic models: small heads on image features."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..models.checkpoint import read_state_dict

HEAD_ACTIVATIONS = {(0, 2, 4, 6, 7): False, (0, 3, 6, 9, 11): True}
"""Numbers of the linear layers in LAION's two heads (https://github.com/christophschuhmann/improved-aesthetic-predictor),
whose other layers have no weights: whether there is a ReLU between them."""


@dataclass(frozen=True, kw_only=True)
class AestheticHead:
    """What makes a score of image features.

    Attributes:
        name: of its file.
        layers: weight [out, in] and bias [out] of the linear layers.
        relu: whether there is a ReLU between them.
    """

    name: str
    layers: list[tuple[torch.Tensor, torch.Tensor]]
    relu: bool

    @property
    def width(self) -> int:
        return self.layers[0][0].shape[1]

    def __call__(self, embeds: torch.Tensor) -> torch.Tensor:
        """[n] of image features [n, D]."""
        values = torch.nn.functional.normalize(embeds.cpu().float(), dim=-1)
        for number, (weight, bias) in enumerate(self.layers):
            values = torch.nn.functional.linear(values.relu() if self.relu and number else values, weight, bias)
        return values.squeeze(-1)


def read_head(path: str) -> AestheticHead:
    """Read a file of LAION's layout (five linear layers, with or without ReLU), or of one linear layer.

    Raises:
        ValueError: another file.
    """
    name = os.path.basename(path)
    state_dict = read_state_dict(path)
    linear = {key.removesuffix("weight") for key in state_dict if re.fullmatch(r"(.*\.)?weight", key)}
    numbers = {int(match[1]): prefix for prefix in linear if (match := re.search(r"(?:^|\.)(\d+)\.$", prefix))}
    prefixes = list(linear) if len(linear) == 1 else [numbers[number] for number in sorted(numbers)]
    layers = [(state_dict[f"{prefix}weight"], state_dict.get(f"{prefix}bias")) for prefix in prefixes]
    known = len(linear) == 1 or (len(numbers) == len(linear) and tuple(sorted(numbers)) in HEAD_ACTIVATIONS)
    if not known or len(state_dict) != 2 * len(layers) or not _fit(layers):
        shapes = ", ".join(f"{key} {list(tensor.shape)}" for key, tensor in sorted(state_dict.items())[:6])
        raise ValueError(
            f"{name} is no aesthetic model that BoLID knows (tensors {shapes or 'none'}). It reads LAION's "
            "improved-aesthetic-predictor (layers.0, 2, 4, 6, 7, or with ReLU 0, 3, 6, 9, 11) and single linear layers."
        )
    return AestheticHead(
        name=name,
        layers=[(weight.float(), bias.float()) for weight, bias in layers],
        relu=len(layers) > 1 and HEAD_ACTIVATIONS[tuple(sorted(numbers))],
    )


def _fit(layers: Sequence[tuple[torch.Tensor, torch.Tensor | None]]) -> bool:
    """Whether all are weights with biases, each layer reads what the one before gives, and the last gives one value."""
    outputs = [weight.shape[0] for weight, _ in layers if weight.ndim == 2]
    inputs = [weight.shape[1] for weight, _ in layers if weight.ndim == 2]
    return (
        len(outputs) == len(layers)
        and all(bias is not None and bias.shape == weight.shape[:1] for weight, bias in layers)
        and [*inputs[1:], 1] == outputs
    )
