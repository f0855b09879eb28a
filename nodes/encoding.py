"""Encoding reference photos: crops, CLIP features, ArcFace vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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

from ..detectors.crops import PERSON_MARGIN, crop_for_encoder, rgb, square_tiles, to_uint8
from ..detectors.faces import FACE_CHOICES, Face, InsightFaceDetector, in_order
from ..detectors.people import MediaPipePersonDetector, Person
from ..models.keypoints import COCO_KEYPOINTS
from ..models.references import ReferenceReport, References
from .faces import face_crop, face_finder, parse_face_index, usable_face_analysis
from .image_features import encode
from .reports import report_json
from .types import CATEGORY, FACE_ANALYSIS_TYPES, ReferencesType, single

CROPS = ("whole", "face", "person")
TILES = "tiles"
ON_MISSING = ("skip", "error", "whole")

LARGEST = "largest"

DEFAULT_CROP_SIZE = 224


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
            search_aliases=[
                "ip-adapter encoder",
                "clip vision encode",
                "faceid",
                "face crop",
                "face index",
                "tiled",
                "multiple references",
            ],
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
                    FACE_ANALYSIS_TYPES,
                    optional=True,
                    tooltip="For FaceID adapters: BoLIDFaceAnalysisLoader, or another pack's InsightFace loader (its "
                    "pack must be buffalo_l). For face crops alone ComfyUI's 'Load Face Detection Model (MediaPipe)' "
                    "will do; without either, the mediapipe package finds faces.",
                ),
                io.Combo.Input(
                    "crop",
                    options=[*CROPS, TILES],
                    default="whole",
                    tooltip="What the image encoder sees. whole: the middle square of the photo, as IP-Adapter was "
                    "trained. face: one face with some room (aligned, if face_analysis gives landmarks). person: the "
                    "whole body of one person. tiles: all of a wide or tall photo, cut into squares, each of which "
                    "counts like a photo.",
                ),
                io.Combo.Input(
                    "on_missing",
                    options=list(ON_MISSING),
                    default="skip",
                    tooltip="When a photo has no face (or person): skip leaves it out, error stops, whole uses the "
                    "whole photo instead (without clip_vision there is nothing to use it for, and it is left out).",
                ),
                io.Combo.Input(
                    "face_choice",
                    options=list(FACE_CHOICES),
                    default=LARGEST,
                    optional=True,
                    tooltip="Which face is the person where a photo shows several: the largest one, the one nearest to "
                    "the middle, or the first one from a side. BoLIDDetectFaces shows them in this order.",
                ),
                io.String.Input(
                    "face_index",
                    default="0",
                    optional=True,
                    tooltip="Another face than the first one of face_choice: 1 is the second one, and so on. One "
                    "number for all photos, or one per photo, e.g. 0, 2, 1.",
                ),
            ],
            outputs=[
                ReferencesType.Output("references", tooltip="For an aggregator."),
                io.Image.Output("crops", tooltip="What the image encoder saw, one picture per kept photo or tile."),
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
        face_choice: Sequence[str] = (LARGEST,),
        face_index: Sequence[str] = ("0",),
    ) -> io.NodeOutput:
        photos = [photo for batch in images for photo in batch]
        encoder = single(clip_vision)
        analysis = usable_face_analysis(single(face_analysis))
        if encoder is None and not isinstance(analysis, InsightFaceDetector):
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
            face_choice=single(face_choice),
            face_index=parse_face_index(face_index, photos=len(photos)),
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
        progress.update_absolute(progress.total)  # photos that were left out, or no encoder
        return io.NodeOutput(
            references, crops, report_json(found.report, crop=single(crop)), ui=ui.PreviewImage(crops, cls=cls)
        )


@dataclass(frozen=True, kw_only=True)
class _Region:
    """What is used of one photo, or one tile: the crop [1, S, S, 3], and its face where ArcFace vectors are wanted."""

    crop: torch.Tensor
    embedding: np.ndarray | None


@dataclass(frozen=True, kw_only=True)
class _Found:
    regions: list[_Region]
    report: tuple[ReferenceReport, ...]


def _find_regions(
    photos: Sequence[torch.Tensor],
    *,
    crop: str,
    on_missing: str,
    analysis: Any,
    face_choice: str,
    face_index: Sequence[int],
    size: int,
    face_alone: bool,
    progress: ProgressBar,
) -> _Found:
    regions: list[_Region] = []
    report: list[ReferenceReport] = []
    # Without an encoder there are face vectors alone, and tiles would but repeat them.
    cut_as = "whole" if face_alone and crop == TILES else crop
    with ExitStack() as detectors:
        finder = _Finder(
            crop=crop,
            analysis=analysis,
            face_choice=face_choice,
            chooses=face_choice != LARGEST or any(face_index),
            detectors=detectors,
        )
        for number, (photo, index) in enumerate(zip(photos, face_index, strict=True), start=1):
            throw_exception_if_processing_interrupted()
            seen = finder.look(to_uint8(photo), index)
            if seen.missing and on_missing == "error":
                raise ValueError(
                    f"Photo {number} of {len(photos)}: {seen.missing}. Replace the photo, or set on_missing to 'skip' "
                    "(leave it out) or 'whole' (use the whole photo)."
                )
            progress.update(1)
            entry = ReferenceReport(photo=number, status="kept", faces=seen.faces_found)
            if seen.missing and (on_missing == "skip" or (face_alone and not seen.faces)):
                reason = seen.missing + (", and no clip_vision for the whole photo" if face_alone else "")
                report.append(replace(entry, status="dropped", reason=reason))
                continue
            if seen.missing:
                entry = replace(entry, reason=f"{seen.missing}, {_instead(crop, seen.people)}")
            embedding = seen.faces[0].embedding if seen.faces else None
            for cut, part in _parts(rgb(photo), seen, crop=cut_as, size=size):
                regions.append(_Region(crop=cut, embedding=embedding))
                report.append(replace(entry, row=len(regions), **part))
    if not regions:
        reasons = ", ".join(dict.fromkeys(entry.reason for entry in report)) or "there are none"
        raise ValueError(
            f"None of the {len(photos)} photos can be used: {reasons}. Use photos in which the person is clearly "
            "visible" + (", or set on_missing to 'whole'." if on_missing == "skip" and not face_alone else ".")
        )
    return _Found(regions=regions, report=tuple(report))


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What was found of the person in one photo.

    Attributes:
        faces, people: the face and the body that are used, or nothing.
        faces_found: of everybody; None where none was looked for.
        missing: in words, what the photo lacks, or nothing.
    """

    faces: list[Face]
    people: list[Person]
    faces_found: int | None
    missing: str


