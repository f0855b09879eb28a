"""Branches whose layers act against the photos, and branches with tokens per picture."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from bolid.models.branch import Branch
from bolid.models.cross_attention import EMBEDS_SCALINGS, KeyValue, add_branch_by_role
from bolid.models.references import Embeds

from ..support.scenes import bolid_adapter, features, random


def branch_of(embeds, negative=None, **arguments) -> Branch:
    adapter = bolid_adapter()
    return Branch(
        tokens=partial(adapter.face_tokens, embeds, negative),
        projections=adapter.ip_adapter,
        layer_weights=dict.fromkeys(adapter.layout.layers, 0.5),
        **arguments,
    )


def key_values(branch):
    return branch.key_values(device="cpu", dtype=torch.float32)


def assert_same(one: KeyValue, other: KeyValue) -> None:
    torch.testing.assert_close((one.key, one.value), (other.key, other.value), rtol=1e-5, atol=1e-6)


def one_photo(number: int, photos: int) -> Embeds:
    return Embeds(
        **{
            name: tensor if name == "zero_hidden_states" else tensor[number : number + 1]
            for name, tensor in features(photos).items()
        }
    )


@pytest.mark.parametrize("embeds_scaling", EMBEDS_SCALINGS)
def test_opposed_layers_act_on_the_unconditional_side(embeds_scaling):
    plain = branch_of(Embeds(**features(2)), embeds_scaling=embeds_scaling)
    chosen = sorted(plain.layer_weights)[:3]
    expected, opposed = key_values(plain), key_values(replace(plain, opposed_layers=frozenset(chosen)))
    for index, (unconditional, conditional) in opposed.items():
        if index in chosen:
            assert torch.equal(unconditional.key, expected[index][1].key)
            assert torch.equal(unconditional.value, expected[index][1].value)
            assert conditional.key.shape[:2] == conditional.value.shape[:2] == (1, 0)
        else:
            assert torch.equal(unconditional.value, expected[index][0].value)
            assert torch.equal(conditional.value, expected[index][1].value)


@pytest.mark.parametrize("embeds_scaling", EMBEDS_SCALINGS)
def test_tokens_per_picture_are_those_of_each_photo_alone(embeds_scaling):
    together = key_values(branch_of(Embeds(**features(3), per_picture=True), embeds_scaling=embeds_scaling))
    for number in range(3):
        alone = key_values(branch_of(one_photo(number, 3), embeds_scaling=embeds_scaling))
        for index, (unconditional, conditional) in together.items():
            assert_same(unconditional, alone[index][0])
            rows = slice(number, number + 1)
            assert_same(conditional.map(lambda x, rows=rows: x[rows]), alone[index][1])


def test_negative_tokens_take_the_unconditional_side():
    given, negative = Embeds(**features(1)), Embeds(**features(2, seed=50))
    plain, swapped = key_values(branch_of(given)), key_values(branch_of(negative))
    for index, (unconditional, conditional) in key_values(branch_of(given, negative)).items():
        assert_same(conditional, plain[index][1])
        assert_same(unconditional, swapped[index][1])
        assert unconditional.key.shape[1] == 2 * conditional.key.shape[1]
    per_picture = replace(negative, per_picture=True)
    for unconditional, conditional in key_values(branch_of(given, per_picture)).values():
        assert unconditional.key.shape[:2] == (2, conditional.key.shape[1]) and conditional.key.shape[0] == 1


def test_rows_of_pictures_are_repeated_for_every_conditioning():
    """Three pictures under two positive texts and a negative one; every row attends to what is its own."""

    def attention(query, key, value):
        return torch.nn.functional.scaled_dot_product_attention(query, key, value)

    hidden_states, query = random(9, 4, 8, seed=1), random(9, 4, 8, seed=2)
    unconditional = KeyValue(key=random(1, 5, 8, seed=3), value=random(1, 5, 8, seed=4))
    conditional = KeyValue(key=random(3, 2, 8, seed=5), value=random(3, 2, 8, seed=6))
    result = add_branch_by_role(hidden_states, query, [unconditional, conditional], [1, 1, 0], attention)
    for row in range(9):
        picture = row % 3
        own = unconditional if row >= 6 else conditional.map(lambda x, picture=picture: x[picture : picture + 1])
        expected = hidden_states[row : row + 1] + attention(query[row : row + 1], own.key, own.value)
        torch.testing.assert_close(result[row : row + 1], expected)
