"""Ranking pictures by how well they show the person, the text or the pose, or by how much they please."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from typing import Any

import comfy.clip_vision
import comfy.sd
import numpy as np
import torch
from comfy_api.v0_0_2 import io, ui
from PIL import Image, ImageDraw, ImageFont

from ..detectors.crops import rgb, to_uint8
from ..models.body import Body
from ..models.references import References
from .aesthetic_head import read_head
from .body import BUNDLED
from .encoding import CROPS
from .faces import usable_face_analysis
from .model_folders import aesthetic_model_path, aesthetic_models, pose_model_names
from .prompt_embeds import encode_prompt
from .scores import Score, openpose_frames, score_aesthetic, score_identity, score_pose, score_text
from .skeleton import wrap
from .types import CATEGORY, FACE_ANALYSIS_TYPES, BodyType, PoseKeypointType, ReferencesType, single

logger = logging.getLogger(__name__)

NEEDED = {
    "identity": {"references": "the person's photos, from MultiRefImageEncoder"},
    "text": {
        "prompt": "what the pictures should show",
        "clip": "a text encoder with its projection, from 'Load CLIP'",
        "clip_vision": "the image encoder of the same CLIP model, from 'Load CLIP Vision'",
    },
    "pose": {"target_pose": "the pose that was asked for: the body of BodyLandmarkEncoder, keypoints or a picture"},
    "aesthetic": {
        "clip_vision": "the image encoder that the aesthetic model was trained with, from 'Load CLIP Vision'"
    },
}
"""By what can be ranked, and the inputs without which it cannot."""

PREVIEW_SIDE = 256
GROUND, INK, FAINT = (24, 24, 27), (250, 250, 250), (150, 150, 150)


class BoLIDRankImages(io.ComfyNode):
    """Pictures → the best of them.

    `by` is no dynamic combo that would show the inputs of one choice only: in ComfyUI's frontend 1.47 sockets inside
    one have no tooltip, and lose their links when another choice is made. Nor are unknown choices refused there.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BoLIDRankImages",
            display_name="Rank Images (BoLID)",
            category=CATEGORY,
            description="Puts the best of several pictures first: those most like the person, nearest to the text or "
            "to the pose, or most pleasing.",
            search_aliases=[
                "sort images",
                "select best image",
                "top k",
                "best of batch",
                "face similarity",
                "clip score",
                "aesthetic score",
                "pose similarity",
                "filter images",
            ],
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="The pictures to rank: a batch, a list of different sizes, or both."),
                io.Combo.Input(
                    "by",
                    options=list(NEEDED),
                    default="identity",
                    tooltip="What counts. identity: likeness to the references (needs references, and clip_vision or "
                    "face_analysis). text: nearness to the prompt (clip, clip_vision, prompt). pose: nearness to "
                    "target_pose. aesthetic: how much people would like it (clip_vision, aesthetic_model).",
                ),
                io.Int.Input(
                    "keep",
                    default=0,
                    min=0,
                    max=4096,
                    step=1,
                    tooltip="How many pictures come out, the best first. 0: all of them.",
                ),
                ReferencesType.Input(
                    "references", optional=True, tooltip="identity: the person's photos, from MultiRefImageEncoder."
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="Image encoder, from 'Load CLIP Vision'. identity: the one that MultiRefImageEncoder has. "
                    "text: of the same CLIP model as clip. aesthetic: the one the aesthetic model was trained with "
                    "(LAION's: OpenAI's CLIP ViT-L).",
                ),
                io.MultiType.Input(
                    "face_analysis",
                    FACE_ANALYSIS_TYPES,
                    optional=True,
                    tooltip="identity: with BoLIDFaceAnalysisLoader here and at MultiRefImageEncoder faces are "
                    "compared, which tells people apart better than clip_vision. ComfyUI's 'Load Face Detection Model "
                    "(MediaPipe)' finds faces for crop = face.",
                ),
                io.Combo.Input(
                    "crop",
                    options=list(CROPS),
                    default="whole",
                    optional=True,
                    tooltip="identity: what the image encoder sees of a picture. Choose what MultiRefImageEncoder has. "
                    "No effect on face vectors.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="text: the text encoder of the same CLIP model as clip_vision, with its projection. SDXL's "
                    "for CLIP ViT-bigG, SD2's for ViT-H; for ViT-L 'Load CLIP' with OpenAI's whole file, because SD1.5 "
                    "checkpoints leave the projection out.",
                ),
                io.String.Input(
                    "prompt",
                    default="",
                    optional=True,
                    tooltip="text: what the pictures should show. CLIP reads about 75 tokens of it; weights such as "
                    "(blue:1.2) do not count.",
                ),
                io.MultiType.Input(
                    "target_pose",
                    [PoseKeypointType, io.Image, BodyType],
                    optional=True,
                    tooltip="pose: the pose that was asked for, as keypoints, as a picture, or as the body of "
                    "BodyLandmarkEncoder that has a target pose. Its place in the picture counts too.",
                ),
                PoseKeypointType.Input(
                    "pose_keypoint",
                    optional=True,
                    tooltip="pose: keypoints of the pictures from another node, one frame per picture; nothing is "
                    "detected in them then.",
                ),
                io.Float.Input(
                    "min_visibility",
                    default=0.5,
                    min=0.05,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip="pose: joints less visible than this count as not found.",
                ),
                io.Combo.Input(
                    "pose_model",
                    options=[BUNDLED, *pose_model_names()],
                    default=BUNDLED,
                    optional=True,
                    advanced=True,
                    tooltip="pose: what finds people. bundled: the model inside mediapipe 0.10.21. Other versions of "
                    "mediapipe need a pose_landmarker .task file in models/mediapipe.",
                ),
                io.Combo.Input(
                    "aesthetic_model",
                    options=aesthetic_models(),
                    optional=True,
                    tooltip="aesthetic: a file in models/aesthetic, such as LAION's "
                    "sac+logos+ava1-l14-linearMSE. If the list is empty, put one there and press R.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "images",
                    is_output_list=True,
                    tooltip="The best pictures, the best first: one batch if all have the same size, else a list. "
                    "Pictures without a score come last.",
                ),
                io.String.Output(
                    "scores", tooltip="JSON: the order, and for every picture its rank and score, or why it has none."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, pose_model: Any = None, aesthetic_model: Any = None) -> bool:
        # A graph that ranks by something else shall run where these files are not; `execute` names the one it misses.
        return True

    @classmethod
    def execute(
        cls,
        images: list[torch.Tensor],
        by: list[str],
        keep: list[int],
        references: list[References] | None = None,
        clip_vision: list[comfy.clip_vision.ClipVisionModel] | None = None,
        face_analysis: list[Any] | None = None,
        crop: Sequence[str] = ("whole",),
        clip: list[comfy.sd.CLIP] | None = None,
        prompt: Sequence[str] = ("",),
        target_pose: list[torch.Tensor | list[dict] | Body] | None = None,
        pose_keypoint: list[list[dict]] | None = None,
        min_visibility: Sequence[float] = (0.5,),
        pose_model: Sequence[str] = (BUNDLED,),
        aesthetic_model: Sequence[str] | None = None,
    ) -> io.NodeOutput:
        pictures = [picture for batch in images for picture in batch]
        by, encoder = single(by), single(clip_vision)
        _check_inputs(
            by,
            pictures=pictures,
            references=single(references),
            clip_vision=encoder,
            clip=single(clip),
            prompt=single(prompt).strip(),
            target_pose=single(target_pose),
        )
        usable = [number for number, picture in enumerate(pictures) if bool(picture.isfinite().all())]
        chosen = [rgb(pictures[number]) for number in usable]
        notes: list[str] = []
        if by == "identity":
            found = score_identity(
                chosen,
                references=single(references),
                encoder=encoder,
                analysis=usable_face_analysis(single(face_analysis)),
                crop=single(crop),
            )
        elif by == "text":
            text = encode_prompt(single(clip), single(prompt), encoder=encoder)
            notes += text.notes
            found = score_text(chosen, text=text.embeds, encoder=encoder)
        elif by == "pose":
            frames = None if pose_keypoint is None else openpose_frames(pose_keypoint, count=len(pictures))
            found = score_pose(
                chosen,
                frames=None if frames is None else [frames[number] for number in usable],
                target=single(target_pose),
                min_visibility=single(min_visibility),
                pose_model=single(pose_model),
            )
        else:
            head = read_head(aesthetic_model_path(single(aesthetic_model)))
            found = score_aesthetic(chosen, head=head, encoder=encoder)
        scores = [Score.missing("it has values that are no numbers (NaN or infinite)") for _ in pictures]
        for number, score in zip(usable, found, strict=True):
            scores[number] = score
        order = rank(scores)
        kept = order[: single(keep) or None]
        if all(score.value is None for score in scores):
            reasons = ", ".join(dict.fromkeys(score.reason for score in scores))
            logger.warning("BoLIDRankImages: none of %d pictures could be scored by %s (%s).", len(scores), by, reasons)
        return io.NodeOutput(
            _together([pictures[number] for number in kept]),
            scores_json(scores, order, by=by, kept=len(kept), notes=notes),
            ui=ui.PreviewImage(_preview(pictures, scores, order, kept=len(kept)), cls=cls),
        )


