"""What an adapter keeps on the device while sampling, outside the host's memory management."""

from __future__ import annotations

import torch

from ..models.branch import CONDITIONAL, Branch
from .models import adapter_layout, embeds, loaded_adapter, prepare_comfyui, unet_model
from .tables import megabytes, print_table


def run() -> None:
    prepare_comfyui()
    from functools import partial

    rows = []
    for family in ("sd15", "sdxl"):
        model = unet_model(family, on_meta=True)
        for kind, photos in (("base", 1), ("plus", 1), ("plus", 9)):
            adapter = loaded_adapter(kind, model).adapter
            branch = Branch(
                tokens=partial(adapter.face_tokens, embeds(kind, photos)),
                projections=adapter.ip_adapter,
                layer_weights=dict.fromkeys(adapter_layout(kind, model).layers, 1.0),
            )
            with torch.no_grad():
                key_values = branch.key_values(device="cpu", dtype=torch.float16)
            tokens = key_values[1][CONDITIONAL].key.shape[1]
            weights = sum(2 * parameter.numel() for parameter in adapter.ip_adapter.parameters())
            kept = sum(key_value.nbytes for roles in key_values.values() for key_value in roles)
            rows.append([family, tokens, megabytes(kept), megabytes(weights)])
    print("float16, one picture with guidance. The weights are in the host's care, evictable once K', V' exist.\n")
    print_table(["model", "tokens", "K', V' while sampling (BoLID)", "K', V' weights (classic keeps these)"], rows)
