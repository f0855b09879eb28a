"""The adapter: what an adapter file holds, as one module."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .body import Body, is_seen
from .branch import ContextTokens
from .image_encoders import IMAGE_ENCODERS
from .references import Embeds, ImageFeatures


@dataclass(frozen=True, kw_only=True)
class BodyLayout:
    """Sizes of a body branch, see `body_encoder.BodyIDEncoder`."""

    hidden_size: int
    dim: int
    depth: int
    resampler_depth: int
    num_tokens: int = 8


@dataclass(frozen=True, kw_only=True)
class AdapterLayout:
    """Every size of an adapter: what its file says, and what it is built from.

    Attributes:
        kind: "base", "plus", "full_face", "faceid" or "faceid_plus".
        cross_attention_dim: width C of the context tokens; 768 for SD1.5, 2048 for SDXL.
        num_tokens: tokens per photo; None where there is one per hidden state (full face).
        image_embed_dim: width of the `image_embeds` it reads, or None.
        hidden_size: width of the image encoder's hidden states it reads, or None.
        face_embed_dim: width of the ArcFace vector it reads, or None.
        inner_dim: inner width of the perceptron or of the resampler, or None.
        depth: number of resampler layers; 0 without one.
        shortcut: version 2 (True) or 1 (False) of FaceID-plus; their tensors do not differ.
        layers: hidden size by cross-attention layer index N.
        aggregator_depth: blocks of the self-attention aggregator; 0 without one.
        body: sizes of the body branch, or None without one.
    """

    kind: str
    cross_attention_dim: int
    num_tokens: int | None
    image_embed_dim: int | None = None
    hidden_size: int | None = None
    face_embed_dim: int | None = None
    inner_dim: int | None = None
    depth: int = 0
    shortcut: bool = True
    layers: dict[int, int] = field(default_factory=dict)
    aggregator_depth: int = 0
    body: BodyLayout | None = None

    @property
    def feature_widths(self) -> dict[str, int]:
        """Width of the features of `ImageFeatures` that the face branch reads."""
        widths = {
            "image_embeds": self.image_embed_dim,
            "hidden_states": self.hidden_size,
            "face_embeds": self.face_embed_dim,
        }
        return {name: width for name, width in widths.items() if width is not None}


class Adapter(nn.Module):
    """A face branch, and what a BoLID adapter has beside it. The state dict keys are those of the adapter file.

    Attributes:
        image_proj: one of `models.image_projection`.
        ip_adapter: `KeyValueProjection` of the face branch by layer index N.
        aggregator: `SelfAttentionAggregator` by the name of the feature it aggregates, or None.
        body_encoder: `BodyIDEncoder`, or None.
        body_adapter: `KeyValueProjection` of the body branch by layer index N, or None.
        layout: what it was built from.
    """

    def __init__(
        self,
        *,
        image_proj: nn.Module,
        ip_adapter: nn.ModuleDict,
        layout: AdapterLayout,
        aggregator: nn.ModuleDict | None = None,
        body_encoder: nn.Module | None = None,
        body_adapter: nn.ModuleDict | None = None,
    ):
        super().__init__()
        self.image_proj = image_proj
        self.ip_adapter = ip_adapter
        self.aggregator = aggregator
        self.body_encoder = body_encoder
        self.body_adapter = body_adapter
        self.layout = layout

    def face_tokens(
        self, embeds: Embeds, negative: Embeds | None = None, *, device: torch.device | str, dtype: torch.dtype
    ) -> ContextTokens:
        """Context tokens of the face branch.

        Args:
            embeds, negative: checked by `check_features`; `negative` takes the place of the unconditional input.
            device, dtype: where and in what the projection computes.

        Returns:
            Unconditional tokens [1, t, C], and the conditional ones of all k photos side by side [1, k·t, C]; of embeds
            that belong to a picture each [k, t, C]. The tokens of `negative` are laid out in the same way.
        """
        inputs: dict[str, Any] = {}
        for name in self.image_proj.inputs:
            features = getattr(embeds, name).to(device=device, dtype=dtype)
            if negative is not None:
                unconditional = getattr(negative, name)
            elif name == "hidden_states":
                # Hidden states have no neutral value: their unconditional input is the encoding of a zero image.
                unconditional = embeds.zero_hidden_states
            else:
                unconditional = torch.zeros_like(features[:1])
            inputs[name] = torch.cat((unconditional.to(features), features))
        tokens = self.image_proj(**inputs)
        return (
            _context(tokens[: -features.shape[0]], negative or Embeds()),
            _context(tokens[-features.shape[0] :], embeds),
        )

    def body_tokens(self, body: Body, *, device: torch.device | str, dtype: torch.dtype) -> ContextTokens:
        """Context tokens of the body branch.

        Args:
            body: checked by `check_body`.
            device, dtype: where and in what the encoder computes.

        Returns:
            No unconditional token [1, 0, C] (a dropped body is tokens of zeros, which add nothing), and the conditional
            tokens [1, t, C].
        """
        target_pose = torch.zeros_like(body.keypoints[0])
        if body.target_pose is not None:
            placed = is_seen(body.target_pose[:, 2:], min_visibility=body.min_visibility)
            target_pose = torch.where(placed, body.target_pose, 0.0)
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        tokens = self.body_encoder(
            proportions=body.proportions.unsqueeze(0).to(**place),
            seen=body.seen.unsqueeze(0).to(device),
            target_pose=target_pose.unsqueeze(0).to(**place),
            hidden_states=None
            if body.hidden_states is None
            else body.hidden_states.flatten(0, 1).unsqueeze(0).to(**place),
        )
        return tokens[:, :0], tokens

    def check_features(self, features: ImageFeatures) -> None:
        """Raise a ValueError that names the missing node or the right encoder if the face branch cannot read them."""
        layout = self.layout
        needed = [name for name in layout.feature_widths if getattr(features, name) is None]
        if (
            needed
            and isinstance(features, Embeds)
            and (features.image_embeds is None) != (features.hidden_states is None)
        ):
            raise ValueError(
                f"This adapter reads {', '.join(layout.feature_widths)}, but the embeds have no {', '.join(needed)}: "
                "SelfAttnAggregator made them for another adapter. Connect the same adapter to both nodes."
            )
        if layout.face_embed_dim is not None and features.face_embeds is None:
            raise ValueError(
                "This adapter is a FaceID adapter and needs face embeddings, but the references have none. Connect "
                "BoLIDFaceAnalysisLoader to face_analysis of MultiRefImageEncoder (and use photos with a visible face)."
            )
        if layout.face_embed_dim is not None and features.face_embeds.shape[-1] != layout.face_embed_dim:
            raise ValueError(
                f"This adapter needs face embeddings of width {layout.face_embed_dim}, but the references have "
                f"{features.face_embeds.shape[-1]}. Load the insightface pack it was trained with (buffalo_l for the "
                "public FaceID adapters) in BoLIDFaceAnalysisLoader."
            )
        if layout.image_embed_dim is not None:
            _check_width("image embeddings", features.image_embeds, layout.image_embed_dim, ENCODER_BY_EMBED_DIM)
        if layout.hidden_size is not None:
            _check_width("hidden states", features.hidden_states, layout.hidden_size, _ENCODER_BY_HIDDEN_SIZE)

    def check_body(self, body: Body) -> None:
        """Raise a ValueError that names the right encoder if the body branch cannot read the image features."""
        if body.hidden_states is not None:
            _check_width(
                "hidden states",
                body.hidden_states,
                self.layout.body.hidden_size,
                _ENCODER_BY_HIDDEN_SIZE,
                source="the body's image features",
            )


def _context(tokens: torch.Tensor, embeds: Embeds) -> torch.Tensor:
    """Tokens [k, t, C] of k photos as a layer attends to them."""
    if embeds.token_weights is not None:
        tokens = tokens * embeds.token_weights.to(tokens).view(-1, 1, 1)
    return tokens if embeds.per_picture else tokens.flatten(0, 1).unsqueeze(0)


ENCODER_BY_EMBED_DIM = {encoder.image_embed_dim: encoder.title for encoder in IMAGE_ENCODERS}
_ENCODER_BY_HIDDEN_SIZE = {encoder.hidden_size: encoder.title for encoder in IMAGE_ENCODERS}


def _check_width(
    what: str,
    features: torch.Tensor | None,
    width: int,
    encoders: dict[int, str],
    *,
    source: str = "the references",
) -> None:
    needed = f"{encoders.get(width, 'the image encoder it was trained with')} ({what} of width {width})"
    if features is None:
        raise ValueError(
            f"This adapter needs {needed}, but {source} were made without an image encoder. Connect "
            "'Load CLIP Vision' to clip_vision of MultiRefImageEncoder."
        )
    given = features.shape[-1]
    if given != width:
        raise ValueError(
            f"This adapter needs {needed}, but {source} come from "
            f"{encoders.get(given, 'another image encoder')} (width {given}). Load the matching file in "
            "'Load CLIP Vision', or choose an adapter for the encoder you have in BoLIDAdapterLoader."
        )
