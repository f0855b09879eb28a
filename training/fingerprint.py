"""Telling one file or one model from another."""

from __future__ import annotations

import hashlib
from pathlib import Path

SAMPLED_BLOCKS, BLOCK_BYTES = 64, 4096


def model_fingerprint(folder: Path) -> str:
    """A hash of the files of a model folder: names, sizes, and samples of their content spread over each file.

    Reading all of the weights would take minutes.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder)} {size}\n".encode())
        with path.open("rb") as file:
            for block in range(SAMPLED_BLOCKS):
                file.seek(block * max(0, size - BLOCK_BYTES) // (SAMPLED_BLOCKS - 1))
                digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
