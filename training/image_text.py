"""The image-text network of L_clip: frozen, and differentiable from the picture on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch.nn import functional

from .config import LossSettings
from .fingerprint import file_hash, model_fingerprint

LOCAL = "local-dir:"


@dataclass(frozen=True, kw_only=True)
class ImageText:
    """An open_clip model.

    Attributes:
        size: side of its pictures in pixels.
        mean, std: [3] of its preprocessing.
    """

    model: Any
    tokenizer: Any
    size: int
    mean: torch.Tensor
    std: torch.Tensor

    @torch.no_grad()
    def encode_text(self, text: str) -> torch.Tensor:
        """[E], L2-normalised."""
        device = next(self.model.parameters()).device
        return self.model.encode_text(self.tokenizer([text]).to(device), normalize=True)[0].float()

    def encode_image(self, pictures: torch.Tensor) -> torch.Tensor:
        """[b, E], L2-normalised.

        Args:
            pictures: [b, 3, h, w] in -1 to 1; their middle square is seen.
        """
        height, width = pictures.shape[-2:]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = pictures[..., top : top + side, left : left + side].float()
        pixels = functional.interpolate(square, size=self.size, mode="bicubic", antialias=True) / 2 + 0.5
        mean, std = (values.to(pixels).view(-1, 1, 1) for values in (self.mean, self.std))
        return self.model.encode_image((pixels.clamp(0, 1) - mean) / std, normalize=True).float()


def load_image_text(settings: LossSettings, *, device: torch.device) -> ImageText:
    """The network that the settings name; it is downloaded only where `clip_weights` is the name of public weights.

    Raises:
        ValueError: no such model or weights, and the message says which there are; or they could not be loaded.
    """
    name, weights = settings.clip_model, settings.clip_weights
    if not name.startswith(LOCAL):
        known = open_clip.list_models()
        if name not in known:
            raise ValueError(
                f"loss.clip_model is {name!r}, which open_clip does not know. Give one of its {len(known)} models, "
                f"such as EVA02-L-14 or ViT-L-14, or {LOCAL}FOLDER."
            )
        tags = open_clip.list_pretrained_tags_by_model(name)
        if not Path(weights).is_file() and weights not in tags:
            raise ValueError(
                f"loss.clip_weights is {weights!r}, which is neither a file nor one of the public weights of {name} "
                f"({', '.join(tags) or 'none'}). With a name open_clip downloads them."
            )
    elif not Path(name.removeprefix(LOCAL), "open_clip_config.json").is_file():
        raise ValueError(f"loss.clip_model is {name!r}, but that folder has no open_clip_config.json.")
    elif weights:
        raise ValueError(f"loss.clip_weights is {weights!r}, but loss.clip_model {name} has its own. Leave it out.")
    try:
        # open_clip fills the weights with random numbers first, and would leave it at that where it finds none.
        with torch.random.fork_rng(devices=[]):
            model = open_clip.create_model(name, pretrained=weights or None, require_pretrained=True)
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # damaged bytes raise nearly anything
        raise ValueError(
            f"The image-text model {name} could not be loaded with loss.clip_weights = {weights!r}: {error}"
        ) from error
    config = open_clip.get_model_preprocess_cfg(model)
    size = config["size"]
    return ImageText(
        model=model.to(device).eval().requires_grad_(False),
        tokenizer=tokenizer,
        size=size if isinstance(size, int) else size[0],
        mean=torch.tensor(config["mean"]),
        std=torch.tensor(config["std"]),
    )


def image_text_fingerprint(settings: LossSettings) -> str:
    """Tells one network from another."""
    name, weights = settings.clip_model, settings.clip_weights
    if name.startswith(LOCAL):
        return model_fingerprint(Path(name.removeprefix(LOCAL)))
    return f"{name} {file_hash(Path(weights)) if Path(weights).is_file() else weights}"
