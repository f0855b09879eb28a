"""What travels between the encoding, the aggregating and the applying nodes."""

from __future__ import annotations

from collections.abc import Sequence
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
class ReferenceReport(PhotoReport):
    """What became of one photo, or of one tile of it: a photo that was cut into tiles has an entry for each.

    Attributes:
        row: which row of the features it is, from 1; None if it was dropped.
        tile: number of the tile and of tiles in the photo, such as "2 of 3"; empty for a photo that was not cut.
        box: x0, y0, x1, y1 of the tile in pixels of the photo.
        faces: number of faces found in the photo; None where none was looked for.
    """

    row: int | None = None
    tile: str = ""
    box: tuple[int, int, int, int] | None = None
    faces: int | None = None


def weights_of_entries(report: Sequence[PhotoReport], weights: Sequence[float]) -> list[float]:
    """Weights that were given per photo, as weights per entry of the report: tiles have the weight of their photo.

    Args:
        report: of the references.
        weights: one per photo, or one per entry of the report.

    Returns:
        One per entry; `weights` themselves if they are as many as neither, for the caller to refuse.
    """
    photos = dict.fromkeys(entry.photo for entry in report)
    if len(weights) != len(photos):
        return list(weights)
    by_photo = dict(zip(photos, weights, strict=True))
    return [by_photo[entry.photo] for entry in report]


@dataclass(frozen=True, kw_only=True)
class ImageFeatures:
    """Image features of n photos, or tiles of photos, of one person, on the CPU or the host's intermediate device.

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
        report: one entry per photo of the input, kept or not, or per tile of a photo; the kept ones in the order of
            the rows.
    """

    has_face: torch.Tensor | None = None
    report: tuple[PhotoReport, ...] = field(default=())

    @property
    def count(self) -> int:
        """Number of photos kept, or of tiles of photos."""
        for features in (self.image_embeds, self.face_embeds, self.hidden_states):
            if features is not None:
                return features.shape[0]
        return 0


@dataclass(frozen=True, kw_only=True)
class Embeds(ImageFeatures):
    """Features after aggregation (`BOLID_EMBEDS`): leading dimension 1, or k where photos stay side by side.

    Attributes:
        token_weights: [k] factor of each photo's tokens after projection, mean 1.
        per_picture: the k-th photo belongs to the k-th picture of the batch, not all of them to every picture.
        report: the references' report, with what the aggregation did to each photo.
    """

    token_weights: torch.Tensor | None = None
    per_picture: bool = False
    report: tuple[PhotoReport, ...] = field(default=())
