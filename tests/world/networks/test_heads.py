"""What is read off pictures in fixed words."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from bolid.models.keypoints import AVERAGE_PROPORTIONS, BONES
from bolid.world.identities import identity
from bolid.world.networks.config import HeadName
from bolid.world.networks.dataset import Pictures, load_pictures
from bolid.world.networks.heads import (
    BONE_SPREAD,
    OF_THE_PERSON,
    OF_THE_PICTURE,
    UNKNOWN,
    Heads,
    answers_count,
    answers_of,
    heads_loss,
    heads_measures,
)
from bolid.world.pictures import describe_identity
from bolid.world.scenes import scene

from .conftest import DrawnWorld, oracle_of

HEADS: tuple[HeadName, ...] = get_args(HeadName)
WORDS = [head for head in HEADS if head != "bones"]


@pytest.fixture(scope="module")
def pictures(drawn: DrawnWorld) -> Pictures:
    return load_pictures([drawn.pictures], "base")


# Truths


def test_every_head_is_known():
    assert {*OF_THE_PICTURE, *OF_THE_PERSON, "bones"} == set(HEADS)
    assert not set(OF_THE_PICTURE) & set(OF_THE_PERSON)
    assert len(HEADS) == len(set(HEADS))


def test_truths_are_those_of_the_oracle(drawn: DrawnWorld, pictures: Pictures):
    records = [record for record in oracle_of(drawn.pictures) if record["split"] == "base"]
    truths = answers_of(pictures, HEADS)
    for head in WORDS:
        known, section = (
            (OF_THE_PICTURE[head], "attributes") if head in OF_THE_PICTURE else (OF_THE_PERSON[head], "identity")
        )
        read = ["" if number == UNKNOWN else known[number] for number in truths[head].tolist()]
        assert read == [record[section][head] for record in records], head
    for row, record in zip(truths["bones"], records, strict=True):
        lengths = (row * BONE_SPREAD).exp() * torch.tensor(list(AVERAGE_PROPORTIONS.values()))
        assert lengths.tolist() == pytest.approx(list(record["identity"]["bones"].values()), rel=1e-4)


def test_truths_of_a_picture_by_hand(pictures: Pictures):
    one = replace(
        pictures,
        attributes=(
            {**pictures.attributes[0], "place": "room", "place_colour": "", "top_colour": "orange", "action": "waving"},
            {**pictures.attributes[0], "place": "wall", "place_colour": "red", "top_colour": "white", "style": "flat"},
        ),
        identities=(
            {**pictures.identities[0], "skin_tone": 7, "freckles": True, "bones": AVERAGE_PROPORTIONS},
            {**pictures.identities[0], "skin_tone": 0, "freckles": False},
        ),
    )
    truths = answers_of(one, ["place", "place_colour", "top_colour", "skin_tone", "freckles", "bones"])
    assert truths["place"].tolist() == [1, 0]
    assert truths["place_colour"].tolist() == [UNKNOWN, 0]
    assert truths["top_colour"].tolist() == [1, 12]
    assert truths["skin_tone"].tolist() == [7, 0]
    assert truths["freckles"].tolist() == [1, 0]
    assert truths["bones"][0].tolist() == pytest.approx([0] * len(BONES), abs=1e-6)


def test_everything_that_is_drawn_has_an_answer():
    seen: dict[str, set[int]] = {head: set() for head in WORDS}
    for number in range(2000, 2300):
        person = identity(number)
        said = describe_identity(person)
        for head, known in OF_THE_PERSON.items():
            seen[head].add(known.index(said[head]))
        for picture in range(2):
            drawn = scene(person, picture)
            for head in ("place", "action", "style", "framing"):
                seen[head].add(OF_THE_PICTURE[head].index(getattr(drawn, head)))
            for head, colour in (("place_colour", drawn.place_colour), ("balloon_colour", drawn.balloon_colour)):
                if colour:
                    seen[head].add(OF_THE_PICTURE[head].index(colour))
            for head, value in zip(
                ("top_kind", "top_colour", "top_pattern"),
                (drawn.top.kind, drawn.top.colour, drawn.top.pattern),
                strict=True,
            ):
                seen[head].add(OF_THE_PICTURE[head].index(value))
    never = {head: answers_count(head) - len(numbers) for head, numbers in seen.items()}
    # Balloons have five of the colours; nobody wears pink, yellow or orange trousers.
    assert {head: count for head, count in never.items() if count} == {
        "balloon_colour": 8, "bottoms_colour": 3, "shoes_colour": 6,
    }  # fmt: skip


def test_bones_have_about_unit_spread():
    lengths = np.array([identity(number).bones for number in range(2000, 2400)])
    spread = np.log(lengths / list(AVERAGE_PROPORTIONS.values())).std(axis=0) / BONE_SPREAD
    assert 0.6 < spread.min() and spread.max() < 1.4
    assert spread.mean() == pytest.approx(1, abs=0.15)


# Loss


@pytest.mark.parametrize("head", WORDS)
def test_guessing_costs_one_and_knowing_nothing(head: HeadName):
    count = answers_count(head)
    truth = torch.arange(count)
    assert heads_loss({head: torch.zeros(count, count)}, {head: truth}).tolist() == pytest.approx([1] * count)
    sure = torch.eye(count) * 50
    assert heads_loss({head: sure}, {head: truth}).abs().max() < 1e-6
    assert heads_loss({head: sure}, {head: truth.roll(1)}).min() > 10


def test_loss_is_the_mean_over_the_heads():
    said = {"freckles": torch.tensor([[0.0, 2.0]]), "framing": torch.tensor([[1.0, 0.0, -1.0]])}
    truths = {"freckles": torch.tensor([0]), "framing": torch.tensor([0])}
    freckles = math.log(1 + math.exp(2)) / math.log(2)
    framing = (math.log(math.e + 1 + 1 / math.e) - 1) / math.log(3)
    assert heads_loss(said, truths).tolist() == pytest.approx([(freckles + framing) / 2])


def test_error_of_bones_is_linear_for_large_errors():
    truths = {"bones": torch.zeros(2, len(BONES))}
    said = {"bones": torch.tensor([[0.5] * len(BONES), [3.0] * len(BONES)])}
    assert heads_loss(said, truths).tolist() == pytest.approx([0.125, 2.5])


def test_what_is_not_known_does_not_count():
    said = {"place_colour": torch.randn(3, 13, generator=torch.Generator().manual_seed(0)).requires_grad_()}
    truths = {"place_colour": torch.tensor([UNKNOWN, 4, UNKNOWN])}
    loss = heads_loss(said, truths)
    assert loss[0] == loss[2] == 0 and loss[1] > 0
    loss.sum().backward()
    gradient = said["place_colour"].grad
    assert (gradient[[0, 2]] == 0).all() and (gradient[1] != 0).all()
    measures = heads_measures({"place_colour": torch.eye(13)[[0, 4, 4]]}, truths)
    assert measures["place_colour"].tolist() == [1]


# Measures


def test_measures_say_what_is_right():
    said = {
        "style": torch.tensor([[3.0, 0, 0, 0], [0, 0, 2, 1], [0, 5, 0, 0]]),
        "bones": torch.tensor([[1.0] * len(BONES), [0.0] * len(BONES), [-1.0, *[0.0] * (len(BONES) - 1)]]),
    }
    truths = {"style": torch.tensor([0, 3, 1]), "bones": torch.zeros(3, len(BONES))}
    measures = heads_measures(said, truths)
    assert measures["style"].tolist() == [1, 0, 1]
    long, short = math.exp(BONE_SPREAD) - 1, 1 - math.exp(-BONE_SPREAD)
    assert measures["bones_error"].tolist() == pytest.approx([long, 0, short / len(BONES)], abs=1e-6)


def test_measures_are_the_same_in_every_batch():
    """Processes add them up by their order: one that lacks a measure would add it to another."""
    said = {"place_colour": torch.zeros(2, 13), "style": torch.zeros(2, 4)}
    batches = [
        {"place_colour": torch.tensor([UNKNOWN, UNKNOWN]), "style": torch.tensor([0, 1])},
        {"place_colour": torch.tensor([UNKNOWN, 0]), "style": torch.tensor([0, 1])},
    ]
    without, with_colour = (heads_measures(said, truths) for truths in batches)
    assert list(without) == list(with_colour)
    assert len(without["place_colour"]) == 0 and len(with_colour["place_colour"]) == 1


def test_heads_are_linear_layers_of_the_embedding():
    heads = Heads(5, ["style", "bones", "freckles"])
    embeds = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    said = heads(embeds)
    assert {head: tuple(logits.shape) for head, logits in said.items()} == {
        "style": (3, 4), "bones": (3, 7), "freckles": (3, 2),
    }  # fmt: skip
    layer = heads.layers["style"]
    assert torch.allclose(said["style"], embeds @ layer.weight.T + layer.bias)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(logits.dtype == torch.float32 for logits in heads(embeds).values())
    assert not list(Heads(5, []).parameters())
