"""BoLIDDetectFaces on real photographs: what it shows, numbers and hands out."""

from __future__ import annotations

import json

import comfy.model_management
import comfy.utils
import numpy as np
import pytest
import torch
from comfy_execution.graph import ExecutionBlocker
from comfy_execution.validation import validate_node_input

from bolid.detectors.crops import FACE_MARGIN, align_face, crop_for_encoder, to_uint8
from bolid.detectors.faces import Face, MediaPipeFaceDetector
from bolid.nodes.encoding import MultiRefImageEncoder
from bolid.nodes.face_boxes import FIRST, MIN_SIDE, OTHERS, draw_faces
from bolid.nodes.faces import CROP_SIZE, BoLIDDetectFaces, parse_face_index

from .test_encoding import CoreFaceModel

BLUE_BACK = (0, 0, 90)


@pytest.fixture(scope="module")
def photos(photographs) -> dict[str, torch.Tensor]:
    """[1, H, W, 3] each; `night` holds nothing at all."""
    pixels = {name: np.asarray(image, np.float32) / 255 for name, image in photographs.items()}
    return {name: torch.from_numpy(values)[None] for name, values in pixels.items()} | {
        "night": torch.zeros(1, 60, 80, 3)
    }


def detect(images, **inputs):
    """As ComfyUI calls a node with `is_input_list`."""
    output = BoLIDDetectFaces.execute(images=images, **{name: [value] for name, value in inputs.items()})
    pictures, faces, report = output.result
    assert len(output.ui.values) == len(pictures) == sum(len(batch) for batch in images)
    return pictures, faces, json.loads(report)


def painted(picture: torch.Tensor, colour: tuple[int, int, int]) -> torch.Tensor:
    """[H, W] bool: pixels of exactly that colour."""
    return (picture[0].mul(255).round() == torch.tensor(colour)).all(dim=-1)


def test_photos_of_different_sizes(photos):
    names = ["group", "carphone_0", "night"]
    pictures, faces, report = detect([photos[name] for name in names])
    assert [tuple(picture.shape) for picture in pictures] == [(1, 886, 1280, 3), (1, 419, 512, 3), (1, 384, 512, 3)]
    assert (report["faces"], report["face_choice"]) == (7, "largest")
    assert [len(entry["faces"]) for entry in report["photos"]] == [6, 1, 0]
    assert [(entry["photo"], entry["width"], entry["height"]) for entry in report["photos"]] == [
        (1, 1280, 886),
        (2, 176, 144),
        (3, 80, 60),
    ]
    with MediaPipeFaceDetector() as detector:
        expected = [face for name in names for face in detector.detect(to_uint8(photos[name][0]))]
    listed = [face for entry in report["photos"] for face in entry["faces"]]
    assert [face["box"] for face in listed] == [pytest.approx(face.box, abs=0.06) for face in expected]
    assert [face["face_index"] for face in listed] == [0, 1, 2, 3, 4, 5, 0]
    assert not any(face["has_vector"] for face in listed)
    assert faces.shape == (7, CROP_SIZE, CROP_SIZE, 3)
    last = crop_for_encoder(photos["carphone_0"][0], expected[-1].box, margin=FACE_MARGIN, size=CROP_SIZE)
    assert torch.equal(faces[-1:], last)


def test_the_first_face_is_marked_and_the_boxes_lie_around_the_faces(photos):
    pictures, _, report = detect([photos["group"]], face_choice="left_to_right")
    boxes = [face["box"] for face in report["photos"][0]["faces"]]
    assert [box[0] for box in boxes] == sorted(box[0] for box in boxes)
    unchanged = pictures[0][0] == photos["group"][0]
    for index, (x0, y0, x1, y1) in enumerate(boxes):
        colour = FIRST if index == 0 else OTHERS
        rows, columns = (
            painted(pictures[0][:, round(y0) : round(y1) + 1, round(x0) : round(x1) + 1], colour).nonzero().T
        )
        assert columns.min() <= 4 and columns.max() >= x1 - x0 - 5 and rows.max() >= y1 - y0 - 5
        inside = unchanged[round(y0) + 12 : round(y1) - 12, round(x0) + 12 : round(x1) - 12]
        assert inside.all()
    assert painted(pictures[0], FIRST).nonzero()[:, 1].max() < boxes[1][0]


