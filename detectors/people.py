"""People in a photo: their keypoints and boxes, with mediapipe's pose model."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from .faces import Face, MediaPipeFaceDetector, import_mediapipe, mediapipe_solutions

logger = logging.getLogger(__name__)

MIN_VISIBILITY = 0.5
MARGIN = 0.1
"""Room around the joints, as a fraction of the box's longer side: joints end at wrists and ankles."""

# mediapipe's 33 landmarks (https://ai.google.dev/edge/mediapipe/solutions/vision/pose_landmarker).
NOSE, EYES, MOUTH = 0, (2, 5), (9, 10)
HEAD_LANDMARKS = range(11)
COCO_LANDMARKS = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)
"""The landmarks that are `models.keypoints.COCO_KEYPOINTS`."""
_SIDES = ((1, 4), (2, 5), (3, 6), (7, 8), (9, 10), *((left, left + 1) for left in range(11, 33, 2)))
MIRRORED_LANDMARKS = [dict([*_SIDES, *(pair[::-1] for pair in _SIDES)]).get(number, number) for number in range(33)]
"""What each landmark is called in the mirrored picture."""

MAX_PEOPLE = 32
"""How many poses the Tasks API may return for one picture."""

FACE_BOXES = ((4.0, 1.2, 9.0), (2.5, 1.0, 9.0), (2.0, 0.8, 5.0), (1.5, 0.7, 3.0))
"""Where a person is looked for around a face, in sides of the face's box: to the left and right of its middle, above
and below its upper edge. A person is 7 to 8 heads high and the box is four fifths of a head; the pose model sees its
picture in 224 × 224 pixels and finds many people only where less of their surroundings, or of themselves, is shown.
Of 295 faces in photographs and pictures the first box alone shows the person of 223, all four together 255."""

TILE = 2 / 3
"""Side of the tiles in which people are looked for where there is nobody yet, in longer sides of the picture."""

SURE_FACE = 0.7
"""A nose in a face of that confidence makes a pose a person. Of 1203 crops of pictures without people, the pose model
followed the face model into a wheel, a helmet or a cat in five, with faces of up to 0.78; at 0.8, 20 of 292 pictures
with people would lose theirs."""

MAX_BODY_DIFFERENCE, MAX_HEAD_DIFFERENCE = 0.06, 0.15
"""How far a pose may lie from that of the mirrored picture, as a fraction of its extent. Of those crops the model saw
people in 70, and in 23 when mirrored too: these poses differed by 0.075 (body) and 0.27 (head) at least; of 246 people
with a face 82 % pass."""

