"""Networks that find joints in drawn pictures."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from bolid.models.keypoint_network import (
    PIXELS,
    KeypointNetwork,
    KeypointNetworkLayout,
    Keypoints,
    pixels_to_cells,
    read_keypoint_network,
)
from bolid.models.keypoints import JOINTS
from bolid.training.data import Share
from bolid.training.keypoint_task import TERMS, keypoint_terms
from bolid.world.networks.joints import JointTask, Posed

from .conftest import Config, DrawnWorld

CPU = torch.device("cpu")
ALONE = Share(process=0, processes=1, batch_size=4)


@pytest.fixture
def task(config: Config) -> JointTask:
    return JointTask(config("joints"), device=CPU)


def random_joints(count: int, *, seed: int = 0) -> torch.Tensor:
    joints = torch.rand(count, len(JOINTS), 3, generator=torch.Generator().manual_seed(seed))
    joints[..., 2] = (joints[..., 2] > 0.3).float()
    return joints


def gaussians(positions: torch.Tensor, *, size: int) -> torch.Tensor:
    """[b, 12, size, size] logarithms of Gaussians of one cell around places."""
    centres = (torch.arange(size) + 0.5) / size
    across = (centres - positions[..., :1])[..., None, :].square()
    down = (centres - positions[..., 1:2])[..., :, None].square()
    return ((across + down) * -(size**2) / 2).flatten(-2).log_softmax(dim=-1).view(*positions.shape[:2], size, size)


# Pictures as cells


def test_every_cell_holds_its_pixels():
    pixels = torch.arange(3 * 8 * 12, dtype=torch.float32).view(1, 3, 8, 12)
    cells = pixels_to_cells(pixels)
    assert cells.shape == (1, 48, 2, 3)
    for row in range(2):
        for column in range(3):
            inside = pixels[0, :, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
            assert torch.equal(cells[0, :, row, column], inside.flatten())


def test_batches_hold_pictures_and_their_joints(task: JointTask):
    batch = task.batch_of(task.training, [3, 8], [])
    assert torch.equal(batch.pixels, task.training.pixels([3, 8]))
    assert torch.equal(batch.joints, task.training.joints[[3, 8]])
    assert batch.joints.dtype == torch.float32 and batch.names == task.training.names([3, 8])
    seen = task.training.joints[..., 2]
    assert set(seen.unique().tolist()) == {0, 1} and 0.3 < float(seen.float().mean()) < 0.95


# Loss


def test_terms_by_their_formulas():
    joints, positions = random_joints(3), random_joints(3, seed=1)[..., :2]
    logits = torch.randn(3, 12, generator=torch.Generator().manual_seed(2))
    heatmaps = gaussians(joints[..., :2], size=16)
    terms = keypoint_terms(Keypoints(positions=positions, logits=logits, log_heatmaps=heatmaps), joints)
    assert set(terms) == set(TERMS)
    for row in range(3):
        seen = [number for number in range(12) if joints[row, number, 2]]
        squared = [float((positions[row, number] - joints[row, number, :2]).square().sum()) for number in seen]
        assert float(terms["position"][row]) == pytest.approx(sum(squared) / len(seen), rel=1e-4)
        signs = [1 if number in seen else -1 for number in range(12)]
        costs = [math.log(1 + math.exp(-sign * logit)) for sign, logit in zip(signs, logits[row].tolist(), strict=True)]
        assert float(terms["presence"][row]) == pytest.approx(sum(costs) / 12, rel=1e-4)
    assert terms["heatmap"].abs().max() < 1e-5
    far = gaussians((joints[..., :2] + 0.5) % 1, size=16)
    apart = keypoint_terms(Keypoints(positions=positions, logits=logits, log_heatmaps=far), joints)
    assert apart["heatmap"].tolist() == pytest.approx([math.log(2)] * 3, abs=0.02)


def test_joints_that_are_not_seen_have_no_place():
    joints = random_joints(2)
    joints[0, :, 2] = 0
    found = Keypoints(
        positions=random_joints(2, seed=1)[..., :2],
        logits=torch.full((2, 12), -30.0),
        log_heatmaps=gaussians(random_joints(2, seed=2)[..., :2], size=8),
    )
    terms = keypoint_terms(found, joints)
    assert terms["position"][0] == terms["heatmap"][0] == 0 and float(terms["presence"][0]) < 1e-6
    moved = joints.clone()
    moved[..., :2] = torch.where(joints[..., 2:] == 0, 0.5, joints[..., :2])
    for name, term in keypoint_terms(found, moved).items():
        assert torch.equal(term, terms[name])


def test_step_gives_the_terms_of_what_the_network_finds(task: JointTask):
    batch = task.batch_of(task.training, [0, 1, 2], [])
    with torch.no_grad():
        found = task.module.network(pixels_to_cells(batch.pixels))
        terms = task.module(batch)
    assert found.log_heatmaps.shape == (3, 12, 32, 32)
    for name, expected in keypoint_terms(found, batch.joints).items():
        assert torch.equal(terms[name], expected)


# Measures


def test_measures_by_hand(task: JointTask, monkeypatch: pytest.MonkeyPatch):
    joints = torch.zeros(1, 12, 3)
    joints[..., 2] = 1
    places = {
        "left_shoulder": (0.6, 0.3),
        "right_shoulder": (0.4, 0.3),
        "left_hip": (0.55, 0.7),
        "right_hip": (0.45, 0.7),
    }
    for name, place in places.items():
        joints[0, JOINTS.index(name), :2] = torch.tensor(place)
    hidden = JOINTS.index("left_wrist")
    joints[0, hidden, 2] = 0
    positions = joints[..., :2].clone()
    # The torso is 0.4 long: joints count up to a distance of 0.08.
    positions[0, JOINTS.index("left_shoulder")] += torch.tensor([0.06, 0.0])
    positions[0, JOINTS.index("right_hip")] += torch.tensor([0.06, 0.08])
    positions[0, hidden] += 0.9
    logits = torch.full((1, 12), 5.0)
    logits[0, hidden] = -5.0
    logits[0, JOINTS.index("left_hip")] = -1.0
    found = Keypoints(positions=positions, logits=logits, log_heatmaps=torch.zeros(1, 12, 1, 1))
    monkeypatch.setattr(task.module, "found", lambda batch: found)
    measures = task.measures(Posed(names=("a.png",), pixels=torch.zeros(1, 3, 8, 8), joints=joints))
    assert {name: len(values) for name, values in measures.items()} == {"distance": 11, "pck": 1, "presence_right": 12}
    assert float(measures["distance"].sum()) == pytest.approx(0.06 + 0.1, abs=1e-6)
    # The left hip is where it should be, but the network says that it is not in the picture.
    assert float(measures["pck"]) == pytest.approx(9 / 11)
    assert float(measures["presence_right"].mean()) == pytest.approx(11 / 12)


def test_pictures_without_a_bone_have_no_pck(task: JointTask, monkeypatch: pytest.MonkeyPatch):
    joints = random_joints(3)
    joints[1:, :, 2] = 0
    joints[1, 0, 2] = 1  # one joint is no bone
    found = Keypoints(positions=joints[..., :2], logits=joints[..., 2] * 8 - 4, log_heatmaps=torch.zeros(3, 12, 1, 1))
    monkeypatch.setattr(task.module, "found", lambda batch: found)
    posed = Posed(names=("a", "b", "c"), pixels=torch.zeros(3, 3, 8, 8), joints=joints)
    assert task.measures(posed)["pck"].tolist() == [1]
    none = Posed(names=("c",), pixels=torch.zeros(1, 3, 8, 8), joints=joints[2:])
    found = Keypoints(positions=joints[2:, :, :2], logits=torch.ones(1, 12), log_heatmaps=torch.zeros(1, 12, 1, 1))
    assert task.measures(none)["pck"].tolist() == []


# Files


def test_file_is_a_keypoint_network_for_pictures(task: JointTask, drawn: DrawnWorld, tmp_path: Path):
    path = tmp_path / "network.safetensors"
    task.write_result(path, {"steps": 7})
    file = read_keypoint_network(path)
    assert file.latent_space == PIXELS == "pixels" and file.training == {"steps": 7}
    assert file.network.layout == KeypointNetworkLayout(latent_channels=48, width=16, depth=3)
    assert not file.network.training and not any(weight.requires_grad for weight in file.network.parameters())
    batch = task.batch_of(task.held_out, [1, 2], [])
    with torch.no_grad():
        found, expected = file.network(pixels_to_cells(batch.pixels)), task.module.found(batch)
    torch.testing.assert_close(found.positions, expected.positions, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(found.logits, expected.logits, atol=5e-3, rtol=5e-3)
    with pytest.raises(ValueError, match="autoencoder.safetensors is not a keypoint network"):
        read_keypoint_network(drawn.autoencoder)


def test_sizes_are_those_of_the_config(config: Config):
    task = JointTask(config("joints", joints={"width": 24, "depth": 2}), device=CPU)
    expected = KeypointNetwork(KeypointNetworkLayout(latent_channels=48, width=24, depth=2))
    assert {name: tensor.shape for name, tensor in task.module.network.state_dict().items()} == {
        name: tensor.shape for name, tensor in expected.state_dict().items()
    }


def test_samples_show_where_joints_were_found(task: JointTask):
    task.load_data(ALONE, lambda *progress: None)
    sheet = np.asarray(task.sample_grid(torch.no_grad)).astype(int)
    assert sheet.shape == (16 + 4 * 212, 2 * 196 + 4, 3)
    picture, joints = sheet[20:212, 4:196], sheet[20:212, 200:392]
    red = (joints == (255, 0, 0)).all(axis=-1)
    assert red.sum() > 20 and not (picture == (255, 0, 0)).all(axis=-1).any()
    lime = (joints == (0, 255, 0)).all(axis=-1)
    seen = task.held_out.joints[0]
    rows, columns = np.nonzero(lime)
    for x, y, visible in seen.tolist():
        near = (np.hypot(columns - x * 192, rows - y * 192) < 5).any()
        assert near == bool(visible) or near  # another joint may lie there