def test_numbers_stay_in_the_picture_and_can_be_told_apart():
    photo = np.full((600, 600, 3), BLUE_BACK, np.uint8)
    corners = [(-20, -30, 40, 30), (570, -30, 640, 40), (-10, 580, 40, 640), (560, 570, 640, 640)]
    seen = []
    for index, box in enumerate(corners):
        faces = [Face(box=(280.0, 280.0, 300.0, 300.0), score=0.9)] * index + [
            Face(box=tuple(map(float, box)), score=0.9)
        ]
        drawn = draw_faces(photo, faces)
        assert drawn.shape == photo.shape
        left, top = (0 if box[0] < 300 else 500), (0 if box[1] < 300 else 500)
        corner = drawn[top : top + 100, left : left + 100]
        assert (corner == (FIRST if index == 0 else OTHERS)).all(axis=-1).sum() > 150  # the plate below the number
        seen.append(corner.tobytes())
    assert len(set(seen)) == 4


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (512, 300)])
def test_photos_of_any_size_can_be_drawn_on(size):
    drawn = draw_faces(np.full((*size, 3), 120, np.uint8), [Face(box=(-5.0, -5.0, 900.0, 900.0), score=0.9)])
    assert max(drawn.shape[:2]) == min(MIN_SIDE, 8 * max(size))
    assert not (drawn == 120).all()


def test_insightface_gives_vectors_and_aligned_faces(photos, face_analysis):
    expected = face_analysis.detect(to_uint8(photos["astronaut"][0]))
    for analysis in (face_analysis, face_analysis._analysis):
        _, faces, report = detect([photos["astronaut"]], face_analysis=analysis)
        assert len(report["photos"][0]["faces"]) == len(faces) == len(expected)
        assert all(face["has_vector"] for face in report["photos"][0]["faces"])
        assert torch.equal(faces[1], align_face(photos["astronaut"][0], expected[1].keypoints, size=CROP_SIZE))


@pytest.mark.parametrize("node", [BoLIDDetectFaces, MultiRefImageEncoder])
@pytest.mark.parametrize("kind", ["INSIGHTFACE", "FACEANALYSIS", "FACE_DETECTION_MODEL", "BOLID_FACE_ANALYSIS"])
def test_loaders_of_other_packs_can_be_connected(kind, node):
    (given,) = [given for given in node.define_schema().inputs if given.id == "face_analysis"]
    assert validate_node_input(kind, given.get_io_type())
    assert not validate_node_input("MODEL", given.get_io_type())


def test_cores_face_model(photos):
    model = CoreFaceModel([("full", (100, 100, 220, 230)), ("short", (300, 50, 330, 90))])
    _, faces, report = detect([photos["astronaut"]], face_analysis=model, face_choice="right_to_left")
    assert [face["box"][0] for face in report["photos"][0]["faces"]] == [300, 100] and len(faces) == 2


def test_nothing_found_blocks_the_crops_alone(photos):
    pictures, faces, report = detect([photos["night"]])
    assert isinstance(faces, ExecutionBlocker) and "found no face" in faces.message
    assert report["faces"] == 0
    assert pictures[0].max() > 0.9  # it says so


def test_no_photo_at_all():
    with pytest.raises(ValueError, match="^There are no photos to look at"):
        detect([torch.zeros(0, 64, 64, 3)])


def test_greyscale_and_alpha(photos):
    grey = photos["astronaut"].mean(dim=-1, keepdim=True)
    alpha = torch.cat((photos["astronaut"], torch.ones_like(grey)), dim=-1)
    pictures, faces, _ = detect([grey, alpha])
    assert [picture.shape[-1] for picture in pictures] == [3, 3] and len(faces) == 2


def test_progress_and_interrupting(photos, monkeypatch):
    seen = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *given, **named: seen.append(given[:2]))
    detect([photos["carphone_0"], photos["night"]])
    assert seen == [(1, 2), (2, 2)]
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        detect([photos["carphone_0"]])


def test_face_indices():
    assert parse_face_index(["0"], photos=3) == [0, 0, 0]
    assert parse_face_index(["2, 0;1"], photos=3) == [2, 0, 1]
    assert parse_face_index([1, "0"], photos=2) == [1, 0]
    assert parse_face_index(["4"], photos=0) == []
