"""Body and clothes. Lengths are in torsos of the average adult, the middle of the hips is the origin."""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass

import skia

from ..models.keypoints import JOINTS
from . import parts
from .colours import CLOTH, Colour, darker, lighter
from .heads import Head, draw_back_hair, draw_head, place_head
from .identities import Top
from .scenes import Scene
from .shapes import Brush, capsule, circle, ellipse, hull, polygon, rectangle, smooth

LONG_SLEEVES = ("sweater", "shirt", "hoodie", "jacket")
NECKLINES = ("t-shirt", "tank top", "dress")

BALLOON = 0.34
"""From its middle to its top."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A person's points in the plane, and how thick everything is.

    Attributes:
        joints: by name.
        depths: z of the joints, by name; positive towards the camera.
        build: thickness; 1 is average.
        balloon: its middle, or None.
    """

    scene: Scene
    joints: dict[str, complex]
    depths: dict[str, float]
    build: float
    head: Head
    balloon: complex | None

    @property
    def neck(self) -> complex:
        return (self.joints["left_shoulder"] + self.joints["right_shoulder"]) / 2

    @property
    def up(self) -> complex:
        """Along the torso, of length 1."""
        hips = (self.joints["left_hip"] + self.joints["right_hip"]) / 2
        way = self.neck - hips
        return way / abs(way)

    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of everything that belongs to the person."""
        points = [*self.joints.values()]
        points += [self.joints[f"{side}_ankle"] + self.foot(number) for number, side in enumerate(("left", "right"))]
        left, top, right, _ = self.head.bounds()
        room = 0.13
        return (
            min(left, *(point.real - room for point in points)),
            min(top, *(point.imag - room for point in points)),
            max(right, *(point.real + room for point in points)),
            max(point.imag + 0.1 for point in points),
        )

    def kept(self) -> list[float]:
        """Beginnings and ends, in x, of what the frame never cuts off: most of the face, hands that do what the
        caption says, the balloon."""
        spots = [(self.head.centre, 0.25)]
        spots += [(self.joints[f"{('left', 'right')[side]}_wrist"], 0.15) for side in self.scene.pose.hands]
        if self.balloon is not None:
            spots.append((self.balloon, 0.32))
        return [spot.real + end for spot, reach in spots for end in (-reach, reach)]

    def foot(self, side: int) -> complex:
        """From the ankle to the toes: seen a little from above."""
        x, y, z = self.scene.pose.toes[side].tolist()
        return complex(0.27 * x, 0.08 + 0.1 * z + 0.2 * max(y, 0))


def figure(scene: Scene) -> Figure:
    points = scene.pose.joints
    joints = {joint: complex(x, y) for joint, (x, y, _) in zip(JOINTS, points.tolist(), strict=True)}
    depths = dict(zip(JOINTS, points[:, 2].tolist(), strict=True))
    neck = (joints["left_shoulder"] + joints["right_shoulder"]) / 2
    head = place_head(scene, neck)
    balloon = None
    if scene.balloon_colour:
        hand = _acting_hand(scene, joints)
        aside = math.copysign(scene.draws("balloon").uniform(0.02, 0.16), hand.real - neck.real)
        balloon = complex(hand.real + aside, min(hand.imag - 0.75, head.centre.imag - 0.05))
    return Figure(scene=scene, joints=joints, depths=depths, build=scene.identity.build, head=head, balloon=balloon)


def _acting_hand(scene: Scene, joints: dict[str, complex]) -> complex:
    return joints[f"{('left', 'right')[scene.pose.hands[0]]}_wrist"] - 0.1j


def draw_figure(brush: Brush, person: Figure) -> None:
    """Everything from the far arm to the near one."""
    behind = [side for side in (0, 1) if _arm_is_behind(person, side)]
    for side in behind:
        _draw_arm(brush, person, side)
    sides = ("left", "right")
    order = sorted(
        (0, 1), key=lambda side: person.depths[f"{sides[side]}_knee"] + person.depths[f"{sides[side]}_ankle"]
    )
    for side in order:
        _draw_leg(brush, person, side)
    _draw_hips(brush, person)
    _draw_torso(brush, person)
    draw_back_hair(brush, person.scene, person.head)
    _draw_neck(brush, person)
    draw_head(brush, person.scene, person.head)
    for side in (0, 1):
        if side not in behind:
            _draw_arm(brush, person, side)


def draw_ground(brush: Brush, person: Figure, ground: float) -> None:
    """The soft shadow below, and what a sitting person sits on."""
    ankles = [person.joints["left_ankle"], person.joints["right_ankle"]]
    middle = sum(ankles).real / 2
    if person.scene.pose.seated:
        middle /= 2
    width = 0.45 + abs(ankles[0].real - ankles[1].real) / 2
    fade = 1 / (1 + 2 * person.scene.pose.raised)
    brush.glow(complex(middle, ground), width * 1.25, (20, 16, 30), 0.42 * fade, flat=0.24, core=0.25)
    if person.scene.pose.seated:
        _draw_seat(brush, person, ground)


def _draw_seat(brush: Brush, person: Figure, ground: float) -> None:
    draws = person.scene.draws("seat")
    colour = draws.choice([(146, 106, 72), (190, 150, 104), (112, 118, 128), (156, 88, 74), (96, 122, 128)])
    half, top = 0.42 + 0.12 * person.build, 0.17 * person.build
    bottom = max(ground - 0.1, top + 0.2)
    if draws.chance(0.5):
        brush.part(rectangle(-half, top, half, bottom, 0.04), colour=colour, label=parts.BACKGROUND)
        for height in (0.3, 0.6):
            y = top + (bottom - top) * height
            brush.line(_stroke(complex(-half, y), complex(half, y)), darker(colour, 0.3), 0.018, 0.5)
        return
    for x in (-0.8, 0.72):
        leg = rectangle(x * half, top, x * half + 0.08, bottom, 0.02)
        brush.part(leg, colour=darker(colour, 0.2), label=parts.BACKGROUND)
    brush.part(rectangle(-half, top, half, top + 0.14, 0.06), colour=colour, label=parts.BACKGROUND)


# Arms


def _arm_is_behind(person: Figure, side: int) -> bool:
    name = ("left", "right")[side]
    hidden = max(person.depths[f"{name}_elbow"], person.depths[f"{name}_wrist"]) < -0.03
    # An arm that is raised in front of the camera would otherwise vanish behind the head.
    return hidden and person.joints[f"{name}_wrist"].imag > person.neck.imag


def _draw_arm(brush: Brush, person: Figure, side: int) -> None:
    scene, build = person.scene, person.build
    name, owner = ("left", "right")[side], parts.ARMS[side]
    shoulder, elbow, wrist = (person.joints[f"{name}_{joint}"] for joint in ("shoulder", "elbow", "wrist"))
    radii = 0.1 * build, 0.088 * build, 0.062 * build**0.7
    top = scene.top
    kind = top.kind
    # Without outlines, an arm before the body is seen by its shade alone.
    shade = 0.0 if brush.shaded else 0.1
    skin = darker(scene.identity.skin, shade)
    _draw_hand(brush, person, side)
    long = kind in LONG_SLEEVES
    if not long:
        upper, lower = capsule(shoulder, elbow, radii[0], radii[1]), capsule(elbow, wrist, radii[1], radii[2])
        brush.part(
            lower, upper, colour=skin, label=parts.SKIN, owner=owner,
            across=(_across(brush, elbow, wrist, radii[1]), _across(brush, shoulder, elbow, radii[0])),
        )  # fmt: skip
    if kind == "tank top":
        return
    loose = {"hoodie": 0.035, "jacket": 0.03, "sweater": 0.025}.get(kind, 0.016)
    sleeve_colour = darker(_sleeve_colour(top), shade)
    if long:
        cuff = elbow + 0.93 * (wrist - elbow)
        upper = capsule(shoulder, elbow, radii[0] + loose, radii[1] + loose)
        lower = capsule(elbow, cuff, radii[1] + loose, radii[2] + loose)
        brush.part(
            lower, upper, colour=sleeve_colour, label=parts.TOP, owner=owner,
            across=(
                _across(brush, elbow, wrist, radii[1] + loose), _across(brush, shoulder, elbow, radii[0] + loose)
            ),
        )  # fmt: skip
        way = cmath.phase(wrist - elbow)
        edge = ellipse(cuff, 0.022, (radii[2] + loose) * 0.95, way)
        brush.fill(edge, darker(sleeve_colour, 0.3) if kind != "shirt" else lighter(sleeve_colour, 0.3), 0.8)
        if top.pattern == "striped" and kind == "sweater":
            _sleeve_stripes(brush, shoulder, elbow, cuff, radii, loose, CLOTH[top.accent])
        _join_shoulder(brush, person, shoulder, elbow, sleeve_colour, radii[0] + loose)
        return
    hem = shoulder + (0.62 if kind == "t-shirt" else 0.42) * (elbow - shoulder)
    sleeve = _tube(shoulder, hem, radii[0] + loose, radii[1] + 2.2 * loose)
    brush.part(
        sleeve, colour=sleeve_colour, label=parts.TOP, owner=owner,
        across=(_across(brush, shoulder, elbow, radii[0] + loose),),
    )  # fmt: skip
    _join_shoulder(brush, person, shoulder, elbow, sleeve_colour, radii[0] + loose)


def _join_shoulder(
    brush: Brush, person: Figure, shoulder: complex, elbow: complex, colour: Colour, radius: float
) -> None:
    """Sleeve and body are one cloth: the line between them begins at the armpit, not on the shoulder."""
    inward = person.neck - shoulder
    top = person.scene.top
    one_cloth = top.pattern in ("plain", "emblem")
    if not brush.shaded or not one_cloth or abs(inward) < 0.05:
        return
    inward /= abs(inward)
    # Not where the arm is raised: there the line is the arm's own edge.
    if elbow.imag > shoulder.imag:
        spot = shoulder + inward * 0.8 * radius + person.up * 0.25 * radius
        with brush.inside(_torso_path(person)):
            brush.glow(spot, 0.85 * radius, colour, 0.95, core=0.35)


def _sleeve_colour(top: Top) -> Colour:
    return CLOTH[top.accent if top.pattern == "colour-block" else top.colour]


def _sleeve_stripes(
    brush: Brush,
    shoulder: complex,
    elbow: complex,
    cuff: complex,
    radii: tuple[float, ...],
    loose: float,
    colour: Colour,
) -> None:
    for start, end, first, second in ((shoulder, elbow, radii[0], radii[1]), (elbow, cuff, radii[1], radii[2])):
        across = 1j * (end - start) / max(abs(end - start), 1e-6)
        for share in (0.3, 0.65):
            middle, half = start + share * (end - start), first + share * (second - first) + loose
            brush.line(_stroke(middle - across * half * 0.9, middle + across * half * 0.9), colour, 0.05, 0.9)


def _draw_hand(brush: Brush, person: Figure, side: int) -> None:
    name, owner = ("left", "right")[side], parts.ARMS[side]
    elbow, wrist = person.joints[f"{name}_elbow"], person.joints[f"{name}_wrist"]
    along = (wrist - elbow) / max(abs(wrist - elbow), 1e-6)
    size = 0.8 + 0.2 * person.build
    # The thumb points to the body's middle where the arm hangs, and outwards where it is raised.
    inward = 1j * along * (-1 if side == 0 else 1)
    if along.imag < 0:
        inward = -inward
    palm = ellipse(wrist + along * 0.1 * size, 0.105 * size, 0.07 * size, cmath.phase(along))
    thumb = capsule(
        wrist + along * 0.06 * size - inward * 0.03,
        wrist + (along * 0.13 - inward * 0.085) * size,
        0.032 * size,
        0.024 * size,
    )
    skin = person.scene.identity.skin
    brush.part(thumb, palm, colour=skin, label=parts.SKIN, owner=owner, depth=0.7)
    tips = wrist + along * 0.17 * size
    for spread in (-0.02, 0.018):
        line = _stroke(tips - along * 0.06 + 1j * along * spread, tips + 1j * along * spread)
        brush.line(line, darker(skin, 0.3), 0.01, 0.6)


# Legs


def _draw_leg(brush: Brush, person: Figure, side: int) -> None:
    build, identity = person.build, person.scene.identity
    name, owner = ("left", "right")[side], parts.LEGS[side]
    hip, knee, ankle = (person.joints[f"{name}_{joint}"] for joint in ("hip", "knee", "ankle"))
    radii = 0.165 * build, 0.118 * build, 0.074 * build**0.7
    cloth = CLOTH[identity.bottoms_colour]
    far = person.depths[f"{name}_knee"] < -0.12
    kind = _bottoms_kind(person)
    if kind != "trousers":
        skin = darker(identity.skin, 0.12) if far else identity.skin
        brush.part(
            capsule(knee, ankle, radii[1], radii[2]), capsule(hip, knee, radii[0], radii[1]), colour=skin,
            label=parts.SKIN, owner=owner,
            across=(_across(brush, knee, ankle, radii[1]), _across(brush, hip, knee, radii[0])),
        )  # fmt: skip
    _draw_shoe(brush, person, side)
    if kind == "skirt":
        return
    colour = darker(cloth, 0.14) if far else cloth
    if kind == "trousers":
        hem = knee + 0.96 * (ankle - knee)
        shapes = [
            _tube(knee, hem, radii[1] + 0.012, radii[2] + 0.03),
            circle(knee, radii[1] + 0.012),
            capsule(hip, knee, radii[0] + 0.01, radii[1] + 0.012),
        ]
        shin = _across(brush, knee, ankle, radii[1])
        across = [shin, shin, _across(brush, hip, knee, radii[0])]
    else:
        hem = hip + 0.72 * (knee - hip)
        shapes = [_tube(hip, hem, radii[0] + 0.01, radii[1] + 0.05), circle(hip, radii[0] + 0.01)]
        across = [_across(brush, hip, knee, radii[0])] * 2
    brush.part(*shapes, colour=colour, label=parts.BOTTOMS, owner=owner, across=across)


def _draw_shoe(brush: Brush, person: Figure, side: int) -> None:
    identity, owner = person.scene.identity, parts.LEGS[side]
    name = ("left", "right")[side]
    knee, ankle = person.joints[f"{name}_knee"], person.joints[f"{name}_ankle"]
    colour = CLOTH[identity.shoes_colour]
    toe = person.foot(side)
    along = (ankle - knee) / max(abs(ankle - knee), 1e-6)
    heel = ankle + along * 0.05 - complex(toe.real * 0.22, 0)
    tip = ankle + along * 0.02 + toe
    shapes = [capsule(heel, tip, 0.085, 0.078)]
    if identity.boots and _bottoms_kind(person) != "trousers":
        shapes.append(_tube(ankle - along * 0.26, ankle + along * 0.04, 0.1 * person.build**0.7, 0.095))
    brush.part(*shapes, colour=colour, label=parts.SHOES, owner=owner)
    sole = _stroke(heel + 0.065j, tip + 0.06j)
    brush.line(sole, lighter(colour, 0.75) if identity.shoes_colour != "white" else (150, 150, 156), 0.03, 0.9)


def _bottoms_kind(person: Figure) -> str:
    return "skirt" if person.scene.top.kind == "dress" else person.scene.identity.bottoms


def _draw_hips(brush: Brush, person: Figure) -> None:
    build, identity = person.build, person.scene.identity
    left, right = person.joints["left_hip"], person.joints["right_hip"]
    waist = 0.24 * person.up
    kind = _bottoms_kind(person)
    dress = person.scene.top.kind == "dress"
    colour = CLOTH[person.scene.top.colour if dress else identity.bottoms_colour]
    radius = 0.15 * build
    label = parts.TOP if dress else parts.BOTTOMS
    around = [(hip + waist, 0.1 * build) for hip in (left, right)]
    if kind != "skirt":
        path = hull([*around, (left, radius), (right, radius)])
        brush.part(path, colour=colour, label=label, owner=parts.TRUNK, outline=False, depth=0.7)
        return
    length = 0.8 if dress else 0.66
    hems = []
    for side, hip in (("left", left), ("right", right)):
        knee = person.joints[f"{side}_knee"]
        hem = hip + length * (knee - hip)
        outwards = 0.06 * (1 if hem.real >= (left.real + right.real) / 2 else -1)
        hems.append((hem + outwards, 0.15 * build))
    path = hull([*around, (left, radius), (right, radius), *hems])
    brush.part(path, colour=colour, label=label, owner=parts.TRUNK)
    with brush.inside(path):
        middle = (hems[0][0] + hems[1][0]) / 2
        for share in (-0.55, 0.0, 0.55):
            end = middle + share * (hems[0][0] - hems[1][0]) + 0.2j
            brush.line(
                _stroke((left + right) / 2 + share * (left - right) * 0.8, end), darker(colour, 0.3), 0.018, 0.45
            )
        if dress:
            _draw_pattern(brush, person, person.scene.top, whole=False)


# The torso


def _draw_torso(brush: Brush, person: Figure) -> None:
    scene, top = person.scene, person.scene.top
    cloth, skin = CLOTH[top.colour], scene.identity.skin
    path = _torso_path(person)
    neck, up = person.neck, person.up
    if top.kind == "hoodie":
        hood = ellipse(neck + up * 0.12, 0.27, 0.17, cmath.phase(up) + math.pi / 2)
        brush.part(hood, colour=darker(cloth, 0.15), label=parts.TOP, owner=parts.TRUNK)
    brush.part(path, colour=cloth, label=parts.TOP, owner=parts.TRUNK, depth=0.9)
    with brush.inside(path):
        _draw_pattern(brush, person, top, whole=True)
        _draw_cut(brush, person, top)
        # The far side of a body that is turned lies in the shade.
        if brush.shaded:
            waist = -0.72 * up * scene.identity.bones[2]
            brush.glow(neck + waist - brush.light * 0.3, 0.5, darker(cloth, 0.5), 0.22)
    if top.kind in NECKLINES:
        low = {"t-shirt": 0.02, "tank top": 0.1, "dress": 0.08}[top.kind]
        opening = ellipse(neck + up * (0.1 - low), 0.155, 0.12 + low / 2, cmath.phase(up) + math.pi / 2)
        with brush.inside(path):
            brush.part(opening, colour=skin, label=parts.SKIN, owner=parts.TRUNK, depth=0, outline=False)
            brush.line(opening, darker(cloth, 0.35), 0.02, 0.7)


def _torso_path(person: Figure) -> skia.Path:
    """Shoulders, waist and hem; what the person's bones and build say."""
    build, up, neck = person.build, person.up, person.neck
    kind = person.scene.top.kind
    shoulders = sorted((person.joints["right_shoulder"], person.joints["left_shoulder"]), key=lambda point: point.real)
    hips = sorted((person.joints["right_hip"], person.joints["left_hip"]), key=lambda point: point.real)
    side = 1j * up
    loose = {"hoodie": 0.04, "jacket": 0.04, "sweater": 0.025}.get(kind, 0.0)
    strap = -0.045 if kind == "tank top" else 0.0
    down = 0.2 if kind in ("hoodie", "sweater", "jacket") else 0.1 if kind in ("t-shirt", "tank top") else 0.02
    halves: list[list[complex]] = []
    for sign, shoulder, hip in ((1, shoulders[1], hips[1]), (-1, shoulders[0], hips[0])):
        out = sign * side
        # A body that is turned is as deep as it is wide.
        chest = max(_along(shoulder - neck, out), 0.2 * build)
        hip_half = max(_along(hip - (hips[0] + hips[1]) / 2, out), 0.14 * build)
        centre = (hips[0] + hips[1]) / 2
        waist_half = (0.5 * chest + 0.5 * hip_half) * (0.74 + 0.12 * build) + 0.07 * build - 0.01
        height = _along(neck - centre, up)
        halves.append(
            [
                neck + out * 0.1 + up * 0.11,
                neck + out * (0.1 + 0.45 * (chest - 0.1)) + up * 0.1,
                shoulder + up * (0.09 * build + loose) + out * strap,
                shoulder + out * (0.085 * build + loose + 1.6 * strap) - up * 0.04,
                neck + out * (chest + 0.055 * build + loose) - up * 0.24 * height,
                centre + up * 0.45 * height + out * (waist_half + 1.4 * loose),
                centre + up * 0.12 * height + out * (hip_half + 0.125 * build + loose),
                centre - up * down + out * (hip_half + 0.145 * build + loose),
            ]
        )
    bottom = (hips[0] + hips[1]) / 2 - up * (down + 0.03)
    return smooth([neck + up * 0.06, *halves[0], bottom, *reversed(halves[1])])


