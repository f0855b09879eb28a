"""The autoencoder: pictures → latents → pictures."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderDC
from PIL import Image
from torch import nn
from torch.nn import functional

from ...models.network_file import read_network, write_network
from ...training.samples import grid, to_image
from ..parts import FACE
from .config import AutoencoderSettings, AutoencoderTraining
from .dataset import Pictures
from .principal import CELL, least_squares, sampled_numbers, start_linear
from .task import NetworkTask, PictureBatch

LEVELS = (64, 64, 128, 128)
"""Channels at one, two, four and eight pixels per cell; at the first there are no blocks."""


def autoencoder_sizes(settings: AutoencoderSettings) -> dict[str, Any]:
    """Of the `AutoencoderDC`, but for its scale."""
    sizes: dict[str, Any] = {
        "in_channels": 3,
        "latent_channels": settings.latent_channels,
        "upsample_block_type": "pixel_shuffle",
        "downsample_block_type": "pixel_unshuffle",
    }
    for part, layers in (("encoder", settings.encoder_layers), ("decoder", settings.decoder_layers)):
        sizes |= {
            f"{part}_block_types": "ResBlock",
            f"{part}_block_out_channels": list(LEVELS),
            f"{part}_layers_per_block": [0, *layers],
            f"{part}_qkv_multiscales": [[]] * len(LEVELS),
        }
    return sizes


@dataclass(frozen=True, kw_only=True)
class Crops(PictureBatch):
    """Parts of pictures.

    Attributes:
        pixels: [b, 3, S, S] in -1 to 1.
        noise: [b, C, S/8, S/8] on the latents, in their standard deviations.
        faces: [b, S, S] whether a pixel shows a face.
    """

    pixels: torch.Tensor
    noise: torch.Tensor
    faces: torch.Tensor


class AutoencoderStep(nn.Module):
    """Crops → terms of the loss, per picture."""

    def __init__(self, autoencoder: AutoencoderDC, *, face_weight: float = 1.0):
        super().__init__()
        self.autoencoder = autoencoder
        self._face_weight = face_weight

    def forward(self, crops: Crops) -> dict[str, torch.Tensor]:
        """[b] values of each term.

        `edges` is the error of the differences between neighbours, which blurred pictures get wrong.
        """
        error = self.reconstructed(crops.pixels, crops.noise) - crops.pixels
        weights = torch.where(crops.faces, self._face_weight, 1.0).unsqueeze(1)
        across = error.diff(dim=-1).abs() * weights[..., 1:]
        down = error.diff(dim=-2).abs() * weights[..., 1:, :]
        return {
            "absolute": (error.abs() * weights).mean(dim=(1, 2, 3)),
            "squared": (error.square() * weights).mean(dim=(1, 2, 3)),
            "edges": (across.mean(dim=(1, 2, 3)) + down.mean(dim=(1, 2, 3))) / 2,
        }

    def reconstructed(self, pixels: torch.Tensor, noise: torch.Tensor | float = 0.0) -> torch.Tensor:
        """Float32, as large as `pixels`."""
        latents = self.autoencoder.encode(pixels, return_dict=False)[0]
        latents = latents + noise * latents.detach().float().std()
        return self.autoencoder.decode(latents, return_dict=False)[0].float()


class AutoencoderTask(NetworkTask):
    """See `NetworkTask`."""

    terms = {"absolute": 1.0, "squared": 1.0, "edges": 1.0}

    def __init__(self, config: AutoencoderTraining, *, device: torch.device):
        super().__init__(config, device=device)
        self._sampled = sampled_numbers(len(self.training), seed=config.run.seed)
        side, crop = self.training.pixels([0]).shape[-1], config.autoencoder.crop
        if crop > side:
            raise ValueError(f"autoencoder.crop is {crop}, but the pictures have {side} pixels along a side.")
        self._sizes = autoencoder_sizes(config.autoencoder)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            autoencoder = AutoencoderDC(**self._sizes)
        start_linear(autoencoder, self.training.pixels(self._sampled))
        self.module = AutoencoderStep(autoencoder, face_weight=config.autoencoder.face_weight)

    def batch_of(self, pictures: Pictures, numbers: list[int], generators: list[torch.Generator]) -> Crops:
        """A part of every picture, with noise; all of it and no noise where it is held out."""
        settings = self.config.autoencoder
        pixels = pictures.pixels(numbers)
        side, noise = pixels.shape[-1], 0.0
        if pictures is self.training:
            side, noise = settings.crop, settings.latent_noise
        faces = pictures.parts(numbers) == FACE
        latent_shape = (settings.latent_channels, side // CELL, side // CELL)
        crops, face_crops, noises = [], [], []
        for whole, face, generator in zip(pixels, faces, generators, strict=True):
            top, left = torch.randint(whole.shape[-1] - side + 1, (2,), generator=generator).tolist()
            crops.append(whole[:, top : top + side, left : left + side])
            face_crops.append(face[top : top + side, left : left + side])
            noises.append(noise * torch.randn(latent_shape, generator=generator))
        return Crops(
            names=pictures.names(numbers),
            pixels=torch.stack(crops),
            noise=torch.stack(noises),
            faces=torch.stack(face_crops),
        )

    def measures(self, batch: Crops) -> dict[str, torch.Tensor]:
        """Peak signal-to-noise ratio in decibels, of all of each picture and of its face."""
        error = (self.module.reconstructed(batch.pixels).clamp(-1, 1) - batch.pixels) / 2
        squared = error.square().mean(dim=1)
        is_face = batch.faces.float()
        seen = is_face.sum(dim=(1, 2)) > 0
        faces = ((squared * is_face).sum(dim=(1, 2)) / is_face.sum(dim=(1, 2)).clamp(min=1))[seen]
        return {"psnr": -10 * squared.mean(dim=(1, 2)).log10(), "psnr_face": -10 * faces.log10()}

    @torch.no_grad()
    def sample_grid(self, autocast: Callable[[], AbstractContextManager[None]]) -> Image.Image:
        """Pictures and what is left of them."""
        numbers = self.held_out.spread(self.config.run.sample_people)
        pixels = self.held_out.pixels(numbers)
        reconstructed = self.module.reconstructed(pixels.to(self.device)).cpu()
        rows = [[to_image(before), to_image(after)] for before, after in zip(pixels, reconstructed, strict=True)]
        return grid(rows, ["picture", "reconstructed"], self.held_out.names(numbers))

    @torch.no_grad()
    def write_result(self, path: Path, training: dict[str, Any]) -> None:
        """Write the autoencoder, with the factor that gives its latents a standard deviation of 1.

        The file also says which colours the scaled latents stand for, for previews: -1 to 1, [C][3] and a bias [3].
        """
        encoded, colours = [], []
        for number in self._sampled:
            pixels = self.training.pixels([number])
            encoded.append(self.module.autoencoder.encode(pixels.to(self.device)).latent.float().cpu())
            colours.append(functional.avg_pool2d(pixels, CELL))
        latents = torch.cat(encoded)
        scale = 1 / float(latents.std())
        cells = [values.movedim(1, -1).flatten(0, -2) for values in (latents * scale, torch.cat(colours))]
        factors, bias = least_squares(*cells)
        sizes = {
            "autoencoder": {**self._sizes, "scaling_factor": scale},
            "rgb_factors": factors.T.tolist(),
            "rgb_bias": bias.tolist(),
        }
        write_network(path, self.module.autoencoder.state_dict(), network="autoencoder", sizes=sizes, training=training)


def load_autoencoder(path: Path) -> AutoencoderDC:
    """The autoencoder of a file, frozen.

    Raises:
        ValueError: not the file of an autoencoder.
    """
    file = read_network(path, "autoencoder")
    autoencoder = AutoencoderDC(**file.sizes["autoencoder"])
    autoencoder.load_state_dict(file.state_dict)
    return autoencoder.eval().requires_grad_(False)
