"""A scene becomes a picture, and everything that is known of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import skia
from PIL import Image, ImageFilter

from ..models.keypoints import BONES, COCO_KEYPOINTS
from ..training.people import Box
from . import parts
from .captions import garment_phrase
from .colours import WHITE, Colour
from .figure import BALLOON, Figure, draw_balloon, draw_figure, draw_ground, figure
from .identities import WORLD_VERSION, Identity, identity, split_of
from .occluders import draw_occluder
from .places import AMBIENT, draw_place
from .scenes import LIGHTS, Scene, scene
from .shapes import Brush
from .styles import lit, styled

SIDE = 128
MIN_SIDE = 64

DEPTH_OF_FIELD = {"full body": 0.0, "half body": 0.006, "portrait": 0.013}
"""Blur of the background, as a share of the picture."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture and its oracle.

    Attributes:
        pixels: [s, s, 3] uint8 RGB.
        labels: [s, s] uint8 in the order of `parts.PARTS`; everything but 0 is the person.
        caption: what is to be seen, and not who.
        keypoints: [17, 3] x, y in 0 to 1 and visibility, in the order of `models.keypoints.COCO_KEYPOINTS`. Visibility
            is 1, or 0 where something hides the joint or it lies outside; its place is told all the same, cut to the
            frame.
        person_box: x0, y0, x1, y1 in 0 to 1, of what is seen of the person.
        face_box: likewise of the face, from brow to chin and ear to ear; None where less than a third of it is seen.
    """

    scene: Scene
    pixels: np.ndarray
    labels: np.ndarray
    caption: str
    keypoints: np.ndarray
    person_box: Box
    face_box: Box | None


def picture_of(number: int, picture: int, *, seed: int = 0, size: int = SIDE) -> Picture:
    """The picture with this number of the person with this number: the same numbers, the same pixels.

    Args:
        number: of the person, see `identities.SPLITS`.
        picture: from 0 on.
        size: side in pixels; the same drawing in more detail.

    Raises:
        ValueError: no such person or picture, or too small a size.
    """
    split_of(number)
    if picture < 0:
        raise ValueError(f"There is no picture {picture}; pictures count from 0.")
    return draw_scene(scene(identity(number, seed=seed), picture), size=size)


def draw_scene(scene: Scene, *, size: int = SIDE) -> Picture:
    """Draw it.

    Raises:
        ValueError: too small a size.
    """
    if size < MIN_SIDE:
        raise ValueError(f"A picture of {size} pixels shows nobody; give at least {MIN_SIDE}.")
    person = figure(scene)
    unit, origin, ground = _placed(scene, person)
    shaded = scene.style != "flat"

    pixels, labels = (np.zeros((size, size, 4), dtype=np.uint8) for _ in range(2))
    # Surfaces have to live as long as their canvases.
    surfaces = [skia.Surface(array, colorType=skia.kRGBA_8888_ColorType) for array in (pixels, labels)]
    canvas, label_canvas = (surface.getCanvas() for surface in surfaces)
    label_canvas.clear(skia.ColorBLACK)
    for each in (canvas, label_canvas):
        each.scale(size, size)

    _draw_background(canvas, scene, origin, unit, ground, shaded=shaded)
    blur = DEPTH_OF_FIELD[scene.framing] * size
    if shaded and blur:
        # Ten times faster than skia's own on a picture of this size.
        pixels[:] = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(blur)))
    light = complex(0.66 * scene.light_side, -0.75)
    brush = Brush(canvas, label_canvas, shaded=shaded, light=light)
    with brush.at(origin, scale=unit):
        draw_ground(brush, person, ground)
        draw_balloon(brush, person)
        draw_figure(brush, person)
    if scene.occluder:
        _draw_occluder(brush, scene, origin, unit, person)

    drawn = pixels[..., :3].astype(np.float32)
    if scene.style != "flat":
        drawn = lit(
            drawn, tint=_tint(scene), brightness=scene.brightness,
            vignette=scene.vignette if scene.style == "photo" else 0.0, side=scene.light_side,
        )  # fmt: skip
    drawn = styled(drawn, scene.style, scene.draws_key)
    return Picture(
        scene=scene,
        pixels=drawn.round().astype(np.uint8),
        labels=labels[..., 0],
        caption=scene.caption,
        keypoints=_keypoints(scene, person, origin, unit, labels[..., 1]),
        person_box=_person_box(labels[..., 0]),
        face_box=_face_box(person, origin, unit, labels[..., 1]),
    )


def attributes(picture: Picture) -> dict[str, Any]:
    """What the caption can speak of, in fixed words: the truth for a classifier of attributes."""
    scene = picture.scene
    garment = scene.garment
    return {
        "place": scene.place,
        "place_colour": scene.place_colour,
        "action": scene.action,
        "balloon_colour": scene.balloon_colour,
        "style": scene.style,
        "framing": scene.framing,
        "garment": None if garment is None else garment_phrase(garment),
        "top_kind": scene.top.kind,
        "top_colour": scene.top.colour,
        "top_pattern": scene.top.pattern,
        "light": scene.light,
        "occluded": scene.occluder,
        "cut": scene.cut != 0,
    }


def describe_identity(person: Identity) -> dict[str, Any]:
    """Who it is, in fixed words and numbers."""
    return {
        "skin_tone": person.skin_tone,
        "skin": person.skin,
        "hair_shape": person.hair_shape,
        "hair_colour": person.hair_colour,
        "hair": person.hair,
        "beard": person.beard,
        "glasses": person.face.glasses,
        "eye_colour": person.face.eye_colour,
        "freckles": person.face.freckles,
        "top_kind": person.top.kind,
        "top_colour": person.top.colour,
        "top_pattern": person.top.pattern,
        "bottoms": person.bottoms,
        "bottoms_colour": person.bottoms_colour,
        "shoes_colour": person.shoes_colour,
        "bones": {bone: round(length, 4) for bone, length in zip(BONES, person.bones, strict=True)},
        "build": round(person.build, 4),
        "head": round(person.head, 4),
    }


def record(picture: Picture) -> dict[str, Any]:
    """Everything that is known of a picture, for one line of the oracle's file."""
    scene = picture.scene
    number = scene.identity.number
    return {
        "world": WORLD_VERSION,
        "seed": scene.identity.seed,
        "person": number,
        "split": split_of(number),
        "picture": scene.picture,
        "caption": picture.caption,
        "attributes": attributes(picture),
        "identity": describe_identity(scene.identity),
        "keypoints": [[round(value, 6) for value in point] for point in picture.keypoints.tolist()],
        "person_box": _rounded(picture.person_box),
        "face_box": None if picture.face_box is None else _rounded(picture.face_box),
    }