def _draw_pattern(brush: Brush, person: Figure, top: Top, *, whole: bool) -> None:
    """Stripes and dots, in the torso's own frame: x to the side, y down from the neck."""
    accent, size = CLOTH[top.accent], top.pattern_scale
    angle = cmath.phase(person.up) + math.pi / 2
    with brush.at(person.neck, angle=angle):
        torso = person.scene.identity.bones[2]
        match top.pattern:
            case "striped":
                for number in range(14):
                    y = 0.06 + 0.19 * size * number
                    brush.fill(rectangle(-1.2, y, 1.2, y + 0.085 * size), accent, 0.95)
            case "dotted":
                step = 0.2 * size
                for row in range(13):
                    for column in range(-5, 6):
                        shift = 0.5 * step * (row % 2)
                        brush.fill(
                            circle(complex(column * step + shift, 0.05 + row * step * 0.8), 0.045 * size), accent
                        )
            case "checked":
                step = 0.24 * size
                for number in range(10):
                    brush.fill(rectangle(-1.2, number * step, 1.2, number * step + step / 2), accent, 0.5)
                for number in range(-4, 5):
                    brush.fill(rectangle(number * step, -0.3, number * step + step / 2, 2.4), accent, 0.5)
            case "colour-block":
                brush.fill(rectangle(-1.3, 0.42 * torso, 1.3, 2.5), accent)
            case "emblem":
                if whole:
                    brush.fill(_star(complex(_turned(person), 0.42), 0.17 * size), accent)


