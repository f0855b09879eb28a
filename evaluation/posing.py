"""Poses and proportions of the people in pictures, by a network or a detector that finds joints."""

from __future__ import annotations

import torch

from ..metrics.poses import (
    area_of_box,
    body_proportions,
    body_ratio_error,
    bone_ratio_error,
    detection_rate,
    joint_detection_rate,
    oks,
    pck,
    pose_accuracy,
    torso_length,
)
from ..models.keypoints import FIRST_JOINT
from ..training.features import Person, Photo
from ..training.pictures import placed_joints
from .measure import Column, Measure, Portraits, Values
from .outputs import Outputs
from .pictures import shown_photo
from .plan import Plan
from .sources import Source
from .wording import OfRequests

FOUND = Column(name="person_found", meaning="pictures in which a person was found", digits=2)


class Pose(OfRequests):
    """Joints of a picture beside those of the photo that text and pose come from.

    Only methods that are told the pose can be near it; of all others the numbers say how far a text alone places
    somebody.

    Args:
        source: of the network.
        outputs: filled with all pictures.
        plan: what is drawn.
        resolution: side of the pictures.
    """

    def __init__(self, source: Source, outputs: Outputs, plan: Plan, *, resolution: int):
        super().__init__(plan)
        self._source = source
        self._outputs = outputs
        self._size = torch.tensor([resolution, resolution])
        self._poses: dict[str, tuple[torch.Tensor, float] | None] = {}
        self.columns = (
            FOUND,
            Column(name="joints_found", meaning="share of the asked pose's joints that were found", is_detail=True),
            Column(name="pck", meaning="joints less than 0.2 torsos from the asked pose's (PCK@0.2)"),
            Column(name="oks", meaning="similarity of the pose with the asked one (OKS)"),
            Column(
                name="pose_error",
                meaning="mean squared distance of the joints from the asked pose's, 2 for one that is not found",
                higher_is_better=False,
            ),
        )

    def of_pictures(self, portraits: Portraits) -> list[Values]:
        """Joints that are not found count as failures; a photo without joints asks for no pose."""
        found = self._outputs.stacked(self._source, "keypoints", portraits.keys)
        rows: list[dict[str, float | None]] = [dict.fromkeys(column.name for column in self.columns) for _ in found]
        asked = {
            number: pose
            for number, request in enumerate(portraits.requests)
            if request.model is not None and (pose := self._asked(request.model)) is not None
        }
        values: dict[str, tuple[list[int], torch.Tensor]] = {
            "person_found": (list(range(len(found))), detection_rate(found))
        }
        if asked:
            numbers = list(asked)
            poses, joints = found[numbers], torch.stack([joints for joints, _ in asked.values()])
            values |= {
                "joints_found": (numbers, joint_detection_rate(poses, joints)),
                "pck": (numbers, pck(poses, joints, image_sizes=self._size)),
                "pose_error": (numbers, pose_accuracy(poses, joints)),
            }
            # A person of no extent is cut off but for the joints.
            areas = {number: area for number, (_, area) in asked.items() if area > 0}
            chosen = [place for place, number in enumerate(numbers) if number in areas]
            if areas:
                area = torch.tensor(list(areas.values()))
                values["oks"] = list(areas), oks(poses[chosen], joints[chosen], image_sizes=self._size, area=area)
        for name, (numbers, found_values) in values.items():
            for number, value in zip(numbers, found_values.tolist(), strict=True):
                rows[number][name] = value
        return list(rows)

    def _asked(self, photo: Photo) -> tuple[torch.Tensor, float] | None:
        """[12, 3] joints as the photo was placed, and the pixels of its person; None where no pose is to be seen."""
        if photo.name not in self._poses:
            joints = placed_joints(photo.prepared, photo.placement)
            is_seen = bool(torso_length(joints, self._size) > 0)
            self._poses[photo.name] = (joints, _person_area(photo)) if is_seen else None
        return self._poses[photo.name]


def _person_area(photo: Photo) -> float:
    """Pixels of the person in the photo as it was placed."""
    x0, y0, x1, y1 = photo.prepared.person_box or (0.0, 0.0, 0.0, 0.0)
    placement = photo.placement
    (height, width), (resized_height, resized_width) = placement.size, placement.resized
    left, right = ((torch.tensor([x0, x1]) * resized_width - placement.left).clamp(0, width)).tolist()
    top, bottom = ((torch.tensor([y0, y1]) * resized_height - placement.top).clamp(0, height)).tolist()
    return float(area_of_box(torch.tensor([left, top, right, bottom])))


class Bones(Measure):
    """Proportions on which all pictures of a person agree, beside those of the person's photos.

    Args:
        source: of the network.
        outputs: filled with all pictures.
        plan: what is drawn.
        resolution: side of the pictures.
        pictures: of each person, over all seeds; real pictures are asked for by as many.
    """

    person_columns = (
        Column(
            name="bone_error",
            meaning="mean logarithm of a bone's length beside the person's own, by all pictures of the person together",
            higher_is_better=False,
        ),
    )

    def __init__(self, source: Source, outputs: Outputs, plan: Plan, *, resolution: int, pictures: int):
        self._source = source
        self._outputs = outputs
        self._plan = plan
        self._size = torch.tensor([resolution, resolution])
        self._pictures = pictures
        self._truths = {person.name: _proportions(person) for person in plan.people}

    def of_person(self, portraits: Portraits) -> Values:
        """Pictures without a person count as wrong as bones can be."""
        truth = self._truths[portraits.person.name]
        if not bool(truth[:, 1].any()):
            return {"bone_error": None}
        keypoints = self._outputs.stacked(self._source, "keypoints", portraits.keys)
        return {"bone_error": float(body_ratio_error(keypoints, truth, image_sizes=self._size))}

    def real(self, person: Person) -> Portraits:
        """As many of the person's photos: the network's own error, and what so few pictures can tell."""
        photos = [*self._plan.compared(person), *self._plan.seen(person)][: self._pictures]
        return Portraits(person=person, keys=[shown_photo(photo).key for photo in photos])

    def others(self, person: Person) -> Values:
        """The known proportions of everybody else."""
        truth = self._truths[person.name]
        if not bool(truth[:, 1].any()):
            return {"bone_error": None}
        others = torch.stack([other for name, other in self._truths.items() if name != person.name])
        return {"bone_error": float(bone_ratio_error(others, truth).mean())}


def _proportions(person: Person) -> torch.Tensor:
    """[7, 2] of a person, by the joints that all photos were prepared with."""
    photos = [photo.prepared for photo in person.photos]
    keypoints = torch.tensor([photo.keypoints[FIRST_JOINT:] for photo in photos])
    return body_proportions(keypoints, torch.tensor([(photo.height, photo.width) for photo in photos]).float())
