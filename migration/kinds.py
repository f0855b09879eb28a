"""The nodes that a converted graph has instead of the old ones: ours, and a few of ComfyUI's own.

A graph as the frontend stores it needs their slots, and their widgets by position. Only what conversion sets is here:
widgets up to the last one that is set, since the frontend gives the others their defaults.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class NodeKind:
    """One kind of node.

    Attributes:
        type: its id.
        sockets: type by name of the inputs that only links can give.
        widgets: default by name, in the order of the node.
        outputs: type by name, in the order of the node.
        size: width and height in the frontend, in pixels.
    """

    type: str
    sockets: dict[str, str] = field(default_factory=dict)
    widgets: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    size: tuple[int, int]

    def slot(self, output: str) -> int:
        """Position of an output."""
        return list(self.outputs).index(output)


ADAPTER_LOADER = NodeKind(
    type="BoLIDAdapterLoader",
    widgets={"adapter_name": "", "faceid_plus_version": "v2"},
    outputs={"adapter": "BOLID_ADAPTER"},
    size=(400, 112),
)
FACE_ANALYSIS_LOADER = NodeKind(
    type="BoLIDFaceAnalysisLoader",
    widgets={"model_pack": "buffalo_l", "provider": "CPU"},
    outputs={"face_analysis": "BOLID_FACE_ANALYSIS"},
    size=(400, 112),
)
ENCODER = NodeKind(
    type="MultiRefImageEncoder",
    sockets={
        "images": "IMAGE",
        "clip_vision": "CLIP_VISION",
        "face_analysis": "BOLID_FACE_ANALYSIS,FACE_DETECTION_MODEL,INSIGHTFACE,FACEANALYSIS",
    },
    widgets={"crop": "whole", "on_missing": "skip"},
    outputs={"references": "BOLID_REFERENCES", "crops": "IMAGE", "report": "STRING"},
    size=(310, 330),
)
POOLING = NodeKind(
    type="PoolingAggregator",
    sockets={"references": "BOLID_REFERENCES"},
    widgets={"method": "avg", "photo_weights": ""},
    outputs={"embeds": "BOLID_EMBEDS", "report": "STRING"},
    size=(300, 170),
)
APPLY = NodeKind(
    type="BoLIDAdapterApply",
    sockets={
        "model": "MODEL",
        "adapter": "BOLID_ADAPTER",
        "face": "BOLID_EMBEDS",
        "attn_mask": "MASK",
        "face_negative": "BOLID_EMBEDS",
    },
    widgets={
        "face_weight": 1.0,
        "start_percent": 0.0,
        "end_percent": 1.0,
        "weight_type": "linear",
        "layer_weights": "",
        "embeds_scaling": "V only",
        "skip_middle": False,
        "lora_strength": 1.0,
    },
    outputs={"model": "MODEL"},
    size=(310, 480),
)
SAVE_EMBEDS = NodeKind(
    type="BoLIDSaveEmbeds",
    sockets={"embeds": "BOLID_EMBEDS,BOLID_REFERENCES"},
    widgets={"filename_prefix": "bolid/embeds"},
    outputs={"file": "STRING"},
    size=(310, 112),
)
CLIP_VISION_LOADER = NodeKind(
    type="CLIPVisionLoader",
    widgets={"clip_name": ""},
    outputs={"CLIP_VISION": "CLIP_VISION"},
    size=(400, 64),
)
IMAGE_SCALE = NodeKind(
    type="ImageScale",
    sockets={"image": "IMAGE"},
    widgets={"upscale_method": "lanczos", "width": 224, "height": 224, "crop": "center"},
    outputs={"IMAGE": "IMAGE"},
    size=(300, 130),
)
RESIZE_AND_PAD = NodeKind(
    type="ResizeAndPadImage",
    sockets={"image": "IMAGE"},
    widgets={"target_width": 224, "target_height": 224, "padding_color": "black", "interpolation": "lanczos"},
    outputs={"IMAGE": "IMAGE"},
    size=(300, 130),
)
BOUNDING_BOX = NodeKind(
    type="PrimitiveBoundingBox",
    widgets={"x": 0, "y": 0, "width": 512, "height": 512},
    outputs={"BOUNDING_BOX": "BOUNDING_BOX"},
    size=(300, 130),
)
IMAGE_CROP = NodeKind(
    type="ImageCropV2",
    sockets={"image": "IMAGE", "crop_region": "BOUNDING_BOX"},
    outputs={"IMAGE": "IMAGE"},
    size=(310, 330),
)
EMPTY_IMAGE = NodeKind(
    type="EmptyImage",
    widgets={"width": 224, "height": 224, "batch_size": 1, "color": 0},
    outputs={"IMAGE": "IMAGE"},
    size=(300, 130),
)
NOISE_REFERENCE = NodeKind(
    type="BoLIDNoiseReference",
    sockets={"images": "IMAGE"},
    widgets={"kind": "fade", "strength": 1.0, "blur": 0},
    outputs={"images": "IMAGE"},
    size=(310, 330),
)
CONDITIONING_SET_MASK = NodeKind(
    type="ConditioningSetMask",
    sockets={"conditioning": "CONDITIONING", "mask": "MASK"},
    widgets={"strength": 1.0, "set_cond_area": "default"},
    outputs={"CONDITIONING": "CONDITIONING"},
    size=(300, 102),
)
LIST_LENGTH = 10
CREATE_LIST = NodeKind(
    type="CreateList",
    sockets={f"inputs.input{number}": "IMAGE" for number in range(LIST_LENGTH)},
    outputs={"list": "IMAGE"},
    size=(210, 110),
)

PLACED = (
    ADAPTER_LOADER,
    FACE_ANALYSIS_LOADER,
    ENCODER,
    POOLING,
    APPLY,
    SAVE_EMBEDS,
    CLIP_VISION_LOADER,
    IMAGE_SCALE,
    RESIZE_AND_PAD,
    BOUNDING_BOX,
    IMAGE_CROP,
    EMPTY_IMAGE,
    NOISE_REFERENCE,
    CONDITIONING_SET_MASK,
    CREATE_LIST,
)

MAX_WEIGHT = 3.0
"""Of `face_weight`; the other pack's nodes go up to 5."""
