"""Small models, adapters and embeddings put together, as the hosts' tests need them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch

from .adapter_files import adapter_state_dict
from .small_models import (
    SDXL_POOLED_WIDTH,
    comfy_model,
    ip_adapter_layers,
    sample,
    small_unet,
    text_conditioning,
)

FAMILIES = ("sd15", "sdxl")
ENCODER_WIDTH = 32
FACE_WIDTH = 24
GRID_TOKENS = 5
LATENT_SHAPE = (1, 4, 16, 24)


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@cache
def unet_of(family: str):
    # FaceID-plus splits the text width into heads of 64.
    return small_unet(family, seed=1, cross_attention_dim=128)


@cache
def model_of(family: str):
    """The MODEL that tests share; a test that changes it breaks the others, which is the point."""
    return comfy_model(unet_of(family), family)


@cache
def state_dict_of(layout: str, family: str, seed: int = 6) -> dict[str, torch.Tensor]:
    """A small adapter file."""
    unet = unet_of(family)
    return adapter_state_dict(
        layout,
        layers=ip_adapter_layers(unet),
        cross_attention_dim=unet.config.cross_attention_dim,
        seed=seed,
        image_encoder_width=ENCODER_WIDTH,
        resampler_width=128,
        face_embeds_width=FACE_WIDTH,
        lora_rank=4,
    )


@cache
def bolid_adapter(family: str = "sd15", layout: str = "base", body_tokens: int = 8):
    """A small adapter with face branch, aggregator and body branch, all weights random; a plain module."""
    from bolid.models.adapter import BodyLayout
    from bolid.models.build import build_adapter
    from bolid.models.checkpoint import detect_layout

    face = {key: value for key, value in state_dict_of(layout, family).items() if "_lora." not in key}
    sizes = replace(
        detect_layout(face, name=layout),
        aggregator_depth=1,
        body=BodyLayout(hidden_size=ENCODER_WIDTH, dim=64, depth=1, resampler_depth=1, num_tokens=body_tokens),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        adapter = build_adapter(sizes).eval().requires_grad_(False)
        for aggregator in adapter.aggregator.values():
            torch.nn.init.normal_(aggregator.proj_out.weight, std=0.2)
    missing, unexpected = adapter.load_state_dict(face, strict=False)
    assert not unexpected and not any(key.startswith(("image_proj.", "ip_adapter.")) for key in missing)
    return adapter


def body(photos: int = 2, *, grid: bool = True, target_pose: bool = False):
    """A body that `bolid_adapter` reads: a standing person, every joint a little elsewhere in each photo."""
    from bolid.models.body import Body

    x = torch.tensor([0.6, 0.4, 0.65, 0.35, 0.67, 0.33, 0.57, 0.43, 0.58, 0.42, 0.58, 0.42])
    y = torch.tensor([0.2, 0.2, 0.35, 0.35, 0.5, 0.5, 0.5, 0.5, 0.7, 0.7, 0.9, 0.9])
    standing = torch.stack((x, y, torch.full_like(x, 0.9)), dim=-1)
    keypoints = standing.repeat(photos, 1, 1)
    keypoints[..., :2] += 0.02 * random(photos, 12, 2, seed=31)
    return Body(
        keypoints=keypoints,
        image_sizes=torch.tensor([[512, 384]] * photos),
        hidden_states=random(photos, GRID_TOKENS, ENCODER_WIDTH, seed=32) if grid else None,
        target_pose=standing.clone() if target_pose else None,
    )


def features(photos: int = 1, seed: int = 5) -> dict[str, torch.Tensor]:
    """Everything that any small adapter reads."""
    return {
        "image_embeds": random(photos, ENCODER_WIDTH, seed=seed),
        "hidden_states": random(photos, GRID_TOKENS, ENCODER_WIDTH, seed=seed + 1),
        "zero_hidden_states": random(1, GRID_TOKENS, ENCODER_WIDTH, seed=seed + 2),
        "face_embeds": torch.nn.functional.normalize(random(photos, FACE_WIDTH, seed=seed + 3), dim=-1),
    }


def conditioning(family: str) -> dict[str, Any]:
    """Positive and negative text for `sample`."""
    width = unet_of(family).config.cross_attention_dim
    pooled = SDXL_POOLED_WIDTH if family == "sdxl" else None
    return {
        "positive": text_conditioning(width, 21, pooled_width=pooled),
        "negative": text_conditioning(width, 22, pooled_width=pooled),
    }


def sampled(model: Any, family: str = "sd15", **arguments: Any) -> torch.Tensor:
    """Three Euler steps with classifier-free guidance, on a picture that is not square."""
    return sample(model, **{**conditioning(family), "latent_shape": LATENT_SHAPE, "seed": 3, **arguments})


def loaded_adapter(layout: str, family: str = "sd15", seed: int = 6):
    """An adapter in ComfyUI's care, as BoLIDAdapterLoader hands it out."""
    import tempfile
    from pathlib import Path

    from bolid.hosts.comfyui import load_adapter

    from .adapter_files import write_safetensors

    with tempfile.TemporaryDirectory() as folder:
        return load_adapter(
            write_safetensors(Path(folder, f"{layout}.safetensors"), state_dict_of(layout, family, seed))
        )


def cared_for(adapter: Any):
    """An adapter in ComfyUI's care."""
    from bolid.hosts.comfyui import in_comfyuis_care

    return in_comfyuis_care(adapter, name="small adapter")


def applied(model: Any, adapter: Any, embeds: Any = None, **arguments: Any):
    """The model that BoLIDAdapterApply hands out; with face embeddings, unless `face=None` is given."""
    from bolid.models.references import Embeds
    from bolid.nodes.adapters import BoLIDAdapterApply

    given = {
        "face": embeds or Embeds(**features()),
        "face_weight": 1.0,
        "start_percent": 0.0,
        "end_percent": 1.0,
        **arguments,
    }
    return BoLIDAdapterApply.execute(model, adapter, **given).result[0]


def assert_equal_but_for_rounding(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Largest difference at most 1e-4 of the largest value: a random UNet multiplies rounding over the steps."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
