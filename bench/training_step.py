"""A training step beside a bare forward and backward pass of the same UNet and adapter, and what the terms cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from ..models.keypoint_network import KeypointNetwork, KeypointNetworkLayout
from .evaluations import TRAINING_ROUNDS, limit_memory, seconds_in_turns
from .models import (
    IMAGE_EMBED_DIM,
    IMAGE_HIDDEN_SIZE,
    random_autoencoder,
    random_denoiser,
    same_denoiser,
    training_batch,
    training_config,
    training_device,
)
from .tables import median_and_range, print_table, ratios

if TYPE_CHECKING:
    from ..models.adapter import Adapter
    from ..training.base import Denoiser
    from ..training.batches import Batch
    from ..training.image_text import ImageText

TIMESTEP = 100
"""ᾱ_t is 0.9 there, above the gate of the terms on x̂_0."""

TINY_IMAGE_TEXT: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def run(rounds: int = TRAINING_ROUNDS, resolution: int = 512, clip_model: str = "ViT-B-32", tiny: bool = False) -> None:
    from ..training.adapter_step import AdapterStep, LossNetworks, initial_adapter
    from ..training.base import to_pictures
    from ..training.config import LossSettings

    limit_memory()
    device = training_device()
    denoiser = random_denoiser("sd15", device=device, tiny=tiny)
    nowhere = Path("unused")
    config = training_config("bolid", data=nowhere, base=nowhere, image_encoder=nowhere, resolution=resolution)
    adapter = initial_adapter(config, denoiser, image_embed_dim=IMAGE_EMBED_DIM, hidden_size=IMAGE_HIDDEN_SIZE).to(
        device
    )
    autoencoder = random_autoencoder(tiny=tiny).to(device)
    image_text = _image_text(clip_model, device, tiny=tiny)
    keypoints = KeypointNetwork(KeypointNetworkLayout(latent_channels=4)).to(device).eval().requires_grad_(False)
    networks = LossNetworks(
        keypoints=keypoints,
        decode=lambda latents: to_pictures(autoencoder, latents),
        encode_image=image_text.encode_image,
    )
    batch = training_batch(
        denoiser, resolution=resolution, timestep=TIMESTEP, clip_width=_clip_width(clip_model, tiny=tiny)
    ).to(device)

    def training_step(settings: LossSettings) -> Callable[[], None]:
        module = AdapterStep(
            adapter,
            denoiser=same_denoiser(denoiser),
            networks=networks,
            settings=settings,
            zero_hidden_states=None,
        )

        def step() -> None:
            adapter.zero_grad()
            torch.stack([values.mean() for values in module(batch, every_term=True).values()]).sum().backward()

        return step

    designs = {
        "bare": _bare(adapter, same_denoiser(denoiser), batch),
        "L_rec": training_step(LossSettings()),
        "L_rec and L_id": training_step(LossSettings(identity=1.0)),
        "L_rec and L_clip": training_step(LossSettings(clip=1.0)),
    }
    seconds = dict(zip(designs, seconds_in_turns(list(designs.values()), rounds), strict=True))
    print(
        f"SD1.5 UNet and VAE of real size, float32, {resolution}×{resolution}, batch of 1, on {device.type}; adapter "
        "with face and body branch and keypoint network of default size, features of 9 photos given, no optimiser; "
        f"L_clip by {clip_model}; t = {TIMESTEP}; {rounds} interleaved rounds; median, smallest and largest.\n"
        if not tiny
        else "Small models: only to see that it runs.\n"
    )
    print_table(
        ["forward and backward", "seconds", "ratio of paired steps to bare", "ratio of paired steps to L_rec"],
        [
            [
                name,
                median_and_range(taken),
                *(median_and_range(ratios(taken, seconds[other])) for other in ("bare", "L_rec")),
            ]
            for name, taken in seconds.items()
        ],
    )


def _bare(adapter: Adapter, denoiser: Denoiser, batch: Batch) -> Callable[[], None]:
    """UNet and adapter alone: the noisy latents are there, nothing is dropped, the loss is the mean squared error."""
    from ..hosts.diffusers import attach
    from ..training.losses import add_noise

    branches = attach(denoiser.unet)
    noisy = add_noise(batch.latents, batch.noise, denoiser.alphas_cumprod, batch.timesteps)
    image_embeds = batch.features["image_embeds"].mean(dim=1)

    def forward_and_backward() -> None:
        adapter.zero_grad()
        face = adapter.image_proj(image_embeds=image_embeds)
        body = adapter.body_encoder(
            proportions=batch.proportions,
            seen=batch.seen,
            target_pose=batch.target_pose,
            hidden_states=batch.body_image,
        )
        branches.set_key_values(
            [
                {int(index): projection(tokens) for index, projection in projections.items()}
                for projections, tokens in ((adapter.ip_adapter, face), (adapter.body_adapter, body))
            ]
        )
        (prediction,) = denoiser.unet(noisy, batch.timesteps, batch.text, return_dict=False)
        functional.mse_loss(prediction, batch.noise).backward()

    return forward_and_backward


def _image_text(name: str, device: torch.device, *, tiny: bool) -> ImageText:
    """A network of L_clip with random weights."""
    import open_clip

    from ..training.image_text import ImageText

    model = open_clip.CLIP(**TINY_IMAGE_TEXT) if tiny else open_clip.create_model(name)
    return ImageText(
        model=model.to(device).eval().requires_grad_(False),
        tokenizer=None,
        size=model.visual.image_size[0],
        mean=torch.tensor(open_clip.OPENAI_DATASET_MEAN),
        std=torch.tensor(open_clip.OPENAI_DATASET_STD),
    )


def _clip_width(name: str, *, tiny: bool) -> int:
    import open_clip

    return (TINY_IMAGE_TEXT if tiny else open_clip.get_model_config(name))["embed_dim"]
