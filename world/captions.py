"""What is said about a picture: place, action, style, and clothes where they are not the person's own.

Never who it is: no word about skin, hair, face, figure or the person's own clothes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from .draws import Draws
from .identities import Pattern, Top, TopKind
from .poses import Action

Place = Literal["wall", "room", "library", "park", "forest", "beach", "desert", "city", "snow", "night"]
PLACES: tuple[Place, ...] = get_args(Place)
Style = Literal["photo", "flat", "sketch", "watercolour"]
STYLES: tuple[Style, ...] = get_args(Style)
Framing = Literal["full body", "half body", "portrait"]

WHO = ("a person", "a person", "someone")

IN_PLACE: Mapping[Place, Sequence[str]] = {
    "wall": ("in front of a {colour} wall", "against a plain {colour} background", "before a {colour} background"),
    "room": ("in a living room", "at home", "in a room with a window"),
    "library": ("in a library", "in front of bookshelves"),
    "park": ("in a park", "on a green meadow", "on the grass in a park"),
    "forest": ("in a forest", "among trees", "in the woods"),
    "beach": ("on the beach", "at the beach", "by the sea"),
    "desert": ("in the desert", "among sand dunes"),
    "city": ("in the city", "on a city street", "in front of tall buildings"),
    "snow": ("in the snow", "in a snowy landscape", "in front of snowy mountains"),
    "night": ("at night", "under a starry sky", "in the moonlight"),
}

DOING: Mapping[Action, Sequence[str]] = {
    "standing": ("standing", "standing still"),
    "waving": ("waving", "waving hello", "waving a hand"),
    "walking": ("walking", "taking a walk"),
    "running": ("running", "running fast"),
    "sitting": ("sitting", "sitting down"),
    "jumping": ("jumping", "jumping in the air"),
    "cheering": ("cheering", "cheering with raised arms", "with both arms raised"),
    "hands on hips": ("with hands on hips", "standing with hands on hips"),
    "pointing": ("pointing to the side", "pointing at something"),
    "dancing": ("dancing", "dancing happily"),
    "thinking": ("thinking", "with a hand on the chin"),
    "balloon": ("holding a {balloon} balloon", "with a {balloon} balloon"),
}
SMILING = ("smiling", "with a smile", "")

MEDIA: Mapping[Style, Sequence[str]] = {
    "photo": ("photo", "photograph", "picture"),
    "flat": ("flat illustration", "flat drawing"),
    "sketch": ("pencil sketch", "coloured pencil drawing"),
    "watercolour": ("watercolour", "watercolour painting"),
}
FRAMED: Mapping[Framing, Sequence[str]] = {
    "full body": ("", "", "full-body "),
    "half body": ("", ""),
    "portrait": ("close-up ", "portrait "),
}

PATTERNED: Mapping[Pattern, str] = {
    "plain": "{colour} {kind}",
    "striped": "striped {colour} and {accent} {kind}",
    "dotted": "{colour} {kind} with {accent} dots",
    "checked": "checked {colour} and {accent} {kind}",
    "colour-block": "{colour} and {accent} {kind}",
    "emblem": "{colour} {kind} with {accent} star",
}
WEARING = ("wearing {garment}", "in {garment}", "dressed in {garment}")

TEMPLATES = (
    "{medium} of {who} {action} {place}, {worn}",
    "{medium} of {who} {worn} {action} {place}",
    "{medium} of {who} {place}, {action}, {worn}",
    "{who} {action} {place}, {worn}, {plain_medium}",
    "{who} {worn}, {action} {place}, {plain_medium}",
)


def describe(
    *,
    place: Place,
    place_colour: str,
    action: Action,
    balloon_colour: str,
    style: Style,
    framing: Framing,
    garment: Top | None,
    draws: Draws,
) -> str:
    """A caption in one of its many wordings.

    Args:
        place_colour: of a plain wall, a name of `colours.CLOTH`.
        balloon_colour: likewise.
        garment: what is worn in the place of the person's own top.
    """
    doing: Sequence[str] = SMILING if framing == "portrait" and action == "standing" else DOING[action]
    plain_medium = draws.choice(FRAMED[framing]) + draws.choice(MEDIA[style])
    parts = {
        "medium": f"{article(plain_medium)} {plain_medium}",
        "plain_medium": plain_medium,
        "who": draws.choice(WHO),
        "action": draws.choice(doing).format(balloon=balloon_colour),
        "place": draws.choice(IN_PLACE[place]).format(colour=place_colour),
        "worn": draws.choice(WEARING).format(garment=garment_phrase(garment)) if garment else "",
    }
    parts = {name: _with_articles(text) for name, text in parts.items()}
    return _tidy(draws.choice(TEMPLATES).format(**parts))


def garment_phrase(garment: Top) -> str:
    """As in "a striped red and white t-shirt"."""
    kind: TopKind = garment.kind
    accent = f"{article(garment.accent)} {garment.accent}" if garment.pattern == "emblem" else garment.accent
    phrase = PATTERNED[garment.pattern].format(colour=garment.colour, accent=accent, kind=kind)
    return f"{article(phrase)} {phrase}"


def article(phrase: str) -> str:
    return "an" if phrase[0] in "aeiou" else "a"


def _with_articles(text: str) -> str:
    """As in "an orange wall", where the colour was filled in."""
    words = text.split(" ")
    for number, word in enumerate(words[:-1]):
        if word == "a" and words[number + 1][:1] in tuple("aeiou"):
            words[number] = "an"
    return " ".join(words)


def _tidy(text: str) -> str:
    """Without the marks around what is not said."""
    pieces = [" ".join(piece.split()) for piece in text.split(",")]
    return ", ".join(piece for piece in pieces if piece)
