"""Colours: what they are called, and how they are mixed."""

from __future__ import annotations

from .draws import Draws

Colour = tuple[int, int, int]
"""Red, green, blue in 0 to 255."""

WHITE: Colour = (255, 255, 255)
SHADOW: Colour = (38, 26, 52)
"""What things are mixed with in the shade: black alone makes dirty colours."""

CLOTH: dict[str, Colour] = {
    "red": (200, 52, 54),
    "orange": (232, 130, 48),
    "yellow": (240, 200, 70),
    "green": (70, 146, 78),
    "teal": (46, 148, 150),
    "blue": (58, 108, 200),
    "navy": (44, 56, 108),
    "purple": (128, 82, 170),
    "pink": (234, 140, 172),
    "brown": (126, 86, 58),
    "black": (50, 50, 56),
    "grey": (142, 147, 154),
    "white": (242, 240, 234),
}

HAIR: dict[str, Colour] = {
    "black": (40, 34, 38),
    "dark brown": (76, 50, 38),
    "brown": (122, 80, 50),
    "light brown": (164, 120, 78),
    "blond": (228, 188, 100),
    "platinum": (242, 230, 196),
    "ginger": (212, 108, 46),
    "auburn": (142, 50, 42),
    "grey": (158, 160, 166),
    "white": (236, 236, 240),
    "pink": (234, 116, 170),
    "blue": (66, 120, 206),
    "green": (84, 164, 110),
    "purple": (136, 90, 184),
}

SKIN: tuple[Colour, ...] = (
    (255, 226, 204),
    (248, 208, 176),
    (236, 188, 148),
    (220, 164, 118),
    (194, 134, 90),
    (158, 104, 68),
    (120, 78, 54),
    (88, 58, 44),
)

EYES: dict[str, Colour] = {
    "brown": (122, 76, 42),
    "dark brown": (72, 46, 34),
    "hazel": (134, 104, 52),
    "green": (72, 132, 84),
    "blue": (70, 126, 196),
    "grey": (116, 130, 142),
}


def mixed(colour: Colour, other: Colour, share: float) -> Colour:
    """`share` of the other colour, 0 to 1."""
    red, green, blue = (round(one + (two - one) * share) for one, two in zip(colour, other, strict=True))
    return red, green, blue


def lighter(colour: Colour, share: float) -> Colour:
    return mixed(colour, WHITE, share)


def darker(colour: Colour, share: float) -> Colour:
    return mixed(colour, SHADOW, share)


def jittered(colour: Colour, draws: Draws, amount: float) -> Colour:
    """A little brighter or darker, warmer or colder."""
    light, warm = draws.uniform(-amount, amount), draws.uniform(-amount, amount) / 2
    red, green, blue = (
        min(max(round(value + light + shift), 0), 255) for value, shift in zip(colour, (warm, 0, -warm), strict=True)
    )
    return red, green, blue


def distance(colour: Colour, other: Colour) -> float:
    """Euclidean, in 0 to 442."""
    return sum((one - two) ** 2 for one, two in zip(colour, other, strict=True)) ** 0.5


def luminance(colour: Colour) -> float:
    """0 to 255."""
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue
