"""Networks that say who is in a picture, or what: the image encoder, and two that measure."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from ...models.network_file import read_network, write_network
from ...training.samples import grid, to_image
from ..pictures import SIDE
from ..separability import area_under_curve
from .config import HEAD_WIDTH, RecognitionSettings, RecognitionTraining
from .dataset import Pictures
from .heads import Heads, answers_of, heads_loss, heads_measures
from .principal import sampled_numbers, start_patches
from .recogniser import Recogniser, normalised
from .spots import PartsHead, parts_loss, spots_of
from .task import NetworkTask, PictureBatch

PATCH = 16
TEMPERATURE = 0.1
PICTURES_TO_CHOOSE_FROM = 400


def recognition_sizes(settings: RecognitionSettings) -> dict[str, Any]:
    """Of the library's class, and of the embedding."""
    if settings.kind == "transformer":
        return {
            "kind": "transformer",
            "image_size": SIDE,
            "patch_size": PATCH,
            "hidden_size": settings.width,
            "intermediate_size": 4 * settings.width,
            "num_hidden_layers": settings.depth,
            "num_attention_heads": settings.width // HEAD_WIDTH,
            "hidden_act": "gelu",
            "projection_dim": settings.dim,
        }
    widths = [settings.width * 2**level for level in range(4)]
    return {
        "kind": "convolutional",
        "embedding_size": settings.width,
        "hidden_sizes": widths,
        "depths": [settings.depth] * 4,
        "projection_dim": settings.dim,
    }


@dataclass(frozen=True, kw_only=True)
class People(PictureBatch):
    """Pictures and who is in them.

    Attributes:
        pixels: [b, 3, S, S] in -1 to 1.
        people: [b] numbers.
        truths: see `heads.answers_of`.
        spots: see `spots.spots_of`; None where nothing is learned from them.
    """

    pixels: torch.Tensor
    people: torch.Tensor
    truths: dict[str, torch.Tensor]
    spots: torch.Tensor | None


class RecognitionStep(nn.Module):
    """Pictures → terms of the loss, per picture."""

    def __init__(self, recogniser: Recogniser, heads: Heads, parts: PartsHead | None = None):
        super().__init__()
        self.recogniser = recogniser
        self.heads = heads
        self.parts = parts

    def forward(self, batch: People) -> dict[str, torch.Tensor]:
        """[b] values of each term."""
        embeds, tokens = self.recogniser.with_tokens(batch.pixels)
        terms = {"contrast": supervised_contrast(embeds, batch.people)}
        if self.parts is not None:
            terms["parts"] = parts_loss(self.parts(tokens), batch.spots)
        if self.heads.layers:
            terms["heads"] = heads_loss(self.heads(embeds), batch.truths)
        return terms


def supervised_contrast(embeds: torch.Tensor, people: torch.Tensor) -> torch.Tensor:
    """[b] how badly the other pictures of a person are told from those of others (https://arxiv.org/abs/2004.11362).

    Args:
        embeds: [b, d], not normalised.
        people: [b] numbers; a picture without another one of its person counts 0.
    """
    itself = torch.eye(len(embeds), dtype=torch.bool, device=embeds.device)
    logits = (_similarities(embeds) / TEMPERATURE).masked_fill(itself, -torch.inf)
    same = (people[:, None] == people[None]) & ~itself
    log_chances = logits.log_softmax(dim=1).masked_fill(~same, 0.0)
    return -log_chances.sum(dim=1) / same.sum(dim=1).clamp(min=1)


def _similarities(embeds: torch.Tensor) -> torch.Tensor:
    """[b, b] cosines, in float32 also under autocast."""
    with torch.autocast(embeds.device.type, enabled=False):
        embeds = functional.normalize(embeds.float(), dim=1)
        return embeds @ embeds.T


