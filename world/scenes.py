"""What happens in one picture: everything that is not the person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .captions import PLACES, Framing, Place, Style, describe
from .colours import CLOTH, Colour, mixed
from .draws import Draws
from .identities import HIGH_PATTERNS, PATTERNS, WORLD_VERSION, Identity, Top, other_top
from .poses import ACTIONS, Action, Pose, pose

FRAMINGS: tuple[Framing, ...] = ("full body",) * 5 + ("half body",) * 3 + ("portrait",) * 2
"""Of ten pictures in a row of one person: everybody is seen as often from far and near."""

IN_FRAMING: dict[Framing, tuple[Action, ...]] = {
    "full body": ACTIONS,
    "half body": ("standing", "waving", "cheering", "hands on hips", "pointing", "thinking", "balloon"),
    "portrait": ("standing", "standing", "thinking"),
}
"""Actions that can be seen."""

GARMENT_SHARE, OCCLUDER_SHARE = 0.4, 0.18
CUT_SHARE = 0.12
"""Of the pictures whose action is not one of both hands; a tenth of all."""
STYLE_WEIGHTS: dict[Style, float] = {"photo": 0.58, "flat": 0.14, "sketch": 0.14, "watercolour": 0.14}

LIGHTS: dict[str, Colour] = {
    "neutral": (255, 255, 255),
    "warm": (255, 240, 218),
    "cold": (226, 240, 255),
    "dim": (214, 210, 216),
}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One picture of one person.

    Attributes:
        identity, picture: whose, and which.
        place_colour: name of the colour of a plain wall, else "".
        balloon_colour: name of the colour of the balloon, else "".
        garment: what is worn in the place of the person's own top, or None.
        smile, mouth_open: 0 to 1.
        light: name in `LIGHTS`.
        brightness: 1 is neutral.
        light_side: where the light comes from: -1 left, 1 right.
        vignette: darkness of the corners, 0 to 1.
        fill: how much of the room there is the person takes, 0 to 1.
        shift_x, shift_y: -1 to 1 of the room that is left.
        cut: share of the person's width that lies outside the frame, negative at the left; less where the face or a
            hand that acts would be cut off.
        occluder: whether something stands before the person.
        draws_key: for what is drawn with random details, see `draws`.
    """

    identity: Identity
    picture: int
    caption: str
    place: Place
    place_colour: str
    action: Action
    balloon_colour: str
    pose: Pose
    style: Style
    framing: Framing
    garment: Top | None
    smile: float
    mouth_open: float
    light: str
    brightness: float
    light_side: Literal[-1, 1]
    vignette: float
    fill: float
    shift_x: float
    shift_y: float
    cut: float
    occluder: bool
    draws_key: tuple[object, ...]

    @property
    def top(self) -> Top:
        """What is worn in this picture."""
        return self.garment or self.identity.top

    def draws(self, what: str) -> Draws:
        """Random numbers for a detail of this picture."""
        return Draws(*self.draws_key, what)


def scene(identity: Identity, picture: int) -> Scene:
    """The picture with this number, from 0 on, of a person.

    Nothing that a caption can name depends on who the person is.
    """
    key = (WORLD_VERSION, identity.seed, identity.number, picture)
    block = Draws(WORLD_VERSION, identity.seed, identity.number, "framings", picture // len(FRAMINGS))
    framing = block.shuffled(FRAMINGS)[picture % len(FRAMINGS)]
    draws = Draws(*key, "scene")
    action = draws.choice(IN_FRAMING[framing])
    place = draws.choice(PLACES)
    style = draws.weighted(STYLE_WEIGHTS)
    patterns = HIGH_PATTERNS if framing == "portrait" else PATTERNS
    garment = other_top(draws, patterns) if draws.chance(GARMENT_SHARE) else None
    place_colour = draws.choice(list(CLOTH)) if place == "wall" else ""
    balloon_colour = draws.choice(("red", "yellow", "blue", "green", "pink")) if action == "balloon" else ""
    posed = pose(action, identity.bones, Draws(*key, "pose"))
    return Scene(
        identity=identity,
        picture=picture,
        caption=describe(
            place=place,
            place_colour=place_colour,
            action=action,
            balloon_colour=balloon_colour,
            style=style,
            framing=framing,
            garment=garment,
            draws=Draws(*key, "caption"),
        ),
        place=place,
        place_colour=place_colour,
        action=action,
        balloon_colour=balloon_colour,
        pose=posed,
        style=style,
        framing=framing,
        garment=garment,
        smile=draws.uniform(0.35, 1),
        mouth_open=draws.uniform(0.3, 1) if draws.chance(0.4) else 0.0,
        light=draws.weighted({"neutral": 3, "warm": 1.5, "cold": 1, "dim": 0.8}),
        brightness=draws.uniform(0.88, 1.1),
        light_side=-1 if draws.chance(0.6) else 1,
        vignette=draws.uniform(0, 0.3),
        fill=draws.uniform(0, 1),
        shift_x=draws.uniform(-1, 1),
        shift_y=draws.uniform(-1, 1),
        cut=_cut(posed.hands, draws),
        occluder=draws.chance(OCCLUDER_SHARE),
        draws_key=key,
    )


def _cut(hands: Sequence[int], draws: Draws) -> float:
    """See `Scene.cut`; never where the hand is that the caption speaks of."""
    if not draws.chance(CUT_SHARE) or len(hands) > 1:
        return 0.0
    side = draws.side()
    if hands:
        # The left hand is to the right of the picture.
        side = -1 if hands[0] == 0 else 1
    return side * draws.uniform(0.2, 0.34)


def wall_colour(name: str) -> Colour:
    """Walls are paler than cloth."""
    return mixed(CLOTH[name], (236, 232, 226), 0.42)
