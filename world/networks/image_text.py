"""Pairs of encoders for pictures and captions: one inside the adapters' loss, another to measure with."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from ...models.network_file import write_network
from ...training.samples import grid, to_image
from ..pictures import SIDE
from .config import HEAD_WIDTH, ImageTextSettings, ImageTextTraining
from .dataset import Pictures
from .task import NetworkTask, PictureBatch
from .vocabulary import LENGTH, Vocabulary

PATCH = 16
CAPTIONS_TO_CHOOSE_FROM = 64
PREPROCESSING = {"size": SIDE, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
"""In open_clip's terms: pictures in 0 to 1 become -1 to 1, which is what the networks are trained on."""


def image_text_sizes(settings: ImageTextSettings) -> dict[str, Any]:
    """Of open_clip's class, but for the vocabulary."""
    is_transformer = settings.kind == "transformer"
    return {
        "embed_dim": settings.dim,
        "vision_cfg": {
            "image_size": SIDE,
            "width": settings.width,
            "head_width": HEAD_WIDTH,
            "layers": settings.depth if is_transformer else [settings.depth] * 4,
            **({"patch_size": PATCH} if is_transformer else {}),
        },
        "text_cfg": {
            "context_length": LENGTH,
            "width": settings.text_dim,
            "heads": settings.text_heads,
            "layers": settings.text_layers,
        },
    }


def image_text_model(sizes: dict[str, Any], vocabulary_size: int) -> open_clip.CLIP:
    """With random weights."""
    text = {**sizes["text_cfg"], "vocab_size": vocabulary_size}
    return open_clip.CLIP(embed_dim=sizes["embed_dim"], vision_cfg=dict(sizes["vision_cfg"]), text_cfg=text)


@dataclass(frozen=True, kw_only=True)
class Captioned(PictureBatch):
    """Pictures and what is said about them.

    Attributes:
        pixels: [b, 3, S, S] in -1 to 1.
        ids: [b, 77] numbers of the caption's tokens.
        captions: [b] numbers, equal where the captions are.
    """

    pixels: torch.Tensor
    ids: torch.Tensor
    captions: torch.Tensor


class ImageTextStep(nn.Module):
    """Pictures and captions → terms of the loss, per picture."""

    def __init__(self, model: open_clip.CLIP):
        super().__init__()
        self.model = model

    def forward(self, batch: Captioned) -> dict[str, torch.Tensor]:
        """[b] values of each term: how badly a picture's caption is told from the others', and the reverse.

        Equal captions are all right.
        """
        logits = self.logits(batch)
        same = batch.captions[:, None] == batch.captions[None]
        right = same / same.sum(dim=1, keepdim=True)
        both = [functional.cross_entropy(each, right, reduction="none") for each in (logits, logits.T)]
        return {"contrast": torch.stack(both).mean(dim=0)}

    def logits(self, batch: Captioned) -> torch.Tensor:
        """[b, b] of pictures by captions, float32 also under autocast."""
        pictures = self.model.encode_image(batch.pixels, normalize=True)
        texts = self.model.encode_text(batch.ids, normalize=True)
        with torch.autocast(batch.pixels.device.type, enabled=False):
            return self.model.logit_scale.exp().clamp(max=100) * pictures.float() @ texts.float().T


class ImageTextTask(NetworkTask):
    """See `NetworkTask`."""

    terms = {"contrast": 1.0}
    compares_rows = True

    def __init__(self, config: ImageTextTraining, *, device: torch.device):
        super().__init__(config, device=device)
        self._vocabulary = Vocabulary.of(self.training.captions)
        self._sizes = image_text_sizes(config.image_text)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            self.module = ImageTextStep(image_text_model(self._sizes, len(self._vocabulary)))
        numbers: dict[str, int] = {}
        self._numbers = {
            id(pictures): torch.tensor([numbers.setdefault(caption, len(numbers)) for caption in pictures.captions])
            for pictures in (self.training, self.held_out)
        }

    def batch_of(self, pictures: Pictures, numbers: list[int], generators: list[torch.Generator]) -> Captioned:
        """All of every picture."""
        return Captioned(
            names=pictures.names(numbers),
            pixels=pictures.pixels(numbers),
            ids=self._vocabulary.ids([pictures.captions[number] for number in numbers]),
            captions=self._numbers[id(pictures)][numbers],
        )

    def measures(self, batch: Captioned) -> dict[str, torch.Tensor]:
        """Whether a picture's own caption is the nearest in its batch."""
        chosen = self.module.logits(batch).argmax(dim=1)
        return {"nearest_is_own": (batch.captions[chosen] == batch.captions).float()}

    @torch.no_grad()
    def sample_grid(self, autocast: Callable[[], AbstractContextManager[None]]) -> Image.Image:
        """Held-out pictures, each over the caption that is nearest among those of some of them."""
        self.module.eval()
        numbers = self.held_out.spread(CAPTIONS_TO_CHOOSE_FROM)
        batch = self.batch_of(self.held_out, numbers, []).to(self.device)
        with autocast():
            chosen = self.module.logits(batch).argmax(dim=1).tolist()
        self.module.train()
        rows, captions = [], []
        for row in range(min(self.config.run.sample_people, len(numbers))):
            own, nearest = (self.held_out.captions[numbers[place]] for place in (row, chosen[row]))
            rows.append([to_image(batch.pixels[row]), None, None])
            captions.append(f"{nearest}{'' if nearest == own else f' / own: {own}'}")
        return grid(rows, ["picture", "", ""], captions)

    def write_result(self, path: Path, training: dict[str, Any]) -> None:
        """Write both encoders."""
        tensors = {**self.module.model.state_dict(), "tokens": torch.tensor(self._vocabulary.tokens)}
        write_network(path, tensors, network="image_text", sizes=self._sizes, training=training)
