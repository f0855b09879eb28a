"""What the image encoder says about photos."""

from __future__ import annotations

import comfy.clip_vision
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.utils import ProgressBar

ENCODE_BATCH = 16


def encode(
    encoder: comfy.clip_vision.ClipVisionModel, crops: torch.Tensor, progress: ProgressBar
) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops [n, S, S, 3] → image_embeds [n, D] and penultimate hidden states [n, T, H], float32."""
    image_embeds, hidden_states = [], []
    for batch in crops.split(ENCODE_BATCH):
        throw_exception_if_processing_interrupted()
        output = encoder.encode_image(batch)
        image_embeds.append(output["image_embeds"].float())
        hidden_states.append(output["penultimate_hidden_states"].float())
        progress.update(len(batch))
    return torch.cat(image_embeds), torch.cat(hidden_states)