SAME_PERSON = 0.15
"""Mean distance of the joints of two poses of one person, as a fraction of their extent."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Person:
    """One person in a picture.

    Attributes:
        box: x0, y0, x1, y1 in pixels around head, hands and feet, inside the picture.
        keypoints: [17, 3] float32 in the order of `models.keypoints.COCO_KEYPOINTS`: x, y in pixels, visibility in 0
            to 1. A keypoint that lies outside the picture has visibility 0.
    """

    box: tuple[float, float, float, float]
    keypoints: np.ndarray

    @property
    def area(self) -> float:
        x0, y0, x1, y1 = self.box
        return max(0.0, x1 - x0) * max(0.0, y1 - y0)


def largest_first(people: list[Person]) -> list[Person]:
    """The order in which detectors return people."""
    return sorted(people, key=lambda person: person.area, reverse=True)


def box_around(
    points: np.ndarray, *, eyes: np.ndarray | None, mouth: np.ndarray | None, image_size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """A box with room around the points of one person.

    Args:
        points: [n, 2] pixels, n ≥ 1: what is seen of the person.
        eyes, mouth: [2] pixels, their middles, or None where they are not seen.
        image_size: height and width of the picture.

    Returns:
        x0, y0, x1, y1 in pixels, inside the picture.
    """
    if eyes is not None and mouth is not None:
        # No joint marks the hair or the chin; both lie in line with eyes and mouth, hair about two eye-to-mouth
        # distances above the eyes, the chin less than one below the mouth.
        points = np.vstack((points, 3 * eyes - 2 * mouth, 2 * mouth - eyes))
    lower, upper = points.min(axis=0), points.max(axis=0)
    margin = MARGIN * float((upper - lower).max())
    height, width = image_size
    x0, y0 = np.clip(lower - margin, 0, (width, height))
    x1, y1 = np.clip(upper + margin, 0, (width, height))
    return float(x0), float(y0), float(x1), float(y1)


class MediaPipePersonDetector:
    """mediapipe's pose model; a context manager.

    The model looks at the whole picture, where it sees one person and often not the wanted one, around every face that
    is not this person's, and, where all this shows nobody, at tiles. A pose that no face supports counts only if the
    mirrored picture shows it too: the model also sees people in motorcycles and walls.

    Args:
        model_path: a pose_landmarker_*.task file for mediapipe's Tasks API; None: the weights that mediapipe up to
            0.10.21 carries. Where mediapipe carries none, there are no faces to look around.

    Raises:
        RuntimeError: on entering, if mediapipe is not installed, or carries no weights and there is no model file.
        FileNotFoundError: on entering, if the model file is not there.
        ValueError: on entering, if the model file cannot be read.
    """

    def __init__(self, model_path: str | Path | None = None):
        self._model_path = None if model_path is None else Path(model_path)

    def __enter__(self) -> MediaPipePersonDetector:
        with contextlib.ExitStack() as models:
            if self._model_path is None:
                self._landmarks = _bundled_landmarks(models)
                self._faces = models.enter_context(MediaPipeFaceDetector())
            else:
                self._landmarks = _task_landmarks(models, self._model_path)
                self._faces = _face_detector(models)
            self._models = models.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._models.close()

    def detect(self, image: np.ndarray, faces: Sequence[Face] | None = None) -> list[Person]:
        """People in a picture, the largest first.

        Args:
            image: [H, W, 3] uint8 RGB.
            faces: what `MediaPipeFaceDetector` finds in the picture, where that is known already.
        """
        height, width = image.shape[:2]
        if faces is None:
            faces = self._faces.detect(image) if self._faces is not None else []
        poses = self._poses(image, (0, 0, width, height), faces)
        for face in faces:
            if not any(_has_nose_in(pose, face) for pose in poses):
                poses += self._poses_of(face, image, faces)
        if not poses:
            poses = [pose for box in _tiles((height, width)) for pose in self._poses(image, box, faces)]
        return largest_first([_person(pose, (height, width)) for pose in _without_repetitions(poses, faces)])

    def _poses_of(self, face: Face, image: np.ndarray, faces: Sequence[Face]) -> list[np.ndarray]:
        """The pose to which a face belongs: a list of one, or an empty one."""
        for box in _boxes_around(face, image.shape[:2]):
            found = [pose for pose in self._poses(image, box, faces) if _has_nose_in(pose, face)]
            if found:
                return found[:1]
        return []

    def _poses(self, image: np.ndarray, box: tuple[int, int, int, int], faces: Sequence[Face]) -> list[np.ndarray]:
        """Poses [33, 3] in a part of the picture that are people's: x, y in pixels of the picture, visibility."""
        x0, y0, x1, y1 = box
        part = image[y0:y1, x0:x1]
        found = [pose + np.array((x0, y0, 0)) for pose in self._visible_poses(part)]
        if all(_is_sure(pose, faces) for pose in found):
            return found
        mirrored = [pose[MIRRORED_LANDMARKS] * (-1, 1, 1) + (x1, y0, 0) for pose in self._visible_poses(part[:, ::-1])]
        return [pose for pose in found if _is_sure(pose, faces) or any(_agree(pose, other) for other in mirrored)]

    def _visible_poses(self, image: np.ndarray) -> list[np.ndarray]:
        """Poses [33, 3] of a picture: x, y in pixels, visibility. The model goes on where the picture ends."""
        height, width = image.shape[:2]
        poses = []
        for landmarks in self._landmarks(np.ascontiguousarray(image)):
            inside = ((landmarks[:, :2] >= 0) & (landmarks[:, :2] <= 1)).all(axis=1)
            pose = landmarks * (width, height, 1) * np.stack((np.ones(33), np.ones(33), inside), axis=1)
            if _seen(pose).sum() >= 2:
                poses.append(pose)
        return poses


def _bundled_landmarks(models: contextlib.ExitStack) -> Callable[[np.ndarray], list[np.ndarray]]:
    pose = models.enter_context(mediapipe_solutions().pose.Pose(static_image_mode=True, model_complexity=1))

    def landmarks(image: np.ndarray) -> list[np.ndarray]:
        found = pose.process(image).pose_landmarks
        return [] if found is None else [_array(found.landmark)]

    return landmarks


def _task_landmarks(models: contextlib.ExitStack, path: Path) -> Callable[[np.ndarray], list[np.ndarray]]:
    mediapipe = import_mediapipe()
    from mediapipe.tasks.python import BaseOptions, vision

    if not path.is_file():
        raise FileNotFoundError(
            f"The pose model {path} is not there. Put a pose_landmarker_*.task file of mediapipe into models/mediapipe "
            "of ComfyUI and choose it as pose_model."
        )
    options = vision.PoseLandmarkerOptions(
        # A buffer: mediapipe fails on paths with letters that the system's code page lacks.
        base_options=BaseOptions(model_asset_buffer=path.read_bytes()),
        num_poses=MAX_PEOPLE,
    )
    try:
        landmarker = vision.PoseLandmarker.create_from_options(options)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"The pose model {path} cannot be read ({error}). It may be an incomplete download or no pose landmarker; "
            "put a pose_landmarker_*.task file of mediapipe in its place."
        ) from error
    models.enter_context(landmarker)

    def landmarks(image: np.ndarray) -> list[np.ndarray]:
        picture = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=image)
        return [_array(pose) for pose in landmarker.detect(picture).pose_landmarks]

    return landmarks


