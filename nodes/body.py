"""The body of the person in the photos: keypoints, proportions, and a look at what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import comfy.clip_vision
import numpy as np
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.utils import ProgressBar
from comfy_api.v0_0_2 import io, ui

from ..detectors.crops import PERSON_MARGIN, crop_for_encoder, rgb, to_uint8
from ..detectors.openpose import frame_from_people, people_from_frame
from ..detectors.people import MediaPipePersonDetector, Person
from ..models.body import Body, has_scale, is_seen, normalise_keypoints, unseen_joints
from ..models.keypoints import BONES, FIRST_JOINT, JOINTS
from ..models.references import PhotoReport
from .encoding import ON_MISSING
from .image_features import encode
from .model_folders import pose_model_names, pose_model_path
from .reports import report_json
from .skeleton import draw_skeleton
from .types import CATEGORY, BodyType, PoseKeypointType, single

BUNDLED = "bundled"
BLANK_SIDE = 512


class BodyLandmarkEncoder(io.ComfyNode):
    """Photos of one person → keypoints and image features of the body."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BodyLandmarkEncoder",
            display_name="Encode Body (BoLID)",
            category=CATEGORY,
            description="Finds twelve joints of the person in any number of photos, and the proportions on which the "
            "photos agree. The preview shows what was found.",
            search_aliases=["pose", "keypoints", "landmarks", "openpose", "skeleton", "mediapipe", "body proportions"],
            is_input_list=True,
            inputs=[
                io.Image.Input(
                    "images", tooltip="Photos of one person, as much of the body as possible: a batch, a list, or both."
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="Image encoder, from 'Load CLIP Vision': lets the body branch see the person. Without it "
                    "only joints and proportions count. It must be the encoder that the adapter was trained with.",
                ),
                PoseKeypointType.Input(
                    "pose_keypoint",
                    optional=True,
                    tooltip="Keypoints of the photos from another node, one frame per photo; nothing is detected then.",
                ),
                io.MultiType.Input(
                    "target_pose",
                    [PoseKeypointType, io.Image],
                    optional=True,
                    tooltip="The pose to draw: keypoints, or a picture of anybody in that pose. The largest person of "
                    "the first one counts, at its place in the picture, so take one of the shape of the picture to be "
                    "drawn. It adds nothing to the identity.",
                ),
                io.Float.Input(
                    "min_visibility",
                    default=0.5,
                    min=0.05,
                    max=1.0,
                    step=0.05,
                    tooltip="Joints less visible than this are left out. Lower: more joints, less certain ones.",
                ),
                io.Combo.Input(
                    "on_missing",
                    options=list(ON_MISSING),
                    default="skip",
                    tooltip="When a photo shows no person with both shoulders: skip leaves it out, error stops, whole "
                    "uses it for the image encoder alone (without clip_vision it is left out). At least one photo must "
                    "show joints, or target_pose.",
                ),
                io.Int.Input(
                    "person_index",
                    default=0,
                    min=0,
                    max=99,
                    step=1,
                    optional=True,
                    tooltip="Which person where a photo shows several: 0 is the largest, 1 the second largest, and so "
                    "on.",
                ),
                io.Combo.Input(
                    "pose_model",
                    options=[BUNDLED, *pose_model_names()],
                    default=BUNDLED,
                    optional=True,
                    advanced=True,
                    tooltip="bundled: the model inside mediapipe 0.10.21. Other versions of mediapipe carry none and "
                    "need a pose_landmarker .task file in models/mediapipe.",
                ),
            ],
            outputs=[
                BodyType.Output("body", tooltip="For BoLIDAdapterApply."),
                io.Image.Output("preview", tooltip="Every photo with the joints found in it, then the target pose."),
                PoseKeypointType.Output(
                    "pose_keypoint",
                    tooltip="One OpenPose frame per photo with the chosen person, for pose ControlNets. All have the "
                    "first photo's size; people in photos of other sizes are fitted into it.",
                ),
                io.String.Output("report", tooltip="JSON: proportions, and for every photo its joints, or why not."),
            ],
        )

    @classmethod
    def execute(
        cls,
        images: list[torch.Tensor],
        min_visibility: list[float],
        on_missing: list[str],
        clip_vision: list[comfy.clip_vision.ClipVisionModel] | None = None,
        pose_keypoint: list[list[dict]] | None = None,
        target_pose: list[torch.Tensor | list[dict]] | None = None,
        person_index: Sequence[int] = (0,),
        pose_model: Sequence[str] = (BUNDLED,),
    ) -> io.NodeOutput:
        photos = [rgb(photo) for batch in images for photo in batch]
        frames = None if pose_keypoint is None else [frame for part in pose_keypoint for frame in _frames(part)]
        if frames is not None and len(frames) != len(photos):
            raise ValueError(
                f"pose_keypoint has {len(frames)} frames for {len(photos)} photos; it needs one frame per photo, in "
                "the same order. Detect the keypoints on these photos, or disconnect pose_keypoint."
            )
        encoder, target = single(clip_vision), single(target_pose)
        chooser = _Chooser(
            person_index=single(person_index),
            min_visibility=single(min_visibility),
            on_missing=single(on_missing),
            has_encoder=encoder is not None,
        )
        progress = ProgressBar((1 + (encoder is not None)) * len(photos))
        chosen: list[_Chosen] = []
        with ExitStack() as detectors:
            detector = None
            if frames is None or isinstance(target, torch.Tensor):
                detector = detectors.enter_context(_detector(single(pose_model)))
            for number, photo in enumerate(photos, start=1):
                throw_exception_if_processing_interrupted()
                pixels = to_uint8(photo)
                people = detector.detect(pixels) if frames is None else _people_on(pixels, frames[number - 1])
                chosen.append(chooser.choose(people, pixels, number=number, count=len(photos)))
                progress.update(1)
            pose = None if target is None else _target_pose(target, detector, chooser.min_visibility)
        kept = [choice for choice in chosen if choice.report.status == "kept"]
        shown = any(is_seen(choice.joints[:, 2], min_visibility=chooser.min_visibility).any() for choice in kept)
        if not kept or (pose is None and not shown):
            raise ValueError(_nothing_usable(chosen))
        body = Body(
            keypoints=torch.stack([choice.joints for choice in kept]),
            image_sizes=torch.tensor([choice.pixels.shape[:2] for choice in kept]),
            min_visibility=chooser.min_visibility,
            hidden_states=_hidden_states(encoder, photos, kept, progress) if encoder is not None else None,
            target_pose=None if pose is None else pose.joints,
            report=tuple(choice.report for choice in chosen),
        )
        progress.update_absolute(progress.total)  # photos that were left out
        preview = _preview([*chosen, *([] if pose is None else [pose])], chooser.min_visibility)
        return io.NodeOutput(
            body,
            preview,
            _on_one_canvas(chosen, chooser.min_visibility),
            report_json(body.report, proportions=_named_proportions(body)),
            ui=ui.PreviewImage(preview, cls=cls),
        )


