"""Outlines, and the brush that fills them. Points of the plane are complex numbers: x + iy, y down."""

from __future__ import annotations

import cmath
import contextlib
import math
from collections.abc import Iterator, Sequence

import skia

from .colours import WHITE, Colour, darker, lighter

OUTLINE = 0.012
"""Width of the lines around things, in sides of the picture."""


def colour4(colour: Colour, alpha: float = 1.0) -> int:
    """As skia wants it."""
    return skia.ColorSetARGB(round(255 * alpha), *colour)


def smooth(points: Sequence[complex], *, closed: bool = True) -> skia.Path:
    """A soft line through points (a Catmull-Rom spline)."""
    path = skia.Path()
    count = len(points)
    path.moveTo(points[0].real, points[0].imag)
    for number in range(count if closed else count - 1):
        one, two = points[number], points[(number + 1) % count]
        if closed:
            before, after = points[number - 1], points[(number + 2) % count]
        else:
            before, after = points[max(number - 1, 0)], points[min(number + 2, count - 1)]
        first, second = one + (two - before) / 6, two - (after - one) / 6
        path.cubicTo(first.real, first.imag, second.real, second.imag, two.real, two.imag)
    if closed:
        path.close()
    return path


def polygon(points: Sequence[complex]) -> skia.Path:
    return skia.Path.Polygon([skia.Point(point.real, point.imag) for point in points], True)


def circle(centre: complex, radius: float) -> skia.Path:
    return skia.Path.Circle(centre.real, centre.imag, radius)


def ellipse(centre: complex, across: float, down: float, angle: float = 0.0) -> skia.Path:
    """Radii to the side and downwards, turned clockwise."""
    path = skia.Path.Oval(skia.Rect.MakeLTRB(-across, -down, across, down))
    matrix = skia.Matrix.RotateRad(angle) if angle else skia.Matrix()
    matrix.postTranslate(centre.real, centre.imag)
    path.transform(matrix)
    return path


def rectangle(left: float, top: float, right: float, bottom: float, radius: float = 0.0) -> skia.Path:
    rect = skia.Rect.MakeLTRB(left, top, right, bottom)
    return skia.Path.RRect(rect, radius, radius) if radius else skia.Path.Rect(rect)


def capsule(start: complex, end: complex, start_radius: float, end_radius: float) -> skia.Path:
    """A limb: round at both ends, and as thick as is said there."""
    way = end - start
    if abs(way) < 1e-6:
        return circle(start, max(start_radius, end_radius))
    along = way / abs(way)
    turn = math.acos(max(min((start_radius - end_radius) / abs(way), 1), -1))
    angle = cmath.phase(along)
    path = skia.Path()
    for centre, radius, first, sweep in (
        (start, start_radius, angle + turn, 2 * (math.pi - turn)),
        (end, end_radius, angle - turn, 2 * turn),
    ):
        box = skia.Rect.MakeLTRB(centre.real - radius, centre.imag - radius, centre.real + radius, centre.imag + radius)
        path.arcTo(box, math.degrees(first), math.degrees(sweep), False)
    path.close()
    return path


def hull(circles: Sequence[tuple[complex, float]]) -> skia.Path:
    """A cloth around round things: their convex hull."""
    points = sorted(
        (centre + cmath.rect(radius, 2 * math.pi * step / 10) for centre, radius in circles for step in range(10)),
        key=lambda point: (point.real, point.imag),
    )

    def half(ordered: Sequence[complex]) -> list[complex]:
        kept: list[complex] = []
        for point in ordered:
            while len(kept) > 1 and _cross(kept[-1] - kept[-2], point - kept[-2]) <= 0:
                kept.pop()
            kept.append(point)
        return kept[:-1]

    return polygon(half(points) + half(points[::-1]))


def _cross(one: complex, two: complex) -> float:
    return one.real * two.imag - one.imag * two.real


