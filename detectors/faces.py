"""Face detection: mediapipe with its bundled weights, or insightface with ArcFace vectors."""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

MIN_CONFIDENCE = 0.5

TILE_MIN_CONFIDENCE = 0.7
"""Tiles show the model some ten windows more: those without a face score up to 0.68, those with one 0.71 and more
(measured on photographs that scikit-image, insightface and ultralytics ship)."""

FULL_RANGE_SIDE = 192
"""Pixels that the full-range model sees of a picture: smaller tiles would show it nothing new."""

INSTALL_MEDIAPIPE = (
    "Install it into ComfyUI's environment with `pip install mediapipe==0.10.21` (the last version that carries its "
    "models; it needs numpy < 2), or, for bodies, install any mediapipe, put a pose_landmarker_*.task file into "
    "models/mediapipe of ComfyUI and choose it as pose_model of BodyLandmarkEncoder, or, for faces, connect "
    "BoLIDFaceAnalysisLoader or ComfyUI's 'Load Face Detection Model (MediaPipe)' to face_analysis."
)


@dataclass(frozen=True, kw_only=True)
class Face:
    """One face in a picture.

    Attributes:
        box: x0, y0, x1, y1 in pixels; may reach beyond the picture.
        score: the detector's confidence, 0 to 1.
        keypoints: [5, 2] pixels (the eyes and the corners of the mouth from left to right in the picture, the nose in
            between: eye, eye, nose, corner, corner), or None.
        embedding: [512] L2-normalised ArcFace vector, or None.
    """

    box: tuple[float, float, float, float]
    score: float
    keypoints: np.ndarray | None = None
    embedding: np.ndarray | None = None

    @property
    def area(self) -> float:
        x0, y0, x1, y1 = self.box
        return max(0.0, x1 - x0) * max(0.0, y1 - y0)

    @property
    def centre(self) -> tuple[float, float]:
        x0, y0, x1, y1 = self.box
        return (x0 + x1) / 2, (y0 + y1) / 2


class FaceDetector(Protocol):
    """Anything that finds faces."""

    def detect(self, image: np.ndarray) -> list[Face]:
        """Faces in an RGB picture [H, W, 3] uint8, the largest first."""
        ...


def largest_first(faces: list[Face]) -> list[Face]:
    """The order in which detectors return faces."""
    return sorted(faces, key=lambda face: face.area, reverse=True)


# By what faces are counted: a face and the picture's (height, width) -> what is smallest for the first one.
FACE_CHOICES: dict[str, Callable[[Face, tuple[int, int]], float]] = {
    "largest": lambda face, size: -face.area,
    "most_central": lambda face, size: math.dist(face.centre, (size[1] / 2, size[0] / 2)),
    "left_to_right": lambda face, size: face.centre[0],
    "right_to_left": lambda face, size: -face.centre[0],
    "top_to_bottom": lambda face, size: face.centre[1],
}


def in_order(faces: Sequence[Face], choice: str, *, image_size: tuple[int, int]) -> list[Face]:
    """Faces in the order of one of `FACE_CHOICES`; equal ones stay as they were.

    Args:
        image_size: height and width of the picture.
    """
    return sorted(faces, key=lambda face: FACE_CHOICES[choice](face, image_size))


def without_repetitions(faces: Sequence[Face]) -> list[Face]:
    """Each face once, by the first of its boxes."""
    kept: list[Face] = []
    for face in faces:
        if not any(_is_same(face, other) for other in kept):
            kept.append(face)
    return kept


