"""Cutting a face or a person out of a photo, and what the image encoder sees of it."""

from __future__ import annotations

import math

import numpy as np
import torch

# Where insightface's recognition models expect eyes, nose and mouth in a face of 112 × 112 pixels.
ARCFACE_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
ARCFACE_SIZE = 112

FACE_MARGIN = 0.3
"""Room around a face box on every side, as a fraction of it: hair, ears and chin."""

PERSON_MARGIN = 0.0
"""The person detectors' boxes have room around the body already."""

NEARLY_SQUARE = 1.15
"""Two tiles of a photo that is not longer than this, compared with its shorter side, would show nearly the same."""

MAX_TILES = 8
"""Of longer photos the middle is covered."""


def rgb(image: torch.Tensor) -> torch.Tensor:
    """A picture [H, W, 1, 3 or 4] as [H, W, 3]: greyscale three times, without alpha."""
    return image.expand(-1, -1, 3) if image.shape[-1] == 1 else image[..., :3]


def to_uint8(image: torch.Tensor) -> np.ndarray:
    """A picture [H, W, 1, 3 or 4] in 0 to 1 as RGB pixels [H, W, 3] uint8, as detectors read it.

    Raises:
        ValueError: the picture has NaN, of which no pixel can be made.
    """
    if image.isnan().any():
        raise ValueError(
            "A photo has values that are no numbers (NaN), so nothing can be found in it. Look at it with "
            "'Preview Image'; a picture that was generated in too low a precision has to be made again."
        )
    return rgb(image).mul(255).round().clamp(0, 255).to(torch.uint8).cpu().contiguous().numpy()


def square_box(
    box: tuple[float, float, float, float], *, margin: float, image_size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Grow a box by a margin and make it square.

    Args:
        box: x0, y0, x1, y1 in pixels.
        margin: room on every side, as a fraction of the longer side.
        image_size: height and width of the picture.

    Returns:
        x0, y0, x1, y1, shifted into the picture where it fits; it reaches beyond it on both sides where it does not.
    """
    x0, y0, x1, y1 = box
    side = max(1, round(max(x1 - x0, y1 - y0) * (1 + 2 * margin)))
    height, width = image_size
    left = _placed((x0 + x1) / 2, side, width)
    top = _placed((y0 + y1) / 2, side, height)
    return left, top, left + side, top + side


def square_tiles(image_size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """Squares as large as fit into a picture that cover it, from left to right or from top to bottom.

    As few as will do, evenly spaced, so that they overlap. A nearly square picture has one, its middle.

    Args:
        image_size: height and width of the picture.

    Returns:
        x0, y0, x1, y1 each; at most `MAX_TILES`.
    """
    height, width = image_size
    side, length = min(image_size), max(image_size)
    count = 1 if length <= NEARLY_SQUARE * side else min(MAX_TILES, math.ceil(length / side))
    room = min(length, count * side) - side  # how far the last one lies from the first one
    first = (length - side - room) // 2
    starts = [first + (round(step * room / (count - 1)) if count > 1 else 0) for step in range(count)]
    if width >= height:
        return [(start, 0, start + side, side) for start in starts]
    return [(0, start, side, start + side) for start in starts]


def _placed(centre: float, side: int, length: int) -> int:
    start = round(centre - side / 2)
    if side > length:
        return (length - side) // 2
    return min(max(start, 0), length - side)


def crop_square(image: torch.Tensor, box: tuple[int, int, int, int]) -> torch.Tensor:
    """Cut a box out of a picture [H, W, C]; what lies outside repeats the picture's edge."""
    x0, y0, x1, y1 = box
    height, width = image.shape[:2]
    rows = torch.arange(y0, y1, device=image.device).clamp(0, height - 1)
    columns = torch.arange(x0, x1, device=image.device).clamp(0, width - 1)
    return image[rows][:, columns]


def crop_for_encoder(
    photo: torch.Tensor, box: tuple[float, float, float, float] | None, *, margin: float = 0.0, size: int
) -> torch.Tensor:
    """A square around a box of a photo [H, W, 3] in 0 to 1, or the photo's middle square: [1, size, size, 3].

    Resized and rounded to 255 steps as ComfyUI does it for its image encoders, so that doing it again changes nothing.

    Args:
        box, margin: see `square_box`; None: the middle of the photo.
        size: side of the image encoder's pictures in pixels.
    """
    if box is not None:
        photo = crop_square(photo, square_box(box, margin=margin, image_size=photo.shape[:2]))
    # The CPU cannot resize half precision, which ComfyUI's --fp16-intermediates gives.
    pixels = photo.float().movedim(-1, 0).unsqueeze(0)
    height, width = pixels.shape[-2:]
    if (height, width) != (size, size):
        scale = size / min(height, width)
        height, width = round(scale * height), round(scale * width)
        pixels = torch.nn.functional.interpolate(pixels, size=(height, width), mode="bicubic", antialias=True)
        top, left = (height - size) // 2, (width - size) // 2
        pixels = pixels[..., top : top + size, left : left + size]
    return (pixels * 255).clamp(0, 255).round().div(255).movedim(1, -1)


def align_face(image: torch.Tensor, keypoints: np.ndarray, *, size: int) -> torch.Tensor:
    """Turn and scale a face onto the ArcFace template, as insightface's `norm_crop` does.

    Args:
        image: [H, W, 3] in 0 to 1.
        keypoints: [5, 2] pixels, see `Face.keypoints`.
        size: side of the result.

    Returns:
        [size, size, 3]; what lies outside the picture is black.
    """
    matrix = similarity_transform(keypoints, ARCFACE_TEMPLATE * (size / ARCFACE_SIZE))
    # grid_sample does not average, so the picture is reduced first where the face shrinks.
    shrink = min(1.0, float(np.sqrt(abs(np.linalg.det(matrix[:, :2])))))
    pixels = image.movedim(-1, 0).unsqueeze(0).float()
    height, width = image.shape[:2]
    reduced = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    if reduced != (height, width):
        pixels = torch.nn.functional.interpolate(pixels, size=reduced, mode="bilinear", antialias=True)
    to_source = np.linalg.inv(np.vstack((matrix, (0, 0, 1))))[:2]
    columns, rows = np.meshgrid(np.arange(size), np.arange(size))
    source = np.stack((columns, rows, np.ones_like(rows)), axis=-1) @ to_source.T
    grid = torch.from_numpy((2 * source + 1) / (width, height) - 1).to(pixels).unsqueeze(0)
    return torch.nn.functional.grid_sample(pixels, grid, align_corners=False)[0].movedim(0, -1)


def similarity_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least-squares rotation, uniform scale and shift: [2, 3] with target ≈ matrix · (x, y, 1).

    Source: Umeyama, "Least-squares estimation of transformation parameters between two point patterns" (1991).
    """
    source, target = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    centred = source - source_mean
    left, singular, right = np.linalg.svd((target - target_mean).T @ centred / len(source))
    mirror = np.array([1.0, np.sign(np.linalg.det(left) * np.linalg.det(right))])
    rotation = left @ np.diag(mirror) @ right
    scale = (singular * mirror).sum() / centred.var(axis=0).sum()
    return np.hstack((scale * rotation, (target_mean - scale * rotation @ source_mean)[:, None]))