class Brush:
    """Draws on the picture and, with the same outlines, on a map of what is where.

    Attributes:
        shaded: gradients and outlines, or plain colours.
        light: direction to the light, of length 1.
    """

    def __init__(self, picture: skia.Canvas, labels: skia.Canvas, *, shaded: bool, light: complex):
        self.picture, self.labels = picture, labels
        self.shaded, self.light = shaded, light
        self._outline = OUTLINE
        self._paint = skia.Paint(AntiAlias=True)
        self._line = skia.Paint(
            AntiAlias=True, Style=skia.Paint.kStroke_Style, StrokeJoin=skia.Paint.kRound_Join,
            StrokeCap=skia.Paint.kRound_Cap,
        )  # fmt: skip
        self._label = skia.Paint(AntiAlias=False)

    @contextlib.contextmanager
    def at(self, origin: complex, *, scale: float = 1.0, angle: float = 0.0) -> Iterator[None]:
        """Another frame: what is drawn inside is scaled, turned clockwise and moved."""
        before = self.light, self._outline
        self.light, self._outline = self.light * cmath.rect(1, -angle), self._outline / scale
        for canvas in (self.picture, self.labels):
            canvas.save()
            canvas.translate(origin.real, origin.imag)
            canvas.rotate(math.degrees(angle))
            canvas.scale(scale, scale)
        yield
        for canvas in (self.picture, self.labels):
            canvas.restore()
        self.light, self._outline = before

    @contextlib.contextmanager
    def inside(self, path: skia.Path) -> Iterator[None]:
        """What is drawn inside ends at this outline."""
        for canvas, smooth_edge in ((self.picture, True), (self.labels, False)):
            canvas.save()
            canvas.clipPath(path, skia.ClipOp.kIntersect, smooth_edge)
        yield
        for canvas in (self.picture, self.labels):
            canvas.restore()

    def part(
        self,
        *paths: skia.Path,
        colour: Colour,
        label: int,
        owner: int = 0,
        across: Sequence[tuple[complex, complex]] = (),
        depth: float = 1.0,
        outline: bool = True,
    ) -> None:
        """Something that hides what is behind it.

        Args:
            paths: outlines that belong together: no line between them.
            label, owner: 0 to 255 each, for the map.
            across: for each path the middle of its shading and the way from there to its brightest place; if not given,
                its box in the light.
            depth: how strong light and shade are.
        """
        if self.shaded and outline:
            self._line.setColor(colour4(darker(colour, 0.55), 0.8))
            self._line.setStrokeWidth(2 * self._outline)
            for path in paths:
                self.picture.drawPath(path, self._line)
        self._label.setColor(skia.ColorSetARGB(255, label, owner, 0))
        for number, path in enumerate(paths):
            self.labels.drawPath(path, self._label)
            if not self.shaded:
                self.fill(path, colour)
                continue
            if across:
                middle, bright = across[number]
            else:
                box = path.getBounds()
                middle = complex(box.centerX(), box.centerY())
                bright = self.light * max(box.width(), box.height()) / 2
            shader = _shade(colour, middle + bright, middle - bright, depth)
            self.picture.drawPath(path, skia.Paint(AntiAlias=True, Shader=shader))

    def fill(self, path: skia.Path, colour: Colour, alpha: float = 1.0) -> None:
        """A detail, in one colour."""
        self._paint.setColor(colour4(colour, alpha))
        self.picture.drawPath(path, self._paint)

    def line(self, path: skia.Path, colour: Colour, width: float, alpha: float = 1.0) -> None:
        """A detail: a stroke with round ends."""
        self._line.setColor(colour4(colour, alpha))
        self._line.setStrokeWidth(width)
        self.picture.drawPath(path, self._line)

    def glow(
        self, centre: complex, radius: float, colour: Colour, alpha: float, *, flat: float = 1.0, core: float = 0.0
    ) -> None:
        """A soft spot that fades outwards; `flat` is its height over its width, `core` the share that does not fade."""
        self.picture.save()
        self.picture.translate(centre.real, centre.imag)
        self.picture.scale(1, flat)
        shader = skia.GradientShader.MakeRadial(
            center=skia.Point(0, 0),
            radius=radius,
            colors=[colour4(colour, alpha), colour4(colour, alpha), colour4(colour, 0)],
            positions=[0.0, core, 1.0],
        )
        self.picture.drawCircle(0, 0, radius, skia.Paint(AntiAlias=True, Shader=shader))
        self.picture.restore()

    def shine(self, path: skia.Path, width: float, alpha: float) -> None:
        """A streak of light, where there is light and shade."""
        if self.shaded:
            self.line(path, WHITE, width, alpha)


def _shade(colour: Colour, bright: complex, dark: complex, depth: float) -> skia.Shader:
    return skia.GradientShader.MakeLinear(
        points=[skia.Point(bright.real, bright.imag), skia.Point(dark.real, dark.imag)],
        colors=[
            colour4(lighter(colour, 0.2 * depth)),
            colour4(colour),
            colour4(darker(colour, 0.12 * depth)),
            colour4(darker(colour, 0.34 * depth)),
        ],
        positions=[0.0, 0.35, 0.65, 1.0],
    )
