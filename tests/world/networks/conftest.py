"""A tiny drawn world, and runs of `bolid world train` on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from bolid.world.networks.autoencoder import AutoencoderTask
from bolid.world.networks.base_model import BaseTask
from bolid.world.networks.config import NetworkTraining
from bolid.world.networks.image_text import ImageTextTask
from bolid.world.networks.recognition import RecognitionTask
from bolid.world.networks.task import NetworkTask
from bolid.world.networks.train import load_network_config
from bolid.world.render import render

from ...support.training_processes import TrainingProcesses
from ...training.conftest import write_config

PEOPLE, PICTURES = 6, 4

SMALL: dict[str, dict[str, Any]] = {
    "autoencoder": {"latent_channels": 4, "crop": 32, "encoder_layers": [1, 1, 1], "decoder_layers": [1, 1, 1]},
    "base": {
        "block_out_channels": [32, 32],
        "layers_per_block": 1,
        "heads": 2,
        "text_dim": 32,
        "text_layers": 1,
        "text_heads": 2,
    },
    "recognition": {
        "kind": "convolutional",
        "dim": 16,
        "width": 16,
        "depth": 1,
        "people_per_batch": 2,
        "heads": ["place", "framing", "freckles", "bones"],
    },
    "joints": {"width": 16, "depth": 3},
    "image_text": {
        "kind": "transformer",
        "dim": 16,
        "width": 32,
        "depth": 1,
        "text_dim": 32,
        "text_layers": 1,
        "text_heads": 2,
    },
}
"""Small networks by kind."""


@dataclass(frozen=True, kw_only=True)
class DrawnWorld:
    """Folders of drawn people, six of each split that networks read, four pictures of each.

    Attributes:
        pictures: of 64 pixels.
        large: the same of 128 pixels, which transformers and image-text pairs need.
        many: forty people of each split, of 64 pixels.
        autoencoder: file of one that has learnt nothing, whose latents have 4 channels.
    """

    pictures: Path
    large: Path
    many: Path
    autoencoder: Path

    def values(self, network: str, output: Path, **sections: dict[str, Any]) -> dict[str, Any]:
        """The values of a config file: a short run of a small network, with these sections changed."""
        values: dict[str, Any] = {
            "network": network,
            "run": {
                "output": str(output),
                "steps": 4,
                "batch_size": 4,
                "log_every": 1,
                "sample_every": 0,
                "validation_batches": 2,
            },
            "data": {"folders": [str(self.large if network == "image_text" else self.pictures)], "split": "base"},
            network: dict(SMALL[network]),
            "optimizer": {"learning_rate": 1e-3},
        }
        if network == "base":
            values["base"] |= {"autoencoder": str(self.autoencoder), "cache": str(self.pictures.parent / "cache")}
        for name, section in sections.items():
            values[name] = {**values.get(name, {}), **section}
        return values

    def config(self, network: str, folder: Path, **sections: dict[str, Any]) -> NetworkTraining:
        """The config of a run in `folder / "run"`, with these sections changed."""
        path = write_config(folder / f"{network}.toml", self.values(network, folder / "run", **sections))
        return load_network_config(path)


def write_autoencoder(path: Path, drawn: DrawnWorld, *, seed: int = 0, **sizes: int) -> Path:
    """The file of an autoencoder that has learnt nothing, for the latents of base models."""
    config = drawn.config("autoencoder", path.parent, run={"seed": seed}, autoencoder=sizes)
    AutoencoderTask(config, device=torch.device("cpu")).write_result(path, {})
    return path


def oracle_of(folder: Path) -> list[dict[str, Any]]:
    """What is known of every picture."""
    return [json.loads(line) for line in (folder / "oracle.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> DrawnWorld:
    folder = tmp_path_factory.mktemp("drawn")
    splits = ("base", "metrics", "validation")
    for name, size in (("pictures", 64), ("large", 128)):
        render(folder / name, people=PEOPLE, pictures=PICTURES, splits=splits, size=size, workers=1)
    render(folder / "many", people=40, pictures=PICTURES, splits=["base", "validation"], size=64, workers=1)
    drawn = DrawnWorld(
        pictures=folder / "pictures",
        large=folder / "large",
        many=folder / "many",
        autoencoder=folder / "autoencoder.safetensors",
    )
    write_autoencoder(drawn.autoencoder, drawn)
    return drawn


@pytest.fixture(scope="session")
def tasks(drawn: DrawnWorld, tmp_path_factory: pytest.TempPathFactory) -> dict[str, NetworkTask]:
    """Networks that have learnt nothing, by the names of their files."""
    folder = tmp_path_factory.mktemp("configs")
    large = {"folders": [str(drawn.large)]}
    return {
        "base": BaseTask(drawn.config("base", folder, base={"poses": 0.5}), device=torch.device("cpu")),
        "image_encoder": RecognitionTask(
            drawn.config(
                "recognition", folder, data=large, recognition={"kind": "transformer", "width": 32, "depth": 2}
            ),
            device=torch.device("cpu"),
        ),
        "image_text": ImageTextTask(drawn.config("image_text", folder), device=torch.device("cpu")),
        "metric_image_text": ImageTextTask(
            drawn.config("image_text", folder, run={"seed": 1}, image_text={"kind": "convolutional"}),
            device=torch.device("cpu"),
        ),
    }


@pytest.fixture(scope="session")
def weights(tasks: dict[str, NetworkTask], drawn: DrawnWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their files."""
    folder = tmp_path_factory.mktemp("weights")
    (folder / "autoencoder.safetensors").write_bytes(drawn.autoencoder.read_bytes())
    for name, task in tasks.items():
        task.module.eval()
        task.write_result(folder / f"{name}.safetensors", {})
    return folder


@pytest.fixture(scope="session")
def processes() -> Iterator[TrainingProcesses]:
    with TrainingProcesses() as running:
        yield running


Config = Callable[..., NetworkTraining]


@pytest.fixture
def config(drawn: DrawnWorld, tmp_path: Path) -> Config:
    """Reads the config of a run of 4 steps in `tmp_path / "run"`, with these sections changed."""

    def load(network: str, **sections: dict[str, Any]) -> NetworkTraining:
        return drawn.config(network, tmp_path, **sections)

    return load
