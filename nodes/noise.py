"""Noise pictures made of reference photos: what the picture shall not be like."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy_api.v0_0_2 import io, ui
from torchvision.transforms.v2 import functional

from ..detectors.crops import crop_for_encoder, rgb
from .types import CATEGORY, single

DEFAULT_SIZE = 224
MAX_BLUR = 32

SHUFFLE_REACH = 75.0
"""How far shuffling would move a pixel, in pixels, if the field were not smoothed. This and the other two numbers are
those of IPAdapterNoise (https://github.com/cubiq/ComfyUI_IPAdapter_plus), so that a strength means the same here."""
SHUFFLE_SMOOTHNESS = 3.5
SHUFFLE_NOISE = 0.75


def _fade(picture: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    return torch.lerp(picture, torch.rand(picture.shape, generator=generator), strength)


def _dissolve(picture: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    replaced = torch.rand(picture.shape, generator=generator) < strength
    return torch.where(replaced, torch.rand(picture.shape, generator=generator), picture)


def _gaussian(picture: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    return picture + strength * torch.randn(picture.shape, generator=generator)


def _shuffle(picture: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """Upside down, mirrored, every part moved a little, and noisy. The stronger, the smaller the parts."""
    height, width = picture.shape[-2:]
    field = 2 * torch.rand((1, 2, height, width), generator=generator) - 1
    sigma = (1 - strength) * SHUFFLE_SMOOTHNESS
    if sigma > 0:
        kernel = int(8 * sigma + 1) | 1
        field = functional.gaussian_blur(field, [kernel, kernel], [sigma, sigma])
    # In halves of the picture, as grids are.
    displacement = field.movedim(1, -1) * SHUFFLE_REACH / torch.tensor([width, height])
    moved = functional.elastic(picture.unsqueeze(0), displacement)[0].flip(-1, -2)
    noise = SHUFFLE_NOISE * strength * torch.randn(picture.shape, generator=generator)
    return moved + noise * (1 - moved)


# A picture [3, S, S] in 0 to 1, the strength 0 to 1, and random numbers -> the noisy picture, not yet clamped.
NOISES: dict[str, Callable[[torch.Tensor, float, torch.Generator], torch.Tensor]] = {
    "fade": _fade,
    "dissolve": _dissolve,
    "gaussian": _gaussian,
    "shuffle": _shuffle,
}


class BoLIDNoiseReference(io.ComfyNode):
    """Photos → noise pictures of them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BoLIDNoiseReference",
            display_name="Noise Reference (BoLID)",
            category=CATEGORY,
            description="Makes noise pictures of reference photos. Encode and aggregate them like photos, and connect "
            "the result to face_negative of BoLIDAdapterApply: guidance then leads away from what they say.",
            search_aliases=["ipadapter noise", "negative image", "noise injection", "unconditional", "face_negative"],
            is_input_list=True,
            inputs=[
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="The reference photos, best the 'crops' of MultiRefImageEncoder: a batch, a list, or both. "
                    "One noise picture is made of each. Without photos: one of black.",
                ),
                io.Combo.Input(
                    "kind",
                    options=list(NOISES),
                    default="fade",
                    tooltip="fade: the photo fades into even noise. dissolve: single pixels are replaced by noise. "
                    "gaussian: noise is added to the photo. shuffle: the photo is turned upside down, its parts are "
                    "moved about, and noise is added.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How much noise: 0 is the photo (for shuffle the photo turned and bent), 1 nothing but "
                    "noise with fade and dissolve.",
                ),
                io.Int.Input(
                    "blur",
                    default=0,
                    min=0,
                    max=MAX_BLUR,
                    step=1,
                    tooltip="Width of a blur in pixels of the noise picture: coarser noise with less contrast. 0: "
                    "none; 1 is none either.",
                ),
                io.Int.Input(
                    "pattern_seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    step=1,
                    optional=True,
                    tooltip="Which noise: the same number gives the same picture, every time.",
                ),
                io.Int.Input(
                    "size",
                    default=DEFAULT_SIZE,
                    min=64,
                    max=1024,
                    step=2,
                    optional=True,
                    advanced=True,
                    tooltip="Side of the noise pictures in pixels: what the image encoder sees, 224 for nearly all. "
                    "Larger noise pictures are reduced before they are encoded, which evens out fine noise.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "images",
                    tooltip="One square noise picture per photo, of its middle, for MultiRefImageEncoder with crop = "
                    "whole.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        kind: list[str],
        strength: list[float],
        blur: list[int],
        images: list[torch.Tensor] | None = None,
        pattern_seed: Sequence[int] = (0,),
        size: Sequence[int] = (DEFAULT_SIZE,),
    ) -> io.NodeOutput:
        photos = [photo for batch in images or () for photo in batch]
        pictures = noise_pictures(
            photos or [torch.zeros(1, 1, 3)],
            kind=single(kind),
            strength=single(strength),
            blur=single(blur),
            pattern_seed=single(pattern_seed),
            size=single(size),
        )
        return io.NodeOutput(pictures, ui=ui.PreviewImage(pictures, cls=cls))


def noise_pictures(
    photos: Sequence[torch.Tensor], *, kind: str, strength: float, blur: int, pattern_seed: int, size: int
) -> torch.Tensor:
    """Noise pictures [n, size, size, 3] in 0 to 1 of the middles of n photos [H, W, 1, 3 or 4].

    The same arguments give the same pictures; ComfyUI's own random numbers are neither read nor moved on.
    """
    generator = torch.Generator().manual_seed(pattern_seed)
    pictures = []
    for photo in photos:
        throw_exception_if_processing_interrupted()
        square = crop_for_encoder(rgb(photo.cpu()), None, size=size)[0].movedim(-1, 0)
        picture = NOISES[kind](square, strength, generator).clamp(0, 1)
        if blur > 1:
            kernel = blur | 1  # an odd number of pixels has a middle
            picture = functional.gaussian_blur(picture, [kernel, kernel])
        pictures.append(picture.movedim(0, -1))
    return torch.stack(pictures)