def rank(scores: Sequence[Score]) -> list[int]:
    """Numbers of the pictures, from 0, the best first; those without a score last; equal ones as they came."""
    return sorted(
        range(len(scores)),
        key=lambda number: math.inf if scores[number].value is None else -scores[number].value,
    )


def scores_json(scores: Sequence[Score], order: Sequence[int], *, by: str, kept: int, notes: Sequence[str]) -> str:
    """One JSON object: counts, the order, and one entry per picture in the order of the input, counted from 1."""
    ranks = {number: place for place, number in enumerate(order, start=1)}
    failed = sum(score.value is None for score in scores)
    return json.dumps(
        {
            "by": by,
            "kept": kept,
            "scored": len(scores) - failed,
            "failed": failed,
            "order": [number + 1 for number in order],
            "notes": list(notes),
            "pictures": [
                {
                    "picture": number + 1,
                    "rank": ranks[number],
                    "kept": ranks[number] <= kept,
                    "score": score.value,
                    "parts": score.parts,
                    "reason": score.reason,
                }
                for number, score in enumerate(scores)
            ],
        },
        indent=2,
    )


def _check_inputs(by: str, *, pictures: Sequence[torch.Tensor], **given: Any) -> None:
    if not pictures:
        raise ValueError("There are no pictures to rank: connect at least one to 'images'.")
    for name, what in NEEDED[by].items():
        if given[name] is None or (isinstance(given[name], str) and not given[name]):
            raise ValueError(
                f"Ranking by {by} needs '{name}': {what}. Connect it or fill it in, or choose another 'by'."
            )