def _turned(person: Figure) -> float:
    """Where the middle of the chest is, when the body is turned."""
    depth = person.depths["right_shoulder"] - person.depths["left_shoulder"]
    return 0.28 * max(min(depth, 0.6), -0.6)


def _draw_cut(brush: Brush, person: Figure, top: Top) -> None:
    """What makes a jacket a jacket."""
    cloth, accent = CLOTH[top.colour], CLOTH[top.accent]
    angle = cmath.phase(person.up) + math.pi / 2
    middle = _turned(person)
    with brush.at(person.neck, angle=angle):
        match top.kind:
            case "jacket":
                brush.fill(
                    smooth([-0.1 - 0.15j, middle - 0.11 + 0.3j, middle - 0.14 + 1.5j, middle + 0.14 + 1.5j,
                            middle + 0.11 + 0.3j, 0.1 - 0.15j]),
                    accent,
                )  # fmt: skip
                for sign in (-1, 1):
                    lapel = polygon([sign * 0.1 - 0.14j, middle + sign * 0.1 + 0.44j, middle + sign * 0.24 + 0.16j])
                    brush.fill(lapel, darker(cloth, 0.22))
            case "shirt":
                line = _stroke(0.02j, middle + 0.4j)
                brush.line(line, darker(cloth, 0.35), 0.016, 0.8)
                brush.line(_stroke(middle + 0.4j, middle + 1.4j), darker(cloth, 0.35), 0.016, 0.8)
                for number in range(5):
                    brush.fill(
                        circle(middle * min(1, 0.5 + 0.2 * number) + 0.03 + (0.16 + 0.2 * number) * 1j, 0.024),
                        lighter(cloth, 0.7),
                    )
            case "hoodie":
                pocket = smooth(
                    [middle - 0.2 + 0.68j, middle + 0.2 + 0.68j, middle + 0.3 + 0.92j, middle - 0.3 + 0.92j]
                )
                brush.line(pocket, darker(cloth, 0.35), 0.02, 0.8)
                for sign in (-1, 1):
                    brush.line(_stroke(sign * 0.08 + 0.0j, middle + sign * 0.08 + 0.3j), lighter(cloth, 0.7), 0.022)
            case "sweater":
                brush.line(smooth([-0.17 - 0.1j, 0.05j, 0.17 - 0.1j], closed=False), darker(cloth, 0.3), 0.05, 0.8)


