"""The adapter: what an adapter file holds, as one module."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .branch import ContextTokens
from .references import Embeds


@dataclass(frozen=True, kw_only=True)
class AdapterLayout:
    """Everything that the tensors of an adapter file say about it.

    Attributes:
        kind: "base", "plus", "full_face", "faceid" or "faceid_plus".
        cross_attention_dim: width C of the context tokens; 768 for SD1.5, 2048 for SDXL.
        num_tokens: tokens per photo; None where there is one per hidden state (full face).
        image_embed_dim: width of the `image_embeds` it reads, or None.
        hidden_size: width of the image encoder's hidden states it reads, or None.
        face_embed_dim: width of the ArcFace vector it reads, or None.
        inner_dim: inner width of the perceptron or of the resampler, or None.
        depth: number of resampler layers; 0 without one.
        layers: hidden size by cross-attention layer index N.
        lora_rank: rank of the LoRA inside a FaceID file, or None.
    """

    kind: str
    cross_attention_dim: int
    num_tokens: int | None
    image_embed_dim: int | None = None
    hidden_size: int | None = None
    face_embed_dim: int | None = None
    inner_dim: int | None = None
    depth: int = 0
    layers: dict[int, int] = field(default_factory=dict)
    lora_rank: int | None = None


class Adapter(nn.Module):
    """A face branch: image projection and K', V' weights. The state dict keys are those of the public files.

    Attributes:
        image_proj: one of `models.image_projection`.
        ip_adapter: `KeyValueProjection` by layer index N.
        layout: what the file said.
    """

    def __init__(self, *, image_proj: nn.Module, ip_adapter: nn.ModuleDict, layout: AdapterLayout):
        super().__init__()
        self.image_proj = image_proj
        self.ip_adapter = ip_adapter
        self.layout = layout

    def face_tokens(self, embeds: Embeds, *, device: torch.device | str, dtype: torch.dtype) -> ContextTokens:
        """Context tokens of the face branch.

        Args:
            embeds: checked by `check_embeds`.
            device, dtype: where and in what the projection computes.

        Returns:
            Unconditional tokens [1, t, C], and the conditional ones of all k photos side by side [1, k·t, C].
        """
        inputs: dict[str, Any] = {}
        for name in self.image_proj.inputs:
            features = getattr(embeds, name).to(device=device, dtype=dtype)
            # Hidden states have no neutral value: their unconditional input is the encoding of a zero image.
            zero = embeds.zero_hidden_states if name == "hidden_states" else torch.zeros_like(features[:1])
            inputs[name] = torch.cat((zero.to(features), features))
        tokens = self.image_proj(**inputs)
        unconditional, conditional = tokens[:1], tokens[1:]
        if embeds.token_weights is not None:
            conditional = conditional * embeds.token_weights.to(tokens).view(-1, 1, 1)
        return unconditional, conditional.flatten(0, 1).unsqueeze(0)

    def check_embeds(self, embeds: Embeds) -> None:
        """Raise a ValueError that names the missing node or the right encoder if the embeds do not fit."""
        layout = self.layout
        if layout.face_embed_dim is not None and embeds.face_embeds is None:
            raise ValueError(
                "This adapter is a FaceID adapter and needs face embeddings, but the references have none. Connect "
                "BoLIDFaceAnalysisLoader to face_analysis of MultiRefImageEncoder (and use photos with a visible face)."
            )
        if layout.face_embed_dim is not None and embeds.face_embeds.shape[-1] != layout.face_embed_dim:
            raise ValueError(
                f"This adapter needs face embeddings of width {layout.face_embed_dim}, but the references have "
                f"{embeds.face_embeds.shape[-1]}. Load the insightface pack it was trained with (buffalo_l for the "
                "public FaceID adapters) in BoLIDFaceAnalysisLoader."
            )
        if layout.image_embed_dim is not None:
            _check_width(
                "image embeddings", embeds.image_embeds, layout.image_embed_dim, _ENCODER_BY_EMBED_DIM
            )
        if layout.hidden_size is not None:
            _check_width("hidden states", embeds.hidden_states, layout.hidden_size, _ENCODER_BY_HIDDEN_SIZE)


_ENCODER_BY_EMBED_DIM = {768: "CLIP ViT-L/14", 1024: "CLIP ViT-H/14", 1280: "CLIP ViT-bigG/14"}
_ENCODER_BY_HIDDEN_SIZE = {1024: "CLIP ViT-L/14", 1280: "CLIP ViT-H/14", 1664: "CLIP ViT-bigG/14"}


def _check_width(what: str, features: torch.Tensor | None, width: int, encoders: dict[int, str]) -> None:
    needed = f"{encoders.get(width, 'the image encoder it was trained with')} ({what} of width {width})"
    if features is None:
        raise ValueError(
            f"This adapter needs {needed}, but the references were made without an image encoder. Connect "
            "'Load CLIP Vision' to clip_vision of MultiRefImageEncoder."
        )
    given = features.shape[-1]
    if given != width:
        raise ValueError(
            f"This adapter needs {needed}, but the references come from "
            f"{encoders.get(given, 'another image encoder')} (width {given}). Load the matching file in "
            "'Load CLIP Vision', or choose an adapter for the encoder you have in BoLIDAdapterLoader."
        )
