"""People drawn as skeletons: poses that no photograph at hand shows, with bone lengths that are known.

A skeleton of twelve joints stands in space, x to the right of the picture, y down, z towards the viewer, and is seen
from far away. Nothing here imports the package under test; a test holds the orders against the package's own.
"""

from __future__ import annotations

import math

import torch

BONES = ("shoulder_width", "hip_width", "torso", "upper_arm", "forearm", "thigh", "shin")
LENGTHS = torch.tensor([0.75, 0.5, 1.0, 0.6, 0.5, 0.85, 0.85])
"""An adult's, as fractions of the torso, in the order of `BONES`."""

HIPS_AND_LEGS = slice(6, 12)
"""Joints come in pairs, left and right: shoulders, elbows, wrists, hips, knees, ankles."""

DOWN, FORWARD = (0.0, 1.0, 0.0), (0.0, 0.2, 1.0)


def drawn_lengths(generator: torch.Generator, *, spread: float = 0.1) -> torch.Tensor:
    """Bone lengths [7] of somebody: each is off the average by exp(N(0, spread))."""
    return LENGTHS * (spread * torch.randn(7, generator=generator)).exp()


def random_view(
    lengths: torch.Tensor, generator: torch.Generator, *, noise: float = 0.01, sitting: float = 0.25
) -> torch.Tensor:
    """Keypoints [12, 3] of a photo, 0 to 1 of a square picture, of a person of these bone lengths in a random pose.

    Args:
        lengths: [7] in the order of `BONES`.
        noise: standard deviation of the detector's error, as a fraction of the person's size in the picture.
        sitting: how often the thighs point at the camera; every arm is stretched towards it in one of ten photos.
    """

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    # Limbs hang, more or less: arms swing further than legs.
    limbs = torch.tensor(DOWN).repeat(8, 1)
    limbs[:, [0, 2]] += normal(8, 2) * torch.tensor([[0.8]] * 4 + [[0.5]] * 4)
    for arm in (0, 1):
        if uniform(0, 1) < 0.1:
            limbs[arm] = torch.tensor(FORWARD)
    if uniform(0, 1) < sitting:
        limbs[4:6] = torch.tensor(FORWARD) + 0.1 * normal(2, 3)
    joints = _skeleton(lengths, limbs)
    turn = _turn(yaw=uniform(-0.3, 0.3) * math.pi, pitch=0.2 * float(normal()), roll=0.1 * float(normal()))
    points = (joints @ turn)[:, :2]
    size = (points.amax(dim=0) - points.amin(dim=0)).norm()
    points = points + noise * size * normal(12, 2)
    points = (points - points.amin(dim=0)) * (uniform(0.3, 0.8) / size)
    points = points + (1 - points.amax(dim=0)) * torch.tensor([uniform(0, 1), uniform(0, 1)])
    return torch.cat((points, torch.full((12, 1), 0.9)), dim=-1)


def cut_at_the_hips(keypoints: torch.Tensor) -> torch.Tensor:
    """The same photo as a portrait: of hips and legs there is only a guess of the detector's, of low visibility."""
    keypoints = keypoints.clone()
    keypoints[HIPS_AND_LEGS, 1] = 0.98
    keypoints[HIPS_AND_LEGS, 2] = 0.1
    return keypoints


def mirrored(keypoints: torch.Tensor) -> torch.Tensor:
    """Keypoints [..., 12, 3] of the mirrored picture: what was left is right."""
    swapped = keypoints.unflatten(-2, (6, 2)).flip(-2).flatten(-3, -2)
    return torch.cat((1 - swapped[..., :1], swapped[..., 1:]), dim=-1)


def standing() -> torch.Tensor:
    """[12, 3]: the whole person from the front, arms a little away from the body."""
    arms, legs = [(0.3, 1.0, 0.0), (-0.3, 1.0, 0.0)], [(0.08, 1.0, 0.0), (-0.08, 1.0, 0.0)]
    return _picture(_skeleton(LENGTHS, torch.tensor([*arms, *arms, *legs, *legs])))


def back_view() -> torch.Tensor:
    """[12, 3]: the same person from behind; the person's left is on the left of the picture."""
    keypoints = standing()
    keypoints[:, 0] = 1 - keypoints[:, 0]
    return keypoints


def sitting() -> torch.Tensor:
    """[12, 3]: on a chair and from the front: the thighs point at the camera, the hands lie on the knees."""
    upper_arms, forearms = [(0.2, 1.0, 0.1), (-0.2, 1.0, 0.1)], [(-0.1, 0.4, 1.0), (0.1, 0.4, 1.0)]
    thighs, shins = [(0.1, 0.2, 1.0), (-0.1, 0.2, 1.0)], [DOWN, DOWN]
    return _picture(_skeleton(LENGTHS, torch.tensor([*upper_arms, *forearms, *thighs, *shins])))


def upper_body() -> torch.Tensor:
    """[12, 3]: a portrait of the standing person that ends above the hips; elbows and shoulders are seen."""
    keypoints = standing()
    keypoints[:, :2] = (keypoints[:, :2] - keypoints[:2, :2].mean(dim=0)) * 2 + torch.tensor([0.5, 0.5])
    keypoints[4:6, 2] = 0.2
    keypoints = cut_at_the_hips(keypoints)
    keypoints[:, :2] = keypoints[:, :2].clamp(0, 1)
    return keypoints


def _skeleton(lengths: torch.Tensor, limbs: torch.Tensor) -> torch.Tensor:
    """[12, 3] joints in space, the middle of the shoulders at the origin, facing the viewer.

    Args:
        limbs: [8, 3] directions: upper arms, forearms, thighs, shins, the left one first.
    """
    shoulder_width, hip_width, torso, *limb_lengths = lengths.tolist()
    side = torch.tensor([[0.5, 0.0, 0.0], [-0.5, 0.0, 0.0]])
    waist = math.sqrt(max(torso**2 - (shoulder_width - hip_width) ** 2 / 4, 0.01))
    shoulders = shoulder_width * side
    hips = hip_width * side + torch.tensor([0.0, waist, 0.0])
    limbs = torch.nn.functional.normalize(limbs, dim=-1).view(4, 2, 3) * torch.tensor(limb_lengths).view(4, 1, 1)
    elbows, knees = shoulders + limbs[0], hips + limbs[2]
    return torch.cat((shoulders, elbows, elbows + limbs[1], hips, knees, knees + limbs[3]))


def _turn(*, yaw: float, pitch: float, roll: float) -> torch.Tensor:
    """[3, 3] for points in rows."""
    angles = torch.tensor([yaw, pitch, roll], dtype=torch.float64)
    (cy, cp, cr), (sy, sp, sr) = angles.cos().tolist(), angles.sin().tolist()
    about_y = torch.tensor([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    about_x = torch.tensor([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    about_z = torch.tensor([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


def _picture(joints: torch.Tensor) -> torch.Tensor:
    """[12, 3] joints in space → keypoints of a square picture that the person fills from 10 to 90 % of its height."""
    points = joints[:, :2]
    height = points[:, 1].amax() - points[:, 1].amin()
    points = points * (0.8 / height) + torch.tensor([0.5, 0.1])
    return torch.cat((points, torch.full((12, 1), 0.95)), dim=-1)
