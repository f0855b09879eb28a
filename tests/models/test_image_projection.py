"""Every image projection against diffusers' own, whose key mapping is independent of ours."""

from __future__ import annotations

import pytest
import torch

from bolid.models.build import build_adapter
from bolid.models.checkpoint import adapter_from_state_dict, detect_layout

from ..support.adapter_files import LAYOUTS, adapter_state_dict, nested
from ..support.scenes import random, unet_of

SMALL = {"image_encoder_width": 40, "face_embeds_width": 24, "lora_rank": 4}


def projections(layout, *, shortcut=True, **sizes):
    """Ours and diffusers', with the same weights."""
    state_dict = adapter_state_dict(layout, layers=[(1, 32)], **sizes)
    ours = adapter_from_state_dict(state_dict, name=layout, faceid_plus_shortcut=shortcut)
    theirs = unet_of("sd15")._convert_ip_adapter_image_proj_to_diffusers(
        nested(state_dict)["image_proj"], low_cpu_mem_usage=False
    )
    if layout == "faceid_plus":
        theirs.shortcut = shortcut
    return ours.image_proj, theirs.eval()


def inputs(layout, *, photos, tokens, image_encoder_width, face_embeds_width):
    given = {
        "image_embeds": random(photos, image_encoder_width, seed=31),
        "hidden_states": random(photos, tokens, image_encoder_width, seed=32),
        "face_embeds": torch.nn.functional.normalize(random(photos, face_embeds_width, seed=33), dim=-1),
    }
    if layout in ("base", "base_bigg"):
        return {"image_embeds": given["image_embeds"]}
    if layout in ("plus", "full_face"):
        return {"hidden_states": given["hidden_states"]}
    if layout == "faceid_plus":
        return {"face_embeds": given["face_embeds"], "hidden_states": given["hidden_states"]}
    return {"face_embeds": given["face_embeds"]}


@torch.no_grad()
def assert_equal_to_diffusers(layout, given, **arguments):
    ours, theirs = projections(layout, **arguments)
    assert set(ours.inputs) == set(given)
    if layout == "faceid_plus":
        theirs.clip_embeds = given["hidden_states"][:, None]
        expected = theirs(given["face_embeds"])
    else:
        (features,) = given.values()
        expected = theirs(features)
    actual = ours(**given)
    assert actual.shape == expected.shape
    assert expected.std() > 0.3
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    return actual


@pytest.mark.parametrize("photos", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_small(layout, photos):
    given = inputs(layout, photos=photos, tokens=7, image_encoder_width=40, face_embeds_width=24)
    tokens = assert_equal_to_diffusers(layout, given, cross_attention_dim=128, resampler_width=192, **SMALL)
    expected = {"plus": 16, "faceid_portrait": 16, "full_face": 7}.get(layout, 4)
    assert tokens.shape == (photos, expected, 128)


@pytest.mark.parametrize("shortcut", [True, False])
def test_both_versions_of_faceid_plus(shortcut):
    given = inputs("faceid_plus", photos=2, tokens=7, image_encoder_width=40, face_embeds_width=24)
    assert_equal_to_diffusers("faceid_plus", given, shortcut=shortcut, cross_attention_dim=128, **SMALL)


@pytest.mark.parametrize(
    ("layout", "cross_attention_dim"),
    [("base", 768), ("base", 2048), ("base_bigg", 2048), ("plus", 768), ("full_face", 768), ("faceid", 2048)],
)
def test_at_the_public_sizes(layout, cross_attention_dim):
    width = 1024 if layout == "base" else 1280
    given = inputs(layout, photos=1, tokens=257, image_encoder_width=width, face_embeds_width=512)
    assert_equal_to_diffusers(layout, given, cross_attention_dim=cross_attention_dim)


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_photos_do_not_mix(layout):
    """Each row of the batch is a photo of its own."""
    ours, _ = projections(layout, cross_attention_dim=128, resampler_width=192, **SMALL)
    given = inputs(layout, photos=3, tokens=7, image_encoder_width=40, face_embeds_width=24)
    together = ours(**given)
    for index in range(3):
        alone = ours(**{name: value[index : index + 1] for name, value in given.items()})
        torch.testing.assert_close(together[index : index + 1], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_tensor_takes_part(layout):
    """A gradient reaches every parameter: none is loaded and then forgotten."""
    state_dict = adapter_state_dict(layout, layers=[(1, 32)], cross_attention_dim=128, resampler_width=192, **SMALL)
    image_proj = build_adapter(detect_layout(state_dict, name=layout)).image_proj
    given = inputs(layout, photos=2, tokens=7, image_encoder_width=40, face_embeds_width=24)
    (image_proj(**given) * random(128, seed=34)).sum().backward()
    for name, parameter in image_proj.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
