"""BodyLandmarkEncoder: which person, which joints, and what becomes of every photo under each `on_missing`."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from comfy_extras.nodes_sdpose import SDPoseDrawKeypoints

from bolid.detectors.openpose import frame_from_people, people_from_frame
from bolid.detectors.people import Person
from bolid.models.keypoints import BONES, FIRST_JOINT, JOINTS
from bolid.nodes.body import BodyLandmarkEncoder

from ..support.bodies import back_view, sitting, standing, upper_body
from ..support.pose_task import write_pose_task
from ..support.small_models import small_clip_vision

SIZE = 32
GRID_TOKENS, HIDDEN_SIZE = (SIZE // 8) ** 2 + 1, 64
WIDTH, HEIGHT = 96, 128


@pytest.fixture(scope="module")
def clip_vision():
    return small_clip_vision(image_size=SIZE)


def person(joints: torch.Tensor, *, width: int = WIDTH, height: int = HEIGHT) -> Person:
    keypoints = np.zeros((17, 3), dtype=np.float32)
    keypoints[FIRST_JOINT:] = joints * torch.tensor([width, height, 1.0])
    seen = keypoints[keypoints[:, 2] > 0, :2]
    return Person(box=(*seen.min(axis=0).tolist(), *seen.max(axis=0).tolist()), keypoints=keypoints)


def frame(*people: torch.Tensor, width: int = WIDTH, height: int = HEIGHT) -> dict:
    """An OpenPose frame of people [12, 3] in 0 to 1."""
    shown = [person(joints, width=width, height=height) for joints in people]
    return frame_from_people(shown, width=width, height=height, min_visibility=0.0)


def without(joints: torch.Tensor, *names: str) -> torch.Tensor:
    changed = joints.clone()
    changed[[JOINTS.index(name) for name in names], 2] = 0
    return changed


def small(joints: torch.Tensor, *, scale: float, x: float, y: float) -> torch.Tensor:
    changed = joints.clone()
    changed[:, :2] = changed[:, :2] * scale + torch.tensor([x, y])
    return changed


def crowd() -> list[torch.Tensor]:
    """Thirty people in five rows; the last one is the largest."""
    places = [(column / 6, row / 5) for row in range(5) for column in range(6)]
    return [small(standing(), scale=0.1 + 0.001 * number, x=x, y=y) for number, (x, y) in enumerate(places)]


def encode(frames=None, *, images=None, on_missing="skip", min_visibility=0.5, **inputs):
    """As ComfyUI calls a node with `is_input_list`: every input arrives as a list, an omitted one not at all."""
    images = [torch.rand(len(frames), HEIGHT, WIDTH, 3)] if images is None else images
    given = {name: [value] for name, value in inputs.items() if value is not None}
    if frames is not None:
        given["pose_keypoint"] = [frames]
    body, preview, pose_keypoint, report = BodyLandmarkEncoder.execute(
        images, min_visibility=[min_visibility], on_missing=[on_missing], **given
    ).result
    report = json.loads(report)
    photos = sum(len(batch) for batch in images)
    assert [entry["photo"] for entry in report["photos"]] == list(range(1, 1 + photos))
    assert report["kept"] == len(body.keypoints) == len(body.image_sizes)
    assert len(preview) == photos + ("target_pose" in given) and preview.shape[-1] == 3
    assert preview.min() >= 0 and preview.max() <= 1
    assert len(pose_keypoint) == photos
    if "clip_vision" in given:
        assert body.hidden_states.shape == (report["kept"], GRID_TOKENS, HIDDEN_SIZE)
    else:
        assert body.hidden_states is None
    return body, preview, pose_keypoint, report


def outcome(report) -> list[tuple[str, str]]:
    return [(entry["status"], entry["reason"]) for entry in report["photos"]]


# Outcomes

ONE_SHOULDER = without(standing(), "left_shoulder")
CASES = {
    "standing": (frame(standing()), "kept", ""),
    "sitting": (frame(sitting()), "kept", ""),
    "back view": (frame(back_view()), "kept", ""),
    "half a person": (frame(upper_body()), "kept", "not seen: wrists, hips, knees, ankles"),
    "a wrist behind the back": (frame(without(standing(), "left_wrist")), "kept", "not seen: left wrist"),
    "30 people": (frame(*crowd()), "kept", ""),
    "nobody": (frame(), "dropped", "no person found"),
    "legs alone": (
        frame(without(standing(), *JOINTS[:6])),
        "dropped",
        "both shoulders are needed (not seen: shoulders, elbows, wrists)",
    ),
    "one shoulder": (frame(ONE_SHOULDER), "dropped", "both shoulders are needed (not seen: left shoulder)"),
}
USABLE = [name for name, (_, status, _) in CASES.items() if status == "kept"]
MISSING = [name for name in CASES if name not in USABLE]


@pytest.mark.parametrize("encoder", [False, True], ids=["alone", "clip_vision"])
@pytest.mark.parametrize("on_missing", ["skip", "error", "whole"])
@pytest.mark.parametrize("name", USABLE)
def test_a_person_with_shoulders_is_kept(name, on_missing, encoder, clip_vision):
    shown, status, reason = CASES[name]
    given = {"clip_vision": clip_vision if encoder else None}
    body, _, _, report = encode([shown], on_missing=on_missing, **given)
    assert outcome(report) == [(status, reason)]
    assert body.proportions[list(BONES).index("shoulder_width"), 1] == 1
    normalised = report["photos"][0]["normalised_keypoints"]
    for joint, values in zip(JOINTS, body.normalised_keypoints[0].tolist(), strict=True):
        assert normalised.get(joint, [0, 0, 0]) == pytest.approx(values, abs=1e-4)


@pytest.mark.parametrize("name", MISSING)
def test_skip_leaves_a_photo_out(name, clip_vision):
    shown, status, reason = CASES[name]
    _, _, _, report = encode([frame(standing()), shown], clip_vision=clip_vision)
    assert outcome(report) == [("kept", ""), (status, reason)]
    with pytest.raises(ValueError, match="None of the 1 photos can be used for the body") as caught:
        encode([shown], clip_vision=clip_vision)
    assert reason in str(caught.value) and "min_visibility" in str(caught.value)


@pytest.mark.parametrize("name", MISSING)
def test_error_stops(name):
    shown, _, reason = CASES[name]
    with pytest.raises(ValueError, match="Photo 2 of 2") as caught:
        encode([frame(standing()), shown], on_missing="error")
    assert reason in str(caught.value) and "'skip'" in str(caught.value) and "'whole'" in str(caught.value)


@pytest.mark.parametrize("name", MISSING)
def test_whole_keeps_it_for_the_image_encoder(name, clip_vision):
    shown, _, reason = CASES[name]
    body, _, _, report = encode([frame(standing()), shown], on_missing="whole", clip_vision=clip_vision)
    used = "the whole photo" if name == "nobody" else "the person"
    assert outcome(report) == [("kept", ""), ("kept", f"{reason}; {used} used for the image encoder")]
    alone, *_ = encode([frame(standing())])
    assert torch.equal(body.proportions, alone.proportions)
    with pytest.raises(ValueError, match="None of the 1 photos can be used"):
        encode([shown], on_missing="whole")


def test_without_any_joint_there_is_no_body(clip_vision):
    with pytest.raises(ValueError, match="None of the 1 photos can be used for the body: no person found"):
        encode([frame()], on_missing="whole", clip_vision=clip_vision)
    body, *_ = encode([frame()], on_missing="whole", clip_vision=clip_vision, target_pose=[frame(standing())])
    assert (body.proportions == 0).all() and not body.seen.any()


# Which person


def test_the_largest_person_is_the_default_and_others_have_numbers():
    people = crowd()
    largest, *_ = encode([frame(*people)])
    second, _, _, report = encode([frame(*people)], person_index=1)
    torch.testing.assert_close(largest.keypoints[0], people[-1], rtol=0, atol=1e-5)
    torch.testing.assert_close(second.keypoints[0], people[-2], rtol=0, atol=1e-5)
    assert report["photos"][0]["people"] == 30


def test_a_number_beyond_the_people_is_a_missing_person():
    with pytest.raises(ValueError, match="person_index is 30, but only 30 found"):
        encode([frame(*crowd())], person_index=30, on_missing="error")


def test_visibility_has_a_threshold():
    dim = standing()
    dim[JOINTS.index("left_wrist"), 2] = 0.3
    strict, _, pose, report = encode([frame(dim)])
    lenient, *_ = encode([frame(dim)], min_visibility=0.2)
    assert outcome(report) == [("kept", "not seen: left wrist")]
    assert not strict.seen[JOINTS.index("left_wrist")] and lenient.seen.all()
    assert report["photos"][0]["keypoints"]["left_wrist"][2] == pytest.approx(0.3, abs=1e-3)
    assert (people_from_frame(pose[0])[0].keypoints[:, 2] > 0).sum() == 11


# Keypoints in and out


def test_the_canvas_may_have_another_size_than_the_photo():
    expected, *_ = encode([frame(standing())])
    other, *_ = encode([frame(standing(), width=3 * WIDTH, height=5 * HEIGHT)])
    torch.testing.assert_close(other.keypoints, expected.keypoints, rtol=0, atol=1e-5)
    assert torch.equal(other.image_sizes, torch.tensor([[HEIGHT, WIDTH]]))


def test_what_comes_out_goes_in_again():
    body, _, pose_keypoint, _ = encode([frame(standing()), frame(), frame(upper_body())])
    again, _, twice, report = encode(pose_keypoint)
    seen = body.keypoints[..., 2] >= 0.5
    torch.testing.assert_close(again.keypoints[seen], body.keypoints[seen], rtol=0, atol=1e-5)
    assert torch.equal(again.keypoints[..., 2] > 0, seen)
    assert [status for status, _ in outcome(report)] == ["kept", "dropped", "kept"]
    assert [len(entry["people"]) for entry in twice] == [1, 0, 1]


def test_core_draws_what_comes_out():
    """Photos of different sizes share the first one's canvas, as core's node expects."""
    images = [torch.zeros(1, HEIGHT, WIDTH, 3), torch.zeros(1, 50, 200, 3)]
    _, _, pose_keypoint, _ = encode([frame(standing()), frame(standing(), width=200, height=50)], images=images)
    (drawn,) = SDPoseDrawKeypoints.execute(pose_keypoint, True, True, True, False, 2, 2, 0.3, True).result
    assert drawn.shape == (2, HEIGHT, WIDTH, 3)
    assert all(picture.amax() > 0.5 for picture in drawn)
    # A wide photo is fitted in between the top and the bottom.
    assert drawn[1, : HEIGHT // 4].amax() == 0 and drawn[1, -HEIGHT // 4 :].amax() == 0


def test_frames_must_match_the_photos():
    with pytest.raises(ValueError, match="2 frames for 1 photos"):
        encode([frame(standing())] * 2, images=[torch.zeros(1, HEIGHT, WIDTH, 3)])


def test_several_batches_and_their_frames_line_up():
    images = [torch.zeros(2, HEIGHT, WIDTH, 3), torch.zeros(1, 64, 64, 3)]
    frames = [frame(standing()), frame(sitting()), frame(upper_body(), width=64, height=64)]
    body, *_ = encode(frames, images=images)
    assert body.image_sizes.tolist() == [[HEIGHT, WIDTH], [HEIGHT, WIDTH], [64, 64]]


def test_a_single_frame_needs_no_list():
    alone, *_ = encode(frame(standing()), images=[torch.zeros(1, HEIGHT, WIDTH, 3)])
    listed, *_ = encode([frame(standing())], images=[torch.zeros(1, HEIGHT, WIDTH, 3)])
    assert torch.equal(alone.keypoints, listed.keypoints)
    posed, *_ = encode([frame(standing())], target_pose=frame(sitting()))
    torch.testing.assert_close(posed.target_pose, sitting(), rtol=0, atol=1e-5)


def test_shoulders_in_one_place_give_no_scale():
    flat = upper_body()
    flat[1, :2] = flat[0, :2]
    with pytest.raises(ValueError, match="both shoulders lie in one place"):
        encode([frame(flat)], on_missing="error")


def test_whole_without_an_encoder_says_why_a_photo_is_left_out():
    _, _, _, report = encode([frame(standing()), frame()], on_missing="whole")
    assert outcome(report)[1] == ("dropped", "no person found; no clip_vision to use the photo for")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_photos(dtype, clip_vision):
    """ComfyUI's --fp16-intermediates."""
    images = [torch.rand(1, HEIGHT, WIDTH, 3).to(dtype)]
    body, *_ = encode([frame(standing())], images=images, clip_vision=clip_vision)
    assert body.hidden_states.isfinite().all()


