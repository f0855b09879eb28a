"""The image-text network of L_clip: loaded without a network, differentiable, and the same as in open_clip."""

from __future__ import annotations

import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image, ImageOps

from bolid.training.config import LossSettings
from bolid.training.image_text import ImageText, image_text_fingerprint, load_image_text

from .conftest import Toy

CPU = torch.device("cpu")
SIZE = 32
WEIGHTS = "open_clip_model.safetensors"


def settings(folder: Path, **values: Any) -> LossSettings:
    return LossSettings(clip=0.05, clip_model=f"local-dir:{folder}", **values)


@pytest.fixture(scope="module")
def network(toy: Toy) -> ImageText:
    return load_image_text(settings(toy.clip), device=CPU)


@pytest.fixture
def clip_folder(toy: Toy, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(toy.clip, tmp_path / "clip"))


def pictures(count: int, height: int = SIZE, width: int = SIZE) -> torch.Tensor:
    """[b, 3, h, w] in -1 to 1, of whole 255ths."""
    generator = torch.Generator().manual_seed(height * width)
    return torch.randint(256, (count, 3, height, width), generator=generator) / 127.5 - 1


def test_a_folder_needs_no_network(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **named: Any) -> None:
        raise AssertionError("the network was asked")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    network = load_image_text(settings(toy.clip), device=CPU)
    assert network.size == SIZE
    assert network.encode_text("a person on a red background").shape == (64,)


def test_embeddings_have_length_one_and_tell_inputs_apart(network: ImageText) -> None:
    texts = torch.stack([network.encode_text(text) for text in ("a person", "a dog", "")])
    embeds = torch.cat((texts, network.encode_image(pictures(3)), network.encode_image(pictures(2, 64, 48))))
    assert embeds.dtype == torch.float32
    torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(8))
    similarities = embeds @ embeds.T - 2 * torch.eye(8)
    assert similarities.max() < 0.999


@pytest.mark.parametrize(("height", "width"), [(SIZE, SIZE), (64, 64), (96, 64), (64, 96)])
def test_gradients_reach_the_pixels_that_are_seen(network: ImageText, height: int, width: int) -> None:
    given = (0.9 * pictures(2, height, width)).requires_grad_()
    text = network.encode_text("a person")
    (gradient,) = torch.autograd.grad((1 - network.encode_image(given) @ text).sum(), given)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    seen = torch.zeros(height, width, dtype=torch.bool)
    seen[top : top + side, left : left + side] = True
    assert gradient.isfinite().all()
    assert (gradient[..., seen] != 0).float().mean() > 0.99
    assert not gradient[..., ~seen].any()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.model.parameters())


def test_a_descent_on_the_pixels_lowers_the_loss(network: ImageText) -> None:
    """The sign of the gradient, through resizing and normalisation."""
    text, given = network.encode_text("a person"), (0.5 * pictures(1, 64, 64)).requires_grad_()
    before = 1 - network.encode_image(given) @ text
    (gradient,) = torch.autograd.grad(before.sum(), given)
    after = 1 - network.encode_image(given - 0.05 * gradient / gradient.abs().max()) @ text
    assert after < before - 1e-3


@torch.no_grad()
def test_a_picture_of_the_models_size_is_seen_as_open_clip_sees_it(
    toy: Toy, network: ImageText, photographs: dict[str, Image.Image], tmp_path: Path
) -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{toy.clip}")
    path = tmp_path / "astronaut.png"
    photographs["astronaut"].resize((SIZE, SIZE)).save(path)
    picture = Image.open(path)
    expected = model.eval().encode_image(preprocess(picture).unsqueeze(0), normalize=True)
    pixels = torch.from_numpy(np.asarray(picture) / np.float32(127.5) - 1).movedim(-1, 0).unsqueeze(0)
    torch.testing.assert_close(network.encode_image(pixels), expected, rtol=0, atol=1e-5)

    texts = ["a person on a grey background", "", "word " * 200]
    tokens = open_clip.get_tokenizer(f"local-dir:{toy.clip}")(texts)
    expected = model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(torch.stack([network.encode_text(text) for text in texts]), expected, rtol=0, atol=1e-5)


class Pixels(torch.nn.Module):
    """In the place of the model: what it is given."""

    def encode_image(self, pixels: torch.Tensor, *, normalize: bool) -> torch.Tensor:
        return pixels


