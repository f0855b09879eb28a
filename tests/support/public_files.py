"""Random files of the real layouts under the public names that workflows/ asks for, as stock loaders read them.

Text encoders and the image encoder are of the real size (their loaders accept no other); the UNets have the topology of
the real ones (16 and 70 cross-attention layers) with every level 320 wide, and the adapters fit them; the VAE is
TAESD's. Together 4 GB. A UNet with random weights that predicts noise leaves noise behind: no picture can be expected,
but one that answers to its inputs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from .adapter_files import SD15_LAYERS, SDXL_LAYERS, adapter_state_dict, write_bin, write_safetensors
from .face_analysis import write_face_analysis_pack
from .small_models import prepare_comfy

SD15_CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"
SDXL_CHECKPOINT = "sd_xl_base_1.0.safetensors"
IMAGE_ENCODER = "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"
PLUS_SD15 = "ip-adapter-plus_sd15.safetensors"
FACEID_PLUS_SD15 = "ip-adapter-faceid-plusv2_sd15.bin"
PLUS_FACE_SDXL = "ip-adapter-plus-face_sdxl_vit-h.safetensors"
PLUS_SDXL = "ip-adapter-plus_sdxl_vit-h.safetensors"
BOLID_SD15 = "bolid_sd15.safetensors"
POSE_CONTROLNET_SD15 = "control_v11p_sd15_openpose_fp16.safetensors"
FACE_ANALYSIS_PACK = "buffalo_l"

# ComfyUI's detection (comfy/model_detection.py) asks for this width, and for whole multiples of it at every level.
WIDTH = 320

UNET_CONFIG: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": WIDTH,
    "use_spatial_transformer": True,
    "legacy": False,
}
SD15_UNET_CONFIG = UNET_CONFIG | {
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 1, 1, 1],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "context_dim": 768,
    "num_heads": 8,
}
SD15_CONTROLNET_CONFIG = {
    name: value for name, value in SD15_UNET_CONFIG.items() if name not in ("out_channels", "transformer_depth_output")
}
SDXL_UNET_CONFIG = UNET_CONFIG | {
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 1, 1],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "context_dim": 2048,
    "num_head_channels": 64,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
}


def write_public_files(models_folder: str | Path) -> None:
    """Write every model file that the shipped workflows name into a ComfyUI models folder. Takes 4 GB of disk."""
    models = Path(models_folder)
    for folder in ("checkpoints", "clip_vision", "ipadapter", "bolid", "controlnet"):
        (models / folder).mkdir(parents=True, exist_ok=True)
    write_safetensors(models / "checkpoints" / SD15_CHECKPOINT, sd15_checkpoint())
    write_safetensors(models / "checkpoints" / SDXL_CHECKPOINT, sdxl_checkpoint())
    write_safetensors(models / "clip_vision" / IMAGE_ENCODER, image_encoder())
    sd15_layers = [(layer.key, WIDTH) for layer in SD15_LAYERS]
    sdxl_layers = [(layer.key, WIDTH) for layer in SDXL_LAYERS]
    write_safetensors(
        models / "ipadapter" / PLUS_SD15,
        adapter_state_dict("plus", layers=sd15_layers, cross_attention_dim=768, seed=1, dtype=torch.float16),
    )
    write_bin(
        models / "ipadapter" / FACEID_PLUS_SD15,
        adapter_state_dict("faceid_plus", layers=sd15_layers, cross_attention_dim=768, seed=2, dtype=torch.float16),
    )
    write_safetensors(
        models / "ipadapter" / PLUS_FACE_SDXL,
        adapter_state_dict("plus", layers=sdxl_layers, cross_attention_dim=2048, seed=3, dtype=torch.float16),
    )
    # Of the same layout.
    (models / "ipadapter" / PLUS_SDXL).hardlink_to(models / "ipadapter" / PLUS_FACE_SDXL)
    write_bolid_adapter(models / "bolid" / BOLID_SD15, layers=dict(sd15_layers))
    write_safetensors(models / "controlnet" / POSE_CONTROLNET_SD15, sd15_controlnet())
    write_face_analysis_pack(models / "insightface", FACE_ANALYSIS_PACK)


def write_bolid_adapter(path: Path, *, layers: dict[int, int]) -> None:
    """A plus adapter with aggregator and body branch for SD1.5 and ViT-H, half precision: 0.2 GB."""
    from bolid.models.adapter import AdapterLayout, BodyLayout
    from bolid.models.adapter_file import write_adapter
    from bolid.models.build import build_adapter

    layout = AdapterLayout(
        kind="plus",
        cross_attention_dim=768,
        num_tokens=16,
        hidden_size=1280,
        inner_dim=768,
        depth=4,
        layers=layers,
        aggregator_depth=1,
        body=BodyLayout(hidden_size=1280, dim=512, depth=2, resampler_depth=1),
    )
    with torch.device("meta"):
        adapter = build_adapter(layout)
    weights = _Weights(seed=13)
    weights.fill("", _shapes(adapter))
    adapter.load_state_dict(weights.tensors, assign=True)
    write_adapter(path, adapter, base_model="sd15", image_encoder="CLIP ViT-H/14")


def sd15_checkpoint() -> dict[str, torch.Tensor]:
    """A checkpoint in the layout of Stable Diffusion 1.5, half precision: 0.4 GB."""
    weights = _Weights(seed=10)
    weights.fill("model.diffusion_model.", _unet_shapes(SD15_UNET_CONFIG))
    weights.fill("cond_stage_model.transformer.", _clip_l_shapes())
    weights.vae("first_stage_model.")
    return weights.tensors


def sd15_controlnet() -> dict[str, torch.Tensor]:
    """A ControlNet in the layout of its authors for that checkpoint, half precision: 0.1 GB."""
    prepare_comfy()
    import comfy.cldm.cldm
    import comfy.ops

    network = comfy.cldm.cldm.ControlNet(
        **SD15_CONTROLNET_CONFIG, hint_channels=3, device="meta", operations=comfy.ops.disable_weight_init
    )
    weights = _Weights(seed=14)
    weights.fill("control_model.", _shapes(network))
    return weights.tensors


def sdxl_checkpoint() -> dict[str, torch.Tensor]:
    """A checkpoint in the layout of SDXL, half precision: 2.1 GB."""
    weights = _Weights(seed=11)
    weights.fill("model.diffusion_model.", _unet_shapes(SDXL_UNET_CONFIG))
    weights.fill("conditioner.embedders.0.transformer.", _clip_l_shapes())
    weights.fill("conditioner.embedders.1.model.", dict(_open_clip_bigg_shapes()))
    weights.vae("first_stage_model.")
    return weights.tensors


def image_encoder() -> dict[str, torch.Tensor]:
    """CLIP ViT-H in the layout of transformers, half precision: 1.3 GB."""
    prepare_comfy()
    import comfy.clip_model
    import comfy.clip_vision
    import comfy.ops

    config = json.loads(Path(comfy.clip_vision.__file__).with_name("clip_vision_config_h.json").read_text())
    model = comfy.clip_model.CLIPVisionModelProjection(config, torch.float16, "meta", comfy.ops.disable_weight_init)
    weights = _Weights(seed=12)
    weights.fill("", _shapes(model))
    return weights.tensors


class _Weights:
    """Fills tensors from one pool of random numbers: a billion fresh ones would take most of a minute."""

    # Not a divisor of any layer's size, so that no two rows of a matrix are alike.
    POOL_SIZE = 4_000_037

    def __init__(self, *, seed: int):
        self.tensors: dict[str, torch.Tensor] = {}
        self._generator = torch.Generator().manual_seed(seed)
        self._pool = torch.randn(self.POOL_SIZE, generator=self._generator)
        self._used = 0

    def fill(self, prefix: str, shapes: Mapping[str, torch.Size]) -> None:
        """Half precision: norms of weight 1, small biases, weights that keep the variance of their input."""
        for name, shape in shapes.items():
            if len(shape) == 1 and name.endswith("weight"):
                tensor = torch.ones(shape, dtype=torch.float16)
            elif len(shape) == 1:
                tensor = self._random(shape, scale=0.02)
            elif "embedding" in name and "patch" not in name:
                tensor = self._random(shape, scale=0.5)
            else:
                tensor = self._random(shape, scale=shape[1:].numel() ** -0.5)
            self.tensors[prefix + name] = tensor

    def vae(self, prefix: str) -> None:
        """TAESD, which ComfyUI takes for a checkpoint's VAE; it decodes noise to mid-grey with some colour."""
        prepare_comfy()
        import comfy.taesd.taesd

        autoencoder = comfy.taesd.taesd.TAESD()
        shapes = {name: shape for name, shape in _shapes(autoencoder).items() if shape}
        self.fill(prefix, shapes)
        # vae_scale and vae_shift come from the file; for a picture of noise any will do.
        self.tensors[f"{prefix}vae_scale"] = torch.tensor(1.0)
        self.tensors[f"{prefix}vae_shift"] = torch.tensor(0.0)
        own = {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}
        autoencoder.load_state_dict(own)
        decoder = autoencoder.taesd_decoder
        with torch.no_grad():
            pixels = decoder(torch.randn(2, 4, 16, 16, generator=self._generator))
        mean, deviation = pixels.mean(dim=(0, 2, 3)), pixels.std(dim=(0, 2, 3))
        last = f"{prefix}taesd_decoder.{len(decoder) - 1}"
        self.tensors[f"{last}.weight"] *= (0.2 / deviation).view(-1, 1, 1, 1).half()
        self.tensors[f"{last}.bias"] = (0.5 - 0.2 * (mean - decoder[-1].bias.detach()) / deviation).half()

    def _random(self, shape: torch.Size, *, scale: float) -> torch.Tensor:
        count, start = shape.numel(), self._used % self.POOL_SIZE
        self._used += count
        repeats = (start + count - 1) // self.POOL_SIZE + 1
        pool = self._pool if repeats == 1 else (self._pool * scale).half().repeat(repeats)
        values = pool[start : start + count]
        return (values * scale).half().view(shape) if repeats == 1 else values.view(shape).clone()


