"""Who lives in the world: everything about a person that is the same in all pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ..models.keypoints import AVERAGE_PROPORTIONS, BONES
from .colours import CLOTH, EYES, HAIR, SKIN, Colour, distance, jittered
from .draws import Draws

WORLD_VERSION = 1
"""To be raised when the same numbers would give another person, caption or picture."""

Split = Literal["train", "validation", "test", "demo", "metrics", "base"]

SPLITS: dict[Split, range] = {
    "train": range(600),
    "validation": range(600, 700),
    "test": range(700, 800),
    "demo": range(800, 820),
    "metrics": range(1000, 2000),
    "base": range(2000, 6000),
}
"""Numbers of the people in each split. From `base` the base model and the encoders learn, from `metrics` the networks
that judge the others."""

HairShape = Literal[
    "bald", "buzz", "short", "quiff", "curls", "afro", "bob", "long", "waves", "bun", "ponytail", "pigtails"
]
Beard = Literal["none", "stubble", "moustache", "goatee", "full"]
Glasses = Literal["none", "round", "square"]
TopKind = Literal["t-shirt", "sweater", "shirt", "hoodie", "jacket", "tank top", "dress"]
Pattern = Literal["plain", "striped", "dotted", "checked", "colour-block", "emblem"]
BottomsKind = Literal["trousers", "shorts", "skirt"]

HAIR_SHAPES: dict[HairShape, float] = {
    "bald": 0.6, "buzz": 0.8, "short": 1.2, "quiff": 1, "curls": 1, "afro": 0.9, "bob": 1, "long": 1, "waves": 1,
    "bun": 0.9, "ponytail": 0.9, "pigtails": 0.7,
}  # fmt: skip
SHORT_HAIR: tuple[HairShape, ...] = ("bald", "buzz", "short", "quiff", "curls", "afro")
DYED = ("pink", "blue", "green", "purple")
HAIR_WEIGHTS = {name: 0.25 if name in DYED else 1.0 for name in HAIR}

TOP_KINDS = get_args(TopKind)
PATTERNS: dict[Pattern, float] = {
    "plain": 2.2, "striped": 1, "dotted": 0.7, "checked": 0.7, "colour-block": 0.8, "emblem": 0.8,
}  # fmt: skip
HIGH_PATTERNS = {pattern: weight for pattern, weight in PATTERNS.items() if pattern not in ("colour-block", "emblem")}
"""Those that are seen of clothes of which only the shoulders are."""


@dataclass(frozen=True, kw_only=True)
class Face:
    """Shape of a face, in halves of the head's height unless noted.

    Attributes:
        width: half of the widest place.
        cheek, jaw, chin: width at these heights, as fractions of it.
        eye_spacing: angle between the face's middle and an eye, in radians.
        eye_size, eye_tilt: 1 is average; radians, positive where the outer corner is higher.
        brow_thickness, brow_height, brow_tilt: of the eyebrows; the tilt in radians, positive where the inner end is
            higher.
        nose_width, nose_length, mouth_width, lips, ears: sizes.
        freckles: whether there are some.
    """

    width: float
    cheek: float
    jaw: float
    chin: float
    eye_spacing: float
    eye_size: float
    eye_tilt: float
    eye_colour: str
    brow_thickness: float
    brow_height: float
    brow_tilt: float
    nose_width: float
    nose_length: float
    mouth_width: float
    lips: float
    ears: float
    freckles: bool
    glasses: Glasses
    glasses_colour: Colour


@dataclass(frozen=True, kw_only=True)
class Top:
    """What is worn above, or all over.

    Attributes:
        colour, accent: their names, in `colours.CLOTH`; the accent is that of the pattern, or of what is worn below a
            jacket.
        pattern_scale: 1 is average.
    """

    kind: TopKind
    colour: str
    accent: str
    pattern: Pattern
    pattern_scale: float


@dataclass(frozen=True, kw_only=True)
class Identity:
    """One person.

    Attributes:
        number, seed: what everything else follows from.
        skin, hair: colours as they are drawn.
        skin_tone, hair_colour: what they are called: number in `colours.SKIN`, name in `colours.HAIR`.
        bones: lengths in the order of `models.keypoints.BONES`, in torsos of the average adult.
        build: thickness of body and limbs; 1 is average.
        head: height of the head; 1 is average.
        top, bottoms, bottoms_colour, shoes_colour, boots: clothes, unless the caption names others.
    """

    number: int
    seed: int
    skin_tone: int
    skin: Colour
    hair_shape: HairShape
    hair_colour: str
    hair: Colour
    hair_side: int
    beard: Beard
    face: Face
    bones: tuple[float, ...]
    build: float
    head: float
    top: Top
    bottoms: BottomsKind
    bottoms_colour: str
    shoes_colour: str
    boots: bool


def split_of(number: int) -> Split:
    """Which split a person belongs to.

    Raises:
        ValueError: to none.
    """
    for split, numbers in SPLITS.items():
        if number in numbers:
            return split
    ranges = ", ".join(f"{split} {numbers.start} to {numbers.stop - 1}" for split, numbers in SPLITS.items())
    raise ValueError(f"There is no person {number}. The people of the world are: {ranges}.")


def identity(number: int, *, seed: int = 0) -> Identity:
    """The person with this number in the world of this seed."""
    draws = Draws(WORLD_VERSION, seed, number, "identity")
    skin_tone = draws.integer(0, len(SKIN) - 1)
    skin = jittered(SKIN[skin_tone], draws, 8)
    hair_shape = draws.weighted(HAIR_SHAPES)
    hair_colour = draws.weighted(_hair_weights(skin, dyed=hair_shape != "bald"))
    hair = jittered(HAIR[hair_colour], draws, 8)
    beard: Beard = "none"
    if hair_shape in SHORT_HAIR and draws.chance(0.45):
        beard = draws.choice(("stubble", "moustache", "goatee", "full", "full"))
    face = _face(draws)
    bones = _bones(draws)
    top = _own_top(draws, skin, dress=beard == "none" and hair_shape not in ("bald", "buzz", "short", "quiff"))
    bottoms: BottomsKind = draws.weighted({"trousers": 5, "shorts": 2, "skirt": 2 if beard == "none" else 0})
    return Identity(
        number=number,
        seed=seed,
        skin_tone=skin_tone,
        skin=skin,
        hair_shape=hair_shape,
        hair_colour=hair_colour,
        hair=hair,
        hair_side=draws.side(),
        beard=beard,
        face=face,
        bones=bones,
        build=math.exp(draws.uniform(-0.26, 0.3)),
        head=math.exp(draws.uniform(-0.07, 0.07)),
        top=top,
        bottoms=bottoms,
        bottoms_colour=draws.choice(
            [
                name
                for name in CLOTH
                if name not in (top.colour, "pink", "yellow", "orange") and distance(CLOTH[name], skin) > 60
            ]
        ),
        shoes_colour=draws.choice(("black", "white", "red", "brown", "blue", "yellow", "grey")),
        boots=draws.chance(0.3),
    )


def _hair_weights(skin: Colour, *, dyed: bool) -> dict[str, float]:
    """Hair that can be told from the skin around it."""
    return {
        name: weight
        for name, weight in HAIR_WEIGHTS.items()
        if distance(HAIR[name], skin) > 60 and (dyed or name not in DYED)
    }


def _bones(draws: Draws) -> tuple[float, ...]:
    """Arms and legs are long or short as a whole, and their halves differ besides."""
    arms, legs = draws.uniform(-0.2, 0.2), draws.uniform(-0.24, 0.24)
    spread = {
        "shoulder_width": draws.uniform(-0.3, 0.26),
        "hip_width": draws.uniform(-0.3, 0.28),
        "torso": draws.uniform(-0.16, 0.16),
        "upper_arm": arms + draws.uniform(-0.12, 0.12),
        "forearm": arms + draws.uniform(-0.12, 0.12),
        "thigh": legs + draws.uniform(-0.12, 0.12),
        "shin": legs + draws.uniform(-0.12, 0.12),
    }
    return tuple(AVERAGE_PROPORTIONS[bone] * math.exp(spread[bone]) for bone in BONES)


def _face(draws: Draws) -> Face:
    return Face(
        width=draws.uniform(0.72, 0.92),
        cheek=draws.uniform(0.94, 1.02),
        jaw=draws.uniform(0.66, 0.92),
        chin=draws.uniform(0.24, 0.5),
        eye_spacing=draws.uniform(0.4, 0.56),
        eye_size=draws.uniform(0.82, 1.25),
        eye_tilt=draws.uniform(-0.16, 0.2),
        eye_colour=draws.choice(list(EYES)),
        brow_thickness=draws.uniform(0.045, 0.11),
        brow_height=draws.uniform(0.24, 0.34),
        brow_tilt=draws.uniform(-0.06, 0.24),
        nose_width=draws.uniform(0.08, 0.17),
        nose_length=draws.uniform(0.24, 0.42),
        mouth_width=draws.uniform(0.22, 0.4),
        lips=draws.uniform(0.3, 1.0),
        ears=draws.uniform(0.8, 1.3),
        freckles=draws.chance(0.15),
        glasses=draws.weighted({"none": 3.2, "round": 0.5, "square": 0.5}),
        glasses_colour=draws.choice([(38, 36, 42), (150, 40, 48), (48, 70, 130), (120, 84, 50)]),
    )


def _own_top(draws: Draws, skin: Colour, *, dress: bool) -> Top:
    """In a colour that can be told from bare arms."""
    colours = [name for name in CLOTH if distance(CLOTH[name], skin) > 70]
    return _top(draws, [kind for kind in TOP_KINDS if dress or kind != "dress"], colours, PATTERNS)


def other_top(draws: Draws, patterns: Mapping[Pattern, float] = PATTERNS) -> Top:
    """What somebody wears for once: anything, whoever it is, so that its name in a caption tells nothing else."""
    return _top(draws, [kind for kind in TOP_KINDS if kind != "dress"], list(CLOTH), patterns)


def _top(draws: Draws, kinds: Sequence[TopKind], colours: Sequence[str], patterns: Mapping[Pattern, float]) -> Top:
    kind = draws.choice(kinds)
    colour = draws.choice(colours)
    accent = draws.choice([name for name in CLOTH if distance(CLOTH[name], CLOTH[colour]) > 120])
    pattern = draws.weighted(patterns)
    return Top(
        kind=kind,
        colour=colour,
        accent=accent,
        # It is open in front.
        pattern="plain" if kind == "jacket" else pattern,
        pattern_scale=draws.uniform(0.8, 1.3),
    )
