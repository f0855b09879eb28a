"""Scores of pictures: likeness to the references, nearness to a text or a pose, and how much they please."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import comfy.clip_vision
import numpy as np
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.utils import ProgressBar

from ..detectors.crops import crop_for_encoder, to_uint8
from ..detectors.faces import InsightFaceDetector
from ..detectors.openpose import frame_from_people, people_from_frame
from ..detectors.people import MediaPipePersonDetector, Person
from ..metrics.poses import area_of_box, detection_rate, joint_detection_rate, oks, pck, torso_length
from ..metrics.similarity import clip_score, image_alignment
from ..models.body import Body
from ..models.keypoints import COCO_KEYPOINTS, FIRST_JOINT
from ..models.references import References
from .aesthetic_head import AestheticHead
from .body import BUNDLED
from .encoding import cropped, what_is_missing
from .faces import face_finder
from .image_features import ENCODE_BATCH, encode
from .model_folders import pose_model_path

DECIMALS = 6
"""Of scores: encoding equal pictures in other batches gives other last digits."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """What was found of one picture.

    Attributes:
        value: higher is better; None if there is none.
        parts: by measure, the one that makes the value first.
        reason: why there is no value.
    """

    value: float | None = None
    parts: dict[str, float] = field(default_factory=dict)
    reason: str = ""

    @classmethod
    def of(cls, **parts: float | torch.Tensor) -> Score:
        """A score by its parts, of which the first one counts."""
        values = {name: round(float(value), DECIMALS) for name, value in parts.items()}
        value = next(iter(values.values()))
        if not math.isfinite(value):
            return cls.missing("its score is no number; the encoder or the aesthetic model may be damaged")
        return cls(value=value, parts=values)

    @classmethod
    def missing(cls, reason: str) -> Score:
        return cls(reason=reason)


# Identity


def score_identity(
    pictures: Sequence[torch.Tensor],
    *,
    references: References,
    encoder: comfy.clip_vision.ClipVisionModel | None,
    analysis: Any,
    crop: str,
) -> list[Score]:
    """Mean cosine with the references: of face vectors where both sides have them, else of image features.

    Args:
        pictures: [H, W, 3] each.
        encoder, analysis, crop: what the references were made with.

    Raises:
        ValueError: the references were made with something else.
    """
    wants_faces = isinstance(analysis, InsightFaceDetector)
    if encoder is None and not wants_faces:
        raise ValueError(
            "Ranking by identity compares with what MultiRefImageEncoder has: connect the same 'Load CLIP Vision' to "
            "clip_vision, or the same BoLIDFaceAnalysisLoader to face_analysis."
        )
    _check_references(references, wants_faces=wants_faces, wants_features=encoder is not None)
    crop = "whole" if encoder is None else crop
    looks = wants_faces or crop != "whole"
    progress = ProgressBar((looks + (encoder is not None)) * max(1, len(pictures)))
    reasons: dict[int, str] = {}
    crops, vectors = [], []
    with ExitStack() as detectors:
        find_face = face_finder(analysis, detectors) if wants_faces or crop == "face" else None
        find_person = detectors.enter_context(MediaPipePersonDetector()) if crop == "person" else None
        for number, picture in enumerate(pictures):
            throw_exception_if_processing_interrupted()
            pixels = to_uint8(picture) if looks else None
            faces = find_face(pixels) if find_face is not None else []
            people = find_person.detect(pixels) if find_person is not None else []
            missing = what_is_missing(crop, faces, people, wants_faces)
            progress.update(int(looks))
            if missing:
                reasons[number] = missing
                continue
            if wants_faces:
                vectors.append(torch.from_numpy(faces[0].embedding).float())
            if encoder is not None:
                crops.append(cropped(picture, crop=crop, faces=faces, people=people, size=encoder.image_size))
    parts: dict[str, torch.Tensor] = {}
    if vectors:
        known = references.face_embeds[references.has_face]
        parts["face_similarity"] = _alignment(torch.stack(vectors), known, what="face vectors", node="face_analysis")
    if crops:
        embeds = _image_embeds(encoder, crops, progress)
        parts["image_similarity"] = _alignment(
            embeds, references.image_embeds, what="image features", node="clip_vision"
        )
    progress.update_absolute(progress.total)  # pictures that were not encoded
    found = iter(zip(*parts.values(), strict=True))
    return [
        Score.missing(reasons[number]) if number in reasons else Score.of(**dict(zip(parts, next(found), strict=True)))
        for number in range(len(pictures))
    ]


def _check_references(references: References, *, wants_faces: bool, wants_features: bool) -> None:
    if wants_faces and references.face_embeds is None:
        raise ValueError(
            "The references have no face vectors: no face was found in them, or MultiRefImageEncoder has no "
            "BoLIDFaceAnalysisLoader at its face_analysis. Connect it there, or disconnect face_analysis here and "
            "compare by clip_vision."
        )
    if wants_features and references.image_embeds is None:
        raise ValueError(
            "The references have no image features: MultiRefImageEncoder has no clip_vision. Connect the same one "
            "there, or disconnect clip_vision here and compare faces."
        )


def _alignment(embeds: torch.Tensor, references: torch.Tensor, *, what: str, node: str) -> torch.Tensor:
    if embeds.shape[-1] != references.shape[-1]:
        raise ValueError(
            f"The references have {what} of width {references.shape[-1]}, but {node} gives {embeds.shape[-1]}. Connect "
            f"the {node} that MultiRefImageEncoder has."
        )
    return image_alignment(embeds, references)


def _image_embeds(
    encoder: comfy.clip_vision.ClipVisionModel, crops: Sequence[torch.Tensor], progress: ProgressBar
) -> torch.Tensor:
    """[n, D]. Batch by batch, because hidden states are hundreds of times as large and of no use here."""
    batches = [torch.cat(list(crops[start : start + ENCODE_BATCH])) for start in range(0, len(crops), ENCODE_BATCH)]
    embeds = torch.cat([encode(encoder, batch, progress)[0] for batch in batches])
    if embeds.ndim != 2:
        raise ValueError(
            f"clip_vision gives image features of the shape {list(embeds.shape)} for {len(crops)} pictures; expected "
            "one vector per picture, as CLIP gives it. Connect a CLIP image encoder."
        )
    return embeds


# Text


def score_text(
    pictures: Sequence[torch.Tensor], *, text: torch.Tensor, encoder: comfy.clip_vision.ClipVisionModel
) -> list[Score]:
    """CLIP score, the plain cosine, of each picture's middle square.

    Args:
        pictures: [H, W, 3] each.
        text: [1, E].
    """
    if not pictures:
        return []
    return [Score.of(clip_score=value) for value in clip_score(_whole_embeds(encoder, pictures), text)]


def _whole_embeds(encoder: comfy.clip_vision.ClipVisionModel, pictures: Sequence[torch.Tensor]) -> torch.Tensor:
    """[n, D] of the middle squares, as CLIP's own preprocessing has them."""
    crops = [crop_for_encoder(picture, None, size=encoder.image_size) for picture in pictures]
    return _image_embeds(encoder, crops, ProgressBar(len(crops)))


