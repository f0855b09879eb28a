"""Where people are. A place is drawn in a square from 0 to 1; the horizon is where the ground begins."""

from __future__ import annotations

import math
from collections.abc import Sequence

import skia

from .captions import Place
from .colours import Colour, darker, jittered, lighter, mixed
from .draws import Draws
from .scenes import wall_colour
from .shapes import circle, colour4, ellipse, polygon, rectangle, smooth

INDOORS: tuple[Place, ...] = ("wall", "room", "library")

AMBIENT: dict[Place, Colour] = {
    "night": (187, 192, 223),
    "forest": (236, 246, 226),
    "beach": (255, 250, 238),
    "snow": (242, 247, 255),
}
"""Light on the person, as a factor of 255."""


class Ground:
    """A canvas for a place."""

    def __init__(self, canvas: skia.Canvas, *, shaded: bool):
        self.canvas, self.shaded = canvas, shaded
        self._paint = skia.Paint(AntiAlias=True)

    def fill(self, path: skia.Path, colour: Colour, alpha: float = 1.0) -> None:
        self._paint.setColor(colour4(colour, alpha))
        self.canvas.drawPath(path, self._paint)

    def band(self, top: float, bottom: float, above: Colour, below: Colour) -> None:
        """A stripe across the picture, from one colour to another."""
        if not self.shaded:
            above = below = mixed(above, below, 0.5)
        shader = skia.GradientShader.MakeLinear(
            points=[skia.Point(0, top), skia.Point(0, bottom)], colors=[colour4(above), colour4(below)]
        )
        self.canvas.drawRect(skia.Rect.MakeLTRB(-1, top, 2, bottom), skia.Paint(Shader=shader))

    def spot(self, centre: complex, radius: float, colour: Colour, alpha: float) -> None:
        if not self.shaded:
            return
        shader = skia.GradientShader.MakeRadial(
            center=skia.Point(centre.real, centre.imag),
            radius=radius,
            colors=[colour4(colour, alpha), colour4(colour, 0)],
        )
        self.canvas.drawCircle(centre.real, centre.imag, radius, skia.Paint(Shader=shader))


def draw_place(canvas: skia.Canvas, place: Place, *, colour: str, horizon: float, shaded: bool, draws: Draws) -> None:
    """Fill the square from 0 to 1, and a margin around it."""
    ground = Ground(canvas, shaded=shaded)
    match place:
        case "wall":
            _wall(ground, wall_colour(colour), horizon, draws)
        case "room":
            _room(ground, horizon, draws)
        case "library":
            _library(ground, horizon, draws)
        case "park":
            _park(ground, horizon, draws)
        case "forest":
            _forest(ground, horizon, draws)
        case "beach":
            _beach(ground, horizon, draws)
        case "desert":
            _desert(ground, horizon, draws)
        case "city":
            _city(ground, horizon, draws)
        case "snow":
            _snow(ground, horizon, draws)
        case "night":
            _night(ground, horizon, draws)


def _wall(ground: Ground, colour: Colour, horizon: float, draws: Draws) -> None:
    ground.band(-0.5, horizon, lighter(colour, 0.18), colour)
    ground.band(horizon, 1.5, darker(colour, 0.12), lighter(colour, 0.1))
    ground.spot(complex(draws.uniform(0.2, 0.8), draws.uniform(0.1, 0.5)), 0.6, lighter(colour, 0.7), 0.45)


