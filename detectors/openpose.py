"""ComfyUI's `POSE_KEYPOINT`: people in the frames of OpenPose.

A frame is `{"canvas_width", "canvas_height", "people": [{"pose_keypoints_2d": [x, y, score, ...], ...}]}`. x, y are
pixels of the canvas, or fractions of it, as comfyui_controlnet_aux writes them. The keypoints:
https://github.com/CMU-Perceptual-Computing-Lab/openpose/blob/master/doc/02_output.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np

from ..models.keypoints import COCO_KEYPOINTS, FIRST_JOINT, LEFT_SHOULDER, RIGHT_SHOULDER
from .people import Person, box_around, largest_first

# OpenPose's models of 18 and 25 keypoints.
OPENPOSE_18 = (
    "nose",
    "neck",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "right_hip",
    "right_knee",
    "right_ankle",
    "left_hip",
    "left_knee",
    "left_ankle",
    "right_eye",
    "left_eye",
    "right_ear",
    "left_ear",
)
FEET = ("left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel")
BODY_25 = (*OPENPOSE_18[:8], "middle_hip", *OPENPOSE_18[8:], *FEET)
FACE_POINTS, HAND_POINTS = 70, 21

HEAD = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")

HEAD_ABOVE_SHOULDERS = 0.75
"""In torsos, or widths of the shoulders where these are longer: where a head ends of which a frame has no keypoint."""

LARGEST_FRACTION = 2.0
"""Where no coordinate in a frame is above it, all are fractions of the canvas: these may reach a little beyond it, and
nobody is two pixels large."""


def people_from_frame(frame: Any) -> list[Person]:
    """People of a frame, the largest first; x, y in pixels of its canvas.

    Hands and faces are not read. Keypoints with the score 0, and those outside the canvas, are not seen; people without
    any seen keypoint are left out.

    Raises:
        ValueError: not such a frame; the message says what is wrong with it.
    """
    if not isinstance(frame, Mapping) or not isinstance(frame.get("people"), (list, tuple)):
        what = f"a dict of {', '.join(map(str, frame))}" if isinstance(frame, Mapping) else f"a {type(frame).__name__}"
        raise ValueError(
            f"POSE_KEYPOINT has a frame that is {what}; expected canvas_width, canvas_height and a list of people, as "
            "OpenPose nodes and ComfyUI's 'SDPose Keypoint Extractor' give them."
        )
    width, height = (_side(frame, name) for name in ("canvas_width", "canvas_height"))
    everybody = [points for person in frame["people"] if (points := _points(person)) is not None]
    if all((np.abs(points[points[:, 2] > 0, :2]) <= LARGEST_FRACTION).all() for points in everybody):
        everybody = [points * (width, height, 1) for points in everybody]
    people = [_person(points, (height, width)) for points in everybody]
    return largest_first([person for person in people if person is not None])


def _side(frame: Mapping[str, Any], name: str) -> int:
    side = frame.get(name)
    if not isinstance(side, Real) or not math.isfinite(side) or side < 1:
        raise ValueError(
            f"POSE_KEYPOINT has a frame whose {name} is {side!r}; it must be a number of pixels. Without it nobody "
            "knows where in the picture the keypoints lie."
        )
    return int(side)


def _points(person: Any) -> np.ndarray | None:
    """[18 or 25, 3] x, y, score of a person; None where the frame has no body for it."""
    if person is None:
        return None
    if not isinstance(person, Mapping):
        raise ValueError(
            f"POSE_KEYPOINT has a person of type {type(person).__name__}; expected pose_keypoints_2d in it."
        )
    values = person.get("pose_keypoints_2d")
    if values is None:
        return None
    try:
        points = np.array([0.0 if value is None else value for value in values], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"POSE_KEYPOINT has body values that are no list of numbers ({error}).") from None
    if points.size == 0:
        return None
    if points.shape not in ((3 * len(OPENPOSE_18),), (3 * len(BODY_25),)):
        raise ValueError(
            f"POSE_KEYPOINT has a person with {points.size} body values; expected x, y, score of 18 or 25 keypoints."
        )
    if not np.isfinite(points).all():
        raise ValueError("POSE_KEYPOINT has body values that are not finite (NaN or infinite).")
    return points.reshape(-1, 3)


def _person(points: np.ndarray, image_size: tuple[int, int]) -> Person | None:
    """A person from [18 or 25, 3]: x, y in pixels, score."""
    inside = ((points[:, :2] >= 0) & (points[:, :2] <= image_size[::-1])).all(axis=1)
    points[:, 2] = np.where(inside, points[:, 2].clip(0, 1), 0)
    seen = points[:, 2] > 0
    if not seen.any():
        return None
    names = OPENPOSE_18 if len(points) == len(OPENPOSE_18) else BODY_25
    by_name = dict(zip(names, points, strict=True))
    nose, *eyes = (by_name[name] for name in ("nose", "left_eye", "right_eye"))
    head_seen = all(point[2] > 0 for point in (nose, *eyes))
    middle = (eyes[0] + eyes[1])[:2] / 2
    marked = points[seen, :2]
    if not any(by_name[name][2] > 0 for name in HEAD) and (top := _top_of_head(by_name)) is not None:
        marked = np.vstack((marked, top))
    return Person(
        box=box_around(
            marked,
            eyes=middle if head_seen else None,
            mouth=2 * nose[:2] - middle if head_seen else None,  # the nose's tip lies half way
            image_size=image_size,
        ),
        keypoints=np.array([by_name[name] for name in COCO_KEYPOINTS], dtype=np.float32),
    )


def _top_of_head(by_name: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """[2] about where it is, by the trunk; None where the shoulders are not seen."""

    def middle(name: str) -> np.ndarray | None:
        left, right = by_name[f"left_{name}"], by_name[f"right_{name}"]
        return (left + right)[:2] / 2 if min(left[2], right[2]) > 0 else None

    shoulders, hips = middle("shoulder"), middle("hip")
    if shoulders is None:
        return None
    width = float(np.linalg.norm((by_name["left_shoulder"] - by_name["right_shoulder"])[:2]))
    torso = np.array((0.0, -width)) if hips is None else shoulders - hips
    length = float(np.linalg.norm(torso))
    # Seen from the side the shoulders are near each other, bent over the torso is short.
    return shoulders + torso * (HEAD_ABOVE_SHOULDERS * max(length, width) / length) if length else None


def frame_from_people(people: Iterable[Person], *, width: int, height: int, min_visibility: float) -> dict[str, Any]:
    """A frame of people whose x, y are pixels of a canvas of that size.

    Keypoints less visible than `min_visibility` are written as 0, 0, 0. The neck is the middle of the shoulders where
    both are seen. Hands and faces are there, because ComfyUI's own drawing node expects them, and all 0.
    """
    return {
        "canvas_width": width,
        "canvas_height": height,
        "people": [
            {
                "pose_keypoints_2d": _openpose_18(person.keypoints, min_visibility),
                "face_keypoints_2d": [0.0] * 3 * FACE_POINTS,
                "hand_left_keypoints_2d": [0.0] * 3 * HAND_POINTS,
                "hand_right_keypoints_2d": [0.0] * 3 * HAND_POINTS,
            }
            for person in people
        ],
    }


def _openpose_18(keypoints: np.ndarray, min_visibility: float) -> list[float]:
    seen = (keypoints[:, 2] >= min_visibility) & (keypoints[:, 2] > 0)
    points = dict(zip(COCO_KEYPOINTS, np.where(seen[:, None], keypoints, 0.0), strict=True))
    shoulders = [FIRST_JOINT + LEFT_SHOULDER, FIRST_JOINT + RIGHT_SHOULDER]
    neck = keypoints[shoulders]
    points["neck"] = np.array([*neck[:, :2].mean(axis=0), neck[:, 2].min()]) if seen[shoulders].all() else np.zeros(3)
    return [float(value) for name in OPENPOSE_18 for value in points[name]]
