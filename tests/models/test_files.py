"""What all of BoLID's own files have in common."""

from __future__ import annotations

from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from bolid.models.files import write_safetensors

TENSORS = {"b.weight": torch.arange(6.0).view(2, 3), "a": torch.tensor([1, 2]), "c": torch.ones(1, dtype=torch.float16)}


@given(metadata=st.dictionaries(st.text(), st.text(), max_size=8))
def test_the_same_content_gives_the_same_bytes(metadata: dict[str, str], tmp_path_factory):
    """safetensors alone writes metadata in another order every time."""
    folder: Path = tmp_path_factory.mktemp("files")
    one, other = folder / "one.safetensors", folder / "other.safetensors"
    write_safetensors(one, TENSORS, metadata=metadata)
    write_safetensors(other, dict(reversed(TENSORS.items())), metadata=dict(reversed(metadata.items())))
    assert one.read_bytes() == other.read_bytes()
    with safe_open(one, "pt") as file:
        assert (file.metadata() or {}) == metadata
    assert all(torch.equal(tensor, TENSORS[name]) for name, tensor in load_file(one).items())
