"""MultiRefImageEncoder and BoLIDFaceAnalysisLoader on real photographs, with a small random image encoder."""

from __future__ import annotations

import inspect
import json
import re

import comfy.model_management
import comfy.utils
import folder_paths
import numpy as np
import pytest
import torch

from bolid.detectors.crops import (
    FACE_MARGIN,
    PERSON_MARGIN,
    align_face,
    crop_for_encoder,
    crop_square,
    square_box,
    to_uint8,
)
from bolid.detectors.faces import FACE_CHOICES, Face, InsightFaceAnalysis, MediaPipeFaceDetector, in_order
from bolid.detectors.people import MediaPipePersonDetector
from bolid.models.pooling import pool
from bolid.models.references import weights_of_entries
from bolid.nodes.encoding import MultiRefImageEncoder
from bolid.nodes.faces import BoLIDFaceAnalysisLoader
from nodes import CLIPVisionEncode

from ..support.face_analysis import write_face_analysis_pack
from ..support.small_models import small_clip_vision

SIZE = 32
GRID_TOKENS, HIDDEN_SIZE, EMBED_DIM = (SIZE // 8) ** 2 + 1, 64, 48


@pytest.fixture(scope="module")
def clip_vision():
    return small_clip_vision(image_size=SIZE)


@pytest.fixture(scope="module")
def photos(photographs) -> dict[str, torch.Tensor]:
    """[1, H, W, 3] each; `wall` is a part of a photograph without people, `night` holds nothing at all."""
    pictures = photographs | {"wall": photographs["bus"].crop((400, 0, 810, 400))}
    pixels = {name: np.array(image, dtype=np.float32) / 255 for name, image in pictures.items()}
    tensors = {name: torch.from_numpy(values)[None] for name, values in pixels.items()}
    return tensors | {"night": torch.zeros(1, 60, 80, 3)}


def encode(images, *, crop="whole", on_missing="skip", clip_vision=None, face_analysis=None, **choice):
    """As ComfyUI calls a node with `is_input_list`: every input arrives as a list, an omitted one not at all."""
    given = {"images": images, "crop": [crop], "on_missing": [on_missing]}
    given |= {name: [value] for name, value in choice.items()}
    if clip_vision is not None:
        given["clip_vision"] = [clip_vision]
    if face_analysis is not None:
        given["face_analysis"] = [face_analysis]
    references, crops, report = MultiRefImageEncoder.execute(**given).result
    report = json.loads(report)
    assert report["crop"] == crop
    numbers = [entry["photo"] for entry in report["photos"]]
    assert numbers == sorted(numbers) and set(numbers) == set(range(1, 1 + sum(len(batch) for batch in images)))
    assert crop == "tiles" or len(set(numbers)) == len(numbers)
    rows = [entry["row"] for entry in report["photos"]]
    assert [row for row in rows if row is not None] == list(range(1, 1 + references.count))
    assert [row is None for row in rows] == [entry["status"] == "dropped" for entry in report["photos"]]
    assert report["kept"] == references.count == len(crops)
    assert [(entry.photo, entry.status, entry.reason) for entry in references.report] == [
        (entry["photo"], entry["status"], entry["reason"]) for entry in report["photos"]
    ]
    for status in ("kept", "dropped", "repeated"):
        assert report[status] == sum(entry["status"] == status for entry in report["photos"])
    assert crops.shape[1:] == ((SIZE, SIZE, 3) if clip_vision is not None else (224, 224, 3))
    assert crops.min() >= 0 and crops.max() <= 1
    return references, crops, report


def outcome(report) -> list[tuple[str, str]]:
    return [(entry["status"], entry["reason"]) for entry in report["photos"]]


# What goes in


def test_a_batch_a_list_and_both(photos, clip_vision):
    frames = [photos[f"carphone_{index}"] for index in range(5)]
    listed, _, report = encode(frames, clip_vision=clip_vision)
    assert outcome(report) == [("kept", "")] * 5
    assert listed.image_embeds.shape == (5, EMBED_DIM)
    assert listed.hidden_states.shape == (5, GRID_TOKENS, HIDDEN_SIZE)
    assert listed.face_embeds is None and listed.has_face is None
    for images in ([torch.cat(frames)], [torch.cat(frames[:2]), frames[2], torch.cat(frames[3:])]):
        other, _, _ = encode(images, clip_vision=clip_vision)
        assert torch.equal(other.image_embeds, listed.image_embeds)
        assert torch.equal(other.hidden_states, listed.hidden_states)


def test_photos_of_different_sizes_keep_their_order(photos, clip_vision):
    names = ["bus", "tom_hanks", "astronaut"]
    together, crops, _ = encode([photos[name] for name in names], clip_vision=clip_vision)
    for index, name in enumerate(names):
        alone, crop, _ = encode([photos[name]], clip_vision=clip_vision)
        assert torch.equal(crops[index : index + 1], crop)
        torch.testing.assert_close(together.image_embeds[index : index + 1], alone.image_embeds, rtol=0, atol=1e-5)
        torch.testing.assert_close(together.hidden_states[index : index + 1], alone.hidden_states, rtol=0, atol=1e-4)
    assert (together.image_embeds[0] - together.image_embeds[1]).abs().max() > 0.01


def test_more_photos_than_one_batch_of_the_encoder(photos, clip_vision):
    frames = [photos[f"carphone_{index % 5}"] for index in range(37)]
    references, _, _ = encode(frames, clip_vision=clip_vision)
    few, _, _ = encode(frames[:5], clip_vision=clip_vision)
    torch.testing.assert_close(references.image_embeds[35:37], few.image_embeds[:2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["astronaut", "bus", "tom_hanks", "carphone_0"])
def test_the_whole_photo_is_what_core_encodes(name, photos, clip_vision):
    references, _, _ = encode([photos[name]], clip_vision=clip_vision)
    (expected,) = CLIPVisionEncode().encode(clip_vision, photos[name], "center")
    assert torch.equal(references.image_embeds, expected["image_embeds"].float())
    assert torch.equal(references.hidden_states, expected["penultimate_hidden_states"].float())


def test_zero_hidden_states_are_the_encoding_of_zeros_after_preprocessing(photos, clip_vision):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    reference = CLIPVisionModelWithProjection(CLIPVisionConfig(**clip_vision.config)).eval()
    reference.load_state_dict({name: tensor.float() for name, tensor in clip_vision.get_sd().items()}, strict=True)
    with torch.no_grad():
        expected = reference(torch.zeros(1, 3, SIZE, SIZE), output_hidden_states=True).hidden_states[-2]
    references, _, _ = encode([photos["astronaut"]], clip_vision=clip_vision)
    assert references.zero_hidden_states.shape == (1, GRID_TOKENS, HIDDEN_SIZE)
    torch.testing.assert_close(references.zero_hidden_states, expected, rtol=0, atol=1e-4)
    black, _, _ = encode([photos["night"]], clip_vision=clip_vision)
    assert (references.zero_hidden_states - black.hidden_states).abs().max() > 0.1


def test_photos_are_not_changed(photos, clip_vision, face_analysis):
    before = photos["astronaut"].clone()
    for crop in ("whole", "face", "person"):
        encode([photos["astronaut"]], crop=crop, clip_vision=clip_vision, face_analysis=face_analysis)
    assert torch.equal(photos["astronaut"], before)


@pytest.mark.parametrize("crop", ["whole", "face", "person"])
def test_rgba_and_greyscale_photos(crop, photos, clip_vision):
    colour = photos["astronaut"]
    grey = colour.mean(dim=-1, keepdim=True)
    plain, crops, _ = encode([colour], crop=crop, clip_vision=clip_vision)
    rgba, rgba_crops, _ = encode(
        [torch.cat((colour, torch.full_like(colour[..., :1], 0.5)), dim=-1)], crop=crop, clip_vision=clip_vision
    )
    assert torch.equal(rgba.image_embeds, plain.image_embeds) and torch.equal(rgba_crops, crops)
    one_channel, one_crops, _ = encode([grey], crop=crop, clip_vision=clip_vision)
    three_channels, three_crops, _ = encode([grey.expand(-1, -1, -1, 3)], crop=crop, clip_vision=clip_vision)
    assert torch.equal(one_channel.image_embeds, three_channels.image_embeds) and torch.equal(one_crops, three_crops)


def test_a_greyscale_photo_among_others_with_aligned_faces(photos, clip_vision, face_analysis):
    grey = photos["astronaut"].mean(dim=-1, keepdim=True)
    _, crops, _ = encode([grey, photos["bus"]], crop="face", clip_vision=clip_vision, face_analysis=face_analysis)
    assert torch.equal(crops[0, ..., 0], crops[0, ..., 2])


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_photos_of_one_pixel_or_line(size, clip_vision):
    photo = torch.full((1, *size, 3), 0.7)
    references, crops, report = encode([photo], clip_vision=clip_vision)
    assert torch.isfinite(references.image_embeds).all()
    torch.testing.assert_close(crops, torch.full_like(crops, 0.7), rtol=0, atol=1 / 255)
    for crop in ("face", "person"):
        _, _, report = encode([photo], crop=crop, on_missing="whole", clip_vision=clip_vision)
        assert report["photos"][0]["reason"].startswith("no ")


def test_no_photo_at_all(clip_vision):
    with pytest.raises(ValueError, match="^None of the 0 photos can be used: there are none"):
        encode([torch.zeros(0, 64, 64, 3)], clip_vision=clip_vision)


@pytest.mark.parametrize("crop", ["face", "person"])
def test_a_photo_with_nan_is_refused(crop, photos, clip_vision):
    with pytest.raises(ValueError, match="no numbers"):
        encode([photos["astronaut"], photos["astronaut"] * torch.nan], crop=crop, clip_vision=clip_vision)


def test_nothing_to_encode_with(photos):
    with pytest.raises(ValueError, match="clip_vision.*BoLIDFaceAnalysisLoader"):
        encode([photos["astronaut"]])
    with pytest.raises(ValueError, match="clip_vision.*BoLIDFaceAnalysisLoader"):
        encode([photos["astronaut"]], crop="face", face_analysis=CoreFaceModel([]))


# Crops


def test_the_face_crop_shows_the_largest_face(photos, clip_vision):
    pixels = to_uint8(photos["bus"][0])
    with MediaPipeFaceDetector() as detector:
        face = detector.detect(pixels)[0]
    square = crop_square(photos["bus"][0], square_box(face.box, margin=FACE_MARGIN, image_size=pixels.shape[:2]))
    references, crops, report = encode([photos["bus"]], crop="face", clip_vision=clip_vision)
    assert outcome(report) == [("kept", "")]
    (expected,) = CLIPVisionEncode().encode(clip_vision, square[None], "center")
    assert torch.equal(references.image_embeds, expected["image_embeds"].float())
    _, whole_crops, _ = encode([photos["bus"]], clip_vision=clip_vision)
    assert (crops - whole_crops).abs().mean() > 0.1


def test_the_person_crop_shows_the_person(photos, clip_vision):
    pixels = to_uint8(photos["bus"][0])
    with MediaPipePersonDetector() as detector:
        person, *_ = detector.detect(pixels)
    square = crop_square(photos["bus"][0], square_box(person.box, margin=PERSON_MARGIN, image_size=pixels.shape[:2]))
    references, _, _ = encode([photos["bus"]], crop="person", clip_vision=clip_vision)
    (expected,) = CLIPVisionEncode().encode(clip_vision, square[None], "center")
    assert torch.equal(references.image_embeds, expected["image_embeds"].float())


def test_a_face_crop_is_aligned_where_there_are_keypoints(photos, clip_vision, face_analysis):
    face = face_analysis.detect(to_uint8(photos["astronaut"][0]))[0]
    references, crops, _ = encode(
        [photos["astronaut"]], crop="face", clip_vision=clip_vision, face_analysis=face_analysis
    )
    aligned = align_face(photos["astronaut"][0], face.keypoints, size=SIZE)
    assert torch.equal(crops[0], aligned)
    expected = clip_vision.encode_image(aligned[None])["image_embeds"].float()
    assert torch.equal(references.image_embeds, expected)


@pytest.mark.parametrize(("crop", "missing"), [("face", "no face"), ("person", "no person")])
def test_on_missing(crop, missing, photos, clip_vision):
    images = [photos[name] for name in ("wall", "astronaut", "night", "grace_hopper")]
    skipped, crops, report = encode(images, crop=crop, clip_vision=clip_vision)
    assert outcome(report) == [("dropped", f"{missing} found"), ("kept", "")] * 2
    assert skipped.image_embeds.shape[0] == 2

    replaced, replaced_crops, report = encode(images, crop=crop, on_missing="whole", clip_vision=clip_vision)
    assert outcome(report) == [("kept", f"{missing} found, whole photo used"), ("kept", "")] * 2
    assert torch.equal(replaced_crops[[1, 3]], crops)
    whole, whole_crops, _ = encode(images, clip_vision=clip_vision)
    assert torch.equal(replaced_crops[[0, 2]], whole_crops[[0, 2]])
    torch.testing.assert_close(replaced.image_embeds[[0, 2]], whole.image_embeds[[0, 2]], rtol=0, atol=1e-5)
    torch.testing.assert_close(replaced.image_embeds[[1, 3]], skipped.image_embeds, rtol=0, atol=1e-5)

    with pytest.raises(ValueError, match=f"^Photo 1 of 4: {missing} found\\. .*'skip'.*'whole'"):
        encode(images, crop=crop, on_missing="error", clip_vision=clip_vision)
    with pytest.raises(ValueError, match=f"^Photo 2 of 3: {missing} found"):
        encode(images[1:], crop=crop, on_missing="error", clip_vision=clip_vision)
    assert len(encode(images[1::2], crop=crop, on_missing="error", clip_vision=clip_vision)[1]) == 2

    with pytest.raises(ValueError, match=f"^None of the 2 photos can be used: {missing} found.*'whole'"):
        encode(images[::2], crop=crop, clip_vision=clip_vision)
    assert len(encode(images[::2], crop=crop, on_missing="whole", clip_vision=clip_vision)[1]) == 2


@pytest.mark.parametrize("on_missing", ["skip", "error", "whole"])
def test_whole_photos_without_face_analysis_miss_nothing(on_missing, photos, clip_vision):
    _, _, report = encode([photos["wall"], photos["night"]], on_missing=on_missing, clip_vision=clip_vision)
    assert outcome(report) == [("kept", "")] * 2


# Which of several faces


GROUP = {"largest": (936, 140), "left_to_right": (112, 339), "right_to_left": (1174, 343), "top_to_bottom": (936, 140)}
"""Centre of the first face of the photograph, by choice."""


@pytest.fixture(scope="module")
def group(photos) -> dict[str, list]:
    """Boxes of the six faces by choice."""
    pixels = to_uint8(photos["group"][0])
    with MediaPipeFaceDetector() as detector:
        faces = detector.detect(pixels)
    assert len(faces) == 6
    return {choice: in_order(faces, choice, image_size=pixels.shape[:2]) for choice in FACE_CHOICES}


@pytest.mark.parametrize("choice", FACE_CHOICES)
def test_every_face_of_a_group_can_be_chosen(choice, photos, clip_vision, group):
    _, crops, report = encode(
        [photos["group"]] * 6, crop="face", clip_vision=clip_vision, face_choice=choice, face_index="0, 1, 2, 3, 4, 5"
    )
    assert outcome(report) == [("kept", "")] * 6 and {entry["faces"] for entry in report["photos"]} == {6}
    for face, picture in zip(group[choice], crops, strict=True):
        expected = crop_for_encoder(photos["group"][0], face.box, margin=FACE_MARGIN, size=SIZE)
        assert torch.equal(picture, expected[0])
    assert len({tuple(picture.flatten().tolist()) for picture in crops}) == 6
    if choice in GROUP:
        assert group[choice][0].centre == pytest.approx(GROUP[choice], abs=12)


def test_the_first_of_the_largest_is_what_always_was_used(photos, clip_vision):
    plain, _, _ = encode([photos["group"]], crop="face", clip_vision=clip_vision)
    chosen, _, _ = encode([photos["group"]], crop="face", clip_vision=clip_vision, face_choice="largest", face_index=0)
    assert torch.equal(plain.image_embeds, chosen.image_embeds)


def test_a_face_index_per_photo(photos, clip_vision):
    images = [photos["group"], photos["astronaut"], photos["group"]]
    _, crops, _ = encode(images, crop="face", clip_vision=clip_vision, face_index="2, 0; 5")
    for picture, (name, index) in zip(crops, (("group", 2), ("astronaut", 0), ("group", 5)), strict=True):
        _, alone, _ = encode([photos[name]], crop="face", clip_vision=clip_vision, face_index=str(index))
        assert torch.equal(picture, alone[0])
    listed = MultiRefImageEncoder.execute(
        images=images, crop=["face"], on_missing=["skip"], clip_vision=[clip_vision], face_index=["2", "0", "5"]
    )
    assert torch.equal(listed.result[1], crops)


def test_an_index_beyond_the_faces(photos, clip_vision, face_analysis):
    images, choice = [photos["group"], photos["astronaut"]], {"face_choice": "left_to_right", "face_index": "3"}
    reason = "face_index is 3, but only 1 found (counted from 0)"
    _, crops, report = encode(images, crop="face", clip_vision=clip_vision, **choice)
    assert outcome(report) == [("kept", ""), ("dropped", reason)]
    assert [entry["faces"] for entry in report["photos"]] == [6, 1]
    _, replaced, report = encode(images, crop="face", on_missing="whole", clip_vision=clip_vision, **choice)
    assert outcome(report)[1] == ("kept", f"{reason}, whole photo used")
    assert torch.equal(replaced[:1], crops)
    assert torch.equal(replaced[1:], crop_for_encoder(photos["astronaut"][0], None, size=SIZE))
    with pytest.raises(ValueError, match=r"^Photo 2 of 2: face_index is 3, but only 1 found \(counted from 0\)\. R"):
        encode(images, crop="face", on_missing="error", clip_vision=clip_vision, **choice)
    with pytest.raises(ValueError, match="^None of the 1 photos can be used: face_index is 3, but only 1 found"):
        encode(images[1:], crop="face", clip_vision=clip_vision, **choice)
    count = len(face_analysis.detect(to_uint8(photos["astronaut"][0])))
    with pytest.raises(ValueError, match=f"face_index is {count}, but only {count} found.*, and no clip_vision"):
        encode(images[1:], face_analysis=face_analysis, face_index=str(count))


def test_the_chosen_face_gives_the_vector(photos, clip_vision, face_analysis):
    faces = face_analysis.detect(to_uint8(photos["astronaut"][0]))
    for index in (0, 1, len(faces) - 1):
        references, crops, _ = encode(
            [photos["astronaut"]],
            crop="face",
            clip_vision=clip_vision,
            face_analysis=face_analysis,
            face_index=str(index),
        )
        assert np.array_equal(references.face_embeds[0].numpy(), faces[index].embedding)
        assert torch.equal(crops[0], align_face(photos["astronaut"][0], faces[index].keypoints, size=SIZE))


def test_the_chosen_face_chooses_the_person(photos, clip_vision):
    """Two men stand beside the bus; the face says which of them is cut out."""
    pixels = to_uint8(photos["bus"][0])
    with MediaPipePersonDetector() as detector:
        people = {person.keypoints[0, 0] < 200: person for person in detector.detect(pixels)[:2]}
    assert len(people) == 2
    for choice, is_left in (("left_to_right", True), ("right_to_left", False)):
        _, crops, report = encode([photos["bus"]], crop="person", clip_vision=clip_vision, face_choice=choice)
        assert outcome(report) == [("kept", "")]
        expected = crop_for_encoder(photos["bus"][0], people[is_left].box, margin=PERSON_MARGIN, size=SIZE)
        assert torch.equal(crops, expected)


def test_a_face_of_nobody_is_no_person(photos, clip_vision, monkeypatch):
    box = (700.0, 900.0, 760.0, 960.0)  # pavement
    monkeypatch.setattr(MediaPipeFaceDetector, "detect", lambda self, image: [Face(box=box, score=0.9)])
    images, choice = [photos["bus"]], {"crop": "person", "clip_vision": clip_vision, "face_choice": "most_central"}
    _, crops, report = encode(images, on_missing="whole", **choice)
    assert outcome(report) == [("kept", "no person found with face 0, whole photo used")]
    assert torch.equal(crops, crop_for_encoder(photos["bus"][0], None, size=SIZE))
    with pytest.raises(ValueError, match="no person found with face 0"):
        encode(images, on_missing="error", **choice)


def test_a_choice_looks_for_no_face_where_none_is_used(photos, clip_vision, monkeypatch):
    monkeypatch.setattr(MediaPipeFaceDetector, "__enter__", lambda self: pytest.fail("faces were looked for"))
    _, _, report = encode([photos["group"]], clip_vision=clip_vision, face_choice="most_central", face_index="4")
    assert outcome(report) == [("kept", "")] and report["photos"][0]["faces"] is None


@pytest.mark.parametrize("wrong", ["", " , ", "one", "-1", "1.5", "0 x", "²"])
def test_a_face_index_that_is_no_number(wrong, photos, clip_vision):
    with pytest.raises(ValueError, match="^face_index must be whole numbers from 0"):
        encode([photos["astronaut"]], clip_vision=clip_vision, face_index=wrong)


def test_as_many_face_indices_as_photos(photos, clip_vision):
    with pytest.raises(ValueError, match="^face_index has 2 numbers for 3 photos"):
        encode([photos["astronaut"]] * 3, clip_vision=clip_vision, face_index="0, 1")


# Tiles


def test_a_wide_photo_becomes_a_row_of_squares(photos, clip_vision):
    wide = photos["bus"][:, 380:760]  # 810 × 380
    references, crops, report = encode([photos["astronaut"], wide], crop="tiles", clip_vision=clip_vision)
    boxes = [(0, 0, 380, 380), (215, 0, 595, 380), (430, 0, 810, 380)]
    assert [(entry["photo"], entry["row"], entry["tile"], entry["box"]) for entry in report["photos"]] == [
        (1, 1, "", None),
        *((2, 2 + index, f"{1 + index} of 3", list(box)) for index, box in enumerate(boxes)),
    ]
    for index, (x0, y0, x1, y1) in enumerate(boxes, start=1):
        (expected,) = CLIPVisionEncode().encode(clip_vision, wide[:, y0:y1, x0:x1], "center")
        torch.testing.assert_close(
            references.image_embeds[index : index + 1], expected["image_embeds"].float(), rtol=0, atol=1e-5
        )
        torch.testing.assert_close(
            references.hidden_states[index], expected["penultimate_hidden_states"][0].float(), rtol=0, atol=1e-4
        )
    _, whole, _ = encode([photos["astronaut"]], clip_vision=clip_vision)
    assert torch.equal(crops[:1], whole)


def test_a_tall_photo_is_cut_from_top_to_bottom(photos, clip_vision):
    _, crops, report = encode([photos["bus"]], crop="tiles", clip_vision=clip_vision)
    assert [entry["box"] for entry in report["photos"]] == [[0, 0, 810, 810], [0, 270, 810, 1080]]
    assert torch.equal(crops[1:], crop_for_encoder(photos["bus"][0, 270:], None, size=SIZE))


def test_aggregators_take_tiles_for_photos(photos, clip_vision):
    images = [photos["night"], photos["bus"], photos["carphone_0"]]
    references, _, report = encode(images, crop="tiles", clip_vision=clip_vision)
    assert [entry["photo"] for entry in report["photos"]] == [1, 1, 2, 2, 3, 3]
    average = pool(references, "avg")
    torch.testing.assert_close(average.image_embeds[0], references.image_embeds.mean(dim=0))
    weights = weights_of_entries(references.report, [0.0, 3.0, 1.0])
    assert weights == [0.0, 0.0, 3.0, 3.0, 1.0, 1.0]
    weighted = pool(references, "avg", photo_weights=weights)
    expected = (3 * references.image_embeds[2:4].sum(0) + references.image_embeds[4:].sum(0)) / 8
    torch.testing.assert_close(weighted.image_embeds[0], expected)
    assert [entry.status for entry in weighted.report] == ["dropped"] * 2 + ["kept"] * 4
    assert [entry.tile for entry in weighted.report] == ["1 of 2", "2 of 2"] * 3
    assert weights_of_entries(references.report, list(range(6))) == list(range(6))
    assert weights_of_entries(references.report, [1.0, 2.0]) == [1.0, 2.0]  # as many as neither


def test_tiles_share_the_vector_of_their_photo(photos, clip_vision, face_analysis):
    images = [photos["bus"], photos["night"], photos["astronaut"]]
    references, _, report = encode(images, crop="tiles", clip_vision=clip_vision, face_analysis=face_analysis)
    assert [(entry["photo"], entry["status"]) for entry in report["photos"]] == [
        (1, "kept"),
        (1, "kept"),
        (2, "dropped"),
        (3, "kept"),
    ]
    assert references.face_embeds.shape == (3, 512) and references.has_face.all()
    assert torch.equal(references.face_embeds[0], references.face_embeds[1])
    alone, _, report = encode(images[:1], crop="tiles", face_analysis=face_analysis)
    assert alone.face_embeds.shape == (1, 512) and report["photos"][0]["tile"] == ""


# Face embeddings


def test_face_embeddings_come_with_the_features(photos, clip_vision, face_analysis):
    names = ["astronaut", "grace_hopper"]
    references, _, report = encode(
        [photos[name] for name in names], clip_vision=clip_vision, face_analysis=face_analysis
    )
    assert references.has_face.tolist() == [True, True] and report["kept"] == 2
    for row, name in zip(references.face_embeds, names, strict=True):
        expected = face_analysis.detect(to_uint8(photos[name][0]))[0].embedding
        assert np.array_equal(row.numpy(), expected)
    assert references.face_embeds.norm(dim=-1).tolist() == pytest.approx([1, 1], abs=1e-5)
    without, _, _ = encode([photos[name] for name in names], clip_vision=clip_vision)
    assert torch.equal(references.image_embeds, without.image_embeds)


def test_face_embeddings_alone(photos, face_analysis):
    references, _, _ = encode([photos["astronaut"], photos["bus"]], face_analysis=face_analysis)
    assert references.face_embeds.shape == (2, 512)
    assert references.image_embeds is None and references.hidden_states is None
    assert references.zero_hidden_states is None


def test_a_photo_without_a_face_under_face_analysis(photos, clip_vision, face_analysis):
    images = [photos["night"], photos["astronaut"]]
    skipped, _, report = encode(images, clip_vision=clip_vision, face_analysis=face_analysis)
    assert outcome(report) == [("dropped", "no face found"), ("kept", "")]
    assert skipped.has_face.tolist() == [True]
    replaced, _, report = encode(images, on_missing="whole", clip_vision=clip_vision, face_analysis=face_analysis)
    assert outcome(report) == [("kept", "no face found, whole photo used"), ("kept", "")]
    assert replaced.has_face.tolist() == [False, True]
    assert torch.equal(replaced.face_embeds[1:], skipped.face_embeds)
    with pytest.raises(ValueError, match="^Photo 1 of 2: no face found"):
        encode(images, on_missing="error", clip_vision=clip_vision, face_analysis=face_analysis)
    nothing, _, _ = encode(images[:1], on_missing="whole", clip_vision=clip_vision, face_analysis=face_analysis)
    assert nothing.face_embeds is None and nothing.has_face is None and nothing.count == 1


def test_a_person_without_a_visible_face_keeps_its_crop(photos, clip_vision, face_analysis, monkeypatch):
    _, crops, _ = encode([photos["bus"]], crop="person", clip_vision=clip_vision)
    monkeypatch.setattr(InsightFaceAnalysis, "detect", lambda self, image: [])
    references, same_crops, report = encode(
        [photos["bus"]], crop="person", on_missing="whole", clip_vision=clip_vision, face_analysis=face_analysis
    )
    assert outcome(report) == [("kept", "no face found, person used without face embedding")]
    assert torch.equal(same_crops, crops) and references.face_embeds is None


@pytest.mark.parametrize("on_missing", ["skip", "whole"])
def test_without_an_encoder_a_faceless_photo_has_nothing_to_give(on_missing, photos, face_analysis):
    images = [photos["night"], photos["astronaut"]]
    references, _, report = encode(images, on_missing=on_missing, face_analysis=face_analysis)
    assert outcome(report) == [("dropped", "no face found, and no clip_vision for the whole photo"), ("kept", "")]
    assert references.face_embeds.shape == (1, 512) and references.has_face.tolist() == [True]
    with pytest.raises(ValueError, match="^None of the 1 photos can be used: no face found") as caught:
        encode(images[:1], on_missing=on_missing, face_analysis=face_analysis)
    assert "on_missing" not in str(caught.value)


# Core's face detection model


class CoreFaceModel:
    """Stands in for ComfyUI's FaceLandmarkerModel, whose weights no package ships; the same signature."""

    def __init__(self, faces):
        self.faces = faces
        self.seen = []

    def detect_batch(self, images, num_faces: int, score_thresh: float, variant: str):
        self.seen.append((variant, num_faces, score_thresh))
        assert all(image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] == 3 for image in images)
        return [
            [
                {"bbox_xyxy": np.array(box, dtype=np.float32), "score": np.float32(0.9), "landmarks_xy": None}
                for kind, box in self.faces
                if kind == variant
            ]
            for _ in images
        ]


def test_the_stand_in_has_cores_signature():
    from comfy_extras.nodes_mediapipe import FaceLandmarkerModel

    ours, cores = (inspect.signature(kind.detect_batch).parameters for kind in (CoreFaceModel, FaceLandmarkerModel))
    assert [(name, ours[name].kind) for name in ours] == [(name, cores[name].kind) for name in cores]


def test_cores_face_detection_model_serves_for_face_crops(photos, clip_vision):
    large, small = (100, 100, 220, 230), (300, 50, 330, 90)
    model = CoreFaceModel([("short", small), ("full", large)])
    references, _, report = encode([photos["astronaut"]], crop="face", clip_vision=clip_vision, face_analysis=model)
    assert sorted(model.seen) == [("full", 0, 0.5), ("short", 0, 0.5)]  # 0: no limit
    square = crop_square(photos["astronaut"][0], square_box(large, margin=FACE_MARGIN, image_size=(512, 512)))
    expected = clip_vision.encode_image(square[None])["image_embeds"].float()
    assert torch.equal(references.image_embeds, expected)
    assert references.face_embeds is None and outcome(report) == [("kept", "")]


def test_cores_model_is_not_asked_for_whole_photos_and_may_find_nothing(photos, clip_vision):
    model = CoreFaceModel([])
    _, _, report = encode([photos["astronaut"]], on_missing="error", clip_vision=clip_vision, face_analysis=model)
    assert model.seen == [] and outcome(report) == [("kept", "")]
    with pytest.raises(ValueError, match="no face found"):
        encode([photos["astronaut"]], crop="face", clip_vision=clip_vision, face_analysis=model)


def test_one_face_in_both_of_cores_models_counts_once(photos, clip_vision):
    other = (300, 50, 330, 90)
    model = CoreFaceModel([("short", (100, 100, 220, 230)), ("full", (104, 98, 225, 232)), ("full", other)])
    choice = {"crop": "face", "clip_vision": clip_vision, "face_analysis": model}
    _, crops, report = encode([photos["astronaut"]], face_index="1", **choice)
    assert report["photos"][0]["faces"] == 2
    assert torch.equal(crops, crop_for_encoder(photos["astronaut"][0], other, margin=FACE_MARGIN, size=SIZE))


# insightface of other packs


def test_insightface_of_another_pack_serves_like_ours(photos, clip_vision, face_analysis):
    foreign = face_analysis._analysis  # what such a loader hands out: insightface's own object
    assert type(foreign).__module__.startswith("insightface")
    for inputs in ({"clip_vision": clip_vision, "crop": "face"}, {}):
        ours, crops, _ = encode([photos["astronaut"], photos["bus"]], face_analysis=face_analysis, **inputs)
        theirs, same_crops, _ = encode([photos["astronaut"], photos["bus"]], face_analysis=foreign, **inputs)
        assert torch.equal(ours.face_embeds, theirs.face_embeds) and torch.equal(crops, same_crops)


def test_something_else_at_face_analysis_is_refused(photos, clip_vision):
    with pytest.raises(ValueError, match="^face_analysis is a dict; expected insightface's FaceAnalysis"):
        encode([photos["astronaut"]], clip_vision=clip_vision, face_analysis={"insightface": None})


# Progress and interrupting


def test_progress_reaches_its_end(photos, clip_vision, monkeypatch):
    seen = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *given, **named: seen.append(given[:2]))
    encode([photos[f"carphone_{index}"] for index in range(5)], clip_vision=clip_vision)
    assert seen[0] == (1, 10) and seen[-1] == (10, 10)


