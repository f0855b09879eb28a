"""Models of real size with random weights, adapters for them, and the designs that are compared."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..models.adapter import Adapter, AdapterLayout, BodyLayout
from ..models.body import Body
from ..models.build import build_adapter
from ..models.keypoints import JOINTS
from ..models.references import Embeds

if TYPE_CHECKING:
    from ..training.base import Denoiser
    from ..training.batches import Batch
    from ..training.config import AdapterTraining


def prepare_comfyui() -> None:
    """Make ComfyUI importable in this process, on the CPU."""
    import os

    sys.path.insert(0, os.environ["COMFYUI_DIR"])
    from comfy.cli_args import args

    args.cpu = True
    import comfy.options

    comfy.options.args_parsing = False


UNET_CONFIGS: dict[str, dict[str, Any]] = {
    "sd15": {
        "channel_mult": [1, 2, 4, 4],
        "num_res_blocks": [2, 2, 2, 2],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        "transformer_depth_middle": 1,
        "context_dim": 768,
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
    },
    "sdxl": {
        "channel_mult": [1, 2, 4],
        "num_res_blocks": [2, 2, 2],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10,
        "context_dim": 2048,
        "use_linear_in_transformer": True,
        "num_classes": "sequential",
        "adm_in_channels": 2816,
    },
}


def unet_model(family: str, *, on_meta: bool = False) -> Any:
    """A MODEL with the real UNet's sizes; on the meta device it has structure but no weights."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models

    config = {"sd15": comfy.supported_models.SD15, "sdxl": comfy.supported_models.SDXL}[family](
        {
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": 320,
            "use_spatial_transformer": True,
            "legacy": False,
            "use_temporal_attention": False,
            "use_temporal_resblock": False,
            **UNET_CONFIGS[family],
        }
    )
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device="meta" if on_meta else "cpu")
    if not on_meta:
        _randomise(model.diffusion_model)
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))


@torch.no_grad()
def _randomise(module: torch.nn.Module) -> None:
    generator: torch.Generator | None = None
    for parameter in module.parameters():
        generator = generator or torch.Generator(parameter.device).manual_seed(0)
        if parameter.ndim < 2:
            parameter.fill_(0.5)
        else:
            parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)


def adapter_layout(kind: str, model: Any) -> AdapterLayout:
    """Layout of the public base or plus adapter for this model."""
    from ..hosts.comfyui import layer_addresses

    addresses = layer_addresses(model)
    width = addresses[0].layer.cross_attention_dim
    common: dict[str, Any] = {
        "kind": kind,
        "cross_attention_dim": width,
        "layers": dict(sorted((address.layer.index, address.layer.hidden_size) for address in addresses)),
    }
    if kind == "base":
        return AdapterLayout(num_tokens=4, image_embed_dim=1024, **common)
    return AdapterLayout(num_tokens=16, hidden_size=1280, inner_dim=1280 if width == 2048 else width, depth=4, **common)


