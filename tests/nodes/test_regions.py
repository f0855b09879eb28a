"""BoLIDRegion: a person and a prompt inside a mask, and nothing outside it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bolid.models.references import Embeds
from bolid.nodes.regions import BoLIDRegion

from ..support.scenes import (
    applied,
    assert_equal_but_for_rounding,
    body,
    bolid_adapter,
    cared_for,
    conditioning,
    features,
    loaded_adapter,
    model_of,
    random,
    sampled,
)

SIZE = (64, 96)
LATENT = (16, 24)


def part(left: int, right: int, size=SIZE) -> torch.Tensor:
    """A mask [1, H, W] of the columns from left to right, of 12."""
    mask = torch.zeros(1, *size)
    mask[..., left * size[1] // 12 : right * size[1] // 12] = 1
    return mask


def region(model, adapter, mask, positive=None, **arguments):
    given = {"face": Embeds(**features()), **arguments}
    return BoLIDRegion.execute(
        model, adapter, conditioning("sd15")["positive"] if positive is None else positive, mask, **given
    ).result


@pytest.fixture(scope="module")
def model():
    return model_of("sd15")


@pytest.fixture(scope="module")
def adapter():
    return loaded_adapter("plus")


@pytest.fixture(scope="module")
def other():
    return loaded_adapter("base", seed=60)


def first_layer(model, shape=(1, 4, *LATENT)) -> torch.Tensor:
    """What the first cross-attention layer gives in the first evaluation: [unconditional and conditional, h, w, C].

    Nothing before it depends on an adapter, and a position of it on no other position.
    """
    seen = []

    def note(hidden_states, extra_options):
        if not seen:
            rows = extra_options["activations_shape"]
            order = torch.tensor(extra_options["cond_or_uncond"]).argsort(descending=True)
            seen.append(hidden_states.unflatten(0, (len(order), -1))[order].unflatten(2, tuple(rows[-2:])))
        return hidden_states

    model = model.clone()
    model.set_model_attn2_output_patch(note)
    sampled(model, steps=1, latent_shape=shape)
    return seen[0]


def columns(layer: torch.Tensor, left: int, right: int) -> torch.Tensor:
    width = layer.shape[3]
    return layer[:, :, :, left * width // 12 : right * width // 12]


def test_nothing_changes_outside_the_mask(model, adapter, other):
    """Two persons side by side, bit for bit: each part of the layer is that of its own person alone."""
    plain = first_layer(model)
    left, right = region(model, adapter, part(0, 4))[0], region(model, other, part(6, 12))[0]
    both = first_layer(region(left, other, part(6, 12))[0])
    left, right = first_layer(left), first_layer(right)
    assert torch.equal(columns(left, 4, 12), columns(plain, 4, 12))
    assert torch.equal(columns(both, 0, 4), columns(left, 0, 4))
    assert torch.equal(columns(both, 4, 6), columns(plain, 4, 6))
    assert torch.equal(columns(both, 6, 12), columns(right, 6, 12))
    for person, at in ((left, (0, 4)), (right, (6, 12))):
        assert (columns(person, *at)[1] - columns(plain, *at)[1]).abs().amax(dim=-1).min() > 1e-3


def test_persons_add_up_where_regions_overlap(model, adapter, other):
    plain, one = first_layer(model), first_layer(region(model, adapter, part(0, 8))[0])
    two = first_layer(region(model, other, part(4, 12))[0])
    both = first_layer(region(region(model, adapter, part(0, 8))[0], other, part(4, 12))[0])
    torch.testing.assert_close(columns(both, 4, 8), columns(one + two - plain, 4, 8), rtol=0, atol=1e-4)
    assert torch.equal(columns(both, 0, 4), columns(one, 0, 4))
    assert torch.equal(columns(both, 8, 12), columns(two, 8, 12))


@pytest.mark.parametrize("size", [(16, 24), (128, 192), (40, 60)])
def test_a_mask_of_another_size(model, adapter, size):
    expected = first_layer(region(model, adapter, part(0, 6))[0])
    assert torch.equal(first_layer(region(model, adapter, part(0, 6, size)[0])[0]), expected)


def test_a_mask_for_every_picture(model, adapter):
    masks = torch.cat((part(0, 6), part(6, 12)))
    shape = (2, 4, *LATENT)
    layer = first_layer(region(model, adapter, masks)[0], shape)
    for picture in range(2):
        alone = first_layer(region(model, adapter, masks[picture])[0], shape)
        torch.testing.assert_close(layer[:, picture], alone[:, picture], rtol=0, atol=1e-5)


def test_a_full_mask_is_apply(model):
    adapter, everywhere = cared_for(bolid_adapter()), torch.ones(1, *SIZE)
    arguments = {"body": body(), "face_weight": 0.8, "body_weight": 0.6, "end_percent": 0.6}
    whole, _ = region(model, adapter, everywhere, **arguments)
    expected = applied(model, adapter, **arguments, body_end_percent=0.6)
    assert_equal_but_for_rounding(sampled(whole, steps=2), sampled(expected, steps=2))


def test_weights_of_0_are_no_person(model):
    adapter = cared_for(bolid_adapter())
    off, _ = region(model, adapter, part(0, 6), body=body(), face_weight=0.0, body_weight=0.0)
    assert torch.equal(sampled(off, steps=1), sampled(model, steps=1))
    before = sampled(model, steps=1)
    on, _ = region(model, adapter, part(0, 6), body=body())
    assert torch.equal(sampled(on, steps=1), sampled(on, steps=1))
    assert torch.equal(sampled(model, steps=1), before) and model.wrappers == {}


# The prompt


def prompt(seed: int):
    return [[random(1, 77, 128, seed=seed), {}]]


@pytest.mark.parametrize("strength", [1.0, 3.0])
def test_shares_of_the_prompts(model, adapter, strength):
    """Inside the mask 1 : prompt_strength, outside the whole picture's prompt alone; a step to no noise is linear."""

    def predicted(positive):
        return sampled(model, steps=1, cfg=1.0, positive=positive)

    whole, person, second = (predicted(prompt(seed)) for seed in (1, 2, 3))
    _, positive = region(
        model, adapter, part(0, 8), prompt(1), prompt=prompt(2), prompt_strength=strength, face_weight=0.0
    )
    result = predicted(positive)
    share = strength / (1 + strength)
    assert_equal_but_for_rounding(result[..., :16], ((1 - share) * whole + share * person)[..., :16])
    assert_equal_but_for_rounding(result[..., 16:], whole[..., 16:])
    assert (whole - person).abs().max() > 1e-2
    # Where two overlap they share with the whole picture's prompt by their strengths.
    _, positive = region(model, adapter, part(4, 12), positive, prompt=prompt(3), face_weight=0.0)
    overlap = (whole + strength * person + second) / (2 + strength)
    assert_equal_but_for_rounding(predicted(positive)[..., 8:16], overlap[..., 8:16])