# Pose


def score_pose(
    pictures: Sequence[torch.Tensor],
    *,
    frames: Sequence[dict] | None,
    target: torch.Tensor | list[dict] | Body,
    min_visibility: float,
    pose_model: str = BUNDLED,
) -> list[Score]:
    """OKS and PCK@0.2 of the person in each picture who is nearest to the target pose, at its place in the picture.

    OKS makes the rank: of twelve joints PCK takes thirteen values at most.

    Args:
        pictures: [H, W, 3] each.
        frames: OpenPose frames of the pictures; None: mediapipe looks for people.
        target: keypoints or a picture, of which the largest person of the first one counts; or a body with target pose.
        min_visibility: joints below it are not found.
        pose_model: "bundled", or a file of models/mediapipe.

    Raises:
        ValueError: no pose in the target.
    """
    progress = ProgressBar(max(1, len(pictures)))
    scores = []
    with ExitStack() as detectors:
        detector = None
        if frames is None or isinstance(target, torch.Tensor):
            path = None if pose_model == BUNDLED else pose_model_path(pose_model)
            detector = detectors.enter_context(MediaPipePersonDetector(path))
        asked = _target_joints(target, detector, min_visibility)
        for number, picture in enumerate(pictures):
            throw_exception_if_processing_interrupted()
            people = _joints_of(detector, picture) if frames is None else _joints_on(frames[number])
            scores.append(_pose_score(people, asked, picture.shape[:2], min_visibility))
            progress.update(1)
    return scores


