"""What lies in ComfyUI's models folders, by content."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .folders import PACKS, PLACES, ModelFolders
from .public_files import Kind
from .recognise import Facts, recognise


@dataclass(frozen=True, kw_only=True)
class Item:
    """A file, or an insightface pack, that is there.

    Attributes:
        folder: ComfyUI's name of the folder.
        name: as graphs name it.
        path: of the file, or of the pack's folder.
        kind: what lies in that folder.
        size: in bytes; of a pack that of its networks.
        facts: what it is; None if that is not known.
        problem: why it is not.
    """

    folder: str
    name: str
    path: Path
    kind: Kind
    size: int
    facts: Facts | None = None
    problem: str = ""

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        facts = self.facts
        return {
            "folder": self.folder,
            "name": self.name,
            "path": str(self.path),
            "kind": self.kind,
            "size": self.size,
            "what": facts.what if facts else None,
            "needs": list(facts.needs) if facts else [],
            "details": facts.details if facts else {},
            "problem": self.problem or None,
        }


def inventory(folders: ModelFolders) -> list[Item]:
    """Every adapter, image encoder, insightface pack, pose model and aesthetic model; what cannot be read, and why."""
    return [_item(*place) for place in _places(folders)]


def packs(folders: ModelFolders) -> list[Path]:
    """The folders of insightface packs."""
    root = folders.models / PACKS
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _places(folders: ModelFolders) -> Iterator[tuple[str, str, Path, Kind]]:
    for folder, (kind, endings) in PLACES.items():
        for name, path in folders.files(folder, endings):
            yield folder, name, path, kind
    for path in packs(folders):
        yield PACKS, path.name, path, "insightface pack"


def _item(folder: str, name: str, path: Path, kind: Kind) -> Item:
    facts, problem, size = None, "", 0
    try:
        size = sum(file.stat().st_size for file in path.glob("*.onnx")) if path.is_dir() else path.stat().st_size
        facts = recognise(path, kind)
    except (ValueError, OSError) as error:
        problem = str(error)
    return Item(folder=folder, name=name, path=path, kind=kind, size=size, facts=facts, problem=problem)