def test_the_prompt_is_appended_as_core_does_it(model, adapter):
    from nodes import ConditioningCombine, ConditioningSetMask

    base, text, mask = prompt(1), prompt(2), part(0, 6)
    kept = [[base[0][0], dict(base[0][1])], [text[0][0], dict(text[0][1])]]
    _, positive = region(model, adapter, mask, base, prompt=text, prompt_strength=2.0)
    masked = ConditioningSetMask().append(text, mask, "default", 2.0)[0]
    (expected,) = ConditioningCombine().combine(base, masked)
    assert len(positive) == len(expected) == 2
    for (tokens, options), (core_tokens, core_options) in zip(positive, expected, strict=True):
        assert tokens is core_tokens and options.keys() == core_options.keys()
        assert all(torch.equal(torch.as_tensor(options[key]), torch.as_tensor(core_options[key])) for key in options)
    assert [base[0][1], text[0][1]] == [kept[0][1], kept[1][1]] and len(base) == len(text) == 1
    for arguments in ({}, {"prompt": text, "prompt_strength": 0.0}):
        assert region(model, adapter, mask, base, **arguments)[1] == base


# FaceID


def test_two_persons_share_the_lora_of_their_adapter(model):
    faceid = loaded_adapter("faceid")
    once, _ = region(model, faceid, part(0, 6))
    twice, _ = region(once, faceid, part(6, 12))
    assert len(once.patches) == 16 * 2 * 4
    assert {key: len(patches) for key, patches in twice.patches.items()} == dict.fromkeys(once.patches, 1)
    another, _ = region(once, dataclasses.replace(faceid), part(6, 12))
    assert {len(patches) for patches in another.patches.values()} == {2}


# Mistakes


@pytest.mark.parametrize("mask", [torch.zeros(1, 64, 64), torch.zeros(64, 64), torch.zeros(0, 64, 64)])
def test_an_empty_mask(model, adapter, mask):
    with pytest.raises(ValueError, match="mask of this region is empty.*Paint a part of it white.*'Load Image'"):
        region(model, adapter, mask)


def test_a_mask_that_is_empty_for_one_picture_alone(model, adapter):
    assert region(model, adapter, torch.cat((torch.zeros(1, *SIZE), part(0, 6))))[0].wrappers


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"face": None}, "Nothing to apply: connect the embeds"),
        ({"body": body()}, "plus.safetensors has no body branch"),
        ({"start_percent": 0.8, "end_percent": 0.2}, r"^start_percent \(0.8\) is after end_percent \(0.2\)"),
        ({"face_weight": float("nan")}, "face_weight must be a finite number"),
        ({"body_weight": float("inf")}, "body_weight must be a finite number"),
        ({"prompt_strength": float("nan")}, "prompt_strength must be a finite number"),
        ({"face": Embeds(image_embeds=torch.zeros(1, 32))}, "made without an image encoder|SelfAttnAggregator made"),
    ],
)
def test_other_mistakes_are_those_of_apply(model, adapter, arguments, message):
    with pytest.raises(ValueError, match=message):
        region(model, adapter, part(0, 6), **arguments)
    assert model.wrappers == {} and model.model_options == {"transformer_options": {}}
