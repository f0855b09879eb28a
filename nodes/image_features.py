"""What the image encoder sees of a photo, and what it says about it."""

from __future__ import annotations

import comfy.clip_model
import comfy.clip_vision
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.utils import ProgressBar

from ..detectors.crops import crop_square, square_box

PERSON_MARGIN = 0.0
"""The person detectors' boxes have room around the body already."""

ENCODE_BATCH = 16


def crop_for_encoder(
    photo: torch.Tensor, box: tuple[float, float, float, float] | None, *, margin: float = 0.0, size: int
) -> torch.Tensor:
    """A square around a box of a photo [H, W, 3], or the photo's middle square: [1, size, size, 3].

    Args:
        box, margin: see `square_box`; None: the middle of the photo.
    """
    if box is not None:
        photo = crop_square(photo, square_box(box, margin=margin, image_size=photo.shape[:2]))
    # ComfyUI's own preprocessing, without its normalisation: encode_image repeats it on the result without effect. The
    # CPU cannot resize half precision, which --fp16-intermediates gives.
    pixels = comfy.clip_model.clip_preprocess(photo.float().unsqueeze(0), size=size, mean=[0.0] * 3, std=[1.0] * 3)
    return pixels.movedim(1, -1)


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