class MediaPipeFaceDetector:
    """mediapipe's face detector, with the weights that its package carries; a context manager.

    The full-range model looks at the whole picture and at overlapping tiles of half its size, because it reduces what
    it sees to 192 × 192 pixels: of six people in a photo 1280 pixels wide the whole shows it three, the tiles all six.
    Close-ups that it misses are left to the short-range model.

    Raises:
        RuntimeError: on entering, if mediapipe is not installed or carries no weights.
    """

    def __enter__(self) -> MediaPipeFaceDetector:
        solutions = mediapipe_solutions()
        self._models = contextlib.ExitStack()
        self._detectors = [
            self._models.enter_context(
                solutions.face_detection.FaceDetection(
                    model_selection=selection, min_detection_confidence=MIN_CONFIDENCE
                )
            )
            for selection in (1, 0)
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._models.close()

    def detect(self, image: np.ndarray) -> list[Face]:
        """See `FaceDetector.detect`."""
        full_range, short_range = self._detectors
        faces = _find(full_range, image)
        in_tiles = [face for tile, corner in _tiles(image) for face in _find(full_range, tile, corner)]
        # A tile may cut through a face that the whole picture shows, so what was found there counts first.
        for face in sorted(in_tiles, key=lambda face: face.score, reverse=True):
            if face.score >= TILE_MIN_CONFIDENCE and not any(_is_same(face, other) for other in faces):
                faces.append(face)
        return largest_first(faces or _find(short_range, image))


def _find(detector: Any, image: np.ndarray, corner: tuple[int, int] = (0, 0)) -> list[Face]:
    """Faces that one of mediapipe's models finds in a part of the picture whose upper left corner lies at x, y."""
    height, width = image.shape[:2]
    faces = []
    for detection in detector.process(image).detections or []:
        box = detection.location_data.relative_bounding_box
        x0, y0 = corner[0] + box.xmin * width, corner[1] + box.ymin * height
        faces.append(Face(box=(x0, y0, x0 + box.width * width, y0 + box.height * height), score=detection.score[0]))
    return faces


def _tiles(image: np.ndarray) -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
    """Squares of half the picture's longer side, each with its upper left corner (x, y); they overlap by half."""
    height, width = image.shape[:2]
    side = max(math.ceil(max(height, width) / 2), FULL_RANGE_SIDE)
    if max(height, width) <= side:
        return
    for top in _starts(height, side):
        for left in _starts(width, side):
            yield np.ascontiguousarray(image[top : top + side, left : left + side]), (left, top)


def _starts(length: int, side: int) -> list[int]:
    room = max(0, length - side)
    steps = math.ceil(2 * room / side)
    return [round(step * room / max(1, steps)) for step in range(steps + 1)]


def _is_same(face: Face, other: Face) -> bool:
    """Whether two boxes share more than half of the smaller one."""
    width = min(face.box[2], other.box[2]) - max(face.box[0], other.box[0])
    height = min(face.box[3], other.box[3]) - max(face.box[1], other.box[1])
    return max(0.0, width) * max(0.0, height) > 0.5 * min(face.area, other.area)


def import_mediapipe() -> Any:
    """The mediapipe package, of any version.

    Raises:
        RuntimeError: it is not installed.
    """
    try:
        import mediapipe
    except ImportError as error:
        raise RuntimeError(f"Finding people and faces needs the mediapipe package. {INSTALL_MEDIAPIPE}") from error
    return mediapipe


def mediapipe_solutions() -> Any:
    """`mediapipe.solutions`, the API with bundled weights.

    Raises:
        RuntimeError: no mediapipe, or one without them.
    """
    mediapipe = import_mediapipe()
    try:
        return mediapipe.solutions
    except AttributeError:
        raise RuntimeError(
            f"mediapipe {mediapipe.__version__} is installed, but versions from 0.10.31 on carry no models. "
            f"{INSTALL_MEDIAPIPE}"
        ) from None


PROVIDERS = {
    "CPU": "CPUExecutionProvider",
    "CUDA": "CUDAExecutionProvider",
    "ROCM": "ROCMExecutionProvider",
    "DirectML": "DmlExecutionProvider",
    "CoreML": "CoreMLExecutionProvider",
}

DETECTION_SIZES = (640, 320, 128)
"""Tried in this order until a face is found: one that fills the picture is missed at 640. insightface's own sizes are
640 and 128."""


class InsightFaceDetector:
    """Faces with five keypoints and ArcFace vectors, by an insightface that is loaded already.

    This is how insightface of other node packs is used: they hand out `insightface.app.FaceAnalysis` itself. They also
    set its detection size while they work, so none of what is set there counts here, and nothing is set.

    Args:
        analysis: insightface's `FaceAnalysis`.

    Raises:
        ValueError: something else, or one without a recognition model.
    """

    def __init__(self, analysis: Any):
        models, detector = getattr(analysis, "models", None), getattr(analysis, "det_model", None)
        if not isinstance(models, Mapping) or detector is None:
            raise ValueError(
                f"face_analysis is a {type(analysis).__name__}; expected insightface's FaceAnalysis with its models "
                "loaded. Connect BoLIDFaceAnalysisLoader, or the InsightFace loader of another pack."
            )
        if "recognition" not in models:
            raise ValueError(
                "The insightface at face_analysis was loaded without its recognition model, so faces have no vectors. "
                "Connect BoLIDFaceAnalysisLoader, or a loader that loads the whole pack."
            )
        self._analysis = analysis

    def detect(self, image: np.ndarray) -> list[Face]:
        """See `FaceDetector.detect`; every face has keypoints and an embedding."""
        if max(image.shape[:2]) > min(DETECTION_SIZES) * min(image.shape[:2]):
            return []  # thinner than one pixel once it is fitted in; insightface fails on it
        pixels = np.ascontiguousarray(image[..., ::-1])  # insightface reads BGR
        for size in self._sizes():
            found = self._detect_at(pixels, size)
            if found:
                return largest_first(found)
        return []

    def _sizes(self) -> list[tuple[int, int]]:
        """(width, height) of the pictures that the detector can be given; some models have but one."""
        detector = self._analysis.det_model
        *_, height, width = detector.session.get_inputs()[0].shape
        of_session = (width, height) if isinstance(height, int) and isinstance(width, int) else None
        # insightface 2 may open a session per size, of a model that takes any.
        fixed = getattr(detector, "static_input_size", of_session)
        return [fixed] if fixed is not None else [(size, size) for size in DETECTION_SIZES]

    def _detect_at(self, pixels: np.ndarray, size: tuple[int, int]) -> list[Face]:
        from insightface.app.common import Face as InsightFace

        boxes, keypoints = self._analysis.det_model.detect(pixels, input_size=size)
        faces = []
        for box, points in zip(boxes, keypoints, strict=True):
            face = InsightFace(bbox=box[:4], kps=points, det_score=box[4])
            self._analysis.models["recognition"].get(pixels, face)
            faces.append(
                Face(
                    box=tuple(map(float, box[:4])),
                    score=float(box[4]),
                    keypoints=np.asarray(points, dtype=np.float32),
                    embedding=np.asarray(face.normed_embedding, dtype=np.float32),
                )
            )
        return faces


class InsightFaceAnalysis(InsightFaceDetector):
    """insightface with a pack of ours (`BOLID_FACE_ANALYSIS`). Never downloads.

    Args:
        root: folder that holds models/<model_pack>.
        model_pack: name of the pack, such as "buffalo_l".
        provider: one of `PROVIDERS`.

    Raises:
        FileNotFoundError: the pack is not there.
        ValueError: the provider is none of `PROVIDERS`.
        RuntimeError: insightface is not installed, the pack is incomplete, or the provider is not available.
    """

    def __init__(self, *, root: str | os.PathLike[str], model_pack: str, provider: str = "CPU"):
        if provider not in PROVIDERS:
            raise ValueError(f"provider is {provider!r}; it must be one of {', '.join(PROVIDERS)}.")
        folder = Path(root, "models", model_pack)
        if not any(folder.glob("*.onnx")):
            raise FileNotFoundError(
                f"The insightface pack {model_pack!r} is not there: {folder} has no .onnx files. Download "
                f"{model_pack}.zip from insightface's release page and unpack its .onnx files into that folder."
            )
        try:
            import onnxruntime
            from insightface.app import FaceAnalysis
        except ImportError as error:
            raise RuntimeError(
                f"Face analysis needs insightface and onnxruntime ({error}). Install them into ComfyUI's environment "
                "with `pip install insightface onnxruntime`."
            ) from error
        available = onnxruntime.get_available_providers()
        if PROVIDERS[provider] not in available:
            known = [name for name, long_name in PROVIDERS.items() if long_name in available]
            raise RuntimeError(
                f"onnxruntime cannot compute on {provider} here; available: {', '.join(known)}. Choose one of these as "
                "provider, or install the onnxruntime package for your device."
            )
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # insightface prints what it loads
                analysis = FaceAnalysis(
                    name=str(folder),
                    root=str(root),
                    allowed_modules=["detection", "recognition"],
                    providers=[PROVIDERS[provider]],
                )
                analysis.prepare(ctx_id=-1 if provider == "CPU" else 0, det_size=(DETECTION_SIZES[0],) * 2)
        except AssertionError as error:  # how insightface says it
            raise RuntimeError(f"The insightface pack in {folder} has no face detection model.") from error
        except Exception as error:  # onnxruntime's own kinds, which share no base class
            raise RuntimeError(
                f"The insightface pack in {folder} cannot be read ({error}). A file may be an incomplete download; "
                "unpack the pack's .zip again."
            ) from error
        if "recognition" not in analysis.models:
            raise RuntimeError(f"The insightface pack in {folder} has no recognition model; FaceID adapters need one.")
        for model in analysis.models.values():
            # onnxruntime falls back to the CPU with no more than a warning where a device's libraries are missing.
            if model.session.get_providers()[0] != PROVIDERS[provider]:
                raise RuntimeError(
                    f"onnxruntime has {provider} but could not start it, and would compute on the CPU: the device's "
                    "libraries are missing or of another version (ComfyUI's log names them). Install those that this "
                    "onnxruntime needs, or choose CPU as provider."
                )
        super().__init__(analysis)
