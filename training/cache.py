"""Tensors that are computed once per photo: safetensors shards with a manifest.

A store is a folder for one kind of tensors. Its name holds a fingerprint of everything that the tensors depend on
beside the photo (model, settings), and every entry is named after the photo's content, so that a changed photo, model
or setting is computed anew and never mistaken for the old one.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .people import write_text

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
    """

    def __init__(self, folder: Path, kind: str, depends_on: Mapping[str, Any]):
        text = json.dumps(depends_on, sort_keys=True)
        self.folder = folder / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        self._manifest = self.folder / "manifest.json"
        self._open: OrderedDict[str, Any] = OrderedDict()
        self._checked: set[str] = set()
        self._shards: dict[str, dict[str, Any]] = {}
        self._places: dict[str, str] = {}
        if self._manifest.is_file():
            try:
                self._shards = json.loads(self._manifest.read_bytes())["shards"]
                self._places = {key: name for name, shard in self._shards.items() for key in shard["keys"]}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{self._manifest} is damaged ({error}). Delete {self.folder} to compute it anew."
                ) from None
        self._depends_on = json.loads(text)

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
        shard = self._shard(name)
        return {part: shard.get_tensor(f"{key}/{part}") for part in self._shards[name]["keys"][key]}

    def _shard(self, name: str) -> Any:
        if name in self._open:
            self._open.move_to_end(name)
            return self._open[name]
        path = self.folder / name
        try:
            if name not in self._checked and _checksum(path) != self._shards[name]["crc32"]:
                raise ValueError("its content has changed")
            shard = safe_open(path, framework="pt")
        except (OSError, SafetensorError, ValueError) as error:
            raise ValueError(
                f"The cache file {path} is damaged ({error}). Delete the folder {self.folder} and start again: it is "
                "computed anew."
            ) from None
        self._checked.add(name)
        self._open[name] = shard
        if len(self._open) > OPEN_SHARDS:
            self._open.popitem(last=False)
        return shard

    def _write(self, entries: dict[str, Tensors]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"shard-{len(self._shards):05d}.safetensors"
        partial = self.folder / f".{name}.partial"
        try:
            named = {f"{key}/{part}": tensor for key, parts in entries.items() for part, tensor in parts.items()}
            save_file({name: tensor.contiguous() for name, tensor in named.items()}, partial)
            os.replace(partial, self.folder / name)
        except (OSError, SafetensorError) as error:
            raise OSError(
                f"The cache file {self.folder / name} could not be written ({error}). Make room on the disk; the same "
                "command then goes on."
            ) from error
        finally:
            partial.unlink(missing_ok=True)
        self._shards[name] = {
            "crc32": _checksum(self.folder / name),
            "keys": {key: list(tensors) for key, tensors in entries.items()},
        }
        self._places.update(dict.fromkeys(entries, name))
        manifest = {"depends_on": self._depends_on, "shards": self._shards}
        write_text(self._manifest, json.dumps(manifest, indent=1) + "\n")


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value
