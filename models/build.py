"""From a layout to modules: the one place where sizes become layers."""

from __future__ import annotations

from typing import Any

from torch import nn

from .adapter import Adapter, AdapterLayout
from .cross_attention import key_value_projections
from .image_projection import (
    FaceIDImageProjection,
    FaceIDPlusImageProjection,
    FullImageProjection,
    ImageProjection,
    PlusImageProjection,
)


def build_adapter(layout: AdapterLayout, *, faceid_plus_shortcut: bool = True, operations: Any = nn) -> Adapter:
    """Build an adapter with fresh weights; under `torch.device("meta")` it costs no memory.

    Args:
        layout: sizes, as `checkpoint.detect_layout` reads them from a file.
        faceid_plus_shortcut: FaceID-plus version 2 (True) or 1 (False); their tensors do not differ.
        operations: the host's layers (`comfy.ops.manual_cast` in ComfyUI).
    """
    return Adapter(
        image_proj=_image_projection(layout, faceid_plus_shortcut, operations),
        ip_adapter=key_value_projections(
            layout.layers, cross_attention_dim=layout.cross_attention_dim, operations=operations
        ),
        layout=layout,
    )


def _image_projection(layout: AdapterLayout, faceid_plus_shortcut: bool, operations: Any) -> nn.Module:
    common: dict[str, Any] = {"cross_attention_dim": layout.cross_attention_dim, "operations": operations}
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
                shortcut=faceid_plus_shortcut,
                **face,
                **common,
            )
    raise ValueError(f"Unknown adapter layout {layout.kind!r}.")
