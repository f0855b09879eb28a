"""The keypoint network: places and gradients, any grid, what it learns, and its file."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from bolid.models.checkpoint import read_metadata
from bolid.models.keypoint_network import (
    FORMAT,
    KeypointNetwork,
    KeypointNetworkLayout,
    heatmap_divergence,
    read_keypoint_network,
    soft_argmax,
    write_keypoint_network,
)
from bolid.models.keypoints import JOINTS

from ..support.adapter_files import adapter_state_dict

CHANNELS = 4
SMALL = {"latent_channels": CHANNELS, "width": 16, "depth": 3}


def network_of(**changes: int) -> KeypointNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return KeypointNetwork(KeypointNetworkLayout(**{**SMALL, **changes}))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def log_delta(height: int, width: int, *, row: int, column: int) -> torch.Tensor:
    """A heatmap that is certain."""
    logits = torch.zeros(height, width)
    logits[row, column] = 1000.0
    return logits.flatten().log_softmax(dim=-1).view(height, width)


# Places


@pytest.mark.parametrize(("row", "column"), [(0, 0), (5, 0), (0, 7), (2, 3), (5, 7)])
def test_a_certain_heatmap_gives_the_centre_of_its_cell(row, column):
    x, y = soft_argmax(log_delta(6, 8, row=row, column=column)).tolist()
    assert x == pytest.approx((column + 0.5) / 8, abs=1e-6)
    assert y == pytest.approx((row + 0.5) / 6, abs=1e-6)


def test_places_are_expectations():
    one, other = log_delta(6, 8, row=1, column=2), log_delta(6, 8, row=5, column=2)
    mixed = torch.logaddexp(one + math.log(0.75), other + math.log(0.25))
    torch.testing.assert_close(soft_argmax(mixed), torch.tensor([2.5 / 8, (0.75 * 1.5 + 0.25 * 5.5) / 6]))
    even = torch.full((3, 12, 6, 8), -math.log(48))
    torch.testing.assert_close(soft_argmax(even), torch.full((3, 12, 2), 0.5))


# The network


@pytest.mark.parametrize("grid", [(8, 8), (8, 12), (9, 7), (5, 13), (1, 3), (16, 16), (64, 48)], ids=str)
@pytest.mark.parametrize("sizes", [{}, {"depth": 5}, {"depth": 1, "width": 8}, {"upscale": 1}, {"upscale": 3}], ids=str)
def test_any_grid(grid, sizes):
    network = network_of(**sizes)
    found = network(random(2, CHANNELS, *grid))
    rows, columns = (cells * network.layout.upscale for cells in grid)
    assert found.log_heatmaps.shape == (2, len(JOINTS), rows, columns)
    assert found.positions.shape == (2, len(JOINTS), 2)
    assert found.logits.shape == (2, len(JOINTS))
    torch.testing.assert_close(found.log_heatmaps.exp().sum(dim=(-2, -1)), torch.ones(2, len(JOINTS)))
    torch.testing.assert_close(found.positions, soft_argmax(found.log_heatmaps))
    assert found.positions.min() > 0 and found.positions.max() < 1 and found.logits.isfinite().all()


def test_every_joint_has_maps_of_its_own():
    found = network_of()(random(1, CHANNELS, 8, 8))
    assert len(found.positions[0].unique(dim=0)) == len(found.logits[0].unique()) == len(JOINTS)


def test_a_sample_does_not_depend_on_the_others():
    network, latents = network_of().train(), random(3, CHANNELS, 8, 12)
    together, alone = network(latents), network(latents[1:2])
    others = network(torch.cat((100 * latents[:1], latents[1:2])))
    for name in ("positions", "logits", "log_heatmaps"):
        torch.testing.assert_close(getattr(together, name)[1:2], getattr(alone, name), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(getattr(others, name)[1:2], getattr(alone, name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("grid", [(8, 8), (9, 13)], ids=str)
def test_gradients_reach_the_latents(grid):
    network = network_of().requires_grad_(False)
    latents = random(2, CHANNELS, *grid).requires_grad_()
    for joint in range(len(JOINTS)):
        (gradient,) = torch.autograd.grad(network(latents).positions[0, joint].sum(), latents)
        assert gradient.isfinite().all() and gradient[0].abs().max() > 1e-6
        assert not gradient[1].any()


def test_gradients_are_those_of_differences():
    network = network_of().double().requires_grad_(False)
    latents, direction = random(1, CHANNELS, 8, 8).double().requires_grad_(), random(1, CHANNELS, 8, 8, seed=1).double()

    def loss(at: torch.Tensor) -> torch.Tensor:
        return (network(at).positions * torch.arange(24).view(1, 12, 2)).sum()

    (gradient,) = torch.autograd.grad(loss(latents), latents, create_graph=True)
    slope = (gradient * direction).sum()
    step = 1e-2  # the heatmaps are float32
    with torch.no_grad():
        difference = (loss(latents + step * direction) - loss(latents - step * direction)) / (2 * step)
    assert slope.item() == pytest.approx(difference.item(), rel=1e-2, abs=1e-3)
    (second,) = torch.autograd.grad(slope, latents)
    with torch.no_grad():
        ahead = latents + step * direction
    (changed,) = torch.autograd.grad(loss(ahead.requires_grad_()), ahead)
    tolerance = 0.03 * step * second.abs().max().item()
    torch.testing.assert_close(changed - gradient, step * second, rtol=0.1, atol=tolerance)


def test_the_latents_are_left_alone():
    latents = random(1, CHANNELS, 8, 8)
    network_of()(latents)
    assert torch.equal(latents, random(1, CHANNELS, 8, 8))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("where", ["latents", "network", "autocast"])
def test_half_precision(where, dtype):
    network, latents = network_of(), random(2, CHANNELS, 8, 8)
    expected = network(latents)
    if where == "network":
        network.to(dtype)
    with torch.autocast("cpu", dtype, enabled=where == "autocast"):
        found = network(latents.to(dtype))
    for name in ("positions", "logits", "log_heatmaps"):
        assert getattr(found, name).dtype == torch.float32
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=0.1)
    torch.testing.assert_close(found.log_heatmaps.exp().sum(dim=(-2, -1)), torch.ones(2, len(JOINTS)))
    torch.testing.assert_close(found.positions, soft_argmax(found.log_heatmaps))


@pytest.mark.parametrize("shape", [(1, 16, 8, 8), (CHANNELS, 8, 8), (1, 1, CHANNELS, 8, 8)], ids=str)
def test_latents_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"reads \[b, 4, h, w\]: it was trained for another VAE") as caught:
        network_of()(torch.zeros(shape))
    assert str(list(shape)) in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [{"latent_channels": 0}, {"width": 0}, {"width": 12}, {"width": -8}, {"depth": 0}, {"depth": 9}, {"upscale": 0}],
    ids=str,
)
def test_sizes_that_cannot_be(change):
    with pytest.raises(ValueError, match="cannot be built"):
        KeypointNetworkLayout(**{**SMALL, **change})


# The shape of the heatmaps


def log_gaussian(height: int, width: int, *, x: float, y: float, sigma: float) -> torch.Tensor:
    """[1, 1, H, W] as a loop, x and y in 0 to 1, sigma in cells."""
    density = torch.zeros(1, 1, height, width, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            squared = (column + 0.5 - x * width) ** 2 + (row + 0.5 - y * height) ** 2
            density[0, 0, row, column] = math.exp(-squared / (2 * sigma**2))
    return (density / density.sum()).log().float()


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_the_divergence_of_a_gaussian_from_itself_is_zero(sigma):
    heatmap = log_gaussian(6, 9, x=0.3, y=0.6, sigma=sigma)
    found = heatmap_divergence(heatmap, torch.tensor([[[0.3, 0.6]]]), sigma=sigma)
    assert found.shape == (1, 1) and abs(found.item()) < 1e-6
    assert heatmap_divergence(heatmap, torch.tensor([[[0.6, 0.3]]]), sigma=sigma) > 0.1


def test_the_divergence_is_that_of_the_definition():
    one = random(1, 1, 30).log_softmax(dim=-1).view(1, 1, 5, 6)
    other = log_gaussian(5, 6, x=0.2, y=0.9, sigma=1.0)
    mean = (one.exp() + other.exp()) / 2
    expected = sum((p.exp() * (p - mean.log())).sum() for p in (one, other)) / 2
    torch.testing.assert_close(heatmap_divergence(one, torch.tensor([[[0.2, 0.9]]])), expected.view(1, 1))


def test_the_divergence_of_what_has_nothing_in_common_is_log_2_and_finite():
    heatmaps = log_delta(64, 64, row=0, column=0).expand(1, 2, 64, 64).clone().requires_grad_()
    found = heatmap_divergence(heatmaps, torch.tensor([[[1.0, 1.0], [-50.0, 90.0]]]))
    torch.testing.assert_close(found, torch.full((1, 2), math.log(2)))
    found.sum().backward()
    assert heatmaps.grad.isfinite().all()


def test_the_divergence_is_computed_in_float32():
    heatmaps, positions = random(2, 12, 64).log_softmax(dim=-1).view(2, 12, 8, 8), torch.rand(2, 12, 2).half()
    found = heatmap_divergence(heatmaps.half(), positions)
    assert found.shape == (2, 12) and found.dtype == torch.float32
    torch.testing.assert_close(found, heatmap_divergence(heatmaps, positions), rtol=1e-2, atol=1e-3)


# Learning


def blobs(count: int, *, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents [b, 12, 16, 16] with noise and a blob per joint in its own channel, where joints are, which are there."""
    generator = torch.Generator().manual_seed(seed)
    positions = torch.rand(count, len(JOINTS), 2, generator=generator)
    present = torch.rand(count, len(JOINTS), generator=generator) < 0.8
    cells = torch.arange(16) + 0.5
    columns, rows = (torch.exp(-(cells - 16 * centre.unsqueeze(-1)).square() / 2) for centre in positions.unbind(-1))
    blob = 2 * rows.unsqueeze(-1) * columns.unsqueeze(-2) * present[..., None, None]
    return blob + 0.3 * torch.randn(blob.shape, generator=generator), positions, present


