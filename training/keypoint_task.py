"""Training the keypoint network: what the loop needs to know about it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import nn
from torch.nn import functional

from ..detectors.photos import read_picture
from ..models.keypoint_network import (
    KeypointNetwork,
    KeypointNetworkLayout,
    Keypoints,
    heatmap_divergence,
    write_keypoint_network,
)
from .base import Denoiser, autoencoder_fingerprint, load_autoencoder
from .batches import TIMESTEPS, Targets, stacked, target_row
from .config import KeypointTraining
from .data import ONE_ROW, Ahead, Draws, Share, Totals
from .features import Features, People
from .losses import add_noise, joint_error, predicted_latents
from .pictures import picture
from .randomness import keyed_generator
from .samples import CELL, grid, to_image

TERMS = {"position": 1.0, "heatmap": 1.0, "presence": 0.1}
"""Weights of the terms; the heatmaps' shape is what makes the network learn, the positions alone hardly do."""

NEAR = 0.05
"""A joint counts as found within this fraction of the picture."""


@dataclass(frozen=True, kw_only=True)
class KeypointTargets(Targets):
    """Photos, and whether the network sees the base's guess x̂_0 at `timesteps` in the place of their latents: [b]."""

    is_guess: torch.Tensor


def keypoint_terms(found: Keypoints, joints: torch.Tensor) -> dict[str, torch.Tensor]:
    """[b] values of each term of a keypoint network's loss; `TERMS` are their weights.

    Args:
        joints: [b, 12, 3] x, y in 0 to 1, and visibility; places count only where it is positive.
    """
    positions, visible = joints[..., :2], joints[..., 2] > 0
    divergence = heatmap_divergence(found.log_heatmaps, positions) * visible
    presence = functional.binary_cross_entropy_with_logits(found.logits, visible.float(), reduction="none")
    return {
        "position": joint_error(found.positions, joints),
        "heatmap": divergence.sum(dim=1) / visible.sum(dim=1).clamp(min=1),
        "presence": presence.mean(dim=1),
    }


class KeypointStep(nn.Module):
    """Targets → terms of the loss, per sample. Its parameters are the keypoint network's."""

    def __init__(self, network: KeypointNetwork, *, denoiser: Denoiser):
        super().__init__()
        self.network = network
        self._frozen = {"denoiser": denoiser}  # in a container, so that no optimiser finds it

    def forward(self, targets: KeypointTargets) -> dict[str, torch.Tensor]:
        """[b] values of each term."""
        return keypoint_terms(self.network(self.latents(targets)), targets.joints)

    @torch.no_grad()
    def latents(self, targets: KeypointTargets) -> torch.Tensor:
        """[b, C, h, w] what the network sees: the photo's latents, or the base's guess at them."""
        (rows,) = targets.is_guess.nonzero(as_tuple=True)
        if not len(rows):
            return targets.latents
        denoiser, timesteps = self._frozen["denoiser"], targets.timesteps[rows]
        noisy = add_noise(targets.latents[rows], targets.noise[rows], denoiser.alphas_cumprod, timesteps)
        prediction = denoiser.predict(
            noisy,
            timesteps,
            text=targets.text[rows],
            pooled_text=None if targets.pooled_text is None else targets.pooled_text[rows],
            time_ids=targets.time_ids[rows],
        )
        guesses = predicted_latents(
            prediction, noisy, denoiser.alphas_cumprod, timesteps, prediction_type=denoiser.prediction_type
        )
        return targets.latents.index_copy(0, rows, guesses)