def _room(ground: Ground, horizon: float, draws: Draws) -> None:
    wall = jittered(
        draws.choice([(228, 214, 190), (206, 216, 208), (214, 206, 220), (232, 204, 184), (196, 210, 222)]), draws, 8
    )
    floor = jittered(draws.choice([(176, 136, 98), (150, 118, 92), (196, 166, 130), (128, 112, 106)]), draws, 8)
    ground.band(-0.5, horizon, lighter(wall, 0.2), wall)
    ground.band(horizon, 1.5, darker(floor, 0.15), lighter(floor, 0.12))
    ground.fill(rectangle(-0.5, horizon - 0.025, 1.5, horizon), lighter(wall, 0.5))
    side = draws.side()
    window = 0.5 + side * draws.uniform(0.24, 0.34)
    glass = rectangle(window - 0.13, horizon - 0.44, window + 0.13, horizon - 0.14)
    ground.fill(rectangle(window - 0.15, horizon - 0.46, window + 0.15, horizon - 0.12), (246, 242, 236))
    ground.fill(glass, jittered((168, 208, 236), draws, 12))
    ground.fill(rectangle(window - 0.13, horizon - 0.24, window + 0.13, horizon - 0.14), (150, 190, 140), 0.8)
    ground.fill(rectangle(window - 0.006, horizon - 0.44, window + 0.006, horizon - 0.14), (246, 242, 236))
    cloth = jittered(draws.choice([(190, 110, 96), (110, 138, 160), (150, 150, 96), (150, 116, 160)]), draws, 10)
    for edge in (-1, 1):
        x = window + edge * 0.17
        ground.fill(
            smooth(
                [
                    complex(x - 0.04, horizon - 0.48),
                    complex(x + 0.04, horizon - 0.48),
                    complex(x + 0.045, horizon - 0.08),
                    complex(x - 0.045, horizon - 0.08),
                ]
            ),
            cloth,
        )
    other = 0.5 - side * draws.uniform(0.24, 0.36)
    if draws.chance(0.5):
        frame = rectangle(other - 0.1, horizon - 0.42, other + 0.1, horizon - 0.26)
        ground.fill(frame, (110, 84, 62))
        ground.fill(
            rectangle(other - 0.085, horizon - 0.405, other + 0.085, horizon - 0.275),
            jittered((206, 190, 150), draws, 30),
        )
        ground.fill(circle(complex(other, horizon - 0.33), 0.035), jittered((190, 110, 80), draws, 40), 0.8)
    else:
        _lamp(ground, complex(other, horizon), draws)
    if draws.chance(0.6):
        sofa = jittered(draws.choice([(150, 96, 92), (92, 112, 132), (120, 128, 100), (150, 130, 110)]), draws, 10)
        ground.fill(rectangle(other - 0.24, horizon - 0.16, other + 0.24, horizon + 0.06, 0.04), darker(sofa, 0.12))
        ground.fill(rectangle(other - 0.26, horizon - 0.06, other + 0.26, horizon + 0.08, 0.03), sofa)
    else:
        _plant(ground, complex(other - side * 0.08, horizon + 0.06), 0.22, draws)
    if draws.chance(0.6):
        rug = jittered(draws.choice([(170, 90, 86), (96, 118, 146), (188, 160, 110)]), draws, 10)
        ground.fill(ellipse(complex(0.5, horizon + 0.24), 0.42, 0.09), rug, 0.8)


def _lamp(ground: Ground, foot: complex, draws: Draws) -> None:
    ground.spot(foot - 0.36j, 0.3, (255, 236, 180), 0.55)
    ground.fill(rectangle(foot.real - 0.006, foot.imag - 0.34, foot.real + 0.006, foot.imag), (90, 80, 76))
    ground.fill(
        polygon(
            [
                foot + complex(-0.05, -0.44),
                foot + complex(0.05, -0.44),
                foot + complex(0.08, -0.33),
                foot + complex(-0.08, -0.33),
            ]
        ),
        (250, 232, 190),
    )
    ground.fill(ellipse(foot, 0.05, 0.012), (90, 80, 76))


def _plant(ground: Ground, foot: complex, height: float, draws: Draws) -> None:
    leaf = jittered((78, 136, 84), draws, 16)
    for number in range(7):
        angle = -math.pi / 2 + (number - 3) * 0.32
        tip = foot - 0.07j + height * complex(math.cos(angle), math.sin(angle))
        middle = (foot + tip) / 2
        ground.fill(ellipse(middle, abs(tip - foot) / 2, 0.024, angle), lighter(leaf, 0.12) if number % 2 else leaf)
    pot = jittered((188, 108, 76), draws, 14)
    ground.fill(
        polygon(
            [
                foot + complex(-0.055, -0.09),
                foot + complex(0.055, -0.09),
                foot + complex(0.04, 0),
                foot + complex(-0.04, 0),
            ]
        ),
        pot,
    )


