"""Who lives in the world, and in which split."""

from __future__ import annotations

import itertools

import pytest

from bolid.models.keypoints import AVERAGE_PROPORTIONS
from bolid.world.draws import Draws
from bolid.world.identities import SPLITS, identity, split_of


def test_draws_are_the_same_in_every_python_and_differ_by_key():
    draws = Draws("a", 1)
    assert [round(draws.uniform(0, 1), 6) for _ in range(3)] == [0.856259, 0.772468, 0.561064]
    assert Draws("a", 1).uniform(0, 1) != Draws("a1").uniform(0, 1)
    assert Draws("x").shuffled(range(9)) != list(range(9)) and sorted(Draws("x").shuffled(range(9))) == list(range(9))
    draws = Draws("weights")
    counts = [draws.weighted({"often": 9, "never": 0, "seldom": 1}) for _ in range(500)]
    assert "never" not in counts and 20 < counts.count("seldom") < 90
    assert {draws.integer(2, 4) for _ in range(50)} == {2, 3, 4}


def test_nobody_is_in_two_splits():
    for (_, one), (_, other) in itertools.combinations(SPLITS.items(), 2):
        assert not set(one) & set(other)
    assert {split: len(SPLITS[split]) for split in ("train", "validation", "test")} == {
        "train": 600, "validation": 100, "test": 100,
    }  # fmt: skip
    assert all(split_of(number) == split for split, numbers in SPLITS.items() for number in numbers)


@pytest.mark.parametrize("number", [-1, 900, 10**6])
def test_there_are_no_other_people(number: int):
    with pytest.raises(ValueError, match=f"no person {number}.*test 700 to 799"):
        split_of(number)


def test_a_person_follows_from_seed_and_number_alone():
    assert identity(3) == identity(3) != identity(4)
    assert identity(3, seed=1) != identity(3)


def test_people_differ_in_every_way():
    people = [identity(number) for number in SPLITS["test"]]
    for name in ("skin_tone", "hair_shape", "hair_colour", "beard", "bottoms", "bottoms_colour", "shoes_colour"):
        assert len({getattr(person, name) for person in people}) >= 3, name
    for number, average in enumerate(AVERAGE_PROPORTIONS.values()):
        lengths = [person.bones[number] for person in people]
        assert max(lengths) / min(lengths) > 1.3 and min(lengths) > 0.65 * average and max(lengths) < 1.5 * average