class KeypointTask:
    """A keypoint network, its data and its results.

    Args:
        config: of the run.
        denoiser: the UNet whose guesses the network learns from.
        device: where everything computes once `load_data` was called.

    Attributes:
        module: `KeypointStep`.
        terms: names of the loss's terms, and their weights.
        people: those of the data set that can be used.
    """

    terms = TERMS

    def __init__(self, config: KeypointTraining, *, denoiser: Denoiser, device: torch.device):
        self._config = config
        self._denoiser = denoiser
        self._device = device
        settings = config.network
        layout = KeypointNetworkLayout(
            latent_channels=denoiser.unet.config.in_channels, width=settings.width, depth=settings.depth
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            network = KeypointNetwork(layout)
        self.module = KeypointStep(network, denoiser=denoiser)
        self.people: People | None = None
        # Noise levels are used up to the last one above the gate.
        self._timesteps = int((denoiser.alphas_cumprod > settings.min_alpha_bar).sum())

    def load_data(self, people: People, features: Features, share: Share) -> None:
        """Compute what is not cached yet of the features that training reads, and move to the device.

        Args:
            people: the data set.
            features: of its photos.
            share: what this process computes.
        """
        features.fill_latents(people.photos)
        features.fill_text(["", *dict.fromkeys(photo.prepared.caption for photo in people.photos)])
        self.people = people
        self._features = features
        self._denoiser.to(self._device)
        self.module.to(self._device)
        draws: dict[str, Any] = {"references": 1, "seed": self._config.run.seed}
        self._training = Draws(people.train, purpose="training", share=share, **draws)
        self._validation = Draws(people.test, purpose="validation", share=share, **draws) if people.test else None
        self._samples = Draws(people.test or people.train, purpose="samples", share=ONE_ROW, **draws)
        noisy = self._config.network.noisy
        self._ahead = Ahead(lambda number: self._targets(self._training, number, noisy=noisy), device=self._device)

    def data_summary(self) -> dict[str, Any]:
        """How many people and photos there are to learn from, and held out."""
        return self.people.summary()

    def loss_terms(self, module: nn.Module, number: int, step: int) -> tuple[dict[str, torch.Tensor], Targets]:
        """[b] values of every term for this process's rows of forward pass `number`."""
        targets = self._ahead.get(number).to(self._device)
        return module(targets), targets

    @torch.no_grad()
    def validation_values(self, autocast: Callable[[], AbstractContextManager[None]]) -> Totals:
        """Sum and number [2] of every measure over this process's rows of the fixed validation set.

        "loss" is the weighted loss on the photos' own latents; "distance" the mean distance of a joint from its place
        as a fraction of the picture, "found" the share within `NEAR` of it; the same for the base's guesses.
        """
        totals = Totals()
        for number in range(self._config.run.validation_batches if self._validation else 0):
            for suffix, noisy in (("", 0.0), ("_guess", 1.0)):
                targets = self._targets(self._validation, number, noisy=noisy).to(self._device)
                with autocast():
                    terms = self.module(targets)
                    positions = self.module.network(self.module.latents(targets)).positions
                totals.add(f"loss{suffix}", sum(self.terms[name] * values for name, values in terms.items()))
                visible = targets.joints[..., 2] > 0
                distances = (positions - targets.joints[..., :2]).norm(dim=-1)[visible]
                totals.add(f"distance{suffix}", distances)
                totals.add(f"found{suffix}", (distances < NEAR).float())
        return totals

    @torch.no_grad()
    def sample_grid(self, autocast: Callable[[], AbstractContextManager[None]]) -> Image.Image:
        """Held-out photos with the true joints (green) and the found ones (red)."""
        rows, names = [], []
        for number in range(self._config.run.sample_people):
            (sample,), _ = self._samples.batch(number)
            photo = self._samples.people[sample.person].photos[sample.target]
            image = to_image(picture(read_picture(photo.path)[0], photo.placement))
            row = []
            for noisy in (0.0, 1.0):
                targets = self._targets(self._samples, number, noisy=noisy).to(self._device)
                with autocast():
                    positions = self.module.network(self.module.latents(targets)).positions[0]
                row.append(with_joints(image, targets.joints[0], positions))
            rows.append(row)
            names.append(photo.name)
        return grid(rows, ["from latents", "from a guess"], names)

    def write_result(self, path: Path, training: dict[str, Any]) -> None:
        """Write the network's file.

        Args:
            training: summary for its metadata.
        """
        latent_space = autoencoder_fingerprint(load_autoencoder(self._config.base.path))
        write_keypoint_network(path, self.module.network, latent_space=latent_space, training=training)

    def _targets(self, draws: Draws, number: int, *, noisy: float) -> KeypointTargets:
        samples, keys = draws.batch(number)
        rows = []
        for sample, key in zip(samples, keys, strict=True):
            generator = keyed_generator(self._config.run.seed, key)
            guess = torch.rand((), generator=generator) < noisy
            photo = draws.people[sample.person].photos[sample.target]
            row = target_row(self._features, photo, generator, has_text=True)
            row["timesteps"] = row["timesteps"] * self._timesteps // TIMESTEPS
            rows.append(KeypointTargets(**row, is_guess=guess))
        return stacked(rows)


def with_joints(image: Image.Image, joints: torch.Tensor, positions: torch.Tensor) -> Image.Image:
    """A picture with the true places of the joints that are seen (green), and the found ones (red).

    Args:
        joints: [12, 3] x, y in 0 to 1, and visibility.
        positions: [12, 2].
    """
    scale = CELL / max(image.size)
    shown = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    draw = ImageDraw.Draw(shown)
    for (true_x, true_y, visibility), (x, y) in zip(joints.tolist(), positions.tolist(), strict=True):
        if visibility:
            width, height = shown.size
            places = [(true_x * width, true_y * height), (x * width, y * height)]
            draw.line(places, fill="white")
            for (left, top), colour in zip(places, ("lime", "red"), strict=True):
                draw.ellipse((left - 2, top - 2, left + 2, top + 2), fill=colour)
    return shown


def result_depends_on(config: KeypointTraining) -> dict[str, str]:
    """The base and the photos are all that a keypoint network depends on."""
    return {}


task = KeypointTask
