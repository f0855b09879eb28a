"""The pack's wire types, and the category of its nodes."""

from collections.abc import Sequence
from typing import Any

from comfy_api.v0_0_2 import io

CATEGORY = "BoLID"

ReferencesType = io.Custom("BOLID_REFERENCES")
EmbedsType = io.Custom("BOLID_EMBEDS")
BodyType = io.Custom("BOLID_BODY")
AdapterType = io.Custom("BOLID_ADAPTER")
FaceAnalysisType = io.Custom("BOLID_FACE_ANALYSIS")
# Core's 'Load Face Detection Model (MediaPipe)'.
FaceDetectionModelType = io.Custom("FACE_DETECTION_MODEL")
# insightface.app.FaceAnalysis itself: of ComfyUI_IPAdapter_plus and PhotoMaker, and of packs for InstantID and PuLID.
InsightFaceType, OtherInsightFaceType = io.Custom("INSIGHTFACE"), io.Custom("FACEANALYSIS")
FACE_ANALYSIS_TYPES = [FaceAnalysisType, FaceDetectionModelType, InsightFaceType, OtherInsightFaceType]
# ComfyUI's own: OpenPose frames, pixels of one canvas.
PoseKeypointType = io.Custom("POSE_KEYPOINT")


def single(values: Sequence[Any] | None) -> Any:
    """The value of an input that is not a list by nature (`is_input_list` wraps all that are given)."""
    return values[0] if values else None
