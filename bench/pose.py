"""Finding people in real photographs, once the models are loaded, and the parts of it."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .tables import print_table

REPEATS = 9
PHOTOS = {
    "head and shoulders": ("astronaut", "grace_hopper", "carphone"),
    "an aligned face": ("tom_hanks",),
    "a whole person": ("walker",),
    "two whole people in a street": ("bus",),
    "six people": ("group",),
    "nobody": ("wall",),
}
WALKER, WALL = (0, 330, 270, 1000), (400, 0, 810, 400)
"""Parts of the photo of the bus: x0, y0, x1, y1 in pixels."""


def run() -> None:
    from ..detectors.people import MediaPipePersonDetector

    photos = _photos()
    with MediaPipePersonDetector() as detector:
        rows = []
        for kind, names in PHOTOS.items():
            for name in names:
                image = photos[name]
                mirrored = np.ascontiguousarray(image[:, ::-1])
                parts: dict[str, Callable[[], object]] = {
                    "all": lambda image=image: detector.detect(image),
                    "pose": lambda image=image: detector._visible_poses(image),
                    "faces": lambda image=image: detector._faces.detect(image),
                    "mirrored": lambda mirrored=mirrored: detector._visible_poses(mirrored),
                }
                milliseconds = _medians(parts)
                height, width = image.shape[:2]
                rows.append(
                    [kind, f"{name} ({width}×{height})", len(detector.detect(image))]
                    + [f"{milliseconds[part]:.0f} ms" for part in parts]
                )
    print(
        f"One photo, median of {REPEATS} interleaved repeats. A pose in the mirrored photo is only looked for where no "
        "face makes sure of the first one.\n"
    )
    print_table(
        ["photo", "", "found", "people, all", "pose in the whole photo", "faces", "pose in the mirrored photo"], rows
    )


def _photos() -> dict[str, np.ndarray]:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
    from photographs import PHOTOGRAPHS, carphone_frames, photograph

    pictures = {name: photograph(name) for name in PHOTOGRAPHS} | {"carphone": carphone_frames(1)[0]}
    pictures |= {"walker": pictures["bus"].crop(WALKER), "wall": pictures["bus"].crop(WALL)}
    return {name: np.asarray(picture) for name, picture in pictures.items()}


def _medians(actions: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Milliseconds of each, after one run of each that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for repeat in range(REPEATS + 1):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            if repeat:
                taken[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(times) for name, times in taken.items()}
