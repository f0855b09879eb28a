"""Step time of two and three branches against one, in interleaved rounds on one SD1.5 UNet of real size."""

from __future__ import annotations

from .evaluations import ROUNDS, counted_operations, interleaved_seconds
from .models import body, embeds, loaded_adapter, prepare_comfyui, unet_model, with_bolid
from .tables import median_and_interval, print_table

LATENT_SIZE = 32
PHOTOS, TOKENS = 9, 144


def run() -> None:
    prepare_comfyui()
    model = unet_model("sd15")
    adapter = loaded_adapter("plus", model, body_tokens=TOKENS)
    face, person = embeds("plus", PHOTOS), body(PHOTOS)
    both = with_bolid(model, adapter, face, person)
    designs = {
        "text and face": with_bolid(model, adapter, face),
        "text and body": with_bolid(model, adapter, None, person),
        "text, face and body": both,
        "text, face, body and a second face": with_bolid(both, adapter, face),
    }
    fewest, *operations = counted_operations([model, *designs.values()], LATENT_SIZE)
    plain, *adapted = interleaved_seconds([model, *designs.values()], LATENT_SIZE)
    ratios = [
        median_and_interval([one / other for one, other in zip(seconds, plain, strict=True)]) for seconds in adapted
    ]
    single = ratios[0][0] - 1
    print(
        f"SD1.5 UNet of real size, float32, latents {LATENT_SIZE}×{LATENT_SIZE}, one picture with guidance, {TOKENS} "
        f"tokens in every image branch; {ROUNDS} interleaved rounds; no adapter: median "
        f"{sorted(plain)[len(plain) // 2]:.3f} s; ratio of paired step times to it: median and its 95 % interval.\n"
    )
    print_table(
        ["branches", "step time / no adapter", "overhead / one branch's", "counted operations / one branch's"],
        [
            [
                name,
                f"{median:.4f} ({low:.4f} to {high:.4f})",
                f"{(median - 1) / single:.2f}",
                f"{(count - fewest) / (operations[0] - fewest):.2f}",
            ]
            for name, (median, low, high), count in zip(designs, ratios, operations, strict=True)
        ],
    )
