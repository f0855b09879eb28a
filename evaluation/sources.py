"""Which network measures what: names in the config, and what tells one network from another."""

from __future__ import annotations

import hashlib
import importlib.metadata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..training.fingerprint import file_hash, model_fingerprint
from .config import MeasureSettings

Kind = Literal["recognition", "clip", "dino", "faces", "inception", "pair", "joints", "mediapipe", "lpips"]

PREFIXES: tuple[Kind, ...] = ("clip", "dino", "faces", "inception", "mediapipe")
"""Kinds that are named before the path."""

FOLDERS: dict[Kind, str] = {
    "clip": "config.json",
    "dino": "config.json",
    "faces": "*.onnx",
    "pair": "open_clip_config.json",
}
"""Kinds that lie in folders, and what these have to hold; all others are files."""


@dataclass(frozen=True)
class Source:
    """A network by its kind and where it lies.

    Attributes:
        kind: what it is.
        path: file or folder; None for the weights that mediapipe's package carries; of LPIPS the classifier's name.
        key: of the config that names it, for messages; it does not tell networks apart.
    """

    kind: Kind
    path: Path | None
    key: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """For people."""
        return self.kind if self.path is None else f"{self.kind} {self.path}"

    @property
    def stage(self) -> str:
        """What progress calls it."""
        return self.kind if self.path is None else self.path.stem

    def check_there(self) -> None:
        """Raise a ValueError if there is no such file or folder."""
        if self.path is None or self.kind == "lpips":
            return
        if self.kind not in FOLDERS:
            if not self.path.is_file():
                raise ValueError(
                    f"{self.key} is {self.path}, but there is no such file. Networks of other kinds are named "
                    f"kind:path, with one of {', '.join(PREFIXES)}."
                )
        elif not any(self.path.glob(FOLDERS[self.kind])):
            raise ValueError(
                f"{self.key} is {self.path}, which is no folder of a network of the kind {self.kind}: it has no "
                f"{FOLDERS[self.kind]}."
            )

    def fingerprint(self) -> str:
        """Tells one network from another, wherever it lies."""
        if self.path is None or self.kind == "lpips":
            package = "torchmetrics" if self.kind == "lpips" else self.kind
            told = f"{self.name}, {package} {importlib.metadata.version(package)}"
            return hashlib.sha256(told.encode()).hexdigest()
        return model_fingerprint(self.path) if self.kind in FOLDERS else file_hash(self.path)


@dataclass(frozen=True)
class Sources:
    """The networks of an evaluation, by what they measure; see `MeasureSettings`."""

    identity: dict[str, Source]
    text: Source | None
    attributes: Source | None
    pose: Source | None
    features: dict[str, Source]
    lpips: Source | None

    @classmethod
    def of(cls, settings: MeasureSettings) -> Sources:
        """Those that the settings name.

        Raises:
            ValueError: a kind that cannot measure this, or a file or folder that is not there.
        """
        identity = {
            name: _named(f"measures.identity.{name}", text, ("recognition", "clip", "dino", "faces"))
            for name, text in settings.identity.items()
        }
        features = {
            name: _named(f"measures.features.{name}", text, ("recognition", "clip", "dino", "inception"))
            for name, text in settings.features.items()
        }
        attributes = settings.attributes
        found = cls(
            identity=identity,
            text=None if settings.text is None else Source("pair", settings.text, "measures.text"),
            attributes=None
            if attributes is None
            else Source("recognition", attributes.network, "measures.attributes.network"),
            pose=None if settings.pose is None else _named("measures.pose", settings.pose, ("joints", "mediapipe")),
            features=features,
            lpips=None if settings.lpips is None else Source("lpips", Path(settings.lpips), "measures.lpips"),
        )
        for source in found.all:
            source.check_there()
        return found

    @property
    def all(self) -> list[Source]:
        """Those that look at single pictures, each once, in the order in which they are asked."""
        single = [source for source in (self.text, self.attributes, self.pose) if source is not None]
        return list(dict.fromkeys([*self.identity.values(), *single, *self.features.values()]))


def _named(key: str, text: str, kinds: tuple[Kind, ...]) -> Source:
    """A network by its name in the config; a path alone is one of the first of the kinds."""
    prefix, separator, path = text.partition(":")
    if prefix in PREFIXES and (separator or prefix == "mediapipe"):
        kind: Kind = prefix
        if kind not in kinds:
            raise ValueError(
                f"{key} is {text!r}, but a network of the kind {kind} cannot measure this. {_kinds(kinds)}"
            )
        if separator and not path:
            raise ValueError(f"{key} is {text!r}, which names no file or folder after the colon.")
        return Source(kind, Path(path) if separator else None, key)
    return Source(kinds[0], Path(text), key)


def _kinds(kinds: tuple[Kind, ...]) -> str:
    forms = [f'"{kind}:…"' for kind in kinds[1:]]
    return f"Give the file of a {kinds[0]} network (bolid world train), or {' or '.join(forms)}."
