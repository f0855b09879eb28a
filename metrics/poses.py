"""Poses and proportions of generated people: pose accuracy, PCK, OKS, detection rates, bone-ratio error.

All return one value per picture (`body_ratio_error`: per person) and compare the keypoints that a detector finds in a
generated picture with those of the reference, which is the pose that was asked for. The detector has an error of its
own: measure it on real pictures and print it beside every number, and take a detector that was no part of the training.

What was not found is a failure and counts:

| metric | joint of the reference that is not found | nobody found |
|---|---|---|
| `pose_accuracy` | squared distance `undetected`, 2 | 2 |
| `pck`, `oks`, `joint_detection_rate` | 0 | 0 |
| `detection_rate` | - | 0 |
| `bone_ratio_error` | log error `undetected`, ln 2, of each bone that no side shows | ln 2 |
| `body_ratio_error` | as above where no picture shows the bone | ln 2, as one of the n pictures |

In the errors nothing that is found counts worse than what is not, so no method gains by being unrecognisable. A joint
counts as found where its visibility reaches `min_visibility` and its numbers are finite; people who were not found are
rows of zeros. Joints that the reference does not show have no truth: they are not asked for, and a reference that shows
none is an error.

Everywhere keypoints are [..., 12, 3] in the order of `models.keypoints.JOINTS`: x and y in 0 to 1 of the picture's
width and height, and visibility; image_sizes are [..., 2], height and width in pixels. Leading axes are broadcast. Left
and right are the person's own: a person seen from behind instead of from the front has most joints in a wrong place.
"""

from __future__ import annotations

import math

import torch

from ..models.body import is_seen, normalise_keypoints, proportions
from ..models.keypoints import AVERAGE_PROPORTIONS, BONES, JOINTS, LEFT_HIP, LEFT_SHOULDER, RIGHT_HIP, RIGHT_SHOULDER
from .checks import Numbers, as_numbers

MIN_VISIBILITY = 0.5

FARTHEST = 2.0
"""Squared distance of two opposite corners, in widths and heights."""

OKS_SIGMAS = (0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089)
"""COCO's standard deviations of annotators, for the twelve joints, in square roots of the person's area
(https://github.com/cocodataset/cocoapi/blob/8c9bcc3cf640524c4c20a9c40e89cb6a2f2fa0e9/PythonAPI/pycocotools/cocoeval.py)."""

BOX_SHARE = 0.53
"""Of its box that a person covers, where there is no outline
(https://github.com/jin-s13/xtcocoapi/blob/d74033ff1635e9002133b2380862bc2b728584d2/xtcocotools/cocoeval.py#L384)."""

WRONG_BONE = math.log(2)
"""A bone of twice or half its length: no two adults are that different."""


def pose_accuracy(
    generated: Numbers, reference: Numbers, *, min_visibility: float = MIN_VISIBILITY, undetected: float = FARTHEST
) -> torch.Tensor:
    """[...] Pose accuracy: (1/K) Σ_k ‖p_gen,k - p_ref,k‖², over the K ≤ 12 joints that the reference shows.

    Despite its name it is an error: from 0 to `undetected`, lower is better. x counts in widths and y in heights, as
    mediapipe gives them and as the loss of training has it (`training.losses.joint_error`), so it depends on the
    picture's shape and on how large the person is in it; PCK and OKS do not.

    Args:
        generated, reference: keypoints, see the head of this file.
        min_visibility: joints below it are not seen.
        undetected: what a joint that is not found counts, and the most that a found one may count. At 2, a share of 1 %
            of missing joints adds 0.02: read it beside the detection rate.

    Raises:
        ValueError: other shapes, or a reference without joints.
    """
    points, found, targets, asked = _pair(generated, reference, min_visibility)
    squared = (points - targets).square().sum(dim=-1).clamp(max=undetected)
    return _mean(torch.where(found, squared, undetected), asked)