def _face_detector(models: contextlib.ExitStack) -> MediaPipeFaceDetector | None:
    try:
        return models.enter_context(MediaPipeFaceDetector())
    except RuntimeError:
        logger.info(
            "This mediapipe carries no face model: of several people in a photo only those are found that the pose "
            "model sees in the whole picture. mediapipe==0.10.21 also looks around faces."
        )
        return None


def _array(landmarks: Sequence[Any]) -> np.ndarray:
    """[33, 3]: x, y in 0 to 1 of the picture, visibility."""
    return np.array([(landmark.x, landmark.y, landmark.visibility) for landmark in landmarks])


def _boxes_around(face: Face, image_size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Where to look for the person of a face: x0, y0, x1, y1 in the picture; never the whole of it."""
    height, width = image_size
    x0, y0, x1, y1 = face.box
    side, middle = (x1 - x0 + y1 - y0) / 2, (x0 + x1) / 2
    tried = {(0, 0, width, height)}
    for aside, above, below in FACE_BOXES:
        left, right = (int(np.clip(middle + step * side, 0, width)) for step in (-aside, aside))
        top, bottom = (int(np.clip(y0 + step * side, 0, height)) for step in (-above, below))
        box = (left, top, right, bottom)
        if box not in tried and left < right and top < bottom:
            tried.add(box)
            yield box


def _tiles(image_size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Overlapping parts of a picture: x0, y0, x1, y1."""
    height, width = image_size
    side = math.ceil(TILE * max(height, width))
    for top in sorted({0, max(0, height - side)}):
        for left in sorted({0, max(0, width - side)}):
            yield left, top, min(left + side, width), min(top + side, height)


def _has_nose_in(pose: np.ndarray, face: Face) -> bool:
    x0, y0, x1, y1 = face.box
    x, y = pose[NOSE, :2]
    return bool(x0 <= x <= x1 and y0 <= y <= y1)


def _is_sure(pose: np.ndarray, faces: Sequence[Face]) -> bool:
    return any(face.score >= SURE_FACE and _has_nose_in(pose, face) for face in faces)


def _seen(pose: np.ndarray) -> np.ndarray:
    return pose[:, 2] >= MIN_VISIBILITY


def _agree(pose: np.ndarray, other: np.ndarray) -> bool:
    """Whether two poses are the same, as a whole or at least in the head, which alone is seen in a close-up."""
    head = list(HEAD_LANDMARKS)
    seen = _seen(pose)
    return (
        _difference(pose[seen], other[seen]) <= MAX_BODY_DIFFERENCE
        or _difference(pose[head][seen[head]], other[head][seen[head]]) <= MAX_HEAD_DIFFERENCE
    )


def _difference(points: np.ndarray, others: np.ndarray) -> float:
    """Mean distance of points [n, ≥ 2], as a fraction of the first ones' extent; infinite where they have none."""
    if len(points) < 2:
        return np.inf
    extent = float(np.ptp(points[:, :2], axis=0).max())
    distance = float(np.linalg.norm((points - others)[:, :2], axis=1).mean())
    return distance / extent if extent else np.inf


def _without_repetitions(poses: Sequence[np.ndarray], faces: Sequence[Face]) -> list[np.ndarray]:
    """One pose per person: the one that shows most of it. Poses with different faces are two people, however close."""
    kept: list[np.ndarray] = []
    for pose in sorted(poses, key=lambda pose: _seen(pose).sum(), reverse=True):
        for other in kept:
            seen = _seen(pose) & _seen(other)
            if _difference(pose[seen], other[seen]) <= SAME_PERSON and _may_share_a_face(pose, other, faces):
                break
        else:
            kept.append(pose)
    return kept


def _may_share_a_face(pose: np.ndarray, other: np.ndarray, faces: Sequence[Face]) -> bool:
    owned = [{number for number, face in enumerate(faces) if _has_nose_in(one, face)} for one in (pose, other)]
    return not all(owned) or bool(owned[0] & owned[1])


def _person(pose: np.ndarray, image_size: tuple[int, int]) -> Person:
    seen = _seen(pose)
    head_seen = seen[[*EYES, *MOUTH]].all()
    keypoints = pose[list(COCO_LANDMARKS)].astype(np.float32)
    return Person(
        box=box_around(
            pose[seen, :2],
            eyes=pose[list(EYES), :2].mean(axis=0) if head_seen else None,
            mouth=pose[list(MOUTH), :2].mean(axis=0) if head_seen else None,
            image_size=image_size,
        ),
        keypoints=keypoints,
    )