def _draw_neck(brush: Brush, person: Figure) -> None:
    skin, top = person.scene.identity.skin, person.scene.top
    chin = person.head.point(0.0, 0.55)
    base = person.neck + person.up * 0.02
    radius = 0.105 * (0.55 + 0.45 * person.build)
    throat = capsule(base, chin, radius * 1.08, radius)
    brush.part(throat, colour=darker(skin, 0.16), label=parts.SKIN, owner=parts.TRUNK, depth=0.6, outline=False)
    cloth = CLOTH[top.colour]
    if top.kind == "shirt":
        angle = cmath.phase(person.up) + math.pi / 2
        with brush.at(person.neck, angle=angle):
            for sign in (-1, 1):
                collar = polygon([sign * 0.15 - 0.15j, 0.03j, sign * 0.13 + 0.1j, sign * 0.23 - 0.06j])
                brush.part(collar, colour=lighter(cloth, 0.25), label=parts.TOP, owner=parts.TRUNK, depth=0.4)
    if top.kind in ("sweater", "hoodie"):
        angle = cmath.phase(person.up) + math.pi / 2
        with brush.at(person.neck, angle=angle):
            wide = 1.2 * radius
            collar = smooth([-wide - 0.12j, -0.6 * wide + 0.0j, 0.05j, 0.6 * wide + 0.0j, wide - 0.12j], closed=False)
            if brush.shaded:
                brush.line(collar, darker(cloth, 0.5), 0.085)
            brush.line(collar, lighter(cloth, 0.06), 0.065)


