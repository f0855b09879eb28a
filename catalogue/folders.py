"""ComfyUI's models folders, found without ComfyUI."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from .public_files import Kind

PACK = Path(os.path.abspath(__file__)).parent.parent
"""The folder of this pack, as it was reached: in custom_nodes it may be a link to somewhere else."""

EXTRA_PATHS = "extra_model_paths.yaml"

MODEL_ENDINGS = (".safetensors", ".sft", ".bin", ".pt", ".pt2", ".pth", ".ckpt", ".pkl")
"""ComfyUI's own, of files with weights."""

PLACES: dict[str, tuple[Kind, tuple[str, ...]]] = {
    "bolid": ("adapter", MODEL_ENDINGS),
    "ipadapter": ("adapter", MODEL_ENDINGS),
    "clip_vision": ("image encoder", MODEL_ENDINGS),
    "mediapipe": ("pose model", (".task",)),
    "aesthetic": ("aesthetic model", MODEL_ENDINGS),
}
"""What lies in which of ComfyUI's folders, and its endings."""

PACKS = "insightface/models"
"""Where insightface packs lie, a folder each."""


@dataclass(frozen=True, kw_only=True)
class ModelFolders:
    """Where model files lie.

    Attributes:
        models: ComfyUI's models folder, to which files are downloaded.
        extra: further folders by ComfyUI's name for what they hold, from `extra_model_paths.yaml`.
    """

    models: Path
    extra: dict[str, tuple[Path, ...]] = field(default_factory=dict)

    def of(self, name: str) -> tuple[Path, ...]:
        """Every folder of that name, the one in `models` first, whether it is there or not."""
        return (self.models / name, *self.extra.get(name, ()))

    def files(self, name: str, endings: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
        """Files with these endings in the folders of that name: as ComfyUI names them, and where they are."""
        seen = set()
        for folder in self.of(name):
            for root, subfolders, files in os.walk(folder, followlinks=True):
                subfolders.sort()
                for file in sorted(files):
                    path = Path(root, file)
                    known_as = path.relative_to(folder).as_posix()
                    if file.lower().endswith(endings) and not file.startswith(".") and known_as not in seen:
                        seen.add(known_as)
                        yield known_as, path

    def find(self, name: str, file: str) -> Path | None:
        """A file of the folders of that name, by the name that a graph has for it; None: it is not there."""
        wanted = PurePosixPath(file.replace("\\", "/"))
        if wanted.is_absolute() or ".." in wanted.parts:
            return None
        return next((folder / wanted for folder in self.of(name) if (folder / wanted).is_file()), None)


def find_model_folders(models: Path | None = None) -> ModelFolders:
    """ComfyUI's models folder: the given one, that of COMFYUI_DIR, or that of the ComfyUI which this pack lies in.

    Raises:
        ValueError: none is found, or what is given is none, or extra_model_paths.yaml cannot be read.
    """
    if models is not None:
        return _given(models)
    if comfyui := os.environ.get("COMFYUI_DIR"):
        folder = Path(comfyui)
        if not (folder / "models").is_dir():
            raise ValueError(f"COMFYUI_DIR is {folder}, which has no folder models. Set it to ComfyUI's own folder.")
        return _of_comfyui(folder)
    for pack in (PACK, PACK.resolve()):
        if pack.parent.name == "custom_nodes" and (pack.parent.parent / "models").is_dir():
            return _of_comfyui(pack.parent.parent)
    raise ValueError(
        "Which ComfyUI is meant is not known: this BoLID does not lie in a custom_nodes folder. Give its models folder "
        "with --models FOLDER, or set COMFYUI_DIR to the folder of ComfyUI."
    )


def _given(folder: Path) -> ModelFolders:
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}. Give --models the models folder of ComfyUI.")
    if (folder / "models").is_dir() and (folder / "custom_nodes").is_dir():
        return _of_comfyui(folder)  # one folder too high
    extra = folder.parent / EXTRA_PATHS
    return ModelFolders(models=Path(os.path.abspath(folder)), extra=_extra_folders(extra))


def _of_comfyui(folder: Path) -> ModelFolders:
    folder = Path(os.path.abspath(folder))
    return ModelFolders(models=folder / "models", extra=_extra_folders(folder / EXTRA_PATHS))


def _extra_folders(path: Path) -> dict[str, tuple[Path, ...]]:
    """What ComfyUI reads from extra_model_paths.yaml: sections with an optional base_path, and folders by name."""
    if not path.is_file():
        return {}
    import yaml

    try:
        sections = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        found: dict[str, list[Path]] = {}
        for section in filter(None, sections.values()):
            base = Path(os.path.expandvars(os.path.expanduser(section.get("base_path", ""))))
            for name, folders in section.items():
                if name not in ("base_path", "is_default"):
                    found.setdefault(name, []).extend(
                        Path(os.path.normpath(path.parent / base / folder.strip()))
                        for folder in folders.split("\n")
                        if folder.strip()
                    )
    except (yaml.YAMLError, AttributeError, TypeError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path} cannot be read ({reason}). Mend it as ComfyUI's {EXTRA_PATHS}.example shows, or move it away."
        ) from error
    return {name: tuple(dict.fromkeys(folders)) for name, folders in found.items()}


def download_command(*names: str, models: Path) -> str:
    """What to type to download public files into this models folder, with the Python that runs this."""
    command = [sys.executable or "python", str(PACK), "models", "download", *names]
    if models != PACK.parent.parent / "models" or PACK.parent.name != "custom_nodes":
        command += ["--models", str(models)]
    return subprocess.list2cmdline(command) if os.name == "nt" else shlex.join(command)
