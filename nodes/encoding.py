"""Encoding reference photos: crops, CLIP features, ArcFace vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import comfy.clip_vision
import comfy.model_management
import numpy as np
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.utils import ProgressBar
from comfy_api.v0_0_2 import io, ui

from ..detectors.crops import FACE_MARGIN, PERSON_MARGIN, align_face, crop_for_encoder, rgb, to_uint8
from ..detectors.faces import Face, FaceDetector, InsightFaceAnalysis, MediaPipeFaceDetector, largest_first
from ..detectors.people import MediaPipePersonDetector, Person
from ..models.references import PhotoReport, References
from .image_features import encode
from .model_folders import insightface_packs, insightface_root
from .reports import report_json
from .types import CATEGORY, FaceAnalysisType, FaceDetectionModelType, ReferencesType, single

CROPS = ("whole", "face", "person")
ON_MISSING = ("skip", "error", "whole")

DEFAULT_CROP_SIZE = 224


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
        return io.NodeOutput(
            InsightFaceAnalysis(root=insightface_root(), model_pack=model_pack, provider=provider)
        )


class MultiRefImageEncoder(io.ComfyNode):
    """Photos of one person → features per photo."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MultiRefImageEncoder",
            display_name="Encode Reference Photos (BoLID)",
            category=CATEGORY,
            description="Encodes any number of photos of one person, a batch or a list with different sizes, whole or "
            "cropped to the face or the person.",
            search_aliases=["ip-adapter encoder", "clip vision encode", "faceid", "face crop", "multiple references"],
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="Photos of one person: a batch, a list, or both."),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="Image encoder, from 'Load CLIP Vision'. Most IP-Adapters need CLIP ViT-H; FaceID adapters "
                    "without 'plus' need none.",
                ),
                io.MultiType.Input(
                    "face_analysis",
                    [FaceAnalysisType, FaceDetectionModelType],
                    optional=True,
                    tooltip="For FaceID adapters: BoLIDFaceAnalysisLoader. For face crops alone ComfyUI's 'Load Face "
                    "Detection Model (MediaPipe)' will do; without either, the mediapipe package finds faces.",
                ),
                io.Combo.Input(
                    "crop",
                    options=list(CROPS),
                    default="whole",
                    tooltip="What the image encoder sees. whole: the middle square of the photo, as IP-Adapter was "
                    "trained. face: the largest face with some room (aligned, if face_analysis gives landmarks). "
                    "person: the whole body of the largest person.",
                ),
                io.Combo.Input(
                    "on_missing",
                    options=list(ON_MISSING),
                    default="skip",
                    tooltip="When a photo has no face (or person): skip leaves it out, error stops, whole uses the "
                    "whole photo instead (without clip_vision there is nothing to use it for, and it is left out).",
                ),
            ],
            outputs=[
                ReferencesType.Output("references", tooltip="For an aggregator."),
                io.Image.Output("crops", tooltip="What the image encoder saw, one picture per kept photo."),
                io.String.Output("report", tooltip="JSON: for every photo whether it was kept, and why not."),
            ],
        )

    @classmethod
    def execute(
        cls,
        images: list[torch.Tensor],
        crop: list[str],
        on_missing: list[str],
        clip_vision: list[comfy.clip_vision.ClipVisionModel] | None = None,
        face_analysis: list[Any] | None = None,
    ) -> io.NodeOutput:
        photos = [photo for batch in images for photo in batch]
        encoder = single(clip_vision)
        analysis = single(face_analysis)
        if encoder is None and not isinstance(analysis, InsightFaceAnalysis):
            raise ValueError(
                "There is nothing to encode with: connect 'Load CLIP Vision' to clip_vision (IP-Adapter, plus, "
                "FaceID-plus), BoLIDFaceAnalysisLoader to face_analysis (FaceID), or both."
            )
        size = encoder.image_size if encoder is not None else DEFAULT_CROP_SIZE
        progress = ProgressBar(2 * len(photos))
        found = _find_regions(
            photos,
            crop=single(crop),
            on_missing=single(on_missing),
            analysis=analysis,
            size=size,
            face_alone=encoder is None,
            progress=progress,
        )
        crops = torch.cat([region.crop for region in found.regions])
        references = replace(
            _encoded(encoder, crops, progress) if encoder is not None else References(),
            **_face_features(found.regions),
            report=found.report,
        )
        progress.update_absolute(2 * len(photos))  # photos that were left out, or no encoder
        return io.NodeOutput(
            references, crops, report_json(found.report, crop=single(crop)), ui=ui.PreviewImage(crops, cls=cls)
        )


@dataclass(frozen=True, kw_only=True)
class _Region:
    """What is used of one photo: the crop [1, S, S, 3], and its face where ArcFace vectors are wanted."""

    crop: torch.Tensor
    embedding: np.ndarray | None


@dataclass(frozen=True, kw_only=True)
class _Found:
    regions: list[_Region]
    report: tuple[PhotoReport, ...]


