"""A tiny world to evaluate in: drawn people, models that have learnt nothing, and networks to measure with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from bolid.evaluation.config import EvaluationSettings
from bolid.evaluation.plan import Plan
from bolid.evaluation.sources import Source
from bolid.hosts.diffusers import cross_attention_layers
from bolid.models.adapter import AdapterLayout, BodyLayout
from bolid.models.adapter_file import write_adapter
from bolid.models.build import build_adapter
from bolid.models.keypoint_network import PIXELS, KeypointNetwork, KeypointNetworkLayout, write_keypoint_network
from bolid.models.network_file import write_network
from bolid.training.base import image_encoder_config, load_denoiser
from bolid.training.features import load_people
from bolid.world.networks.config import RecognitionSettings
from bolid.world.networks.heads import Heads
from bolid.world.networks.recogniser import Recogniser
from bolid.world.networks.recognition import RecognitionStep, recognition_sizes
from bolid.world.render import render

from ..support.toy_training import SIDE, write_toy_base, write_toy_clip, write_toy_image_encoder
from ..support.training_processes import TrainingProcesses

PEOPLE, PHOTOS = 4, 6
HEADS = ("place", "action", "style", "framing", "top_colour", "bones")


@dataclass(frozen=True, kw_only=True)
class Toy:
    """Files and folders of the tiny world.

    Attributes:
        world: of `bolid world render`, four people of the test split with six pictures of 64 pixels each.
        base, image_encoder: that draw such pictures.
        adapters: two of one layout, with aggregator and body branch.
        identity, attributes, joints, pair: networks to measure with.
    """

    folder: Path
    world: Path
    base: Path
    image_encoder: Path
    adapters: tuple[Path, Path]
    identity: Path
    attributes: Path
    joints: Path
    pair: Path

    def values(self, output: Path, methods: dict[str, Any], **sections: Any) -> dict[str, Any]:
        """The values of a config file: few steps, and no measures but those in `sections`."""
        values: dict[str, Any] = {
            "output": str(output),
            "data": {"path": str(self.world / "prepared" / "test"), "cache": str(self.folder / "cache")},
            "base": {"path": str(self.base), "image_encoder": str(self.image_encoder), "resolution": SIDE},
            "drawing": {"steps": 2, "pictures": 2, "guidance_scales": [3.0], "batch_size": 3},
            "measures": {"resamples": 200, "batch_size": 5},
            "methods": methods,
        }
        for name, section in sections.items():
            values[name] = {**values[name], **section} if isinstance(section, dict) else section
        return values

    def settings(self, output: Path, methods: dict[str, Any], **sections: Any) -> EvaluationSettings:
        """The same as settings."""
        return EvaluationSettings.model_validate(self.values(output, methods, **sections))

    def plan(self, settings: EvaluationSettings) -> Plan:
        """What these settings draw."""
        return Plan(load_people(settings.data, settings.base, to_train=False).test, settings)

    @property
    def measures(self) -> dict[str, Any]:
        """All measures that the tiny world has networks for."""
        return {
            "identity": {"likeness": str(self.identity)},
            "text": str(self.pair),
            "attributes": {"network": str(self.attributes), "oracle": str(self.world / "oracle.jsonl")},
            "pose": str(self.joints),
            "features": {"world": str(self.attributes)},
        }


class Said:
    """In the place of `Outputs`: what networks say is told to it.

    Args:
        pictures: by key of the picture.
        texts: by text.
    """

    resolution = SIDE
    device = torch.device("cpu")

    def __init__(
        self, pictures: dict[str, dict[str, torch.Tensor]], texts: dict[str, torch.Tensor] | None = None
    ) -> None:
        self.pictures = pictures
        self.texts = texts or {}

    def get(self, source: Source, key: str, *, kind: str = "pictures") -> dict[str, torch.Tensor]:
        return self.pictures[key]

    def stacked(self, source: Source, name: str, keys: Sequence[str]) -> torch.Tensor:
        return torch.stack([self.pictures[key][name] for key in keys])

    def text(self, source: Source, text: str) -> torch.Tensor:
        return self.texts[text]


def write_recogniser(path: Path, *, seed: int, heads: tuple[str, ...] = (), split: str = "metrics") -> Path:
    """The file of a recognition network that has learnt nothing."""
    settings = RecognitionSettings(kind="convolutional", dim=8, width=16, depth=1, heads=heads, contrast=1.0)
    sizes = recognition_sizes(settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        step = RecognitionStep(Recogniser(sizes), Heads(settings.dim, heads))
        # As it is made its embeddings are nearly the same for all pictures.
        torch.nn.init.normal_(step.recogniser.projection.weight)
    training = {"settings": {"data.split": split}}
    write_network(
        path,
        step.state_dict(),
        network="recognition",
        sizes={"recogniser": sizes, "heads": list(heads)},
        training=training,
    )
    return path


def write_joints(path: Path, *, latent_space: str = PIXELS) -> Path:
    """The file of a joints network that has learnt nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = KeypointNetwork(KeypointNetworkLayout(latent_channels=48, width=8, depth=2))
    write_keypoint_network(path, network, latent_space=latent_space)
    return path


def write_toy_adapter(path: Path, base: Path, image_encoder: Path, *, seed: int, training: Any = None) -> Path:
    """An adapter with everything an adapter may have, and random weights."""
    unet = load_denoiser(base, dtype=torch.float32).unet
    encoder = image_encoder_config(image_encoder)
    layout = AdapterLayout(
        kind="base",
        cross_attention_dim=unet.config.cross_attention_dim,
        num_tokens=4,
        image_embed_dim=encoder.projection_dim,
        layers={layer.index: layer.hidden_size for layer in cross_attention_layers(unet)},
        aggregator_depth=1,
        body=BodyLayout(hidden_size=encoder.hidden_size, dim=64, depth=1, resampler_depth=1),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapter = build_adapter(layout)
        for module in adapter.aggregator.values():
            torch.nn.init.normal_(module.proj_out.weight, std=0.2)
    write_adapter(path, adapter, base_model="custom", image_encoder="toy", training=training)
    return path


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    folder = tmp_path_factory.mktemp("toy")
    render(folder / "world", splits=["test"], people=PEOPLE, pictures=PHOTOS, size=SIDE, workers=1)
    base = write_toy_base(folder / "base", trained=False)
    image_encoder = write_toy_image_encoder(folder / "image_encoder")
    first, second = (
        write_toy_adapter(folder / f"adapter_{seed}.safetensors", base, image_encoder, seed=seed) for seed in (1, 2)
    )
    return Toy(
        folder=folder,
        world=folder / "world",
        base=base,
        image_encoder=image_encoder,
        adapters=(first, second),
        identity=write_recogniser(folder / "identity.safetensors", seed=1),
        attributes=write_recogniser(folder / "attributes.safetensors", seed=2, heads=HEADS),
        joints=write_joints(folder / "joints.safetensors"),
        pair=write_toy_clip(folder / "pair"),
    )


@pytest.fixture(scope="session")
def processes() -> Iterator[TrainingProcesses]:
    with TrainingProcesses() as running:
        yield running


@pytest.fixture(autouse=True)
def _separate_evaluations() -> Iterator[None]:
    """accelerate remembers the first set-up of a process."""
    yield
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
