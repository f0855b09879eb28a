"""The folder of work that takes hours: known by its record, held by one process at a time, started again and again."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from .files import PARTIAL, write_text

LOCK = ".lock"

PACKAGES = ("bolid", "torch", "diffusers", "transformers", "accelerate", "open-clip-torch", "bitsandbytes", "numpy")


class WorkFolder:
    """A folder, and what it holds of the work so far.

    Args:
        folder: that the config names.
        record: name of the file that says what the folder is.
        format: of what lies in it; another one is another version's.
        key: of the config, for messages.
        what: it holds, with its article, for messages.

    Attributes:
        recorded: what the record says, or None before the first start.

    Raises:
        ValueError: the folder holds something else.
    """

    def __init__(self, folder: Path, *, record: str, format: int, key: str, what: str):
        self.folder = folder
        self.recorded: dict[str, Any] | None = None
        self._record, self._format, self._key, self._what = folder / record, format, key, what
        self._lock = FileLock(folder / LOCK)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{key} is {folder}, which is a file. Give a folder.")
        if self._record.is_file():
            self.recorded = self._read_record()
        elif folder.is_dir() and any(not path.name.startswith((LOCK, f".{record}.")) for path in folder.iterdir()):
            raise ValueError(
                f"{key} is {folder}, which holds other files and not {what}. Give a new one: nothing is overwritten."
            )

    def _read_record(self) -> dict[str, Any]:
        try:
            recorded = dict(**json.loads(self._record.read_bytes()))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self._record} is damaged ({error}). Give another {self._key}.") from None
        if recorded.get("format") != self._format:
            raise ValueError(
                f"{self.folder} holds {self._what} of another version of BoLID (format {recorded.get('format')}; this "
                f"one has {self._format}). Give another {self._key}."
            )
        return recorded

    def begin(self, config: dict[str, Any], **recorded: Any) -> None:
        """Write down that the work is started, or goes on; until `close` no other process can.

        Args:
            config: resolved.
            recorded: what the record says beside the format.

        Raises:
            ValueError: another process is at it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"Another process is at work in {self.folder}. Wait for it, stop it, or give another {self._key}."
            ) from None
        # First: without it the folder would be taken for somebody else's.
        write_text(self._record, as_json({"format": self._format, **recorded}))
        for left in self.folder.rglob(f".*{PARTIAL}"):
            left.unlink()
        write_text(self.folder / "config.json", as_json(config))
        with (self.folder / "starts.jsonl").open("a", encoding="utf-8") as file:
            entry = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "config": config, "environment": environment()}
            file.write(json.dumps(entry) + "\n")

    def close(self) -> None:
        """Let other processes go on with the work."""
        self._lock.release()


def changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """In words what differs between what a result was made from and what it would be made from; JSON values."""
    return "; ".join(
        f"{key} was {_shown(before.get(key))}, now {_shown(now.get(key))}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    )


def environment() -> dict[str, Any]:
    """What the work computes with."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "threads": torch.get_num_threads(),
        "devices": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
    }


def as_json(values: Any) -> str:
    """A file's text."""
    return json.dumps(values, indent=1) + "\n"


def _shown(value: Any) -> str:
    return "not set" if value is None else json.dumps(value)
