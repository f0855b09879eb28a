"""What a finished drawing goes through: light, and the styles that captions name."""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image, ImageFilter

from .captions import Style
from .colours import Colour

PAPER = np.array([250, 247, 240], dtype=np.float32)


def lit(pixels: np.ndarray, *, tint: Colour, brightness: float, vignette: float, side: int) -> np.ndarray:
    """The drawing in the light of the scene.

    Args:
        pixels: [s, s, 3] float32 in 0 to 255.
        side: where it is brighter, -1 left, 1 right.
    """
    ramp = np.linspace(-1, 1, len(pixels), dtype=np.float32)
    light = (
        brightness * (1 + 0.05 * side * ramp[None, :])
        - vignette * 0.28 * (ramp[None, :] ** 2 + ramp[:, None] ** 2) ** 1.5 / 2
    )
    return (pixels * light[..., None] * (np.array(tint, dtype=np.float32) / 255)).clip(0, 255)


def styled(pixels: np.ndarray, style: Style, key: object) -> np.ndarray:
    """The drawing in a style.

    Args:
        pixels: [s, s, 3] float32 in 0 to 255.
        key: of the random numbers for paper and pigment.

    Returns:
        [s, s, 3] float32 in 0 to 255.
    """
    match style:
        case "sketch":
            return _sketch(pixels, key)
        case "watercolour":
            return _watercolour(pixels, key)
        case _:
            return pixels


def _sketch(pixels: np.ndarray, key: object) -> np.ndarray:
    """Dark lines where brightness changes, hatching where it is dark, colours like those of crayons."""
    side = len(pixels)
    grey = pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    lines = (grey + 3) / (_blurred(grey, side / 70) + 3)
    lines = ((lines - 0.62) / 0.34).clip(0, 1)
    rows, columns = np.indices(grey.shape, dtype=np.float32) * (128 / side)
    hatching = 0.5 + 0.5 * np.sin((rows + columns) * 1.9 + 2.5 * _noise(side, 6, key))
    dark = ((170 - grey) / 170).clip(0, 1)
    crayon = PAPER + (pixels - PAPER) * (0.68 + 0.2 * hatching[..., None] * (0.4 + 0.6 * dark[..., None]))
    return (crayon * (0.35 + 0.65 * lines[..., None])).clip(0, 255)


def _watercolour(pixels: np.ndarray, key: object) -> np.ndarray:
    """Wavering edges, pigment that gathers in places and along edges, white paper at the rim."""
    side = len(pixels)
    reach = side / 128 * 0.8
    rows, columns = np.indices((side, side), dtype=np.float32)
    rows = (rows + reach * _noise(side, 14, (key, "rows"))).round().clip(0, side - 1).astype(np.intp)
    columns = (columns + reach * _noise(side, 14, (key, "columns"))).round().clip(0, side - 1).astype(np.intp)
    moved = pixels[rows, columns]
    soft = np.stack([_blurred(channel, side / 260) for channel in moved.transpose(2, 0, 1)], axis=-1)
    edge = np.abs(moved.mean(axis=-1) - _blurred(moved.mean(axis=-1), side / 80))
    pigment = 1 + 0.09 * _noise(side, 5, (key, "pigment")) + 0.05 * _noise(side, 24, (key, "grain"))
    washed = PAPER + (soft - PAPER) * (0.8 * pigment + 0.012 * edge.clip(0, 20))[..., None]
    ramp = np.minimum(np.arange(side), np.arange(side)[::-1]).astype(np.float32) / side
    border = np.minimum(ramp[:, None], ramp[None, :]) + 0.018 * _noise(side, 9, (key, "border"))
    paint = ((border - 0.008) / 0.03).clip(0, 1)[..., None]
    return (PAPER + (washed - PAPER) * paint).clip(0, 255)


def _blurred(plane: np.ndarray, radius: float) -> np.ndarray:
    picture = Image.fromarray(plane.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(picture, dtype=np.float32)


def _noise(side: int, cells: int, key: object) -> np.ndarray:
    """[side, side] in -1 to 1, smooth, about so many bumps across."""
    count = (cells + 1) ** 2
    stream = hashlib.shake_128(repr(key).encode()).digest(count)
    grid = np.frombuffer(stream, dtype=np.uint8).reshape(cells + 1, cells + 1).astype(np.float32) / 127.5 - 1
    return np.asarray(Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC))
