"""What training reads of a data set: who is used, that the photos are unchanged, what the image encoder sees."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from comfy.clip_model import clip_preprocess
from photographs import photograph_path
from PIL import Image

from bolid.detectors.crops import FACE_MARGIN, PERSON_MARGIN, crop_for_encoder, square_box
from bolid.detectors.faces import MediaPipeFaceDetector
from bolid.detectors.people import MediaPipePersonDetector
from bolid.detectors.photos import read_picture
from bolid.models.keypoints import COCO_KEYPOINTS, FIRST_JOINT, LEFT_SHOULDER
from bolid.nodes.encoding import MultiRefImageEncoder
from bolid.training import features as features_module
from bolid.training.base import encode_image, load_image_encoder
from bolid.training.config import BaseSettings, DataSettings
from bolid.training.features import (
    Features,
    People,
    Photo,
    check_photos,
    encoder_pixels,
    load_people,
    with_faces,
)
from bolid.training.people import PreparedPeople, PreparedPerson, PreparedPhoto, PrepareSettings

from ..support.small_models import small_clip_vision
from ..support.toy_training import write_toy_image_encoder, write_toy_people


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    return write_toy_people(tmp_path / "people", people=4, photos=3, sizes=((64, 64), (48, 96)))


@pytest.fixture
def base(tmp_path: Path) -> BaseSettings:
    """As much of a model as tells the sizes of its pictures: 8 pixels per latent, two further levels in the UNet."""
    for part, levels in (("vae", 4), ("unet", 3)):
        config = tmp_path / "base" / part / "config.json"
        config.parent.mkdir(parents=True)
        config.write_text(json.dumps({"block_out_channels": [8] * levels}))
    return BaseSettings(path=tmp_path / "base", image_encoder=tmp_path / "encoder", resolution=64)


def changed(prepared: Path, change: Callable[[PreparedPerson, int], PreparedPerson]) -> None:
    """Change each person in people.json."""
    people = PreparedPeople.read(prepared)
    changes = {"people": tuple(change(person, number) for number, person in enumerate(people.people))}
    people.model_copy(update=changes).write(prepared)


def with_photos(person: PreparedPerson, change: Callable[[PreparedPhoto, int], dict[str, Any]]) -> PreparedPerson:
    photos = [photo.model_copy(update=change(photo, number)) for number, photo in enumerate(person.photos)]
    return person.model_copy(update={"photos": tuple(photos)})


def load(prepared: Path, base: BaseSettings, **data: Any) -> People:
    return load_people(DataSettings(path=prepared, **data), base)


# Who is used


def test_people_of_a_data_set(prepared: Path, base: BaseSettings):
    people = load(prepared, base)
    expected = PreparedPeople.read(prepared).people
    for split, found in (("train", people.train), ("test", people.test)):
        assert [person.name for person in found] == [person.name for person in expected if person.split == split]
        assert found
    assert len(people.photos) == 12
    for photo in people.photos:
        assert photo.usable and photo.path.is_file()
        assert photo.name == photo.prepared.file == f"{photo.path.parent.name}/{photo.path.name}"
        assert photo.face_crop is None
        assert photo.body_crop == (photo.prepared.person_box, PERSON_MARGIN)
        assert photo.placement.size == (64, 64)


def test_crop_of_the_references(prepared: Path, base: BaseSettings):
    for photo in load(prepared, base, crop="face").photos:
        assert photo.face_crop == (photo.prepared.face_box, FACE_MARGIN)
    for photo in load(prepared, base, crop="person").photos:
        assert photo.face_crop == (photo.prepared.person_box, PERSON_MARGIN)


def test_buckets(prepared: Path, base: BaseSettings):
    base = base.model_copy(update={"resolution": 128})
    assert {photo.placement.size for photo in load(prepared, base, buckets=True).photos} == {(128, 128), (160, 96)}
    assert {photo.placement.size for photo in load(prepared, base).photos} == {(128, 128)}


def test_not_prepared(tmp_path: Path, base: BaseSettings):
    with pytest.raises(FileNotFoundError, match="holds no prepared data set.*Run bolid prepare"):
        load(tmp_path, base)


@pytest.mark.parametrize(("resolution", "nearest"), [(72, 64), (88, 96), (40, 32)])
def test_resolution_that_the_model_cannot_draw(prepared: Path, base: BaseSettings, resolution: int, nearest: int):
    base = base.model_copy(update={"resolution": resolution})
    expected = f"base.resolution is {resolution}, .* multiples of 32. Take {nearest}"
    with pytest.raises(ValueError, match=expected):
        load(prepared, base)


def test_photo_without_a_face_is_no_reference(prepared: Path, base: BaseSettings):
    changed(
        prepared,
        lambda person, _: with_photos(person, lambda photo, number: {"face_box": None} if number == 1 else {}),
    )
    for person in (people := load(prepared, base, crop="face")).train + people.test:
        assert [photo.usable for photo in person.photos] == [True, False, True]
    assert all(photo.usable for photo in load(prepared, base, crop="whole").photos)
    assert all(photo.usable for photo in load(prepared, base, crop="person").photos)


@pytest.mark.parametrize(("faces", "is_left_out"), [(0, True), (1, False), (2, False)])
def test_person_without_references_is_left_out(
    prepared: Path, base: BaseSettings, caplog: pytest.LogCaptureFixture, faces: int, is_left_out: bool
):
    """With one face the other photos can be drawn from it."""
    name = next(person.name for person in PreparedPeople.read(prepared).people if person.split == "train")
    without = lambda photo, number: {} if number < faces else {"face_box": None}  # noqa: E731
    changed(prepared, lambda person, _: with_photos(person, without) if person.name == name else person)
    people = load(prepared, base, crop="face")
    assert (name not in [person.name for person in people.train]) == is_left_out
    message = f"1 people are left out: data.crop is 'face', and none of their photos shows one ({name})"
    assert (message in caplog.text) == is_left_out
    assert name in [person.name for person in load(prepared, base).train]


def test_nobody_to_train_on(prepared: Path, base: BaseSettings):
    changed(prepared, lambda person, _: with_photos(person, lambda photo, number: {"face_box": None}))
    with pytest.raises(ValueError, match="nobody to train on: of 4 people none .* data.crop = 'face'"):
        load(prepared, base, crop="face")
    changed(prepared, lambda person, _: person.model_copy(update={"split": "test"}))
    with pytest.raises(ValueError, match="nobody to train on.*Lower test_share"):
        load(prepared, base)


def test_nobody_held_out(prepared: Path, base: BaseSettings, caplog: pytest.LogCaptureFixture):
    load(prepared, base)
    assert not caplog.records
    changed(prepared, lambda person, _: person.model_copy(update={"split": "train"}))
    assert load(prepared, base).test == []
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "holds nobody out, so nothing is validated; see test_share" in caplog.text


def test_fingerprint_changes_with_the_people(prepared: Path, base: BaseSettings, tmp_path: Path):
    before = load(prepared, base).fingerprint
    moved = shutil.copytree(prepared, tmp_path / "elsewhere")
    people = PreparedPeople.read(moved)
    people.model_copy(update={"source": tmp_path}).write(moved)
    assert load(moved, base).fingerprint == before
    captions = lambda photo, number: {"caption": "somebody else"} if number == 2 else {}  # noqa: E731
    changed(prepared, lambda person, number: with_photos(person, captions) if number == 3 else person)
    assert load(prepared, base).fingerprint != before


def faces_in(*names: str) -> Any:
    """Features of a data set in whose photos insightface finds faces, those of these names only."""
    return SimpleNamespace(face_embeds=lambda photo: torch.ones(512) if photo.path.name in names else None)


def test_photos_in_which_insightface_finds_a_face(prepared: Path, base: BaseSettings, caplog: pytest.LogCaptureFixture):
    people = load(prepared, base)
    found = with_faces(people, faces_in("0.png", "2.png"))
    for person in found.train + found.test:
        assert [photo.usable for photo in person.photos] == [True, False, True]
    assert [person.name for person in found.train] == [person.name for person in people.train]
    assert found.fingerprint == people.fingerprint
    assert not caplog.records


def test_faces_are_looked_for_only_in_photos_that_may_be_references(prepared: Path, base: BaseSettings):
    """Of the others nothing is cached."""
    without = lambda photo, number: {"person_box": None} if number == 2 else {}  # noqa: E731
    changed(prepared, lambda person, _: with_photos(person, without))
    for person in with_faces(load(prepared, base, crop="person"), faces_in("0.png", "2.png")).train:
        assert [photo.usable for photo in person.photos] == [True, False, False]


def test_people_without_a_face_for_insightface(prepared: Path, base: BaseSettings, caplog: pytest.LogCaptureFixture):
    people = load(prepared, base)
    first = people.train[0]
    in_others = SimpleNamespace(face_embeds=lambda photo: None if photo in first.photos else torch.ones(512))
    assert with_faces(people, in_others).train == people.train[1:]
    assert "1 people are left out: insightface finds no face" in caplog.text
    with pytest.raises(ValueError, match="nobody to train on: insightface finds no face"):
        with_faces(people, faces_in())


# Photos that have changed


@pytest.fixture
def photos(prepared: Path, base: BaseSettings) -> list[Photo]:
    return load(prepared, base).photos


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files that were read to the end."""
    names: list[str] = []
    file_hash = features_module.file_hash

    def counted(path: Path) -> str:
        names.append(f"{path.parent.name}/{path.name}")
        return file_hash(path)

    monkeypatch.setattr(features_module, "file_hash", counted)
    return names


