"""What runs of `bolid` leave behind, and how they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from .training_processes import Ended


def metrics(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Entries of a run's log."""
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [entry for entry in entries if entry["kind"] == kind]


def metadata_of(path: Path) -> dict[str, str]:
    """Of a safetensors file."""
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def files_of(folder: Path) -> dict[str, bytes]:
    """The content of every file, by its path in the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same_result(folder: Path, reference: Path, *, name: str) -> None:
    """The same weights to the last bit in the file of this name, with the same metadata, and the same numbers on the
    way."""
    tensors, expected = (load_file(run / name) for run in (folder, reference))
    assert tensors.keys() == expected.keys()
    assert [key for key in expected if not torch.equal(tensors[key], expected[key])] == []
    assert metadata_of(folder / name) == metadata_of(reference / name)
    assert (folder / "metrics.jsonl").read_text() == (reference / "metrics.jsonl").read_text()


def assert_refused(ended: Ended, *parts: str) -> None:
    """Exit code 2, and one message that names all of this."""
    assert ended.code == 2, ended
    assert ended.stdout == "" and "Traceback" not in ended.stderr
    (message,) = [line for line in ended.stderr.splitlines() if line.startswith("bolid: ")]
    assert [part for part in parts if part not in message] == [], message
