"""Reading a photo as pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

MAX_SIDE = 2048
"""Longer photos are reduced when they are read: encoders and detectors see 224 to 640 pixels of them."""

PHOTO_EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif"}
"""Those that Pillow may not be able to read are named in the message instead of being left out in silence."""

LYING = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""


def read_picture(path: Path) -> tuple[Image.Image, tuple[int, int]]:
    """Read a photo: EXIF-turned, on white where it is transparent, at most `MAX_SIDE` on the longer side.

    Returns:
        An RGB picture, and the (width, height) that the whole photo has once it is turned.

    Raises:
        ValueError: not a readable picture.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            image.draft("RGB", (MAX_SIDE, MAX_SIDE))  # JPEG decoders can skip the detail that would be thrown away
            image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
            if image.getexif().get(ExifTags.Base.Orientation) in LYING:
                width, height = height, width
            return _to_rgb(ImageOps.exif_transpose(image)), (width, height)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders also raise struct.error, RuntimeError and others
        reason = str(error).replace(str(path), path.name)
        raise ValueError(f"{path.name}: {reason}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 or 16 bits.")
    if image.mode.startswith("I"):  # 16-bit greyscale
        image = Image.fromarray((np.asarray(image, dtype=np.float32) / 65535 * 255).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
