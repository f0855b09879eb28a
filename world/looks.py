"""What a picture shows of its person, in words that captions never use: looks, figure, and where the limbs are.

A large Stable Diffusion has read "red hair" and "with one hand raised" beside millions of pictures, and an adapter can
build on what it knows. A base model that has learned from captions that are silent about people knows nothing of the
kind; so a part of its captions, and of no other network's, goes on with these words. Captions themselves stay silent
(see `captions`): a prompt says nothing of who it is unless somebody writes it there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from ..models.keypoints import AVERAGE_PROPORTIONS, JOINTS
from .captions import article
from .colours import CLOTH, EYES, HAIR
from .draws import Draws
from .identities import PATTERNS, TOP_KINDS, BottomsKind, Glasses

SKINS = ("very pale", "pale", "light", "tanned", "light brown", "brown", "dark brown", "very dark")
"""By number of the tone, from light to dark."""

HAIRCUTS: Mapping[str, str] = {
    "bald": "a bald head",
    "buzz": "a {colour} buzz cut",
    "short": "short {colour} hair",
    "quiff": "a {colour} quiff",
    "curls": "{colour} curls",
    "afro": "a {colour} afro",
    "bob": "a {colour} bob",
    "long": "long {colour} hair",
    "waves": "long wavy {colour} hair",
    "bun": "{colour} hair in a bun",
    "ponytail": "{colour} hair in a ponytail",
    "pigtails": "{colour} hair in pigtails",
}
BEARDS: Mapping[str, str] = {
    "stubble": "{colour} stubble",
    "moustache": "a {colour} moustache",
    "goatee": "a {colour} goatee",
    "full": "a full {colour} beard",
}
LEGWEAR: Mapping[BottomsKind, str] = {
    "trousers": "{colour} trousers",
    "shorts": "{colour} shorts",
    "skirt": "a {colour} skirt",
}
PATTERN_WORDS: Mapping[str, str] = {
    "plain": "",
    "striped": "striped ",
    "dotted": "dotted ",
    "checked": "checked ",
    "colour-block": "two-coloured ",
    "emblem": "",
}

REMARKABLE = 0.12
"""From here on a length is worth a word: the logarithm of its ratio to the average adult's."""
FIGURE: Sequence[tuple[Sequence[str], str, str]] = (
    (("upper_arm", "forearm"), "short arms", "long arms"),
    (("thigh", "shin"), "short legs", "long legs"),
    (("shoulder_width",), "narrow shoulders", "broad shoulders"),
    (("hip_width",), "narrow hips", "wide hips"),
)
"""Bones, and what is said of short and of long ones."""
SLIM, HEAVY = "a slim build", "a heavy build"

ROWS = ("top", "upper", "middle", "lower", "bottom")
COLUMNS = ("far left", "left", "centre", "right", "far right")
LIMBS = {joint: joint.replace("_", " ").replace("wrist", "hand").replace("ankle", "foot") for joint in JOINTS}

SAID = 0.5
"""Probability of each thing to be said of looks and figure."""
PLACED = 0.35
"""Likewise, of each limb where it is."""


def looks(identity: Mapping[str, Any], attributes: Mapping[str, Any], joints: Sequence[Sequence[float]]) -> list[str]:
    """What can be said of a person's looks in a picture: legwear and shoes only where they are seen.

    Args:
        identity, attributes: of the oracle's file.
        joints: [12, 3] x, y in 0 to 1, visibility.
    """
    seen = {joint for joint, (_, _, visibility) in zip(JOINTS, joints, strict=True) if visibility > 0}
    colour = identity["hair_colour"]
    phrases = [f"{SKINS[identity['skin_tone']]} skin", _filled(HAIRCUTS[identity["hair_shape"]], colour)]
    if identity["beard"] != "none":
        phrases.append(_filled(BEARDS[identity["beard"]], colour))
    if identity["glasses"] != "none":
        phrases.append(f"{identity['glasses']} glasses")
    phrases.append(f"{identity['eye_colour']} eyes")
    if identity["freckles"]:
        phrases.append("freckles")
    if attributes["garment"] is None:
        phrases.append(_top(identity["top_pattern"], identity["top_colour"], identity["top_kind"]))
    if attributes["top_kind"] != "dress" and seen & {"left_knee", "right_knee"}:
        phrases.append(_filled(LEGWEAR[identity["bottoms"]], identity["bottoms_colour"]))
    if seen & {"left_ankle", "right_ankle"}:
        phrases.append(f"{identity['shoes_colour']} shoes")
    return phrases


def figure(identity: Mapping[str, Any]) -> list[str]:
    """What is remarkable of a person's figure."""
    phrases = []
    for bones, short, long in FIGURE:
        ratio = sum(math.log(identity["bones"][bone] / AVERAGE_PROPORTIONS[bone]) for bone in bones) / len(bones)
        if abs(ratio) > REMARKABLE:
            phrases.append(long if ratio > 0 else short)
    if abs(math.log(identity["build"])) > REMARKABLE:
        phrases.append(HEAVY if identity["build"] > 1 else SLIM)
    return phrases


def places(joints: Sequence[Sequence[float]]) -> list[str]:
    """Where the joints are in the picture, those that are seen."""
    return [
        f"{limb} {_word(ROWS, y)} {_word(COLUMNS, x)}"
        for limb, (x, y, seen) in zip(LIMBS.values(), joints, strict=True)
        if seen > 0
    ]


def with_looks(
    caption: str,
    *,
    identity: Mapping[str, Any],
    attributes: Mapping[str, Any],
    joints: Sequence[Sequence[float]],
    draws: Draws,
) -> str:
    """A caption that goes on with some of what the picture shows of its person, in any order."""
    said = [phrase for phrase in (*looks(identity, attributes, joints), *figure(identity)) if draws.chance(SAID)]
    placed = [phrase for phrase in places(joints) if draws.chance(PLACED)]
    return ", ".join((caption, *draws.shuffled(said), *draws.shuffled(placed)))


def every_phrase() -> list[str]:
    """All that can be said, for a vocabulary."""
    hair = [*HAIRCUTS.values(), *BEARDS.values()]
    return [
        *(f"{skin} skin" for skin in SKINS),
        *(_filled(template, colour) for template in hair for colour in HAIR),
        *(f"{shape} glasses" for shape in get_args(Glasses) if shape != "none"),
        "freckles",
        *(f"{colour} eyes" for colour in EYES),
        *(_top(pattern, colour, kind) for pattern in PATTERNS for colour in CLOTH for kind in TOP_KINDS),
        *(_filled(template, colour) for template in LEGWEAR.values() for colour in CLOTH),
        *(f"{colour} shoes" for colour in CLOTH),
        *(phrase for _, *phrases in FIGURE for phrase in phrases),
        *(SLIM, HEAVY),
        *(f"{limb} {row} {column}" for limb in LIMBS.values() for row in ROWS for column in COLUMNS),
    ]


def _filled(template: str, colour: str) -> str:
    phrase = template.format(colour=colour)
    return f"{article(phrase[2:])} {phrase[2:]}" if phrase.startswith("a ") else phrase


def _top(pattern: str, colour: str, kind: str) -> str:
    phrase = f"{PATTERN_WORDS[pattern]}{colour} {kind}"
    return f"{article(phrase)} {phrase}"


def _word(words: Sequence[str], coordinate: float) -> str:
    """The word for a place in 0 to 1."""
    return words[min(max(int(coordinate * len(words)), 0), len(words) - 1)]
