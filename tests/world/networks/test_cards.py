"""Model cards, from the files alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bolid.models.network_file import write_network
from bolid.world.networks.cards import cards

TRAINING = {
    "steps": 6000,
    "train": {"split": "base", "people": 4000, "photos": 48000},
    "test": {"split": "validation", "people": 100, "photos": 2000},
    "settings": {"network": "joints", "run.seed": 3, "samples per forward pass": 32},
    "validation": {"pck": 0.98765, "presence_right": 0.5},
}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    tensors = {"one": torch.zeros(1000, 500), "two": torch.zeros(7)}
    write_network(folder / "first.safetensors", tensors, network="joints", sizes={}, training=TRAINING)
    adapter = {**TRAINING, "settings": {"method": "bolid", "run.seed": 0, "samples per forward pass": 16}}
    adapter["train"] = {"people": 600, "photos": 12000}
    write_network(folder / "bolid.safetensors", tensors, network="joints", sizes={}, training=adapter)
    return folder


def test_every_file_has_its_row_and_its_section(weights: Path):
    size = sum(path.stat().st_size for path in weights.iterdir()) / 1e6
    text = cards(weights)
    assert "| `first` |  |  | 500,007 | 1.0 |\n" in text
    assert "| `bolid` | adapter | face and body | 500,007 | 1.0 |\n" in text
    assert f"| together | | | 1,000,014 | {size:.1f} |\n" in text
    second, first = text.split("## ")[1:]
    assert first == (
        "first\n\n"
        "`bolid world train world/recipes/first.toml`, seed 3, 6,000 steps of 32. Learned from 48,000 pictures of "
        "4,000 people (base); held out: 2,000 pictures of 100 people (validation).\n\n"
        "| on people who were held out | |\n|---|---|\n| pck | 0.9877 |\n| presence right | 0.5000 |\n"
    )
    assert "`bolid train world/recipes/adapters/bolid.toml`, seed 0, 6,000 steps of 16" in second
    assert "12,000 pictures of 600 people; held out" in second


def test_the_command_prints_them(weights: Path):
    command = [sys.executable, "-m", "bolid", "world", "cards", str(weights)]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == cards(weights)


def test_what_is_no_trained_network_is_named(weights: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no .safetensors file"):
        cards(tmp_path)
    write_network(weights / "untrained.safetensors", {"one": torch.zeros(2)}, network="joints", sizes={})
    with pytest.raises(ValueError, match="untrained.safetensors does not say how it was trained"):
        cards(weights)
