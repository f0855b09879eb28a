"""Text, face and body in one sum: both hosts, and every branch with its own weight, schedule, mask and layers."""

import copy
from functools import partial

import pytest
import torch

from bolid.hosts.comfyui import attach, layer_addresses, load_adapter
from bolid.hosts.diffusers import attach as attach_to_diffusers
from bolid.models.adapter_file import write_adapter
from bolid.models.branch import Branch
from bolid.models.layer_weights import layer_weights
from bolid.models.references import Embeds

from ..support.scenes import (
    FAMILIES,
    applied,
    body,
    bolid_adapter,
    cared_for,
    features,
    model_of,
    sampled,
    unet_of,
)
from .test_parity import added_conditions, comfyui_evaluation


def branches_of(adapter, layers, *, face=None, person=None):
    given = []
    if face is not None:
        given.append((partial(adapter.face_tokens, face), adapter.ip_adapter, 0.8))
    if person is not None:
        given.append((partial(adapter.body_tokens, person), adapter.body_adapter, 0.6))
    return [
        Branch(tokens=tokens, projections=projections, layer_weights=layer_weights(layers, weight))
        for tokens, projections, weight in given
    ]


@pytest.fixture(scope="module")
def adapter():
    return cared_for(bolid_adapter())


@pytest.fixture(scope="module")
def model():
    return model_of("sd15")


def with_body(model, adapter, **arguments):
    return sampled(applied(model, adapter, **{"body": body(), **arguments}))


@pytest.mark.parametrize("person", [body(), body(3, grid=False), body(1, target_pose=True)])
@pytest.mark.parametrize("face", [None, Embeds(**features(2))], ids=["body", "face and body"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_comfyui_host_equals_diffusers_host(family, face, person):
    module = bolid_adapter(family)
    addresses = layer_addresses(model_of(family))
    branches = branches_of(module, [address.layer for address in addresses], face=face, person=person)
    x, timesteps, context, y, output, rows = comfyui_evaluation(
        attach(model_of(family), cared_for(module), addresses, branches), family
    )
    added = added_conditions(y)
    unet = copy.deepcopy(unet_of(family))

    def predict(given):
        with attach_to_diffusers(unet) as attached:
            attached.condition(given, roles=[1 - row for row in rows])
            return unet(x, timesteps, encoder_hidden_states=context, added_cond_kwargs=added).sample

    torch.testing.assert_close(output, predict(branches), rtol=0, atol=1e-4)
    assert (predict(branches) - predict(branches[:-1])).abs().max() > 1e-2


@torch.no_grad()
def test_the_body_does_not_touch_the_unconditional_half(model, adapter):
    adapted = comfyui_evaluation(applied(model, adapter, face=None, body=body()), "sd15")
    plain = comfyui_evaluation(model, "sd15")
    assert adapted[-1] == plain[-1] == [1, 0]
    assert torch.equal(adapted[4][:1], plain[4][:1])
    assert not torch.equal(adapted[4][1:], plain[4][1:])


def test_weight_0_is_the_graph_without_the_branch(model, adapter):
    plain = sampled(model)
    face_alone = sampled(applied(model, adapter))
    body_alone = with_body(model, adapter, face=None)
    assert torch.equal(with_body(model, adapter, body_weight=0.0), face_alone)
    assert torch.equal(with_body(model, adapter, face_weight=0.0), body_alone)
    assert torch.equal(with_body(model, adapter, face_weight=0.0, body_weight=0.0), plain)
    assert torch.equal(with_body(model, adapter, face=None, body_weight=0.0), plain)
    both = with_body(model, adapter)
    pictures = [plain, face_alone, body_alone, both]
    assert all((a - b).abs().max() > 1e-2 for i, a in enumerate(pictures) for b in pictures[:i])


def test_a_body_and_a_face_node_in_a_row_equal_one_node(model, adapter):
    in_a_row = applied(applied(model, adapter), adapter, face=None, body=body())
    torch.testing.assert_close(sampled(in_a_row), with_body(model, adapter), rtol=0, atol=1e-4)


NOT_THE_BODY = {"start_percent": 1.0, "end_percent": 1.0}
NOT_THE_FACE = {"body_start_percent": 1.0, "body_end_percent": 1.0}


def test_schedules_are_apart(model, adapter):
    face_alone, body_alone = sampled(applied(model, adapter)), with_body(model, adapter, face=None)
    assert torch.equal(with_body(model, adapter, **NOT_THE_FACE), face_alone)
    assert torch.equal(with_body(model, adapter, **NOT_THE_BODY), body_alone)
    late = with_body(model, adapter, face=None, body_start_percent=0.5)
    assert not torch.equal(late, body_alone) and not torch.equal(late, sampled(model))


def test_masks_are_apart(model, adapter):
    face_alone, body_alone = sampled(applied(model, adapter)), with_body(model, adapter, face=None)
    nowhere, left = torch.zeros(1, 16, 24), torch.zeros(1, 16, 24)
    left[..., :12] = 1
    assert torch.equal(with_body(model, adapter, body_attn_mask=nowhere), face_alone)
    assert torch.equal(with_body(model, adapter, attn_mask=nowhere), body_alone)
    halved = with_body(model, adapter, face=None, body_attn_mask=left)
    assert torch.equal(with_body(model, adapter, face=None, body_attn_mask=left[0]), halved)
    assert not torch.equal(halved, body_alone) and not torch.equal(halved, sampled(model))


def test_layer_weights_are_apart(model, adapter):
    face_alone, body_alone = sampled(applied(model, adapter)), with_body(model, adapter, face=None)
    assert torch.equal(with_body(model, adapter, body_layer_weights="4:0"), face_alone)
    assert torch.equal(with_body(model, adapter, layer_weights="4:0"), body_alone)
    one_layer = with_body(model, adapter, face=None, body_layer_weights="4:1")
    assert not torch.equal(one_layer, body_alone)
    weak = with_body(model, adapter, face=None, body_weight_type="weak output")
    assert not torch.equal(weak, body_alone)


def test_a_saved_adapter_draws_the_same_picture(model, adapter, tmp_path):
    path = tmp_path / "saved.safetensors"
    write_adapter(path, bolid_adapter(), base_model="small", image_encoder="small")
    loaded = load_adapter(path)
    assert torch.equal(with_body(model, loaded), with_body(model, adapter))
    write_adapter(tmp_path / "again.safetensors", loaded.adapter, base_model="small", image_encoder="small")
    assert torch.equal(with_body(model, load_adapter(tmp_path / "again.safetensors")), with_body(model, adapter))


def test_sampling_leaves_nothing_behind(model, adapter):
    before = sampled(model)
    adapted = applied(model, adapter, body=body(target_pose=True))
    first, second = sampled(adapted), sampled(adapted)
    assert torch.equal(first, second)
    assert torch.equal(sampled(model), before)


def test_gradients_reach_the_body_branch():
    from .test_parity import unet_inputs

    module = copy.deepcopy(bolid_adapter()).requires_grad_(True)
    unet = copy.deepcopy(unet_of("sd15"))
    latents, timesteps, text, _ = unet_inputs("sd15")
    person = body(target_pose=True)
    _, tokens = module.body_tokens(person, device="cpu", dtype=torch.float32)
    with attach_to_diffusers(unet) as attached:
        attached.set_key_values([{index: module.body_adapter[str(index)](tokens) for index in module.layout.layers}])
        unet(latents, timesteps, encoder_hidden_states=text).sample.square().mean().backward()
    unused = {"body_encoder.null_grid"}
    for name, parameter in module.named_parameters():
        if name.startswith(("body_encoder.", "body_adapter.")) and name not in unused:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
