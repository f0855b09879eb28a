"""Faces and hair. In a head's own frame the face goes from -1 (crown) to 1 (chin), x to the right of the picture."""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence
from dataclasses import dataclass

import skia

from . import parts
from .colours import EYES, WHITE, Colour, darker, lighter, luminance, mixed
from .identities import HairShape
from .poses import HALF_HEAD, NECK
from .scenes import Scene
from .shapes import Brush, circle, ellipse, rectangle, smooth

EYE_HEIGHT = 0.06

ABOVE: dict[HairShape, float] = {"quiff": 0.45, "afro": 0.62, "bun": 0.75, "curls": 0.3}
BESIDE: dict[HairShape, float] = {"afro": 0.7, "pigtails": 0.7, "curls": 0.25, "bob": 0.2, "waves": 0.3}


@dataclass(frozen=True, kw_only=True)
class Head:
    """Where a head is.

    Attributes:
        centre, half: of the face, and half of its height, in torsos of the average adult.
        yaw, pitch, roll: radians, see `poses.Pose`.
        width: half of the face's width, in halves of its height.
        shape: of the hair.
    """

    centre: complex
    half: float
    yaw: float
    pitch: float
    roll: float
    width: float
    shape: HairShape

    def point(self, x: float, y: float) -> complex:
        """From the head's own frame into the body's."""
        return self.centre + self.half * complex(x, y) * cmath.rect(1, self.roll)

    def on_face(self, angle: float, y: float) -> complex:
        """A point of the face's surface, in the head's frame: so far from its middle, to the right of the picture."""
        return complex(0.93 * self.width * math.sin(angle + self.yaw), y + 0.55 * math.sin(self.pitch) * math.cos(y))

    def keypoints(self, eye_spacing: float) -> dict[str, complex]:
        """Nose, eyes and ears, in the body's frame. The person's left is to the right of the picture."""
        found = {
            "nose": self.nose(),
            "left_eye": self.on_face(eye_spacing, EYE_HEIGHT),
            "right_eye": self.on_face(-eye_spacing, EYE_HEIGHT),
            "left_ear": self.ear(1),
            "right_ear": self.ear(-1),
        }
        return {name: self.point(place.real, place.imag) for name, place in found.items()}

    def nose(self) -> complex:
        """Its tip, in the head's frame: it stands out."""
        return self.on_face(0, 0.38) + 0.09 * math.sin(self.yaw)

    def ear(self, side: int) -> complex:
        """In the head's frame; 1 is to the right of the picture."""
        return complex(side * self.width * (1.02 * math.cos(self.yaw)) - 0.12 * math.sin(self.yaw), 0.14)

    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of head and hair without what hangs down."""
        beside = self.half * (self.width + 0.18 + BESIDE.get(self.shape, 0))
        above = self.half * (1.14 + ABOVE.get(self.shape, 0))
        return (
            self.centre.real - beside,
            self.centre.imag - above,
            self.centre.real + beside,
            self.centre.imag + self.half,
        )


def place_head(scene: Scene, neck: complex) -> Head:
    pose, identity = scene.pose, scene.identity
    half = HALF_HEAD * identity.head
    tilt = cmath.rect(1, pose.head_roll)
    return Head(
        centre=neck + (0.06 * math.sin(pose.head_yaw) - 1j * (NECK + half)) * tilt,
        half=half,
        yaw=pose.head_yaw,
        pitch=pose.head_pitch,
        roll=pose.head_roll,
        width=identity.face.width,
        shape=identity.hair_shape,
    )


def draw_head(brush: Brush, scene: Scene, head: Head) -> None:
    """Ears, face and the hair in front."""
    identity = scene.identity
    with brush.at(head.centre, scale=head.half, angle=head.roll):
        # A face that is turned shows one ear on its side, and hides the other.
        near = 0 if abs(head.yaw) < 0.2 else (-1 if head.yaw > 0 else 1)
        for side in (-1, 1):
            if side != near:
                _draw_ear(brush, scene, head, side)
        _draw_face(brush, scene, head)
        if near:
            _draw_ear(brush, scene, head, near)
        if identity.beard != "none":
            _draw_beard(brush, scene, head)
        _draw_mouth(brush, scene, head)
        _draw_nose(brush, scene, head)
        for side in (-1, 1):
            _draw_eye(brush, scene, head, side)
        if identity.hair_shape != "bald":
            _draw_front_hair(brush, scene, head)
        if identity.face.glasses != "none":
            _draw_glasses(brush, scene, head)


# The face


def face_path(scene: Scene, head: Head) -> skia.Path:
    face, w, turn = scene.identity.face, head.width, 0.16 * math.sin(head.yaw)
    right = [
        complex(0.6 * w, -0.88),
        complex(0.96 * w, -0.4),
        complex(face.cheek * w, 0.1),
        complex(face.jaw * w + 0.5 * turn, 0.6),
        complex(face.chin * w + turn, 0.93),
    ]
    left = [
        complex(-point.real + (turn if number == 3 else 2 * turn if number == 4 else 0), point.imag)
        for number, point in enumerate(right)
    ]
    return smooth([-1j, *right, complex(turn, 1.0), *reversed(left)])


def _draw_face(brush: Brush, scene: Scene, head: Head) -> None:
    skin = scene.identity.skin
    path = face_path(scene, head)
    brush.part(path, colour=skin, label=parts.FACE, owner=parts.HEAD, depth=0.75)
    if not brush.shaded:
        return
    with brush.inside(path):
        blush = mixed(skin, (214, 70, 70), 0.55)
        for side in (-1, 1):
            cheek = head.on_face(0.75 * side, 0.42)
            brush.glow(cheek, 0.27, blush, 0.42, core=0.1)
        brush.glow(head.on_face(0, -0.45) + 0.2 * brush.light, 0.5, lighter(skin, 0.6), 0.25)
        if scene.identity.face.freckles:
            for side in (-1, 1):
                for x, y in ((0.42, 0.3), (0.56, 0.36), (0.5, 0.44), (0.68, 0.3), (0.36, 0.4), (0.64, 0.44)):
                    brush.fill(circle(head.on_face(x * side, y), 0.022), mixed(skin, (130, 66, 30), 0.6), 0.8)


def _draw_ear(brush: Brush, scene: Scene, head: Head, side: int) -> None:
    size, skin = scene.identity.face.ears, scene.identity.skin
    owner = parts.LEFT_EAR if side == 1 else parts.RIGHT_EAR
    centre = head.ear(side)
    hidden = side * head.yaw > 0.2
    if hidden:
        return
    path = ellipse(centre, 0.13 * size, 0.21 * size, 0.12 * side)
    brush.part(path, colour=darker(skin, 0.05), label=parts.FACE, owner=owner)
    brush.fill(ellipse(centre + 0.01 * side, 0.06 * size, 0.12 * size, 0.12 * side), darker(skin, 0.3), 0.55)


def _draw_eye(brush: Brush, scene: Scene, head: Head, side: int) -> None:
    face = scene.identity.face
    angle = side * face.eye_spacing
    centre = head.on_face(angle, EYE_HEIGHT)
    narrow = max(math.cos(angle + head.yaw), 0.35) ** 0.8
    across, down = 0.185 * face.eye_size * narrow, 0.155 * face.eye_size
    tilt = -side * face.eye_tilt
    skin, ink = scene.identity.skin, mixed(darker(scene.identity.skin, 0.7), (20, 14, 20), 0.6)
    shape = ellipse(centre, across, down, tilt)
    brush.fill(shape, (252, 251, 248))
    with brush.inside(shape):
        iris = centre + 0.05 * math.sin(head.yaw) + 0.02j
        radius = 0.118 * face.eye_size
        brush.fill(ellipse(iris, radius * narrow, radius), EYES[face.eye_colour])
        brush.fill(ellipse(iris, 0.054 * face.eye_size * narrow, 0.054 * face.eye_size), (18, 14, 20))
        brush.fill(circle(iris + complex(-0.035, -0.045) * face.eye_size, 0.03 * face.eye_size), WHITE)
    turn = cmath.rect(1, tilt)
    lid = [
        centre + turn * complex(x * across, y * down)
        for x, y in ((-1.08, 0.15), (-0.6, -0.8), (0, -1.06), (0.6, -0.8), (1.08, 0.15))
    ]
    brush.line(smooth(lid, closed=False), ink, 0.052)
    lower = [centre + turn * complex(x * across, y * down) for x, y in ((-0.8, 0.65), (0, 1.02), (0.8, 0.65))]
    brush.line(smooth(lower, closed=False), darker(skin, 0.45), 0.02, 0.5)
    _draw_brow(brush, scene, head, side, narrow)


def _draw_brow(brush: Brush, scene: Scene, head: Head, side: int, narrow: float) -> None:
    face, identity = scene.identity.face, scene.identity
    colour = darker(identity.hair, 0.35) if identity.hair_shape != "bald" else darker(identity.hair, 0.2)
    if abs(luminance(colour) - luminance(identity.skin)) < 40:
        colour = darker(colour, 0.5)
    middle = head.on_face(side * (face.eye_spacing + 0.02), EYE_HEIGHT - face.brow_height)
    turn = cmath.rect(1, side * face.brow_tilt)
    half = 0.2 * narrow
    points = [middle + turn * complex(x * half, y) for x, y in ((-1, 0.03), (0, -0.045), (1, 0.03))]
    brush.line(smooth(points, closed=False), colour, face.brow_thickness)


def _draw_nose(brush: Brush, scene: Scene, head: Head) -> None:
    face, skin = scene.identity.face, scene.identity.skin
    tip = head.nose()
    width = face.nose_width
    shade = darker(mixed(skin, (190, 70, 60), 0.15), 0.42)
    start = head.on_face(0, 0.4 - face.nose_length)
    lean = -1 if head.yaw > 0 or (abs(head.yaw) < 0.05 and brush.light.real > 0) else 1
    if brush.shaded:
        brush.fill(ellipse(tip - 0.02j, width, 0.75 * width), mixed(skin, (206, 84, 74), 0.14), 0.7)
        bridge = smooth([start - lean * 0.05, (start + tip) / 2 - lean * 0.03, tip - lean * width * 0.7], closed=False)
        brush.line(bridge, shade, 0.028, 0.35)
        brush.glow(tip - 0.05j + 0.03 * brush.light, 0.09, WHITE, 0.45)
    under = [
        tip + complex(-width, -0.01),
        tip + complex(-0.5 * width, 0.075),
        tip + complex(0.5 * width, 0.075),
        tip + complex(width, -0.01),
    ]
    brush.line(smooth(under, closed=False), shade, 0.036, 0.85)


def _draw_mouth(brush: Brush, scene: Scene, head: Head) -> None:
    face, skin = scene.identity.face, scene.identity.skin
    middle = head.on_face(0, 0.66)
    middle -= 0.24 * middle.real
    half = face.mouth_width * (0.9 + 0.15 * scene.smile) * max(math.cos(1.2 * head.yaw), 0.5)
    lift = 0.05 + 0.1 * scene.smile
    lip = mixed(skin, (186, 40, 56), 0.3 + 0.35 * face.lips)
    line = darker(lip, 0.45)
    corners = middle + complex(-half, -0.5 * lift), middle + complex(half, -0.5 * lift)
    if scene.mouth_open:
        drop = 0.1 + 0.16 * scene.mouth_open
        shape = smooth(
            [
                corners[0],
                middle + complex(-0.5 * half, -0.02),
                middle + complex(0.5 * half, -0.02),
                corners[1],
                middle + complex(0.6 * half, 0.7 * drop),
                middle + complex(0, drop),
                middle + complex(-0.6 * half, 0.7 * drop),
            ]
        )
        brush.fill(shape, (118, 30, 42))
        with brush.inside(shape):
            brush.fill(
                rectangle(middle.real - half, middle.imag - 0.1, middle.real + half, middle.imag + 0.055),
                (250, 248, 244),
            )
            brush.fill(ellipse(middle + complex(0, drop), 0.5 * half, 0.09), (214, 92, 96))
        brush.line(shape, lip, 0.03 + 0.03 * face.lips)
        return
    curve = [
        corners[0],
        middle + complex(-0.5 * half, 0.3 * lift),
        middle + complex(0, 0.55 * lift),
        middle + complex(0.5 * half, 0.3 * lift),
        corners[1],
    ]
    under = [
        corners[0] * 0.85 + middle * 0.15,
        middle + complex(0, 0.55 * lift + 0.1 * face.lips + 0.03),
        corners[1] * 0.85 + middle * 0.15,
    ]
    brush.fill(smooth([*curve, under[1]]), lip, 0.85)
    brush.line(smooth(curve, closed=False), line, 0.042)


def _draw_beard(brush: Brush, scene: Scene, head: Head) -> None:
    identity, w, turn = scene.identity, head.width, 0.16 * math.sin(head.yaw)
    colour = darker(identity.hair, 0.12)
    if abs(luminance(colour) - luminance(identity.skin)) < 30:
        colour = darker(colour, 0.3)
    middle = head.on_face(0, 0.52)
    jaw, chin = identity.face.jaw * w, identity.face.chin * w

    def moustache() -> skia.Path:
        half = 0.9 * identity.face.mouth_width
        return smooth(
            [
                middle + complex(-half - 0.05, 0.09),
                middle + complex(-0.4 * half, -0.05),
                middle + 0.01j,
                middle + complex(0.4 * half, -0.05),
                middle + complex(half + 0.05, 0.09),
                middle + complex(0.4 * half, 0.1),
                middle + 0.07j,
                middle + complex(-0.4 * half, 0.1),
            ]
        )

    def around_the_jaw(high: float) -> skia.Path:
        inner = middle + 0.02j
        outer = [
            complex(-1.0 * w, 0.08 + high),
            complex(-jaw - 0.03, 0.62),
            complex(-chin - 0.06 + turn, 1.0),
            complex(turn, 1.13),
            complex(chin + 0.06 + turn, 1.0),
            complex(jaw + 0.03 + 0.5 * turn, 0.62),
            complex(1.0 * w, 0.08 + high),
        ]
        inside = [
            complex(0.86 * w, 0.3 + high),
            complex(0.55 * w + inner.real * 0.6, 0.46),
            complex(inner.real + 0.02, 0.47),
            complex(-0.55 * w + inner.real * 0.6, 0.46),
            complex(-0.86 * w, 0.3 + high),
        ]
        return smooth([*outer, *inside])

    match identity.beard:
        case "stubble":
            with brush.inside(face_path(scene, head)):
                brush.fill(around_the_jaw(0.06), colour, 0.38)
        case "moustache":
            brush.part(moustache(), colour=colour, label=parts.HAIR, owner=parts.HEAD, outline=False)
        case "goatee":
            chin_middle = complex(turn, 0.98)
            path = smooth(
                [
                    chin_middle + complex(-0.2, -0.1),
                    chin_middle - 0.12j,
                    chin_middle + complex(0.2, -0.1),
                    chin_middle + complex(0.15, 0.14),
                    chin_middle + 0.22j,
                    chin_middle + complex(-0.15, 0.14),
                ]
            )
            brush.part(moustache(), path, colour=colour, label=parts.HAIR, owner=parts.HEAD, outline=False)
        case "full":
            brush.part(
                around_the_jaw(0.0), moustache(), colour=colour, label=parts.HAIR, owner=parts.HEAD, outline=False
            )


def _draw_glasses(brush: Brush, scene: Scene, head: Head) -> None:
    face = scene.identity.face
    colour = face.glasses_colour
    centres = []
    for side in (-1, 1):
        angle = side * face.eye_spacing
        centre = head.on_face(angle, EYE_HEIGHT + 0.02)
        narrow = max(math.cos(angle + head.yaw), 0.4)
        half = 0.29 * narrow
        if face.glasses == "round":
            path = ellipse(centre, half, 0.28)
        else:
            path = rectangle(centre.real - half, centre.imag - 0.22, centre.real + half, centre.imag + 0.22, 0.07)
        brush.fill(path, (222, 236, 248), 0.22)
        brush.line(path, colour, 0.055)
        centres.append((centre, half))
    (left, left_half), (right, right_half) = centres
    brush.line(
        smooth([left + left_half - 0.03j, (left + right) / 2 - 0.06j, right - right_half - 0.03j], closed=False),
        colour,
        0.05,
    )
    for (centre, half), side in zip(centres, (-1, 1), strict=True):
        edge = head.ear(side) - 0.1j
        if side * head.yaw < 0.2:
            brush.line(smooth([centre + side * half - 0.04j, edge], closed=False), colour, 0.045)


# Hair


def draw_back_hair(brush: Brush, scene: Scene, head: Head) -> None:
    """What hangs behind the face: over the shoulders, below neck and face."""
    shape, colour, w = head.shape, darker(scene.identity.hair, 0.16), head.width
    turn = -0.16 * math.sin(head.yaw)
    with brush.at(head.centre, scale=head.half, angle=head.roll):
        paths: list[skia.Path] = []
        match shape:
            case "bob":
                paths = [_mane(w + 0.2, 0.82, turn, [0.06, 0.0])]
            case "long":
                paths = [_mane(w + 0.14, 2.05, turn, [0.02, 0.0])]
            case "waves":
                paths = [_mane(w + 0.16, 1.75, turn, [0.2, -0.02])]
            case "afro":
                paths = [
                    circle(complex(turn, -0.28), 1.22),
                    *_bumps(complex(turn, -0.28), 1.13, 0.3, 12, -math.pi, math.pi),
                ]
            case "curls":
                paths = _bumps(complex(0.5 * turn, -0.3), w + 0.02, 0.27, 11, -math.pi * 1.12, 0.12 * math.pi)
            case "ponytail":
                side = scene.identity.hair_side if abs(head.yaw) < 0.2 else (-1 if head.yaw > 0 else 1)
                tail = [
                    complex(side * 0.3, -0.95),
                    complex(side * (w + 0.25), -0.8),
                    complex(side * (w + 0.46), -0.1),
                    complex(side * (w + 0.3), 0.85),
                    complex(side * (w + 0.12), 1.15),
                    complex(side * (w + 0.06), 0.3),
                    complex(side * w * 0.7, -0.5),
                ]
                paths = [smooth(tail)]
            case "pigtails":
                for side in (-1, 1):
                    tail = [
                        complex(side * w * 0.8, -0.35),
                        complex(side * (w + 0.34), -0.5),
                        complex(side * (w + 0.55), 0.1),
                        complex(side * (w + 0.38), 0.9),
                        complex(side * (w + 0.2), 1.1),
                        complex(side * (w + 0.12), 0.4),
                        complex(side * (w - 0.05), 0.0),
                    ]
                    paths.append(smooth(tail))
            case "bun":
                paths = [circle(complex(turn, -1.22), 0.42)]
        if paths:
            brush.part(*paths, colour=colour, label=parts.HAIR, owner=parts.HAIR_OWNER)
        if shape in ("long", "waves", "bob"):
            end = {"long": 1.8, "waves": 1.5, "bob": 0.65}[shape]
            for x in (-1, 1):
                strand = smooth(
                    [complex(x * (w + 0.02), 0.2), complex(x * (w + 0.06), 0.6 * end), complex(x * w * 0.9, end)],
                    closed=False,
                )
                brush.line(strand, darker(colour, 0.35), 0.04, 0.5)
        if shape in ("ponytail", "pigtails"):
            sides = (
                (-1, 1)
                if shape == "pigtails"
                else ((scene.identity.hair_side if abs(head.yaw) < 0.2 else (-1 if head.yaw > 0 else 1)),)
            )
            for side in sides:
                band = complex(side * (w + 0.12), -0.42) if shape == "pigtails" else complex(side * (w * 0.72), -0.86)
                brush.fill(
                    ellipse(band, 0.09, 0.14, 0.5 * side), mixed(lighter(scene.identity.hair, 0.3), (230, 60, 90), 0.7)
                )


def _mane(half: float, length: float, turn: float, ends: Sequence[float]) -> skia.Path:
    """Hair that falls on both sides, so long and so wide; its ends swing outwards."""
    out, middle = ends
    right = [
        complex(0.6 * half, -1.02),
        complex(half, -0.4),
        complex(half + 0.04, 0.35 * length),
        complex(half + 0.5 * out, 0.68 * length),
        complex(half - 0.06 + out, length),
        complex(0.45 * half, length + 0.06),
    ]
    left = [complex(-point.real, point.imag) for point in reversed(right)]
    return smooth(
        [
            complex(turn, -1.14),
            *(point + turn for point in right),
            complex(turn, length - 0.1 + middle),
            *(point + turn for point in left),
        ]
    )


def _bumps(centre: complex, radius: float, size: float, count: int, first: float, last: float) -> list[skia.Path]:
    return [
        circle(centre + cmath.rect(radius, first + (last - first) * number / (count - 1)), size)
        for number in range(count)
    ]


def _draw_front_hair(brush: Brush, scene: Scene, head: Head) -> None:
    identity, w = scene.identity, head.width
    colour, side = identity.hair, identity.hair_side
    shift = 0.5 * w * math.sin(head.yaw)
    match head.shape:
        case "buzz":
            path = _cap(w, 0.035, 0.03, [-0.2, -0.62, -0.7, -0.62, -0.2], shift)
            colour = mixed(colour, identity.skin, 0.25)
        case "short":
            path = _cap(w, 0.09, 0.16, [0.0, -0.42, -0.5 - 0.16 * side, -0.42 + 0.12 * side, 0.0], shift)
        case "quiff":
            path = _cap(w, 0.07, 0.14, [-0.05, -0.52, -0.62, -0.52, -0.05], shift)
        case "curls":
            path = _cap(w, 0.1, 0.14, [-0.1, -0.48, -0.55, -0.48, -0.1], shift)
        case "afro":
            path = _cap(w, 0.12, 0.2, [-0.05, -0.52, -0.6, -0.52, -0.05], shift)
        case "bob":
            path = _cap(w, 0.2, 0.16, [0.55, -0.24, -0.3, -0.24, 0.55], shift, straight=True)
        case "long":
            path = _cap(w, 0.14, 0.12, [0.75, -0.3, -0.82, -0.3, 0.75], shift)
        case "waves":
            path = _cap(w, 0.17, 0.18, [0.7, -0.34 - 0.22 * side, -0.66, -0.34 + 0.22 * side, 0.7], shift)
        case "bun" | "ponytail":
            path = _cap(w, 0.06, 0.08, [0.02, -0.5, -0.7, -0.5, 0.02], shift)
        case _:
            path = _cap(w, 0.1, 0.1, [0.1, -0.36, -0.8, -0.36, 0.1], shift)
    paths = [path]
    if head.shape == "quiff":
        lean = 0.3 * side
        paths.append(
            smooth(
                [
                    complex(-0.9 * w, -0.55),
                    complex(-1.0 * w + 0.3 * lean, -0.98),
                    complex(-0.45 * w + 0.8 * lean, -1.26),
                    complex(0.1 * w + 1.3 * lean, -1.38),
                    complex(0.6 * w + lean, -1.22),
                    complex(1.0 * w + 0.3 * lean, -0.95),
                    complex(0.88 * w, -0.55),
                    complex(0.4 * w + 0.6 * shift, -0.56 - 0.1 * side),
                    complex(-0.3 * w + 0.6 * shift, -0.58 + 0.1 * side),
                ]
            )
        )
    if head.shape == "curls":
        paths += [
            circle(complex(shift * 0.6 + x * w, y), 0.2)
            for x, y in ((-0.62, -0.62), (-0.22, -0.66), (0.2, -0.68), (0.6, -0.62))
        ]
    brush.part(*paths, colour=colour, label=parts.HAIR, owner=parts.HAIR_OWNER, depth=0.9)
    _draw_strands(brush, head, colour, shift)


def _cap(
    w: float, beside: float, above: float, hairline: Sequence[float], shift: float, *, straight: bool = False
) -> skia.Path:
    """Hair on the skull: outside so far from the face; the hairline from the left to the right of the picture."""
    out, top = w + beside, 1 + above
    left_end, left, middle, right, right_end = hairline
    outer = [
        complex(-out, min(left_end, 0.0) * 0.4 - 0.1),
        complex(-0.93 * out, -0.58),
        complex(-0.52 * out, -0.9 * top),
        complex(0, -top),
        complex(0.52 * out, -0.9 * top),
        complex(0.93 * out, -0.58),
        complex(out, min(right_end, 0.0) * 0.4 - 0.1),
    ]
    if left_end > 0.2:
        outer = [complex(-out, left_end), *outer, complex(out, right_end)]
    else:
        outer = [complex(-out + 0.02, left_end + 0.12), *outer, complex(out - 0.02, right_end + 0.12)]
    edge = 0.86 * w if left_end > 0.2 else 0.95 * w
    inner = [
        complex(min(edge + 0.3 * shift, 0.98 * w), right_end + 0.02 if right_end > 0.2 else right_end + 0.1),
        complex(min(0.84 * w + 0.3 * shift, 0.96 * w), right * 0.6 if not straight else 0.0),
        complex(min(0.55 * w + shift, 0.86 * w), right),
        complex(shift, middle),
        complex(max(-0.55 * w + shift, -0.86 * w), left),
        complex(max(-0.84 * w + 0.3 * shift, -0.96 * w), left * 0.6 if not straight else 0.0),
        complex(max(-edge + 0.3 * shift, -0.98 * w), left_end + 0.02 if left_end > 0.2 else left_end + 0.1),
    ]
    return smooth([*outer, *inner])


def _draw_strands(brush: Brush, head: Head, colour: Colour, shift: float) -> None:
    if not brush.shaded or head.shape in ("buzz", "afro"):
        return
    w = head.width
    light = complex(math.copysign(0.34, brush.light.real) * w, -0.82)
    gloss = [light + complex(-0.24, 0.1), light + complex(0, -0.03), light + complex(0.26, 0.06)]
    brush.line(smooth(gloss, closed=False), lighter(colour, 0.55), 0.07, 0.5)
    for x in (-0.6, 0.62):
        strand = smooth(
            [complex(0.3 * x * w + 0.4 * shift, -1.0), complex(x * w, -0.86), complex(1.02 * x * w / 0.7, -0.4)],
            closed=False,
        )
        brush.line(strand, darker(colour, 0.4), 0.03, 0.4)
