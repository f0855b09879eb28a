"""Telling one file or one model from another."""

from __future__ import annotations

import hashlib
from pathlib import Path

SAMPLED_BLOCKS, BLOCK_BYTES = 64, 4096


def model_fingerprint(folder: Path) -> str:
    """A hash of the files of a model folder: names, sizes, and samples of their content spread over each file.

    Reading all of the weights would take minutes; an edit of a few tensors may go unnoticed.

    Raises:
        FileNotFoundError: no such folder, or an empty one.
    """
    digest = hashlib.sha256()
    # Hidden files and folders hold what downloaders and systems remember.
    named = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    files = {name: path for name, path in named.items() if not any(part.startswith(".") for part in name.split("/"))}
    if not files:
        raise FileNotFoundError(f"There are no files in {folder}, where a model is expected.")
    for name, path in sorted(files.items()):
        size = path.stat().st_size
        digest.update(f"{name} {size}\n".encode())
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