def pck(
    generated: Numbers,
    reference: Numbers,
    *,
    image_sizes: Numbers,
    alpha: float = 0.2,
    torso: Numbers | None = None,
    min_visibility: float = MIN_VISIBILITY,
) -> torch.Tensor:
    """[...] PCK@α: the share of the reference's joints that are found less than α torsos from their place.

    Yang and Ramanan, "Articulated Human Detection with Flexible Mixtures of Parts" (2013), with the torso in the place
    of their box. From 0 to 1, higher is better. The torso is the reference's: from the middle of the shoulders to the
    middle of the hips. Others measure from the left shoulder to the right hip, which is longer, so their PCK is more
    lenient. See `torso_length` for references whose torso is not to be seen.

    Args:
        generated, reference, image_sizes: see the head of this file.
        alpha: share of the torso.
        torso: [...] in pixels, where it is known better.
        min_visibility: joints below it are not seen.

    Raises:
        ValueError: other shapes, or a reference without joints or without a torso.
    """
    points, found, targets, asked = _pair(generated, reference, min_visibility)
    scale = _image_scale(image_sizes, targets)
    lengths = torso_length(reference, image_sizes, min_visibility=min_visibility) if torso is None else torso
    lengths = as_numbers(lengths).to(targets)
    unknown = ~(lengths > 0)
    if bool(unknown.any()):
        raise ValueError(
            f"{int(unknown.sum())} of {unknown.numel()} reference poses show no bone to measure a torso by, first "
            f"number {int(unknown.flatten().int().argmax())}. Leave them out, or give torso in pixels."
        )
    distances = ((points - targets) * scale).norm(dim=-1)
    return _mean((found & (distances < alpha * lengths.unsqueeze(-1))).to(points), asked)


def oks(
    generated: Numbers,
    reference: Numbers,
    *,
    image_sizes: Numbers,
    area: Numbers,
    min_visibility: float = MIN_VISIBILITY,
) -> torch.Tensor:
    """[...] OKS: (1/K) Σ_k exp(-d_k² / (2 · area · (2σ_k)²)), over the K ≤ 12 joints that the reference shows.

    COCO's definition (https://cocodataset.org/#keypoints-eval) on the twelve joints: `OKS_SIGMAS`, distances d in
    pixels. From 0 to 1, higher is better. It is the similarity of one pair of poses; COCO's AP is the share of people
    above thresholds of it.

    Args:
        generated, reference, image_sizes: see the head of this file.
        area: [...] pixels that the reference's person covers, as COCO's segments are measured. Where there is no
            outline: `area_of_box`. A person who is partly outside the picture covers less, which makes OKS strict.
        min_visibility: joints below it are not seen.

    Raises:
        ValueError: other shapes, a reference without joints, or an area that is not positive.
    """
    points, found, targets, asked = _pair(generated, reference, min_visibility)
    areas = as_numbers(area).to(targets)
    if not bool((areas > 0).all()) or not bool(areas.isfinite().all()):
        raise ValueError(
            f"area has values from {float(areas.min()):.3g} to {float(areas.max()):.3g}; expected the pixels that each "
            "reference's person covers, above 0."
        )
    squared = ((points - targets) * _image_scale(image_sizes, targets)).square().sum(dim=-1)
    variances = (2 * targets.new_tensor(OKS_SIGMAS)).square()
    similarity = (-squared / (2 * areas.unsqueeze(-1) * variances)).exp()
    return _mean(torch.where(found, similarity, 0.0), asked)


def area_of_box(boxes: Numbers) -> torch.Tensor:
    """[...] pixels that a person covers, guessed as `BOX_SHARE` of the box.

    Args:
        boxes: [..., 4] x0, y0, x1, y1 in pixels around the whole person; a box around the twelve joints alone would be
            too small.
    """
    x0, y0, x1, y1 = as_numbers(boxes).unbind(dim=-1)
    return BOX_SHARE * (x1 - x0).clamp(min=0) * (y1 - y0).clamp(min=0)


def detection_rate(generated: Numbers, *, min_visibility: float = MIN_VISIBILITY) -> torch.Tensor:
    """[...] 1 where a person was found, that is, at least one joint; else 0. Higher is better."""
    _, found = _points(generated, "generated", min_visibility)
    return found.any(dim=-1).to(torch.float32)


def joint_detection_rate(
    generated: Numbers, reference: Numbers, *, min_visibility: float = MIN_VISIBILITY
) -> torch.Tensor:
    """[...] share of the reference's joints that were found, wherever. From 0 to 1, higher is better.

    Raises:
        ValueError: other shapes, or a reference without joints.
    """
    points, found, _, asked = _pair(generated, reference, min_visibility)
    return _mean(found.to(points), asked)


