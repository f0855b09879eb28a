"""`POSE_KEYPOINT` in and out: what other nodes write, what ComfyUI draws, and what is no such thing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bolid.detectors.openpose import BODY_25, OPENPOSE_18, frame_from_people, people_from_frame
from bolid.detectors.people import MediaPipePersonDetector, Person
from bolid.models.keypoints import COCO_KEYPOINTS, FIRST_JOINT

WIDTH, HEIGHT = 640, 480
SHOULDERS = [FIRST_JOINT, FIRST_JOINT + 1]


def person(keypoints: np.ndarray) -> Person:
    seen = keypoints[keypoints[:, 2] > 0, :2]
    return Person(box=(*seen.min(axis=0).tolist(), *seen.max(axis=0).tolist()), keypoints=keypoints.astype(np.float32))


@st.composite
def people_on_a_canvas(draw) -> list[Person]:
    """People with any joints seen, at least one of them; nobody is two pixels large."""
    people = []
    for _ in range(draw(st.integers(0, 4))):
        rows = draw(st.lists(st.tuples(st.floats(3, WIDTH), st.floats(3, HEIGHT), st.sampled_from((0, 0.3, 0.5, 1))),
                             min_size=17, max_size=17))  # fmt: skip
        keypoints = np.array(rows, dtype=np.float32)
        keypoints[draw(st.integers(0, 16)), 2] = 1
        people.append(person(keypoints))
    return people


def openpose(points: dict[str, tuple[float, float, float]], names: tuple[str, ...] = OPENPOSE_18) -> list[float]:
    return [float(value) for name in names for value in points.get(name, (0, 0, 0))]


def frame(*bodies: list, width: int = WIDTH, height: int = HEIGHT) -> dict:
    people = [{"pose_keypoints_2d": body} for body in bodies]
    return {"canvas_width": width, "canvas_height": height, "people": people}


STANDING = {name: (100.0 + 10 * index, 50.0 + 20 * index, 0.9) for index, name in enumerate(OPENPOSE_18)}


@given(people=people_on_a_canvas(), min_visibility=st.sampled_from((0.0, 0.3, 0.5)))
def test_round_trip(people, min_visibility):
    written = frame_from_people(people, width=WIDTH, height=HEIGHT, min_visibility=min_visibility)
    read = people_from_frame(json.loads(json.dumps(written)))
    assert [found.area for found in read] == sorted((found.area for found in read), reverse=True)
    expected = [np.where(one.keypoints[:, 2:] >= max(min_visibility, 1e-9), one.keypoints, 0) for one in people]
    assert len(read) == len(expected)
    for keypoints in expected:
        assert any(np.array_equal(keypoints, found.keypoints) for found in read)


@given(people=people_on_a_canvas())
def test_fractions_of_the_canvas(people):
    """comfyui_controlnet_aux writes x, y in 0 to 1."""
    pixels = frame_from_people(people, width=WIDTH, height=HEIGHT, min_visibility=0.5)
    fractions = json.loads(json.dumps(pixels))
    for entry in fractions["people"]:
        values = np.reshape(entry["pose_keypoints_2d"], (-1, 3)) / (WIDTH, HEIGHT, 1)
        entry["pose_keypoints_2d"] = values.flatten().tolist()
    for one, other in zip(people_from_frame(pixels), people_from_frame(fractions), strict=True):
        np.testing.assert_allclose(one.keypoints, other.keypoints, rtol=1e-5)
        np.testing.assert_allclose(one.box, other.box, rtol=1e-5)


def test_the_order_is_openposes():
    (found,) = people_from_frame(frame(openpose(STANDING)))
    for name, keypoint in zip(COCO_KEYPOINTS, found.keypoints, strict=True):
        assert keypoint == pytest.approx(STANDING[name])
    assert OPENPOSE_18.index("neck") == 1 and len(set(OPENPOSE_18)) == 18
    # As ComfyUI's own extractor orders them: COCO's numbers at OpenPose's places.
    places = [0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]
    numbers = [0, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]
    assert [OPENPOSE_18[place] for place in places] == [COCO_KEYPOINTS[number] for number in numbers]


def test_the_box_has_room_around_head_hands_and_feet():
    (found,) = people_from_frame(frame(openpose(STANDING | {"nose": (195.0, 320.0, 0.9)})))
    x0, y0, x1, y1 = found.box
    seen = np.array(list(STANDING.values()))
    assert x0 < seen[1:, 0].min() and x1 > seen[:, 0].max() and y0 < seen[1:, 1].min() and y1 > seen[:, 1].max()
    assert 0 <= x0 and 0 <= y0 and x1 <= WIDTH and y1 <= HEIGHT


def headless(**changes: tuple[float, float, float]) -> dict[str, tuple[float, float, float]]:
    """Somebody upright, a torso of 100 pixels."""
    shoulders = {"left_shoulder": (200.0, 200.0, 0.9), "right_shoulder": (140.0, 200.0, 0.9)}
    hips = {"left_hip": (190.0, 300.0, 0.9), "right_hip": (150.0, 300.0, 0.9)}
    return shoulders | hips | changes


def test_a_frame_without_a_head_has_room_for_one():
    (found,) = people_from_frame(frame(openpose(headless())))
    margin = found.box[3] - 300
    assert found.box[1] == pytest.approx(200 - 75 - margin)
    (lying,) = people_from_frame(
        frame(openpose(headless(left_hip=(70.0, 190.0, 0.9), right_hip=(70.0, 210.0, 0.9),
                                left_shoulder=(170.0, 170.0, 0.9), right_shoulder=(170.0, 230.0, 0.9))))
    )  # fmt: skip
    assert lying.box[2] == pytest.approx(170 + 75 + (70 - lying.box[0]))
    # Only shoulders: straight up, in their width.
    unseen = (0.0, 0.0, 0.0)
    (bust,) = people_from_frame(frame(openpose(headless(left_hip=unseen, right_hip=unseen))))
    assert bust.box[1] == pytest.approx(200 - 45 - (bust.box[3] - 200))


def test_a_head_that_is_seen_in_part_is_not_guessed():
    (found,) = people_from_frame(frame(openpose(headless(nose=(170.0, 180.0, 0.9)))))
    assert found.box[1] == pytest.approx(180 - (found.box[3] - 300))
    # Nor is one above a single shoulder.
    (found,) = people_from_frame(frame(openpose(headless(right_shoulder=(0.0, 0.0, 0.0)))))
    assert found.box[1] == pytest.approx(200 - (found.box[3] - 300))


def test_body_25():
    toe = (200.0, 470.0, 0.8)
    (found,) = people_from_frame(frame(openpose(STANDING | {"middle_hip": (1.0, 2.0, 0.1), "left_heel": toe}, BODY_25)))
    (expected,) = people_from_frame(frame(openpose(STANDING)))
    assert np.array_equal(found.keypoints, expected.keypoints)
    assert len(BODY_25) == 25 and BODY_25[8] == "middle_hip" and BODY_25[19] == "left_big_toe"
    assert found.box[3] > toe[1]


def test_what_is_not_seen():
    (found,) = people_from_frame(
        frame(openpose(STANDING | {"nose": (10, 20, 0), "left_eye": (0, 0, 0), "left_wrist": (-5, 20, 0.9)}))
    )
    seen = dict(zip(COCO_KEYPOINTS, found.keypoints[:, 2] > 0, strict=True))
    assert [name for name, is_seen in seen.items() if not is_seen] == ["nose", "left_eye", "left_wrist"]


def test_none_stands_for_what_is_not_seen():
    values = openpose(STANDING)
    values[0:3] = [None, None, None]
    (found,) = people_from_frame(
        {
            "canvas_width": WIDTH,
            "canvas_height": HEIGHT,
            "people": [
                None,
                {"pose_keypoints_2d": values, "face_keypoints_2d": None, "hand_left_keypoints_2d": None},
                {"pose_keypoints_2d": None, "hand_right_keypoints_2d": [1.0] * 63},
                {"pose_keypoints_2d": []},
                {},
                {"pose_keypoints_2d": [0] * 54},
            ],
        }
    )
    assert found.keypoints[0].tolist() == [0, 0, 0] and (found.keypoints[1:, 2] > 0).all()


def test_nobody():
    assert people_from_frame(frame()) == []
    assert frame_from_people([], width=3, height=4, min_visibility=0.5) == frame(width=3, height=4)


MALFORMED = {
    "a list": ([frame()], "is a list; expected canvas_width"),
    "None": (None, "is a NoneType"),
    "no people": ({"canvas_width": 1, "canvas_height": 1}, "is a dict of canvas_width, canvas_height; expected"),
    "people as text": (frame() | {"people": "two"}, "expected canvas_width, canvas_height and a list of people"),
    "no canvas width": ({"canvas_height": 9, "people": []}, "canvas_width is None"),
    "no canvas": (frame(height=0), "canvas_height is 0"),
    "canvas as text": (frame(width="640"), "canvas_width is '640'"),
    "endless canvas": (frame(width=float("inf")), "canvas_width is inf"),
    "a person as list": (frame() | {"people": [[1, 2, 3]]}, "a person of type list; expected pose_keypoints_2d"),
    "53 values": (frame([0.0] * 53), "53 body values; expected x, y, score of 18 or 25"),
    "17 keypoints": (frame([0.0] * 51), "51 body values"),
    "nested": (frame([[1.0, 2.0, 3.0]] * 18), "54 body values"),
    "text": (frame(["left"] * 54), "no list of numbers"),
    "a number": (frame() | {"people": [{"pose_keypoints_2d": 3}]}, "no list of numbers"),
    "NaN": (frame([float("nan")] * 54), "not finite"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_frames_are_named(kind):
    given_frame, message = MALFORMED[kind]
    with pytest.raises(ValueError, match="^POSE_KEYPOINT has") as caught:
        people_from_frame(given_frame)
    assert message in str(caught.value)


@pytest.mark.parametrize("hidden", [None, *SHOULDERS])
def test_the_neck_is_between_the_shoulders(hidden):
    keypoints = np.full((17, 3), 1.0)
    keypoints[SHOULDERS] = [(100, 40, 0.9), (60, 50, 0.7)]
    if hidden is not None:
        keypoints[hidden, 2] = 0.49
    written = frame_from_people([person(keypoints)], width=WIDTH, height=HEIGHT, min_visibility=0.5)
    neck = written["people"][0]["pose_keypoints_2d"][3:6]
    assert neck == (pytest.approx([80, 45, 0.7]) if hidden is None else [0, 0, 0])


# ComfyUI's own drawing


@pytest.fixture(scope="module")
def bus(photographs):
    """The photo of the bus in half its size, and its people."""
    photo = photographs["bus"].resize((405, 540))
    with MediaPipePersonDetector() as detector:
        return photo, detector.detect(np.asarray(photo))


def drawn(written: list[dict]) -> np.ndarray:
    from comfy_extras.nodes_sdpose import SDPoseDrawKeypoints

    (picture,) = SDPoseDrawKeypoints.execute(
        written, draw_body=True, draw_hands=True, draw_face=True, draw_feet=True, stick_width=4, face_point_size=3,
        score_threshold=0.3, draw_head=True,
    ).result  # fmt: skip
    return picture.numpy()


def test_comfyui_draws_our_frames(bus):
    photo, people = bus
    assert people
    picture = drawn([frame_from_people(people, width=photo.width, height=photo.height, min_visibility=0.5)])
    assert picture.shape == (1, photo.height, photo.width, 3)
    for found in people:
        for x, y, visibility in found.keypoints:
            row, column = min(round(float(y)), photo.height - 1), min(round(float(x)), photo.width - 1)
            assert visibility < 0.5 or picture[0, row, column].any()
    outside = np.ones(picture.shape[1:3], dtype=bool)
    for x0, y0, x1, y1 in (found.box for found in people):
        outside[int(y0) : int(y1) + 1, int(x0) : int(x1) + 1] = False
    assert not picture[0, outside].any()


def test_comfyui_draws_a_frame_without_people():
    assert not drawn([frame_from_people([], width=64, height=32, min_visibility=0.5)]).any()


def test_frames_of_comfyuis_extractor_are_read(bus):
    """Its own way from 17 COCO keypoints and 116 more to a frame, and back through ours."""
    from comfy_extras.nodes_sdpose import _to_openpose_frames

    photo, people = bus
    keypoints = [np.vstack((found.keypoints[:, :2], np.full((116, 2), 7.0))) for found in people]
    scores = [np.concatenate((found.keypoints[:, 2], np.full(116, 0.9))) for found in people]
    (written,) = _to_openpose_frames([keypoints], [scores], photo.height, photo.width)
    read = people_from_frame(written)
    assert len(read) == len(people)
    for one, other in zip(read, people, strict=True):
        seen = other.keypoints[:, 2] > 0
        np.testing.assert_allclose(one.keypoints[seen], other.keypoints[seen], rtol=1e-5)