def _shapes(module: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def _unet_shapes(config: dict[str, Any]) -> dict[str, torch.Size]:
    prepare_comfy()
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    return _shapes(UNetModel(**config, device="meta", operations=comfy.ops.disable_weight_init))


def _clip_l_shapes() -> dict[str, torch.Size]:
    """Both families carry it without the projection."""
    prepare_comfy()
    import comfy.clip_model
    import comfy.ops
    import comfy.sd1_clip

    config = json.loads(Path(comfy.sd1_clip.__file__).with_name("sd1_clip_config.json").read_text())
    model = comfy.clip_model.CLIPTextModel(config, torch.float16, "meta", comfy.ops.disable_weight_init)
    return {name: shape for name, shape in _shapes(model).items() if not name.startswith("text_projection")}


def _open_clip_bigg_shapes() -> Iterator[tuple[str, torch.Size]]:
    """Text tower of open_clip's ViT-bigG-14, in open_clip's own names, as SDXL's files carry it."""
    width = 1280
    yield "positional_embedding", torch.Size((77, width))
    yield "token_embedding.weight", torch.Size((49408, width))
    yield "text_projection", torch.Size((width, width))
    for part in ("weight", "bias"):
        yield f"ln_final.{part}", torch.Size((width,))
    for index in range(32):
        block = f"transformer.resblocks.{index}"
        for name, rows, columns in (
            ("attn.in_proj_", 3 * width, width),
            ("attn.out_proj.", width, width),
            ("mlp.c_fc.", 4 * width, width),
            ("mlp.c_proj.", width, 4 * width),
        ):
            yield f"{block}.{name}weight", torch.Size((rows, columns))
            yield f"{block}.{name}bias", torch.Size((rows,))
        for norm in ("ln_1", "ln_2"):
            for part in ("weight", "bias"):
                yield f"{block}.{norm}.{part}", torch.Size((width,))
