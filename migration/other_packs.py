"""What the nodes of other packs are: their settings by position, and their outputs.

Facts from the history of https://github.com/cubiq/ComfyUI_IPAdapter_plus (2023-09-03 to 9d076a3), whose nodes have only
ever got new widgets at the end, so that one order fits every version of a node. The nodes without counterpart are those
of the packs named beside them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .graph import Graph, Node, Output

LOADER = "IPAdapterModelLoader"
UNIFIED, UNIFIED_FACEID = "IPAdapterUnifiedLoader", "IPAdapterUnifiedLoaderFaceID"
UNIFIED_COMMUNITY = "IPAdapterUnifiedLoaderCommunity"
UNIFIED_LOADERS = (UNIFIED, UNIFIED_FACEID, UNIFIED_COMMUNITY)
INSIGHTFACE_LOADERS = ("IPAdapterInsightFaceLoader", "InsightFaceLoader")
ENCODER, FIRST_ENCODER = "IPAdapterEncoder", "IPAdapterEncoder (2023)"
COMBINE_EMBEDS, BATCH_EMBEDS = "IPAdapterCombineEmbeds", "IPAdapterBatchEmbeds"
SAVE_EMBEDS, LOAD_EMBEDS = "IPAdapterSaveEmbeds", "IPAdapterLoadEmbeds"
REGION, COMBINE_PARAMS = "IPAdapterRegionalConditioning", "IPAdapterCombineParams"
PREPARE = "PrepImageForClipVision"
NOISE = "IPAdapterNoise"
PRIMITIVE = "PrimitiveNode"


@dataclass(frozen=True, kw_only=True)
class OldKind:
    """A kind of node.

    Attributes:
        widgets: default by name, in the order of the node.
        outputs: names, in the order of the node.
        needed: inputs without which it is another node of the same name.
    """

    widgets: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("model",)
    needed: tuple[str, ...] = ()


_SCHEDULE = {"start_at": 0.0, "end_at": 1.0}
_SCALING = {"embeds_scaling": "V only"}
_TYPE = {"weight_type": "linear"}
_BATCH = {"encode_batch_size": 0}
_APPLY = {"needed": ("model", "ipadapter", "image")}


def _combined(method: str = "concat") -> dict[str, str]:
    return {"combine_embeds": method}


KINDS: dict[str, OldKind] = {
    LOADER: OldKind(widgets={"ipadapter_file": ""}, outputs=("ipadapter",)),
    UNIFIED: OldKind(widgets={"preset": "LIGHT - SD1.5 only (low strength)"}, outputs=("model", "ipadapter")),
    UNIFIED_FACEID: OldKind(
        widgets={"preset": "FACEID", "lora_strength": 0.6, "provider": "CPU"}, outputs=("model", "ipadapter")
    ),
    UNIFIED_COMMUNITY: OldKind(widgets={"preset": "Composition"}, outputs=("model", "ipadapter")),
    "IPAdapterInsightFaceLoader": OldKind(
        widgets={"provider": "CPU", "model_name": "buffalo_l"}, outputs=("insightface",)
    ),
    "IPAdapter": OldKind(widgets={"weight": 1.0, **_SCHEDULE, "weight_type": "standard"}, **_APPLY),
    "IPAdapterAdvanced": OldKind(widgets={"weight": 1.0, **_TYPE, **_combined(), **_SCHEDULE, **_SCALING}, **_APPLY),
    "IPAdapterBatch": OldKind(widgets={"weight": 1.0, **_TYPE, **_SCHEDULE, **_SCALING, **_BATCH}, **_APPLY),
    "IPAdapterFaceID": OldKind(
        widgets={"weight": 1.0, "weight_faceidv2": 1.0, **_TYPE, **_combined(), **_SCHEDULE, **_SCALING},
        outputs=("model", "face_image"),
        **_APPLY,
    ),
    "IPAAdapterFaceIDBatch": OldKind(
        widgets={"weight": 1.0, "weight_faceidv2": 1.0, **_TYPE, **_combined(), **_SCHEDULE, **_SCALING},
        outputs=("model", "face_image"),
        **_APPLY,
    ),
    "IPAdapterTiled": OldKind(
        widgets={"weight": 1.0, **_TYPE, **_combined(), **_SCHEDULE, "sharpening": 0.0, **_SCALING},
        outputs=("model", "tiles", "masks"),
        **_APPLY,
    ),
    "IPAdapterTiledBatch": OldKind(
        widgets={"weight": 1.0, **_TYPE, **_SCHEDULE, "sharpening": 0.0, **_SCALING, **_BATCH},
        outputs=("model", "tiles", "masks"),
        **_APPLY,
    ),
    "IPAdapterEmbeds": OldKind(
        widgets={"weight": 1.0, **_TYPE, **_SCHEDULE, **_SCALING}, needed=("model", "ipadapter", "pos_embed")
    ),
    "IPAdapterEmbedsBatch": OldKind(
        widgets={"weight": 1.0, **_TYPE, **_SCHEDULE, **_SCALING}, needed=("model", "ipadapter", "pos_embed")
    ),
    "IPAdapterStyleComposition": OldKind(
        widgets={
            "weight_style": 1.0,
            "weight_composition": 1.0,
            "expand_style": False,
            **_combined("average"),
            **_SCHEDULE,
            **_SCALING,
        },
        needed=("model", "ipadapter", "image_style"),
    ),
    "IPAdapterStyleCompositionBatch": OldKind(
        widgets={"weight_style": 1.0, "weight_composition": 1.0, "expand_style": False, **_SCHEDULE, **_SCALING},
        needed=("model", "ipadapter", "image_style"),
    ),
    "IPAdapterMS": OldKind(
        widgets={
            "weight": 1.0,
            "weight_faceidv2": 1.0,
            **_TYPE,
            **_combined(),
            **_SCHEDULE,
            **_SCALING,
            "layer_weights": "",
        },
        **_APPLY,
    ),
    "IPAdapterClipVisionEnhancer": OldKind(
        widgets={
            "weight": 1.0,
            **_TYPE,
            **_combined(),
            **_SCHEDULE,
            **_SCALING,
            "enhance_tiles": 2,
            "enhance_ratio": 1.0,
        },
        **_APPLY,
    ),
    "IPAdapterClipVisionEnhancerBatch": OldKind(
        widgets={
            "weight": 1.0,
            **_TYPE,
            **_SCHEDULE,
            **_SCALING,
            "enhance_tiles": 2,
            "enhance_ratio": 0.5,
            **_BATCH,
        },
        **_APPLY,
    ),
    "IPAdapterFromParams": OldKind(
        widgets={**_combined(), **_SCALING}, needed=("model", "ipadapter", "ipadapter_params")
    ),
    "IPAdapterPreciseStyleTransfer": OldKind(
        widgets={"weight": 1.0, "style_boost": 1.0, **_combined(), **_SCHEDULE, **_SCALING}, **_APPLY
    ),
    "IPAdapterPreciseStyleTransferBatch": OldKind(
        widgets={"weight": 1.0, "style_boost": 1.0, **_combined(), **_SCHEDULE, **_SCALING}, **_APPLY
    ),
    "IPAdapterPreciseComposition": OldKind(
        widgets={"weight": 1.0, "composition_boost": 0.0, **_combined(), **_SCHEDULE, **_SCALING}, **_APPLY
    ),
    "IPAdapterPreciseCompositionBatch": OldKind(
        widgets={"weight": 1.0, "composition_boost": 0.0, **_combined(), **_SCHEDULE, **_SCALING}, **_APPLY
    ),
    ENCODER: OldKind(widgets={"weight": 1.0}, outputs=("pos_embed", "neg_embed"), needed=("ipadapter", "image")),
    COMBINE_EMBEDS: OldKind(widgets={"method": "concat"}, outputs=("embeds",)),
    SAVE_EMBEDS: OldKind(widgets={"filename_prefix": "IP_embeds"}, outputs=()),
    REGION: OldKind(
        widgets={"image_weight": 1.0, "prompt_weight": 1.0, **_TYPE, **_SCHEDULE},
        outputs=("params", "positive", "negative"),
    ),
    COMBINE_PARAMS: OldKind(outputs=("params",)),
    PREPARE: OldKind(
        widgets={"interpolation": "LANCZOS", "crop_position": "top", "sharpening": 0.0}, outputs=("image",)
    ),
    NOISE: OldKind(widgets={"type": "fade", "strength": 1.0, "blur": 0}, outputs=("image",)),
    # Until 2024-03-23
    "InsightFaceLoader": OldKind(widgets={"provider": "CPU"}, outputs=("insightface",)),
    "IPAdapterApply": OldKind(
        widgets={"weight": 1.0, "noise": 0.0, "weight_type": "original", **_SCHEDULE, "unfold_batch": False}, **_APPLY
    ),
    "IPAdapterApplyFaceID": OldKind(
        widgets={
            "weight": 1.0,
            "noise": 0.0,
            "weight_type": "original",
            **_SCHEDULE,
            "faceid_v2": False,
            "weight_v2": 1.0,
            "unfold_batch": False,
        },
        **_APPLY,
    ),
    "IPAdapterApplyEncoded": OldKind(
        widgets={"weight": 1.0, "weight_type": "original", **_SCHEDULE, "unfold_batch": False},
        needed=("model", "ipadapter", "embeds"),
    ),
    FIRST_ENCODER: OldKind(
        widgets={
            "ipadapter_plus": False,
            "noise": 0.0,
            "weight_1": 1.0,
            "weight_2": 1.0,
            "weight_3": 1.0,
            "weight_4": 1.0,
        },
        outputs=("embeds",),
        needed=("image_1",),
    ),
    BATCH_EMBEDS: OldKind(outputs=("embeds",)),
}
"""Nodes that have a counterpart, at least for some of their settings."""

FIRST_NODES = ("IPAdapterApply", "IPAdapterApplyFaceID", "IPAdapterApplyEncoded")
"""Gone since 2024-03-23; the middle block took part then."""

WITHOUT_COUNTERPART: dict[str, str] = {
    LOAD_EMBEDS: "its file holds features in a form that only the other pack reads; encode the photos again",
    "IPAdapterFaceIDKolors": "Kolors is no SD1.5 or SDXL model",
    "IPAdapterWeights": "weights per frame of an animation",
    "IPAdapterWeightsFromStrategy": "weights per frame of an animation",
    "IPAdapterCombineWeights": "weights per frame of an animation",
    "IPAdapterPromptScheduleFromWeightsStrategy": "a prompt per frame of an animation",
    "IPAdapterTilesMasked": "tiles with weights of their own",
    "PrepImageForInsightFace": "face analysis takes the photo as it is; connect the photo itself",
    # cubiq/ComfyUI_InstantID
    "InstantIDModelLoader": "InstantID is another method, with model files of its own",
    "InstantIDFaceAnalysis": "InstantID is another method, with model files of its own",
    "ApplyInstantID": "InstantID is another method, with model files of its own",
    "ApplyInstantIDAdvanced": "InstantID is another method, with model files of its own",
    "ApplyInstantIDControlNet": "InstantID is another method, with model files of its own",
    "InstantIDAttentionPatch": "InstantID is another method, with model files of its own",
    "FaceKeypointsPreprocessor": "InstantID is another method, with model files of its own",
    # cubiq/PuLID_ComfyUI
    "PulidModelLoader": "PuLID is another method, with model files of its own",
    "PulidInsightFaceLoader": "PuLID is another method, with model files of its own",
    "PulidEvaClipLoader": "PuLID is another method, with model files of its own",
    "ApplyPulid": "PuLID is another method, with model files of its own",
    "ApplyPulidAdvanced": "PuLID is another method, with model files of its own",
    # ComfyUI itself
    "PhotoMakerLoader": "PhotoMaker is another method, with model files of its own",
    "PhotoMakerEncode": "PhotoMaker is another method, with model files of its own",
}
"""Nodes of the same purpose that stay, and why."""

FITTING: dict[str, str] = {
    # Fannovel16/comfyui_controlnet_aux
    "DWPreprocessor": "stays: its POSE_KEYPOINT fits pose_keypoint and target_pose of BodyLandmarkEncoder",
    "OpenposePreprocessor": "stays: its POSE_KEYPOINT fits pose_keypoint and target_pose of BodyLandmarkEncoder",
}
"""Nodes of other packs that work together with ours as they are."""

NAME_PARTS = ("ipadapter", "ip_adapter", "instantid", "pulid", "photomaker")
"""A node with one of these in its id has the same purpose, known or not."""


def kind_of(node: Node) -> str | None:
    """The key of `KINDS` for a node, or None for any other."""
    if node.type == ENCODER and "image_1" in node.links:
        return FIRST_ENCODER
    return node.type if node.type in KINDS else None


def output(node: Node, name: str) -> Output:
    """One of a node's outputs by its name."""
    return Output(node.id, KINDS[kind_of(node) or ""].outputs.index(name))


def settings(node: Node, graph: Graph) -> dict[str, Any]:
    """Values of a node's widgets by name; an `Output` where another node gives the value.

    Raises:
        ValueError: stored values that no version of the node has.
    """
    widgets = KINDS[kind_of(node) or ""].widgets
    if isinstance(node.stored, list):
        stored = dict(zip(widgets, node.stored, strict=False))
    else:
        stored = {name: node.stored[name] for name in widgets if name in node.stored}
    found: dict[str, Any] = {}
    for name, default in widgets.items():
        found[name] = _linked(node, name, graph) if name in node.links else stored.get(name, default)
        if not isinstance(found[name], Output) and not _fits(found[name], default):
            raise ValueError(f"its {name} is {found[name]!r}, which no version of this node has")
    return found


def _linked(node: Node, name: str, graph: Graph) -> Any:
    """What a linked widget gets: a choice where the frontend's own primitive makes it, else the link."""
    link = graph.origin(node.links[name])
    source = graph.nodes.get(link.node)
    is_choice = isinstance(KINDS[kind_of(node) or ""].widgets[name], str | bool)
    if is_choice and source is not None and source.type == PRIMITIVE and isinstance(source.stored, list):
        return source.stored[0] if source.stored else link
    return link


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(default)