def torso_length(keypoints: Numbers, image_sizes: Numbers, *, min_visibility: float = MIN_VISIBILITY) -> torch.Tensor:
    """[...] from the middle of the shoulders to the middle of the hips, in pixels.

    In portraits the hips are not to be seen. The torso is then that of the average adult
    (`models.keypoints.AVERAGE_PROPORTIONS`), made so large that the bone which looks longest beside his is as long as
    his: foreshortening only shortens. 0 where no bone is seen.
    """
    points, seen = _points(keypoints, "keypoints", min_visibility)
    points = points * _image_scale(image_sizes, points)
    ends = [LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_HIP, RIGHT_HIP]
    middles = points[..., ends, :].unflatten(-2, (2, 2)).mean(dim=-2)
    measured = (middles[..., 0, :] - middles[..., 1, :]).norm(dim=-1)
    lengths, known = _bones(points, seen)
    average = lengths.new_tensor([AVERAGE_PROPORTIONS[bone] for bone in BONES]).unsqueeze(-1)
    estimated = torch.where(known, lengths / average, 0.0).flatten(-2).amax(dim=-1)
    return torch.where(seen[..., ends].all(dim=-1) & (measured > 0), measured, estimated)


def bone_ratio_error(
    generated_bones: Numbers, reference_bones: Numbers, *, undetected: float = WRONG_BONE
) -> torch.Tensor:
    """[...] mean over the bones that are known of the reference of |ln(length / reference length)|.

    From 0 to `undetected`, lower is better; 0.1 are bones that are 10 % off. A picture flattens the person, and bones
    that point at the camera look short. So there are two honest comparisons, by where the lengths come from:

    * The body identity: `body_proportions` of all generated pictures of a person with those of the reference photos, in
      any poses; `body_ratio_error` does that. Several pictures are needed, one of a person who sits has no thighs.
    * One picture with the picture whose pose was asked for: `bone_lengths` of both, foreshortened alike where the pose
      is the same.

    `bone_lengths` of one picture against `body_proportions` of the person mistakes poses for proportions.

    Args:
        generated_bones, reference_bones: [..., 7, 2] in the order of `models.keypoints.BONES`: length in torsos, and
            whether it is known. Leading axes are broadcast.
        undetected: what a bone counts that is not found, and the most that a found one may count.

    Raises:
        ValueError: other shapes, or a reference of which no bone is known.
    """
    ours, theirs = (
        _checked(given, name, (len(BONES), 2), "length and whether it is known, of each of the seven bones")
        for given, name in ((generated_bones, "generated_bones"), (reference_bones, "reference_bones"))
    )
    theirs = theirs.to(ours)
    _check_broadcast(ours, theirs, names=("generated_bones", "reference_bones"), axes=2)
    ours_known, asked = (
        (bones[..., 1] > 0) & (bones[..., 0] > 0) & bones[..., 0].isfinite() for bones in (ours, theirs)
    )
    _check_asked(asked, what="bone")
    both = ours_known & asked
    lengths, targets = (torch.where(both, bones[..., 0], 1.0) for bones in (ours, theirs))
    errors = (lengths / targets).log().abs().clamp(max=undetected)
    return _mean(torch.where(both, errors, undetected), asked)


def body_ratio_error(
    generated: Numbers,
    reference_bones: Numbers,
    *,
    image_sizes: Numbers,
    min_visibility: float = MIN_VISIBILITY,
    undetected: float = WRONG_BONE,
) -> torch.Tensor:
    """[] `bone_ratio_error` of the proportions that n generated pictures of one person agree on.

    The proportions are those of the pictures that show somebody. Each of the others counts `undetected` in the place of
    the error: (found / n) · error + (1 - found / n) · `undetected`.

    Args:
        generated: [n, 12, 3] keypoints.
        reference_bones: [7, 2], `body_proportions` of the reference photos, or what else is known of the person.
        image_sizes: [n, 2] or [2] of the generated pictures.
        min_visibility: joints below it are not seen.
        undetected: see `bone_ratio_error`.

    Raises:
        ValueError: other shapes, or a reference of which no bone is known.
    """
    bones = body_proportions(generated, image_sizes, min_visibility=min_visibility)
    error = bone_ratio_error(bones, reference_bones, undetected=undetected)
    found = detection_rate(generated, min_visibility=min_visibility).mean()
    return found * error + (1 - found) * undetected


def bone_lengths(keypoints: Numbers, image_sizes: Numbers, *, min_visibility: float = MIN_VISIBILITY) -> torch.Tensor:
    """[..., 7, 2] how long the bones look in one picture, in torsos of the same picture; for `bone_ratio_error`.

    Per bone of `models.keypoints.BONES`: the mean length over the sides that are seen, and 1; or twice 0 where neither
    is, and of the torso, which is the unit. All are 0 where the torso is not seen.
    """
    points, seen = _points(keypoints, "keypoints", min_visibility)
    lengths, known = _bones(points * _image_scale(image_sizes, points), seen)
    sides = known.sum(dim=-1)
    means = (lengths * known).sum(dim=-1) / sides.clamp(min=1)
    torso = list(BONES).index("torso")
    unit = means[..., torso, None]
    usable = (sides > 0) & (unit > 0)
    usable[..., torso] = False
    ratios = torch.where(usable, means / torch.where(unit > 0, unit, 1.0), 0.0)
    return torch.stack((ratios, usable.to(ratios)), dim=-1)


