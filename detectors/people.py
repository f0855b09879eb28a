"""People in a photo: for now the box of the most visible person."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType

import numpy as np

from .faces import mediapipe_solutions

MIN_VISIBILITY = 0.5
MARGIN = 0.1
"""Room around the joints, as a fraction of the box's longer side: joints end at wrists and ankles."""

EYES, MOUTH = (2, 5), (9, 10)


@dataclass(frozen=True, kw_only=True)
class Person:
    """One person in a picture.

    Attributes:
        box: x0, y0, x1, y1 in pixels around head, hands and feet, inside the picture.
    """

    box: tuple[float, float, float, float]


class MediaPipePersonDetector:
    """mediapipe's pose model, with the weights that its package carries; a context manager.

    Raises:
        RuntimeError: on entering, if mediapipe is not installed or carries no weights.
    """

    def __enter__(self) -> MediaPipePersonDetector:
        self._pose = mediapipe_solutions().pose.Pose(static_image_mode=True, model_complexity=1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pose.close()

    def detect(self, image: np.ndarray) -> list[Person]:
        """The most visible person in an RGB picture [H, W, 3] uint8: a list of one, or an empty one."""
        found = self._pose.process(image).pose_landmarks
        if found is None:
            return []
        height, width = image.shape[:2]
        joints = np.array([(joint.x * width, joint.y * height) for joint in found.landmark])
        visible = np.array(
            [
                joint.visibility >= MIN_VISIBILITY and 0 <= joint.x <= 1 and 0 <= joint.y <= 1
                for joint in found.landmark
            ]
        )
        if visible.sum() < 2:
            return []
        extent = joints[visible]
        if visible[[*EYES, *MOUTH]].all():
            # No joint marks the hair or the chin; both lie in line with eyes and mouth, hair about two eye-to-mouth
            # distances above the eyes, the chin less than one below the mouth.
            eyes, mouth = joints[list(EYES)].mean(axis=0), joints[list(MOUTH)].mean(axis=0)
            extent = np.vstack((extent, 3 * eyes - 2 * mouth, 2 * mouth - eyes))
        lower, upper = extent.min(axis=0), extent.max(axis=0)
        margin = MARGIN * float((upper - lower).max())
        x0, y0 = np.maximum(lower - margin, 0)
        x1, y1 = np.minimum(upper + margin, (width, height))
        return [Person(box=(float(x0), float(y0), float(x1), float(y1)))]