def check(photos: list[Photo], record: Path) -> list[tuple[str, int, int]]:
    told: list[tuple[str, int, int]] = []
    check_photos(photos, record, lambda stage, done, total, note="": told.append((stage, done, total)))
    return told


def test_photos_are_read_once(photos: list[Photo], tmp_path: Path, hashed: list[str]):
    record = tmp_path / "new" / "photos.json"
    assert check(photos, record)[-1] == ("photos", 12, 12)
    assert hashed == [photo.name for photo in photos]
    check(photos, record)
    assert len(hashed) == 12


def test_touched_photo_is_read_again_and_remembered(photos: list[Photo], tmp_path: Path, hashed: list[str]):
    check(photos, tmp_path / "photos.json")
    hashed.clear()
    os.utime(photos[5].path, (1, 1))
    check(photos, tmp_path / "photos.json")
    check(photos, tmp_path / "photos.json")
    assert hashed == [photos[5].name]


def test_photos_that_were_prepared_again_are_read_again(photos: list[Photo], tmp_path: Path, hashed: list[str]):
    check(photos, tmp_path / "photos.json")
    hashed.clear()
    other = photos[0].prepared.model_copy(update={"sha256": "0" * 64})
    changed_photo = Photo(**{**vars(photos[0]), "prepared": other})
    with pytest.raises(ValueError, match=f"{photos[0].name} has changed"):
        check([changed_photo, *photos[1:]], tmp_path / "photos.json")
    assert hashed == [photos[0].name]


