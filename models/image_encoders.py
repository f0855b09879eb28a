"""The image encoders that public adapters read, and how they are told apart: by the widths of their features."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ImageEncoder:
    """An image encoder.

    Attributes:
        name: what the commands call it.
        title: for people.
        hidden_size: width of its hidden states.
        image_embed_dim: width of its image embeddings.
    """

    name: str
    title: str
    hidden_size: int
    image_embed_dim: int


IMAGE_ENCODERS = (
    ImageEncoder(name="clip-vit-l", title="CLIP ViT-L/14", hidden_size=1024, image_embed_dim=768),
    ImageEncoder(name="clip-vit-h", title="CLIP ViT-H/14", hidden_size=1280, image_embed_dim=1024),
    ImageEncoder(name="clip-vit-bigg", title="CLIP ViT-bigG/14", hidden_size=1664, image_embed_dim=1280),
)
