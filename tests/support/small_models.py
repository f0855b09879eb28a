"""Narrow models with the topology of the real ones: the same weights in diffusers and in ComfyUI, on a CPU in seconds.

Weights are random but scaled so that every layer visibly takes part in the result. Nothing here imports the package
under test: diffusers' own IP-Adapter implementation (`diffusers_with_ip_adapter`) is the reference to hold it against.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from .adapter_files import nested

if TYPE_CHECKING:
    import comfy.clip_vision
    import comfy.controlnet
    import comfy.model_base
    import comfy.model_patcher
    from diffusers import UNet2DConditionModel

Family = Literal["sd15", "sdxl"]

# 1536 = 6 size embeddings of 256 each; the pooled text vector (1280 in SDXL) may be narrower.
SDXL_SIZE_EMBEDS_WIDTH = 6 * 256
SDXL_POOLED_WIDTH = 64


def prepare_comfy() -> None:
    """Make `comfy` importable, on the CPU. Must run before the first `import comfy.*`; harmless when repeated.

    The folder comes from the environment variable COMFYUI_DIR, else from `.comfyui/ComfyUI-*` in the repository root.

    Raises:
        RuntimeError: no ComfyUI was found.
    """
    if "comfy.model_management" in sys.modules:
        return
    if importlib.util.find_spec("comfy") is None:
        found = sorted(Path(__file__).resolve().parents[2].glob(".comfyui/ComfyUI-*"))
        directory = os.environ.get("COMFYUI_DIR") or (str(found[-1]) if found else None)
        if directory is None or not Path(directory, "comfy").is_dir():
            place = directory or ".comfyui/ComfyUI-*"
            raise RuntimeError(f"no ComfyUI at {place}: set COMFYUI_DIR to one, or run scripts/test to unpack it")
        # First, as in a running ComfyUI: its top-level `nodes` and `utils` must win over the working directory.
        sys.path.insert(0, directory)
    from comfy.cli_args import args

    args.cpu = True


def _randomise(module: torch.nn.Module, *, seed: int) -> None:
    """Overwrite every parameter: norms near identity, weights of unit gain, small biases."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for child in module.modules():
            is_norm = isinstance(child, (torch.nn.LayerNorm, torch.nn.GroupNorm))
            for name, parameter in child.named_parameters(recurse=False):
                noise = torch.randn(parameter.shape, generator=generator)
                if is_norm:
                    value = 0.1 * noise + (1 if name == "weight" else 0)
                elif isinstance(child, torch.nn.Embedding):
                    value = 0.5 * noise
                elif parameter.ndim < 2:
                    value = 0.1 * noise
                else:
                    value = noise * parameter[0].numel() ** -0.5
                parameter.copy_(value)


