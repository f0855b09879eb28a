"""Tensors that are computed once per photo: safetensors shards, each with a manifest beside it.

A store is a folder for one kind of tensors. Its name holds a fingerprint of everything that the tensors depend on
beside the photo (model, settings), and every entry is named after the photo's content, so that a changed photo, model
or setting is computed anew. Several processes and several runs may write into a store at the same time: no two of them
write the same file, and what two of them computed is there twice.
"""

from __future__ import annotations

import hashlib
import json
import threading
import uuid
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..models.files import write_safetensors
from .files import write_text

Tensors = dict[str, torch.Tensor]

SHARD_ENTRIES = 64

OPEN_SHARDS = 128
"""Mapped at the same time in one store; a process may not have any number of files open."""


class TensorStore:
    """Tensors by key, in shards of `SHARD_ENTRIES` entries.

    Args:
        folder: of all stores.
        kind: what is stored, such as "latents".
        depends_on: everything that the tensors depend on beside the key; JSON values.

    Raises:
        ValueError: a manifest is damaged.
    """

    def __init__(self, folder: Path, kind: str, depends_on: Mapping[str, Any]):
        text = json.dumps(depends_on, sort_keys=True)
        self.folder = folder / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        self._depends_on = text
        self._open: OrderedDict[str, Any] = OrderedDict()
        self._checked: set[str] = set()
        self._lock = threading.Lock()
        self.reload()

    def reload(self) -> None:
        """Look again which shards there are: other processes may have written some.

        Raises:
            ValueError: a manifest is damaged; the message names the file.
        """
        self._shards: dict[str, dict[str, Any]] = {}
        self._places: dict[str, str] = {}
        for manifest in sorted(self.folder.glob("shard-*.json")):
            if not manifest.with_suffix(".safetensors").is_file():
                continue  # somebody deleted it
            try:
                shard = json.loads(manifest.read_bytes())
                self._places |= dict.fromkeys(shard["keys"], manifest.stem)
                self._shards[manifest.stem] = {"crc32": shard["crc32"], "keys": dict(shard["keys"])}
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{manifest} is damaged ({error}). Delete it; the same command computes its part of the cache anew."
                ) from None

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Keys that are not stored yet, each once, in their order."""
        return [key for key in dict.fromkeys(keys) if key not in self._places]

    def fill(self, missing: Sequence[str], compute: Callable[[str], Tensors], advance: Callable[[], None]) -> None:
        """Compute and store what is missing; a run that was cut goes on after the last full shard.

        Args:
            compute: the tensors of one key.
            advance: called after each.

        Raises:
            OSError: a shard could not be written; the earlier ones are still there.
        """
        for start in range(0, len(missing), SHARD_ENTRIES):
            entries = {}
            for key in missing[start : start + SHARD_ENTRIES]:
                entries[key] = compute(key)
                advance()
            self._write(entries)

    def get(self, key: str) -> Tensors:
        """The tensors of a key.

        Raises:
            KeyError: not stored.
            ValueError: its shard is damaged; the message names the file.
        """
        name = self._places[key]
        with self._lock:  # batches are made ahead of time by another thread
            shard = self._shard(name)
            return {part: shard.get_tensor(f"{key}/{part}") for part in self._shards[name]["keys"][key]}

    def _shard(self, name: str) -> Any:
        if name in self._open:
            self._open.move_to_end(name)
            return self._open[name]
        path = self._path(name)
        try:
            if name not in self._checked and _checksum(path) != self._shards[name]["crc32"]:
                raise ValueError("its content has changed")
            shard = safe_open(path, framework="pt")
        except (OSError, SafetensorError, ValueError) as error:
            raise ValueError(
                f"The cache file {path} is damaged ({error}). Delete it; the same command computes it anew."
            ) from None
        self._checked.add(name)
        self._open[name] = shard
        if len(self._open) > OPEN_SHARDS:
            self._open.popitem(last=False)
        return shard

    def _write(self, entries: dict[str, Tensors]) -> None:
        name = f"shard-{uuid.uuid4().hex}"
        tensors = {f"{key}/{part}": tensor for key, parts in entries.items() for part, tensor in parts.items()}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / "depends_on.json", self._depends_on + "\n")
            write_safetensors(self._path(name), tensors, metadata={})
            shard = {
                "crc32": _checksum(self._path(name)),
                "keys": {key: list(parts) for key, parts in entries.items()},
            }
            write_text(self._path(name).with_suffix(".json"), json.dumps(shard) + "\n")
        except (OSError, SafetensorError) as error:
            raise OSError(
                f"The cache file {self._path(name)} could not be written ({error}). Make room on the disk; the same "
                "command then goes on."
            ) from error
        self._shards[name] = shard
        self._places |= dict.fromkeys(entries, name)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value
