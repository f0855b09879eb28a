"""A picture, and whether what is said to be in it is there."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bolid.models.keypoints import BONES, COCO_KEYPOINTS
from bolid.world import parts
from bolid.world.colours import distance
from bolid.world.draws import Draws
from bolid.world.figure import figure
from bolid.world.identities import SPLITS, WORLD_VERSION, Top, identity, other_top
from bolid.world.pictures import Picture, _face_box, draw_scene, picture_of, record
from bolid.world.poses import ACTIONS, MIN_FORESHORTENING, pose
from bolid.world.scenes import Scene, scene

REFERENCE = Path(__file__).parent / f"version_{WORLD_VERSION}.png"
"""Eight pictures at a quarter of their size, as they were drawn when the version was given."""

EXAMPLES = [(0, 0), (1, 3), (650, 2), (700, 5), (701, 9), (799, 1), (800, 7), (1000, 4)]
RECORDS = "81ae9e6c417ba512145b0b1e07a260b1f46ea877dfeacfd6838e80609a2a9c43"
"""SHA-256 of what is known of these pictures, without what the rasteriser decides."""


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return [picture_of(number, index) for number in SPLITS["test"][:40] for index in range(4)]


def named(picture: Picture) -> dict[str, np.ndarray]:
    return dict(zip(COCO_KEYPOINTS, picture.keypoints, strict=True))


def pixel(picture: Picture, point: np.ndarray) -> tuple[int, int]:
    size = len(picture.labels)
    column, row = (min(int(value * size), size - 1) for value in point[:2])
    return row, column


# The same numbers, the same picture


def test_the_same_numbers_give_the_same_pixels_in_any_order():
    first = [picture_of(*example) for example in EXAMPLES[:4]]
    again = [picture_of(*example) for example in reversed(EXAMPLES[:4])][::-1]
    for one, other in zip(first, again, strict=True):
        assert (one.pixels == other.pixels).all() and (one.labels == other.labels).all()
        assert record(one) == record(other)
    assert (picture_of(0, 0, seed=1).pixels != first[0].pixels).any()


def thumbnails() -> np.ndarray:
    small = [
        Image.fromarray(picture_of(*example).pixels).resize((32, 32), Image.Resampling.BOX) for example in EXAMPLES
    ]
    return np.concatenate([np.asarray(each) for each in small], axis=1)


def test_a_version_of_the_world_keeps_its_pictures():
    """Another release of skia may round a few pixels otherwise; anything else asks for another `WORLD_VERSION`.

    To make the reference of a new version: Image.fromarray(thumbnails()).save(REFERENCE).
    """
    difference = np.abs(thumbnails().astype(float) - np.asarray(Image.open(REFERENCE)).astype(float))
    assert difference.mean() < 0.5 and difference.max() < 16


def test_a_version_of_the_world_keeps_what_is_known():
    known = []
    for example in EXAMPLES:
        entry = record(picture_of(*example))
        joints = [[round(value, 4) for value in point[:2]] for point in entry["keypoints"]]
        known.append([entry[name] for name in ("person", "caption", "attributes", "identity")] + [joints])
    assert hashlib.sha256(json.dumps(known).encode()).hexdigest() == RECORDS


def test_size_adds_detail_and_changes_nothing_else():
    small, large = picture_of(700, 5, size=96), picture_of(700, 5, size=256)
    assert small.pixels.shape == (96, 96, 3) and large.pixels.shape == (256, 256, 3)
    assert np.allclose(small.keypoints[:, :2], large.keypoints[:, :2])
    shrunk = np.asarray(Image.fromarray(large.pixels).resize((96, 96), Image.Resampling.BOX)).astype(float)
    assert np.abs(shrunk - small.pixels).mean() < 6


@pytest.mark.parametrize(("picture", "size", "message"), [(-1, 128, "no picture -1"), (0, 32, "at least 64")])
def test_impossible_pictures_are_refused(picture: int, size: int, message: str):
    with pytest.raises(ValueError, match=message):
        picture_of(0, picture, size=size)


# What is known agrees with what is seen


def test_joints_that_are_seen_lie_on_the_person(pictures: list[Picture]):
    expected = {
        "shoulder": {parts.TOP, parts.SKIN, parts.HAIR}, "elbow": {parts.TOP, parts.SKIN},
        "wrist": {parts.TOP, parts.SKIN},
        "hip": {parts.TOP, parts.BOTTOMS, parts.SKIN}, "knee": {parts.SKIN, parts.BOTTOMS, parts.TOP, parts.SHOES},
        "ankle": {parts.SKIN, parts.BOTTOMS, parts.SHOES}, "nose": {parts.FACE}, "eye": {parts.FACE, parts.HAIR},
        "ear": {parts.FACE},
    }  # fmt: skip
    seen = 0
    for picture in pictures:
        x0, y0, x1, y1 = picture.person_box
        for name, (x, y, visibility) in named(picture).items():
            assert 0 <= x <= 1 and 0 <= y <= 1 and visibility in (0, 1)
            if visibility:
                seen += 1
                assert x0 <= x <= x1 and y0 <= y <= y1
                assert int(picture.labels[pixel(picture, (x, y))]) in expected[name.split("_")[-1]], name
    assert seen > 0.6 * 17 * len(pictures)


def test_what_is_outside_or_behind_something_is_not_seen(pictures: list[Picture]):
    hidden = outside = 0
    for picture in pictures:
        for point in picture.keypoints:
            on_person = picture.labels[pixel(picture, point)] > 0
            if min(point[0], point[1]) <= 0 or max(point[0], point[1]) >= 1:
                outside += 1
                assert point[2] == 0
            elif not on_person:
                hidden += 1
                assert point[2] == 0
    assert hidden > 10 and outside > 100


def test_skin_has_the_colour_of_the_person(pictures: list[Picture]):
    plain = [
        each
        for each in pictures
        if each.scene.style == "flat"
        and each.scene.identity.beard != "stubble"
        and each.scene.identity.face.glasses == "none"
    ]
    assert len(plain) > 8
    for picture in plain:
        face = picture.pixels[picture.labels == parts.FACE]
        if len(face) > 400:
            median = tuple(np.median(face, axis=0).astype(int).tolist())
            assert distance(median, picture.scene.identity.skin) < 12


def test_left_and_right_are_the_persons_own(pictures: list[Picture]):
    for picture in pictures:
        points = named(picture)
        if points["left_shoulder"][2] and points["right_shoulder"][2]:
            assert points["left_shoulder"][0] > points["right_shoulder"][0]


def test_boxes_hold_what_they_say(pictures: list[Picture]):
    for picture in pictures:
        rows, columns = np.nonzero(picture.labels)
        size = len(picture.labels)
        assert picture.person_box == (
            columns.min() / size,
            rows.min() / size,
            (columns.max() + 1) / size,
            (rows.max() + 1) / size,
        )
        nose = named(picture)["nose"]
        if picture.face_box is not None:
            x0, y0, x1, y1 = picture.face_box
            assert x0 < x1 and y0 < y1
            assert x0 <= nose[0] <= x1 and y0 <= nose[1] <= y1
    assert sum(each.face_box is not None for each in pictures) > 0.9 * len(pictures)


def scenes(**asked: object) -> Iterator[Scene]:
    """Of many people, in plain colours; those in which something is as asked."""
    for number in SPLITS["train"]:
        for index in range(10):
            found = scene(identity(number), index)
            if all(getattr(found, name) == value for name, value in asked.items()):
                yield replace(found, style="flat", occluder=False)


def changed(one: Picture, other: Picture) -> np.ndarray:
    return (one.pixels != other.pixels).any(axis=-1)


def test_hair_hides_the_eyes_where_the_labels_say_hair():
    near = (each for each in scenes(framing="portrait") if each.identity.hair_shape in ("bob", "long", "waves"))
    for each in itertools.islice((each for each in near if each.identity.face.glasses == "none"), 30):
        face = each.identity.face
        small, large = (
            draw_scene(replace(each, identity=replace(each.identity, face=replace(face, eye_size=size))), size=256)
            for size in (0.8, 1.25)
        )
        hair = small.labels == parts.HAIR
        # But for its soft edge.
        for axis, step in itertools.product((0, 1), (-1, 1)):
            hair &= np.roll(hair, step, axis)
        assert changed(small, large).any() and not (changed(small, large) & hair).any()


def test_the_nose_is_drawn_where_its_keypoint_is():
    turned = (each for each in scenes(framing="portrait", mouth_open=0.0) if abs(each.pose.head_yaw) > 0.35)
    for each in itertools.islice(turned, 10):
        face = replace(each.identity.face, glasses="none")
        narrow, wide = (
            draw_scene(replace(each, identity=replace(each.identity, face=replace(face, nose_width=width))), size=256)
            for width in (0.08, 0.17)
        )
        columns = np.nonzero(changed(narrow, wide).any(axis=0))[0]
        assert abs((columns.min() + columns.max()) / 2 - 256 * named(narrow)["nose"][0]) < 2


@pytest.mark.parametrize(("share", "is_seen"), [(0.31, False), (0.36, True), (1.0, True)])
def test_a_face_box_needs_a_third_of_the_face(share: float, is_seen: bool):
    size = 512
    person = figure(scene(identity(0), 0))
    unit, head = 0.25, person.head
    centre = head.point(0.0, 0.12) * unit
    rows, columns = np.mgrid[:size, :size] / size
    across, down = head.half * head.width * 0.98 * unit, head.half * 0.9 * unit
    face = ((columns - 0.5) / across) ** 2 + ((rows - 0.5) / down) ** 2 <= 1
    seen = face & (np.cumsum(face).reshape(face.shape) <= share * face.sum())
    assert (_face_box(person, 0.5 + 0.5j - centre, unit, seen * parts.HEAD) is not None) == is_seen


@pytest.mark.parametrize("kind", ["t-shirt", "tank top", "dress"])
def test_skin_at_the_neck_is_called_skin(kind: str):
    top = Top(kind=kind, colour="blue", accent="white", pattern="plain", pattern_scale=1.0)
    for each in itertools.islice(scenes(framing="portrait", cut=0.0), 5):
        picture = draw_scene(replace(each, garment=top))
        cloth = picture.pixels[picture.labels == parts.TOP].astype(int)
        assert len(cloth) > 50
        bare = np.abs(cloth - each.identity.skin).sum(axis=1) < 12
        assert bare.mean() < 0.01


# What the caption speaks of is seen


def test_every_pattern_of_every_garment_is_seen():
    each = next(scenes(action="standing", framing="full body", cut=0.0))
    tops = [other_top(Draws("tops", number)) for number in range(2000)]
    tops += [identity(number).top for number in SPLITS["train"]]
    kinds = {(top.kind, top.pattern) for top in tops if top.pattern != "plain"}
    assert len(kinds) == 6 * 5 and {top.kind for top in tops} - {kind for kind, _ in kinds} == {"jacket"}
    for kind, pattern in kinds:
        top = Top(kind=kind, colour="blue", accent="white", pattern=pattern, pattern_scale=1.0)
        drawn = draw_scene(replace(each, garment=top))
        differs = changed(drawn, draw_scene(replace(each, garment=replace(top, pattern="plain"))))
        assert differs[drawn.labels == parts.TOP].mean() > 0.02, (kind, pattern)


def test_the_frame_cuts_off_nothing_that_the_caption_speaks_of():
    counts = {"hands": 0, "balloons": 0, "patterns": 0, "cuts": 0}
    for each in itertools.islice(scenes(), 500):
        picture = draw_scene(each, size=64)
        if each.cut:
            counts["cuts"] += 1
            assert picture.person_box[0 if each.cut < 0 else 2] == (0 if each.cut < 0 else 1)
            assert 0 < named(picture)["nose"][0] < 1
        if each.pose.hands:
            for side in each.pose.hands:
                x, y, _ = named(picture)[("left_wrist", "right_wrist")[side]]
                counts["hands"] += 1
                assert 0.01 < x < 0.99 and 0.01 < y < 0.99, (each.identity.number, each.picture)
        if each.balloon_colour:
            differs = changed(draw_scene(each), draw_scene(replace(each, balloon_colour="black")))
            counts["balloons"] += 1
            assert differs.sum() > 100
            assert not (differs[0].any() or differs[:, 0].any() or differs[:, -1].any())
        if each.garment is not None and each.garment.pattern != "plain":
            plain = replace(each, garment=replace(each.garment, pattern="plain"))
            counts["patterns"] += 1
            # An arm may cover most of a star.
            assert changed(draw_scene(each), draw_scene(plain)).sum() > 10, (each.identity.number, each.picture)
    assert min(counts.values()) >= 20
    cuts = [scene(identity(number), index).cut != 0 for number in SPLITS["train"][:300] for index in range(10)]
    assert 0.09 < np.mean(cuts) < 0.11


@pytest.mark.parametrize("action", ACTIONS)
def test_bones_keep_their_length_in_space_and_most_of_it_in_the_picture(action: str):
    for number in range(20):
        bones = identity(number).bones
        joints = pose(action, bones, Draws("test", action, number)).joints
        for (name, ends), length in zip(BONES.items(), bones, strict=True):
            for start, end in ends:
                way = joints[end] - joints[start]
                assert np.linalg.norm(way) == pytest.approx(length)
                assert MIN_FORESHORTENING - 1e-6 <= np.linalg.norm(way[:2]) / length, (name, number)