def _together(pictures: list[torch.Tensor]) -> list[torch.Tensor]:
    """One batch where all fit into one, else a list."""
    kinds = {(picture.shape, picture.dtype, picture.device) for picture in pictures}
    return [torch.stack(pictures)] if len(kinds) == 1 else [picture.unsqueeze(0) for picture in pictures]


def _preview(
    pictures: Sequence[torch.Tensor], scores: Sequence[Score], order: Sequence[int], *, kept: int
) -> torch.Tensor:
    """[n, S, S, 3]: all pictures, the best first, with rank and score; those that are left out are dark."""
    font = ImageFont.load_default(size=13)
    line_height = sum(font.getmetrics())
    previews = []
    for place, number in enumerate(order, start=1):
        score, is_kept = scores[number], place <= kept
        said = score.reason if score.value is None else f"{score.value:.4g}"
        lines = wrap(f"{place}. picture {number + 1}: {said}", font, width=PREVIEW_SIDE - 12, lines=2)
        room = PREVIEW_SIDE - len(lines) * line_height - 8
        picture = Image.fromarray(to_uint8(pictures[number].nan_to_num()))
        scale = min(PREVIEW_SIDE / picture.width, room / picture.height)
        size = tuple(max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize(size, Image.Resampling.LANCZOS)
        if not is_kept:
            picture = picture.point(lambda value: value * 0.3)
        preview = Image.new("RGB", (PREVIEW_SIDE, PREVIEW_SIDE), GROUND)
        preview.paste(picture, ((PREVIEW_SIDE - size[0]) // 2, (room - size[1]) // 2))
        pen = ImageDraw.Draw(preview)
        for line_number, line in enumerate(lines):
            pen.text((6, room + 4 + line_number * line_height), line, fill=INK if is_kept else FAINT, font=font)
        previews.append(np.array(preview))
    return torch.from_numpy(np.stack(previews)).float() / 255
