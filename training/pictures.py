"""From a photo of any size to a training picture: buckets, cuts that keep the person, joints that move along."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from ..models.keypoints import FIRST_JOINT
from .people import Box, PreparedPhoto

MAX_ASPECT = 2.0
"""Of a bucket's longer to its shorter side; longer photos are cut."""

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How a photo becomes a training picture: it is resized, then cut.

    Attributes:
        resized: height and width after resizing.
        top, left: of the cut in the resized photo.
        size: height and width of the picture.
    """

    resized: Size
    top: int
    left: int
    size: Size


def bucket_sizes(resolution: int, factor: int) -> list[Size]:
    """Heights and widths that are multiples of `factor` and have at most the area of a square of `resolution`.

    Source: NovelAI, "Aspect Ratio Bucketing" (https://github.com/NovelAI/novelai-aspect-ratio-bucketing).
    """
    sizes = []
    for width in range(factor, math.floor(resolution * math.sqrt(MAX_ASPECT)) + 1, factor):
        height = resolution**2 // width // factor * factor
        if height and max(height, width) <= MAX_ASPECT * min(height, width):
            sizes.append((height, width))
    return sizes


def place(photo: PreparedPhoto, sizes: Sequence[Size]) -> Placement:
    """Choose the size of the nearest aspect ratio, cover it, and cut so that the face, or the person, stays inside."""
    aspect = photo.width / photo.height
    height, width = min(sizes, key=lambda size: (abs(math.log(size[1] / size[0] / aspect)), -size[0] * size[1]))
    scale = max(height / photo.height, width / photo.width)
    resized = max(height, round(scale * photo.height)), max(width, round(scale * photo.width))
    x0, y0, x1, y1 = photo.face_box or photo.person_box or (0.5, 0.5, 0.5, 0.5)
    return Placement(
        resized=resized,
        top=_start(resized[0], height, y0, y1),
        left=_start(resized[1], width, x0, x1),
        size=(height, width),
    )


def _start(length: int, kept: int, low: float, high: float) -> int:
    """Where the cut begins: in the middle, or as near to it as keeps `low` to `high` (fractions of the length).

    Where they do not fit, as much is cut off below as above.
    """
    first, last = math.ceil(high * length) - kept, math.floor(low * length)
    start = min(max((length - kept) // 2, first), last) if first <= last else (first + last) // 2
    return min(max(start, 0), length - kept)


def picture(image: Image.Image, placement: Placement) -> torch.Tensor:
    """[3, h, w] in -1 to 1."""
    height, width = placement.resized
    resized = image.resize((width, height), Image.Resampling.LANCZOS)
    (height, width), top, left = placement.size, placement.top, placement.left
    pixels = np.asarray(resized.crop((left, top, left + width, top + height)), dtype=np.float32)
    return torch.from_numpy(pixels / 127.5 - 1).movedim(-1, 0)


def placed_box(box: Box, placement: Placement) -> Box:
    """The same box in 0 to 1 of the training picture; it may lie outside in part or as a whole."""
    (height, width), (resized_height, resized_width) = placement.size, placement.resized
    x0, y0, x1, y1 = box
    return (
        (x0 * resized_width - placement.left) / width,
        (y0 * resized_height - placement.top) / height,
        (x1 * resized_width - placement.left) / width,
        (y1 * resized_height - placement.top) / height,
    )


def covered(box: Box, size: Size) -> torch.Tensor:
    """[h, w] share of each cell of a grid that a box covers.

    Args:
        box: x0, y0, x1, y1 in 0 to 1 of the grid.
        size: h and w.
    """
    rows, columns = (
        (torch.clamp(torch.arange(1, cells + 1), max=high * cells) - torch.clamp(torch.arange(cells), min=low * cells))
        .clamp(min=0)
        .float()
        for low, high, cells in ((box[1], box[3], size[0]), (box[0], box[2], size[1]))
    )
    return rows[:, None] * columns


def placed_joints(photo: PreparedPhoto, placement: Placement) -> torch.Tensor:
    """[12, 3] x, y in 0 to 1 of the training picture, and visibility; all zero for a joint that was cut off."""
    joints = torch.tensor(photo.keypoints[FIRST_JOINT:])
    (height, width), (resized_height, resized_width) = placement.size, placement.resized
    x = (joints[:, 0] * resized_width - placement.left) / width
    y = (joints[:, 1] * resized_height - placement.top) / height
    inside = (x >= 0) & (x <= 1) & (y >= 0) & (y <= 1) & (joints[:, 2] > 0)
    return torch.where(inside.unsqueeze(-1), torch.stack((x, y, joints[:, 2]), dim=-1), 0.0)
