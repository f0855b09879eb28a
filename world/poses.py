"""How people stand, walk, sit and wave: twelve joints in space, and where the head looks.

The body's own frame: x to the person's left, y down, z to the front; the middle of the hips is the origin. Seen from
far away, and turned by at most 52°; each bone keeps at least `MIN_FORESHORTENING` of its length in the picture.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from ..models.keypoints import BONES, JOINTS
from .draws import Draws

Action = Literal[
    "standing", "waving", "walking", "running", "sitting", "jumping", "cheering", "hands on hips", "pointing",
    "dancing", "thinking", "balloon",
]  # fmt: skip
ACTIONS: tuple[Action, ...] = get_args(Action)

MIN_FORESHORTENING = 0.6
NECK = 0.22
"""From the middle of the shoulders to the chin, in torsos of the average adult."""
HALF_HEAD = 0.43
"""Half of an average head's height, in the same unit: larger than life, so that faces are seen in small pictures."""

Vector = np.ndarray
"""[3]"""


@dataclass(frozen=True, kw_only=True)
class Pose:
    """One person in one pose, seen from the camera: x to the right of the picture, y down, z towards the camera.

    Attributes:
        joints: [12, 3] in torsos of the average adult, in the order of `models.keypoints.JOINTS`.
        toes: [2, 3] directions in which the feet point, left and right.
        head_yaw, head_pitch, head_roll: radians; a positive yaw looks to the right of the picture, a positive pitch
            down, a positive roll tips the head clockwise.
        raised: how far the feet are above the ground.
        seated: whether there has to be something under the hips.
        hands: sides of the hands that do what the action is called, 0 left, 1 right.
    """

    joints: np.ndarray
    toes: np.ndarray
    head_yaw: float
    head_pitch: float
    head_roll: float
    raised: float = 0.0
    seated: bool = False
    hands: tuple[int, ...] = ()


@dataclass
class _Plan:
    """A pose in the body's frame: directions of the bones, or where a hand has to be. Left before right."""

    yaw: float
    arms: list[tuple[Vector, Vector] | Vector]
    thighs: list[Vector]
    shins: list[Vector]
    lean: float = 0.0
    roll: float = 0.0
    elbows: list[Vector] = field(default_factory=lambda: [_vector(0.5, 0.4, -1), _vector(-0.5, 0.4, -1)])
    raised: float = 0.0
    seated: bool = False
    hands: tuple[int, ...] = ()


def pose(action: Action, bones: Sequence[float], draws: Draws) -> Pose:
    """A natural pose.

    Args:
        bones: [7] lengths, as `Identity.bones` has them.
    """
    lengths = dict(zip(BONES, bones, strict=True))
    plan = _plan(action, lengths, draws)
    joints = _joints(plan, lengths)
    turn = _about_y(plan.yaw)
    toes = [
        turn @ _unit(_vector(side * draws.uniform(0.1, 0.35), 0, 1) if plan.raised == 0 else shin + _vector(0, 0, 0.7))
        for side, shin in zip((1, -1), plan.shins, strict=True)
    ]
    return Pose(
        joints=_foreshortened(joints @ turn.T, lengths),
        toes=np.stack(toes),
        head_yaw=min(max(0.75 * plan.yaw + draws.normal(0, 0.2), -0.6), 0.6),
        head_pitch=draws.normal(0, 0.08),
        head_roll=0.6 * plan.roll + draws.normal(0, 0.06),
        raised=plan.raised,
        seated=plan.seated,
        hands=plan.hands,
    )


