"""What the world's networks read: whose pictures, in which batch."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bolid.models.keypoints import FIRST_JOINT, JOINTS
from bolid.training.data import Share
from bolid.world.identities import SPLITS, Split
from bolid.world.networks.dataset import PictureDraws, Pictures, Shuffled, load_pictures
from bolid.world.pictures import picture_of
from bolid.world.render import render

from .conftest import PEOPLE, PICTURES, DrawnWorld, oracle_of


@pytest.fixture(scope="module")
def pictures(drawn: DrawnWorld) -> Pictures:
    return load_pictures([drawn.pictures], "base")


def copy_of(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


# Folders


@pytest.mark.parametrize("split", ["base", "metrics", "validation"])
def test_a_split_is_the_pictures_of_its_people_alone(drawn: DrawnWorld, split: Split):
    loaded = load_pictures([drawn.pictures], split)
    expected = {f"person_{number:04d}" for number in SPLITS[split][:PEOPLE]}
    assert {file.parent.name for file in loaded.files} == expected
    assert len(loaded) == len(set(loaded.files)) == PEOPLE * PICTURES
    assert loaded.summary() == {"people": PEOPLE, "photos": PEOPLE * PICTURES}


def test_what_is_known_of_a_picture_is_what_was_drawn(pictures: Pictures):
    for number in (0, 5, len(pictures) - 1):
        file = pictures.files[number]
        drawn = picture_of(int(file.parent.name.removeprefix("person_")), int(file.stem), size=64)
        assert pictures.captions[number] == drawn.caption
        assert np.allclose(pictures.joints[number], drawn.keypoints[FIRST_JOINT:], atol=1e-6)
        assert pictures.attributes[number]["action"] == drawn.scene.action
        assert pictures.identities[number]["hair_shape"] == drawn.scene.identity.hair_shape
        (pixels,) = pictures.pixels([number])
        assert torch.equal(pixels, torch.from_numpy(drawn.pixels).movedim(-1, 0).float() / 127.5 - 1)
        assert torch.equal(pictures.parts([number])[0], torch.from_numpy(drawn.labels).long())
    assert pictures.joints.shape == (len(pictures), len(JOINTS), 3)
    assert pictures.names([5]) == ("person_2001/1.png",)


def test_pixels_reach_from_minus_one_to_one(drawn: DrawnWorld, tmp_path: Path):
    folder = copy_of(drawn.pictures, tmp_path / "copy")
    values = np.zeros((64, 64, 3), dtype=np.uint8)
    values[0, 1] = 255
    loaded = load_pictures([folder], "base")
    Image.fromarray(values).save(loaded.files[3])
    (pixels,) = loaded.pixels([3])
    assert (pixels.min(), pixels.max()) == (-1, 1)
    assert (pixels[:, 0, 1] == 1).all() and pixels.sum() == 3 - 3 * (64 * 64 - 1)


def test_people_are_numbered_and_know_their_pictures(pictures: Pictures):
    assert len(pictures.pictures_of) == PEOPLE
    for person, numbers in enumerate(pictures.pictures_of):
        assert len({pictures.files[number].parent for number in numbers}) == 1
        assert numbers == tuple((pictures.people == person).nonzero().flatten().tolist())
    assert sorted(number for numbers in pictures.pictures_of for number in numbers) == list(range(len(pictures)))


def test_people_of_another_seed_are_other_people(drawn: DrawnWorld, tmp_path: Path):
    render(tmp_path / "other", people=2, pictures=2, splits=["base"], seed=1, size=64, workers=1)
    both = load_pictures([drawn.pictures, tmp_path / "other"], "base")
    assert both.summary() == {"people": PEOPLE + 2, "photos": PEOPLE * PICTURES + 4}
    folders = [{both.files[number].parent for number in numbers} for numbers in both.pictures_of]
    assert all(len(folder) == 1 for folder in folders) and len(set.union(*folders)) == PEOPLE + 2


def test_the_fingerprint_tells_pictures_apart(drawn: DrawnWorld, pictures: Pictures, tmp_path: Path):
    def fingerprint(folder: Path, split: Split = "base") -> str:
        return load_pictures([folder], split).fingerprint

    copy = copy_of(drawn.pictures, tmp_path / "copy")
    assert fingerprint(copy) == pictures.fingerprint  # wherever they lie
    assert len({fingerprint(drawn.pictures, split) for split in ("base", "metrics", "validation")}) == 3
    assert fingerprint(drawn.large) != pictures.fingerprint
    records = oracle_of(copy)
    changed = [number for number, record in enumerate(records) if record["split"] == "base"][-1]
    for key, value in (("caption", "a photo of someone else"), ("keypoints", [[0.5, 0.5, 1.0]] * 17)):
        others = [*records[:changed], {**records[changed], key: value}, *records[changed + 1 :]]
        (copy / "oracle.jsonl").write_text("".join(json.dumps(record) + "\n" for record in others))
        assert fingerprint(copy) != pictures.fingerprint
        assert fingerprint(copy, "validation") == fingerprint(drawn.pictures, "validation")


def test_folders_that_cannot_be_read_are_told(drawn: DrawnWorld, tmp_path: Path):
    with pytest.raises(ValueError, match="nowhere is no folder of drawn people.*oracle.jsonl.*bolid world render"):
        load_pictures([drawn.pictures, tmp_path / "nowhere"], "base")
    with pytest.raises(ValueError, match="nobody of the split 'train'.*bolid world render OUTPUT --split train.*data"):
        load_pictures([drawn.pictures, drawn.large], "train")


def test_the_command_that_is_told_draws_those_who_are_missing(tmp_path: Path):
    """Without --split it would draw others, and the folder would no longer be empty."""
    with pytest.raises(ValueError, match="bolid world render .*nowhere --split metrics"):
        load_pictures([tmp_path / "nowhere"], "metrics")


# Order


def test_every_number_comes_once_per_round():
    order = Shuffled(7, "key")
    rounds = [[order[place] for place in range(turn * 7, turn * 7 + 7)] for turn in range(4)]
    assert all(sorted(numbers) == list(range(7)) for numbers in rounds)
    assert len({tuple(numbers) for numbers in rounds}) == 4


def test_the_order_depends_on_the_key_alone():
    order, same, other = Shuffled(50, 3, "a"), Shuffled(50, 3, "a"), Shuffled(50, 4, "a")
    assert [same[place] for place in reversed(range(150))] == [order[place] for place in reversed(range(150))]
    assert [order[place] for place in range(50)] == [same[place] for place in range(50)]
    assert [order[place] for place in range(50)] != [other[place] for place in range(50)]


def draws_of(pictures: Pictures, *, batch_size: int, processes: int = 1, **options: int) -> list[PictureDraws]:
    return [
        PictureDraws(
            pictures,
            share=Share(process=process, processes=processes, batch_size=batch_size),
            **{"seed": 0, **options},
        )
        for process in range(processes)
    ]


def test_all_pictures_are_drawn_once_per_round(pictures: Pictures):
    (draws,) = draws_of(pictures, batch_size=8)
    batches = [draws.batch(number) for number in range(9)]
    for start in (0, 3, 6):
        assert sorted(itertools.chain(*batches[start : start + 3])) == list(range(len(pictures)))
    assert batches[0] != batches[3]
    assert draws.batch(4) == batches[4]
    (other,) = draws_of(pictures, batch_size=8, seed=1)
    assert other.batch(0) != batches[0]


@pytest.mark.parametrize(("people", "rows"), [(0, 8), (6, 12)])
def test_two_processes_draw_what_one_would(pictures: Pictures, people: int, rows: int):
    (one,) = draws_of(pictures, batch_size=rows, people_per_batch=people)
    two = draws_of(pictures, batch_size=rows // 2, processes=2, people_per_batch=people // 2)
    for number in range(7):
        assert [picture for draws in two for picture in draws.batch(number)] == one.batch(number)
        numbers = [generator.initial_seed() for draws in two for generator in draws.generators(number)]
        assert numbers == [generator.initial_seed() for generator in one.generators(number)]
        assert len(set(numbers)) == rows


def test_every_row_of_every_batch_has_its_own_random_numbers(pictures: Pictures):
    (draws,) = draws_of(pictures, batch_size=8)
    drawn = [
        float(torch.rand((), generator=generator)) for number in range(50) for generator in draws.generators(number)
    ]
    assert len(set(drawn)) == 400 and 0.4 < np.mean(drawn) < 0.6


@pytest.mark.parametrize(("batch_size", "people"), [(6, 3), (8, 2), (12, 2), (4, 4)])
def test_people_of_a_batch_have_equally_many_pictures(pictures: Pictures, batch_size: int, people: int):
    """And as many different ones as there are."""
    (draws,) = draws_of(pictures, batch_size=batch_size, people_per_batch=people)
    each = batch_size // people
    seen: Counter[int] = Counter()
    for number in range(PEOPLE // people):
        batch = draws.batch(number)
        owners = Counter(pictures.people[batch].tolist())
        assert len(owners) == people and set(owners.values()) == {each}
        assert len(set(batch)) == people * min(each, PICTURES)
        assert max(Counter(batch).values()) == -(-each // PICTURES)
        seen.update(owners.keys())
    assert set(seen.values()) == {1}


def test_nobody_is_in_a_batch_twice(pictures: Pictures):
    """Not in those that do not end with a round either: there would be two equal pictures, which are easily told."""
    (draws,) = draws_of(pictures, batch_size=8, people_per_batch=4)
    for number in range(12):
        batch = draws.batch(number)
        assert Counter(Counter(pictures.people[batch].tolist()).values()) == {2: 4}
        assert len(set(batch)) == 8


def test_other_pictures_of_a_person_come_next_time(pictures: Pictures):
    (draws,) = draws_of(pictures, batch_size=6, people_per_batch=6)
    assert set().union(*(draws.batch(number) for number in range(40))) == set(range(len(pictures)))