@pytest.mark.parametrize("known", [True, False])
def test_changed_and_missing_photos(photos: list[Photo], tmp_path: Path, known: bool):
    record = tmp_path / "photos.json"
    if known:
        check(photos, record)
    before = record.read_bytes() if known else None
    content = bytearray(photos[3].path.read_bytes())
    content[-1] ^= 1  # of the same size
    photos[3].path.write_bytes(content)
    photos[7].path.unlink()
    for _ in range(2):
        with pytest.raises(ValueError) as caught:
            check(photos, record)
        assert str(caught.value) == (
            f"The photos are no longer those that were prepared: {photos[3].name} has changed; {photos[7].path} is "
            "gone. Run bolid prepare again."
        )
    assert (record.read_bytes() if record.is_file() else None) == before


def test_many_missing_photos(photos: list[Photo], tmp_path: Path):
    for photo in photos[:8]:
        photo.path.unlink()
    with pytest.raises(ValueError, match=f"{photos[4].path} is gone; and 3 more. Run") as caught:
        check(photos, tmp_path / "photos.json")
    assert photos[5].name not in str(caught.value)


def test_damaged_record(photos: list[Photo], tmp_path: Path):
    record = tmp_path / "photos.json"
    record.write_text('{"anna')
    with pytest.raises(ValueError, match=f"{record} is damaged .*Delete it"):
        check(photos, record)