def _pose_score(
    people: Sequence[torch.Tensor], asked: torch.Tensor, size: Sequence[int], min_visibility: float
) -> Score:
    """Of the nearest of people [12, 3] in a picture of that height and width."""
    seen = [joints for joints in people if bool(detection_rate(joints, min_visibility=min_visibility))]
    if not seen:
        return Score.missing("no person found")
    found, visibility = torch.stack(seen), {"min_visibility": min_visibility}
    sizes = torch.tensor(size)
    similarities = oks(found, asked, image_sizes=sizes, area=_area(asked, size, min_visibility), **visibility)
    nearest = int(similarities.argmax())
    return Score.of(
        oks=similarities[nearest],
        pck=pck(found[nearest], asked, image_sizes=sizes, **visibility),
        joints_found=joint_detection_rate(found[nearest], asked, **visibility),
    )


def _target_joints(
    target: torch.Tensor | list[dict] | Body, detector: MediaPipePersonDetector | None, min_visibility: float
) -> torch.Tensor:
    """[12, 3] in 0 to 1."""
    if isinstance(target, Body):
        if target.target_pose is None:
            raise ValueError(
                "The body at target_pose has no target pose. Connect the pose to target_pose of BodyLandmarkEncoder, "
                "or connect its keypoints or a picture of it here."
            )
        people = [target.target_pose]
    elif isinstance(target, torch.Tensor):
        people = _joints_of(detector, target[0]) if len(target) else []
    else:
        frames = openpose_frames([target])
        people = _joints_on(frames[0]) if frames else []
    # Without a bone nobody knows how large the person is.
    if not people or not bool(torso_length(people[0], torch.ones(2), min_visibility=min_visibility) > 0):
        raise ValueError(
            f"target_pose shows no person with two neighbouring joints of visibility {min_visibility} or more. Connect "
            "a picture or keypoints in which the whole pose can be seen, or lower min_visibility."
        )
    return people[0]


def _joints_of(detector: MediaPipePersonDetector, picture: torch.Tensor) -> list[torch.Tensor]:
    """[12, 3] in 0 to 1 of everybody in a picture, the largest first."""
    pixels = to_uint8(picture)
    return [_joints(person, pixels.shape[1], pixels.shape[0]) for person in detector.detect(pixels)]


def _joints_on(frame: dict) -> list[torch.Tensor]:
    """The same of a frame, whose canvas may have another size than the picture."""
    people = people_from_frame(frame)
    return [_joints(person, frame["canvas_width"], frame["canvas_height"]) for person in people]


def _joints(person: Person, width: float, height: float) -> torch.Tensor:
    return torch.from_numpy(person.keypoints[FIRST_JOINT:] / (width, height, 1)).float()


def _area(joints: torch.Tensor, size: Sequence[int], min_visibility: float) -> torch.Tensor:
    """[] pixels that the target's person covers. By the joints alone, so that a pose counts the same wherever from."""
    height, width = size
    keypoints = np.zeros((len(COCO_KEYPOINTS), 3), np.float32)
    keypoints[FIRST_JOINT:] = joints.numpy() * (width, height, 1)
    person = Person(box=(0.0, 0.0, float(width), float(height)), keypoints=keypoints)
    frame = frame_from_people([person], width=width, height=height, min_visibility=min_visibility)
    (person,) = people_from_frame(frame)
    return area_of_box(torch.tensor(person.box))


def openpose_frames(pose_keypoint: Sequence[Any], *, count: int | None = None) -> list[dict]:
    """Frames of several POSE_KEYPOINTs; some nodes give a single frame instead of a list.

    Raises:
        ValueError: not `count` of them.
    """
    frames = [frame for part in pose_keypoint for frame in ([part] if isinstance(part, Mapping) else part)]
    if count is not None and len(frames) != count:
        raise ValueError(
            f"pose_keypoint has {len(frames)} frames for {count} pictures; it needs one frame per picture, in the same "
            "order. Detect the keypoints on these pictures, or disconnect pose_keypoint."
        )
    return frames


# Aesthetic


def score_aesthetic(
    pictures: Sequence[torch.Tensor], *, head: AestheticHead, encoder: comfy.clip_vision.ClipVisionModel
) -> list[Score]:
    """The score that a head gives to each picture's middle square.

    Args:
        pictures: [H, W, 3] each.

    Raises:
        ValueError: the head was trained with another encoder.
    """
    if not pictures:
        return []
    embeds = _whole_embeds(encoder, pictures)
    if embeds.shape[-1] != head.width:
        raise ValueError(
            f"{head.name} reads image features of width {head.width}, but clip_vision gives {embeds.shape[-1]}. "
            "Connect the encoder that it was trained with; for LAION's models that is OpenAI's CLIP ViT-L (768)."
        )
    return [Score.of(aesthetic=value) for value in head(embeds)]
