"""What the base model reads of a person's looks: true of the picture, in words of its vocabulary."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest

from bolid.models.keypoints import FIRST_JOINT, JOINTS
from bolid.world.colours import SKIN
from bolid.world.draws import Draws
from bolid.world.identities import HAIR_SHAPES, PATTERNS, SPLITS
from bolid.world.looks import BEARDS, HAIRCUTS, PATTERN_WORDS, SKINS, every_phrase, figure, looks, places, with_looks
from bolid.world.networks.vocabulary import LENGTH, clip_ids
from bolid.world.pictures import picture_of, record


@dataclass(frozen=True, kw_only=True)
class Seen:
    record: dict[str, Any]
    joints: list[list[float]]

    def described(self, *key: object) -> str:
        return with_looks(
            self.record["caption"],
            identity=self.record["identity"],
            attributes=self.record["attributes"],
            joints=self.joints,
            draws=Draws(*key),
        )


@pytest.fixture(scope="module")
def seen() -> list[Seen]:
    records = [record(picture_of(number, picture, size=64)) for number in SPLITS["base"][:40] for picture in range(4)]
    return [Seen(record=each, joints=each["keypoints"][FIRST_JOINT:]) for each in records]


def test_everything_has_a_word():
    assert len(SKINS) == len(SKIN) and set(HAIRCUTS) == set(HAIR_SHAPES) and set(PATTERN_WORDS) == set(PATTERNS)
    assert set(BEARDS) == {"stubble", "moustache", "goatee", "full"}


def test_what_is_said_is_what_the_picture_shows(seen: list[Seen]):
    for each in seen:
        identity, attributes = each.record["identity"], each.record["attributes"]
        said = looks(identity, attributes, each.joints)
        text = ", ".join(said)
        assert (f"{identity['hair_colour']} " in text) or identity["hair_shape"] == "bald"
        assert ("glasses" in text) == (identity["glasses"] != "none")
        assert ("freckles" in text) == identity["freckles"]
        assert (f"{identity['top_colour']} {identity['top_kind']}" in text) == (attributes["garment"] is None)
        visible = {joint for joint, point in zip(JOINTS, each.joints, strict=True) if point[2] > 0}
        assert ("shoes" in text) == bool(visible & {"left_ankle", "right_ankle"})
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|[{}]", text)


def test_a_figure_is_described_where_it_is_remarkable():
    average = {
        "shoulder_width": 0.75,
        "hip_width": 0.5,
        "upper_arm": 0.65,
        "forearm": 0.51,
        "thigh": 0.85,
        "shin": 0.85,
    }
    assert figure({"bones": average, "build": 1.0}) == []
    tall = {**average, "thigh": 1.0, "shin": 1.0, "hip_width": 0.4}
    assert figure({"bones": tall, "build": 1.3}) == ["long legs", "narrow hips", "a heavy build"]


def test_where_limbs_are():
    nowhere = [0.0, 0.0, 0.0]
    joints = [nowhere] * len(JOINTS)
    joints[JOINTS.index("left_wrist")] = [0.95, 0.05, 1.0]
    joints[JOINTS.index("right_ankle")] = [0.45, 1.1, 1.0]
    assert places(joints) == ["left hand top far right", "right foot bottom centre"]


def test_descriptions_fit_and_are_in_the_vocabulary(seen: list[Seen]):
    known = {number for phrase in every_phrase() for number in clip_ids(phrase)} | set(clip_ids(","))
    for number, each in enumerate(seen):
        text = each.described("fits", number)
        caption = each.record["caption"]
        assert text.startswith(caption)
        assert set(clip_ids(text.removeprefix(caption))) <= known
    lengths = [len(clip_ids(each.described("long", number))) for number, each in enumerate(seen)]
    # What is too long loses its end, of which other draws have another.
    assert sum(length > LENGTH - 2 for length in lengths) < 0.05 * len(lengths)


def test_descriptions_differ_and_follow_from_their_draws(seen: list[Seen]):
    each = seen[0]
    assert each.described("a") == each.described("a")
    assert len({each.described(number) for number in range(20)}) > 15
