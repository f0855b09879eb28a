"""A training step whose features lie in the cache, beside one that encodes every photo anew, on one SD1.5 UNet."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .evaluations import TRAINING_ROUNDS, limit_memory, seconds_in_turns
from .models import (
    IMAGE_EMBED_DIM,
    IMAGE_HIDDEN_SIZE,
    folder_for_files,
    random_autoencoder,
    random_denoiser,
    training_config,
    training_device,
)
from .tables import median_and_range, print_table, ratios

if TYPE_CHECKING:
    from ..training.base import Denoiser
    from ..training.batches import Batch
    from ..training.config import BaseSettings
    from ..training.features import Photo

PHOTOS = 10


def run(rounds: int = TRAINING_ROUNDS, resolution: int = 512, tiny: bool = False) -> None:
    from ..training.adapter_step import AdapterStep, LossNetworks, initial_adapter
    from ..training.adapter_task import fill_cache
    from ..training.batches import KEEP_ALL, Batches
    from ..training.data import ONE_ROW, Draws
    from ..training.features import Features, load_people

    limit_memory()
    device = training_device()
    with folder_for_files() as name:
        folder = Path(name)
        denoiser = random_denoiser("sd15", device=device, tiny=tiny)
        _write_models(folder, denoiser, tiny=tiny)
        _write_people(folder)
        config = training_config(
            "ip_adapter", data=folder, base=folder, image_encoder=folder / "image_encoder", resolution=resolution
        )
        people = load_people(config.data, config.base)
        features = Features(folder=folder / "cache", base=config.base, device=device, progress=lambda *_, **__: None)
        start = time.perf_counter()
        fill_cache(config, people, features, feature_names=("image_embeds",))
        filling = time.perf_counter() - start

        adapter = initial_adapter(config, denoiser, image_embed_dim=IMAGE_EMBED_DIM, hidden_size=IMAGE_HIDDEN_SIZE)
        module = AdapterStep(
            adapter, denoiser=denoiser, networks=LossNetworks(), settings=config.loss, zero_hidden_states=None
        ).to(device)
        optimizer = torch.optim.AdamW(module.parameters(), lr=config.optimizer.learning_rate)
        batches = Batches(config, features, feature_names=("image_embeds",))
        draws = Draws(people.train, references=PHOTOS - 1, share=ONE_ROW, seed=0, purpose="training")
        encoders = _Encoders(config.base, device)
        cached_steps, encoded_steps = itertools.count(), itertools.count()
        (person,) = people.train

        def batch(number: int) -> Batch:
            samples, keys = draws.batch(number)
            return batches.batch(people.train, samples, keys, KEEP_ALL)

        any_batch = batch(0)

        def step(batch: Batch) -> None:
            module(batch.to(device), every_term=True)["reconstruction"].mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        def cached() -> None:
            step(batch(next(cached_steps)))

        def encoded() -> None:
            ((sample,), _) = draws.batch(next(encoded_steps))
            references = [person.photos[number] for number in sample.references]
            step(replace(any_batch, **encoders.encode(person.photos[sample.target], references)))

        with_cache, without = seconds_in_turns([cached, encoded], rounds)
    print(
        f"SD1.5 UNet, VAE and text encoder and a CLIP ViT-H/14 of real size, float32, {resolution}×{resolution}, batch "
        f"of 1, on {device.type}; the step is forward, backward and AdamW of an IP-Adapter; {rounds} interleaved "
        f"rounds; median, smallest and largest. Filling the cache with the {PHOTOS} photos, once, with loading the "
        f"models: {filling:.0f} s.\n"
        if not tiny
        else "Small models: only to see that it runs.\n"
    )
    print_table(
        ["step", "seconds", "ratio of paired steps to cached"],
        [
            ["cached", median_and_range(with_cache), "1"],
            [
                f"{PHOTOS - 1} photos, the target and its caption encoded at every step",
                median_and_range(without),
                median_and_range(ratios(without, with_cache)),
            ],
        ],
    )


class _Encoders:
    """What a script without a cache asks at every step."""

    def __init__(self, base: BaseSettings, device: torch.device):
        from ..training.base import load_autoencoder, load_image_encoder, load_text_encoders

        self._device = device
        self._image_encoder = load_image_encoder(base.image_encoder).to(device)
        self._autoencoder = load_autoencoder(base.path).to(device)
        self._text_encoders = load_text_encoders(base.path)
        for encoder in self._text_encoders:
            encoder.model.to(device)

    @torch.no_grad()
    def encode(self, target: Photo, references: Sequence[Photo]) -> dict[str, Any]:
        """Fields of a batch of one."""
        from ..detectors.photos import read_picture
        from ..training.base import encode_image, encode_text, to_latents
        from ..training.features import encoder_pixels
        from ..training.pictures import picture

        size = self._image_encoder.config.image_size
        pixels = torch.cat([encoder_pixels(photo, photo.face_crop, size=size) for photo in references])
        image_embeds, _ = encode_image(self._image_encoder, pixels)
        drawn = picture(read_picture(target.path)[0], target.placement).unsqueeze(0)
        mean, std = to_latents(self._autoencoder, drawn.to(self._device))
        return {
            "features": {"image_embeds": image_embeds.unsqueeze(0)},
            "latents": mean + std * torch.randn_like(mean),
            **encode_text(self._text_encoders, [target.prepared.caption]),
        }


def _write_models(folder: Path, denoiser: Denoiser, *, tiny: bool) -> None:
    """Everything of a base but the UNet's weights, and the image encoder."""
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTokenizer,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )
    from transformers.utils import logging

    logging.disable_progress_bar()
    denoiser.unet.save_config(folder / "unet")
    random_autoencoder(tiny=tiny).save_pretrained(folder / "vae")
    text = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=2 if tiny else 12, num_attention_heads=12
    )
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    vocabulary = Path(os.environ["COMFYUI_DIR"], "comfy", "sd1_tokenizer")
    CLIPTokenizer.from_pretrained(vocabulary, model_max_length=77).save_pretrained(folder / "tokenizer")
    vision = CLIPVisionConfig(
        hidden_size=IMAGE_HIDDEN_SIZE,
        intermediate_size=5120,
        num_hidden_layers=2 if tiny else 32,
        num_attention_heads=16,
        projection_dim=IMAGE_EMBED_DIM,
        image_size=224,
        patch_size=14,
        hidden_act="gelu",
    )
    CLIPVisionModelWithProjection(vision).save_pretrained(folder / "image_encoder")


def _write_people(folder: Path) -> None:
    """One person with `PHOTOS` real photos."""
    from ..models.keypoints import COCO_KEYPOINTS
    from ..training.fingerprint import file_hash
    from ..training.people import DEFAULT_CAPTION, PreparedPeople, PreparedPerson, PreparedPhoto, PrepareSettings

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
    from photographs import carphone_frames

    source = folder / "photos"
    (source / "person").mkdir(parents=True)
    photos = []
    for number, frame in enumerate(carphone_frames(PHOTOS)):
        file = f"person/{number}.png"
        frame.save(source / file)
        photos.append(
            PreparedPhoto(
                file=file,
                sha256=file_hash(source / file),
                width=frame.width,
                height=frame.height,
                caption=DEFAULT_CAPTION,
                keypoints=((0.0, 0.0, 0.0),) * len(COCO_KEYPOINTS),
                person_box=None,
                face_box=None,
            )
        )
    person = PreparedPerson(name="person", split="train", photos=tuple(photos))
    PreparedPeople(source=source, settings=PrepareSettings(), people=(person,)).write(folder)
