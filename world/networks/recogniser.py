"""Pictures → embeddings that say who is in them, or what; `recognition.py` trains them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, ResNetConfig, ResNetModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from ...models.network_file import read_network


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """Pictures in -1 to 1 as CLIP's encoders see them."""
    mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return (pixels / 2 + 0.5 - mean) / std


class Recogniser(nn.Module):
    """Pictures [b, 3, S, S] in -1 to 1 → embeddings [b, dim].

    Args:
        sizes: of `recognition.recognition_sizes`.
    """

    def __init__(self, sizes: dict[str, Any]):
        super().__init__()
        sizes = dict(sizes)
        self.kind = sizes.pop("kind")
        if self.kind == "transformer":
            self.network = CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes))
        else:
            dim = sizes.pop("projection_dim")
            self.network = ResNetModel(ResNetConfig(**sizes, layer_type="basic"))
            self.projection = nn.Linear(sizes["hidden_sizes"][-1], dim)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Float32, not normalised."""
        return self.with_tokens(pixels)[0]

    def with_tokens(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Also what adapters read of a transformer: [b, width, h, w] of its last layer but one, patch by patch."""
        pixels = normalised(pixels)
        if self.kind == "transformer":
            output = self.network(pixels, output_hidden_states=True)
            side = self.network.config.image_size // self.network.config.patch_size
            return output.image_embeds.float(), output.hidden_states[-2][:, 1:].mT.unflatten(-1, (side, side))
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        return self.projection(self.network(pixels).pooler_output.flatten(1)).float(), None


def read_recogniser(path: Path) -> Recogniser:
    """A trained one without its heads, frozen.

    Raises:
        ValueError: not the file of such a network.
    """
    file = read_network(path, "recognition")
    recogniser = Recogniser(file.sizes["recogniser"])
    recogniser.load_state_dict(file.part("recogniser"))
    return recogniser.eval().requires_grad_(False)
