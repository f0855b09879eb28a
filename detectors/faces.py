"""Face detection: mediapipe with its bundled weights, or insightface with ArcFace vectors."""

from __future__ import annotations

import contextlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

MIN_CONFIDENCE = 0.5

INSTALL_MEDIAPIPE = (
    "Install it into ComfyUI's environment with `pip install mediapipe==0.10.21` (the last version that carries its "
    "models; it needs numpy < 2), or connect BoLIDFaceAnalysisLoader or ComfyUI's 'Load Face Detection Model "
    "(MediaPipe)' to face_analysis."
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


class FaceDetector(Protocol):
    """Anything that finds faces."""

    def detect(self, image: np.ndarray) -> list[Face]:
        """Faces in an RGB picture [H, W, 3] uint8, the largest first."""
        ...


def largest_first(faces: list[Face]) -> list[Face]:
    """The order in which detectors return faces."""
    return sorted(faces, key=lambda face: face.area, reverse=True)


class MediaPipeFaceDetector:
    """mediapipe's face detector, with the weights that its package carries; a context manager.

    The full-range model sees small faces too; close-ups that it misses are left to the short-range model.

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
        height, width = image.shape[:2]
        for detector in self._detectors:
            found = detector.process(image).detections or []
            faces = []
            for detection in found:
                box = detection.location_data.relative_bounding_box
                x0, y0 = box.xmin * width, box.ymin * height
                faces.append(
                    Face(box=(x0, y0, x0 + box.width * width, y0 + box.height * height), score=detection.score[0])
                )
            if faces:
                return largest_first(faces)
        return []


def mediapipe_solutions() -> Any:
    """`mediapipe.solutions`, the API with bundled weights.

    Raises:
        RuntimeError: no mediapipe, or one without them.
    """
    try:
        import mediapipe
    except ImportError as error:
        raise RuntimeError(f"Finding people and faces needs the mediapipe package. {INSTALL_MEDIAPIPE}") from error
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

DETECTION_SIZES = (640, 320)
"""A face that fills the picture is missed at 640 and found at 320."""


class InsightFaceAnalysis:
    """insightface: faces with five keypoints and ArcFace vectors (`BOLID_FACE_ANALYSIS`). Never downloads.

    Args:
        root: folder that holds models/<model_pack>.
        model_pack: name of the pack, such as "buffalo_l".
        provider: one of `PROVIDERS`.

    Raises:
        FileNotFoundError: the pack is not there.
        RuntimeError: insightface is not installed, or the provider is not available.
    """

    def __init__(self, *, root: str | os.PathLike[str], model_pack: str, provider: str = "CPU"):
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
        with contextlib.redirect_stdout(io.StringIO()):  # insightface prints what it loads
            self._analysis = FaceAnalysis(
                name=str(folder),
                root=str(root),
                allowed_modules=["detection", "recognition"],
                providers=[PROVIDERS[provider]],
            )
            self._analysis.prepare(ctx_id=-1 if provider == "CPU" else 0, det_size=(DETECTION_SIZES[0],) * 2)
        if "recognition" not in self._analysis.models:
            raise RuntimeError(f"The insightface pack in {folder} has no recognition model; FaceID adapters need one.")

    def detect(self, image: np.ndarray) -> list[Face]:
        """See `FaceDetector.detect`; every face has keypoints and an embedding."""
        pixels = np.ascontiguousarray(image[..., ::-1])  # insightface reads BGR
        for size in DETECTION_SIZES:
            found = self._detect_at(pixels, size)
            if found:
                return largest_first(found)
        return []

    def _detect_at(self, pixels: np.ndarray, size: int) -> list[Face]:
        from insightface.app.common import Face as InsightFace

        boxes, keypoints = self._analysis.det_model.detect(pixels, input_size=(size, size))
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