def test_it_learns_where_joints_are_and_whether():
    network = network_of(latent_channels=len(JOINTS), depth=2)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for step in range(150):
        latents, positions, present = blobs(8, seed=1000 + step)
        found = network(latents)
        squared = (found.positions - positions).square().sum(dim=-1)
        loss = ((squared + heatmap_divergence(found.log_heatmaps, positions)) * present).sum() / present.sum()
        loss = loss + 0.1 * functional.binary_cross_entropy_with_logits(found.logits, present.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    latents, positions, present = blobs(64, seed=0)
    with torch.no_grad():
        found = network(latents)
    errors = (found.positions - positions).norm(dim=-1)[present]
    in_the_middle = (0.5 - positions).norm(dim=-1)[present].mean()
    assert errors.mean() < 0.08 and in_the_middle > 0.35
    assert errors.median() < 0.5 / 16, "half a latent cell"
    assert ((found.logits > 0) == present).float().mean() > 0.9


# Its file


def write(path: Path, network: KeypointNetwork | None = None, **changes: Any) -> Path:
    write_keypoint_network(path, network or network_of(), **{"latent_space": "sd15-vae", **changes})
    return path


@pytest.fixture
def path(tmp_path) -> Path:
    return write(tmp_path / "keypoints.safetensors")


def rewritten(path: Path, *, tensors: dict[str, torch.Tensor] | None = None, **metadata: str | None) -> Path:
    """The file with other tensors or metadata; None removes an entry ("format" is `bolid.keypoints.format`)."""
    changed = read_metadata(path) | {f"bolid.keypoints.{name}": value for name, value in metadata.items()}
    tensors = {name: tensor.clone() for name, tensor in (load_file(path) if tensors is None else tensors).items()}
    save_file(tensors, path, metadata={name: value for name, value in changed.items() if value is not None})
    return path


def with_layout(path: Path, **changes: Any) -> Path:
    config = json.loads(read_metadata(path)["bolid.keypoints.config"])
    config["layout"].update(changes)
    return rewritten(path, config=json.dumps(config))


def refused(path: Path, expected: str) -> str:
    with pytest.raises(ValueError) as caught:
        read_keypoint_network(path)
    message = str(caught.value)
    assert message.startswith(path.name) and str(path.parent) not in message
    assert len(message) < 900 and "\n" not in message
    assert expected in message
    return message


@pytest.mark.parametrize("sizes", [{}, {"depth": 1, "width": 8, "upscale": 1}, {"latent_channels": 16}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_written_is_read(sizes, dtype, tmp_path):
    network = network_of(**sizes).to(dtype)
    path = write(tmp_path / "keypoints.safetensors", network, training={"steps": 7, "people": [1, 2]})
    assert network.training and all(parameter.requires_grad for parameter in network.parameters())
    file = read_keypoint_network(str(path))
    assert (file.latent_space, file.training) == ("sd15-vae", {"steps": 7, "people": [1, 2]})
    assert file.network.layout == network.layout
    assert not file.network.training
    assert not any(parameter.requires_grad for parameter in file.network.parameters())
    halves = {name: tensor.half() for name, tensor in network.state_dict().items()}
    stored, after = load_file(path), file.network.state_dict()
    assert set(halves) == set(stored) == set(after)
    for name, half in halves.items():
        assert stored[name].dtype == torch.float16 and torch.equal(stored[name], half)
        assert after[name].dtype == torch.float32 and torch.equal(after[name], half.float())


def test_a_network_that_was_read_passes_gradients_on(path):
    latents = random(1, CHANNELS, 8, 8).requires_grad_()
    read_keypoint_network(path).network(latents).positions.sum().backward()
    assert latents.grad.any()


def test_the_metadata_is_this_and_nothing_else(path):
    metadata = read_metadata(path)
    config = json.loads(metadata.pop("bolid.keypoints.config"))
    assert metadata == {
        "bolid.keypoints.format": "1",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "bolid-keypoint-network",
        "modelspec.implementation": "bolid",
        "modelspec.title": "BoLID keypoint network",
    }
    assert config == {"latent_space": "sd15-vae", "layout": {**SMALL, "upscale": 2}, "training": {}}
    assert FORMAT == 1


def test_a_file_is_replaced_or_stays_as_it_was(path, monkeypatch):
    content = path.read_bytes()

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", interrupted)
        write(path, network_of(width=8))
    assert path.read_bytes() == content and list(path.parent.iterdir()) == [path]
    write(path, network_of(width=8))
    assert read_keypoint_network(path).network.layout.width == 8 and list(path.parent.iterdir()) == [path]


def test_another_ending(path, tmp_path):
    with pytest.raises(ValueError, match=r"own\.bin must end in \.safetensors"):
        write(tmp_path / "own.bin")
    torch.save(load_file(path), tmp_path / "own.bin")
    refused(tmp_path / "own.bin", "these are .safetensors files")


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.99])
def test_a_file_that_is_cut_off(keep, path):
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    refused(path, "is not a readable safetensors file")


def test_a_file_that_is_something_else(path):
    path.write_text("<html>not found</html>" * 100)
    refused(path, "is not a readable safetensors file")


def test_an_adapter(path):
    sizes = {"layers": [(1, 32)], "cross_attention_dim": 64, "image_encoder_width": 32, "resampler_width": 64}
    tensors = adapter_state_dict("base", **sizes, face_embeds_width=24, lora_rank=4, seed=2)
    save_file(tensors, path)
    refused(path, "is not a keypoint network: it is an adapter")
    save_file({"aggregator.x": torch.zeros(1)}, path, metadata={"bolid.format": "1"})
    refused(path, "is not a keypoint network: it is an adapter")


def test_other_tensors(path):
    save_file({"vision_model.x": torch.zeros(1)}, path)
    assert 'method = "keypoints"' in refused(path, "its tensors are named vision_model.x …")
    save_file({}, path)
    refused(path, "its tensors are named nothing at all …")


def test_a_file_without_its_description(path):
    refused(rewritten(path, format=None, config=None), "its description of itself is missing")


@pytest.mark.parametrize("version", ["2", "10"])
def test_a_newer_format(version, path):
    damaged = rewritten(path, format=version, config="<xml/>", tensors={"a": torch.zeros(1)})
    refused(damaged, f"newer version of BoLID (keypoint network format {version};")


def test_a_format_that_is_no_version(path):
    refused(rewritten(path, format="1.0"), "has the keypoint network format '1.0', which is no version number")


@pytest.mark.parametrize("config", [None, "{", "[]", "{}"])
def test_a_description_that_is_missing_or_damaged(config, path):
    refused(rewritten(path, config=config), "is a BoLID keypoint network, but its description of itself is damaged (")


@pytest.mark.parametrize(
    "change",
    [
        {"width": "16"},
        {"width": 16.5},
        {"width": True},
        {"width": 12},
        {"width": 8 * 2**70},
        {"latent_channels": 2**70},
        {"depth": None},
        {"depth": 99},
        {"dropout": 1},
    ],
    ids=str,
)
def test_a_description_of_impossible_sizes(change, path):
    refused(with_layout(path, **change), "its description of itself is damaged (layout")


@pytest.mark.parametrize("change", [{"width": 8}, {"depth": 2}, {"depth": 4}, {"upscale": 1}, {"latent_channels": 16}])
def test_a_description_of_another_network(change, path):
    refused(with_layout(path, **change), "describes a keypoint network that its tensors do not fit: ")


def test_missing_misshapen_and_unexpected_tensors(path):
    whole = load_file(path)
    name = "up.0.conv1.weight"
    without = {key: tensor for key, tensor in whole.items() if key != name}
    refused(rewritten(path, tensors=without), f'tensors do not fit: Missing key(s) in state_dict: "{name}"')
    refused(rewritten(path, tensors=whole | {name: whole[name][:-1]}), f"size mismatch for {name}")
    refused(rewritten(path, tensors=whole | {"up.9.x": torch.zeros(2)}), "up.9.x")
    refused(rewritten(path, tensors=whole | {name: whole[name].int()}), name)
    read_keypoint_network(rewritten(path, tensors=whole))