# Target pose


def test_a_target_pose_adds_no_identity():
    plain, *_ = encode([frame(standing())])
    posed, *_ = encode([frame(standing())], target_pose=[frame(sitting())])
    assert plain.target_pose is None
    torch.testing.assert_close(posed.target_pose, sitting(), rtol=0, atol=1e-5)
    assert torch.equal(posed.keypoints, plain.keypoints) and torch.equal(posed.proportions, plain.proportions)


@pytest.mark.parametrize(
    "target", [[], [frame()], frame(), torch.zeros(0, 8, 8, 3)], ids=["no frame", "nobody", "one frame", "no picture"]
)
def test_an_empty_target_pose_is_refused(target):
    with pytest.raises(ValueError, match="target_pose shows no person"):
        encode([frame(standing())], target_pose=target)


def test_a_target_pose_on_a_large_canvas_costs_no_large_picture():
    huge = frame(standing(), width=300_000, height=400_000)
    body, preview, _, _ = encode([frame(standing())], target_pose=[huge])
    torch.testing.assert_close(body.target_pose, standing(), rtol=0, atol=1e-5)
    assert preview.shape[0] == 2
    fractional = {**frame(standing()), "canvas_width": float(WIDTH)}
    encode([frame(standing())], target_pose=[fractional])