def body_proportions(
    keypoints: Numbers, image_sizes: Numbers, *, min_visibility: float = MIN_VISIBILITY
) -> torch.Tensor:
    """[7, 2] `models.body.proportions` of n pictures of one person, for references; and for `bone_ratio_error`.

    A picture in which nobody was found says nothing about proportions, so it changes nothing here: of generated
    pictures it is `body_ratio_error` that counts it.

    Args:
        keypoints: [n, 12, 3].
        image_sizes: [n, 2], or [2].
    """
    points, seen = _points(keypoints, "keypoints", min_visibility)
    sizes = _sizes(image_sizes, points).expand(*points.shape[:-2], 2)
    cleaned = torch.cat((points, seen.unsqueeze(-1).to(points)), dim=-1)
    return proportions(normalise_keypoints(cleaned, sizes, min_visibility=0.5).view(-1, len(JOINTS), 3))


def _pair(
    generated: Numbers, reference: Numbers, min_visibility: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Points [..., 12, 2] and whether they are seen [..., 12], of both."""
    points, found = _points(generated, "generated", min_visibility)
    targets, asked = _points(reference, "reference", min_visibility)
    _check_broadcast(points, targets, names=("generated", "reference"), axes=2)
    _check_asked(asked, what="joint")
    return points, found, targets.to(points), asked.to(points.device)


def _points(keypoints: Numbers, name: str, min_visibility: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Points [..., 12, 2], at 0 where they are not seen, and whether they are seen [..., 12]."""
    values = _checked(keypoints, name, (len(JOINTS), 3), "x, y and visibility of each of the twelve joints")
    # NaN is how some detectors say that a joint was not found.
    seen = values.isfinite().all(dim=-1) & is_seen(values[..., 2], min_visibility=min_visibility)
    return torch.where(seen.unsqueeze(-1), values[..., :2], 0.0), seen


def _bones(points: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[..., 7, 2] length of every bone on both sides, and whether it is seen. Bones without sides come twice."""
    pairs = torch.tensor([[ends[0], ends[-1]] for ends in BONES.values()], device=points.device)
    start, end = points[..., pairs, :].unbind(dim=-2)
    lengths = (start - end).norm(dim=-1)
    return lengths, seen[..., pairs].all(dim=-1) & (lengths > 0)


def _mean(values: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    """Over the last axis, where `asked`."""
    values, asked = torch.broadcast_tensors(values, asked)
    return (values * asked).sum(dim=-1) / asked.sum(dim=-1)


def _checked(given: Numbers, name: str, shape: tuple[int, int], meaning: str) -> torch.Tensor:
    values = as_numbers(given)
    if values.shape[-2:] != shape or values.numel() == 0:
        raise ValueError(
            f"{name} has the shape {list(values.shape)}; expected [..., {shape[0]}, {shape[1]}]: {meaning}, of at "
            "least one picture."
        )
    return values


def _check_broadcast(one: torch.Tensor, other: torch.Tensor, *, names: tuple[str, str], axes: int) -> None:
    shapes = one.shape[: one.ndim - axes], other.shape[: other.ndim - axes]
    try:
        torch.broadcast_shapes(*shapes)
    except RuntimeError as error:
        raise ValueError(
            f"{names[0]} is of {list(shapes[0])} pictures, but {names[1]} of {list(shapes[1])}; expected as many, or "
            "one for all."
        ) from error


def _check_asked(asked: torch.Tensor, *, what: str) -> None:
    empty = ~asked.any(dim=-1)
    if bool(empty.any()):
        raise ValueError(
            f"{int(empty.sum())} of {empty.numel()} references show no {what}, first number "
            f"{int(empty.flatten().int().argmax())}; nothing can be measured against them. Leave these pictures out."
        )


def _sizes(image_sizes: Numbers, like: torch.Tensor) -> torch.Tensor:
    sizes = as_numbers(image_sizes).to(like)
    if sizes.shape[-1:] != (2,) or not bool((sizes > 0).all()):
        raise ValueError(
            f"image_sizes has the shape {list(sizes.shape)}; expected [..., 2]: height and width in pixels, above 0."
        )
    return sizes


def _image_scale(image_sizes: Numbers, like: torch.Tensor) -> torch.Tensor:
    """[..., 1, 2] width and height, to multiply points with."""
    return _sizes(image_sizes, like).flip(-1).unsqueeze(-2)