def _plan(action: Action, lengths: dict[str, float], draws: Draws) -> _Plan:
    side = draws.integer(0, 1)
    plan = _Plan(
        yaw=draws.normal(0, 0.22),
        arms=[_hanging(hand, draws) for hand in (0, 1)],
        thighs=[],
        shins=[],
        lean=draws.normal(0, 0.03),
        roll=draws.normal(0, 0.03),
    )
    plan.thighs, plan.shins = _standing_legs(draws)
    match action:
        case "standing":
            if draws.chance(0.3):
                plan.arms[side] = _on_hip(side, lengths, draws)
        case "waving":
            plan.hands = (side,)
            lifted = _limb(side, draws.uniform(145, 185), draws.uniform(0, 15))
            plan.arms[side] = (_limb(side, draws.uniform(60, 105), draws.uniform(0, 20)), lifted)
            if draws.chance(0.35):
                plan.arms[1 - side] = _on_hip(1 - side, lengths, draws)
        case "cheering":
            plan.hands = (0, 1)
            for hand in (0, 1):
                upper = draws.uniform(115, 155)
                plan.arms[hand] = (_limb(hand, upper, draws.uniform(0, 15)), _limb(hand, draws.uniform(150, 176), 8))
        case "hands on hips":
            plan.hands = (0, 1)
            plan.arms = [_on_hip(hand, lengths, draws) for hand in (0, 1)]
            plan.thighs = [_limb(hand, draws.uniform(6, 14), 0) for hand in (0, 1)]
            plan.shins = [_limb(hand, draws.uniform(3, 9), -3) for hand in (0, 1)]
        case "pointing":
            plan.hands = (side,)
            out, forward = draws.uniform(72, 112), draws.uniform(0, 25)
            bend = draws.uniform(-6, 10)
            plan.arms[side] = (_limb(side, out, forward), _limb(side, out + bend, forward))
            if draws.chance(0.4):
                plan.arms[1 - side] = _on_hip(1 - side, lengths, draws)
        case "thinking":
            plan.hands = (side,)
            plan.arms[side] = _vector(_sign(side) * 0.1, -lengths["torso"] - NECK + 0.13, 0.36)
            plan.elbows[side] = _vector(_sign(side) * 0.25, 1, 0.3)
            if draws.chance(0.6):
                plan.arms[1 - side] = _vector(_sign(side) * 0.06, -0.42 * lengths["torso"], 0.3)
                plan.elbows[1 - side] = _vector(-_sign(side), 0.8, 0.1)
        case "balloon":
            plan.hands = (side,)
            upper, forearm = draws.uniform(15, 45), draws.uniform(110, 150)
            plan.arms[side] = (_limb(side, upper, draws.uniform(5, 25)), _limb(side, forearm, draws.uniform(0, 25)))
        case "dancing":
            _dance(plan, side, draws)
        case "walking" | "running":
            _stride(plan, side, draws, running=action == "running")
        case "sitting":
            _sit(plan, lengths, draws)
        case "jumping":
            plan.raised = draws.uniform(0.25, 0.5)
            for hand in (0, 1):
                upper = draws.uniform(105, 150)
                plan.arms[hand] = (_limb(hand, upper, draws.uniform(0, 15)), _limb(hand, upper + 18, 10))
                out = draws.uniform(12, 34)
                plan.thighs[hand] = _limb(hand, out, draws.uniform(5, 30))
                plan.shins[hand] = _limb(hand, out - draws.uniform(5, 20), -draws.uniform(20, 48))
    return plan


def _standing_legs(draws: Draws) -> tuple[list[Vector], list[Vector]]:
    thighs = [_limb(leg, draws.uniform(2, 9), draws.uniform(-3, 5)) for leg in (0, 1)]
    shins = [_limb(leg, draws.uniform(0, 6), draws.uniform(-7, 0)) for leg in (0, 1)]
    if draws.chance(0.3):
        relaxed = draws.integer(0, 1)
        thighs[relaxed] = _limb(relaxed, draws.uniform(10, 18), draws.uniform(8, 16))
        shins[relaxed] = _limb(relaxed, draws.uniform(2, 10), -draws.uniform(4, 12))
    return thighs, shins


def _hanging(hand: int, draws: Draws) -> tuple[Vector, Vector]:
    out, forward = draws.uniform(8, 22), draws.uniform(-8, 10)
    return _limb(hand, out, forward), _limb(hand, out - draws.uniform(0, 12), forward + draws.uniform(6, 26))