# What the image encoder sees


def as_node_input(image: Image.Image) -> torch.Tensor:
    """[1, H, W, 3], as ComfyUI's LoadImage gives it."""
    return torch.from_numpy(np.array(image).astype(np.float32) / 255.0)[None]


def preprocessed(photo: torch.Tensor, size: int) -> torch.Tensor:
    """[1, S, S, 3] in 0 to 1: what ComfyUI makes of a picture before it normalises it."""
    return clip_preprocess(photo, size=size, mean=[0.0] * 3, std=[1.0] * 3).movedim(1, -1)


@pytest.mark.parametrize("name", ["astronaut", "grace_hopper", "tom_hanks", "bus", "carphone_0"])
@pytest.mark.parametrize("size", [224, 336, 32])
def test_whole_photos_are_cut_as_comfyui_does(photographs: dict[str, Image.Image], name: str, size: int):
    photo = as_node_input(photographs[name])
    crop = crop_for_encoder(photo[0], None, size=size)
    assert crop.shape == (1, size, size, 3)
    assert torch.equal(crop, preprocessed(photo, size))
    assert torch.equal(preprocessed(crop, size), crop)  # the encoder's own preparation changes nothing


@pytest.fixture(scope="module")
def real_photos() -> dict[str, PreparedPhoto]:
    """Photographs with the boxes that `bolid prepare` writes."""
    found = {}
    with MediaPipeFaceDetector() as face_detector, MediaPipePersonDetector() as person_detector:
        for name in ("astronaut", "grace_hopper"):
            path = photograph_path(name)
            image, (width, height) = read_picture(path)
            boxes = [detector.detect(np.asarray(image))[0].box for detector in (face_detector, person_detector)]
            face_box, person_box = (
                tuple(round(edge / length, 6) for edge, length in zip(box, (width, height) * 2, strict=True))
                for box in boxes
            )
            found[name] = PreparedPhoto(
                file=path.name,
                sha256="0" * 64,
                width=width,
                height=height,
                caption="a person",
                keypoints=((0.0, 0.0, 0.0),) * len(COCO_KEYPOINTS),
                person_box=person_box,
                face_box=face_box,
            )
    return found


def load_real(folder: Path, base: BaseSettings, photos: dict[str, PreparedPhoto], crop: str) -> list[Photo]:
    person = PreparedPerson(name="anna", split="train", photos=tuple(photos.values()))
    for name in photos:
        shutil.copyfile(photograph_path(name), folder / photograph_path(name).name)
    PreparedPeople(source=folder, settings=PrepareSettings(), people=(person,)).write(folder)
    return load(folder, base, crop=crop).photos


@pytest.mark.parametrize("crop", ["whole", "face", "person"])
def test_encoder_sees_what_the_nodes_show_it(
    tmp_path: Path,
    base: BaseSettings,
    real_photos: dict[str, PreparedPhoto],
    photographs: dict[str, Image.Image],
    crop: str,
):
    photos = load_real(tmp_path, base, real_photos, crop)
    _, crops, _ = MultiRefImageEncoder.execute(
        images=[as_node_input(photographs[name]) for name in real_photos],
        crop=[crop],
        on_missing=["error"],
        clip_vision=[small_clip_vision(image_size=64)],
    ).result
    assert len(crops) == len(photos) == 2
    for photo, expected in zip(photos, crops, strict=True):
        assert torch.equal(encoder_pixels(photo, photo.face_crop, size=64)[0], expected)


def test_the_body_branch_sees_photos_with_both_shoulders(prepared: Path, base: BaseSettings):
    """BodyLandmarkEncoder leaves the others out: they have no scale."""
    people = PreparedPeople.read(prepared)
    first, *others = people.people
    left, *photos = first.photos
    keypoints = list(left.keypoints)
    keypoints[FIRST_JOINT + LEFT_SHOULDER] = (*keypoints[FIRST_JOINT + LEFT_SHOULDER][:2], 0.4)
    changed = first.model_copy(update={"photos": (left.model_copy(update={"keypoints": tuple(keypoints)}), *photos)})
    people.model_copy(update={"people": (changed, *others)}).write(prepared)
    loaded = load(prepared, base, crop="person").photos
    without = [photo for photo in loaded if photo.body_crop is None]
    assert [photo.name for photo in without] == [left.file]
    assert without[0].usable and without[0].face_crop is not None


