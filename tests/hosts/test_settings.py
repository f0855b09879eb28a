"""Branches from step to step and from side to side: schedules, precise weight types, negative photos; the log."""

import copy
import logging
from functools import partial

import comfy.samplers
import numpy as np
import pytest
import torch

from bolid.hosts import comfyui
from bolid.hosts.diffusers import attach as attach_to_diffusers
from bolid.models.branch import Branch
from bolid.models.references import Embeds

from ..support.scenes import (
    applied,
    assert_equal_but_for_rounding,
    body,
    bolid_adapter,
    cared_for,
    features,
    loaded_adapter,
    model_of,
    sampled,
    unet_of,
)
from .test_parity import comfyui_evaluation


@pytest.fixture(scope="module")
def model():
    return model_of("sd15")


# Schedules


def factors_of(model, **arguments):
    """What every evaluation of a run multiplies each branch by."""
    noted = []

    class Noted(comfyui._SamplingRun):
        def _before_evaluation(self, *given):
            result = super()._before_evaluation(*given)
            noted.append([None if factor is None else factor.item() for factor in self._factors])
            return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comfyui, "_SamplingRun", Noted)
        sampled(model, **arguments)
    return [pytest.approx(factors) for factors in noted]


def test_the_factors_of_a_run(model):
    adapter = cared_for(bolid_adapter())
    arguments = {"weight_schedule": "ramp up", "body": body(), "body_weight_schedule": "ease in-out"}
    both = applied(model, adapter, **arguments)
    ease = (0.5 - 0.5**1.5, 0.5 + 0.5**1.5)
    expected = [[1 / 8, ease[0]], [3 / 8, ease[1]], [5 / 8, ease[1]], [7 / 8, ease[0]]]
    assert factors_of(both, steps=4) == expected
    # Two steps of four that start from a picture are a run of two.
    picture = torch.zeros(1, 4, 16, 24)
    last = applied(model, adapter, weight_schedule="ramp down")
    assert factors_of(last, steps=2, denoise=0.5, latent_image=picture) == [[3 / 4], [1 / 4]]
    assert factors_of(applied(model, adapter), steps=1) == [[None]]


def test_factors_between_start_and_end(model, adapter):
    """Percentages are of the noise, positions of the steps."""
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", 4).tolist()
    first, last = (np.interp(sampling.percent_to_sigma(at), sigmas[::-1], range(4, -1, -1)) for at in (0.2, 0.9))
    assert 0 < first < 1 < 2 < last < 4 and {first % 1, last % 1} != {0}
    expected = [[min(max((step + 0.5 - first) / (last - first), 0), 1)] for step in range(4)]
    scheduled = applied(model, adapter, weight_schedule="ramp up", start_percent=0.2, end_percent=0.9)
    assert factors_of(scheduled, steps=4) == expected


def test_half_a_weight_by_schedule_mask_and_weight(model, adapter):
    """The middle of a single step: every schedule but those that peak there gives one half."""
    half = sampled(applied(model, adapter, face_weight=0.5), steps=1)
    whole = sampled(applied(model, adapter), steps=1)
    assert (whole - half).abs().max() > 1e-2
    for schedule in ("ramp up", "ease out"):
        assert_equal_but_for_rounding(sampled(applied(model, adapter, weight_schedule=schedule), steps=1), half)
    masked = applied(model, adapter, weight_schedule="ramp down", attn_mask=torch.ones(1, 128, 192))
    assert_equal_but_for_rounding(sampled(masked, steps=1), half)
    assert torch.equal(sampled(applied(model, adapter, weight_schedule="constant"), steps=1), whole)
    peak = applied(model, adapter, weight_schedule="ease in-out")
    assert_equal_but_for_rounding(sampled(peak, steps=1), whole)
    nothing = applied(model, adapter, weight_schedule="reverse in-out")
    assert torch.equal(sampled(nothing, steps=1), sampled(model, steps=1))


def test_a_schedule_leaves_nothing_behind(model, adapter):
    plain = sampled(model)
    scheduled = applied(model, adapter, weight_schedule="ease in")
    first = sampled(scheduled)
    assert torch.equal(sampled(scheduled), first)
    assert torch.equal(sampled(model), plain) and not torch.equal(first, plain)
    negative = Embeds(**features(2, seed=50))
    off = applied(model, adapter, face_weight=0.0, weight_schedule="ease in", face_negative=negative)
    assert torch.equal(sampled(off), plain)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight_schedule": "ramp up"}, "a constant weight_schedule"),
        ({"embeds": Embeds(**features(2), per_picture=True)}, "the same tokens for every picture"),
    ],
)
def test_the_diffusers_host_refuses_what_it_would_ignore(settings, message):
    adapter = bolid_adapter()
    tokens = partial(adapter.face_tokens, settings.pop("embeds", Embeds(**features())))
    branch = Branch(tokens=tokens, projections=adapter.ip_adapter, layer_weights={1: 1.0}, **settings)
    with attach_to_diffusers(copy.deepcopy(unet_of("sd15"))) as attached, pytest.raises(ValueError, match=message):
        attached.condition([branch], roles=(0, 1))


