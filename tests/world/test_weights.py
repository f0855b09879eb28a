"""The weights that ship, on people whom no network has learned from."""

from __future__ import annotations

import torch

from bolid.nodes.demo_people import PEOPLE, PHOTOS, BoLIDDemoPhotos
from bolid.nodes.world_model import world_vae

LEAST_DECIBELS = 30.0
"""The autoencoder's card says 32.0 of the validation people."""


def test_the_autoencoder_gives_pictures_back():
    vae = world_vae()
    errors = []
    for path in PEOPLE.glob("*.png"):
        photos = BoLIDDemoPhotos.execute(path.stem, 1, PHOTOS)[0]
        latents = vae.encode(photos)
        assert latents.shape == (PHOTOS, 16, 16, 16)
        errors.append((vae.decode(latents) - photos).square().mean(dim=(1, 2, 3)))
    assert -10 * torch.cat(errors).log10().mean() > LEAST_DECIBELS