def _rounded(box: Box) -> list[float]:
    return [round(edge, 6) for edge in box]


def _tint(scene: Scene) -> Colour:
    """Colour of the light: that of the lamp times that of the place."""
    red, green, blue = (
        one * two // 255 for one, two in zip(LIGHTS[scene.light], AMBIENT.get(scene.place, WHITE), strict=True)
    )
    return red, green, blue


# Where things are


def _placed(scene: Scene, person: Figure) -> tuple[float, complex, float]:
    """Size of a torso and place of the hips in the picture (0 to 1), and height of the ground in torsos."""
    left, top, right, bottom = person.bounds()
    ground = bottom - 0.04 + scene.pose.raised
    reach = (top, bottom + scene.pose.raised * 0.6)
    if person.balloon is not None:
        reach = (min(top, person.balloon.imag - BALLOON - 0.05), reach[1])
    neck = person.neck.imag
    head = person.head
    if scene.framing == "full body":
        unit = min((0.84 + 0.1 * scene.fill) / (reach[1] - reach[0]), 0.96 / (right - left))
        free = 1 - unit * (reach[1] - reach[0])
        y = free * (0.5 + 0.25 * scene.shift_y) - unit * reach[0]
    else:
        low = 0.15 + 0.45 * scene.fill if scene.framing == "half body" else neck + 0.3 + 0.45 * scene.fill
        if scene.framing == "portrait":
            left, top, right, _ = head.bounds()
            width = 2 * 0.42 * person.build + 0.2
            left, right = min(left, -width / 2 + person.neck.real), max(right, width / 2 + person.neck.real)
        else:
            top = reach[0]
        room = 0.06 + 0.05 * (1 + scene.shift_y) / 2
        unit = min((1 - room) / (low - top), 1.04 / (right - left) if scene.framing == "half body" else 9)
        y = 1.0 - unit * low
        if unit * (low - top) < 1 - room:
            y = room - unit * top
    middle = (left + right) / 2 if scene.framing == "full body" else 0.5 * ((left + right) / 2 + head.centre.real)
    free_x = max(1 - unit * (right - left), 0.08)
    x = 0.5 - unit * middle + 0.42 * free_x * scene.shift_x
    if scene.cut:
        edge = -unit * left if scene.cut < 0 else 1 - unit * right
        x = edge + scene.cut * unit * (right - left)
    kept = person.kept()
    unit = min(unit, 1 / (max(kept) - min(kept)))
    x = min(max(x, -unit * min(kept)), 1 - unit * max(kept))
    return unit, complex(x, y), ground


