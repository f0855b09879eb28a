"""The pack's wire types, and the category of its nodes."""

from comfy_api.v0_0_2 import io

CATEGORY = "BoLID"

ReferencesType = io.Custom("BOLID_REFERENCES")
EmbedsType = io.Custom("BOLID_EMBEDS")
AdapterType = io.Custom("BOLID_ADAPTER")
FaceAnalysisType = io.Custom("BOLID_FACE_ANALYSIS")
# Core's 'Load Face Detection Model (MediaPipe)'.
FaceDetectionModelType = io.Custom("FACE_DETECTION_MODEL")
