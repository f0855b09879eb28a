"""What stands before people, and hides the lower part of them."""

from __future__ import annotations

from . import parts
from .captions import Place
from .colours import CLOTH, Colour, darker, jittered, lighter, mixed
from .draws import Draws
from .places import INDOORS
from .shapes import Brush, circle, polygon, rectangle


def draw_occluder(brush: Brush, place: Place, *, centre: float, top: float, draws: Draws) -> None:
    """Something that hides the lower part of the person, in the square from 0 to 1: from `top` downwards."""
    height = 1 - top
    if place in INDOORS:
        kind = draws.choice(("table", "crate", "plant"))
    elif place == "city":
        kind = draws.choice(("crate", "bush", "sign"))
    else:
        kind = draws.choice(("bush", "fence", "crate"))
    wood: Colour = jittered((164, 120, 80), draws, 16)
    match kind:
        case "table":
            brush.part(
                rectangle(centre - 0.32, top, centre + 0.32, top + 0.07, 0.015), colour=wood, label=parts.BACKGROUND
            )
            for side in (-1, 1):
                x = centre + side * 0.27
                brush.part(
                    rectangle(x - 0.025, top + 0.07, x + 0.025, 1.1), colour=darker(wood, 0.15), label=parts.BACKGROUND
                )
        case "crate":
            half = draws.uniform(0.14, 0.22)
            brush.part(rectangle(centre - half, top, centre + half, 1.1, 0.01), colour=wood, label=parts.BACKGROUND)
            for number in range(1, 4):
                y = top + number * max(height, 0.16) / 4
                brush.fill(rectangle(centre - half, y, centre + half, y + 0.008), darker(wood, 0.45), 0.7)
        case "plant" | "bush":
            leaf = mixed(jittered((84, 142, 82), draws, 16), (60, 80, 140), 0.45 if place == "night" else 0.0)
            if place == "desert":
                leaf = jittered((140, 148, 90), draws, 10)
            half = draws.uniform(0.15, 0.24)
            spots = [(-0.7, 0.3, 0.5), (0.7, 0.28, 0.5), (-0.25, 0.05, 0.55), (0.3, 0.08, 0.52), (0, 0.5, 0.75)]
            shapes = [
                circle(complex(centre + half * x, top + half * (0.45 + y)), half * radius) for x, y, radius in spots
            ]
            below = rectangle(centre - 1.1 * half, top + half * 0.8, centre + 1.1 * half, 1.2, 0.02)
            brush.part(*shapes, below, colour=leaf, label=parts.BACKGROUND)
            for x, y, radius in spots[:4]:
                brush.fill(
                    circle(complex(centre + half * (x - 0.1), top + half * (0.36 + y)), half * radius * 0.4),
                    lighter(leaf, 0.25),
                    0.55,
                )
        case "fence":
            brush.part(
                rectangle(-0.2, top + 0.05, 1.2, top + 0.085),
                rectangle(-0.2, top + 0.19, 1.2, top + 0.225),
                colour=darker(wood, 0.1),
                label=parts.BACKGROUND,
            )
            start = draws.uniform(-0.1, 0)
            posts = []
            for number in range(8):
                x = start + 0.16 * number
                posts.append(
                    polygon(
                        [
                            complex(x, top + 0.025),
                            complex(x + 0.03, top),
                            complex(x + 0.06, top + 0.025),
                            complex(x + 0.06, 1.1),
                            complex(x, 1.1),
                        ]
                    )
                )
            brush.part(*posts, colour=lighter(wood, 0.2), label=parts.BACKGROUND)
        case "sign":
            brush.part(
                rectangle(centre - 0.015, top, centre + 0.015, 1.1), colour=(120, 124, 132), label=parts.BACKGROUND
            )
            board = jittered(draws.choice([CLOTH["blue"], CLOTH["green"], CLOTH["yellow"]]), draws, 10)
            brush.part(
                rectangle(centre - 0.14, top, centre + 0.14, top + 0.14, 0.02), colour=board, label=parts.BACKGROUND
            )
            brush.fill(rectangle(centre - 0.1, top + 0.06, centre + 0.1, top + 0.08), (250, 250, 250), 0.9)