def small_unet(
    family: Family,
    *,
    seed: int = 0,
    cross_attention_dim: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> UNet2DConditionModel:
    """Build a diffusers UNet with the topology of SD1.5 (16 cross-attention layers) or SDXL (70), one tenth as wide.

    Args:
        family: "sd15": channels (32, 64, 128, 128), 8 heads everywhere. "sdxl": channels (32, 64, 128), heads 64 wide,
            linear projections, `text_time` addition embedding with a pooled vector of `SDXL_POOLED_WIDTH`.
        seed: of the weights' own generator.
        cross_attention_dim: default 64 (sd15) or 96 (sdxl).
        dtype: of the weights.

    Returns:
        The UNet in evaluation mode, without gradients. Latents [B, 4, h, w] with h and w multiples of 8.
    """
    from diffusers import UNet2DConditionModel

    if family == "sd15":
        config = {
            "block_out_channels": (32, 64, 128, 128),
            "cross_attention_dim": cross_attention_dim or 64,
            # In SD1.5's config this name holds the number of heads.
            "attention_head_dim": 8,
        }
    elif family == "sdxl":
        config = {
            "block_out_channels": (32, 64, 128),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": cross_attention_dim or 96,
            # Numbers of heads again; the first level has no attention.
            "attention_head_dim": (1, 1, 2),
            "transformer_layers_per_block": (1, 2, 10),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": SDXL_POOLED_WIDTH + SDXL_SIZE_EMBEDS_WIDTH,
        }
    else:
        raise ValueError(f"unknown family {family!r}: expected 'sd15' or 'sdxl'")
    with torch.random.fork_rng(devices=[]):
        unet = UNet2DConditionModel(sample_size=16, layers_per_block=2, **config)
    _randomise(unet, seed=seed)
    if dtype != torch.float32:
        unet.to(dtype)
    return unet.eval().requires_grad_(False)


def full_size_unet(family: Family) -> UNet2DConditionModel:
    """Build diffusers' UNet of the real size on the meta device: names and shapes without weights.

    SDXL's addition embedding is left out.
    """
    from diffusers import UNet2DConditionModel

    config = {
        "sd15": {"cross_attention_dim": 768, "attention_head_dim": 8},
        "sdxl": {
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": 2048,
            "attention_head_dim": (5, 10, 20),
            "transformer_layers_per_block": (1, 2, 10),
            "use_linear_projection": True,
        },
    }[family]
    with torch.device("meta"):
        return UNet2DConditionModel(**config)


def ip_adapter_layers(unet: UNet2DConditionModel) -> list[tuple[int, int]]:
    """(N, hidden size) of every cross-attention layer, in the order of diffusers' `attn_processors`."""
    out = []
    for key, name in enumerate(unet.attn_processors):
        attention = unet.get_submodule(name.removesuffix(".processor"))
        if attention.is_cross_attention:
            out.append((key, attention.to_k.out_features))
    return out


def _comfy_unet_config(unet: UNet2DConditionModel, family: Family) -> dict:
    """ComfyUI's constructor arguments for `unet`, after the tables in `unet_config_from_diffusers_unet`."""
    channels = unet.config.block_out_channels
    config = {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": channels[0],
        "channel_mult": [width // channels[0] for width in channels],
        "num_res_blocks": [2] * len(channels),
        "context_dim": unet.config.cross_attention_dim,
        "use_spatial_transformer": True,
        "use_checkpoint": False,
        "legacy": False,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
    }
    if family == "sd15":
        config |= {
            "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
            "transformer_depth_middle": 1,
            "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
            "use_linear_in_transformer": False,
            "adm_in_channels": None,
        }
    else:
        config |= {
            "transformer_depth": [0, 0, 2, 2, 10, 10],
            "transformer_depth_middle": 10,
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
            "use_linear_in_transformer": True,
            "num_classes": "sequential",
            "adm_in_channels": unet.config.projection_class_embeddings_input_dim,
        }
    return config


def comfy_model(
    unet: UNet2DConditionModel,
    family: Family,
    *,
    dtype: torch.dtype = torch.float32,
    model_type: comfy.model_base.ModelType | None = None,
) -> comfy.model_patcher.ModelPatcher:
    """Put the weights of `unet` into ComfyUI's own SD1.5 or SDXL model, as its diffusers loader does.

    The weights are copied: `unet` stays as it is. ComfyUI's own model classes set the heads: 8 of them for SD1.5,
    64 wide for SDXL.

    Args:
        unet: from `small_unet`, with no adapter loaded.
        family: the one `unet` was built for.
        dtype: of the weights; ComfyUI computes fp16 and bf16 weights in the type it chooses for the CPU.
        model_type: what the UNet is taken to predict; default noise (EPS).

    Raises:
        RuntimeError: a tensor of `unet` has no place in ComfyUI's model, or the other way round.
    """
    prepare_comfy()
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models
    import comfy.utils

    model_class = {"sd15": comfy.supported_models.SD15, "sdxl": comfy.supported_models.SDXL}[family]
    config = model_class(_comfy_unet_config(unet, family))
    if model_type is not None:
        config.model_type = lambda state_dict, prefix="": model_type
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    state_dict = unet.state_dict()
    unknown = sorted(set(state_dict) - set(names))
    if unknown:
        raise RuntimeError(f"ComfyUI's {family} model has no place for {unknown[:5]} (of {len(unknown)} tensors)")

    device = comfy.model_management.get_torch_device()
    config.set_inference_dtype(dtype, comfy.model_management.unet_manual_cast(dtype, device))
    model = config.get_model({}, "")
    model.diffusion_model.load_state_dict({names[name]: tensor for name, tensor in state_dict.items()}, strict=True)
    return comfy.model_patcher.CoreModelPatcher(
        model, load_device=device, offload_device=comfy.model_management.unet_offload_device()
    )


def text_conditioning(
    cross_attention_dim: int, seed: int, *, tokens: int = 77, pooled_width: int | None = None
) -> list[list]:
    """Random conditioning as a text encode node returns it: `[[context [1, tokens, C], options]]`.

    SDXL needs the pooled vector: `pooled_width=SDXL_POOLED_WIDTH` for the small model.
    """
    generator = torch.Generator().manual_seed(seed)
    context = torch.randn(1, tokens, cross_attention_dim, generator=generator)
    options = {} if pooled_width is None else {"pooled_output": torch.randn(1, pooled_width, generator=generator)}
    return [[context, options]]


@torch.inference_mode()
def sample(
    patcher: comfy.model_patcher.ModelPatcher,
    *,
    positive: list[list],
    negative: list[list],
    latent_shape: tuple[int, int, int, int],
    seed: int,
    steps: int = 3,
    cfg: float = 4.0,
    sampler_name: str = "euler",
    scheduler: str = "normal",
    latent_image: torch.Tensor | None = None,
    **arguments: object,
) -> torch.Tensor:
    """Sample latents with ComfyUI's own sampler, in inference mode as its executor does.

    Args:
        patcher: from `comfy_model`, or a clone that nodes have worked on.
        positive, negative: conditioning, see `text_conditioning`.
        latent_shape: [B, 4, h, w]; h and w multiples of 8.
        seed: of the noise and of samplers that draw more of it.
        latent_image: start from these latents instead of from zeros.
        arguments: further ones of `comfy.sample.sample` (denoise, noise_mask, callback, start_step, ...).

    Returns:
        Latents [B, 4, h, w]; two runs with equal arguments are bit-identical.
    """
    prepare_comfy()
    import comfy.sample

    noise = torch.randn(latent_shape, generator=torch.Generator().manual_seed(seed))
    if latent_image is None:
        latent_image = torch.zeros(latent_shape)
    return comfy.sample.sample(
        patcher,
        noise,
        steps,
        cfg,
        sampler_name,
        scheduler,
        positive,
        negative,
        latent_image,
        seed=seed,
        disable_pbar=True,
        **arguments,
    )


def small_clip_vision(
    *,
    image_size: int = 32,
    hidden_size: int = 64,
    layers: int = 3,
    heads: int = 4,
    patch_size: int = 8,
    projection_dim: int = 48,
    seed: int = 0,
) -> comfy.clip_vision.ClipVisionModel:
    """Build a random CLIP image encoder for ComfyUI.

    `encode_image(images [n, H, W, 3] in [0, 1])` gives `image_embeds` [n, projection_dim] and
    `penultimate_hidden_states` [n, (image_size / patch_size)² + 1, hidden_size]. ComfyUI keeps the weights in fp16.
    """
    prepare_comfy()
    import comfy.clip_vision

    encoder = comfy.clip_vision.ClipVisionModel(
        {
            "model_type": "clip_vision_model",
            "hidden_act": "gelu",
            "hidden_size": hidden_size,
            "image_size": image_size,
            "intermediate_size": 4 * hidden_size,
            "num_attention_heads": heads,
            "num_channels": 3,
            "num_hidden_layers": layers,
            "patch_size": patch_size,
            "projection_dim": projection_dim,
        }
    )
    _randomise(encoder.model, seed=seed)
    return encoder


def small_controlnet(unet: UNet2DConditionModel, *, seed: int = 0) -> comfy.controlnet.ControlNet:
    """Build a ComfyUI ControlNet with random, non-zero output layers for the small "sd15" UNet; see `with_control`."""
    prepare_comfy()
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.model_management
    import comfy.ops

    config = _comfy_unet_config(unet, "sd15")
    del config["out_channels"]
    model = comfy.cldm.cldm.ControlNet(
        **config, num_heads=8, hint_channels=3, dtype=torch.float32, operations=comfy.ops.disable_weight_init
    )
    _randomise(model, seed=seed)
    return comfy.controlnet.ControlNet(
        model.eval().requires_grad_(False), load_device=comfy.model_management.get_torch_device()
    )


def with_control(
    positive: list[list],
    negative: list[list],
    controlnet: comfy.controlnet.ControlNet,
    hint: torch.Tensor,
    *,
    strength: float = 1.0,
) -> tuple[list[list], list[list]]:
    """Add a ControlNet to both sides of the conditioning, as ComfyUI's node "Apply ControlNet" does.

    `hint` is an image [1, H, W, 3] in [0, 1], resized by ComfyUI to 8 times the latents.
    """
    # One shared copy: with one for each side, ComfyUI would run the two sides in separate batches.
    control = controlnet.copy().set_cond_hint(hint.movedim(-1, 1), strength, (0.0, 1.0))
    added = {"control": control, "control_apply_to_uncond": False}
    return tuple([[context, {**options, **added}] for context, options in side] for side in (positive, negative))


def small_lora(unet: UNet2DConditionModel, *, seed: int = 0, rank: int = 4) -> dict[str, torch.Tensor]:
    """Random LoRA over every attention projection of `unet`, in the kohya key form that ComfyUI's loaders read.

    Apply it to a model of `comfy_model` with `comfy.sd.load_lora_for_models(patcher, None, lora, strength, 0.0)`.
    """
    generator = torch.Generator().manual_seed(seed)
    lora = {}
    for name, module in unet.named_modules():
        if not isinstance(module, torch.nn.Linear) or not (".attn1." in name or ".attn2." in name):
            continue
        key = "lora_unet_" + name.replace(".", "_")
        rows, columns = module.weight.shape
        lora[f"{key}.lora_down.weight"] = torch.randn(rank, columns, generator=generator) * columns**-0.5
        lora[f"{key}.lora_up.weight"] = torch.randn(rows, rank, generator=generator) * 0.25 * rank**-0.5
        lora[f"{key}.alpha"] = torch.tensor(float(rank))
    return lora


def diffusers_with_ip_adapter(
    unet: UNet2DConditionModel,
    state_dict: dict[str, torch.Tensor],
    *,
    image_embeds: torch.Tensor,
    scale: float,
    hidden_states: torch.Tensor | None = None,
    shortcut: bool = False,
    lora_strength: float = 1.0,
) -> Callable[..., torch.Tensor]:
    """Run diffusers' own IP-Adapter implementation on a copy of `unet`: the reference for parity.

    diffusers takes, per adapter, one tensor with the batch of the latents (B) first and the photos (n) second. The
    tokens of the n photos stand side by side in one attention. Under classifier-free guidance B holds the unconditional
    samples first: concatenate the unconditional image_embeds before the conditional ones, as with the text.

    ===================== ================================== =========================================================
    layout                image_embeds                       unconditional
    ===================== ================================== =========================================================
    base, base_bigg       [B, n, D] CLIP image_embeds        zeros
    plus, full_face       [B, n, T, H] penultimate hidden    hidden states of an all-zero preprocessed image
    faceid, _portrait     [B, n, 512] unit ArcFace vectors   zeros
                          ([B, n, 1, 512] gives the same)
    faceid_plus           as faceid, and `hidden_states`     zeros, and hidden states of an all-zero image
                          [B, n, T, H] of the face crops
    ===================== ================================== =========================================================

    Args:
        unet: stays untouched.
        state_dict: flat keys, from `adapter_state_dict` or read from a file.
        image_embeds: as above.
        scale: the adapter's weight λ.
        hidden_states: for "faceid_plus" only.
        shortcut: for "faceid_plus" only: False is v1, True is v2 (whose `shortcut_scale` diffusers leaves at 1).
        lora_strength: of the FaceID LoRA, where the file carries one. diffusers hands it to PEFT at strength 1; here it
            is merged into the copy's weights, which is the same sum.

    Returns:
        `predict(latents [B, 4, h, w], timesteps, text [B, L, C], added_cond_kwargs=None) -> noise prediction`. SDXL
        needs `added_cond_kwargs={"text_embeds": [B, pooled], "time_ids": [B, 6]}`.

    Raises:
        ValueError: `hidden_states` is missing for "faceid_plus", or given for another layout; in `predict`, latents
            whose batch is not that of `image_embeds` (diffusers would fold photos into the batch without a word).
    """
    adapter = nested(state_dict)
    is_faceid_plus = any(key.startswith("perceiver_resampler.") for key in adapter["image_proj"])
    if is_faceid_plus != (hidden_states is not None):
        raise ValueError("hidden_states belong to the layout faceid_plus, and it needs them beside the face vectors")

    unet = copy.deepcopy(unet)
    # diffusers' own reading of the numbers N: "unet.<attention>.processor.to_q_lora.down.weight" and so on.
    loras = unet._load_ip_adapter_loras([adapter]).get(0, {})
    with torch.no_grad():
        for name in loras:
            if not name.endswith("_lora.down.weight"):
                continue
            attention, part = name.removeprefix("unet.").removesuffix("_lora.down.weight").split(".processor.")
            linear = unet.get_submodule(f"{attention}.{'to_out.0' if part == 'to_out' else part}")
            linear.weight += lora_strength * (loras[name.replace(".down.", ".up.")] @ loras[name])

    # Without meta tensors diffusers loads strictly.
    unet._load_ip_adapter_weights([adapter], low_cpu_mem_usage=False)
    for processor in unet.attn_processors.values():
        if hasattr(processor, "to_k_ip"):
            processor.scale = [scale]
    if is_faceid_plus:
        projection = unet.encoder_hid_proj.image_projection_layers[0]
        projection.clip_embeds = hidden_states
        projection.shortcut = shortcut
    unet.eval().requires_grad_(False)

    def predict(
        latents: torch.Tensor,
        timesteps: torch.Tensor | float,
        text: torch.Tensor,
        added_cond_kwargs: dict[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        if image_embeds.shape[0] != latents.shape[0]:
            raise ValueError(f"image_embeds hold {image_embeds.shape[0]} samples, the latents {latents.shape[0]}")
        return unet(
            latents,
            timesteps,
            encoder_hidden_states=text,
            added_cond_kwargs={**(added_cond_kwargs or {}), "image_embeds": [image_embeds]},
        ).sample

    return predict
