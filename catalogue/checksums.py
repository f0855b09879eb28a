"""Checksums of files that may be large."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

CHUNK = 1 << 22

Progress = Callable[[str, int, int], None]
"""Told what is being done, how many bytes of it are done, and how many there are (0: not known)."""


def silent(stage: str, done: int, total: int) -> None:
    """A `Progress` for those who do not want to know."""


def sha256_of(path: Path, progress: Progress = silent) -> str:
    """The checksum of a file, in hexadecimal digits."""
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            progress(f"checking {path.name}", done, total)
    return digest.hexdigest()
