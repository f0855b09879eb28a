"""The pictures that are compared: where they lie, by which key they are known, and how networks are shown them."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..detectors.photos import read_picture
from ..training.features import Photo
from ..training.fingerprint import file_hash
from ..training.pictures import Placement, picture
from .config import EvaluationSettings
from .plan import Plan, Request, Setting

logger = logging.getLogger(__name__)

NAMED = 3
"""Of many, in messages."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A picture as all networks are shown it.

    Attributes:
        key: of its content and of how it is cut; equal pictures have equal keys.
        path: of the file.
        placement: how a photo is cut; None: the middle square.
        is_drawn: whether it was drawn here, and can be drawn again.
    """

    key: str
    path: Path
    placement: Placement | None = None
    is_drawn: bool = False

    def pixels(self, resolution: int) -> torch.Tensor:
        """[3, resolution, resolution] uint8.

        Raises:
            ValueError: it cannot be read; the message says what to do.
        """
        try:
            image, _ = read_picture(self.path)
        except (ValueError, OSError) as error:
            again = "Delete it: the same command draws it again." if self.is_drawn else "Put a whole file in its place."
            raise ValueError(f"The picture {self.path} cannot be read ({error}). {again}") from error
        if self.placement is not None:
            return ((picture(image, self.placement) + 1) * 127.5).round().byte()
        return torch.from_numpy(np.array(squared(image, resolution))).movedim(-1, 0)


def as_floats(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 pixels in -1 to 1."""
    return pixels.float() / 127.5 - 1


def squared(image: Image.Image, resolution: int) -> Image.Image:
    """The middle square of a picture, with so many pixels along a side."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    if image.size != (side, side):
        image = image.crop((left, top, left + side, top + side))
    if side != resolution:
        image = image.resize((resolution, resolution), Image.Resampling.LANCZOS)
    return image


def shown_photo(photo: Photo) -> Shown:
    """A real photo, cut as training cuts its targets."""
    text = f"{photo.prepared.sha256} {photo.placement}"
    return Shown(key=_key(text), path=photo.path, placement=photo.placement)


class PictureFiles:
    """The pictures of every setting.

    Args:
        settings: of the evaluation.
        plan: what is drawn.
        folder: of the pictures that are drawn here.
    """

    def __init__(self, settings: EvaluationSettings, plan: Plan, folder: Path):
        self._settings = settings
        self._plan = plan
        self._folder = folder
        self._keys: dict[Path, str] = {}

    def path(self, setting: Setting, request: Request) -> Path:
        """Of the file, whether it is there or not."""
        return self._folder_of(setting) / request.file

    def shown(self, setting: Setting, request: Request) -> Shown:
        """A picture that is there; its content is read once."""
        path = self.path(setting, request)
        if path not in self._keys:
            self._keys[path] = _key(file_hash(path))
        return Shown(key=self._keys[path], path=path, is_drawn=not self._is_given(setting))

    def missing(self, setting: Setting, requests: Sequence[Request]) -> list[Request]:
        """Those that are not drawn yet."""
        folder = self._folder_of(setting)
        there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        return [request for request in requests if request.file not in there]

    def check_given(self) -> list[str]:
        """Make sure that all pictures that were drawn elsewhere are there and can be read.

        Returns:
            What is odd about them without being wrong, a sentence each.

        Raises:
            ValueError: some are missing or damaged; the message names the first ones of each method's folder.
        """
        odd = []
        for name, method in self._settings.methods.items():
            if method.pictures is None:
                continue
            if not method.pictures.is_dir():
                raise ValueError(f"methods.{name}.pictures is {method.pictures}, but there is no such folder.")
            sizes: Counter[tuple[int, int]] = Counter()
            for setting in self._plan.settings():
                if setting.variant.method == name:
                    sizes += self._check_setting(name, setting)
            resolution = self._settings.base.resolution
            others = {size: count for size, count in sizes.items() if size != (resolution, resolution)}
            if others:
                listed = ", ".join(f"{count} of {width}×{height}" for (width, height), count in sorted(others.items()))
                odd.append(
                    f"The pictures of {name} have other sizes than {resolution}×{resolution} pixels ({listed}): their "
                    "middle squares were resized, which alone moves the distances of sets."
                )
        for sentence in odd:
            logger.warning("%s", sentence)
        return odd

    def _check_setting(self, name: str, setting: Setting) -> Counter[tuple[int, int]]:
        requests, folder = self._plan.requests, self._folder_of(setting)
        missing = self.missing(setting, requests)
        if missing:
            raise ValueError(
                f"methods.{name}.pictures: {folder} lacks {len(missing)} of {len(requests)} pictures, such as "
                f"{', '.join(request.file for request in missing[:NAMED])}. plan.jsonl in {self._folder.parent} says "
                "of each file who it shows, with which text, and from which photos."
            )
        sizes: Counter[tuple[int, int]] = Counter()
        damaged = []
        for request in requests:
            try:
                sizes[read_picture(folder / request.file)[0].size] += 1
            except (ValueError, OSError) as error:
                damaged.append(f"{request.file}: {error}")
        if damaged:
            raise ValueError(
                f"methods.{name}.pictures: {folder} has {len(damaged)} pictures that cannot be read "
                f"({'; '.join(damaged[:NAMED])}). Put whole files in their place."
            )
        return sizes

    def _is_given(self, setting: Setting) -> bool:
        return self._settings.methods[setting.variant.method].pictures is not None

    def _folder_of(self, setting: Setting) -> Path:
        given = self._settings.methods[setting.variant.method].pictures
        if given is None:
            return self._folder / setting.folder
        return given / f"seed_{setting.seed}" if len(self._settings.drawing.seeds) > 1 else given


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
