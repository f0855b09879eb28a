"""Same weights, same inputs: diffusers' own IP-Adapter, our diffusers host and our ComfyUI host give the same."""

import copy
from functools import partial

import pytest
import torch
from comfy.patcher_extension import WrappersMP

from bolid.hosts.comfyui import add_faceid_lora, attach, in_comfyuis_care, layer_addresses
from bolid.hosts.diffusers import attach as attach_to_diffusers
from bolid.hosts.diffusers import cross_attention_layers
from bolid.models.branch import Branch
from bolid.models.checkpoint import adapter_from_state_dict, faceid_lora
from bolid.models.layer_weights import layer_weights
from bolid.models.references import Embeds

from ..support.scenes import FAMILIES, LATENT_SHAPE, features, model_of, random, sampled, state_dict_of, unet_of
from ..support.small_models import SDXL_POOLED_WIDTH, comfy_model, diffusers_with_ip_adapter

LAYOUTS = ("base", "plus", "full_face", "faceid", "faceid_portrait", "faceid_plus")
PHOTOS = 2
SCALE = 0.8
CASES = [(family, layout) for family in FAMILIES for layout in LAYOUTS]
V1_CASE = ("sd15", "faceid_plus", False)


def branch_of(adapter, layers, embeds, weight=SCALE):
    return Branch(
        tokens=partial(adapter.face_tokens, embeds),
        projections=adapter.ip_adapter,
        layer_weights=layer_weights(layers, weight),
    )


def diffusers_reference(family, layout, *, shortcut, lora_strength):
    """diffusers' own implementation for a batch of one unconditional and one conditional row."""
    given = features(PHOTOS)
    rows = {
        name: torch.stack(
            (
                given["zero_hidden_states"].expand_as(value) if name == "hidden_states" else torch.zeros_like(value),
                value,
            )
        )
        for name, value in given.items()
        if name != "zero_hidden_states"
    }
    if layout == "base":
        inputs = {"image_embeds": rows["image_embeds"]}
    elif layout in ("plus", "full_face"):
        inputs = {"image_embeds": rows["hidden_states"]}
    else:
        inputs = {"image_embeds": rows["face_embeds"]}
        if layout == "faceid_plus":
            inputs["hidden_states"] = rows["hidden_states"]
    return diffusers_with_ip_adapter(
        unet_of(family),
        state_dict_of(layout, family),
        scale=SCALE,
        shortcut=shortcut,
        lora_strength=lora_strength,
        **inputs,
    )


def unet_inputs(family):
    latents = random(2, *LATENT_SHAPE[1:], seed=2)
    text = random(2, 77, unet_of(family).config.cross_attention_dim, seed=3)
    added = {
        "text_embeds": random(2, SDXL_POOLED_WIDTH, seed=4),
        "time_ids": torch.tensor([[128.0, 192.0, 8.0, 16.0, 256.0, 384.0]]).repeat(2, 1),
    }
    return latents, torch.tensor([801.0, 801.0]), text, added if family == "sdxl" else None


@pytest.mark.parametrize(("family", "layout", "shortcut"), [(*case, True) for case in CASES] + [V1_CASE])
@torch.no_grad()
def test_diffusers_host_equals_diffusers(family, layout, shortcut):
    latents, timesteps, text, added = unet_inputs(family)
    expected = diffusers_reference(family, layout, shortcut=shortcut, lora_strength=0.0)(
        latents, timesteps, text, added
    )
    unet = copy.deepcopy(unet_of(family))
    adapter = adapter_from_state_dict(state_dict_of(layout, family), name=layout, faceid_plus_shortcut=shortcut)

    def predict():
        return unet(latents, timesteps, encoder_hidden_states=text, added_cond_kwargs=added).sample

    before, processors = predict(), dict(unet.attn_processors)
    with attach_to_diffusers(unet) as attached:
        torch.testing.assert_close(predict(), before, rtol=0, atol=1e-6)
        branch = branch_of(adapter, cross_attention_layers(unet), Embeds(**features(PHOTOS)))
        attached.condition([branch], roles=(0, 1))
        result = predict()
    assert (result - before).abs().max() > 1e-2
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)
    assert unet.attn_processors == processors
    assert torch.equal(predict(), before)


