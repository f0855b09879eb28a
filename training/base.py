"""The frozen models that an adapter is trained on: a Stable Diffusion model and an image encoder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny, DDPMScheduler, UNet2DConditionModel
from torch import nn
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from ..hosts.diffusers import cross_attention_layers
from .fingerprint import model_fingerprint

TIMESTEPS = 1000

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""By the name of a precision."""

FAMILIES = {(16, 768): "sd15", (16, 1024): "sd2", (70, 2048): "sdxl"}
"""Name of a model's family by its number of cross-attention layers and the width of its text."""

SAMPLED_VALUES = 64
"""Of every tensor, for the fingerprint of a VAE."""

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
SECOND_TEXT_ENCODER = ("text_encoder_2", "tokenizer_2")

_AUTOENCODERS = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny, "AutoencoderDC": AutoencoderDC}


@dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """One of a model's text encoders.

    Attributes:
        penultimate: whether the UNet reads the last layer but one (SDXL) or the normalised last one (SD1.5).
    """

    tokenizer: CLIPTokenizer
    model: nn.Module
    penultimate: bool


@dataclass(frozen=True, kw_only=True)
class Denoiser:
    """The frozen UNet and its noise schedule."""

    unet: UNet2DConditionModel
    scheduler: DDPMScheduler

    @property
    def prediction_type(self) -> str:
        """ "epsilon" or "v_prediction"."""
        return self.scheduler.config.prediction_type

    @property
    def alphas_cumprod(self) -> torch.Tensor:
        """[1000] ᾱ_t, float32."""
        return self.scheduler.alphas_cumprod

    def to(self, device: torch.device) -> None:
        """Move both to where they compute."""
        self.unet.to(device)
        self.scheduler.alphas_cumprod = self.scheduler.alphas_cumprod.to(device)

    def predict(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        *,
        text: torch.Tensor,
        pooled_text: torch.Tensor | None,
        time_ids: torch.Tensor,
        text_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The UNet's prediction [b, C, h, w] in float32.

        Args:
            noisy: [b, C, h, w] x_t.
            timesteps: [b].
            text: [b, n, C].
            pooled_text, time_ids: [b, P] and [b, 6], for SDXL.
            text_mask: [b, n] which of `text` there are; all of them without it.
        """
        dtype = self.unet.dtype
        added = None if pooled_text is None else {"text_embeds": pooled_text.to(dtype), "time_ids": time_ids}
        (prediction,) = self.unet(
            noisy.to(dtype),
            timesteps,
            text.to(dtype),
            added_cond_kwargs=added,
            encoder_attention_mask=text_mask,
            return_dict=False,
        )
        return prediction.float()

    @property
    def family(self) -> str:
        """One of `FAMILIES`, or "custom"."""
        layers = cross_attention_layers(self.unet)
        return FAMILIES.get((len(layers), self.unet.config.cross_attention_dim), "custom")


def _frozen(model: Any) -> Any:
    return model.eval().requires_grad_(False)


def load_denoiser(path: Path, *, dtype: torch.dtype) -> Denoiser:
    """The UNet and the noise schedule of a model folder, on the CPU.

    Raises:
        ValueError: no such folder, one without these parts, or a model that predicts something else.
    """
    check_base(path)
    scheduler = DDPMScheduler.from_pretrained(path, subfolder="scheduler")
    if scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"{path} predicts {scheduler.config.prediction_type!r}; only epsilon and v_prediction can be trained."
        )
    if scheduler.config.num_train_timesteps != TIMESTEPS:
        raise ValueError(
            f"{path} has {scheduler.config.num_train_timesteps} timesteps; only models with {TIMESTEPS} can be trained."
        )
    unet = UNet2DConditionModel.from_pretrained(path, subfolder="unet", torch_dtype=dtype)
    return Denoiser(unet=_frozen(unet), scheduler=scheduler)


def load_autoencoder(path: Path) -> AutoencoderKL | AutoencoderTiny | AutoencoderDC:
    """The VAE of a model folder that `check_base` accepts.

    Raises:
        ValueError: of a kind that is not known.
    """
    name = _config(path, "vae")["_class_name"]
    if name not in _AUTOENCODERS:
        raise ValueError(f"{path}/vae is an {name}; known are {', '.join(_AUTOENCODERS)}.")
    if _config(path, "vae").get("latents_mean"):
        raise ValueError(f"{path}/vae shifts every latent channel by a value of its own, which cannot be trained with.")
    return _frozen(_AUTOENCODERS[name].from_pretrained(path, subfolder="vae"))


def load_text_encoders(path: Path) -> list[TextEncoder]:
    """One text encoder (SD1.5) or both (SDXL) of a model folder that `check_base` accepts."""
    both = (path / "text_encoder_2").is_dir()
    encoders = [
        TextEncoder(
            tokenizer=CLIPTokenizer.from_pretrained(path, subfolder="tokenizer"),
            model=_frozen(CLIPTextModel.from_pretrained(path, subfolder="text_encoder")),
            penultimate=both,
        )
    ]
    if both:
        encoders.append(
            TextEncoder(
                tokenizer=CLIPTokenizer.from_pretrained(path, subfolder="tokenizer_2"),
                model=_frozen(CLIPTextModelWithProjection.from_pretrained(path, subfolder="text_encoder_2")),
                penultimate=True,
            )
        )
    return encoders


@torch.no_grad()
def encode_text(encoders: list[TextEncoder], texts: list[str]) -> dict[str, torch.Tensor]:
    """`text` [b, 77, C], and for SDXL `pooled_text` [b, P]."""
    parts, pooled = [], None
    for encoder in encoders:
        tokens = encoder.tokenizer(
            texts,
            padding="max_length",
            max_length=encoder.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        output = encoder.model(tokens.input_ids.to(encoder.model.device), output_hidden_states=True)
        if encoder.penultimate:
            parts.append(output.hidden_states[-2])
            pooled = output[0]  # the second encoder's projection stays
        else:
            parts.append(output.last_hidden_state)
    encoded = {"text": torch.cat(parts, dim=-1)}
    if len(encoders) > 1:
        encoded["pooled_text"] = pooled
    return encoded


def load_image_encoder(path: Path) -> CLIPVisionModelWithProjection:
    """The image encoder whose features the adapter reads.

    Raises:
        ValueError: no such folder.
    """
    _check_image_encoder(path)
    return _frozen(CLIPVisionModelWithProjection.from_pretrained(path))


def image_encoder_config(path: Path) -> CLIPVisionConfig:
    """Sizes of the image encoder; see `load_image_encoder`."""
    _check_image_encoder(path)
    return CLIPVisionConfig.from_pretrained(path)


@torch.no_grad()
def encode_image(
    encoder: CLIPVisionModelWithProjection, pixels: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """image_embeds [1, D] and penultimate hidden states [1, T, H] of a picture.

    Args:
        pixels: [1, S, S, 3] in 0 to 1, S as the encoder has it; None: the picture that is zero after preprocessing.
    """
    size = encoder.config.image_size
    if pixels is None:
        values = torch.zeros(1, 3, size, size)
    else:
        mean, std = (torch.tensor(values) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
        values = ((pixels - mean) / std).movedim(-1, 1)
    output = encoder(values.to(encoder.device, encoder.dtype), output_hidden_states=True)
    return output.image_embeds, output.hidden_states[-2]


def autoencoder_fingerprint(autoencoder: AutoencoderKL | AutoencoderTiny | AutoencoderDC) -> str:
    """Tells the latents of one VAE from those of another, however its files were written."""
    shift = autoencoder.config.get("shift_factor")
    digest = hashlib.sha256(f"{autoencoder.config.scaling_factor} {shift}".encode())
    for name, tensor in sorted(autoencoder.state_dict().items()):
        values = tensor.flatten()[:: max(1, tensor.numel() // SAMPLED_VALUES)].half()
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + values.numpy().tobytes())
    return digest.hexdigest()


def to_latents(autoencoder: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation [b, C, h, w] of the scaled latents of pictures [b, 3, H, W] in -1 to 1."""
    scale, shift = _scale_and_shift(autoencoder)
    encoded = autoencoder.encode(pixels)
    if hasattr(encoded, "latent_dist"):
        mean, std = encoded.latent_dist.mean, encoded.latent_dist.std
    else:
        mean = encoded.latent if hasattr(encoded, "latent") else encoded.latents
        std = torch.zeros_like(mean)
    return (mean - shift) * scale, std * scale


def to_pictures(autoencoder: Any, latents: torch.Tensor) -> torch.Tensor:
    """Scaled latents → pictures [b, 3, H, W], about -1 to 1."""
    scale, shift = _scale_and_shift(autoencoder)
    return autoencoder.decode(latents / scale + shift, return_dict=False)[0]


def _scale_and_shift(autoencoder: Any) -> tuple[float, float]:
    """From an autoencoder's own latents to those that the UNet sees."""
    return autoencoder.config.scaling_factor, autoencoder.config.get("shift_factor") or 0.0


def latent_factor(path: Path) -> int:
    """Pixels per latent of a model folder's VAE, along one side."""
    config = _config(path, "vae")
    return 2 ** (len(config.get("block_out_channels") or config["encoder_block_out_channels"]) - 1)


def picture_factor(path: Path) -> int:
    """What the sides of a model folder's pictures have to be multiples of, in pixels."""
    return latent_factor(path) * 2 ** (len(_config(path, "unet")["block_out_channels"]) - 1)


def base_fingerprint(path: Path) -> str:
    """Tells one model folder from another; what training does not read is not asked."""
    parts = [path / part for part in (*PARTS, *SECOND_TEXT_ENCODER) if (path / part).is_dir()]
    return hashlib.sha256(" ".join(model_fingerprint(part) for part in parts).encode()).hexdigest()


def check_base(path: Path) -> None:
    """Raise a ValueError if a folder is no Stable Diffusion model in diffusers' format."""
    missing = [part for part in PARTS if not (path / part).is_dir()]
    if missing:
        raise ValueError(
            f"base.path is {path}, which has no folder {' and no folder '.join(missing)}. It must be a model in "
            "diffusers' format (unet, vae, text_encoder, tokenizer, scheduler), such as a download of "
            "stable-diffusion-v1-5; a single checkpoint file is converted by diffusers' "
            "StableDiffusionPipeline.from_single_file(...).save_pretrained(...)."
        )
    unet, vae = _config(path, "unet"), _config(path, "vae")
    if unet["in_channels"] != vae["latent_channels"]:
        raise ValueError(
            f"The UNet of {path} reads {unet['in_channels']} channels, its VAE gives {vae['latent_channels']}: models "
            "for inpainting and the like cannot be trained. Take the base model that draws from text alone."
        )
    if unet.get("addition_embed_type") and not all((path / part).is_dir() for part in SECOND_TEXT_ENCODER):
        raise ValueError(
            f"{path} is a model of SDXL's kind and lacks {' or '.join(SECOND_TEXT_ENCODER)}; models without the first "
            "text encoder, such as refiners, cannot be trained."
        )


def _check_image_encoder(path: Path) -> None:
    if not (path / "config.json").is_file():
        raise ValueError(
            f"base.image_encoder is {path}, which is no folder of a transformers model (config.json, "
            "model.safetensors). The public adapters use models/image_encoder of h94/IP-Adapter."
        )


def _config(path: Path, part: str) -> dict[str, Any]:
    return json.loads((path / part / "config.json").read_text(encoding="utf-8"))