class RecognitionTask(NetworkTask):
    """See `NetworkTask`."""

    def __init__(self, config: RecognitionTraining, *, device: torch.device):
        super().__init__(config, device=device)
        settings = config.recognition
        self.terms = {"contrast": settings.contrast}
        if settings.heads:
            self.terms["heads"] = 1.0
        if settings.parts:
            self.terms["parts"] = settings.parts
        self.compares_rows = settings.contrast > 0
        self.people_per_batch = settings.people_per_batch if self.compares_rows else 0
        self._sizes = recognition_sizes(settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            self.module = RecognitionStep(
                Recogniser(self._sizes),
                Heads(settings.dim, settings.heads),
                PartsHead(settings.width, PATCH) if settings.parts else None,
            )
        if settings.kind == "transformer":
            sampled = sampled_numbers(len(self.training), seed=config.run.seed)
            embedding = self.module.recogniser.network.vision_model.embeddings.patch_embedding
            start_patches(embedding, normalised(self.training.pixels(sampled)))
            if device.type == "cpu":
                # There it is slow to go back through the fused attention: a step takes 1.7 times as long.
                self.module.recogniser.network.set_attn_implementation("eager")
        self._truths = {
            id(pictures): answers_of(pictures, settings.heads) for pictures in (self.training, self.held_out)
        }

    def batch_of(self, pictures: Pictures, numbers: list[int], generators: list[torch.Generator]) -> People:
        """All of every picture."""
        return People(
            names=pictures.names(numbers),
            pixels=pictures.pixels(numbers),
            people=pictures.people[numbers],
            truths={head: truth[numbers] for head, truth in self._truths[id(pictures)].items()},
            spots=spots_of(pictures, numbers) if self.module.parts else None,
        )

    def measures(self, batch: People) -> dict[str, torch.Tensor]:
        """Of the heads, and how often a picture of one person is closer than one of another."""
        embeds, tokens = self.module.recogniser.with_tokens(batch.pixels)
        found = heads_measures(self.module.heads(embeds), batch.truths)
        if self.module.parts is not None:
            right = self.module.parts(tokens).argmax(dim=1) == batch.spots
            found["parts_right"] = right[batch.spots > 0].float()
        if self.config.recognition.contrast:
            found["auc"] = _area(embeds, batch.people)
        return found

    @torch.no_grad()
    def sample_grid(self, autocast: Callable[[], AbstractContextManager[None]]) -> Image.Image:
        """Held-out pictures, each followed by those whose embeddings are nearest, other people's or not."""
        self.module.eval()
        numbers = self.held_out.spread(PICTURES_TO_CHOOSE_FROM)
        with autocast():
            embeds = functional.normalize(
                torch.cat(
                    [
                        self.module.recogniser(self.held_out.pixels(numbers[first : first + 50]).to(self.device))
                        for first in range(0, len(numbers), 50)
                    ]
                ),
                dim=1,
            )
        self.module.train()
        rows, names = [], []
        for row in range(self.config.run.sample_people):
            probe = row * len(numbers) // self.config.run.sample_people
            nearest = (embeds @ embeds[probe]).argsort(descending=True)[:6].tolist()
            chosen = [numbers[place] for place in nearest]
            rows.append([to_image(pixels) for pixels in self.held_out.pixels(chosen)])
            names.append(" ".join(self.held_out.files[number].parent.name[-4:] for number in chosen))
        return grid(rows, ["picture", *["nearest"] * 5], names)

    def write_result(self, path: Path, training: dict[str, Any]) -> None:
        """Write the network and its heads, without what is only there for learning."""
        sizes = {"recogniser": self._sizes, "heads": list(self.config.recognition.heads)}
        kept = {key: value for key, value in self.module.state_dict().items() if not key.startswith("parts.")}
        write_network(path, kept, network="recognition", sizes=sizes, training=training)


def _area(embeds: torch.Tensor, people: torch.Tensor) -> torch.Tensor:
    """[1] area under the curve of a batch: chance that two pictures of a person are closer than two of two people."""
    distances = 1 - _similarities(embeds)
    pairs = torch.ones_like(distances, dtype=torch.bool).triu(diagonal=1)
    same = people[:, None] == people[None]
    values = [distances[pairs & chosen].cpu().numpy() for chosen in (same, ~same)]
    return torch.tensor([area_under_curve(*values)])


def load_recogniser(path: Path) -> RecognitionStep:
    """A network with its heads, frozen.

    Raises:
        ValueError: not the file of such a network.
    """
    file = read_network(path, "recognition")
    recogniser = Recogniser(file.sizes["recogniser"])
    dim = file.sizes["recogniser"]["projection_dim"]
    step = RecognitionStep(recogniser, Heads(dim, file.sizes["heads"]))
    step.load_state_dict(file.state_dict)
    return step.eval().requires_grad_(False)
