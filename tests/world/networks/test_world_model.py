"""The world's networks as ComfyUI's objects give what they give in training."""

from __future__ import annotations

from pathlib import Path

import comfy.memory_management
import comfy.model_patcher
import comfy.samplers
import comfy.utils
import pytest
import torch

from bolid.hosts.comfyui import layer_addresses
from bolid.hosts.diffusers import cross_attention_layers
from bolid.nodes.world_model import world_image_encoder, world_model, world_text_encoder, world_vae
from bolid.world.networks import autoencoder as autoencoder_module
from bolid.world.networks.task import NetworkTask

from .conftest import DrawnWorld
from .test_unpack import HALF, TEXTS


@torch.no_grad()
def test_the_denoiser_predicts_the_same_velocity(tasks: dict[str, NetworkTask], weights: Path):
    task, model = tasks["base"], world_model(weights)
    sampling, alphas = model.model.model_sampling, task.module.denoiser.alphas_cumprod
    assert [each.layer for each in layer_addresses(model)] == cross_attention_layers(task.module.unet)

    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(2))
    text = torch.randn(3, 77, 32, generator=generator)
    timesteps = torch.tensor([20, 500, 940])
    a, b = (factor.view(-1, 1, 1, 1) for factor in (alphas[timesteps].sqrt(), (1 - alphas[timesteps]).sqrt()))
    noisy = a * clean + b * noise
    velocity = task.module.denoise(noisy, timesteps, text)

    sigmas = sampling.sigma(timesteps)
    torch.testing.assert_close(sigmas, (b / a).flatten(), atol=0, rtol=1e-3)
    # ComfyUI scales the noise instead of the picture.
    found = model.model.apply_model(noisy / a, sigmas, c_crossattn=text)
    torch.testing.assert_close(found, a * noisy - b * velocity, atol=2e-2, rtol=2e-2)


def test_sampling_begins_with_noise_alone(weights: Path):
    sampling = world_model(weights).model.model_sampling
    assert sampling.zsnr and sampling.sigma_max > 1000
    assert comfy.samplers.calculate_sigmas(sampling, "simple", 20)[0] == sampling.sigma_max


@torch.no_grad()
def test_the_text_encoder_reads_the_same(tasks: dict[str, NetworkTask], weights: Path):
    task, clip = tasks["base"], world_text_encoder(weights)
    found = torch.cat([clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0] for text in TEXTS])
    expected = task.module.text(task._vocabulary.ids(TEXTS)).last_hidden_state
    torch.testing.assert_close(found, expected, **HALF)
    assert (found[1] - found[2]).abs().max() > 0.1


@torch.no_grad()
def test_the_autoencoder_gives_the_same_pictures(tasks: dict[str, NetworkTask], weights: Path, drawn: DrawnWorld):
    vae, autoencoder = world_vae(weights), autoencoder_module.load_autoencoder(drawn.autoencoder)
    pixels = tasks["base"].training.pixels([0, 5])
    latents = vae.encode(pixels.movedim(1, -1) / 2 + 0.5)
    torch.testing.assert_close(latents, autoencoder.encode(pixels).latent, atol=1e-3, rtol=1e-3)
    expected = (autoencoder.decode(latents).sample / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    torch.testing.assert_close(vae.decode(latents), expected, atol=1e-3, rtol=1e-3)

    model = world_model(weights)
    scaled = model.model.process_latent_in(latents)
    torch.testing.assert_close(scaled, latents * autoencoder.config.scaling_factor)
    torch.testing.assert_close(model.model.process_latent_out(scaled), latents)


@torch.no_grad()
def test_the_image_encoder_sees_the_same(tasks: dict[str, NetworkTask], weights: Path):
    task, encoder = tasks["image_encoder"], world_image_encoder(weights)
    pixels = task.training.pixels([0, 7, 12])
    found = encoder.encode_image(pixels.movedim(1, -1) / 2 + 0.5)
    embeds, tokens = task.module.recogniser.with_tokens(pixels)
    # ComfyUI rounds pictures to 256 levels of a colour; these have no others.
    torch.testing.assert_close(found["image_embeds"], embeds, **HALF)
    torch.testing.assert_close(found["penultimate_hidden_states"][:, 1:], tokens.flatten(2).mT, **HALF)


def test_where_comfyui_loads_weights_bit_by_bit(weights: Path, monkeypatch: pytest.MonkeyPatch):
    """DynamicVRAM, which needs a GPU: its layers have no weights until some are loaded, and its patchers are others.

    What compiles a model or hooks its weights asks for another patcher then, made by the loader.
    """
    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True)
    model, clip = world_model(weights), world_text_encoder(weights)
    world_vae(weights), world_image_encoder(weights)
    for patcher, loaded in (
        (model, "diffusion_model.time_embed.0.weight"),
        (clip.patcher, "clip_l.transformer.text_projection.weight"),
    ):
        assert comfy.utils.get_attr(patcher.model, loaded).numel() > 0
        load, arguments = patcher.cached_patcher_init
        again = load(*arguments, disable_dynamic=True)
        assert type(again) is comfy.model_patcher.ModelPatcher
        assert again.model.state_dict().keys() == patcher.model.state_dict().keys()


def test_missing_weights_are_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="base.safetensors"):
        world_model(tmp_path)
