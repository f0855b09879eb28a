"""The autoencoder: pictures → latents → pictures."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from PIL import Image
from torch import nn

from ...models.network_file import read_network, write_network
from ...training.randomness import keyed_generator
from ...training.samples import grid, to_image
from .config import AutoencoderTraining
from .dataset import Pictures
from .task import NetworkTask, PictureBatch

SCALING_PICTURES = 256
"""Whose latents tell the scale of all latents."""


@dataclass(frozen=True, kw_only=True)
class Crops(PictureBatch):
    """Parts of pictures, `pixels` [b, 3, S, S] in -1 to 1."""

    pixels: torch.Tensor


class AutoencoderStep(nn.Module):
    """Crops → terms of the loss, per picture."""

    def __init__(self, autoencoder: AutoencoderTiny):
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, crops: Crops) -> dict[str, torch.Tensor]:
        """[b] values of each term.

        `edges` is the error of the differences between neighbours, which blurred pictures get wrong.
        """
        error = self.reconstructed(crops.pixels) - crops.pixels
        across, down = error.diff(dim=-1), error.diff(dim=-2)
        return {
            "absolute": error.abs().mean(dim=(1, 2, 3)),
            "squared": error.square().mean(dim=(1, 2, 3)),
            "edges": (across.abs().mean(dim=(1, 2, 3)) + down.abs().mean(dim=(1, 2, 3))) / 2,
        }

    def reconstructed(self, pixels: torch.Tensor) -> torch.Tensor:
        """Float32, as large as `pixels`."""
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        return self.autoencoder(pixels, return_dict=False)[0].float()


class AutoencoderTask(NetworkTask):
    """See `NetworkTask`."""

    terms = {"absolute": 1.0, "squared": 1.0, "edges": 1.0}

    def __init__(self, config: AutoencoderTraining, *, device: torch.device):
        super().__init__(config, device=device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            autoencoder = AutoencoderTiny(latent_channels=config.autoencoder.latent_channels)
            _initialise(autoencoder)
        self.module = AutoencoderStep(autoencoder.to(memory_format=torch.channels_last))

    def batch_of(self, pictures: Pictures, numbers: list[int], generators: list[torch.Generator]) -> Crops:
        """A part of every picture; all of it where it is held out."""
        pixels = pictures.pixels(numbers)
        if pictures is self.training:
            side = self.config.autoencoder.crop
            last = pixels.shape[-1] - side
            places = [torch.randint(last + 1, (2,), generator=generator).tolist() for generator in generators]
            crops = [
                whole[:, top : top + side, left : left + side]
                for whole, (top, left) in zip(pixels, places, strict=True)
            ]
            pixels = torch.stack(crops)
        return Crops(names=pictures.names(numbers), pixels=pixels)

    def measures(self, batch: Crops) -> dict[str, torch.Tensor]:
        """Peak signal-to-noise ratio in decibels."""
        error = (self.module.reconstructed(batch.pixels).clamp(-1, 1) - batch.pixels) / 2
        return {"psnr": -10 * error.square().mean(dim=(1, 2, 3)).log10()}

    @torch.no_grad()
    def sample_grid(self, autocast: Callable[[], AbstractContextManager[None]]) -> Image.Image:
        """Pictures and what is left of them."""
        numbers = range(self.config.run.sample_people)
        pixels = self.held_out.pixels(numbers)
        reconstructed = self.module.reconstructed(pixels.to(self.device)).cpu()
        rows = [[to_image(before), to_image(after)] for before, after in zip(pixels, reconstructed, strict=True)]
        return grid(rows, ["picture", "reconstructed"], self.held_out.names(numbers))

    @torch.no_grad()
    def write_result(self, path: Path, training: dict[str, Any]) -> None:
        """Write the autoencoder, with the factor that gives its latents a standard deviation of 1."""
        generator = keyed_generator(self.config.run.seed, "scale")
        numbers = torch.randint(len(self.training), (SCALING_PICTURES,), generator=generator).tolist()
        latents = [
            self.module.autoencoder.encode(self.training.pixels([number]).to(self.device)).latents for number in numbers
        ]
        scale = 1 / float(torch.cat(latents).float().std())
        sizes = {"latent_channels": self.config.autoencoder.latent_channels, "scaling_factor": scale}
        write_network(path, self.module.autoencoder.state_dict(), network="autoencoder", sizes=sizes, training=training)


@torch.no_grad()
def _initialise(autoencoder: AutoencoderTiny) -> None:
    """Weights that keep the scale of activations (https://arxiv.org/abs/1502.01852) through layers without norms.

    With torch's own the signal fades on its way through two dozen of them, and hardly anything is learned at first.
    """
    for module in autoencoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in autoencoder.modules():
        if isinstance(module, AutoencoderTinyBlock):
            module.conv[-1].weight.mul_(0.2)  # blocks begin near the identity
    last = autoencoder.decoder.layers[-1]
    last.weight.mul_(0.1)
    last.bias.fill_(0.5)  # mid-grey, in 0 to 1


def load_autoencoder(path: Path) -> AutoencoderTiny:
    """The autoencoder of a file, frozen.

    Raises:
        ValueError: not the file of an autoencoder.
    """
    file = read_network(path, "autoencoder")
    autoencoder = AutoencoderTiny(**file.sizes)
    autoencoder.load_state_dict(file.state_dict)
    return autoencoder.eval().requires_grad_(False)