def _library(ground: Ground, horizon: float, draws: Draws) -> None:
    wood = jittered((124, 88, 62), draws, 10)
    ground.band(-0.5, horizon, darker(wood, 0.45), darker(wood, 0.3))
    shelf_height = 0.17
    books = [(158, 70, 64), (64, 98, 128), (188, 152, 84), (82, 116, 84), (128, 90, 130), (198, 184, 160), (96, 88, 92)]
    for row in range(6):
        bottom = horizon - 0.03 - row * shelf_height
        x = -0.05
        while x < 1.05:
            width, height = draws.uniform(0.022, 0.045), draws.uniform(0.09, 0.14)
            if not draws.chance(0.08):
                ground.fill(
                    rectangle(x, bottom - height, x + width - 0.004, bottom),
                    darker(jittered(draws.choice(books), draws, 12), 0.12),
                )
            x += width
        ground.fill(rectangle(-0.5, bottom, 1.5, bottom + 0.02), wood)
    for x in (draws.uniform(0.02, 0.2), draws.uniform(0.75, 0.95)):
        ground.fill(rectangle(x, -0.5, x + 0.025, horizon), darker(wood, 0.1))
    floor = jittered((152, 116, 86), draws, 10)
    ground.band(horizon, 1.5, darker(floor, 0.2), lighter(floor, 0.1))
    ground.spot(complex(0.5, horizon - 0.5), 0.7, (255, 226, 170), 0.3)


def _sky(ground: Ground, horizon: float, draws: Draws, *, evening: float = 0.25) -> None:
    top, bottom = draws.choice(
        [((126, 182, 228), (214, 232, 242)), ((150, 196, 230), (238, 236, 226)), ((158, 176, 198), (222, 226, 230))]
    )
    if draws.chance(evening):
        top, bottom = draws.choice([((124, 132, 184), (246, 192, 150)), ((160, 130, 172), (250, 206, 160))])
    ground.band(-0.5, horizon + 0.02, jittered(top, draws, 8), jittered(bottom, draws, 6))
    for _ in range(draws.integer(1, 3)):
        place = complex(draws.uniform(0, 1), draws.uniform(0.04, max(horizon - 0.25, 0.1)))
        size = draws.uniform(0.05, 0.09)
        for x, y, radius in ((-1, 0.1, 0.6), (0, -0.15, 0.85), (0.9, 0.1, 0.65), (0, 0.25, 0.7)):
            ground.fill(
                ellipse(place + size * complex(x, y), 1.3 * size * radius, 0.7 * size * radius), (255, 255, 255), 0.55
            )


def _tree(ground: Ground, foot: complex, height: float, draws: Draws, leaf: Colour) -> None:
    trunk = (112, 82, 60)
    ground.fill(
        rectangle(foot.real - 0.05 * height, foot.imag - 0.5 * height, foot.real + 0.05 * height, foot.imag), trunk
    )
    crown = foot - 0.68j * height
    for x, y, radius in ((-0.22, 0.08, 0.24), (0.22, 0.06, 0.25), (0, -0.16, 0.28), (0, 0.12, 0.26)):
        ground.fill(circle(crown + height * complex(x, y), radius * height), darker(leaf, 0.06 + 0.1 * (y > 0)))
    for x, y, radius in ((-0.1, -0.18, 0.16), (0.12, -0.06, 0.14)):
        ground.fill(circle(crown + height * complex(x, y), radius * height), lighter(leaf, 0.16), 0.8)


def _fir(ground: Ground, foot: complex, height: float, colour: Colour, snow: bool) -> None:
    ground.fill(
        rectangle(foot.real - 0.03 * height, foot.imag - 0.15 * height, foot.real + 0.03 * height, foot.imag),
        (96, 72, 58),
    )
    for level in range(3):
        base, top, half = (
            foot.imag - (0.12 + 0.24 * level) * height,
            foot.imag - (0.52 + 0.24 * level) * height,
            (0.24 - 0.05 * level) * height,
        )
        ground.fill(
            polygon([complex(foot.real - half, base), complex(foot.real, top), complex(foot.real + half, base)]),
            lighter(colour, 0.06 * level),
        )
        if snow:
            ground.fill(
                polygon(
                    [
                        complex(foot.real - 0.4 * half, top + 0.4 * (base - top)),
                        complex(foot.real, top),
                        complex(foot.real + 0.4 * half, top + 0.4 * (base - top)),
                    ]
                ),
                (244, 248, 252),
                0.9,
            )


def _hills(ground: Ground, horizon: float, height: float, colour: Colour, draws: Draws) -> None:
    points = [complex(x / 4, horizon - draws.uniform(0.2, 1) * height) for x in range(-1, 6)]
    ground.fill(smooth([complex(-0.6, horizon + 0.1), *points, complex(1.6, horizon + 0.1)]), colour)


