"""Loading several reference photos at once."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import folder_paths
import numpy as np
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.utils import ProgressBar
from comfy_api.v0_0_2 import io, ui

from ..detectors.photos import MAX_SIDE, PHOTO_EXTENSIONS, read_picture
from .types import CATEGORY

PREVIEW_SIDE = 256


class BoLIDLoadReferences(io.ComfyNode):
    """Photos of one person from ComfyUI's input folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BoLIDLoadReferences",
            display_name="Load Reference Photos (BoLID)",
            category=CATEGORY,
            description="Loads several photos of one person from ComfyUI's input folder, of any size each.",
            search_aliases=["load images", "load folder", "batch", "reference photos", "ip-adapter", "faceid"],
            inputs=[
                io.String.Input(
                    "folder",
                    default="",
                    tooltip="A folder inside ComfyUI's input folder; all its photos are loaded, in the order of their "
                    "names (2 before 10). Leave empty to name the files instead.",
                ),
                io.String.Input(
                    "files",
                    default="",
                    multiline=True,
                    tooltip="Photos inside ComfyUI's input folder, one per line, e.g. anna/1.jpg. With a folder given, "
                    "names inside that folder; empty means all of it.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "images",
                    is_output_list=True,
                    tooltip="One picture per photo, each in its own size (turned as its EXIF data says, at most "
                    f"{MAX_SIDE} pixels on the longer side).",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, folder: str | None, files: str | None) -> bool | str:
        if folder is None or files is None:  # linked: known only when the graph runs
            return True
        try:
            photo_paths(folder, files)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, folder: str | None, files: str | None) -> str:
        if folder is None or files is None:
            return ""
        digest = hashlib.sha256()
        for path in photo_paths(folder, files):
            status = path.stat()
            digest.update(f"{path}\0{status.st_mtime_ns}\0{status.st_size}\n".encode())
        return digest.hexdigest()

    @classmethod
    def execute(cls, folder: str, files: str) -> io.NodeOutput:
        paths = photo_paths(folder, files)
        progress = ProgressBar(len(paths))
        images, unreadable = [], []
        for path in paths:
            throw_exception_if_processing_interrupted()
            try:
                images.append(read_photo(path))
            except ValueError as error:
                unreadable.append(str(error))
            progress.update(1)
        if unreadable:
            raise ValueError(
                f"{len(unreadable)} of {len(paths)} photos cannot be read; replace or remove them.\n"
                + "\n".join(unreadable)
            )
        return io.NodeOutput(images, ui=ui.PreviewImage(contact_strip(images), cls=cls))


def photo_paths(folder: str, files: str) -> list[Path]:
    """Paths of the photos that the two inputs name, inside ComfyUI's input folder.

    Raises:
        ValueError: nothing named, not inside the input folder, not there, or no photo in the folder.
    """
    root = Path(folder_paths.get_input_directory()).resolve()
    names = [line.strip() for line in files.splitlines() if line.strip()]
    if not folder.strip() and not names:
        raise ValueError(
            "No photos: give a folder inside ComfyUI's input folder in 'folder', or file names in 'files', one a line."
        )
    base = _inside(root, folder.strip())
    if names:
        paths = [_inside(root, os.path.join(folder.strip(), name)) for name in names]
        missing = [name for name, path in zip(names, paths, strict=True) if not path.is_file()]
        if missing:
            raise ValueError(f"Not found in {base}: {', '.join(missing)}. Check 'files', or upload the photos first.")
        return paths
    if not base.is_dir():
        raise ValueError(f"There is no folder {folder.strip()!r} in ComfyUI's input folder {root}.")
    found = [path for path in base.iterdir() if path.suffix.lower() in PHOTO_EXTENSIONS and not _is_hidden(path)]
    found.sort(key=lambda path: (_natural_order(path.name), path.name))
    # A link in the folder may lead out of it.
    paths = [_inside(root, str(path.relative_to(root))) for path in found if path.is_file()]
    if not paths:
        raise ValueError(f"The folder {base} has no photo ({', '.join(sorted(PHOTO_EXTENSIONS))}).")
    return paths


def _is_hidden(path: Path) -> bool:
    """macOS puts a file ._NAME beside a photo on disks of other systems and into archives."""
    return path.name.startswith(".")


def _inside(root: Path, name: str) -> Path:
    try:
        path = Path(root, name).resolve()
        path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # too long, links in a circle, a zero byte
        raise ValueError(f"{name[:200]!r} is no usable file or folder name ({error}).") from error
    if not path.is_relative_to(root):
        raise ValueError(f"{name!r} lies outside ComfyUI's input folder; only photos inside it can be loaded.")
    return path


def _natural_order(name: str) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d+)", name.lower())
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def read_photo(path: Path) -> torch.Tensor:
    """Read a photo as [1, H, W, 3] float32 in 0 to 1: EXIF-turned, on white where it is transparent, ≤ `MAX_SIDE`.

    Raises:
        ValueError: not a readable picture.
    """
    picture, _ = read_picture(path)
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255).unsqueeze(0)


def contact_strip(images: list[torch.Tensor], *, side: int = PREVIEW_SIDE) -> torch.Tensor:
    """Photos [1, H, W, 3] as previews of one size: [n, side, side, 3], each fitted in and centred on black."""
    previews = torch.zeros(len(images), side, side, 3)
    for preview, image in zip(previews, images, strict=True):
        height, width = image.shape[1:3]
        scale = side / max(height, width)
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        small = torch.nn.functional.interpolate(image.movedim(-1, 1), size=size, mode="bilinear", antialias=True)
        top, left = (side - size[0]) // 2, (side - size[1]) // 2
        preview[top : top + size[0], left : left + size[1]] = small[0].movedim(0, -1)
    return previews
