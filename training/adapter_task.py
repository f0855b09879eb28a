"""Training an adapter: what the loop needs to know about it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..detectors.photos import read_picture
from ..hosts.diffusers import FEW_TOKENS, without_fused_self_attention
from ..models.adapter import ENCODER_BY_EMBED_DIM
from ..models.adapter_file import write_adapter
from ..models.keypoint_network import read_keypoint_network
from .adapter_step import AdapterStep, LossNetworks, initial_adapter
from .base import (
    DTYPES,
    Denoiser,
    autoencoder_fingerprint,
    image_encoder_config,
    load_autoencoder,
    to_pictures,
)
from .batches import KEEP_ALL, VALIDATION, Batch, Batches
from .config import AdapterTraining
from .data import ONE_ROW, Ahead, Draws, Share, Totals
from .features import Crop, Features, People, Photo, with_faces
from .fingerprint import file_hash, model_fingerprint
from .image_text import image_text_fingerprint, load_image_text
from .pictures import picture
from .samples import grid, sampled_latents, to_image

SHOWN_REFERENCES = 3

ALPHA_BAR_BINS = 5
"""In which the keypoint term is validated, so that one sees from which ᾱ on it knows the pose."""

Autocast = Callable[[], AbstractContextManager[None]]


def fill_cache(config: AdapterTraining, people: People, features: Features, *, feature_names: Collection[str]) -> None:
    """Compute what is not cached yet of the features that training reads.

    Args:
        feature_names: what the face branch reads, see `AdapterLayout.feature_widths`.
    """
    photos = people.photos
    texts = ["", *dict.fromkeys(photo.prepared.caption for photo in photos)]
    features.fill_latents(photos)
    features.fill_text(texts)
    usable = [photo for photo in photos if photo.usable]
    crops: dict[str, list[tuple[Photo, Crop]]] = {}
    for name in feature_names:
        if name == "face_embeds":
            features.fill_faces(photos)
        else:
            crops[name] = [(photo, photo.face_crop) for photo in usable]
    if config.has_body:
        crops.setdefault("hidden_states", [])
        crops["hidden_states"] += [(photo, photo.body_crop) for photo in usable if photo.body_crop is not None]
    for name, named in crops.items():
        features.fill_image(name, named)
    if config.loss.clip:
        features.fill_clip_text(config.loss, texts)
    if config.loss.clip_image:
        features.fill_clip_image(config.loss, photos)


class AdapterTask:
    """An adapter, its frozen surroundings, its data and its results.

    Args:
        config: of the run.
        denoiser: the UNet to adapt.
        device: where everything computes once `load_data` was called.

    Raises:
        ValueError: something that the config names does not fit.

    Attributes:
        module: `AdapterStep`.
        terms: names of the loss's terms, and their λ.
        people: those of the data set that can be used.
    """

    def __init__(self, config: AdapterTraining, *, denoiser: Denoiser, device: torch.device):
        self._config = config
        self._denoiser = denoiser
        self._device = device
        if device.type == "cpu" and (config.base.resolution // 8) ** 2 <= FEW_TOKENS:
            without_fused_self_attention(denoiser.unet)
        encoder = image_encoder_config(config.base.image_encoder)
        adapter = initial_adapter(
            config, denoiser, image_embed_dim=encoder.projection_dim, hidden_size=encoder.hidden_size
        )
        self._encoder_name = ENCODER_BY_EMBED_DIM.get(
            encoder.projection_dim, f"an image encoder of width {encoder.projection_dim}"
        )
        self._feature_names = tuple(adapter.layout.feature_widths)
        if "face_embeds" in self._feature_names and config.base.face_pack is None:
            raise ValueError(
                "This adapter reads ArcFace vectors: set base.face_pack to the folder of an insightface pack, such as "
                "weights/insightface/models/buffalo_l."
            )
        self.module = AdapterStep(adapter, denoiser=denoiser, networks=self._loss_networks(), settings=config.loss)
        self.terms = {"reconstruction": 1.0, **self.module.extra_terms}
        self.people: People | None = None
        self._without_adapter: Totals | None = None

    def load_data(self, people: People, features: Features, share: Share) -> None:
        """Compute what is not cached yet of the features that training reads, and move to the device.

        Args:
            people: the data set.
            features: of its photos.
            share: what this process computes.
        """
        config = self._config
        fill_cache(config, people, features, feature_names=self._feature_names)
        if "face_embeds" in self._feature_names:
            people = with_faces(people, features)
        self.people = people
        self._features = features
        self._batches = Batches(config, features, feature_names=self._feature_names)
        if "hidden_states" in self._feature_names:
            self.module.zero_hidden_states = features.zero_image("hidden_states").to(self._device)
        self._denoiser.to(self._device)
        self.module.to(self._device)
        draws: dict[str, Any] = {"references": config.data.references, "seed": config.run.seed}
        self._training = Draws(
            people.train, purpose="training", share=share, other_people=config.data.other_people, **draws
        )
        self._validation = Draws(people.test, purpose="validation", share=share, **draws) if people.test else None
        self._samples = Draws(people.test or people.train, purpose="samples", share=ONE_ROW, **draws)
        self._share = share
        self._ahead = Ahead(self._training_batch, device=self._device)

    def _training_batch(self, number: int) -> Batch:
        samples, keys = self._training.batch(number)
        return self._batches.batch(self._training.people, samples, keys, self._config.dropping)

    def data_summary(self) -> dict[str, Any]:
        """How many people and photos there are to learn from, and held out."""
        return self.people.summary()

    def loss_terms(self, module: torch.nn.Module, number: int, step: int) -> tuple[dict[str, torch.Tensor], Batch]:
        """[b] values of every term for this process's rows of forward pass `number`.

        Args:
            module: `self.module`, or what accelerate made of it.
            step: of the optimiser.
        """
        batch = self._ahead.get(number).to(self._device)
        return module(batch, every_term=step >= self._config.loss.start_step), batch

    @torch.no_grad()
    def validation_values(self, autocast: Autocast) -> dict[str, torch.Tensor]:
        """Sum and number [2] of every measure over this process's rows of the fixed validation set.

        Noise, timesteps (evenly spread) and conditions are the same each time. "loss" is L_rec, "loss_without_adapter"
        that of the UNet alone. Empty where nobody is held out.
        """
        totals = Totals()
        numbers = range(self._config.run.validation_batches if self._validation else 0)
        for number in numbers:
            batch = self._validation_batch(number)
            with autocast():
                noisy, prediction = self.module.predict(batch)
                totals.add("loss", self.module.reconstruction(batch, prediction))
                for name, values in self.module.extra_values(batch, noisy, prediction).items():
                    totals.add(name, values)
                self._add_by_alpha_bar(totals, batch, noisy, prediction)
        if self._without_adapter is None:
            self._without_adapter = Totals()
            for number in numbers:
                batch = self._validation_batch(number)
                with autocast():
                    _, prediction = self.module.predict(batch, branches=False)
                    self._without_adapter.add("loss_without_adapter", self.module.reconstruction(batch, prediction))
        return totals | self._without_adapter

    def _validation_batch(self, number: int) -> Batch:
        samples, keys = self._validation.batch(number)
        batch = self._batches.batch(self._validation.people, samples, keys, VALIDATION)
        timesteps = self._share.even_timesteps(number, self._config.run.validation_batches)
        return replace(batch, timesteps=timesteps).to(self._device)

    def _add_by_alpha_bar(self, totals: Totals, batch: Batch, noisy: torch.Tensor, prediction: torch.Tensor) -> None:
        """The keypoint term by ᾱ_t, ungated, with the body and without it."""
        if not self._config.loss.identity:
            return
        alpha_bars = self._denoiser.alphas_cumprod[batch.timesteps]
        bins = (alpha_bars * ALPHA_BAR_BINS).long().clamp(max=ALPHA_BAR_BINS - 1)
        predictions = {"": (noisy, prediction)}
        if self._config.has_body:
            without = replace(batch, has_body=torch.zeros_like(batch.has_body))
            predictions["_without_body"] = self.module.predict(without)
        errors = {
            suffix: self.module.identity_error(self.module.predicted_latents(*predicted, batch.timesteps), batch.joints)
            for suffix, predicted in predictions.items()
        }
        for suffix, values in errors.items():
            for number in range(ALPHA_BAR_BINS):
                low, high = number / ALPHA_BAR_BINS, (number + 1) / ALPHA_BAR_BINS
                totals.add(f"identity{suffix}_alpha_bar_{low:.1f}_{high:.1f}", values[bins == number])

    @torch.no_grad()
    def sample_grid(self, autocast: Autocast) -> Image.Image:
        """Held-out people: references, the photo that was left out, and its caption drawn without and with the adapter.

        Noise and people are the same each time. The body branch is given the pose of the photo.
        """
        run = self._config.run
        decode = self._decoder()
        rows, captions = [], []
        for number in range(run.sample_people):
            samples, keys = self._samples.batch(number)
            pair = self._batches.batch(self._samples.people, samples * 2, keys * 2, KEEP_ALL)
            empty = self._features.text("")
            if pair.pooled_text is not None:
                pair = replace(pair, pooled_text=torch.stack((empty["pooled_text"], pair.pooled_text[1])))
            pair = replace(
                pair,
                text=torch.stack((empty["text"], pair.text[1])),
                has_face=torch.tensor((False, True)),
                has_body=pair.has_body & torch.tensor((False, True)),
            ).to(self._device)
            drawn = []
            for branches in (None, pair):
                with autocast():
                    self.module.set_branches(branches)
                    latents = sampled_latents(
                        lambda latents, timesteps, pair=pair: self.module.denoise(pair, latents, timesteps),
                        pair.noise[:1],
                        self._denoiser,
                        steps=run.sample_steps,
                        guidance_scale=run.sample_guidance_scale,
                    )
                    drawn.append(to_image(decode(latents)[0]))
            photos = self._samples.people[samples[0].person].photos
            references = [read_picture(photos[n].path)[0] for n in samples[0].references[:SHOWN_REFERENCES]]
            target = photos[samples[0].target]
            shown = [*references, *[None] * (SHOWN_REFERENCES - len(references))]
            captions.append(target.prepared.caption)
            rows.append([*shown, to_image(picture(read_picture(target.path)[0], target.placement)), *drawn])
        columns = [f"reference {number + 1}" for number in range(SHOWN_REFERENCES)]
        return grid(rows, [*columns, "left out", "no adapter", "adapter"], captions)

    def write_result(self, path: Path, training: dict[str, Any]) -> None:
        """Write the adapter file.

        Args:
            training: summary for its metadata.
        """
        write_adapter(
            path,
            self.module.adapter,
            base_model=self._config.base.family or self._denoiser.family,
            image_encoder=self._encoder_name,
            training=training,
            dtype=DTYPES[self._config.adapter.save_precision],
        )

    def _loss_networks(self) -> LossNetworks:
        loss = self._config.loss
        keypoints = encode_image = decode = None
        if loss.identity:
            file = read_keypoint_network(loss.keypoint_network)
            if file.latent_space != autoencoder_fingerprint(load_autoencoder(self._config.base.path)):
                raise ValueError(
                    f"loss.keypoint_network is {loss.keypoint_network}, which was trained on the latents of another "
                    f"VAE than that of {self._config.base.path}. Train one with this base."
                )
            keypoints = file.network.to(self._device)
        if loss.clip or loss.clip_image:
            encode_image = load_image_text(loss, device=self._device).encode_image
            decode = self._decoder()
        return LossNetworks(keypoints=keypoints, decode=decode, encode_image=encode_image)

    def _decoder(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Scaled latents → pictures."""
        run = self._config.run
        autoencoder = load_autoencoder(self._config.base.path).to(self._device)
        if run.gradient_checkpointing:
            autoencoder.enable_gradient_checkpointing()
        if run.precision != "fp16":
            return partial(to_pictures, autoencoder)

        def decode(latents: torch.Tensor) -> torch.Tensor:
            # SDXL's VAE overflows in half precision.
            with torch.autocast(self._device.type, enabled=False):
                return to_pictures(autoencoder, latents.float())

        return decode


task = AdapterTask


def result_depends_on(config: AdapterTraining) -> dict[str, str]:
    """Fingerprints of the files that an adapter's training reads beside base and photos, by the config's keys."""
    found = {"base.image_encoder": model_fingerprint(config.base.image_encoder)}
    for key, path in (
        ("adapter.initial", config.adapter.initial),
        ("adapter.body_encoder", config.adapter.body_encoder),
        ("loss.keypoint_network", config.loss.keypoint_network),
    ):
        if path is not None:
            if not path.is_file():
                raise ValueError(f"{key} is {path}, but there is no such file.")
            found[key] = file_hash(path)
    if config.base.face_pack is not None:
        found["base.face_pack"] = model_fingerprint(config.base.face_pack)
    if config.loss.clip or config.loss.clip_image:
        found["loss.clip_model"] = image_text_fingerprint(config.loss)
    return found