def _park(ground: Ground, horizon: float, draws: Draws) -> None:
    _sky(ground, horizon, draws)
    grass = jittered((132, 178, 92), draws, 12)
    _hills(ground, horizon, 0.14, mixed(grass, (150, 190, 190), 0.45), draws)
    _hills(ground, horizon, 0.08, mixed(grass, (120, 170, 130), 0.4), draws)
    leaf = jittered(draws.choice([(88, 148, 78), (104, 150, 70), (196, 140, 64), (120, 160, 90)]), draws, 10)
    for side in (-1, 1):
        _tree(
            ground,
            complex(0.5 + side * draws.uniform(0.26, 0.46), horizon + 0.03),
            draws.uniform(0.34, 0.55),
            draws,
            leaf,
        )
    ground.band(horizon, 1.5, darker(grass, 0.06), lighter(grass, 0.16))
    path = mixed((224, 202, 160), grass, 0.1)
    ground.fill(
        smooth(
            [
                complex(0.5, horizon),
                complex(0.6, horizon + 0.1),
                complex(0.9, 1.3),
                complex(0.1, 1.3),
                complex(0.44, horizon + 0.1),
            ]
        ),
        path,
        0.75,
    )
    for _ in range(8):
        place = complex(draws.uniform(0, 1), draws.uniform(horizon + 0.05, 1))
        ground.fill(circle(place, 0.008), draws.choice([(250, 230, 120), (250, 246, 244), (236, 150, 170)]))


def _forest(ground: Ground, horizon: float, draws: Draws) -> None:
    base = jittered((86, 124, 92), draws, 10)
    ground.band(-0.5, horizon, mixed(base, (228, 238, 196), 0.55), mixed(base, (214, 226, 180), 0.25))
    ground.spot(complex(draws.uniform(0.3, 0.7), 0.15), 0.5, (255, 250, 214), 0.6)
    for layer, tone in ((0, 0.5), (1, 0.2), (2, 0.0)):
        for _ in range(5):
            x, width = draws.uniform(-0.05, 1.05), draws.uniform(0.02, 0.045) * (1 + 0.5 * layer)
            trunk = mixed(jittered((102, 80, 62), draws, 10), (196, 214, 172), tone)
            ground.fill(
                polygon(
                    [
                        complex(x - width / 2, -0.5),
                        complex(x + width / 2, -0.5),
                        complex(x + 0.8 * width, horizon + 0.03 * layer),
                        complex(x - 0.8 * width, horizon + 0.03 * layer),
                    ]
                ),
                trunk,
            )
        for _ in range(6):
            bush = mixed(jittered(base, draws, 12), (196, 214, 172), tone)
            ground.fill(
                circle(
                    complex(draws.uniform(-0.1, 1.1), horizon - draws.uniform(-0.02, 0.05)), draws.uniform(0.04, 0.1)
                ),
                bush,
            )
    for _ in range(7):
        ground.fill(
            circle(complex(draws.uniform(-0.1, 1.1), draws.uniform(-0.1, 0.06)), draws.uniform(0.1, 0.2)),
            jittered(darker(base, 0.08), draws, 14),
            0.9,
        )
    soil = jittered((128, 134, 84), draws, 10)
    ground.band(horizon, 1.5, darker(soil, 0.1), lighter(soil, 0.1))


