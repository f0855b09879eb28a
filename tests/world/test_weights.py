"""The weights that ship, on people whom no network has learned from."""

from __future__ import annotations

from pathlib import Path

import torch

from bolid.nodes.demo_people import PEOPLE, PHOTOS, BoLIDDemoPhotos
from bolid.nodes.world_model import WEIGHTS, world_vae
from bolid.world.networks.cards import cards

DOCS = Path(__file__).resolve().parents[2] / "docs"
MOST_MEGABYTES = 60
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


def test_the_page_of_the_cards_is_what_the_files_say():
    assert (DOCS / "model_cards.md").read_text(encoding="utf-8").endswith(f"\n\n{cards(WEIGHTS)}")


def test_all_weights_together_are_small():
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) <= MOST_MEGABYTES * 1e6
