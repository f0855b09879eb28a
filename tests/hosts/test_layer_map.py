"""The layer map is derived from the UNet; the published tables are its witness."""

import comfy.model_base
import comfy.ops
import pytest
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

from bolid.bench.models import UNET_CONFIGS
from bolid.hosts.comfyui import layer_addresses
from bolid.hosts.diffusers import cross_attention_layers

from ..support.adapter_files import SD15_LAYERS, SDXL_LAYERS
from ..support.scenes import FAMILIES, model_of, unet_of
from ..support.test_support import full_size_unet

TABLES = {"sd15": SD15_LAYERS, "sdxl": SDXL_LAYERS}
HEADS = {"sd15": {"num_heads": 8}, "sdxl": {"num_head_channels": 64}}


class Holder:
    """As much of a MODEL as `layer_addresses` looks at."""

    def __init__(self, unet):
        self.model = type("Model", (), {"diffusion_model": unet})()


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


def comfyui_full_size(family):
    return UNetModel(
        image_size=32,
        in_channels=4,
        out_channels=4,
        model_channels=320,
        use_spatial_transformer=True,
        legacy=False,
        device="meta",
        operations=comfy.ops.disable_weight_init,
        **UNET_CONFIGS[family],
        **HEADS[family],
    )


def test_comfyui_map_equals_the_published_table(family):
    addresses = layer_addresses(Holder(comfyui_full_size(family)))
    derived = [(*address.block, address.layer.index, address.layer.hidden_size) for address in addresses]
    assert derived == [tuple(row) for row in TABLES[family]]
    assert {address.layer.cross_attention_dim for address in addresses} == {UNET_CONFIGS[family]["context_dim"]}


def test_diffusers_map_equals_the_published_table(family):
    layers = cross_attention_layers(full_size_unet(family))
    derived = [(layer.section, layer.index, layer.hidden_size) for layer in layers]
    assert derived == [(row.block, row.key, row.hidden_size) for row in TABLES[family]]


def test_both_hosts_agree_on_the_order_of_execution(family):
    addresses = layer_addresses(model_of(family))
    assert [address.layer for address in addresses] == cross_attention_layers(unet_of(family))
    transformers = {address.layer.transformer_index for address in addresses}
    assert transformers == set(range({"sd15": 16, "sdxl": 11}[family]))


def test_weight_paths_exist(family):
    model = model_of(family).model
    for address in layer_addresses(model_of(family)):
        attention = model.get_submodule(f"{address.path}.attn2")
        assert attention.to_k.weight.shape[0] == address.layer.hidden_size


def test_a_model_without_such_a_unet_is_refused():
    with pytest.raises(ValueError, match="SD1.5 or SDXL checkpoint"):
        layer_addresses(Holder(torch.nn.Linear(1, 1)))