def test_progress_reaches_its_end_when_photos_are_left_out(photos, clip_vision, monkeypatch):
    seen = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *given, **named: seen.append(given[:2]))
    encode([photos["astronaut"], torch.zeros(1, 64, 64, 3)], clip_vision=clip_vision, crop="face")
    assert seen[-1] == (4, 4)


@pytest.mark.parametrize("after", [0, 1, 5])
def test_interrupting(after, photos, clip_vision, monkeypatch):
    """Before the first photo, between photos, and after the last one, before anything is encoded."""
    calls, encoded = [], []
    monkeypatch.setattr(comfy.utils.ProgressBar, "update", lambda self, value: count())

    def count():
        calls.append(1)
        if len(calls) == after:
            comfy.model_management.interrupt_current_processing()

    encode_image = clip_vision.encode_image
    monkeypatch.setattr(clip_vision, "encode_image", lambda image: encoded.append(1) or encode_image(image))
    if after == 0:
        comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        encode([photos[f"carphone_{index}"] for index in range(5)], clip_vision=clip_vision)
    assert len(calls) == after and encoded == []


# The loader of face analysis


@pytest.fixture
def models_dir(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    return tmp_path


def test_the_loader_reads_models_insightface(models_dir, photos):
    write_face_analysis_pack(models_dir / "insightface", "my pack")
    assert BoLIDFaceAnalysisLoader.define_schema().inputs[0].options == ["buffalo_l", "antelopev2", "my pack"]
    (analysis,) = BoLIDFaceAnalysisLoader.execute("my pack", "CPU").result
    assert isinstance(analysis, InsightFaceAnalysis)
    assert analysis.detect(to_uint8(photos["astronaut"][0]))


def test_the_loader_names_the_folder_of_a_missing_pack(models_dir):
    assert BoLIDFaceAnalysisLoader.define_schema().inputs[0].options == ["buffalo_l", "antelopev2"]
    with pytest.raises(FileNotFoundError) as caught:
        BoLIDFaceAnalysisLoader.execute("buffalo_l", "CPU")
    assert str(models_dir / "insightface" / "models" / "buffalo_l") in str(caught.value)
    assert re.search(r"It is probably the public file buffalo_l .* models download buffalo_l", str(caught.value))
    with pytest.raises(FileNotFoundError, match="has no .onnx files[^?]*folder.$"):
        BoLIDFaceAnalysisLoader.execute("a pack of my own", "CPU")
