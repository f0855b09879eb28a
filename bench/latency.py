"""Loader + apply of an adapter of SDXL-plus size, once its file is in the page cache."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch

from .models import adapter_layout, embeds, folder_for_files, prepare_comfyui, unet_model, with_bolid, write_adapter
from .tables import megabytes, print_table

REPEATS = 7


def run() -> None:
    prepare_comfyui()
    from safetensors.torch import load_file

    from ..hosts.comfyui import load_adapter
    from ..models.build import build_adapter

    model = unet_model("sdxl", on_meta=True)
    layout = adapter_layout("plus", model)
    given = embeds("plus", 1)

    with folder_for_files() as folder:
        path = Path(folder, "plus_sdxl.safetensors")
        write_adapter(path, layout)
        path.read_bytes()  # into the page cache

        def bolid() -> None:
            with_bolid(model, load_adapter(path), given)

        def classic() -> None:
            """Initialise the modules, then copy the file's tensors into them."""
            adapter = build_adapter(layout)
            adapter.load_state_dict(load_file(path))
            adapter.to(torch.float16)

        seconds: dict[str, list[float]] = {"BoLID": [], "classic": []}
        bolid()
        for _ in range(REPEATS):
            for name, action in (("BoLID", bolid), ("classic", classic)):
                start = time.perf_counter()
                action()
                seconds[name].append(time.perf_counter() - start)
        print(f"File of {megabytes(path.stat().st_size)} (float16), {REPEATS} interleaved repeats.\n")
        print_table(
            ["design", "median", "fastest", "slowest"],
            [
                [name, *(f"{1000 * figure(measured):.0f} ms" for figure in (statistics.median, min, max))]
                for name, measured in seconds.items()
            ],
        )