def _beach(ground: Ground, horizon: float, draws: Draws) -> None:
    _sky(ground, horizon, draws, evening=0.3)
    sea, shore = jittered((72, 150, 184), draws, 12), horizon + 0.06
    sea_top = horizon - draws.uniform(0.12, 0.2)
    ground.band(sea_top, shore, darker(sea, 0.12), lighter(sea, 0.35))
    if draws.chance(0.7):
        sun = complex(draws.uniform(0.1, 0.9), sea_top - draws.uniform(0.1, 0.3))
        ground.spot(sun, 0.24, (255, 240, 190), 0.7)
        ground.fill(circle(sun, 0.05), (255, 244, 206))
    for _ in range(4):
        place = complex(draws.uniform(0, 1), draws.uniform(sea_top + 0.03, shore - 0.02))
        ground.fill(ellipse(place, draws.uniform(0.04, 0.1), 0.005), (240, 250, 252), 0.7)
    if draws.chance(0.5):
        boat = complex(draws.uniform(0.1, 0.9), sea_top + 0.015)
        ground.fill(
            polygon([boat - 0.05, boat + 0.05, boat + complex(0.035, 0.025), boat + complex(-0.035, 0.025)]),
            (150, 84, 70),
        )
        ground.fill(polygon([boat - 0.1j, boat + complex(0.045, -0.01), boat - 0.01j]), (248, 246, 240))
    sand = jittered((236, 212, 162), draws, 8)
    ground.band(shore, 1.5, mixed(sand, (196, 168, 128), 0.3), lighter(sand, 0.15))
    ground.fill(ellipse(complex(0.5, shore), 0.9, 0.018), (250, 250, 246), 0.7)
    if draws.chance(0.6):
        foot = complex(0.5 + draws.side() * draws.uniform(0.3, 0.42), shore + 0.1)
        colour = draws.choice([(214, 90, 80), (70, 140, 180), (232, 176, 80)])
        ground.fill(rectangle(foot.real - 0.006, foot.imag - 0.4, foot.real + 0.006, foot.imag), (240, 236, 226))
        canopy = smooth(
            [
                foot + complex(-0.19, -0.33),
                foot + complex(-0.11, -0.44),
                foot - 0.48j,
                foot + complex(0.11, -0.44),
                foot + complex(0.19, -0.33),
                foot - 0.36j,
            ]
        )
        ground.fill(canopy, colour)
        ground.fill(
            smooth(
                [
                    foot + complex(-0.06, -0.355),
                    foot + complex(-0.04, -0.45),
                    foot - 0.48j,
                    foot + complex(0.04, -0.45),
                    foot + complex(0.06, -0.355),
                ]
            ),
            (250, 246, 238),
        )


def _desert(ground: Ground, horizon: float, draws: Draws) -> None:
    ground.band(-0.5, horizon, jittered((140, 186, 222), draws, 10), (250, 230, 196))
    ground.spot(complex(draws.uniform(0.1, 0.9), draws.uniform(0.05, 0.25)), 0.3, (255, 246, 206), 0.9)
    sand = jittered((226, 172, 112), draws, 10)
    _hills(ground, horizon, 0.2, mixed(sand, (190, 120, 100), 0.45), draws)
    _hills(ground, horizon, 0.1, darker(sand, 0.12), draws)
    ground.band(horizon, 1.5, sand, lighter(sand, 0.22))
    green = jittered((96, 138, 92), draws, 10)
    for side in (-1, 1):
        if draws.chance(0.65):
            foot, height = complex(0.5 + side * draws.uniform(0.28, 0.44), horizon + 0.05), draws.uniform(0.2, 0.36)
            half = 0.12 * height
            ground.fill(rectangle(foot.real - half, foot.imag - height, foot.real + half, foot.imag, half), green)
            for arm, level in ((-1, 0.45), (1, 0.6)):
                elbow = foot + complex(arm * 0.34 * height, -level * height)
                ground.fill(
                    rectangle(
                        min(foot.real, elbow.real),
                        elbow.imag - 0.7 * half,
                        max(foot.real, elbow.real),
                        elbow.imag + 0.7 * half,
                        0.6 * half,
                    ),
                    green,
                )
                ground.fill(
                    rectangle(
                        elbow.real - 0.7 * half,
                        elbow.imag - 0.3 * height,
                        elbow.real + 0.7 * half,
                        elbow.imag + 0.7 * half,
                        0.7 * half,
                    ),
                    green,
                )


def _city(ground: Ground, horizon: float, draws: Draws) -> None:
    _sky(ground, horizon, draws, evening=0.3)
    street = jittered((150, 148, 150), draws, 8)
    for layer, tone in ((0, 0.5), (1, 0.0)):
        x = -0.1
        while x < 1.05:
            width, height = draws.uniform(0.14, 0.26), draws.uniform(0.25, 0.6) * (1 - 0.15 * layer)
            wall = jittered(
                draws.choice([(176, 136, 118), (146, 156, 172), (190, 176, 150), (128, 132, 148), (168, 120, 104)]),
                draws,
                10,
            )
            wall = mixed(wall, (214, 224, 234), tone)
            ground.fill(rectangle(x, horizon - height, x + width - 0.008, horizon), wall)
            if layer:
                lit = draws.choice([(236, 226, 180), (110, 128, 150), (206, 222, 232)])
                columns, rows = max(int(width / 0.055), 2), int(height / 0.075)
                for column in range(columns):
                    for row in range(rows):
                        left = x + width * (column + 0.25) / columns
                        high = horizon - height + 0.03 + 0.075 * row
                        ground.fill(rectangle(left, high, left + 0.45 * width / columns, high + 0.035), lit, 0.75)
            x += width
    ground.band(horizon, 1.5, lighter(street, 0.12), street)
    ground.fill(rectangle(-0.5, horizon, 1.5, horizon + 0.03), lighter(street, 0.4))
    for number in range(4):
        x = draws.uniform(0, 0.1) + 0.3 * number
        ground.fill(
            polygon([complex(x, 0.95), complex(x + 0.13, 0.95), complex(x + 0.12, 0.975), complex(x - 0.02, 0.975)]),
            (238, 236, 226),
            0.8,
        )


