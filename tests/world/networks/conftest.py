"""A tiny drawn world, and runs of `bolid world train` on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from bolid.world.networks import autoencoder, recognition
from bolid.world.networks.config import NetworkTraining
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
}
"""Small networks by kind."""


@dataclass(frozen=True, kw_only=True)
class DrawnWorld:
    """Folders of drawn people, six of each split that networks read, four pictures of each.

    Attributes:
        pictures: of 64 pixels.
        large: the same of 128 pixels, as the transformers read them.
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
            "data": {"folders": [str(self.pictures)], "split": "base"},
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


class NetworkProcesses(TrainingProcesses):
    """Processes that run the command `bolid`, forked from one that knows the world's networks. A context manager."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("serve.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A fork would wait for OpenMP's threads for ever.
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        )


def write_autoencoder(path: Path, drawn: DrawnWorld, *, seed: int = 0, **sizes: int) -> Path:
    """The file of an autoencoder that has learnt nothing, for the latents of base models."""
    config = drawn.config("autoencoder", path.parent, run={"seed": seed}, autoencoder=sizes)
    autoencoder.AutoencoderTask(config, device=torch.device("cpu")).write_result(path, {})
    return path


def oracle_of(folder: Path) -> list[dict[str, Any]]:
    """What is known of every picture."""
    return [json.loads(line) for line in (folder / "oracle.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def drawn(_few_sampled_pictures: None, tmp_path_factory: pytest.TempPathFactory) -> DrawnWorld:
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


@pytest.fixture(scope="session", autouse=True)
def _few_sampled_pictures() -> Iterator[None]:
    """As many as the tiny world has."""
    with pytest.MonkeyPatch.context() as patched:
        for module in (autoencoder, recognition):
            patched.setattr(module, "SAMPLED_PICTURES", 24)
        yield


@pytest.fixture(scope="session")
def processes() -> Iterator[NetworkProcesses]:
    with NetworkProcesses() as running:
        yield running


Config = Callable[..., NetworkTraining]


@pytest.fixture
def config(drawn: DrawnWorld, tmp_path: Path) -> Config:
    """Reads the config of a run of 4 steps in `tmp_path / "run"`, with these sections changed."""

    def load(network: str, **sections: dict[str, Any]) -> NetworkTraining:
        return drawn.config(network, tmp_path, **sections)

    return load
