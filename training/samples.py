"""Sample grids: references, target, and what the adapter makes of them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

import numpy as np
import torch
from diffusers import DDIMScheduler
from PIL import Image, ImageDraw

from .base import Denoiser

Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

CELL = 192
"""Side of a cell in pixels."""
HEADER, GAP = 16, 4
CHARACTER, LINE = 6, 12
"""Width of an average character of a caption, and height of a line, in pixels."""


@torch.no_grad()
def sampled_latents(
    denoise: Denoise, noise: torch.Tensor, denoiser: Denoiser, *, steps: int, guidance_scale: float
) -> torch.Tensor:
    """Latents [b, C, h, w] by DDIM (https://arxiv.org/abs/2010.02502) with classifier-free guidance.

    Args:
        denoise: x_t [2b, C, h, w] and timesteps [2b] → predictions; the first half without conditions, the second with
            them.
        noise: [b, C, h, w].
    """
    scheduler = DDIMScheduler.from_config(denoiser.scheduler.config, clip_sample=False)
    scheduler.set_timesteps(steps)
    latents = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        unconditional, conditional = denoise(
            torch.cat((latents, latents)), timestep.to(latents.device).expand(2 * len(latents))
        ).chunk(2)
        prediction = unconditional + guidance_scale * (conditional - unconditional)
        latents = scheduler.step(prediction, timestep, latents).prev_sample
    return latents


def to_image(picture: torch.Tensor) -> Image.Image:
    """A picture [3, h, w] in -1 to 1."""
    pixels = (picture.float() / 2 + 0.5).clamp(0, 1).mul(255).round().byte().movedim(0, -1).cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(pixels))


def grid(rows: Sequence[Sequence[Image.Image | None]], columns: Sequence[str], captions: Sequence[str]) -> Image.Image:
    """Pictures in rows, each fitted into a square cell, under the names of the columns and above the row's caption."""
    width = len(columns) * (CELL + GAP) + GAP
    # The built-in font has no other letters.
    texts = [caption.encode("latin-1", errors="replace").decode("latin-1") for caption in captions]
    wrapped = [textwrap.wrap(text, width // CHARACTER) for text in texts]
    row_height = CELL + HEADER + GAP + LINE * (max(map(len, wrapped), default=1) - 1)
    sheet = Image.new("RGB", (width, HEADER + len(rows) * row_height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(columns):
        draw.text((GAP + column * (CELL + GAP), 2), name, fill="black")
    for row, (pictures, lines) in enumerate(zip(rows, wrapped, strict=True)):
        top = HEADER + row * row_height + GAP
        for number, line in enumerate(lines):
            draw.text((GAP, top + CELL + number * LINE), line, fill="black")
        for column, image in enumerate(pictures):
            if image is not None:
                scale = CELL / max(image.size)
                size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
                place = (GAP + column * (CELL + GAP), top)
                sheet.paste(image.convert("RGB").resize(size, Image.Resampling.LANCZOS), place)
    return sheet
