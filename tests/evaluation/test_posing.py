"""Poses and bones: failures count, photos without a pose ask for none, and bones are those of the person."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bolid.evaluation.measure import Portraits
from bolid.evaluation.pictures import shown_photo
from bolid.evaluation.plan import Plan, Request
from bolid.evaluation.posing import Bones, Pose
from bolid.evaluation.sources import Source
from bolid.metrics import poses
from bolid.models.keypoints import FIRST_JOINT
from bolid.training.pictures import place

from .conftest import PHOTOS, SIDE, Said, Toy

JOINTS = Source("joints", Path("joints"))
SIZE = torch.tensor([SIDE, SIDE])


@pytest.fixture
def plan(toy: Toy, tmp_path: Path) -> Plan:
    return toy.plan(toy.settings(tmp_path, {"m": {"adapter": "a", "references": [2]}}))


def joints_of(request: Request) -> torch.Tensor:
    """[12, 3] of the photo whose pose is asked for, which is shown as a whole."""
    return torch.tensor(request.model.prepared.keypoints[FIRST_JOINT:])


def asked(plan: Plan) -> list[Request]:
    return [request for request in plan.requests if joints_of(request)[:, 2].sum() >= 6]


def pose(plan: Plan, said: dict[str, torch.Tensor]) -> Pose:
    return Pose(JOINTS, Said({key: {"keypoints": row} for key, row in said.items()}), plan, resolution=SIDE)


def test_the_asked_pose_the_same_moved_and_nobody(plan: Plan) -> None:
    request = asked(plan)[0]
    joints = joints_of(request)
    moved = joints + torch.tensor([0.3, 0.0, 0.0])
    said = {"right": joints, "moved": moved, "nobody": torch.zeros(12, 3)}
    rows = pose(plan, said).of_pictures(Portraits(person=request.person, keys=list(said), requests=[request] * 3))
    assert rows[0] == {"person_found": 1, "joints_found": 1, "pck": 1, "oks": 1, "pose_error": 0}
    assert rows[2] == {"person_found": 0, "joints_found": 0, "pck": 0, "oks": 0, "pose_error": 2}
    x0, y0, x1, y1 = (edge * SIDE for edge in request.model.prepared.person_box)
    area = poses.area_of_box(torch.tensor([x0, y0, x1, y1]))
    assert rows[1] == {
        "person_found": 1,
        "joints_found": 1,
        "pck": float(poses.pck(moved, joints, image_sizes=SIZE)),
        "oks": pytest.approx(float(poses.oks(moved, joints, image_sizes=SIZE, area=area)), rel=1e-4),
        "pose_error": pytest.approx(0.09, rel=1e-4),
    }
    assert rows[1]["oks"] < 0.5


def test_photos_without_a_pose_ask_for_none_in_a_row_of_others(plan: Plan) -> None:
    first, second = asked(plan)[:2]
    prepared = first.model.prepared
    empty = replace(
        first.model,
        prepared=prepared.model_copy(update={"file": "empty", "keypoints": ((0.0, 0.0, 0.0),) * 17}),
    )
    boxless = replace(first.model, prepared=prepared.model_copy(update={"file": "boxless", "person_box": None}))
    requests = [replace(first, model=empty), second, replace(first, model=None), replace(first, model=boxless)]
    joints = [joints_of(first), joints_of(second), joints_of(first), joints_of(first)]
    measure = pose(plan, dict(zip("abcd", joints, strict=True)))
    rows = measure.of_pictures(Portraits(person=first.person, keys=list("abcd"), requests=requests))
    nothing = {"person_found": 1, "joints_found": None, "pck": None, "oks": None, "pose_error": None}
    right = {"person_found": 1, "joints_found": 1, "pck": 1, "oks": 1, "pose_error": 0}
    assert rows == [nothing, right, nothing, {**right, "oks": None}]


def test_a_pose_is_asked_for_where_the_photo_was_placed(plan: Plan) -> None:
    """A photo twice as wide as high: what lies outside the cut is not asked for, and what lies inside moves along."""
    request = asked(plan)[0]
    wide = request.model.prepared.model_copy(
        update={"file": "wide", "width": 2 * SIDE, "person_box": (0.4, 0.0, 0.6, 1.0), "face_box": None}
    )
    model = replace(request.model, prepared=wide, placement=place(wide, [(SIDE, SIDE)]))
    joints = joints_of(request)
    placed = torch.stack((2 * joints[:, 0] - 0.5, joints[:, 1], joints[:, 2]), dim=1)
    inside = (placed[:, 0] >= 0) & (placed[:, 0] <= 1)
    assert inside.any()
    measure = pose(plan, {"a": torch.where(inside[:, None], placed, 0.0)})
    (row,) = measure.of_pictures(Portraits(person=request.person, keys=["a"], requests=[replace(request, model=model)]))
    assert row["pck"] == 1 and row["pose_error"] == pytest.approx(0, abs=1e-9) and row["joints_found"] == 1


def test_real_pictures_are_the_photos_that_poses_come_from(plan: Plan) -> None:
    person = plan.people[0]
    requests = [request for request in plan.requests if request.person is person]
    said = {shown_photo(request.model).key: joints_of(request) for request in requests}
    measure = pose(plan, said)
    real = measure.real(person)
    assert list(real.requests) == requests
    assert [row["pck"] for row in measure.of_pictures(real) if row["pck"] is not None] != []
    assert all(row["pck"] in (1, None) for row in measure.of_pictures(real))


# Bones


def bones(plan: Plan, said: dict[str, torch.Tensor], *, pictures: int = 4) -> Bones:
    outputs = Said({key: {"keypoints": row} for key, row in said.items()})
    return Bones(JOINTS, outputs, plan, resolution=SIDE, pictures=pictures)


def test_bones_are_those_of_all_photos_of_the_person(plan: Plan) -> None:
    person, other = plan.people[:2]
    said = {
        f"{each.name}{number}": torch.tensor(photo.prepared.keypoints[FIRST_JOINT:])
        for each in (person, other)
        for number, photo in enumerate(each.photos)
    }
    measure = bones(plan, said)
    own, theirs = ([f"{each.name}{number}" for number in range(PHOTOS)] for each in (person, other))
    of_own = measure.of_person(Portraits(person=person, keys=own))["bone_error"]
    of_others = measure.of_person(Portraits(person=person, keys=theirs))["bone_error"]
    assert of_own == pytest.approx(0, abs=1e-6) and of_others > 0.03
    # Photos without anybody count as wrong as bones can be.
    said["nobody"] = torch.zeros(12, 3)
    half = bones(plan, said).of_person(Portraits(person=person, keys=[*own, *["nobody"] * PHOTOS]))["bone_error"]
    assert half == pytest.approx(math.log(2) / 2, rel=1e-5)


def test_bounds_of_bones(plan: Plan) -> None:
    measure = bones(plan, {})
    person = plan.people[2]
    expected = [
        float(poses.bone_ratio_error(measure._truths[other.name], measure._truths[person.name]))
        for other in plan.people
        if other is not person
    ]
    assert measure.others(person)["bone_error"] == pytest.approx(sum(expected) / 3)
    real = measure.real(person)
    assert list(real.keys) == [shown_photo(photo).key for photo in plan.compared(person)]
    assert len(bones(plan, {}, pictures=5).real(person).keys) == 5
    # Nobody knows the bones of a person without joints.
    measure._truths[person.name] = torch.zeros(7, 2)
    assert measure.others(person) == measure.of_person(Portraits(person=person, keys=[])) == {"bone_error": None}