class _Finder:
    """Finds the person in photos, as far as the crop and the face vectors need it."""

    def __init__(self, *, crop: str, analysis: Any, face_choice: str, chooses: bool, detectors: ExitStack):
        self._crop = crop
        self._face_choice = face_choice
        self._chooses = chooses
        self._needs_face = isinstance(analysis, InsightFaceDetector) or crop == "face" or (chooses and crop == "person")
        self._find_faces = face_finder(analysis, detectors) if self._needs_face else None
        self._find_people = detectors.enter_context(MediaPipePersonDetector()) if crop == "person" else None

    def look(self, pixels: np.ndarray, face_index: int) -> _Seen:
        faces = self._find_faces(pixels) if self._find_faces is not None else []
        people = self._find_people.detect(pixels) if self._find_people is not None else []
        ordered = in_order(faces, self._face_choice, image_size=pixels.shape[:2])
        chosen = ordered[face_index : face_index + 1]
        owners = [person for person in people if chosen and _has_nose_in(person, chosen[0])]
        if not owners and not self._chooses:
            owners = people
        missing = what_is_missing(self._crop, chosen, people, self._needs_face)
        if not missing and self._crop == "person" and not owners:
            missing = f"no person found with face {face_index}"
        elif faces and not chosen:
            missing = f"face_index is {face_index}, but only {len(faces)} found (counted from 0)"
        return _Seen(
            faces=chosen,
            people=owners[:1],
            faces_found=len(faces) if self._find_faces is not None else None,
            missing=missing,
        )


def _has_nose_in(person: Person, face: Face) -> bool:
    x, y, visibility = person.keypoints[COCO_KEYPOINTS.index("nose")]
    x0, y0, x1, y1 = face.box
    return bool(visibility > 0 and x0 <= x <= x1 and y0 <= y <= y1)


def what_is_missing(crop: str, faces: Sequence[Face], people: Sequence[Person], needs_face: bool) -> str:
    """In words what a photo lacks for this crop, or nothing."""
    if crop == "person" and not people:
        return "no person found"
    if (crop == "face" or needs_face) and not faces:
        return "no face found"
    return ""


def _parts(photo: torch.Tensor, seen: _Seen, *, crop: str, size: int) -> Iterator[tuple[torch.Tensor, dict[str, Any]]]:
    """What the encoder shall see of a photo, [1, size, size, 3] each, with what the report says of it."""
    boxes = square_tiles(photo.shape[:2]) if crop == TILES else []
    if len(boxes) < 2:
        yield cropped(photo, crop=crop, faces=seen.faces, people=seen.people, size=size), {}
        return
    for number, box in enumerate(boxes, start=1):
        yield crop_for_encoder(photo, box, size=size), {"tile": f"{number} of {len(boxes)}", "box": box}


def _instead(crop: str, people: Sequence[Person]) -> str:
    """What on_missing 'whole' means for a photo, for the report."""
    return "person used without face embedding" if crop == "person" and people else "whole photo used"


def cropped(
    photo: torch.Tensor, *, crop: str, faces: Sequence[Face], people: Sequence[Person], size: int
) -> torch.Tensor:
    """The part of a photo [H, W, 3] that the encoder shall see: [1, size, size, 3]."""
    if crop == "face" and faces:
        return face_crop(photo, faces[0], size=size)
    if crop == "person" and people:
        return crop_for_encoder(photo, people[0].box, margin=PERSON_MARGIN, size=size)
    return crop_for_encoder(photo, None, size=size)


def _encoded(encoder: comfy.clip_vision.ClipVisionModel, crops: torch.Tensor, progress: ProgressBar) -> References:
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
