"""Finding faces: what finds them, which of several is the person, and a look at them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.utils import ProgressBar
from comfy_api.v0_0_2 import io, ui
from comfy_execution.graph import ExecutionBlocker

from ..detectors.crops import FACE_MARGIN, align_face, crop_for_encoder, rgb, to_uint8
from ..detectors.faces import (
    FACE_CHOICES,
    Face,
    FaceDetector,
    InsightFaceAnalysis,
    InsightFaceDetector,
    MediaPipeFaceDetector,
    in_order,
    largest_first,
    without_repetitions,
)
from .face_boxes import draw_faces
from .model_folders import how_to_get, insightface_packs, insightface_root
from .photos import contact_strip
from .types import CATEGORY, FACE_ANALYSIS_TYPES, FaceAnalysisType, single

CROP_SIZE = 224
PREVIEW_SIDE = 512


class BoLIDFaceAnalysisLoader(io.ComfyNode):
    """insightface: face detection with ArcFace vectors, for FaceID adapters."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BoLIDFaceAnalysisLoader",
            display_name="Load Face Analysis (BoLID)",
            category=CATEGORY,
            description="Loads insightface models for FaceID adapters. Nothing is downloaded: the models must be in "
            "models/insightface/models/<pack>.",
            search_aliases=["insightface", "arcface", "faceid", "antelopev2", "buffalo_l"],
            inputs=[
                io.Combo.Input(
                    "model_pack",
                    options=insightface_packs(),
                    default="buffalo_l",
                    tooltip="A folder in models/insightface/models with the pack's .onnx files. FaceID adapters were "
                    "trained with buffalo_l.",
                ),
                io.Combo.Input(
                    "provider",
                    options=["CPU", "CUDA", "ROCM", "DirectML", "CoreML"],
                    default="CPU",
                    tooltip="Where onnxruntime computes.",
                ),
            ],
            outputs=[FaceAnalysisType.Output("face_analysis", tooltip="For MultiRefImageEncoder.")],
        )

    @classmethod
    def execute(cls, model_pack: str, provider: str) -> io.NodeOutput:
        try:
            return io.NodeOutput(InsightFaceAnalysis(root=insightface_root(), model_pack=model_pack, provider=provider))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}{how_to_get(model_pack, 'insightface pack')}") from error


