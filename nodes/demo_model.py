"""A small Stable Diffusion model as stock ComfyUI objects, so that the pack runs with no download.

Until trained weights ship with the project, the weights are random (from a fixed seed): the model answers to its text
and to its reference photos, but it draws patterns and no people.
"""

from __future__ import annotations

import math
from typing import Any

import comfy.clip_vision
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.supported_models
import comfy.taesd.taesd
import torch
from torch import nn

from ..hosts.comfyui import LoadedAdapter, in_comfyuis_care, layer_addresses
from ..models.adapter import AdapterLayout, BodyLayout
from ..models.build import build_adapter
from .world_model import clip_target

TEXT_WIDTH = 64
IMAGE_EMBED_DIM = 96

UNET_CONFIG: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "num_res_blocks": [1, 1],
    "channel_mult": (1, 2),
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "context_dim": TEXT_WIDTH,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
}

TEXT_CONFIG: dict[str, Any] = {
    "num_hidden_layers": 2,
    "hidden_size": TEXT_WIDTH,
    "num_attention_heads": 4,
    "intermediate_size": 4 * TEXT_WIDTH,
    "hidden_act": "quick_gelu",
    "max_position_embeddings": 77,
}

IMAGE_ENCODER_CONFIG: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "image_size": 112,
    "patch_size": 14,
    "num_channels": 3,
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 384,
    "hidden_act": "gelu",
    "projection_dim": IMAGE_EMBED_DIM,
}

BODY_LAYOUT = BodyLayout(hidden_size=IMAGE_ENCODER_CONFIG["hidden_size"], dim=64, depth=1, resampler_depth=1)


class _DemoModelConfig(comfy.supported_models.SD15):
    unet_config = {}
    unet_extra_config = {"num_heads": 4, "num_head_channels": -1}

    def model_type(self, state_dict: dict, prefix: str = "") -> comfy.model_base.ModelType:
        # A random network that predicts noise leaves noise behind; one that predicts the picture shows its answer.
        return comfy.model_base.ModelType.IMG_TO_IMG


def demo_model(generator: torch.Generator) -> comfy.model_patcher.ModelPatcher:
    """The UNet as a MODEL."""
    load_device = comfy.model_management.get_torch_device()
    offload_device = comfy.model_management.unet_offload_device()
    config = _DemoModelConfig(UNET_CONFIG)
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device=offload_device)
    _fill(model.diffusion_model, generator)
    return comfy.model_patcher.CoreModelPatcher(model, load_device=load_device, offload_device=offload_device)


def demo_text_encoder(generator: torch.Generator) -> comfy.sd.CLIP:
    """The text encoder as a CLIP."""
    clip = comfy.sd.CLIP(clip_target(TEXT_CONFIG))
    _fill(clip.cond_stage_model, generator)
    return clip


def demo_vae(generator: torch.Generator) -> comfy.sd.VAE:
    """A TAESD-layout autoencoder as a VAE."""
    autoencoder = comfy.taesd.taesd.TAESD()
    _fill(autoencoder, generator)
    _centre_colours(autoencoder.taesd_decoder, generator)
    state_dict = autoencoder.state_dict()
    state_dict["vae_scale"] = torch.tensor(0.18215)
    return comfy.sd.VAE(sd=state_dict)


def demo_image_encoder(generator: torch.Generator) -> comfy.clip_vision.ClipVisionModel:
    """The image encoder as a CLIP_VISION."""
    encoder = comfy.clip_vision.ClipVisionModel(dict(IMAGE_ENCODER_CONFIG))
    _fill(encoder.model, generator)
    return encoder


def demo_adapter(
    generator: torch.Generator, model: comfy.model_patcher.ModelPatcher, method: str
) -> LoadedAdapter:
    """An adapter for the demo model: a base-layout IP-Adapter, alone or with the other parts of a BoLID adapter.

    Args:
        method: "ip_adapter", "self_attention" or "bolid".
    """
    layers = {address.layer.index: address.layer.hidden_size for address in layer_addresses(model)}
    layout = AdapterLayout(
        kind="base",
        cross_attention_dim=TEXT_WIDTH,
        num_tokens=4,
        image_embed_dim=IMAGE_EMBED_DIM,
        layers=dict(sorted(layers.items())),
        aggregator_depth=0 if method == "ip_adapter" else 1,
        body=BODY_LAYOUT if method == "bolid" else None,
    )
    adapter = build_adapter(layout, operations=comfy.ops.manual_cast)
    _fill(adapter, generator)
    return in_comfyuis_care(adapter, name="untrained demo adapter")


@torch.no_grad()
def _centre_colours(decoder: nn.Sequential, generator: torch.Generator) -> None:
    """Scale the last layer so that random latents decode to mid-grey with some colour, instead of clipped black."""
    pixels = decoder(torch.randn(4, 4, 16, 16, generator=generator))
    mean, deviation = pixels.mean(dim=(0, 2, 3)), pixels.std(dim=(0, 2, 3))
    decoder[-1].weight.mul_((0.2 / deviation).view(-1, 1, 1, 1))
    decoder[-1].bias.copy_(0.5 - 0.2 * mean / deviation)


@torch.no_grad()
def _fill(module: nn.Module, generator: torch.Generator) -> None:
    """Random weights that keep the scale of activations; norms at 1, biases at 0. Nothing here trains."""
    module.eval().requires_grad_(False)
    for name, parameter in module.named_parameters():
        if parameter.ndim < 2:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
        else:
            fan_in = parameter.shape[-1] if "embedding" in name else math.prod(parameter.shape[1:])
            values = torch.randn(parameter.shape, generator=generator) / math.sqrt(fan_in)
            parameter.copy_(values.to(parameter))
