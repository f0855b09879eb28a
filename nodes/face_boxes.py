"""A photo with numbered boxes around its faces, for the eye."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..detectors.faces import Face

# Orange and sky blue of Okabe and Ito (https://jfly.uni-koeln.de/color/), which stay apart in every kind of colour
# blindness.
FIRST, OTHERS, OUTLINE = (240, 140, 0), (86, 180, 233), (12, 12, 14)
MIN_SIDE = 512
"""Smaller photos are enlarged: numbers have to be read."""
MAX_ENLARGEMENT = 8


def draw_faces(photo: np.ndarray, faces: Sequence[Face]) -> np.ndarray:
    """Draw a box around every face with its number, from 0; the first one orange, the others blue.

    Args:
        photo: [H, W, 3] uint8 RGB.
        faces: in the order of their numbers.

    Returns:
        [H, W, 3] uint8 RGB, enlarged if its longer side is shorter than `MIN_SIDE`.
    """
    height, width = photo.shape[:2]
    scale = min(MAX_ENLARGEMENT, max(1.0, MIN_SIDE / max(height, width)))
    picture = Image.fromarray(photo)
    if scale > 1:
        picture = picture.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    unit = max(1, round(max(picture.size) / 640))
    font = ImageFont.load_default(size=16 * unit)
    # The first one last, so that it lies on top.
    for index, face in reversed(list(enumerate(faces))):
        _draw_face(pen, picture.size, np.array(face.box) * scale, str(index), FIRST if index == 0 else OTHERS, unit)
    if not faces:
        pen.text((4 * unit, 3 * unit), "no face found", fill="white", font=font, stroke_width=unit, stroke_fill=OUTLINE)
    return np.array(picture)


def _draw_face(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    box: np.ndarray,
    label: str,
    colour: tuple[int, int, int],
    unit: int,
) -> None:
    """A box, and its number above it where there is room; boxes may reach beyond the picture, numbers do not."""
    last = np.array([size[0] - 1, size[1] - 1] * 2)
    x0, y0, x1, y1 = (round(value) for value in np.clip(box, 0, last))
    pen.rectangle((x0, y0, x1, y1), outline=OUTLINE, width=4 * unit)
    inner = (x0 + unit, y0 + unit, max(x0 + unit, x1 - unit), max(y0 + unit, y1 - unit))
    pen.rectangle(inner, outline=colour, width=2 * unit)
    font = ImageFont.load_default(size=16 * unit)
    plate_width, plate_height = round(font.getlength(label)) + 8 * unit, sum(font.getmetrics()) + 2 * unit
    left = max(0, min(x0, size[0] - plate_width))
    top = y0 - plate_height if y0 >= plate_height else min(y0, max(0, size[1] - plate_height))
    pen.rectangle((left, top, left + plate_width - 1, top + plate_height - 1), fill=colour, outline=OUTLINE, width=unit)
    pen.text((left + 4 * unit, top + unit), label, fill=OUTLINE, font=font)
