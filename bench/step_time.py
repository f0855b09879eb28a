"""Step time as a ratio to no adapter, in interleaved rounds on one SD1.5 UNet of real size."""

from __future__ import annotations

from .evaluations import ROUNDS, interleaved_seconds
from .models import DESIGNS, TOKENS, embeds, loaded_adapter, prepare_comfyui, unet_model
from .tables import median_and_interval, print_table

LATENT_SIZE = 32


def run() -> None:
    prepare_comfyui()
    model = unet_model("sd15")
    adapters = {kind: loaded_adapter(kind, model) for kind in ("base", "plus")}
    rows = []
    for tokens, (kind, photos) in TOKENS.items():
        given = embeds(kind, photos)
        designs = [model, *(design(model, adapters[kind], given) for design in DESIGNS.values())]
        plain, *adapted = interleaved_seconds(designs, LATENT_SIZE)
        overheads = []
        for measured in adapted:
            ratio = median_and_interval([one / other for one, other in zip(measured, plain, strict=True)])
            overheads.append(ratio)
        share = (overheads[0][0] - 1) / (overheads[1][0] - 1)
        rows.append(
            [
                tokens,
                f"{sorted(plain)[len(plain) // 2]:.3f} s",
                *(f"{median:.4f} ({low:.4f} to {high:.4f})" for median, low, high in overheads),
                f"{share:.2f}",
            ]
        )
    print(
        f"SD1.5 UNet of real size, float32, latents {LATENT_SIZE}×{LATENT_SIZE}, one picture with guidance; {ROUNDS} "
        "interleaved rounds; ratio of paired step times to no adapter: median and its 95 % interval.\n"
    )
    print_table(
        ["tokens", "no adapter (median)", *DESIGNS, "BoLID's overhead / classic overhead"],
        rows,
    )