class BoLIDDetectFaces(io.ComfyNode):
    """Photos → the same with numbered faces."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BoLIDDetectFaces",
            display_name="Detect Faces (BoLID)",
            category=CATEGORY,
            description="Shows every face that is found in the photos, with the number by which MultiRefImageEncoder "
            "knows it: look here before you set its face_index.",
            search_aliases=["face detection", "face index", "face boxes", "preview faces", "face crop", "insightface"],
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="Photos: a batch, a list of different sizes, or both."),
                io.MultiType.Input(
                    "face_analysis",
                    FACE_ANALYSIS_TYPES,
                    optional=True,
                    tooltip="What finds faces: connect what MultiRefImageEncoder has, or the numbers may differ. "
                    "Without it the mediapipe package looks for them.",
                ),
                io.Combo.Input(
                    "face_choice",
                    options=list(FACE_CHOICES),
                    default="largest",
                    optional=True,
                    tooltip="In which order faces are numbered from 0. Choose what MultiRefImageEncoder has.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "images",
                    is_output_list=True,
                    tooltip="The photos with a numbered box around every face, each in its own size (small ones "
                    "enlarged).",
                ),
                io.Image.Output(
                    "faces",
                    tooltip="All faces of all photos, photo by photo in the order of their numbers, cut as "
                    "MultiRefImageEncoder cuts them with crop = face.",
                ),
                io.String.Output("report", tooltip="JSON: for every photo its faces, with number, box and score."),
            ],
        )

    @classmethod
    def execute(
        cls,
        images: list[torch.Tensor],
        face_analysis: list[Any] | None = None,
        face_choice: Sequence[str] = ("largest",),
    ) -> io.NodeOutput:
        photos = [rgb(photo) for batch in images for photo in batch]
        if not photos:
            raise ValueError("There are no photos to look at: connect at least one to 'images'.")
        analysis, choice = usable_face_analysis(single(face_analysis)), single(face_choice)
        progress = ProgressBar(len(photos))
        pictures, crops, entries = [], [], []
        with ExitStack() as detectors:
            find = face_finder(analysis, detectors)
            for number, photo in enumerate(photos, start=1):
                throw_exception_if_processing_interrupted()
                pixels = to_uint8(photo)
                faces = in_order(find(pixels), choice, image_size=pixels.shape[:2])
                pictures.append(torch.from_numpy(draw_faces(pixels, faces)).float().div(255).unsqueeze(0))
                crops += [face_crop(photo, face, size=CROP_SIZE) for face in faces]
                entries.append(_photo_entry(number, pixels, faces))
                progress.update(1)
        report = {"face_choice": choice, "faces": len(crops), "photos": entries}
        return io.NodeOutput(
            pictures,
            torch.cat(crops)
            if crops
            else ExecutionBlocker("BoLIDDetectFaces found no face, so its output 'faces' has no picture."),
            json.dumps(report, indent=2),
            ui=ui.PreviewImage(contact_strip(pictures, side=PREVIEW_SIDE), cls=cls),
        )


def _photo_entry(number: int, pixels: np.ndarray, faces: Sequence[Face]) -> dict[str, Any]:
    return {
        "photo": number,
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "faces": [
            {
                "face_index": index,
                "box": [round(value, 1) for value in face.box],
                "score": round(face.score, 4),
                "has_vector": face.embedding is not None,
            }
            for index, face in enumerate(faces)
        ],
    }


def usable_face_analysis(analysis: Any) -> Any:
    """What comes in at `face_analysis`, with insightface of other packs as an `InsightFaceDetector`.

    Raises:
        ValueError: something else, or an insightface without recognition model.
    """
    if analysis is None or isinstance(analysis, InsightFaceDetector) or hasattr(analysis, "detect_batch"):
        return analysis
    return InsightFaceDetector(analysis)


def face_finder(analysis: Any, detectors: ExitStack) -> Callable[[np.ndarray], list[Face]]:
    """What finds faces in a photo [H, W, 3] uint8, largest first.

    Args:
        analysis: insightface's, ComfyUI's own face detection model, or None: mediapipe's is opened.
        detectors: closes what is opened.
    """
    if analysis is None:
        return detectors.enter_context(MediaPipeFaceDetector()).detect
    if isinstance(analysis, InsightFaceDetector):
        return analysis.detect
    return _CoreFaceDetector(analysis).detect


class _CoreFaceDetector(FaceDetector):
    """ComfyUI's own MediaPipe face model (`FACE_DETECTION_MODEL`)."""

    def __init__(self, model: Any):
        self._model = model

    def detect(self, image: np.ndarray) -> list[Face]:
        found = [
            face
            for variant in ("short", "full")
            for face in self._model.detect_batch([image], num_faces=0, score_thresh=0.5, variant=variant)[0]
        ]
        faces = [Face(box=tuple(map(float, face["bbox_xyxy"])), score=float(face["score"])) for face in found]
        return without_repetitions(largest_first(faces))


def face_crop(photo: torch.Tensor, face: Face, *, size: int) -> torch.Tensor:
    """A face of a photo [H, W, 3] with some room, aligned where its keypoints are known: [1, size, size, 3]."""
    if face.keypoints is not None:
        return align_face(photo, face.keypoints, size=size).unsqueeze(0)
    return crop_for_encoder(photo, face.box, margin=FACE_MARGIN, size=size)


def parse_face_index(given: Sequence[str | int], *, photos: int) -> list[int]:
    """One number from 0 per photo, of "0" or of "0, 2, 0".

    Args:
        given: the input's values; several of them are read as one after the other.
        photos: how many there are.

    Raises:
        ValueError: something else than whole numbers from 0, or neither one of them nor one per photo.
    """
    text = " ".join(map(str, given))
    parts = text.replace(",", " ").replace(";", " ").split()
    if not parts or not all(part.isascii() and part.isdigit() for part in parts):
        raise ValueError(
            f"face_index must be whole numbers from 0: '0' for all photos, or one per photo such as '0, 2, 1'; got "
            f"{text!r}. BoLIDDetectFaces shows the numbers."
        )
    numbers = [int(part) for part in parts]
    if len(numbers) not in (1, photos):
        raise ValueError(
            f"face_index has {len(numbers)} numbers for {photos} photos. Give one number for all photos, or one per "
            "photo."
        )
    return numbers * photos if len(numbers) == 1 else numbers
