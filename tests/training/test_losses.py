"""The terms of the loss, held against diffusers' scheduler and against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from bolid.models.keypoints import BONES, JOINTS
from bolid.training.losses import (
    MIN_BONE,
    add_noise,
    bone_ratio_error,
    gate,
    joint_error,
    predicted_latents,
    reconstruction_loss,
    shifted,
    training_target,
)

from ..support.bodies import sitting, standing

PREDICTION_TYPES = ("epsilon", "v_prediction")
TIMESTEPS = torch.tensor([0, 1, 250, 500, 777, 999])


def scheduler(prediction_type: str) -> DDPMScheduler:
    """That of Stable Diffusion."""
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type=prediction_type,
    )


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=PREDICTION_TYPES)
def prediction_type(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def latents() -> torch.Tensor:
    return random(len(TIMESTEPS), 4, 3, 5, seed=0)


@pytest.fixture
def noise(latents: torch.Tensor) -> torch.Tensor:
    return random(*latents.shape, seed=1)


# Noise and targets


def test_noise_is_that_of_the_scheduler(latents: torch.Tensor, noise: torch.Tensor):
    reference = scheduler("epsilon")
    noisy = add_noise(latents, noise, reference.alphas_cumprod, TIMESTEPS)
    torch.testing.assert_close(noisy, reference.add_noise(latents, noise, TIMESTEPS))


def test_target_is_that_of_the_scheduler(latents: torch.Tensor, noise: torch.Tensor):
    reference = scheduler("v_prediction")
    target = training_target(latents, noise, reference.alphas_cumprod, TIMESTEPS, prediction_type="v_prediction")
    torch.testing.assert_close(target, reference.get_velocity(latents, noise, TIMESTEPS))
    epsilon = training_target(latents, noise, reference.alphas_cumprod, TIMESTEPS, prediction_type="epsilon")
    assert torch.equal(epsilon, noise)


def test_predicted_latents_are_those_of_the_scheduler(latents: torch.Tensor, noise: torch.Tensor, prediction_type: str):
    reference = scheduler(prediction_type)
    prediction = random(*latents.shape, seed=2)
    noisy = add_noise(latents, noise, reference.alphas_cumprod, TIMESTEPS)
    found = predicted_latents(prediction, noisy, reference.alphas_cumprod, TIMESTEPS, prediction_type=prediction_type)
    for row, timestep in enumerate(TIMESTEPS):
        step = reference.step(prediction[row], int(timestep), noisy[row])
        torch.testing.assert_close(found[row], step.pred_original_sample, rtol=1e-4, atol=1e-4)


def test_a_perfect_prediction_gives_the_latents_back(latents: torch.Tensor, noise: torch.Tensor, prediction_type: str):
    alphas_cumprod = scheduler(prediction_type).alphas_cumprod.double()
    latents, noise = latents.double(), noise.double()
    noisy = add_noise(latents, noise, alphas_cumprod, TIMESTEPS)
    target = training_target(latents, noise, alphas_cumprod, TIMESTEPS, prediction_type=prediction_type)
    found = predicted_latents(target, noisy, alphas_cumprod, TIMESTEPS, prediction_type=prediction_type)
    torch.testing.assert_close(found, latents)
    assert not torch.allclose(predicted_latents(
        target + 0.1, noisy, alphas_cumprod, TIMESTEPS, prediction_type=prediction_type
    ), latents, atol=1e-3)  # fmt: skip


# Reconstruction


def test_reconstruction_is_the_mean_squared_error_per_sample(prediction_type: str):
    target = random(3, 2, 2, 2, seed=0)
    prediction = target + torch.tensor([0.0, 1.0, -3.0]).view(3, 1, 1, 1)
    alphas_cumprod = scheduler(prediction_type).alphas_cumprod
    loss = reconstruction_loss(
        prediction, target, alphas_cumprod, torch.tensor([5, 500, 900]), prediction_type=prediction_type
    )
    torch.testing.assert_close(loss, torch.tensor([0.0, 1.0, 9.0]))


def test_cells_count_as_their_weights_say(prediction_type: str):
    target = random(2, 3, 2, 2, seed=0)
    errors = torch.tensor([[[1.0, 2.0], [0.0, 3.0]], [[0.0, 1.0], [1.0, 1.0]]])
    cell_weights = torch.tensor([[[4.0, 1.0], [1.0, 2.0]], [[5.0, 1.0], [1.0, 1.0]]])
    found = reconstruction_loss(
        target + errors.unsqueeze(1),
        target,
        scheduler(prediction_type).alphas_cumprod,
        torch.tensor([5, 900]),
        prediction_type=prediction_type,
        cell_weights=cell_weights,
    )
    torch.testing.assert_close(found, torch.tensor([(4 * 1 + 1 * 4 + 2 * 9) / 8, 3 / 8]))


@pytest.mark.parametrize(("shift", "middle"), [(1.0, 500), (3.0, 750), (0.5, 333)])
def test_timesteps_shift_by_hand(shift: float, middle: int):
    """Half of the way becomes s / (1 + s) of it."""
    timesteps = torch.arange(1000)
    found = shifted(timesteps, shift, number=1000)
    assert abs(int(found[500]) - middle) <= 1
    assert found.min() >= 0 and found.max() <= 999 and (found.diff() >= 0).all()
    assert torch.equal(found, timesteps) == (shift == 1)


def weights(alphas_cumprod: torch.Tensor, timesteps: torch.Tensor, prediction_type: str, gamma: float) -> torch.Tensor:
    """Of an error of 1."""
    zeros = torch.zeros(len(timesteps), 1, 2, 2)
    return reconstruction_loss(
        zeros + 1, zeros, alphas_cumprod, timesteps, prediction_type=prediction_type, min_snr_gamma=gamma
    )


def test_min_snr_by_hand():
    """ᾱ = 0.2, 0.5, 0.9: SNR 1/4, 1, 9; γ = 5."""
    alphas_cumprod, timesteps = torch.tensor([0.9, 0.5, 0.2]), torch.tensor([2, 1, 0])
    found = weights(alphas_cumprod, timesteps, "epsilon", 5.0)
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, 5 / 9]))
    found = weights(alphas_cumprod, timesteps, "v_prediction", 5.0)
    torch.testing.assert_close(found, torch.tensor([0.25 / 1.25, 1 / 2, 5 / 10]))


@pytest.mark.parametrize("gamma", [1.0, 5.0, 1e6])
def test_min_snr_is_that_of_diffusers(prediction_type: str, gamma: float):
    """As in diffusers' train_text_to_image.py."""
    reference = scheduler(prediction_type)
    timesteps = torch.arange(0, 1000, 37)
    snr = compute_snr(reference, timesteps)
    capped = torch.stack([snr, gamma * torch.ones_like(timesteps)], dim=1).min(dim=1)[0]
    expected = capped / snr if prediction_type == "epsilon" else capped / (snr + 1)
    torch.testing.assert_close(weights(reference.alphas_cumprod, timesteps, prediction_type, gamma), expected)