def _draw_background(
    canvas: skia.Canvas, scene: Scene, origin: complex, unit: float, ground: float, *, shaded: bool
) -> None:
    draws = scene.draws("place")
    # The horizon is well above the feet, and behind the chest where no feet are seen.
    feet = origin.imag + unit * ground
    if scene.framing == "full body":
        horizon = min(feet - 0.14 - 0.12 * draws.uniform(0, 1), 0.82)
        zoom = 1.0
    else:
        horizon = draws.uniform(0.55, 0.72) if scene.framing == "half body" else draws.uniform(0.68, 0.85)
        zoom = 1.25 if scene.framing == "half body" else 1.6
    canvas.save()
    canvas.translate(0.5, horizon)
    canvas.scale(zoom, zoom)
    canvas.translate(-0.5, -horizon)
    draw_place(canvas, scene.place, colour=scene.place_colour, horizon=horizon, shaded=shaded, draws=draws)
    canvas.restore()


def _draw_occluder(brush: Brush, scene: Scene, origin: complex, unit: float, person: Figure) -> None:
    draws = scene.draws("occluder")
    share = draws.uniform(0.35, 1.0)
    if scene.framing == "full body":
        knees = origin.imag + unit * (person.joints["left_knee"].imag + person.joints["right_knee"].imag) / 2
        top = min(knees + 0.1 - 0.14 * share, 0.88)
    else:
        top = 0.9 - 0.16 * share
    centre = origin.real + unit * draws.uniform(-0.6, 0.6)
    draw_occluder(brush, scene.place, centre=centre, top=top, draws=draws)


# What is known


def _keypoints(scene: Scene, person: Figure, origin: complex, unit: float, owners: np.ndarray) -> np.ndarray:
    points = {**person.head.keypoints(scene.identity.face.eye_spacing), **person.joints}
    size = len(owners)
    found = []
    for name in COCO_KEYPOINTS:
        place = origin + unit * points[name]
        column, row = int(place.real * size // 1), int(place.imag * size // 1)
        inside = 0 <= column < size and 0 <= row < size
        seen = inside and int(owners[row, column]) in parts.SEEN_ON[name]
        found.append((min(max(place.real, 0.0), 1.0), min(max(place.imag, 0.0), 1.0), float(seen)))
    return np.array(found)


def _person_box(labels: np.ndarray) -> Box:
    rows, columns = np.nonzero(labels.any(axis=1))[0], np.nonzero(labels.any(axis=0))[0]
    height, width = labels.shape
    x0, x1 = (float(edge) / width for edge in (columns[0], columns[-1] + 1))
    y0, y1 = (float(edge) / height for edge in (rows[0], rows[-1] + 1))
    return x0, y0, x1, y1


def _face_box(person: Figure, origin: complex, unit: float, owners: np.ndarray) -> Box | None:
    head, size = person.head, len(owners)
    centre = origin + unit * head.point(0.0, 0.12)
    across, down = unit * head.half * head.width * 0.98, unit * head.half * 0.9
    box = centre.real - across, centre.imag - down, centre.real + across, centre.imag + down
    x0, y0, x1, y1 = (min(max(edge, 0.0), 1.0) for edge in box)
    columns = slice(int(x0 * size), max(int(x1 * size), int(x0 * size) + 1))
    rows = slice(int(y0 * size), max(int(y1 * size), int(y0 * size) + 1))
    seen = int((owners[rows, columns] == parts.HEAD).sum())
    whole = math.pi * across * down * size**2
    if seen < whole / 3:
        return None
    return x0, y0, x1, y1