def _find_regions(
    photos: Sequence[torch.Tensor],
    *,
    crop: str,
    on_missing: str,
    analysis: Any,
    size: int,
    face_alone: bool,
    progress: ProgressBar,
) -> _Found:
    wants_embedding = isinstance(analysis, InsightFaceAnalysis)
    regions: list[_Region] = []
    report: list[PhotoReport] = []
    with ExitStack() as detectors:
        find_face = face_finder(analysis, detectors) if wants_embedding or crop == "face" else None
        find_person = detectors.enter_context(MediaPipePersonDetector()) if crop == "person" else None
        for number, photo in enumerate(photos, start=1):
            throw_exception_if_processing_interrupted()
            pixels = to_uint8(photo)
            faces = find_face(pixels) if find_face is not None else []
            people = find_person.detect(pixels) if find_person is not None else []
            missing = what_is_missing(crop, faces, people, wants_embedding)
            if missing and on_missing == "error":
                raise ValueError(
                    f"Photo {number} of {len(photos)}: {missing} was found. Replace the photo, or set on_missing "
                    "to 'skip' (leave it out) or 'whole' (use the whole photo)."
                )
            progress.update(1)
            if missing and (on_missing == "skip" or (face_alone and not faces)):
                reason = f"{missing} found" + (", and no clip_vision for the whole photo" if face_alone else "")
                report.append(PhotoReport(photo=number, status="dropped", reason=reason))
                continue
            regions.append(
                _Region(
                    crop=cropped(rgb(photo), crop=crop, faces=faces, people=people, size=size),
                    embedding=faces[0].embedding if faces else None,
                )
            )
            reason = f"{missing} found, {_instead(crop, people)}" if missing else ""
            report.append(PhotoReport(photo=number, status="kept", reason=reason))
    if not regions:
        reasons = ", ".join(dict.fromkeys(entry.reason for entry in report)) or "there are none"
        raise ValueError(
            f"None of the {len(photos)} photos can be used: {reasons}. Use photos in which the person is clearly "
            "visible" + (", or set on_missing to 'whole'." if on_missing == "skip" and not face_alone else ".")
        )
    return _Found(regions=regions, report=tuple(report))


def face_finder(analysis: Any, detectors: ExitStack) -> Callable[[np.ndarray], list[Face]]:
    """What finds faces in a photo [H, W, 3] uint8, largest first.

    Args:
        analysis: insightface's, ComfyUI's own face detection model, or None: mediapipe's is opened.
        detectors: closes what is opened.
    """
    if analysis is None:
        return detectors.enter_context(MediaPipeFaceDetector()).detect
    if isinstance(analysis, InsightFaceAnalysis):
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
        return largest_first(
            [Face(box=tuple(map(float, face["bbox_xyxy"])), score=float(face["score"])) for face in found]
        )


def what_is_missing(crop: str, faces: Sequence[Face], people: Sequence[Person], wants_embedding: bool) -> str:
    """In words what a photo lacks for this crop, or nothing."""
    if crop == "person" and not people:
        return "no person"
    if (crop == "face" or wants_embedding) and not faces:
        return "no face"
    return ""


def _instead(crop: str, people: Sequence[Person]) -> str:
    """What on_missing 'whole' means for a photo, for the report."""
    return "person used without face embedding" if crop == "person" and people else "whole photo used"


def cropped(
    photo: torch.Tensor, *, crop: str, faces: Sequence[Face], people: Sequence[Person], size: int
) -> torch.Tensor:
    """The part of a photo [H, W, 3] that the encoder shall see: [1, size, size, 3]."""
    if crop == "face" and faces:
        if faces[0].keypoints is not None:
            return align_face(photo, faces[0].keypoints, size=size).unsqueeze(0)
        return crop_for_encoder(photo, faces[0].box, margin=FACE_MARGIN, size=size)
    if crop == "person" and people:
        return crop_for_encoder(photo, people[0].box, margin=PERSON_MARGIN, size=size)
    return crop_for_encoder(photo, None, size=size)


def _encoded(
    encoder: comfy.clip_vision.ClipVisionModel, crops: torch.Tensor, progress: ProgressBar
) -> References:
    image_embeds, hidden_states = encode(encoder, crops, progress)
    return References(
        image_embeds=image_embeds, hidden_states=hidden_states, zero_hidden_states=_zero_hidden_states(encoder)
    )


def _zero_hidden_states(encoder: comfy.clip_vision.ClipVisionModel) -> torch.Tensor:
    """Hidden states of an image that is zero after preprocessing; no picture can be given that becomes exactly that."""
    comfy.model_management.load_model_gpu(encoder.patcher)
    pixel_values = torch.zeros(1, 3, encoder.image_size, encoder.image_size, device=encoder.load_device)
    output = encoder.model(pixel_values=pixel_values, intermediate_output=-2)
    return output[1].to(comfy.model_management.intermediate_device()).float()


def _face_features(regions: Sequence[_Region]) -> dict[str, torch.Tensor]:
    """`face_embeds` and `has_face` of the kept photos; nothing where no face analysis ran or no face was found."""
    if not any(region.embedding is not None for region in regions):
        return {}
    width = next(len(region.embedding) for region in regions if region.embedding is not None)
    return {
        "face_embeds": torch.stack(
            [
                torch.from_numpy(region.embedding) if region.embedding is not None else torch.zeros(width)
                for region in regions
            ]
        ).float(),
        "has_face": torch.tensor([region.embedding is not None for region in regions]),
    }