# Real photographs


@pytest.fixture(scope="module")
def photos(photographs) -> dict[str, torch.Tensor]:
    pictures = photographs | {
        "wall": photographs["bus"].crop((400, 0, 810, 400)),
        "walker": photographs["bus"].crop((10, 380, 290, 940)),
    }
    return {name: torch.from_numpy(np.asarray(image, np.float32) / 255)[None] for name, image in pictures.items()}


def test_photographs(photos, clip_vision):
    names = ["walker", "wall", "astronaut", "carphone_0"]
    body, preview, pose_keypoint, report = encode(images=[photos[name] for name in names], clip_vision=clip_vision)
    assert [status for status, _ in outcome(report)] == ["kept", "dropped", "kept", "kept"]
    assert body.image_sizes.tolist() == [[560, 280], [512, 512], [144, 176]]
    assert body.seen.all()
    assert all(report["proportions"].values())
    assert all(0.3 < length < 1.5 for length in report["proportions"].values())
    assert len({picture.sum().item() for picture in preview}) == len(names)
    assert [len(entry["people"]) for entry in pose_keypoint] == [1, 0, 1, 1]


def test_a_picture_as_target_pose(photos):
    body, *_ = encode([frame(standing())], target_pose=photos["walker"])
    detected, *_ = encode(images=[photos["walker"]])
    torch.testing.assert_close(body.target_pose, detected.keypoints[0], rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="target_pose shows no person"):
        encode([frame(standing())], target_pose=photos["wall"])


