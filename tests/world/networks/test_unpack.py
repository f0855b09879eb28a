"""The world's networks in the forms that `bolid train` reads give what they give in training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from bolid.models.body_encoder import BodyIDEncoder
from bolid.models.network_file import read_network
from bolid.training.base import (
    check_base,
    encode_image,
    encode_text,
    load_autoencoder,
    load_denoiser,
    load_image_encoder,
    load_text_encoders,
    to_latents,
    to_pictures,
)
from bolid.training.config import LossSettings
from bolid.training.image_text import load_image_text
from bolid.world.networks import autoencoder as autoencoder_module
from bolid.world.networks.task import NetworkTask
from bolid.world.networks.unpack import unpack

from .conftest import DrawnWorld

CPU = torch.device("cpu")
TEXTS = ["", "a person waves in a park", "Someone, jumping: on the beach!", "a zebra 猫"]
HALF = {"atol": 5e-3, "rtol": 5e-3}
"""Files hold half precision."""


@pytest.fixture(scope="module")
def unpacked(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked") / "models"
    written = unpack(folder, weights)
    assert written == {
        name: str(folder / name)
        for name in ("base", "image_encoder", "body_encoder", "image_text", "metric_image_text")
    }
    assert sorted(path.name for path in folder.iterdir()) == sorted(written)
    return folder


@torch.no_grad()
def test_base_model(tasks: dict[str, NetworkTask], drawn: DrawnWorld, unpacked: Path):
    task, folder = tasks["base"], unpacked / "base"
    check_base(folder)
    denoiser = load_denoiser(folder, dtype=torch.float32)
    assert denoiser.prediction_type == "v_prediction"
    assert torch.equal(denoiser.alphas_cumprod, task.module.denoiser.alphas_cumprod)

    text = encode_text(load_text_encoders(folder), TEXTS)["text"]
    expected = task.module.text(task._vocabulary.ids(TEXTS)).last_hidden_state
    torch.testing.assert_close(text, expected, **HALF)
    assert (text[1] - text[2]).abs().max() > 0.1

    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([0, 300, 700, 999])
    found = denoiser.predict(latents, timesteps, text=text, pooled_text=None, time_ids=torch.zeros(4, 6))
    torch.testing.assert_close(found, task.module.denoise(latents, timesteps, expected), atol=2e-2, rtol=2e-2)

    pixels = task.training.pixels([0, 1])
    both = load_autoencoder(folder), autoencoder_module.load_autoencoder(drawn.autoencoder)
    one, two = (to_latents(each, pixels)[0] for each in both)
    assert torch.equal(one, two)
    assert torch.equal(to_pictures(both[0], one), to_pictures(both[1], two))


@torch.no_grad()
def test_body_encoder(tasks: dict[str, NetworkTask], unpacked: Path):
    file = read_network(unpacked / "body_encoder" / "body_encoder.safetensors", "body_encoder")
    encoder = BodyIDEncoder(hidden_size=1, **file.sizes)
    encoder.load_state_dict(file.state_dict, strict=False)
    poses = {
        "proportions": torch.zeros(2, 7, 2),
        "seen": torch.zeros(2, 12, dtype=torch.bool),
        "target_pose": torch.rand(2, 12, 3, generator=torch.Generator().manual_seed(0)),
        "hidden_states": None,
    }
    torch.testing.assert_close(encoder(**poses), tasks["base"].module.poses(**poses), atol=2e-2, rtol=2e-2)


@torch.no_grad()
def test_image_encoder(tasks: dict[str, NetworkTask], unpacked: Path):
    task = tasks["image_encoder"]
    pixels = task.training.pixels([0, 7, 12])
    encoder = load_image_encoder(unpacked / "image_encoder")
    found = [encode_image(encoder, picture.movedim(0, -1)[None] / 2 + 0.5) for picture in pixels]
    embeds, tokens = task.module.recogniser.with_tokens(pixels)
    torch.testing.assert_close(torch.cat([each[0] for each in found]), embeds, **HALF)
    torch.testing.assert_close(torch.cat([each[1] for each in found])[:, 1:], tokens.flatten(2).mT, **HALF)


@torch.no_grad()
@pytest.mark.parametrize("name", ["image_text", "metric_image_text"])
def test_pairs(tasks: dict[str, NetworkTask], unpacked: Path, name: str):
    task = tasks[name]
    network = load_image_text(LossSettings(clip=0.1, clip_model=f"local-dir:{unpacked / name}"), device=CPU)
    texts = [task.training.captions[0], task.training.captions[5]]
    found = torch.stack([network.encode_text(text) for text in texts])
    expected = task.module.model.encode_text(task._vocabulary.ids(texts), normalize=True)
    torch.testing.assert_close(functional.normalize(found, dim=-1), expected, **HALF)

    pixels = task.training.pixels([0, 5])
    found = functional.normalize(network.encode_image(pixels), dim=-1)
    torch.testing.assert_close(found, task.module.model.encode_image(pixels, normalize=True), **HALF)


def test_what_is_there_is_replaced_and_pairs_may_be_missing(weights: Path, tmp_path: Path):
    few = tmp_path / "weights"
    few.mkdir()
    for name in ("autoencoder", "base", "image_encoder"):
        (few / f"{name}.safetensors").write_bytes((weights / f"{name}.safetensors").read_bytes())
    old = tmp_path / "models" / "base" / "unet"
    old.mkdir(parents=True)
    (old / "old.txt").write_text("old")
    assert set(unpack(tmp_path / "models", few)) == {"base", "image_encoder", "body_encoder"}
    assert not (old / "old.txt").exists() and (old / "config.json").is_file()


def test_a_missing_or_wrong_file_is_named(weights: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="base.safetensors"):
        unpack(tmp_path / "models", tmp_path)
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for path in weights.iterdir():
        (wrong / path.name).write_bytes(path.read_bytes())
    (wrong / "image_encoder.safetensors").write_bytes((weights / "base.safetensors").read_bytes())
    with pytest.raises(ValueError, match="image_encoder.safetensors is a network of the kind 'base'; expected"):
        unpack(tmp_path / "other", wrong)
    assert not (tmp_path / "other" / "image_encoder").exists()
