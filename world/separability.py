"""How far apart the people of the world are, by what is known of them: before any network is asked.

A world whose people differ too little to be told apart would make every method look alike.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..detectors.drawn_people import DrawnPersonDetector
from ..metrics.poses import bone_ratio_error
from ..models.body import normalise_keypoints, proportions
from ..models.keypoints import BONES, FIRST_JOINT, JOINTS
from . import parts
from .identities import SPLITS, Identity, identity
from .pictures import Picture, picture_of

REFERENCES = 9
"""Photos of a person that a method sees at most."""

PROBE_SIDE = 32


def true_proportions(person: Identity) -> torch.Tensor:
    """[7, 2] what `models.body.proportions` says of the person who stands upright before the camera."""
    lengths = dict(zip(BONES, person.bones, strict=True))
    rise = math.sqrt(lengths["torso"] ** 2 - ((lengths["shoulder_width"] - lengths["hip_width"]) / 2) ** 2)
    heights = {"shoulder": -rise, "elbow": -rise + lengths["upper_arm"], "hip": 0.0, "knee": lengths["thigh"]}
    heights["wrist"] = heights["elbow"] + lengths["forearm"]
    heights["ankle"] = heights["knee"] + lengths["shin"]
    points = []
    for joint in JOINTS:
        side, name = joint.split("_")
        width = lengths["shoulder_width" if name in ("shoulder", "elbow", "wrist") else "hip_width"]
        points.append((0.5 + (width if side == "left" else -width) / 20, 0.5 + heights[name] / 10, 1.0))
    return _proportions(np.array([points]))


def measured_proportions(pictures: Sequence[Picture]) -> torch.Tensor:
    """[7, 2] the same from the joints that are seen in pictures of one person."""
    return _proportions(np.stack([picture.keypoints[FIRST_JOINT:] for picture in pictures]))


def separability(
    numbers: Sequence[int] = SPLITS["validation"], *, seed: int = 0, references: int = REFERENCES
) -> dict[str, Any]:
    """Compare everybody with everybody, from two disjoint sets of `references` pictures of each.

    Returns:
        `people` and `references`, and three sections. AUC is the chance that two sets of one person are closer than
        sets of two people; 1 is perfect, .5 is guessing.

        * `bones`: for each of `keypoints.BONES`, and for all together, the AUC of its length; its spread between people
          (standard deviation of the logarithm of the true length), and within a person (between the two sets); `all`
          also with one picture of the whole body in the place of a set.
        * `colours`: AUC of skin, hair and top, as the mean colours of what is seen of them in pictures with the
          person's own clothes, and of all together; `doubles`: people who share skin tone, hair colour and hair shape
          with another.
        * `pixels`: a linear classifier (ridge regression) of pictures of 32×32 pixels learns one set and names the
          people in the other: share that is right, from the whole picture, from the face, and from the picture in
          which the person is blanked out, which has to be chance.
    """
    people = [identity(number, seed=seed) for number in numbers]
    sets = [
        [[picture_of(number, half * references + index, seed=seed) for index in range(references)] for half in (0, 1)]
        for number in numbers
    ]
    return {
        "people": len(people),
        "references": references,
        "bones": _bones(people, sets),
        "colours": _colours(people, sets),
        "pixels": _pixels(sets),
    }


def bones_found(
    detector: DrawnPersonDetector,
    numbers: Sequence[int] = SPLITS["validation"],
    *,
    seed: int = 0,
    references: Sequence[int] = (1, 3, 6, REFERENCES),
) -> dict[str, Any]:
    """How well people can be told apart by bones whose joints a network finds: nothing drawn can be judged better.

    Returns:
        `others`, the mean `metrics.poses.bone_ratio_error` of two people's true lengths; and for each number of
        pictures of everybody, under its name: `error`, the same between what the pictures say and the truth, and `auc`,
        see `separability`.
    """
    most = max(references)
    joints = [
        [
            [_joints(detector, picture_of(number, half * most + index, seed=seed)) for index in range(most)]
            for half in (0, 1)
        ]
        for number in numbers
    ]
    truth = torch.stack([true_proportions(identity(number, seed=seed)) for number in numbers])
    pairs = ~torch.eye(len(truth), dtype=torch.bool)
    found: dict[str, Any] = {"others": float(bone_ratio_error(truth[:, None], truth[None])[pairs].mean())}
    for count in references:
        lengths = torch.stack(
            [torch.stack([_proportions(np.stack(half[:count])) for half in halves]) for halves in joints]
        )
        logarithms = _logarithms(lengths)
        found[str(count)] = {
            "error": float(bone_ratio_error(lengths, truth[:, None]).mean()),
            "auc": _auc(logarithms[:, 0], logarithms[:, 1]),
        }
    return found


def _joints(detector: DrawnPersonDetector, picture: Picture) -> np.ndarray:
    """[12, 3] in 0 to 1; zeros where nobody is found."""
    people = detector.detect(picture.pixels)
    if not people:
        return np.zeros((len(JOINTS), 3))
    return people[0].keypoints[FIRST_JOINT:] / np.array([*picture.pixels.shape[1::-1], 1])


def area_under_curve(same: np.ndarray, different: np.ndarray) -> float:
    """Chance that a distance within a person is smaller than one between people."""
    ordered = np.sort(different)
    smaller, not_larger = (np.searchsorted(ordered, same, side=side) for side in ("left", "right"))
    return float(1 - (smaller + not_larger).mean() / 2 / len(different))


def _proportions(joints: np.ndarray) -> torch.Tensor:
    """Of [n, 12, 3] joints in square pictures."""
    keypoints = torch.from_numpy(joints)
    sizes = torch.ones(len(keypoints), 2)
    return proportions(normalise_keypoints(keypoints, sizes, min_visibility=0.5))


def _auc(one: np.ndarray, other: np.ndarray) -> float:
    """Of features [people, d], every one as telling as it is constant within a person."""
    within = np.nanmean((one - other) ** 2, axis=0)
    squares = (one[:, None] - other[None]) ** 2 / within
    known = np.isfinite(squares).sum(axis=-1)
    away = np.nansum(squares, axis=-1) / np.maximum(known, 1)
    same = np.eye(len(one), dtype=bool)
    return area_under_curve(away[same & (known > 0)], away[~same & (known > 0)])


def _bones(people: Sequence[Identity], sets: Sequence[Sequence[Sequence[Picture]]]) -> dict[str, Any]:
    measured = np.stack([[_log_lengths(pictures) for pictures in halves] for halves in sets])
    truth = np.log(np.stack([true_proportions(person)[:, 0].numpy() for person in people]))
    one, other = measured[:, 0], measured[:, 1]
    found: dict[str, Any] = {
        bone: {
            "auc": _auc(one[:, [number]], other[:, [number]]),
            "between": float(np.nanstd(truth[:, number])),
            "within": float(np.sqrt(np.nanmean((one[:, number] - other[:, number]) ** 2) / 2)),
        }
        for number, bone in enumerate(BONES)
    }
    whole = np.stack([[_log_lengths([_whole_body(pictures)]) for pictures in halves] for halves in sets])
    error = np.abs(measured - truth[:, None])
    found["all"] = {
        "auc": _auc(one, other),
        "auc_one_picture": _auc(whole[:, 0], whole[:, 1]),
        "error": float(np.nanmean(error)),
        "found": float(np.isfinite(measured).mean()),
    }
    return found


def _log_lengths(pictures: Sequence[Picture]) -> np.ndarray:
    return _logarithms(measured_proportions(pictures))


def _logarithms(lengths: torch.Tensor) -> np.ndarray:
    """[..., 7] of [..., 7, 2] proportions; no number where a bone is not known."""
    lengths, known = lengths.unbind(dim=-1)
    return np.where(known.numpy() > 0, np.log(lengths.clamp(min=1e-6).numpy()), np.nan)


def _whole_body(pictures: Sequence[Picture]) -> Picture:
    """The one that shows the most joints."""
    return max(pictures, key=lambda picture: picture.keypoints[FIRST_JOINT:, 2].sum())


def _colours(people: Sequence[Identity], sets: Sequence[Sequence[Sequence[Picture]]]) -> dict[str, Any]:
    areas = {"skin": (parts.SKIN, parts.FACE), "hair": (parts.HAIR,), "top": (parts.TOP,)}
    means = np.stack(
        [[[_mean_colour(pictures, labels) for labels in areas.values()] for pictures in halves] for halves in sets]
    )
    looks = Counter((person.skin_tone, person.hair_colour, person.hair_shape) for person in people)
    return {
        **{area: {"auc": _auc(means[:, 0, number], means[:, 1, number])} for number, area in enumerate(areas)},
        "all": {"auc": _auc(means[:, 0].reshape(len(people), -1), means[:, 1].reshape(len(people), -1))},
        "doubles": sum(count for count in looks.values() if count > 1),
    }


def _mean_colour(pictures: Sequence[Picture], labels: Sequence[int]) -> np.ndarray:
    colours = [
        picture.pixels[np.isin(picture.labels, labels)]
        for picture in pictures
        if picture.scene.garment is None and picture.scene.style != "sketch"
    ]
    pixels = np.concatenate([np.zeros((0, 3)), *colours])
    return pixels.mean(axis=0) if len(pixels) else np.full(3, np.nan)


def _pixels(sets: Sequence[Sequence[Sequence[Picture]]]) -> dict[str, float]:
    views = {"whole": _whole, "face": _face, "without_person": _without_person}
    found = {"chance": 1 / len(sets)}
    for name, view in views.items():
        features: list[list[np.ndarray]] = [[], []]
        owners: list[list[int]] = [[], []]
        for person, halves in enumerate(sets):
            for half, pictures in enumerate(halves):
                for picture in pictures:
                    pixels = view(picture)
                    if pixels is not None:
                        features[half].append(pixels.ravel() / 255 - 0.5)
                        owners[half].append(person)
        found[name] = _ridge_accuracy(*map(np.stack, features), *map(np.array, owners))
    return found


def _ridge_accuracy(seen: np.ndarray, unseen: np.ndarray, owners: np.ndarray, true_owners: np.ndarray) -> float:
    targets = np.eye(int(owners.max()) + 1)[owners]
    kernel = seen @ seen.T
    strength = 0.01 * np.trace(kernel) / len(kernel)
    weights = np.linalg.solve(kernel + strength * np.eye(len(kernel)), targets - targets.mean(axis=0))
    answers = (unseen @ seen.T @ weights).argmax(axis=1)
    return float((answers == true_owners).mean())


def _resized(pixels: np.ndarray) -> np.ndarray:
    small = Image.fromarray(pixels).resize((PROBE_SIDE, PROBE_SIDE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64)


def _whole(picture: Picture) -> np.ndarray:
    return _resized(picture.pixels)


def _face(picture: Picture) -> np.ndarray | None:
    if picture.face_box is None:
        return None
    size = len(picture.pixels)
    x0, y0, x1, y1 = (round(edge * size) for edge in picture.face_box)
    return _resized(picture.pixels[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)])


def _without_person(picture: Picture) -> np.ndarray:
    box = picture.person_box
    size = len(picture.pixels)
    pixels = picture.pixels.copy()
    # The whole box: the outline alone would tell who it is.
    x0, y0, x1, y1 = (round(edge * size) for edge in box)
    pixels[y0:y1, x0:x1] = 128
    return _resized(pixels)