def test_min_snr_without_any_signal():
    """Bases with v-prediction may end at ᾱ = 0."""
    found = weights(torch.tensor([0.5, 0.0]), torch.tensor([1]), "v_prediction", 5.0)
    assert torch.equal(found, torch.zeros(1))


def test_gate():
    alphas_cumprod = torch.tensor([0.9, 0.7, 0.5, 0.1])
    found = gate(alphas_cumprod, torch.tensor([3, 0, 2, 1]), min_alpha_bar=0.5)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.9, 0.0, 0.7]))
    assert torch.equal(gate(alphas_cumprod, torch.arange(4), min_alpha_bar=0.0), alphas_cumprod)
    assert not gate(alphas_cumprod, torch.arange(4), min_alpha_bar=1.0).any()


def test_gate_of_stable_diffusion():
    """ᾱ_t > 1/2 is t < 354."""
    weight = gate(scheduler("epsilon").alphas_cumprod, torch.arange(1000), min_alpha_bar=0.5)
    assert weight.nonzero().flatten().tolist() == list(range(weight.count_nonzero()))
    assert abs(int(weight.count_nonzero()) - 354) <= 1


# Joints


def test_joint_error_by_hand():
    joints = torch.zeros(3, len(JOINTS), 3)
    joints[0, 2] = torch.tensor([0.5, 0.25, 1.0])
    joints[0, 7] = torch.tensor([0.1, 0.9, 0.5])
    joints[1, 0] = torch.tensor([0.4, 0.4, 0.9])
    positions = torch.full((3, len(JOINTS), 2), 0.4)
    expected = ((0.1**2 + 0.15**2) + (0.3**2 + 0.5**2)) / 2
    torch.testing.assert_close(joint_error(positions, joints), torch.tensor([expected, 0.0, 0.0]))


def people() -> torch.Tensor:
    """[2, 12, 3]"""
    return torch.stack((standing(), sitting()))


def lengthened(joints: torch.Tensor, factor: float) -> torch.Tensor:
    """Positions [b, 12, 2] with a left forearm that is `factor` times as long."""
    positions = joints[..., :2].clone()
    elbow, wrist = JOINTS.index("left_elbow"), JOINTS.index("left_wrist")
    positions[:, wrist] = positions[:, elbow] + factor * (positions[:, wrist] - positions[:, elbow])
    return positions


