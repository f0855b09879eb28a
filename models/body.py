"""The body identity of one person: keypoints of several photos, and the proportions that they agree on."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from .keypoints import AVERAGE_PROPORTIONS, BONES, JOINTS, LEFT_HIP, LEFT_SHOULDER, RIGHT_HIP, RIGHT_SHOULDER
from .references import PhotoReport

BONE_QUANTILE, SCALE_QUANTILE = 0.8, 0.9
"""The longest view of a bone may be an error of the detector, so it is not the maximum that counts. Compared on drawn
skeletons in random poses, see `tests/models/test_body.py`."""


@dataclass(frozen=True, kw_only=True)
class Body:
    """Keypoints and image features of n photos of one person (`BOLID_BODY`), on the CPU.

    Attributes:
        keypoints: [n, 12, 3] x, y in 0 to 1 of the photo's width and height, and visibility in 0 to 1, in the order of
            `keypoints.JOINTS`.
        image_sizes: [n, 2] height and width of the photos in pixels.
        min_visibility: joints below it count as not seen.
        hidden_states: [n, T, H] penultimate hidden states of the image encoder for each person's crop, or None.
        target_pose: [12, 3] x, y in 0 to 1 of the picture to be drawn, and visibility; None: any pose. It says where
            the joints shall be and nothing about the person.
        report: one entry per photo of the input, kept or not.
    """

    keypoints: torch.Tensor
    image_sizes: torch.Tensor
    min_visibility: float = 0.5
    hidden_states: torch.Tensor | None = None
    target_pose: torch.Tensor | None = None
    report: tuple[PhotoReport, ...] = field(default=())

    @property
    def seen(self) -> torch.Tensor:
        """[12] bool: joints that at least one photo shows, also one without both shoulders."""
        return is_seen(self.keypoints[..., 2], min_visibility=self.min_visibility).any(dim=0)

    @property
    def normalised_keypoints(self) -> torch.Tensor:
        """[n, 12, 3], see `normalise_keypoints`."""
        return normalise_keypoints(self.keypoints, self.image_sizes, min_visibility=self.min_visibility)

    @property
    def proportions(self) -> torch.Tensor:
        """[7, 2], see `proportions`."""
        return proportions(self.normalised_keypoints)


def is_seen(visibility: torch.Tensor, *, min_visibility: float) -> torch.Tensor:
    """Whether joints are seen, element by element; a visibility of 0 never is."""
    return (visibility >= min_visibility) & (visibility > 0)


def has_scale(visibility: torch.Tensor, *, min_visibility: float) -> torch.Tensor:
    """Whether the joints [..., 12] of a person suffice to normalise the keypoints: both shoulders have to be seen."""
    return is_seen(visibility[..., [LEFT_SHOULDER, RIGHT_SHOULDER]], min_visibility=min_visibility).all(dim=-1)


def normalise_keypoints(keypoints: torch.Tensor, image_sizes: torch.Tensor, *, min_visibility: float) -> torch.Tensor:
    """Keypoints that do not change when the person moves, comes closer, or the picture is resized.

    The origin is the middle of the hips (of the shoulders, where a hip is not seen), the unit the torso's length or the
    shoulders' width, whichever is longer: one of the two survives when the person turns or bends.

    Args:
        keypoints: [..., 12, 3] x, y in 0 to 1, visibility.
        image_sizes: [..., 2] height and width in pixels.

    Returns:
        [..., 12, 3] x, y in that unit (y points down), and visibility. Joints that are not seen are all zero, and so
        is everything where a shoulder is not seen: the person has no scale then.
    """
    visibility = keypoints[..., 2]
    seen = is_seen(visibility, min_visibility=min_visibility)
    points = keypoints[..., :2] * image_sizes.to(keypoints).flip(-1).unsqueeze(-2)
    shoulders = points[..., [LEFT_SHOULDER, RIGHT_SHOULDER], :]
    hips_seen = seen[..., [LEFT_HIP, RIGHT_HIP]].all(dim=-1, keepdim=True)
    shoulder_middle = shoulders.mean(dim=-2)
    origin = torch.where(hips_seen, points[..., [LEFT_HIP, RIGHT_HIP], :].mean(dim=-2), shoulder_middle)
    scale = torch.maximum(
        (shoulder_middle - origin).norm(dim=-1), (shoulders[..., 0, :] - shoulders[..., 1, :]).norm(dim=-1)
    )
    usable = seen & (has_scale(visibility, min_visibility=min_visibility) & (scale > 0)).unsqueeze(-1)
    normalised = (points - origin.unsqueeze(-2)) / scale.clamp(min=torch.finfo(scale.dtype).tiny)[..., None, None]
    joined = torch.cat((normalised, visibility.unsqueeze(-1)), dim=-1)
    return torch.where(usable.unsqueeze(-1), joined, 0.0)


def proportions(normalised_keypoints: torch.Tensor) -> torch.Tensor:
    """Bone lengths on which several photos of one person agree.

    Foreshortening only shortens, so of all views of a bone (both sides of the body, all photos) an upper quantile is
    taken. Photos have no unit in common: in a portrait there is no torso, a person who turns has narrow shoulders. So
    each photo is first measured with an average adult, made so large that the bones which look longest beside his
    (`SCALE_QUANTILE`) are as long as his.

    Args:
        normalised_keypoints: [n, 12, 3] as `normalise_keypoints` returns them.

    Returns:
        [7, 2] in the order of `keypoints.BONES`: length in torsos of the average adult who was the measure, and 1; or
        twice 0 for a bone that no photo shows.
    """
    views = _bone_views(normalised_keypoints)
    average = torch.tensor([AVERAGE_PROPORTIONS[bone] for bone in BONES]).to(views)
    scales = torch.nanquantile((views / average.unsqueeze(-1)).flatten(1), SCALE_QUANTILE, dim=1)
    lengths = torch.nanquantile((views / scales.view(-1, 1, 1)).movedim(0, 1).flatten(1), BONE_QUANTILE, dim=1)
    found = lengths.isfinite()
    return torch.stack((torch.where(found, lengths, 0.0), found.to(lengths)), dim=-1)


def _bone_views(normalised_keypoints: torch.Tensor) -> torch.Tensor:
    """[n, 7, 2] length of every bone on both sides; NaN where an end is not seen. Bones without sides come twice."""
    pairs = torch.tensor([[ends[0], ends[-1]] for ends in BONES.values()])
    start, end = normalised_keypoints[:, pairs].unbind(dim=-2)
    length = (start - end)[..., :2].norm(dim=-1)
    return torch.where((start[..., 2] > 0) & (end[..., 2] > 0) & (length > 0), length, torch.nan)


def unseen_joints(seen: torch.Tensor) -> list[str]:
    """Names of the joints that are False in [12], in words; pairs without their sides: "knees", "left wrist"."""
    names = []
    for left in range(0, len(JOINTS), 2):
        side_seen = seen[left : left + 2].tolist()
        part = JOINTS[left].removeprefix("left_")
        if not any(side_seen):
            names.append(f"{part}s")
        elif not all(side_seen):
            names.append(f"{'right' if side_seen[0] else 'left'} {part}")
    return names