def test_crop_is_that_of_the_box(
    tmp_path: Path, base: BaseSettings, real_photos: dict[str, PreparedPhoto], photographs: dict[str, Image.Image]
):
    """The astronaut's face, cut by hand."""
    photo = load_real(tmp_path, base, real_photos, "face")[0]
    image = photographs["astronaut"]
    x0, y0, x1, y1 = photo.prepared.face_box
    box = x0 * image.width, y0 * image.height, x1 * image.width, y1 * image.height
    square = square_box(box, margin=0.3, image_size=(image.height, image.width))
    pixels = encoder_pixels(photo, photo.face_crop, size=square[2] - square[0])
    assert torch.equal(pixels, as_node_input(image.crop(square)))


# The cache


@pytest.fixture(scope="module")
def image_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_image_encoder(tmp_path_factory.mktemp("models") / "image_encoder")


def features_of(base: BaseSettings, folder: Path, told: list[tuple[str, int, int]] | None = None) -> Features:
    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        if told is not None:
            told.append((stage, done, total))

    return Features(folder=folder, base=base, device=torch.device("cpu"), progress=progress)


@pytest.mark.parametrize("name", ["image_embeds", "hidden_states"])
def test_features_of_crops(photos: list[Photo], base: BaseSettings, image_encoder: Path, tmp_path: Path, name: str):
    shutil.copytree(image_encoder, base.image_encoder)
    crops = [(photo, crop) for photo in photos[:3] for crop in (None, photo.body_crop)]
    told: list[tuple[str, int, int]] = []
    features = features_of(base, tmp_path / "cache", told)
    features.fill_image(name, crops)
    assert told[0] == (name, 0, 7) and told[-1] == (name, 7, 7)
    encoder = load_image_encoder(base.image_encoder)
    for photo, crop in crops:
        embeds, hidden_states = encode_image(encoder, encoder_pixels(photo, crop, size=32))
        expected = embeds if name == "image_embeds" else hidden_states
        assert torch.equal(features.image(name, photo, crop), expected[0].half())
    zero = encode_image(encoder, None)[("image_embeds", "hidden_states").index(name)]
    assert torch.equal(features.zero_image(name), zero[0].half())
    assert not torch.equal(features.image(name, photos[0], None), features.image(name, photos[0], photos[0].body_crop))


def test_model_is_loaded_only_for_what_is_missing(
    photos: list[Photo],
    base: BaseSettings,
    image_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    shutil.copytree(image_encoder, base.image_encoder)
    features_of(base, tmp_path / "cache").fill_image("image_embeds", [(photo, None) for photo in photos[:3]])
    seen: list[str] = []
    pixels = features_module.encoder_pixels

    def counted(photo: Photo, crop: Any, *, size: int) -> torch.Tensor:
        seen.append(photo.name)
        return pixels(photo, crop, size=size)

    monkeypatch.setattr(features_module, "encoder_pixels", counted)
    features = features_of(base, tmp_path / "cache")
    features.fill_image("image_embeds", [(photo, None) for photo in photos[:5]])
    assert seen == [photo.name for photo in photos[3:5]]
    monkeypatch.setattr(features_module, "load_image_encoder", None)
    features_of(base, tmp_path / "cache").fill_image("image_embeds", [(photo, None) for photo in photos[:5]])


def test_another_encoder_computes_anew(photos: list[Photo], base: BaseSettings, image_encoder: Path, tmp_path: Path):
    shutil.copytree(image_encoder, base.image_encoder)
    features = features_of(base, tmp_path / "cache")
    features.fill_image("image_embeds", [(photos[0], None)])
    weights = base.image_encoder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 64
    weights.write_bytes(content)
    other = features_of(base, tmp_path / "cache")
    other.fill_image("image_embeds", [(photos[0], None)])
    assert not torch.equal(other.zero_image("image_embeds"), features.zero_image("image_embeds"))
