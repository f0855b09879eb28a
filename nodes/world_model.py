"""The people world's networks, which ship with the project, as stock ComfyUI objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.latent_formats
import comfy.ldm.ace.vae.autoencoder_dc
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.taesd.taesd
import comfy.utils
import torch

from ..models.network_file import NetworkFile, read_network

WEIGHTS = Path(__file__).parent.parent / "world" / "weights"

VOCABULARY_SIZE = 49408
"""Tokens of CLIP."""


def world_model(weights: Path = WEIGHTS, *, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """The denoiser as a MODEL.

    Args:
        disable_dynamic: as ComfyUI's own loaders take it: its nodes that compile a model or hook its weights call the
            loader again with it where weights are loaded bit by bit (DynamicVRAM).

    Raises:
        FileNotFoundError: there are no weights in that folder.
    """
    base, autoencoder = _read(weights, "base"), _read(weights, "autoencoder")
    unet_config = _unet_config(base.sizes["unet"])
    config = _WorldModelConfig(dict(unet_config))
    config.latent_format = _latent_format(autoencoder)
    config.sampling_settings = {
        "linear_start": base.sizes["schedule"]["beta_start"],
        "linear_end": base.sizes["schedule"]["beta_end"],
        "zsnr": base.sizes["schedule"]["rescale_betas_zero_snr"],
    }
    config.set_inference_dtype(torch.float32, None)
    offload_device = comfy.model_management.unet_offload_device()
    model = config.get_model({}, device=offload_device)
    names, state_dict = comfy.utils.unet_to_diffusers(unet_config), base.part("unet")
    model.diffusion_model.load_state_dict({names[key]: tensor for key, tensor in state_dict.items()})
    patcher_class = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = patcher_class(model, load_device=comfy.model_management.get_torch_device(), offload_device=offload_device)
    patcher.cached_patcher_init = (world_model, (weights,))
    return patcher


def world_text_encoder(weights: Path = WEIGHTS, *, disable_dynamic: bool = False) -> comfy.sd.CLIP:
    """The text encoder as a CLIP, with a row for each of CLIP's tokens; the file has one for all that it never read.

    Args:
        disable_dynamic: see `world_model`.
    """
    base = _read(weights, "base")
    sizes, state_dict = base.sizes["text_encoder"], base.part("text_encoder")
    rows = torch.zeros(VOCABULARY_SIZE, dtype=torch.long)
    rows[base.state_dict["tokens"]] = torch.arange(1, len(base.state_dict["tokens"]) + 1)
    state_dict = {f"text_model.{key.removeprefix('text_model.')}": tensor for key, tensor in state_dict.items()}
    table = "text_model.embeddings.token_embedding.weight"
    state_dict[table] = state_dict[table][rows]
    clip = comfy.sd.CLIP(clip_target(sizes), disable_dynamic=disable_dynamic)
    clip.patcher.cached_patcher_init = (_text_encoder_patcher, (weights,))
    transformer = clip.cond_stage_model.clip_l.transformer
    # Stable Diffusion reads the hidden states: a projection is part of ComfyUI's class alone.
    transformer.load_state_dict({"text_projection.weight": torch.eye(sizes["hidden_size"]), **state_dict})
    return clip


def _text_encoder_patcher(weights: Path, *, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    return world_text_encoder(weights, disable_dynamic=disable_dynamic).patcher


def world_vae(weights: Path = WEIGHTS) -> comfy.sd.VAE:
    """The autoencoder as a VAE."""
    file = _read(weights, "autoencoder")
    sizes = {**file.sizes["autoencoder"], "scaling_factor": 1.0}  # the model's latent format scales
    latent_channels = sizes["latent_channels"]
    # VAE chooses among the classes that it knows; one with as many latent channels makes it ready for ours.
    vae = comfy.sd.VAE(sd=comfy.taesd.taesd.TAESD(latent_channels=latent_channels).state_dict())
    autoencoder = comfy.ldm.ace.vae.autoencoder_dc.AutoencoderDC(**sizes)
    autoencoder.load_state_dict(file.state_dict)
    vae.first_stage_model = autoencoder.eval().to(vae.vae_dtype)
    comfy.model_management.archive_model_dtypes(autoencoder)
    vae.patcher = comfy.model_patcher.CoreModelPatcher(
        autoencoder, load_device=vae.device, offload_device=comfy.model_management.vae_offload_device()
    )
    vae.size = comfy.model_management.module_size(autoencoder)
    return vae


def world_image_encoder(weights: Path = WEIGHTS) -> comfy.clip_vision.ClipVisionModel:
    """The image encoder as a CLIP_VISION."""
    file = _read(weights, "image_encoder", network="recognition")
    config = {key: value for key, value in file.sizes["recogniser"].items() if key != "kind"}
    encoder = comfy.clip_vision.ClipVisionModel({**config, "model_type": "clip_vision_model", "num_channels": 3})
    encoder.model.load_state_dict(file.part("recogniser.network"))
    return encoder


def _read(weights: Path, name: str, *, network: str | None = None) -> NetworkFile:
    return read_network(weights / f"{name}.safetensors", network or name)


class _WorldModelConfig(comfy.supported_models_base.BASE):
    unet_extra_config = {"num_head_channels": -1}

    def model_type(self, state_dict: dict, prefix: str = "") -> comfy.model_base.ModelType:
        return comfy.model_base.ModelType.V_PREDICTION

    def inpaint_model(self) -> bool:
        # ComfyUI takes every UNet that reads more than four channels for one that reads a mask too.
        return False


def _unet_config(sizes: dict[str, Any]) -> dict[str, Any]:
    """ComfyUI's names for the sizes of a `UNet2DConditionModel` whose levels all have attention."""
    widths, blocks = sizes["block_out_channels"], sizes["layers_per_block"]
    levels = len(widths)
    return {
        "image_size": 32,
        "in_channels": sizes["in_channels"],
        "out_channels": sizes["out_channels"],
        "model_channels": widths[0],
        "channel_mult": tuple(width // widths[0] for width in widths),
        "num_res_blocks": [blocks] * levels,
        "transformer_depth": [1] * (blocks * levels),
        "transformer_depth_output": [1] * ((blocks + 1) * levels),
        "transformer_depth_middle": 1,
        "context_dim": sizes["cross_attention_dim"],
        "num_heads": sizes["attention_head_dim"],
        "use_spatial_transformer": True,
        "legacy": False,
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
    }


def _latent_format(autoencoder: NetworkFile) -> comfy.latent_formats.LatentFormat:
    latents = comfy.latent_formats.LatentFormat()
    latents.latent_channels = autoencoder.sizes["autoencoder"]["latent_channels"]
    latents.scale_factor = autoencoder.sizes["autoencoder"]["scaling_factor"]
    latents.latent_rgb_factors = autoencoder.sizes["rgb_factors"]
    latents.latent_rgb_factors_bias = autoencoder.sizes["rgb_bias"]
    return latents


def clip_target(sizes: dict[str, Any]) -> comfy.supported_models_base.ClipTarget:
    """What ComfyUI builds a text encoder of these sizes from, with CLIP's tokenizer."""
    config = {**sizes, "eos_token_id": VOCABULARY_SIZE - 1}
    width = sizes["hidden_size"]

    class Words(comfy.sd1_clip.SDTokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: dict | None = None):
            super().__init__(
                embedding_directory=embedding_directory, embedding_size=width, tokenizer_data=tokenizer_data or {}
            )

    class Tokenizer(comfy.sd1_clip.SD1Tokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: dict | None = None):
            super().__init__(
                embedding_directory=embedding_directory, tokenizer_data=tokenizer_data or {}, tokenizer=Words
            )

    class HiddenStates(comfy.sd1_clip.SDClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict | None = None):
            super().__init__(
                device=device,
                dtype=dtype,
                textmodel_json_config=dict(config),
                return_projected_pooled=False,
                model_options=model_options or {},
            )

    class TextEncoder(comfy.sd1_clip.SD1ClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict | None = None):
            super().__init__(device=device, dtype=dtype, model_options=model_options or {}, clip_model=HiddenStates)

    return comfy.supported_models_base.ClipTarget(Tokenizer, TextEncoder)
