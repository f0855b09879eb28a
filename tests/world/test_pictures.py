"""A picture, and whether what is said to be in it is there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bolid.models.keypoints import BONES, COCO_KEYPOINTS
from bolid.world import parts
from bolid.world.colours import distance
from bolid.world.draws import Draws
from bolid.world.identities import SPLITS, WORLD_VERSION, identity
from bolid.world.pictures import Picture, picture_of, record
from bolid.world.poses import ACTIONS, MIN_FORESHORTENING, pose

REFERENCE = Path(__file__).parent / f"version_{WORLD_VERSION}.png"
"""Eight pictures at a quarter of their size, as they were drawn when the version was given."""

EXAMPLES = [(0, 0), (1, 3), (650, 2), (700, 5), (701, 9), (799, 1), (800, 7), (1000, 4)]
RECORDS = "711c13ea526153416810d6171a46db8ad878cb1e46a79291ed97442f1ee1dc4f"
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
    plain = [each for each in pictures if each.scene.style == "flat" and each.scene.identity.beard != "stubble"]
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