# In the hand


def draw_balloon(brush: Brush, person: Figure) -> None:
    if person.balloon is None:
        return
    hand, centre = _acting_hand(person.scene, person.joints), person.balloon
    colour = CLOTH[person.scene.balloon_colour]
    bend = math.copysign(0.05, centre.real - hand.real)
    string = smooth([hand, (hand + centre) / 2 + bend, centre + 0.3j], closed=False)
    brush.line(string, (120, 116, 124), 0.018)
    path = smooth(
        [
            centre - BALLOON * 1j,
            centre + 0.26 - 0.1j,
            centre + 0.17 + 0.17j,
            centre + 0.3j,
            centre - 0.17 + 0.17j,
            centre - 0.26 - 0.1j,
        ]
    )
    brush.part(path, colour=colour, label=parts.BACKGROUND)
    brush.shine(smooth([centre - 0.16 - 0.1j, centre - 0.12 - 0.2j, centre - 0.04 - 0.25j], closed=False), 0.04, 0.5)


# Small outlines


def _across(brush: Brush, start: complex, end: complex, radius: float) -> tuple[complex, complex]:
    """Where the shading of a limb lies: across it, so that it looks round and knees and elbows show no seam."""
    across = 1j * (end - start) / max(abs(end - start), 1e-6)
    side = _along(brush.light, across)
    return (start + end) / 2, across * math.copysign(1.15 * radius, side)


def _tube(start: complex, end: complex, start_radius: float, end_radius: float) -> skia.Path:
    """A sleeve or trouser leg: round at its start, cut straight at its end."""
    way = end - start
    along = way / max(abs(way), 1e-6)
    across = 1j * along
    return smooth(
        [
            start - along * start_radius,
            start + across * start_radius * 0.98,
            start + 0.5 * way + across * (start_radius + end_radius) / 2,
            end + across * end_radius,
            end + across * end_radius * 0.9 + along * 0.012,
            end - across * end_radius * 0.9 + along * 0.012,
            end - across * end_radius,
            start + 0.5 * way - across * (start_radius + end_radius) / 2,
            start - across * start_radius * 0.98,
        ]
    )


def _stroke(start: complex, end: complex) -> skia.Path:
    return skia.Path.Line(skia.Point(start.real, start.imag), skia.Point(end.real, end.imag))


def _star(centre: complex, radius: float) -> skia.Path:
    return polygon(
        [
            centre + cmath.rect(radius if number % 2 == 0 else 0.45 * radius, math.pi * (number / 5 - 0.5))
            for number in range(10)
        ]
    )


def _along(way: complex, direction: complex) -> float:
    return way.real * direction.real + way.imag * direction.imag