def test_bone_ratio_error_of_the_same_person():
    joints = people()
    assert bone_ratio_error(joints[..., :2], joints, aspect=1.0).tolist() == [0.0, 0.0]
    shifted = joints[..., :2] + torch.tensor([0.2, -0.1])
    assert bone_ratio_error(shifted, joints, aspect=1.0).max() < 1e-10


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.3])
def test_bone_ratio_error_does_not_see_the_size(scale: float):
    """But for bones of a few hundredths of the picture, whose length is uncertain: somebody who stands has none."""
    joints = standing().unsqueeze(0)
    scaled = 0.3 + scale * joints[..., :2]
    other_bone = bone_ratio_error(lengthened(joints, 1.3), joints, aspect=1.0)
    assert (bone_ratio_error(scaled, joints, aspect=1.0) < 0.05 * other_bone).all()
    both = bone_ratio_error(0.3 + scale * lengthened(joints, 1.3), joints, aspect=1.0)
    torch.testing.assert_close(both, other_bone, rtol=0.2, atol=0.0)


def test_bone_ratio_error_grows_with_one_longer_bone():
    joints = people()
    errors = torch.stack(
        [bone_ratio_error(lengthened(joints, factor), joints, aspect=1.0) for factor in (1.0, 1.1, 1.3, 1.6, 2.5)]
    )
    assert (errors.diff(dim=0) > 0).all()
    shorter = torch.stack(
        [bone_ratio_error(lengthened(joints, factor), joints, aspect=1.0) for factor in (1.0, 0.8, 0.5)]
    )
    assert (shorter.diff(dim=0) > 0).all()


def test_bone_ratio_error_by_hand():
    """Two bones that are seen: the forearm doubles, the upper arm stays, so log 2 differs by half of it from the mean.

    Lengths are √(l² + MIN_BONE²).
    """
    joints = torch.zeros(1, len(JOINTS), 3)
    for name, place in {"left_shoulder": 0.1, "left_elbow": 0.3, "left_wrist": 0.5}.items():
        joints[0, JOINTS.index(name)] = torch.tensor([0.5, place, 1.0])
    difference = math.log(math.hypot(0.4, MIN_BONE) / math.hypot(0.2, MIN_BONE))
    found = bone_ratio_error(lengthened(joints, 2.0), joints, aspect=1.0)
    assert found.tolist() == pytest.approx([(difference / 2) ** 2], rel=1e-4)


def turned(points: torch.Tensor, aspect: float) -> torch.Tensor:
    """A quarter turn, in a picture of this aspect, about its middle."""
    x, y = (points[..., 0] - 0.5) * aspect, points[..., 1] - 0.5
    return torch.stack((-y / aspect + 0.5, x + 0.5), dim=-1)


@pytest.mark.parametrize("aspect", [0.5, 1.0, 1.5])
def test_bone_ratio_error_in_pictures_that_are_not_square(aspect: float):
    """Who lies down has the same bones, measured in pixels."""
    joints = people()
    positions = turned(joints[..., :2], aspect)
    assert bone_ratio_error(positions, joints, aspect=aspect).max() < 1e-8
    if aspect != 1.0:
        assert bone_ratio_error(positions, joints, aspect=1.0).min() > 1e-3


def test_bones_that_are_not_seen_do_not_count():
    joints = people()
    positions = lengthened(joints, 3.0)
    joints[:, JOINTS.index("left_wrist")] = 0.0
    assert bone_ratio_error(positions, joints, aspect=1.0).max() < 1e-10


@pytest.mark.parametrize("seen", [(), ("left_knee",), ("left_knee", "left_ankle"), ("left_elbow", "right_ankle")])
def test_fewer_than_two_bones(seen: tuple[str, ...]):
    joints = people()
    hidden = [number for number, name in enumerate(JOINTS) if name not in seen]
    joints[:, hidden] = 0.0
    positions = random(2, len(JOINTS), 2, seed=0)
    assert torch.equal(bone_ratio_error(positions, joints, aspect=0.7), torch.zeros(2))


@pytest.mark.parametrize("seen", [True, False])
def test_gradients_are_finite(seen: bool):
    """Also where all joints are found in one place."""
    joints = people() if seen else torch.zeros(2, len(JOINTS), 3)
    positions = torch.full((2, len(JOINTS), 2), 0.5)
    positions[1] = joints[1, :, :2]
    positions.requires_grad_(True)
    (bone_ratio_error(positions, joints, aspect=0.7) + joint_error(positions, joints)).sum().backward()
    assert positions.grad.isfinite().all()
    assert positions.grad[0].any() == seen


def test_gradient_shortens_a_bone_that_is_too_long():
    joints = people()
    positions = lengthened(joints, 1.5).requires_grad_(True)
    bone_ratio_error(positions, joints, aspect=1.0).sum().backward()
    elbow, wrist = JOINTS.index("left_elbow"), JOINTS.index("left_wrist")
    along = (positions.detach()[:, wrist] - positions.detach()[:, elbow]) * positions.grad[:, wrist]
    assert (along.sum(dim=1) > 0).all()
    assert sum(len(pairs) for pairs in BONES.values()) == 12  # each pair of joints counts once
