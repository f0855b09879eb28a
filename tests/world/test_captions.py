"""A caption says what is to be seen, and nothing about who it is."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from bolid.world.captions import garment_phrase
from bolid.world.colours import CLOTH, HAIR
from bolid.world.identities import HAIR_SHAPES, SPLITS, identity
from bolid.world.scenes import FRAMINGS, IN_FRAMING, Scene, scene

# Words that would tell who somebody is. Colours are looked for as well, where neither clothes nor place explain them.
TELLING = {
    "man", "woman", "boy", "girl", "he", "she", "his", "her", "skin", "hair", "haired", "beard", "bearded", "moustache",
    "goatee", "stubble", "glasses", "freckles", "eyes", "nose", "tall", "slim", "broad", "legs", "trousers", "shorts",
    "skirt", "dress", "shoes", "boots", "ginger", "blond", "auburn", "platinum",
    *(shape for shape in HAIR_SHAPES if shape not in ("long", "short")),
}  # fmt: skip


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [scene(identity(number), picture) for number in SPLITS["test"][:60] for picture in range(10)]


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def test_no_caption_says_who_it_is(scenes: list[Scene]):
    for each in scenes:
        rest = each.caption.replace("tall buildings", "")
        if each.garment:
            rest = rest.replace(garment_phrase(each.garment), "")
        for colour in (each.place_colour, each.balloon_colour):
            rest = re.sub(rf"\b{colour}\b", "", rest) if colour else rest
        rest = rest.replace("on a green meadow", "")
        assert not words(rest) & (TELLING | set(CLOTH) | set(HAIR)), each.caption


def test_everything_that_is_said_is_true_and_everything_that_changes_is_said(scenes: list[Scene]):
    for each in scenes:
        assert each.garment is None or garment_phrase(each.garment) in each.caption
        assert each.place_colour in each.caption and each.balloon_colour in each.caption
        assert each.action in IN_FRAMING[each.framing]
        assert "  " not in each.caption and not re.search(r"\ba [aeiou]|\ban [^aeiou]|[{}]|,\s*,|,$", each.caption)
    share = sum(each.garment is not None for each in scenes) / len(scenes)
    assert 0.3 < share < 0.5
    assert len({each.caption for each in scenes}) > 0.8 * len(scenes)


def test_nothing_that_a_caption_names_depends_on_the_person(scenes: list[Scene]):
    for each in scenes[::20]:
        # The same random numbers, everything else somebody else's.
        stranger = replace(identity(5, seed=9), number=each.identity.number, seed=each.identity.seed)
        other = scene(stranger, each.picture)
        assert (other.caption, other.garment, other.place, other.style) == (
            each.caption, each.garment, each.place, each.style,
        )  # fmt: skip


def test_ten_pictures_show_everybody_from_far_and_near():
    for number in (0, 700, 810):
        for block in (0, 3):
            framings = [scene(identity(number), 10 * block + index).framing for index in range(10)]
            assert sorted(framings) == sorted(FRAMINGS)
