"""From a layout to modules: the one place where sizes become layers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import nn

from .adapter import Adapter, AdapterLayout
from .body_encoder import BodyIDEncoder
from .cross_attention import key_value_projections
from .image_projection import (
    FaceIDImageProjection,
    FaceIDPlusImageProjection,
    FullImageProjection,
    ImageProjection,
    PlusImageProjection,
)
from .self_attention import SelfAttentionAggregator


def build_adapter(layout: AdapterLayout, *, operations: Any = nn) -> Adapter:
    """Build an adapter with fresh weights; under `torch.device("meta")` it costs no memory.

    Args:
        layout: sizes, as `checkpoint.detect_layout` or the adapter file's own description gives them.
        operations: the host's layers (`comfy.ops.manual_cast` in ComfyUI).
    """
    common: dict[str, Any] = {"cross_attention_dim": layout.cross_attention_dim, "operations": operations}
    parts: dict[str, Any] = {}
    if layout.aggregator_depth:
        parts["aggregator"] = nn.ModuleDict(
            {
                name: SelfAttentionAggregator(dim=width, depth=layout.aggregator_depth, operations=operations)
                for name, width in layout.feature_widths.items()
            }
        )
    if layout.body is not None:
        parts["body_encoder"] = BodyIDEncoder(**asdict(layout.body), **common)
        parts["body_adapter"] = key_value_projections(layout.layers, suffix="", **common)
    return Adapter(
        image_proj=_image_projection(layout, common),
        ip_adapter=key_value_projections(layout.layers, suffix="_ip", **common),
        layout=layout,
        **parts,
    )


def _image_projection(layout: AdapterLayout, common: dict[str, Any]) -> nn.Module:
    face = {"face_embed_dim": layout.face_embed_dim, "inner_dim": layout.inner_dim, "num_tokens": layout.num_tokens}
    match layout.kind:
        case "base":
            return ImageProjection(image_embed_dim=layout.image_embed_dim, num_tokens=layout.num_tokens, **common)
        case "plus":
            return PlusImageProjection(
                hidden_size=layout.hidden_size,
                dim=layout.inner_dim,
                depth=layout.depth,
                num_tokens=layout.num_tokens,
                **common,
            )
        case "full_face":
            return FullImageProjection(hidden_size=layout.hidden_size, inner_dim=layout.inner_dim, **common)
        case "faceid":
            return FaceIDImageProjection(**face, **common)
        case "faceid_plus":
            return FaceIDPlusImageProjection(
                hidden_size=layout.hidden_size,
                depth=layout.depth,
                shortcut=layout.shortcut,
                **face,
                **common,
            )
    raise ValueError(f"Unknown adapter layout {layout.kind!r}.")
