"""Drawn people to try a graph with: photos of them, and their joints."""

from __future__ import annotations

import comfy.utils
import numpy as np
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy_api.v0_0_2 import io, ui
from PIL import Image

from ..detectors.crops import rgb, to_uint8
from ..detectors.drawn_people import SEEN, DrawnPersonDetector
from ..detectors.openpose import frame_from_people
from .skeleton import draw_skeleton
from .types import CATEGORY, PoseKeypointType
from .world_model import WEIGHTS

PEOPLE = WEIGHTS.parent / "demo"
"""Strips of square pictures, a file for each person."""

PHOTOS = 10


class BoLIDDemoPhotos(io.ComfyNode):
    """Pictures of a person whom no network of the demo has seen."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        people = sorted(path.stem for path in PEOPLE.glob("*.png"))
        return io.Schema(
            node_id="BoLIDDemoPhotos",
            display_name="Demo Photos (BoLID)",
            category=CATEGORY,
            description="Pictures of a drawn person for the demo model, which has never seen them. In a graph with a "
            "Stable Diffusion model use 'Load Reference Photos (BoLID)' and your own photos instead.",
            search_aliases=["example photos", "sample images", "drawn person", "reference photos"],
            inputs=[
                io.Combo.Input(
                    "person",
                    options=people,
                    default=people[0],
                    tooltip="Who. All are drawn, and the demo model has learned from none of them.",
                ),
                io.Int.Input(
                    "first",
                    default=1,
                    min=1,
                    max=PHOTOS,
                    step=1,
                    tooltip="Number of the first picture, counted from 1.",
                ),
                io.Int.Input(
                    "count",
                    default=9,
                    min=1,
                    max=PHOTOS,
                    step=1,
                    tooltip=f"How many pictures; there are {PHOTOS} of each person, and the last is followed by the "
                    "first.",
                ),
            ],
            outputs=[io.Image.Output("images", tooltip="The pictures, 128×128 pixels each.")],
        )

    @classmethod
    def execute(cls, person: str, first: int, count: int) -> io.NodeOutput:
        strip = np.asarray(Image.open(PEOPLE / f"{person}.png").convert("RGB"))
        pictures = torch.from_numpy(np.stack(np.split(strip, PHOTOS, axis=1))).float() / 255
        chosen = pictures[[(first - 1 + number) % PHOTOS for number in range(count)]]
        return io.NodeOutput(chosen, ui=ui.PreviewImage(chosen, cls=cls))


class BoLIDDemoPoseDetector(io.ComfyNode):
    """Joints of drawn people, in the form of other nodes that find poses."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BoLIDDemoPoseDetector",
            display_name="Detect Demo Poses (BoLID)",
            category=CATEGORY,
            description="Finds the joints in pictures of drawn people, where detectors for photographs find nobody. "
            "For photos leave 'pose_keypoint' of 'Encode Body (BoLID)' free: it detects by itself.",
            search_aliases=["pose", "openpose", "keypoints", "skeleton", "drawn person"],
            inputs=[io.Image.Input("images", tooltip="Pictures of one drawn person each.")],
            outputs=[
                PoseKeypointType.Output(
                    "pose_keypoint", tooltip="One OpenPose frame per picture, for BodyLandmarkEncoder."
                ),
                io.Image.Output("preview", tooltip="Every picture with the joints found in it."),
            ],
            is_input_list=True,
        )

    @classmethod
    def execute(cls, images: list[torch.Tensor]) -> io.NodeOutput:
        pictures = [to_uint8(rgb(picture)) for batch in images for picture in batch]
        detector = DrawnPersonDetector(WEIGHTS / "joints.safetensors")
        frames, previews, progress = [], [], comfy.utils.ProgressBar(len(pictures))
        for number, pixels in enumerate(pictures, start=1):
            throw_exception_if_processing_interrupted()
            people, (height, width) = detector.detect(pixels), pixels.shape[:2]
            frames.append(frame_from_people(people, width=width, height=height, min_visibility=SEEN))
            keypoints = people[0].keypoints if people else None
            previews.append(
                draw_skeleton(
                    pixels,
                    keypoints,
                    min_visibility=SEEN,
                    caption=f"{number}/{len(pictures)}" if people else f"{number}/{len(pictures)}: nobody found",
                    dropped=not people,
                )
            )
            progress.update(1)
        preview = torch.from_numpy(np.stack(previews)).float() / 255
        return io.NodeOutput(frames, preview, ui=ui.PreviewImage(preview, cls=cls))