@dataclass(frozen=True, kw_only=True)
class BodyReport(PhotoReport):
    """What became of one photo, and what was found in it.

    Attributes:
        people: number of people in it.
        keypoints: x, y in 0 to 1, and visibility, by joint; empty without a person.
        normalised_keypoints: the same in the person's own measure, see `normalise_keypoints`.
    """

    people: int
    keypoints: dict[str, list[float]]
    normalised_keypoints: dict[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """A picture [H, W, 3] uint8, the person that was chosen in it, and what becomes of it."""

    pixels: np.ndarray
    person: Person | None
    caption: str
    report: BodyReport | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def joints(self) -> torch.Tensor:
        """[12, 3] x, y in 0 to 1, and visibility; all zero without a person."""
        return torch.zeros(len(JOINTS), 3) if self.person is None else _joints(self.person, self.size)


def _joints(person: Person, size: tuple[int, int]) -> torch.Tensor:
    return torch.from_numpy(person.keypoints[FIRST_JOINT:] / (*size, 1)).float()


@dataclass(frozen=True, kw_only=True)
class _Chooser:
    """Chooses the person in a photo, and decides what becomes of the photo."""

    person_index: int
    min_visibility: float
    on_missing: str
    has_encoder: bool

    def choose(self, people: Sequence[Person], pixels: np.ndarray, *, number: int, count: int) -> _Chosen:
        person = people[self.person_index] if self.person_index < len(people) else None
        joints = normalised = None
        if person is not None:
            joints = _joints(person, (pixels.shape[1], pixels.shape[0]))
            size = torch.tensor(pixels.shape[:2])
            normalised = normalise_keypoints(joints, size, min_visibility=self.min_visibility)
        missing, unseen = "", ""
        if not people:
            missing = "no person found"
        elif joints is None:
            missing = f"person_index is {self.person_index}, but only {len(people)} found (counted from 0)"
        else:
            names = unseen_joints(is_seen(joints[:, 2], min_visibility=self.min_visibility))
            unseen = f"not seen: {', '.join(names)}" if names else ""
            if not has_scale(joints[:, 2], min_visibility=self.min_visibility):
                missing = f"both shoulders are needed ({unseen})"
            elif not normalised.any():
                missing = "both shoulders lie in one place"
        if missing and self.on_missing == "error":
            raise ValueError(
                f"Photo {number} of {count}: {missing}. Replace the photo, lower min_visibility, or set on_missing to "
                "'skip' (leave it out) or 'whole' (use it for the image encoder alone)."
            )
        status, reason = "kept", missing or unseen
        if missing and self.on_missing == "whole" and self.has_encoder:
            reason = f"{missing}; {'the whole photo' if person is None else 'the person'} used for the image encoder"
        elif missing:
            status = "dropped"
            if self.on_missing == "whole":
                reason = f"{missing}; no clip_vision to use the photo for"
        return _Chosen(
            pixels=pixels,
            person=person,
            caption=f"photo {number}: {status}{f'; {reason}' if reason else ''}",
            report=BodyReport(
                photo=number,
                status=status,
                reason=reason,
                people=len(people),
                keypoints=_by_joint(joints),
                normalised_keypoints=_by_joint(normalised),
            ),
        )


def _nothing_usable(chosen: Sequence[_Chosen]) -> str:
    # What a photo would have been used for is no reason.
    missing = dict.fromkeys(choice.report.reason.partition(";")[0] for choice in chosen)
    reasons = ", ".join(missing) or "there are none"
    return (
        f"None of the {len(chosen)} photos can be used for the body: {reasons}. Use photos that show the person with "
        "both shoulders, lower min_visibility, or choose another person_index."
    )


def _by_joint(keypoints: torch.Tensor | None) -> dict[str, list[float]]:
    """Values of the joints that have any."""
    if keypoints is None:
        return {}
    rounded = [[round(value, 4) for value in row] for row in keypoints.tolist()]
    return {joint: row for joint, row in zip(JOINTS, rounded, strict=True) if row[2] > 0}


def _detector(pose_model: str) -> MediaPipePersonDetector:
    return MediaPipePersonDetector(None if pose_model == BUNDLED else pose_model_path(pose_model))


def _frames(pose_keypoint: Any) -> list[Any]:
    """OpenPose frames; some nodes give a single one instead of a list."""
    return [pose_keypoint] if isinstance(pose_keypoint, Mapping) else list(pose_keypoint)


def _people_on(pixels: np.ndarray, frame: dict) -> list[Person]:
    """The people of an OpenPose frame, whose canvas may have another size than the photo."""
    people = people_from_frame(frame)
    scale = (pixels.shape[1] / frame["canvas_width"], pixels.shape[0] / frame["canvas_height"])
    return [_moved(person, scale=scale) for person in people]


def _moved(person: Person, *, scale: tuple[float, float], offset: tuple[float, float] = (0.0, 0.0)) -> Person:
    keypoints = person.keypoints.copy()
    keypoints[:, :2] = keypoints[:, :2] * scale + offset
    x0, y0, x1, y1 = (np.reshape(person.box, (2, 2)) * scale + offset).flatten().tolist()
    return Person(box=(x0, y0, x1, y1), keypoints=keypoints)


def _target_pose(
    target: torch.Tensor | list[dict], detector: MediaPipePersonDetector | None, min_visibility: float
) -> _Chosen:
    """The largest person of the first picture or OpenPose frame."""
    first = next(iter(target if isinstance(target, torch.Tensor) else _frames(target)), None)
    people: list[Person] = []
    if isinstance(first, torch.Tensor):
        pixels = to_uint8(rgb(first))
        people = detector.detect(pixels)
    elif first is not None:
        pixels = _blank(first)
        people = _people_on(pixels, first)
    if not people or not (people[0].keypoints[FIRST_JOINT:, 2] >= min_visibility).any():
        raise ValueError(
            f"target_pose shows no person with a joint of visibility {min_visibility} or more. Connect a picture or "
            "keypoints in which the whole pose can be seen, lower min_visibility, or disconnect target_pose."
        )
    return _Chosen(pixels=pixels, person=people[0], caption="target pose")


def _blank(frame: dict) -> np.ndarray:
    """A black picture of the canvas' shape, to draw on; canvases may be huge."""
    people_from_frame(frame)  # says what is wrong with a canvas that has no size
    size = np.array((frame["canvas_height"], frame["canvas_width"]), np.float64)
    return np.zeros((*np.maximum(size * BLANK_SIDE / size.max(), 1).round().astype(int), 3), np.uint8)


def _hidden_states(
    encoder: comfy.clip_vision.ClipVisionModel,
    photos: Sequence[torch.Tensor],
    kept: Sequence[_Chosen],
    progress: ProgressBar,
) -> torch.Tensor:
    """[n, T, H] of the kept photos, each cropped to its person."""
    crops = [
        crop_for_encoder(
            photos[choice.report.photo - 1],
            None if choice.person is None else choice.person.box,
            margin=PERSON_MARGIN,
            size=encoder.image_size,
        )
        for choice in kept
    ]
    _, hidden_states = encode(encoder, torch.cat(crops), progress)
    return hidden_states


def _preview(pictures: Sequence[_Chosen], min_visibility: float) -> torch.Tensor:
    """[n, S, S, 3]."""
    drawn = [
        draw_skeleton(
            picture.pixels,
            None if picture.person is None else picture.person.keypoints,
            min_visibility=min_visibility,
            caption=picture.caption,
            dropped=picture.report is not None and picture.report.status == "dropped",
        )
        for picture in pictures
    ]
    return torch.from_numpy(np.stack(drawn)).float() / 255


def _on_one_canvas(chosen: Sequence[_Chosen], min_visibility: float) -> list[dict]:
    """OpenPose frames of one size, because ComfyUI draws all frames of a list on the first one's canvas."""
    width, height = chosen[0].size
    frames = []
    for choice in chosen:
        scale = min(width / choice.size[0], height / choice.size[1])
        offset = ((width - scale * choice.size[0]) / 2, (height - scale * choice.size[1]) / 2)
        people = [] if choice.person is None else [_moved(choice.person, scale=(scale, scale), offset=offset)]
        frames.append(frame_from_people(people, width=width, height=height, min_visibility=min_visibility))
    return frames


def _named_proportions(body: Body) -> dict[str, float | None]:
    """Length of every bone, see `proportions`; None if never seen."""
    return {
        bone: round(length, 4) if seen else None
        for bone, (length, seen) in zip(BONES, body.proportions.tolist(), strict=True)
    }