def loaded_adapter(kind: str, model: Any, *, body_tokens: int = 0) -> Any:
    """A `BOLID_ADAPTER` of real size with torch's initial weights, with a body branch if it has tokens."""
    import comfy.ops

    from ..hosts.comfyui import in_comfyuis_care

    layout = adapter_layout(kind, model)
    if body_tokens:
        layout = replace(
            layout,
            body=BodyLayout(hidden_size=1280, dim=512, depth=2, resampler_depth=1, num_tokens=body_tokens),
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = build_adapter(layout).state_dict()
    with torch.device("meta"):
        adapter = build_adapter(layout, operations=comfy.ops.manual_cast)
    adapter.load_state_dict(weights, assign=True)
    adapter.eval().requires_grad_(False)
    return in_comfyuis_care(adapter, name=kind)


def embeds(kind: str, photos: int) -> Embeds:
    generator = torch.Generator().manual_seed(1)
    if kind == "base":
        return Embeds(image_embeds=torch.randn(photos, 1024, generator=generator))
    return Embeds(
        hidden_states=torch.randn(photos, 257, 1280, generator=generator),
        zero_hidden_states=torch.randn(1, 257, 1280, generator=generator),
    )


def body(photos: int) -> Body:
    generator = torch.Generator().manual_seed(3)
    keypoints = torch.rand(photos, 12, 3, generator=generator)
    keypoints[..., 2] = 1.0
    return Body(
        keypoints=keypoints,
        image_sizes=torch.full((photos, 2), 512),
        hidden_states=torch.randn(photos, 257, 1280, generator=generator),
    )


def with_bolid(model: Any, adapter: Any, given: Embeds | None, body: Body | None = None) -> Any:
    """What BoLIDAdapterApply makes of a model."""
    from ..nodes.adapters import BoLIDAdapterApply

    return BoLIDAdapterApply.execute(
        model, adapter, face=given, face_weight=1.0, start_percent=0.0, end_percent=1.0, body=body
    ).result[0]


def with_classic(model: Any, adapter: Any, given: Embeds) -> Any:
    """The classic design: patches at graph time that project the tokens to K', V' in every layer and every step."""
    from comfy.ldm.modules.attention import optimized_attention

    from ..hosts.comfyui import layer_addresses

    module: Adapter = adapter.adapter
    unconditional, conditional = module.face_tokens(given, device="cpu", dtype=torch.float32)
    # Both halves of the batch need one shape; repeated tokens leave the attention as it is.
    tokens = torch.cat((unconditional.repeat(1, conditional.shape[1] // unconditional.shape[1], 1), conditional))
    model = model.clone()

    def patch(layer: Callable[..., Any]) -> Callable[..., torch.Tensor]:
        def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: dict) -> torch.Tensor:
            hidden_states = optimized_attention(q, k, v, extra_options["n_heads"])
            key_value = layer(tokens[[1 - row for row in extra_options["cond_or_uncond"]]])
            return hidden_states + optimized_attention(q, key_value.key, key_value.value, extra_options["n_heads"])

        return attention

    for address in layer_addresses(model):
        model.set_model_attn2_replace(patch(module.ip_adapter[str(address.layer.index)]), *address.block)
    return model


DESIGNS = {"BoLID": with_bolid, "classic": with_classic}
TOKENS = {4: ("base", 1), 16: ("plus", 1), 144: ("plus", 9)}
"""Tokens in the attention → adapter kind and number of photos side by side."""


def folder_for_files() -> Any:
    """A temporary folder for files of several hundred MB."""
    import tempfile

    return tempfile.TemporaryDirectory(prefix="bolid-bench-", ignore_cleanup_errors=True)


def write_adapter(path: Path, layout: AdapterLayout, *, dtype: torch.dtype = torch.float16) -> None:
    """A file of the public layout with weights of one value: their values cost no time."""
    from safetensors.torch import save_file

    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in build_adapter(layout).state_dict().items()}
    save_file({name: torch.full(shape, 0.01, dtype=dtype) for name, shape in shapes.items()}, path)


# For training


DIFFUSERS_UNETS: dict[str, dict[str, Any]] = {
    "sd15": {"block_out_channels": (320, 640, 1280, 1280), "attention_head_dim": 8, "cross_attention_dim": 768},
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "cross_attention_dim": 2048,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
IMAGE_EMBED_DIM, IMAGE_HIDDEN_SIZE = 1024, 1280
"""Of CLIP ViT-H/14."""

POOLED_TEXT_DIM, LATENT_FACTOR = 1280, 8


def training_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def random_denoiser(
    family: str, *, device: torch.device, dtype: torch.dtype = torch.float32, tiny: bool = False
) -> Denoiser:
    """A frozen UNet of real size; its weights are made where they stay, so that none are held twice."""
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from diffusers.utils import logging

    from ..training.base import Denoiser

    logging.set_verbosity_error()
    sizes = dict(DIFFUSERS_UNETS[family])
    if tiny:
        sizes["block_out_channels"] = tuple(channels // 10 for channels in sizes["block_out_channels"])
        sizes["attention_head_dim"] = 8
    with torch.device("meta"):
        unet = UNet2DConditionModel(**sizes)
    unet = unet.to(dtype).to_empty(device=device).eval().requires_grad_(False)
    _randomise(unet)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.to(device)
    return Denoiser(unet=unet, scheduler=scheduler)


def same_denoiser(denoiser: Denoiser) -> Denoiser:
    """A UNet of the same weights, to which other branches can be attached."""
    with torch.device("meta"):
        unet = type(denoiser.unet).from_config(denoiser.unet.config)
    unet.load_state_dict(denoiser.unet.state_dict(), assign=True)
    return replace(denoiser, unet=unet.eval().requires_grad_(False))


def random_autoencoder(*, tiny: bool = False) -> Any:
    """The VAE of SD1.5."""
    from diffusers import AutoencoderKL

    widths = (32, 32, 32, 32) if tiny else (128, 256, 512, 512)
    return (
        AutoencoderKL(
            block_out_channels=widths,
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            layers_per_block=2,
            latent_channels=4,
            scaling_factor=0.18215,
        )
        .eval()
        .requires_grad_(False)
    )


def training_config(
    method: str, *, data: Path, base: Path, image_encoder: Path, **base_settings: Any
) -> AdapterTraining:
    """A config with defaults; the paths need not exist where only models in memory are trained."""
    from ..training.config import AdapterTraining

    return AdapterTraining.model_validate(
        {
            "method": method,
            "run": {"output": data / "run"},
            "data": {"path": data},
            "base": {"path": base, "image_encoder": image_encoder, **base_settings},
        }
    )


def training_batch(
    denoiser: Denoiser, *, resolution: int, timestep: int, references: int = 9, clip_width: int = 1
) -> Batch:
    """One target and its references, everything that a step may read of them."""
    from ..training.batches import Batch

    config, size, given = denoiser.unet.config, resolution // LATENT_FACTOR, body(references)
    generator = torch.Generator().manual_seed(4)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(1, *shape, generator=generator)

    yes, cells = torch.tensor([True]), given.hidden_states.flatten(0, 1).unsqueeze(0)
    joints = torch.rand(1, len(JOINTS), 3, generator=generator)
    joints[..., 2] = 1.0
    return Batch(
        names=("photo",),
        latents=normal(4, size, size),
        noise=normal(4, size, size),
        timesteps=torch.tensor([timestep]),
        text=normal(77, config.cross_attention_dim),
        pooled_text=normal(POOLED_TEXT_DIM) if config.addition_embed_type else None,
        time_ids=torch.tensor([[resolution, resolution, 0, 0, resolution, resolution]], dtype=torch.float32),
        joints=joints,
        features={"image_embeds": normal(references, IMAGE_EMBED_DIM)},
        in_use=torch.ones(1, references, dtype=torch.bool),
        places=torch.arange(references).unsqueeze(0),
        has_text=yes,
        has_face=yes,
        has_body=yes,
        proportions=given.proportions.unsqueeze(0),
        seen=given.seen.unsqueeze(0),
        target_pose=joints,
        body_image=cells,
        body_image_in_use=torch.ones(cells.shape[:2], dtype=torch.bool),
        clip_text=torch.nn.functional.normalize(normal(clip_width), dim=-1),
        clip_image=None,
    )