def _on_hip(hand: int, lengths: dict[str, float], draws: Draws) -> Vector:
    return _vector(_sign(hand) * (lengths["hip_width"] / 2 + 0.16), -draws.uniform(0.2, 0.28), 0.04)


def _stride(plan: _Plan, side: int, draws: Draws, *, running: bool) -> None:
    plan.yaw = draws.side() * draws.uniform(0.5, 0.85)
    front, back = side, 1 - side
    if running:
        plan.lean = draws.uniform(0.1, 0.2)
        thighs, knees = (draws.uniform(40, 58), -draws.uniform(16, 28)), (draws.uniform(50, 80), draws.uniform(45, 70))
        arms, elbow = draws.uniform(28, 42), draws.uniform(70, 95)
        plan.raised = draws.uniform(0, 0.12)
    else:
        plan.lean = draws.uniform(0, 0.06)
        thighs, knees = (draws.uniform(18, 28), -draws.uniform(14, 24)), (draws.uniform(5, 14), draws.uniform(14, 32))
        arms, elbow = draws.uniform(18, 32), draws.uniform(12, 30)
    for leg, forward, knee in zip((front, back), thighs, knees, strict=True):
        plan.thighs[leg] = _limb(leg, 3, forward)
        plan.shins[leg] = _limb(leg, 1, forward - knee)
    for hand, forward in ((front, -arms), (back, arms)):
        plan.arms[hand] = (_limb(hand, 9, forward), _limb(hand, 2, forward + elbow))


def _sit(plan: _Plan, lengths: dict[str, float], draws: Draws) -> None:
    plan.yaw = draws.side() * draws.uniform(0.5, 0.82)
    plan.lean, plan.seated = draws.uniform(-0.06, 0.1), True
    for leg in (0, 1):
        out, forward = draws.uniform(4, 13), draws.uniform(74, 86)
        plan.thighs[leg] = _limb(leg, out, forward)
        plan.shins[leg] = _limb(leg, draws.uniform(0, 5), draws.uniform(-16, 12))
        hand = _vector(_sign(leg) * lengths["hip_width"] / 2, 0, 0) + plan.thighs[leg] * 0.62 * lengths["thigh"]
        plan.arms[leg] = hand - _vector(0, 0.2, 0)


def _dance(plan: _Plan, side: int, draws: Draws) -> None:
    plan.roll = _sign(side) * draws.uniform(0.06, 0.16)
    plan.yaw = draws.normal(0, 0.3)
    up, out = draws.uniform(120, 150), draws.uniform(60, 95)
    plan.arms[side] = (_limb(side, up, 5), _limb(side, up + draws.uniform(25, 60), 10))
    plan.arms[1 - side] = (_limb(1 - side, out, 5), _limb(1 - side, out + draws.uniform(-55, 40), 15))
    plan.thighs[side] = _limb(side, draws.uniform(22, 36), draws.uniform(12, 26))
    plan.shins[side] = _limb(side, draws.uniform(-14, 8), -draws.uniform(10, 30))
    plan.thighs[1 - side] = _limb(1 - side, draws.uniform(4, 12), 2)
    plan.shins[1 - side] = _limb(1 - side, draws.uniform(2, 8), -3)


