"""Files of networks that libraries' classes are built for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bolid.models.network_file import FORMAT, read_network, write_network


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "unet.weight": torch.randn(4, 5, generator=generator),
        "unet.block.bias": torch.randn(3, generator=generator).double(),
        "unetted.weight": torch.ones(2),
        "tokens": torch.tensor([5, 70000, 2**40]),
    }


@pytest.fixture
def path(tensors: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    path = tmp_path / "network.safetensors"
    write_network(path, tensors, network="base", sizes={"width": 5, "levels": [1, 2]}, training={"steps": 3})
    return path


def described(path: Path, **changes: str) -> Path:
    """The same file with another description."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, metadata={**metadata, **changes})
    return path


def test_weights_are_halves_and_numbers_stay(path: Path, tensors: dict[str, torch.Tensor]):
    stored = load_file(path)
    assert {name: tensor.dtype for name, tensor in stored.items()} == {
        "unet.weight": torch.float16,
        "unet.block.bias": torch.float16,
        "unetted.weight": torch.float16,
        "tokens": torch.int64,
    }
    assert torch.equal(stored["unet.weight"], tensors["unet.weight"].half())
    assert torch.equal(stored["tokens"], tensors["tokens"])


def test_what_is_read_is_what_was_written(path: Path, tensors: dict[str, torch.Tensor]):
    file = read_network(path, "base")
    assert (file.sizes, file.training) == ({"width": 5, "levels": [1, 2]}, {"steps": 3})
    assert file.state_dict["unet.weight"].dtype == torch.float32
    assert torch.equal(file.state_dict["unet.weight"], tensors["unet.weight"].half().float())
    assert torch.equal(file.state_dict["tokens"], tensors["tokens"])
    assert set(file.part("unet")) == {"weight", "block.bias"}
    assert torch.equal(file.part("unet")["weight"], file.state_dict["unet.weight"])
    assert file.part("text") == {}


def test_file_says_what_it_is(path: Path):
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["bolid.network.format"] == str(FORMAT)
    assert json.loads(metadata["bolid.network.config"])["network"] == "base"
    assert metadata["modelspec.architecture"] == "bolid-world-base"
    assert metadata["modelspec.title"] == "BoLID people world: base"


def test_tensors_that_share_memory_are_written(tmp_path: Path):
    whole = torch.arange(6)
    write_network(tmp_path / "shared.safetensors", {"a": whole, "b": whole}, network="base", sizes={})
    assert torch.equal(read_network(tmp_path / "shared.safetensors", "base").state_dict["b"], whole)


def test_writing_replaces_in_one_step(path: Path, tensors: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch):
    before = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr("os.replace", lambda source, target: (_ for _ in ()).throw(OSError("no space")))
        with pytest.raises(OSError, match="no space"):
            write_network(path, {"other": torch.ones(3)}, network="joints", sizes={})
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]
    write_network(path, {"other": torch.ones(3)}, network="joints", sizes={})
    assert set(read_network(path, "joints").state_dict) == {"other"}
    with pytest.raises(ValueError, match="network.bin must end in .safetensors"):
        write_network(path.with_suffix(".bin"), tensors, network="base", sizes={})


def test_files_that_are_something_else_are_refused(path: Path, tmp_path: Path):
    message = "network.safetensors is a network of the kind 'base'; expected one of the kind 'autoencoder'."
    with pytest.raises(ValueError) as refused:
        read_network(path, "autoencoder")
    assert str(refused.value) == message
    save_file({"weight": torch.ones(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match="plain.safetensors is no network of the people world; expected.*'base'"):
        read_network(tmp_path / "plain.safetensors", "base")
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match="cut.safetensors is not a readable safetensors file"):
        read_network(tmp_path / "cut.safetensors", "base")
    with pytest.raises(FileNotFoundError, match="none.safetensors"):
        read_network(tmp_path / "none.safetensors", "base")


def test_descriptions_that_cannot_be_read_are_told(path: Path):
    with pytest.raises(ValueError, match=r"newer version of BoLID \(network format 2; .* up to 1\)"):
        read_network(described(path, **{"bolid.network.format": "2"}), "base")
    with pytest.raises(ValueError, match="network format 'x', which is no version number"):
        read_network(described(path, **{"bolid.network.format": "x"}), "base")
    damaged = {"bolid.network.format": "1", "bolid.network.config": '{"network": "base", "size": {}}'}
    with pytest.raises(ValueError, match="is a BoLID network, but its description of itself is damaged.*size"):
        read_network(described(path, **damaged), "base")
