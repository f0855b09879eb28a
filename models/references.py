"""What travels between the encoding, the aggregating and the applying nodes."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True, kw_only=True)
class PhotoReport:
    """What became of one reference photo.

    Attributes:
        photo: number of the photo in the input, from 1.
        status: "kept", "repeated" or "dropped".
        reason: why, in words a user can act on; empty for a photo that was simply kept.
    """

    photo: int
    status: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class ImageFeatures:
    """Image features of n photos of one person, on the CPU or the host's intermediate device.

    Attributes:
        image_embeds: [n, D] projected CLIP image embeddings, or None without an image encoder.
        hidden_states: [n, T, H] penultimate hidden states of the image encoder, where it gives them.
        zero_hidden_states: [1, T, H] hidden states of an all-zero preprocessed image: the unconditional input of the
            layouts that read hidden states.
        face_embeds: [n, 512] L2-normalised ArcFace vectors, or None where no face analysis ran or found no face.
    """

    image_embeds: torch.Tensor | None = None
    hidden_states: torch.Tensor | None = None
    zero_hidden_states: torch.Tensor | None = None
    face_embeds: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class References(ImageFeatures):
    """Features per photo (`BOLID_REFERENCES`).

    Attributes:
        has_face: [n] bool, True where `face_embeds` holds a vector of a found face.
        report: one entry per photo of the input, kept or not.
    """

    has_face: torch.Tensor | None = None
    report: tuple[PhotoReport, ...] = field(default=())

    @property
    def count(self) -> int:
        """Number of photos kept."""
        for features in (self.image_embeds, self.face_embeds, self.hidden_states):
            if features is not None:
                return features.shape[0]
        return 0


@dataclass(frozen=True, kw_only=True)
class Embeds(ImageFeatures):
    """Features after aggregation (`BOLID_EMBEDS`): leading dimension 1, or k where photos stay side by side.

    Attributes:
        token_weights: [k] factor of each photo's tokens after projection, mean 1.
        report: the references' report, with what the aggregation did to each photo.
    """

    token_weights: torch.Tensor | None = None
    report: tuple[PhotoReport, ...] = field(default=())