def _snow(ground: Ground, horizon: float, draws: Draws) -> None:
    top = draws.choice([(150, 186, 222), (182, 194, 212), (200, 196, 222)])
    ground.band(-0.5, horizon, jittered(top, draws, 8), (232, 238, 246))
    rock = jittered((134, 148, 172), draws, 8)
    for _ in range(3):
        peak, half = complex(draws.uniform(0, 1), horizon - draws.uniform(0.25, 0.45)), draws.uniform(0.25, 0.4)
        ground.fill(polygon([complex(peak.real - half, horizon), peak, complex(peak.real + half, horizon)]), rock)
        cap = 0.35 * (horizon - peak.imag)
        share = 0.35 * half
        ground.fill(
            polygon(
                [
                    complex(peak.real - share, peak.imag + cap),
                    peak,
                    complex(peak.real + share, peak.imag + cap),
                    complex(peak.real + 0.3 * share, peak.imag + 0.75 * cap),
                    complex(peak.real - 0.3 * share, peak.imag + 1.15 * cap),
                ]
            ),
            (246, 250, 254),
        )
        rock = lighter(rock, 0.12)
    green = jittered((78, 116, 108), draws, 10)
    for side in (-1, 1):
        for _ in range(draws.integer(1, 2)):
            _fir(
                ground,
                complex(0.5 + side * draws.uniform(0.24, 0.5), horizon + 0.04),
                draws.uniform(0.28, 0.5),
                green,
                True,
            )
    ground.band(horizon, 1.5, (222, 230, 242), (250, 252, 255))
    _hills(ground, horizon + 0.02, 0.03, (232, 239, 248), draws)
    for _ in range(26):
        ground.fill(
            circle(complex(draws.uniform(0, 1), draws.uniform(0, 1)), draws.uniform(0.004, 0.009)), (255, 255, 255), 0.9
        )


def _night(ground: Ground, horizon: float, draws: Draws) -> None:
    top = jittered((30, 36, 80), draws, 10)
    ground.band(-0.5, horizon, top, mixed(top, (120, 96, 150), 0.5))
    for _ in range(30):
        ground.fill(
            circle(complex(draws.uniform(0, 1), draws.uniform(0, horizon)), draws.uniform(0.002, 0.006)),
            (255, 250, 226),
            draws.uniform(0.5, 1),
        )
    moon = complex(0.5 + draws.side() * draws.uniform(0.2, 0.4), draws.uniform(0.08, 0.24))
    ground.spot(moon, 0.22, (250, 244, 214), 0.5)
    ground.fill(circle(moon, 0.06), (252, 246, 220))
    ground.fill(circle(moon + complex(0.02, -0.01), 0.012), (232, 224, 196))
    _hills(ground, horizon, 0.2, (38, 44, 82), draws)
    if draws.chance(0.6):
        x = 0.0
        while x < 1.0:
            width, height = draws.uniform(0.08, 0.16), draws.uniform(0.08, 0.24)
            ground.fill(rectangle(x, horizon - height, x + width, horizon), (34, 38, 70))
            for _ in range(4):
                ground.fill(rectangle(*_window(x, width, horizon, height, draws)), (250, 214, 130), 0.9)
            x += width + draws.uniform(0, 0.06)
    grass = (52, 62, 92)
    ground.band(horizon, 1.5, grass, lighter(grass, 0.1))


def _window(x: float, width: float, horizon: float, height: float, draws: Draws) -> Sequence[float]:
    left, top = x + draws.uniform(0.1, 0.75) * width, horizon - draws.uniform(0.2, 0.95) * height
    return left, top, left + 0.016, top + 0.02
