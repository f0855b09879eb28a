"""The skeleton preview: a photo with the keypoints that were found in it, for the eye."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..models.keypoints import BONES, COCO_KEYPOINTS, FIRST_JOINT

# Sky blue and orange of Okabe and Ito (https://jfly.uni-koeln.de/color/) and white stay apart in every kind of colour
# blindness.
LEFT, RIGHT, MIDDLE, FAINT = (86, 180, 233), (240, 140, 0), (250, 250, 250), (165, 165, 165)
OUTLINE, GROUND, CAPTION_GROUND, DROPPED = (12, 12, 14), (24, 24, 27), (44, 44, 50), (198, 28, 40)

HEAD_LINES = (("nose", "left_eye"), ("nose", "right_eye"), ("left_eye", "left_ear"), ("right_eye", "right_ear"))
SMOOTHING = 2
"""Lines and circles are drawn this many times larger and reduced: Pillow's own have jagged edges."""
ZOOM_BELOW = 0.45
"""A skeleton whose longer side is a smaller fraction of the picture leaves no room for twelve names beside it."""
ZOOM_MARGIN = 0.3
"""Room around a skeleton that is zoomed in on, as a fraction of its longer side, on every side."""
CAPTION_LINES = 3


@dataclass(frozen=True)
class View:
    """Which part of a photo is shown, and where.

    Attributes:
        box: x0, y0, x1, y1 of the part in pixels of the photo.
        scale: pixels of the preview per pixel of the photo.
        origin: where the corner (x0, y0) lies in the preview.
        zoom: how much larger than with the whole photo in view; 1 for the whole photo.
    """

    box: tuple[float, float, float, float]
    scale: float
    origin: tuple[float, float]
    zoom: float

    def to_preview(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 2] in pixels of the photo -> pixels of the preview."""
        return (points - self.box[:2]) * self.scale + self.origin

    def shows(self, points: np.ndarray) -> np.ndarray:
        """Which of the points [..., 2], in pixels of the photo, lie in the part: bool [...]."""
        return ((points >= self.box[:2]) & (points <= self.box[2:])).all(axis=-1)


def draw_skeleton(
    photo: np.ndarray,
    keypoints: np.ndarray | None,
    *,
    min_visibility: float,
    caption: str,
    dropped: bool = False,
    side: int = 512,
) -> np.ndarray:
    """Draw the keypoints of one person over a photo, with names, visibility and a caption.

    The person's left is blue, the right orange, what joins them white. Joints below `min_visibility` are hollow and
    grey, their bones dashed; those of visibility 0 or outside the photo are left out. Where the skeleton would
    fill less than `ZOOM_BELOW` of the picture, the photo is cropped to the person with some room, and a corner says how
    much larger that is.

    Args:
        photo: [H, W, 3] uint8 RGB.
        keypoints: [17, 3] in the order of `COCO_KEYPOINTS`: x, y in pixels of the photo, visibility 0 to 1; None if
            there is no person. All finite.
        min_visibility: from here on a joint counts as seen.
        caption: shown below the photo, wrapped, and shortened after three lines.
        dropped: show that the photo is not used: grey, crossed out and framed in red.
        side: of the result, in pixels.

    Returns:
        [side, side, 3] uint8 RGB.

    Raises:
        ValueError: photo or keypoints of another shape or type, or keypoints that are not finite.
    """
    _check(photo, keypoints)
    font = ImageFont.load_default(size=max(11, side // 36))
    lines = wrap(caption, font, width=side - 6 * _unit(side), lines=CAPTION_LINES)
    bar_height = len(lines) * _line_height(font) + 4 * _unit(side)
    area = (side, side - bar_height)
    points = np.zeros((0, 3)) if keypoints is None else keypoints.astype(np.float64)
    seen = (points[:, 2] >= min_visibility) & (points[:, 2] > 0)
    view = fit_view((photo.shape[1], photo.shape[0]), points[seen, :2], area=area)
    drawn = (points[:, 2] > 0) & view.shows(points[:, :2])
    positions = view.to_preview(points[:, :2])

    picture = _ground(photo, view, area, dropped)
    if dropped:
        _cross_out(picture)
    if keypoints is not None:
        _draw_bones(picture, positions, drawn, seen, _unit(side))
    picture = picture.reduce(SMOOTHING)
    if keypoints is not None:
        _draw_labels(picture, positions, points[:, 2], drawn, seen, font, view.zoom)
    return np.array(_with_caption(picture, lines, font, side, dropped))


def fit_view(photo_size: tuple[int, int], seen: np.ndarray, *, area: tuple[int, int]) -> View:
    """The whole photo centred in `area` (width, height), or the part around the points `seen` [n, 2] if they are small.

    Points outside the photo do not count.
    """
    size, room = np.array(photo_size, np.float64), np.array(area, np.float64)
    lower, upper = np.zeros(2), size
    scale = whole_scale = (room / size).min()
    seen = seen[((seen >= 0) & (seen <= size)).all(axis=1)]
    extent = np.ptp(seen, axis=0) if len(seen) else np.zeros(2)
    if 1 <= extent.max() < ZOOM_BELOW * room.min() / scale:
        wanted = extent + 2 * ZOOM_MARGIN * extent.max()
        wanted = np.minimum(room * (wanted / room).max(), size)  # the shape of the area, as far as the photo goes
        middle = (seen.min(axis=0) + seen.max(axis=0)) / 2
        lower = np.clip(np.round(middle - wanted / 2), 0, size - wanted)
        upper = lower + wanted
        scale = (room / wanted).min()
    origin = (room - (upper - lower) * scale) / 2
    return View((*lower.tolist(), *upper.tolist()), float(scale), tuple(origin.tolist()), float(scale / whole_scale))


def place_labels(
    anchors: np.ndarray, sizes: np.ndarray, *, area: tuple[int, int, int, int], avoid: np.ndarray, taken: np.ndarray
) -> np.ndarray:
    """Where to put the labels of points so that they stay near them, apart from each other and inside the picture.

    One label after the other takes the cheapest of many places around its point: near, nearer than any other point with
    a label, on the side away from the middle of all points, on no other label, and on few of the points to avoid.

    Args:
        anchors: [n, 2] points that have a label, in pixels.
        sizes: [n, 2] width and height of the labels, in whole pixels.
        area: x0, y0, x1, y1 of the space for labels.
        avoid: [m, 2] points that labels should leave free, beside the anchors.
        taken: [k, 4] rectangles x0, y0, x1, y1 in which no label may lie.

    Returns:
        [n, 4] rectangles x0, y0, x1, y1 in whole pixels, in the order of the anchors.
    """
    angles = np.arange(24) * math.pi / 12
    directions = np.stack((np.cos(angles), np.sin(angles)), axis=-1)
    placed = taken
    for anchor, size in zip(anchors, sizes, strict=True):
        height = size[1]
        radii = height * np.array([0.6, 1, 1.6, 2.4, 3.4, 4.6, 6, 8, 11, 15, 20, 26])
        # The label's edge, not its middle, lies at the radius.
        centres = anchor + radii[:, None, None] * directions + np.clip(1.6 * directions, -1, 1) * size / 2
        lower = centres.reshape(-1, 2) - size / 2
        lower = np.maximum(np.minimum(lower, np.array(area[2:]) - size), area[:2]).round()
        rectangles = np.concatenate((lower, lower + size), axis=-1)
        leaders = _leader(rectangles, anchor)
        outward = (anchor - anchors.mean(axis=0)) * (1, 0.5)
        towards = lower + size / 2 - anchor
        cosine = (towards @ outward) / (np.linalg.norm(towards, axis=-1) * np.linalg.norm(outward) + 1e-6)
        distances = _distance(rectangles, anchors)
        distance = _distance(rectangles, anchor[None])
        misleading = (distances < distance).any(axis=1)
        leader_covered = (_distance(placed, leaders.reshape(-1, 2)) == 0).any(axis=0).reshape(leaders.shape[:2])
        cost = (
            distance[:, 0]
            + height * (0.8 * (1 - cosine) + 4 * misleading + 2 * leader_covered.sum(axis=1))
            + height * 4 * (distances < height / 2).sum(axis=1)
            + height * 0.3 * (_distance(rectangles, avoid) == 0).sum(axis=1)
            + 1e4 * _overlap(rectangles, placed)
        )
        best = int(cost.argmin())
        placed = np.concatenate((placed, rectangles[best : best + 1]))
        avoid = np.concatenate((avoid, leaders[best]))
    return placed[len(taken) :]


def wrap(text: str, font: ImageFont.FreeTypeFont, *, width: float, lines: int) -> list[str]:
    """Break `text` into at most `lines` lines of `width` pixels, between words where that goes; "…" ends what is cut.

    At least one line, which may be empty.
    """
    found = [""]
    for word in text.split():
        joined = f"{found[-1]} {word}".lstrip()
        if font.getlength(joined) <= width:
            found[-1] = joined
            continue
        found.append("")
        for letter in word:
            if font.getlength(found[-1] + letter) > width:
                found.append("")
            found[-1] += letter
    found = [line for line in found if line] or [""]
    if len(found) > lines:
        last = found[lines - 1]
        while last and font.getlength(last + "…") > width:
            last = last[:-1]
        found[lines - 1 :] = [last.rstrip() + "…"]
    return found


def _check(photo: np.ndarray, keypoints: np.ndarray | None) -> None:
    if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8 or not photo.size:
        raise ValueError(f"the photo is {photo.dtype} {list(photo.shape)}; expected uint8 [height, width, 3].")
    if keypoints is None:
        return
    if keypoints.shape != (len(COCO_KEYPOINTS), 3):
        raise ValueError(f"the keypoints are {list(keypoints.shape)}; expected [{len(COCO_KEYPOINTS)}, 3], COCO-17.")
    if not np.isfinite(keypoints).all():
        raise ValueError("some keypoints are not finite; give an unseen keypoint visibility 0.")


def _unit(side: int) -> int:
    """The width of a bone, and with it every other width."""
    return max(2, round(side / 128))


def _line_height(font: ImageFont.FreeTypeFont) -> int:
    return sum(font.getmetrics())


def _ground(photo: np.ndarray, view: View, area: tuple[int, int], dropped: bool) -> Image.Image:
    """The dimmed photo on dark ground, `SMOOTHING` times as large as `area`."""
    size = [max(1, round((end - start) * view.scale * SMOOTHING)) for start, end in (view.box[::2], view.box[1::2])]
    source = Image.fromarray(photo)
    if dropped:
        source = source.convert("L").convert("RGB")
    fitted = source.resize(size, Image.Resampling.LANCZOS, box=view.box, reducing_gap=2.0)
    fitted = fitted.point(lambda value: value * (0.5 if dropped else 0.7))
    ground = Image.new("RGB", (area[0] * SMOOTHING, area[1] * SMOOTHING), GROUND)
    ground.paste(fitted, (round(view.origin[0] * SMOOTHING), round(view.origin[1] * SMOOTHING)))
    return ground


def _cross_out(picture: Image.Image) -> None:
    width, height = picture.size
    pen = ImageDraw.Draw(picture, "RGBA")
    for start, end in (((0, 0), (width, height)), ((0, height), (width, 0))):
        pen.line((start, end), fill=(*DROPPED, 150), width=width // 48)


def _draw_bones(picture: Image.Image, positions: np.ndarray, drawn: np.ndarray, seen: np.ndarray, unit: int) -> None:
    pen = ImageDraw.Draw(picture)
    places = positions * SMOOTHING
    width = unit * SMOOTHING
    # What was seen lies on top of what was not.
    for whole in (False, True):
        for start, end, colour, strong in _lines():
            if drawn[start] and drawn[end] and (seen[start] and seen[end]) == whole:
                line = width if strong else width / 2
                _line(pen, places[start], places[end], colour, line) if whole else _dashes(
                    pen, places[start], places[end], line / 2
                )
        for index in np.flatnonzero(drawn & (seen == whole)):
            radius = width * (1.4 if index >= FIRST_JOINT else 0.7)
            colour = side_colour(COCO_KEYPOINTS[index])
            _circle(pen, places[index], radius + width * 0.4, OUTLINE)
            _circle(pen, places[index], radius, colour if whole else FAINT)
            if not whole:
                _circle(pen, places[index], radius - width * 0.4, GROUND)


def _lines() -> list[tuple[int, int, tuple[int, int, int], bool]]:
    """Keypoint numbers of start and end, colour, and whether it is a bone of the body."""
    head = [(*map(COCO_KEYPOINTS.index, ends), side_colour(ends[1]), False) for ends in HEAD_LINES]
    bones = [
        (start + FIRST_JOINT, end + FIRST_JOINT, MIDDLE if len(pairs) == 1 else (LEFT, RIGHT)[number], True)
        for pairs in BONES.values()
        for number, (start, end) in enumerate(pairs)
    ]
    return head + bones


def side_colour(name: str) -> tuple[int, int, int]:
    """The colour of a keypoint that was seen."""
    return LEFT if name.startswith("left") else RIGHT if name.startswith("right") else MIDDLE


def _line(pen: ImageDraw.ImageDraw, start: np.ndarray, end: np.ndarray, colour: tuple, width: float) -> None:
    for fill, wide in ((OUTLINE, width * 1.8), (colour, width)):
        pen.line((*start, *end), fill=fill, width=round(wide))


def _dashes(pen: ImageDraw.ImageDraw, start: np.ndarray, end: np.ndarray, width: float) -> None:
    count = int(np.linalg.norm(end - start) / (5 * width)) | 1
    stops = start + np.linspace(0, 1, count + 1)[:, None] * (end - start)
    for first, second in zip(stops[::2], stops[1::2], strict=True):
        _line(pen, first, second, FAINT, width)


def _circle(pen: ImageDraw.ImageDraw, centre: np.ndarray, radius: float, colour: tuple[int, int, int]) -> None:
    pen.ellipse((*(centre - radius), *(centre + radius)), fill=colour)


def _draw_labels(
    picture: Image.Image,
    positions: np.ndarray,
    visibility: np.ndarray,
    drawn: np.ndarray,
    seen: np.ndarray,
    font: ImageFont.FreeTypeFont,
    zoom: float,
) -> None:
    pen = ImageDraw.Draw(picture, "RGBA")
    inset = 2 * _unit(picture.width)  # the frame of dropped photos
    taken = np.zeros((0, 4))
    if zoom > 1:
        text = f"zoomed in {zoom:.1f}x"
        taken = np.array([(inset, inset, *(inset + plate_size(text, font)))])
        _plate(pen, taken[0], text, MIDDLE, font)
    joints = [index for index in np.flatnonzero(drawn) if index >= FIRST_JOINT]
    joints.sort(key=lambda index: not seen[index])  # what was seen has the choice of places
    anchors = positions[joints]
    texts = [label_text(COCO_KEYPOINTS[index], visibility[index]) for index in joints]
    colours = [side_colour(COCO_KEYPOINTS[index]) if seen[index] else FAINT for index in joints]
    along = np.linspace(0, 1, 12)[:, None]
    bones = [
        positions[start] + along * (positions[end] - positions[start])
        for start, end, *_ in _lines()
        if drawn[start] and drawn[end]
    ]
    rectangles = place_labels(
        anchors,
        np.array([plate_size(text, font) for text in texts]),
        area=(inset, inset, picture.width - inset, picture.height - inset),
        avoid=np.concatenate((positions[drawn], *bones)),
        taken=taken,
    )
    for anchor, rectangle, colour in zip(anchors, rectangles, colours, strict=True):
        way = _leader(rectangle[None], anchor)[0, -1] - anchor
        length = np.linalg.norm(way)
        if length > 0.75 * _line_height(font):
            rim = anchor + way / length * inset
            for fill, width in ((OUTLINE, 1 + inset // 4), (colour, max(1, inset // 6))):
                pen.line((*rim, *(anchor + way)), fill=fill, width=width)
    for rectangle, colour, text in zip(rectangles, colours, texts, strict=True):
        _plate(pen, rectangle, text, colour, font)


def plate_size(text: str, font: ImageFont.FreeTypeFont) -> np.ndarray:
    """Width and height of a label in whole pixels: int [2]."""
    return np.array((math.ceil(font.getlength(text)) + 8, _line_height(font) + 1))


def label_text(name: str, visibility: float) -> str:
    """Name and visibility of a joint: "L elbow .93". Cut, not rounded: .499 must not look like .5."""
    side, joint = name.split("_")
    return f"{side[0].upper()} {joint} {math.floor(visibility * 100 + 1e-6) / 100:.2f}".replace(" 0.", " .")


def _plate(
    pen: ImageDraw.ImageDraw,
    rectangle: np.ndarray,
    text: str,
    colour: tuple[int, int, int],
    font: ImageFont.FreeTypeFont,
) -> None:
    pen.rounded_rectangle(tuple(rectangle), radius=3, fill=(*OUTLINE, 205))
    pen.text((rectangle[0] + 4, rectangle[1]), text, fill=colour, font=font)


def _with_caption(
    picture: Image.Image, lines: list[str], font: ImageFont.FreeTypeFont, side: int, dropped: bool
) -> Image.Image:
    unit = _unit(side)
    framed = Image.new("RGB", (side, side), DROPPED if dropped else CAPTION_GROUND)
    framed.paste(picture, (0, 0))
    pen = ImageDraw.Draw(framed)
    for number, line in enumerate(lines):
        pen.text((3 * unit, picture.height + 1.5 * unit + number * _line_height(font)), line, fill=MIDDLE, font=font)
    if dropped:
        pen.rectangle((0, 0, side - 1, side - 1), outline=DROPPED, width=2 * unit)
    return framed


def _leader(rectangles: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Ten points on the way from a point [2] to the nearest point of each rectangle [n, 4]: [n, 10, 2]."""
    nearest = np.clip(point, rectangles[:, :2], rectangles[:, 2:])
    return point + np.linspace(0, 1, 10)[:, None] * (nearest - point)[:, None]


def _distance(rectangles: np.ndarray, points: np.ndarray) -> np.ndarray:
    """From rectangles [n, 4] to points [m, 2]: [n, m], 0 inside."""
    outside = np.maximum(rectangles[:, None, :2] - points, points - rectangles[:, None, 2:])
    return np.linalg.norm(np.maximum(outside, 0), axis=-1)


def _overlap(rectangles: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How much of each rectangle [n, 4] lies on the others [m, 4], with a gap between them: [n], 1 is all of it."""
    lower = np.maximum(rectangles[:, None, :2], others[:, :2] - 2)
    upper = np.minimum(rectangles[:, None, 2:], others[:, 2:] + 2)
    shared = np.maximum(upper - lower, 0).prod(axis=-1).sum(axis=-1)
    return shared / (rectangles[:, 2:] - rectangles[:, :2]).prod(axis=-1)
