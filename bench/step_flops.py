"""Floating-point operations of one step, counted by torch."""

from __future__ import annotations

from .evaluations import counted_operations
from .models import DESIGNS, TOKENS, embeds, loaded_adapter, prepare_comfyui, unet_model
from .tables import print_table

LATENT_SIZES = (32, 64)


def run() -> None:
    prepare_comfyui()
    model = unet_model("sd15")
    rows = []
    for tokens, (kind, photos) in TOKENS.items():
        adapter, given = loaded_adapter(kind, model), embeds(kind, photos)
        designs = [model, *(design(model, adapter, given) for design in DESIGNS.values())]
        for size in LATENT_SIZES:
            plain, bolid, classic = counted_operations(designs, size)
            rows.append(
                [
                    tokens,
                    f"{size}×{size}",
                    f"{plain / 1e9:.1f} G",
                    f"+{(bolid - plain) / 1e9:.3f} G",
                    f"+{(classic - plain) / 1e9:.3f} G",
                    f"{(bolid - plain) / (classic - plain):.2f}",
                ]
            )
    print_table(["tokens", "latents", "no adapter", *DESIGNS, "BoLID's share of classic"], rows)