@torch.no_grad()
@pytest.mark.parametrize("name", ["astronaut", "grace_hopper"])
def test_a_larger_photograph_is_resized_as_open_clip_does_it(
    name: str, toy: Toy, network: ImageText, photographs: dict[str, Image.Image]
) -> None:
    """open_clip rounds to whole 255ths on the way; values have a standard deviation of about 1."""
    preprocess = open_clip.create_model_and_transforms(f"local-dir:{toy.clip}")[2]
    square = ImageOps.fit(photographs[name], (512, 512))
    pixels = torch.from_numpy(np.asarray(square) / np.float32(127.5) - 1).movedim(-1, 0)
    found = replace(network, model=Pixels()).encode_image(pixels.unsqueeze(0))[0]
    assert (found - preprocess(square)).abs().mean() < 0.01


# What cannot be used


def test_an_unknown_model() -> None:
    with pytest.raises(ValueError, match=r"loss\.clip_model is 'EVA03-X', which open_clip does not know.*EVA02-L-14"):
        load_image_text(LossSettings(clip=0.05, clip_model="EVA03-X"), device=CPU)


@pytest.mark.parametrize("weights", ["laion3b", "", "missing.safetensors"])
def test_unknown_weights_are_told_before_anything_is_built(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_clip, "create_model", None)
    message = rf"loss\.clip_weights is '{weights}', which is neither a file nor one of the public weights of ViT-B-32"
    with pytest.raises(ValueError, match=message + r" \(.*laion2b_s34b_b79k"):
        load_image_text(LossSettings(clip=0.05, clip_model="ViT-B-32", clip_weights=weights), device=CPU)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(ValueError, match=r"loss\.clip_model is 'local-dir:.*has no open_clip_config\.json"):
            load_image_text(settings(folder), device=CPU)


def test_a_folder_without_weights(clip_folder: Path) -> None:
    """open_clip would give random ones, and a warning."""
    (clip_folder / WEIGHTS).unlink()
    with pytest.raises(ValueError, match=rf"The image-text model local-dir:{clip_folder}.* could not be loaded"):
        load_image_text(settings(clip_folder), device=CPU)


@pytest.mark.parametrize("damage", ["truncated", "other model", "no config"])
def test_a_damaged_folder(clip_folder: Path, damage: str) -> None:
    if damage == "truncated":
        content = (clip_folder / WEIGHTS).read_bytes()
        (clip_folder / WEIGHTS).write_bytes(content[: len(content) // 2])
    else:
        path = clip_folder / "open_clip_config.json"
        config = json.loads(path.read_text())
        if damage == "other model":
            config["model_cfg"]["vision_cfg"]["layers"] = 3
        else:
            del config["model_cfg"]
        path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"The image-text model local-dir:{clip_folder}.* could not be loaded"):
        load_image_text(settings(clip_folder), device=CPU)


def test_weights_beside_a_folder(toy: Toy) -> None:
    """open_clip would leave them out."""
    with pytest.raises(ValueError, match=r"loss\.clip_weights is 'laion2b'.*local-dir:.* has its own"):
        load_image_text(settings(toy.clip, clip_weights="laion2b"), device=CPU)


# Fingerprint


def test_the_fingerprint_changes_with_the_weights(toy: Toy, clip_folder: Path, tmp_path: Path) -> None:
    before = image_text_fingerprint(settings(clip_folder))
    assert before == image_text_fingerprint(settings(toy.clip))
    content = bytearray((clip_folder / WEIGHTS).read_bytes())
    content[-3] ^= 1
    (clip_folder / WEIGHTS).write_bytes(content)
    assert image_text_fingerprint(settings(clip_folder)) != before

    weights = tmp_path / "weights.safetensors"
    prints = []
    for content in (b"one", b"two"):
        weights.write_bytes(content)
        for model in ("ViT-B-32", "ViT-L-14"):
            prints.append(image_text_fingerprint(LossSettings(clip=0.05, clip_model=model, clip_weights=str(weights))))
    prints += [image_text_fingerprint(LossSettings(clip=0.05, clip_weights=tag)) for tag in ("merged2b_s4b_b131k", "")]
    assert len(set(prints)) == len(prints)
    moved = shutil.copy(weights, tmp_path / "moved.safetensors")
    same = LossSettings(clip=0.05, clip_model="ViT-L-14", clip_weights=str(moved))
    assert image_text_fingerprint(same) == prints[3]
