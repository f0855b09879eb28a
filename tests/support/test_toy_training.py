"""The toy world: what it draws is what it says, and its models are what a training run takes them for."""

import hashlib
import socket
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from bolid.models.keypoints import COCO_KEYPOINTS, FIRST_JOINT, JOINTS
from bolid.training.people import PreparedPeople

from . import toy_training
from .toy_training import (
    CLOTHES,
    PEOPLE,
    PHOTOS,
    SCALING_FACTOR,
    draw_photo,
    write_toy_base,
    write_toy_clip,
    write_toy_image_encoder,
    write_toy_people,
)

EVERYBODY = [(person, photo) for person in range(PEOPLE) for photo in range(PHOTOS)]


@pytest.fixture
def untouched():
    """Fails the test if it moved a global random state or the number of threads."""
    state, numpy_state, threads = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_num_threads()
    yield
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()
    assert torch.get_num_threads() == threads


@pytest.fixture
def offline(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("something asks for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def pixels_of(photos):
    """[n, 3, 64, 64] in -1 to 1."""
    pictures = [np.array(draw_photo(person, photo).picture) for person, photo in photos]
    return torch.from_numpy(np.stack(pictures)).movedim(-1, 1) / 127.5 - 1


def test_the_prepared_people_are_those_of_the_pictures(tmp_path, untouched):
    prepared = PreparedPeople.read(write_toy_people(tmp_path))
    assert prepared.source == tmp_path / "photos"
    assert [len(person.photos) for person in prepared.people] == [PHOTOS] * PEOPLE
    assert Counter(person.split for person in prepared.people) == {"train": 8, "test": 4}
    for person, prepared_person in enumerate(prepared.people):
        for number, photo in enumerate(prepared_person.photos):
            path = prepared.source / photo.file
            assert hashlib.sha256(path.read_bytes()).hexdigest() == photo.sha256
            with Image.open(path) as picture:
                assert picture.size == (photo.width, photo.height)
                assert (np.array(picture) == np.array(draw_photo(person, number).picture)).all()


def test_pictures_of_several_shapes(tmp_path):
    prepared = PreparedPeople.read(write_toy_people(tmp_path, people=2, photos=3, sizes=((64, 96), (96, 64))))
    for person in prepared.people:
        assert [(photo.width, photo.height) for photo in person.photos] == [(64, 96), (96, 64), (64, 96)]


def test_joints_and_boxes_lie_on_the_person():
    on_clothes = []
    for person, number in EVERYBODY:
        photo = draw_photo(person, number)
        pixels = np.array(photo.picture).astype(int)
        clothes = np.array(list(CLOTHES.values())[person % len(CLOTHES)])
        points = photo.keypoints[:, :2].numpy()
        x0, y0, x1, y1 = photo.person_box
        assert ((points >= (x0, y0)) & (points <= (x1, y1))).all()
        for x, y in points[FIRST_JOINT:]:
            on_clothes.append(np.abs(pixels[int(y * 64), int(x * 64)] - clothes).max() < 30)
        x0, y0, x1, y1 = photo.face_box
        assert ((points[:FIRST_JOINT] >= (x0, y0)) & (points[:FIRST_JOINT] <= (x1, y1))).all()
    # Some wrists are in front of the head.
    assert np.mean(on_clothes) > 0.97


def test_left_is_on_the_right_side_of_a_person_who_faces_the_viewer():
    for person, number in EVERYBODY:
        x = dict(zip(COCO_KEYPOINTS, draw_photo(person, number).keypoints[:, 0].tolist(), strict=True))
        assert x["left_shoulder"] > x["right_shoulder"]
        assert x["left_eye"] > x["right_eye"]
    assert COCO_KEYPOINTS[FIRST_JOINT:] == JOINTS


def test_captions_name_the_clothes_only_where_asked():
    for person, number in EVERYBODY:
        caption = draw_photo(person, number).caption
        assert not any(name in caption.split() for name in CLOTHES)
        assert list(CLOTHES)[person % len(CLOTHES)] in draw_photo(person, number, dressed=True).caption


def test_latents_are_of_unit_scale_and_carry_the_picture():
    model, pixels = toy_training._autoencoder(), pixels_of(EVERYBODY)
    with torch.no_grad():
        latents = model.encode(pixels).latents
        decoded = model.decode(latents).sample
    assert latents.shape == (len(EVERYBODY), 4, 8, 8)
    deviation = SCALING_FACTOR * latents.std(dim=(0, 2, 3))
    assert ((deviation > 0.4) & (deviation < 1.2)).all()
    blocks = torch.nn.functional.avg_pool2d(pixels, 8)
    assert (torch.nn.functional.avg_pool2d(decoded, 8) - blocks).abs().mean() < 0.05


@pytest.mark.parametrize(("family", "pipeline_name"), [("sd15", "StableDiffusion"), ("sdxl", "StableDiffusionXL")])
def test_the_base_draws_pictures_in_diffusers(family, pipeline_name, tmp_path, offline, monkeypatch):
    import diffusers

    monkeypatch.setattr(toy_training, "PRETRAINING_STEPS", 2)
    folder = write_toy_base(tmp_path, family=family, prediction_type="v_prediction")
    pipeline = getattr(diffusers, f"{pipeline_name}Pipeline").from_pretrained(folder)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert pipeline.tokenizer("a photo").input_ids == [49406, 320, 1125, 49407]
    assert pipeline.tokenizer.model_max_length == 77
    if family == "sdxl":
        assert pipeline.tokenizer_2("", padding="max_length").input_ids[2:] == [0] * 75
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline(
        "a person on a grey background",
        num_inference_steps=2,
        height=64,
        width=64,
        generator=torch.Generator().manual_seed(0),
    ).images[0]
    assert picture.size == (64, 64)
    assert np.array(picture).std() > 1


def test_pretraining_is_repeatable_and_teaches(tmp_path, untouched, monkeypatch):
    from diffusers import UNet2DConditionModel

    monkeypatch.setattr(toy_training, "PRETRAINING_STEPS", 12)
    folders = [write_toy_base(tmp_path / name, trained=name != "fresh") for name in ("one", "two", "fresh")]
    one, two, fresh = (UNet2DConditionModel.from_pretrained(folder, subfolder="unet").eval() for folder in folders)
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
    generator = torch.Generator().manual_seed(0)
    noise, text = (torch.randn(8, *shape, generator=generator) for shape in ((4, 8, 8), (77, 32)))
    with torch.no_grad():
        trained_error, error = (
            (unet(noise, 999, encoder_hidden_states=text).sample - noise).square().mean() for unet in (one, fresh)
        )
    assert trained_error < 0.6 * error


def test_captions_are_encoded_differently():
    parts = toy_training._text_parts("sd15")
    captions = [f"a person in {clothes} clothes on a grey background" for clothes in CLOTHES]
    tokens = parts["tokenizer"](captions, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        means = parts["text_encoder"](tokens).last_hidden_state.mean(dim=1)
    # One twentieth with plain random weights.
    assert means.var(dim=0).sum() > 1


def test_the_image_encoder_tells_people_apart(tmp_path, untouched):
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    model = CLIPVisionModelWithProjection.from_pretrained(write_toy_image_encoder(tmp_path))
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pictures = [draw_photo(person, photo).picture for person, photo in EVERYBODY]
    with torch.no_grad():
        embeds = model(processor(pictures, return_tensors="pt").pixel_values).image_embeds.view(PEOPLE, PHOTOS, -1)
    target, references = embeds[:, 0], embeds[:, 1:].mean(dim=1)
    nearest = torch.cdist(references, references).fill_diagonal_(torch.inf).argmin(dim=1)
    # Whoever is most alike wears the same clothes.
    assert (nearest % len(CLOTHES) == torch.arange(PEOPLE) % len(CLOTHES)).float().mean() > 0.7
    distances = torch.cdist(target, references)
    assert distances.diagonal().mean() < 0.8 * distances.mean()


def test_open_clip_reads_its_folder_without_a_network(tmp_path, offline):
    open_clip = pytest.importorskip("open_clip")

    state = torch.get_rng_state()
    name = f"local-dir:{write_toy_clip(tmp_path)}"
    assert torch.equal(torch.get_rng_state(), state)
    model, _, transform = open_clip.create_model_and_transforms(name)
    tokens = open_clip.get_tokenizer(name)(["a person on a grey background"])
    pixels = torch.stack([transform(draw_photo(person, 0).picture) for person in range(2)]).requires_grad_()
    assert pixels.shape == (2, 3, 32, 32)
    image, text = model.encode_image(pixels), model.encode_text(tokens)
    assert image.shape == (2, 64) and text.shape == (1, 64)
    torch.nn.functional.cosine_similarity(image, text).sum().backward()
    assert pixels.grad.abs().amax(dim=(1, 2, 3)).min() > 1e-4
