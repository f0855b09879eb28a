"""What BoLID's own files have in common: written in one step, and with a description of themselves."""

from __future__ import annotations

import json
import os
import re
import textwrap
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import TypeAdapter, ValidationError

Description = TypeVar("Description")


def write_safetensors(path: str | Path, tensors: dict[str, torch.Tensor], *, metadata: dict[str, str]) -> None:
    """Write a safetensors file, the same bytes for the same content; an existing file is replaced in one step, or stays
    as it was.

    Args:
        path: ends in .safetensors.
        tensors: on any device, with or without gradients; no two of them share memory.
        metadata: of the file.

    Raises:
        ValueError: another ending.
    """
    from safetensors.torch import save_file

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"BoLID writes safetensors files; {path.name} must end in .safetensors.")
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(tensors, temporary, metadata=metadata)
        _order_metadata(temporary)
        temporary.chmod(mode)  # safetensors lets nobody else read its files
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _order_metadata(path: Path) -> None:
    """By their names: safetensors writes them in the order of a hash table, which is another one every time."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        ordered = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(length)
        assert len(ordered) == length
        file.seek(8)
        file.write(ordered)


def in_precision(tensors: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Copies in this precision; whole numbers stay as they are."""
    return {
        key: tensor.to(dtype if tensor.is_floating_point() else tensor.dtype, copy=True)
        for key, tensor in tensors.items()
    }


def tensor_problems(error: RuntimeError) -> str:
    """What a strict `load_state_dict` found, in one line: it has a line per problem, and hundreds may be the same."""
    return textwrap.shorten(" ".join(str(error).splitlines()[1:]), 600, placeholder=" …")


def read_description(
    metadata: dict[str, str],
    description: TypeAdapter[Description],
    *,
    prefix: str,
    kind: str,
    supported: int,
    name: str,
) -> Description | None:
    """What a file says about itself, in the entries `<prefix>.format` and `<prefix>.config` of its metadata.

    Args:
        metadata: of the file.
        description: of what `<prefix>.config` holds as JSON.
        prefix: of the two entries.
        kind: of the file, for messages.
        supported: the latest format that this version reads.
        name: file name for messages.

    Returns:
        None for a file without `<prefix>.format`.

    Raises:
        ValueError: a later format, or a damaged description.
    """
    version = metadata.get(f"{prefix}.format")
    if version is None:
        return None
    if not re.fullmatch(r"[1-9]\d{0,8}", version):
        raise ValueError(f"{name} has the {kind} format {version!r}, which is no version number. Get the file again.")
    if int(version) > supported:
        raise ValueError(
            f"{name} was written by a newer version of BoLID ({kind} format {version}; this one reads up to "
            f"{supported}). Update BoLID: `git pull` in its folder in custom_nodes, or ComfyUI-Manager's update."
        )
    try:
        return description.validate_json(metadata.get(f"{prefix}.config", ""))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or f'{prefix}.config'}: {problem['msg']}"
            for problem in error.errors()
        )
        raise ValueError(
            f"{name} is a BoLID {kind}, but its description of itself is damaged ({problems}). Get the file again."
        ) from error
