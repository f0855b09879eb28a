"""Likeness and LPIPS: with the photos that no method sees, whatever a picture shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import bolid.evaluation.perceptual as perceptual_module
from bolid.evaluation.likeness import Likeness
from bolid.evaluation.measure import Portraits
from bolid.evaluation.outputs import Outputs
from bolid.evaluation.perceptual import Perceptual, load_classifier
from bolid.evaluation.pictures import Shown, as_floats, shown_photo
from bolid.evaluation.plan import Plan
from bolid.evaluation.sources import Source
from bolid.metrics.similarity import image_alignment
from bolid.training.features import Person

from .conftest import SIDE, Said, Toy

CPU = torch.device("cpu")
WORLD, FACES = Source("recognition", Path("a")), Source("faces", Path("b"))


@pytest.fixture
def plan(toy: Toy, tmp_path: Path) -> Plan:
    return toy.plan(toy.settings(tmp_path, {"m": {"adapter": "a", "references": [2]}}))


def keys_of(photos: Any) -> list[str]:
    return [shown_photo(photo).key for photo in photos]


def said_of_photos(plan: Plan, *, found: bool = True) -> dict[str, dict[str, torch.Tensor]]:
    """Embeddings in the direction of the person, and a bit of noise of the photo."""
    generator = torch.Generator().manual_seed(0)
    said = {}
    for number, person in enumerate(plan.people):
        for key in keys_of(person.photos):
            embeds = 0.2 * torch.randn(6, generator=generator)
            embeds[number] += 3
            said[key] = {"embeds": 7 * embeds, "found": torch.tensor(float(found))}
    return said


def test_pictures_are_compared_with_photos_that_no_method_sees(plan: Plan) -> None:
    said = said_of_photos(plan)
    person = plan.people[1]
    pictures = {"one": torch.eye(6)[1], "other": torch.eye(6)[0]}
    measure = Likeness("like", WORLD, Said({**said, **{key: {"embeds": row} for key, row in pictures.items()}}), plan)
    rows = measure.of_pictures(Portraits(person=person, keys=list(pictures)))
    references = torch.stack([said[key]["embeds"] for key in keys_of(plan.compared(person))])
    assert len(references) == 4
    expected = image_alignment(torch.stack(list(pictures.values())), references)
    assert [row["like"] for row in rows] == pytest.approx(expected.tolist())
    assert rows[0]["like"] > 0.9 > rows[1]["like"]
    # What methods see plays no part.
    for key in keys_of(plan.seen(person)):
        said[key]["embeds"].zero_()
    assert measure.of_pictures(Portraits(person=person, keys=list(pictures))) == rows


def test_bounds_are_photos_of_the_person_and_of_everybody_else(plan: Plan) -> None:
    said = said_of_photos(plan)
    measure = Likeness("like", WORLD, Said(said), plan)
    for person in plan.people:
        real = measure.real(person)
        assert real.keys == keys_of(plan.seen(person)) and len(real.keys) == 2
        reached = [row["like"] for row in measure.of_pictures(real)]
        references = torch.stack([said[key]["embeds"] for key in keys_of(plan.compared(person))])
        strangers = torch.stack(
            [
                said[key]["embeds"]
                for other in plan.people
                if other is not person
                for key in keys_of(plan.compared(other))
            ]
        )
        others = measure.others(person)["like"]
        assert others == pytest.approx(float(image_alignment(strangers, references).mean()), abs=1e-6)
        assert min(reached) > 0.8 > 0.4 > others


def test_faces_that_are_not_found_count_and_photos_without_one_do_not(plan: Plan) -> None:
    said = said_of_photos(plan)
    person, *others = plan.people
    first, *rest = keys_of(plan.compared(person))
    said[first] = {"embeds": torch.zeros(6), "found": torch.tensor(0.0)}
    pictures = {
        "face": {"embeds": torch.eye(6)[0], "found": torch.tensor(1.0)},
        "none": {"embeds": torch.zeros(6), "found": torch.tensor(0.0)},
    }
    measure = Likeness("face", FACES, Said({**said, **pictures}), plan)
    rows = measure.of_pictures(Portraits(person=person, keys=["face", "none"]))
    references = torch.stack([said[key]["embeds"] for key in rest])
    assert rows[0]["face"] == pytest.approx(float(image_alignment(torch.eye(6)[:1], references)))
    assert (rows[0]["face_found"], rows[1]) == (1.0, {"face": 0.0, "face_found": 0.0})
    assert [column.name for column in measure.columns] == ["face", "face_found"]
    # A person none of whose photos shows a face is asked nothing, in nobody's row.
    for key in rest:
        said[key]["found"] = torch.tensor(0.0)
    blind = Likeness("face", FACES, Said({**said, **pictures}), plan)
    assert blind.of_pictures(Portraits(person=person, keys=["face"])) == [{"face": None, "face_found": None}]
    assert blind.others(person) == {"face": None} and blind.others(others[0])["face"] is not None


# LPIPS


def mean_difference(images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    return (images - others).abs().mean(dim=(1, 2, 3))


def test_lpips_is_the_mean_over_the_photos(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def network(images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        asked.append(len(images))
        return mean_difference(images, others)

    monkeypatch.setattr(perceptual_module, "load_lpips", lambda net, device: network)
    outputs = Outputs(folder=tmp_path, resolution=SIDE, batch_size=2, device=CPU, progress=lambda *_: None)
    measure = Perceptual(Source("lpips", Path("alex"), "measures.lpips"), outputs, plan)
    drawn: list[tuple[Person, Shown]] = []
    for number, person in enumerate(plan.people):
        path = tmp_path / f"{number}.png"
        Image.fromarray(np.full((SIDE, SIDE, 3), 40 * number, dtype=np.uint8)).save(path)
        drawn.append((person, Shown(key=f"{number:032x}", path=path)))
    measure.fill(drawn)
    person, picture = drawn[2]
    pixels = as_floats(picture.pixels(SIDE))
    photos = [as_floats(shown_photo(photo).pixels(SIDE)) for photo in plan.compared(person)]
    expected = np.mean([float((pixels - photo).abs().mean()) for photo in photos])
    (row,) = measure.of_pictures(Portraits(person=person, keys=[picture.key]))
    assert row["lpips"] == pytest.approx(expected, rel=1e-5)
    assert len(measure.of_pictures(measure.real(person))) == 2
    assert asked == [4] * (4 + 2 * 4)
    Perceptual(Source("lpips", Path("alex")), outputs, plan).fill(drawn)
    assert len(asked) == 12, "asked once"


def test_lpips_without_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(
        ValueError, match="measures.lpips is squeeze, which cannot be loaded: LPIPS with 'squeeze' needs"
    ):
        load_classifier(Source("lpips", Path("squeeze"), "measures.lpips"), device=CPU)