def test_a_model_file_of_mediapipes_tasks(photos, tmp_path, monkeypatch):
    import folder_paths

    write_pose_task(tmp_path / "pose_landmarker_full.task")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "mediapipe", ([str(tmp_path)], {".task"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    (pose_model,) = [given for given in BodyLandmarkEncoder.define_schema().inputs if given.id == "pose_model"]
    assert pose_model.options == ["bundled", "pose_landmarker_full.task"]
    bundled, *_ = encode(images=[photos["walker"]])
    task, *_ = encode(images=[photos["walker"]], pose_model="pose_landmarker_full.task")
    assert (bundled.keypoints - task.keypoints)[..., :2].abs().max() < 0.03
    with pytest.raises(FileNotFoundError, match=r"pose_landmarker_lite\.task.*bundled"):
        encode(images=[photos["walker"]], pose_model="pose_landmarker_lite.task")


def test_an_rgba_photo_and_a_grey_one(photos):
    rgb = photos["walker"]
    rgba = torch.cat((rgb, torch.ones_like(rgb[..., :1])), dim=-1)
    plain, *_ = encode(images=[rgb])
    transparent, *_ = encode(images=[rgba])
    assert torch.equal(plain.keypoints, transparent.keypoints)
    encode(images=[rgb.mean(dim=-1, keepdim=True)])