def comfyui_evaluation(model, family):
    """One model evaluation inside ComfyUI's sampler: what went into the UNet and what came out."""
    seen = []

    def note(executor, x, timesteps, context, y, control, transformer_options, **kwargs):
        output = executor(x, timesteps, context, y, control, transformer_options, **kwargs)
        rows = transformer_options["cond_or_uncond"]
        seen.append((x.clone(), timesteps, context, y, output, rows))
        return output

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", note)
    sampled(model, family, steps=1)
    return seen[0]


def added_conditions(y):
    """What ComfyUI gave to an SDXL UNet as one vector, as diffusers takes it; None for SD1.5."""
    if y is None:
        return None
    height, width = (8 * side for side in LATENT_SHAPE[2:])
    return {
        "text_embeds": y[:, :SDXL_POOLED_WIDTH],
        "time_ids": torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float).repeat(2, 1),
    }


@pytest.mark.parametrize(("family", "layout"), CASES)
@torch.no_grad()
def test_comfyui_host_equals_diffusers_host(family, layout):
    adapter = adapter_from_state_dict(state_dict_of(layout, family), name=layout)
    model = model_of(family)
    addresses = layer_addresses(model)
    loaded = in_comfyuis_care(adapter, name=layout)
    branch = branch_of(adapter, [address.layer for address in addresses], Embeds(**features(PHOTOS)))
    x, timesteps, context, y, output, cond_or_uncond = comfyui_evaluation(
        attach(model, loaded, addresses, [branch]), family
    )
    added = added_conditions(y)
    unet = copy.deepcopy(unet_of(family))
    with attach_to_diffusers(unet) as attached:
        attached.condition([branch], roles=[1 - row for row in cond_or_uncond])
        expected = unet(x, timesteps, encoder_hidden_states=context, added_cond_kwargs=added).sample
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-4)
    plain = unet(x, timesteps, encoder_hidden_states=context, added_cond_kwargs=added).sample
    assert (plain - expected).abs().max() > 1e-2


@pytest.mark.parametrize("layout", ["faceid", "faceid_plus"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_faceid_lora_equals_diffusers(family, layout):
    adapter = adapter_from_state_dict(state_dict_of(layout, family), name=layout)
    model = comfy_model(unet_of(family), family)  # of its own: weight patches are put into the weights
    addresses = layer_addresses(model)
    loaded = in_comfyuis_care(adapter, name=layout, lora=faceid_lora(state_dict_of(layout, family)))
    branch = branch_of(adapter, [address.layer for address in addresses], Embeds(**features(PHOTOS)))
    adapted = attach(model, loaded, addresses, [branch])
    add_faceid_lora(adapted, loaded, addresses, 0.7)
    assert len(adapted.patches) == len(addresses) * 2 * 4
    x, timesteps, context, y, output, cond_or_uncond = comfyui_evaluation(adapted, family)
    assert cond_or_uncond == [1, 0]
    reference = diffusers_reference(family, layout, shortcut=True, lora_strength=0.7)
    added = added_conditions(y)
    torch.testing.assert_close(output, reference(x, timesteps, context, added), rtol=0, atol=1e-4)
    without = diffusers_reference(family, layout, shortcut=True, lora_strength=0.0)
    assert (output - without(x, timesteps, context, added)).abs().max() > 1e-2


def test_diffusers_host_refuses_what_it_cannot_combine():
    unet = copy.deepcopy(unet_of("sd15"))
    with attach_to_diffusers(unet), pytest.raises(ValueError, match="AttnProcessor2_0"):
        attach_to_diffusers(unet)
    adapter = adapter_from_state_dict(state_dict_of("base", "sd15"), name="base")
    branch = Branch(
        tokens=partial(adapter.face_tokens, Embeds(**features())),
        projections=adapter.ip_adapter,
        layer_weights={1: 1.0},
        start_percent=0.5,
    )
    with attach_to_diffusers(unet) as attached, pytest.raises(ValueError, match="start and end percent"):
        attached.condition([branch], roles=(0, 1))


def test_gradients_reach_the_adapter():
    unet = copy.deepcopy(unet_of("sd15"))
    adapter = adapter_from_state_dict(state_dict_of("base", "sd15"), name="base").requires_grad_(True)
    latents, timesteps, text, _ = unet_inputs("sd15")
    tokens = adapter.image_proj(features(2)["image_embeds"])
    with attach_to_diffusers(unet) as attached:
        attached.set_key_values([{index: adapter.ip_adapter[str(index)](tokens) for index in adapter.layout.layers}])
        unet(latents, timesteps, encoder_hidden_states=text).sample.square().mean().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in adapter.parameters())
    assert all(parameter.grad is None for parameter in unet.parameters())
