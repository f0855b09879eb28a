"""The pictures that are compared: whose they are, whether they are there, and how networks are shown them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bolid.evaluation.pictures import PictureFiles, Shown, as_floats, shown_photo, squared
from bolid.evaluation.plan import Plan
from bolid.training.pictures import picture

from .conftest import SIDE, Toy


def noise(width: int, height: int, *, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8))


def test_a_picture_of_the_right_size_is_shown_as_it_is(tmp_path: Path) -> None:
    noise(SIDE, SIDE).save(tmp_path / "a.png")
    pixels = Shown(key="a", path=tmp_path / "a.png").pixels(SIDE)
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels.movedim(0, -1), torch.from_numpy(np.array(noise(SIDE, SIDE))))
    assert torch.equal(as_floats(torch.tensor([0, 255], dtype=torch.uint8)), torch.tensor([-1.0, 1.0]))


def test_others_give_their_middle_square() -> None:
    image = noise(90, 60)
    assert squared(image, 60).tobytes() == image.crop((15, 0, 75, 60)).tobytes()
    assert squared(image, 30).size == (30, 30)


def test_a_photo_is_cut_as_training_cuts_it(toy: Toy, tmp_path: Path) -> None:
    photo = toy.plan(toy.settings(tmp_path, {"base": {}})).people[0].photos[0]
    pixels = shown_photo(photo).pixels(SIDE)
    assert torch.equal(as_floats(pixels), picture(Image.open(photo.path).convert("RGB"), photo.placement))


def test_keys_are_of_content_and_cut(toy: Toy, tmp_path: Path) -> None:
    plan = toy.plan(toy.settings(tmp_path, {"base": {}}))
    photos = [photo for person in plan.people for photo in person.photos]
    assert len({shown_photo(photo).key for photo in photos}) == len(photos)
    files = PictureFiles(toy.settings(tmp_path, {"base": {}}), plan, tmp_path)
    (setting,) = plan.settings()
    for request, seed in zip(plan.requests[:3], (0, 0, 1), strict=True):
        path = files.path(setting, request)
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(8, 8, seed=seed).save(path)
    keys = [files.shown(setting, request).key for request in plan.requests[:3]]
    assert keys[0] == keys[1] != keys[2]
    assert [request.number for request in files.missing(setting, plan.requests[:4])] == [1]


# Pictures that another program drew


def given(toy: Toy, folder: Path, **drawing: Any) -> tuple[Plan, PictureFiles]:
    methods = {"base": {}, "theirs": {"pictures": str(folder), "references": [2]}}
    settings = toy.settings(folder.parent / "out", methods, drawing=drawing)
    plan = toy.plan(settings)
    return plan, PictureFiles(settings, plan, folder.parent / "out" / "pictures")


def draw(plan: Plan, folder: Path, *, side: int = SIDE) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, request in enumerate(plan.requests):
        noise(side, side, seed=number).save(folder / request.file)


def test_given_pictures_are_taken_as_they_are(toy: Toy, tmp_path: Path) -> None:
    plan, files = given(toy, tmp_path / "theirs")
    draw(plan, tmp_path / "theirs")
    assert files.check_given() == []
    setting = next(each for each in plan.settings() if each.variant.method == "theirs")
    shown = files.shown(setting, plan.requests[0])
    assert shown.path == tmp_path / "theirs" / plan.requests[0].file and not shown.is_drawn


def test_given_pictures_of_several_seeds_lie_in_folders(toy: Toy, tmp_path: Path) -> None:
    plan, files = given(toy, tmp_path / "theirs", seeds=[0, 3])
    for seed in (0, 3):
        draw(plan, tmp_path / "theirs" / f"seed_{seed}")
    assert files.check_given() == []
    paths = {files.path(each, plan.requests[0]) for each in plan.settings() if each.variant.method == "theirs"}
    assert paths == {tmp_path / "theirs" / f"seed_{seed}" / plan.requests[0].file for seed in (0, 3)}


def test_what_is_wrong_with_given_pictures(toy: Toy, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    plan, files = given(toy, folder)
    first, second = (request.file for request in plan.requests[:2])
    with pytest.raises(ValueError, match="methods.theirs.pictures is .*theirs, but there is no such folder"):
        files.check_given()
    folder.mkdir()
    with pytest.raises(ValueError, match=f"lacks 8 of 8 pictures, such as {first}, .*plan.jsonl in .*out says"):
        files.check_given()
    noise(SIDE, SIDE).save(folder / first)
    with pytest.raises(ValueError, match=f"lacks 7 of 8 pictures, such as {second}"):
        files.check_given()
    draw(plan, folder)
    whole = (folder / second).read_bytes()
    (folder / second).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"has 1 pictures that cannot be read \\({second}: "):
        files.check_given()


def test_mixed_sizes_are_told(toy: Toy, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plan, files = given(toy, tmp_path / "theirs")
    draw(plan, tmp_path / "theirs")
    noise(SIDE + 8, SIDE).save(tmp_path / "theirs" / plan.requests[0].file)
    noise(32, 32).save(tmp_path / "theirs" / plan.requests[5].file)
    with caplog.at_level(logging.WARNING):
        (odd,) = files.check_given()
    assert "have other sizes than 64×64 pixels (1 of 32×32, 1 of 72×64)" in odd and odd in caplog.text


def test_a_picture_that_was_spoilt_names_itself(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    for is_drawn, remedy in ((True, "Delete it: the same command draws it again"), (False, "Put a whole file in")):
        with pytest.raises(ValueError, match=f"The picture .*a.png cannot be read .*{remedy}"):
            Shown(key="a", path=tmp_path / "a.png", is_drawn=is_drawn).pixels(SIDE)