# Precise weight types


def test_precise_types_are_the_others_where_there_is_no_unconditional_side(model, adapter):
    style = sampled(applied(model, adapter, weight_type="style transfer"), steps=1, cfg=1.0)
    precise = applied(model, adapter, weight_type="style transfer precise")
    assert torch.equal(sampled(precise, steps=1, cfg=1.0), style)
    composition = sampled(applied(model, adapter, weight_type="composition"), steps=1, cfg=1.0)
    precise = applied(model, adapter, weight_type="composition precise")
    assert torch.equal(sampled(precise, steps=1, cfg=1.0), composition)


@torch.no_grad()
def test_precise_types_lead_the_unconditional_side_to_the_photos(model, adapter):
    """With photos on the unconditional side as well, each half is that of a weight type without a side."""
    photos = Embeds(**features())
    both_sides = partial(applied, model, adapter, face_negative=photos)
    _, _, _, _, precise, rows = comfyui_evaluation(applied(model, adapter, weight_type="composition precise"), "sd15")
    assert rows == [1, 0]
    rest = "0:1, 1:1, 2:1, 3:1, 6:.1, 7:.1, 8:.1, 9:1, 10:1, 11:1, 12:1, 13:1, 14:1, 15:1"
    towards = comfyui_evaluation(both_sides(weight_type="composition"), "sd15")[4][1]
    torch.testing.assert_close(precise[1], towards, rtol=0, atol=1e-5)
    # The composition layers keep the empty image on the unconditional side: chained, they are the plain type's half.
    away = applied(both_sides(layer_weights=rest), adapter, weight_type="composition")
    torch.testing.assert_close(precise[0], comfyui_evaluation(away, "sd15")[4][0], rtol=0, atol=1e-5)


# Negative photos


@pytest.mark.parametrize("layout", ["base", "plus", "faceid_plus"])
@torch.no_grad()
def test_negative_photos(model, layout):
    adapter, given = loaded_adapter(layout), features()
    plain = comfyui_evaluation(applied(model, adapter), "sd15")[4]
    empty = {name: torch.zeros_like(tensor) for name, tensor in given.items()}
    empty["hidden_states"] = given["zero_hidden_states"]
    same = comfyui_evaluation(applied(model, adapter, face_negative=Embeds(**empty)), "sd15")[4]
    assert torch.equal(same, plain)
    for photos in (1, 2):
        negative = Embeds(**features(photos, seed=50))
        unconditional, conditional = comfyui_evaluation(applied(model, adapter, face_negative=negative), "sd15")[4]
        torch.testing.assert_close(conditional, plain[1], rtol=0, atol=1e-5)
        assert (unconditional - plain[0]).abs().max() > 1e-2


@torch.no_grad()
def test_negative_photos_of_nobody(model):
    """To FaceID-plus a picture without a face is one with an empty face vector."""
    adapter, given = loaded_adapter("faceid_plus"), features(2, seed=50)
    empty = Embeds(**given | {"face_embeds": torch.zeros_like(given["face_embeds"])})
    nobody = Embeds(**given | {"face_embeds": None})
    first, second = (
        comfyui_evaluation(applied(model, adapter, face_negative=negative), "sd15")[4] for negative in (empty, nobody)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, comfyui_evaluation(applied(model, adapter), "sd15")[4])


# The log


def test_one_line_says_what_was_applied(model, caplog):
    caplog.set_level(logging.INFO, logger=comfyui.logger.name)

    def lines():
        return [record.getMessage() for record in caplog.records if record.name == comfyui.logger.name]

    adapter = cared_for(bolid_adapter())
    both = applied(model, adapter, face_weight=0.75, body=body(), body_weight=0.5, body_weight_type="weak output")
    assert not lines()
    sampled(both, steps=2)
    first = "BoLID: small adapter: face at 0.75 in 16 of 16 layers, body at 0.1 to 0.5 in 16 of 16 layers"
    assert lines() == [first]
    sampled(both, steps=1)
    sampled(applied(model, adapter, weight_type="composition", body=body(), body_weight=0.0), steps=1)
    assert lines() == [first, "BoLID: small adapter: face at 0.25 to 1 in 2 of 16 layers"]