def _joints(plan: _Plan, lengths: dict[str, float]) -> np.ndarray:
    """[12, 3] in the body's frame."""
    shoulder, hip = lengths["shoulder_width"] / 2, lengths["hip_width"] / 2
    rise = math.sqrt(lengths["torso"] ** 2 - (shoulder - hip) ** 2)
    tilt = _about_z(plan.roll) @ _about_x(plan.lean)
    found: dict[str, Vector] = {}
    for number, (side, sign) in enumerate((("left", 1), ("right", -1))):
        found[f"{side}_hip"] = _about_z(plan.roll) @ _vector(sign * hip, 0, 0)
        start = tilt @ _vector(sign * shoulder, -rise, 0)
        found[f"{side}_shoulder"] = start
        arm = plan.arms[number]
        if isinstance(arm, tuple):
            upper, forearm = (_unit(direction) for direction in arm)
            found[f"{side}_elbow"] = start + lengths["upper_arm"] * upper
            found[f"{side}_wrist"] = found[f"{side}_elbow"] + lengths["forearm"] * forearm
        else:
            found[f"{side}_elbow"], found[f"{side}_wrist"] = _reach(
                start, arm, lengths["upper_arm"], lengths["forearm"], plan.elbows[number]
            )
        found[f"{side}_knee"] = found[f"{side}_hip"] + lengths["thigh"] * _unit(plan.thighs[number])
        found[f"{side}_ankle"] = found[f"{side}_knee"] + lengths["shin"] * _unit(plan.shins[number])
    return np.stack([found[joint] for joint in JOINTS])


def _reach(start: Vector, target: Vector, upper: float, lower: float, elbow: Vector) -> tuple[Vector, Vector]:
    """Elbow and wrist of an arm that reaches for something, as far as it can; the elbow goes where it is told."""
    way = target - start
    far = min(max(float(np.linalg.norm(way)), abs(upper - lower) + 0.02), 0.995 * (upper + lower))
    along = _unit(way)
    across = _unit(elbow - along * float(elbow @ along))
    cosine = (upper**2 + far**2 - lower**2) / (2 * upper * far)
    bent = start + upper * (along * cosine + across * math.sqrt(max(1 - cosine**2, 0)))
    return bent, start + along * far


def _foreshortened(joints: np.ndarray, lengths: dict[str, float]) -> np.ndarray:
    """The same pose with no limb that points at the camera, which a flat drawing cannot show."""
    joints = joints.copy()
    limit = math.sqrt(1 - MIN_FORESHORTENING**2)
    for chain in (("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle")):
        for side in ("left", "right"):
            numbers = [JOINTS.index(f"{side}_{name}") for name in chain]
            pairs = list(itertools.pairwise(numbers))
            directions = [_unit(joints[end] - joints[start]) for start, end in pairs]
            bones = ("upper_arm", "forearm") if chain[0] == "shoulder" else ("thigh", "shin")
            for (start, end), direction, bone in zip(pairs, directions, bones, strict=True):
                if abs(direction[2]) > limit:
                    flat = direction[:2] if np.linalg.norm(direction[:2]) > 0.05 else np.array([0.0, 1.0])
                    flat = MIN_FORESHORTENING * flat / np.linalg.norm(flat)
                    direction = np.array([*flat, math.copysign(limit, direction[2])])
                joints[end] = joints[start] + lengths[bone] * direction
    return joints


def _limb(side: int, out: float, forward: float) -> Vector:
    """Direction of a limb, in degrees: 0, 0 hangs, 90 out is level to the side, 180 points up."""
    aside, ahead = math.radians(out), math.radians(forward)
    down = math.cos(aside)
    return _vector(_sign(side) * math.sin(aside), down * math.cos(ahead), abs(down) * math.sin(ahead))


def _sign(side: int) -> int:
    """Of x on this side of the body; 0 is left."""
    return 1 - 2 * side


def _vector(x: float, y: float, z: float) -> Vector:
    return np.array([x, y, z], dtype=np.float64)


def _unit(vector: Vector) -> Vector:
    return vector / np.linalg.norm(vector)


def _about_x(angle: float) -> np.ndarray:
    """[3, 3] for columns; a positive angle leans to the front."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[1, 0, 0], [0, cosine, sine], [0, -sine, cosine]])


def _about_y(angle: float) -> np.ndarray:
    """[3, 3] for columns; a positive angle turns the front to the right of the picture."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])


def _about_z(angle: float) -> np.ndarray:
    """[3, 3] for columns; clockwise in the picture."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
