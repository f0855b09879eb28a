"""Peak memory of one training step, each case in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .evaluations import limit_memory, peak_of_process
from .models import (
    IMAGE_EMBED_DIM,
    IMAGE_HIDDEN_SIZE,
    random_denoiser,
    training_batch,
    training_config,
    training_device,
)
from .tables import gigabytes, print_table

TIMESTEP = 500
FAMILIES = {"sd15": "SD1.5", "sdxl": "SDXL"}


@dataclass(frozen=True)
class Case:
    family: str
    method: str
    resolution: int
    precision: str
    checkpointing: bool
    tiny: bool = False


CASES = (
    *(
        Case("sd15", "bolid", 512, precision, checkpointing)
        for precision in ("fp32", "bf16")
        for checkpointing in (False, True)
    ),
    *(
        Case("sdxl", method, resolution, "bf16", checkpointing)
        for method in ("ip_adapter", "bolid")
        for resolution, checkpointing in ((512, False), (512, True), (1024, True))
    ),
)


def run(tiny: bool = False) -> None:
    import psutil

    print(
        "One step, batch of 1: frozen UNet in the precision named, adapter, gradients and AdamW's moments in float32, "
        f"L_rec alone, features cached. On {training_device().type}, with "
        f"{gigabytes(psutil.virtual_memory().available)} of main memory free.\n"
        if not tiny
        else "Small models: only to see that it runs.\n"
    )
    rows = []
    for case in CASES:
        if tiny:
            case = dataclasses.replace(case, resolution=64, tiny=True)
        name = [FAMILIES[case.family], case.method, f"{case.resolution}×{case.resolution}", case.precision]
        found = _measured(case)
        figures = [gigabytes(count) for count in found] if isinstance(found, list) else [found, *[""] * 4]
        rows.append([*name, "yes" if case.checkpointing else "no", *figures])
    print_table(
        [
            "model",
            "method",
            "picture",
            "precision",
            "gradient checkpointing",
            "peak",
            "UNet's weights",
            "adapter, its gradients and moments",
            "Python and libraries",
            "the rest (activations)",
        ],
        rows,
    )


def _measured(case: Case) -> list[float] | str:
    """Peak and its parts in bytes, or why there are none."""
    child = subprocess.run(
        [sys.executable, "-m", f"{__package__}.training_memory", json.dumps(dataclasses.asdict(case))],
        capture_output=True,
        text=True,
    )
    if child.returncode == -signal.SIGKILL or (child.returncode and _is_lack_of_memory(child.stderr)):
        return "does not fit"
    if child.returncode:
        raise RuntimeError(f"{case} ended with {child.returncode}: {child.stderr}")
    return json.loads(child.stdout.splitlines()[-1])


def _is_lack_of_memory(text: str) -> bool:
    return any(part in text for part in ("can't allocate memory", "MemoryError", "out of memory", "bad_alloc"))


def _measure(case: Case) -> list[float]:
    import psutil
    import torch

    from ..training.adapter_step import AdapterStep, LossNetworks, initial_adapter
    from ..training.base import DTYPES

    device, dtype = training_device(), DTYPES[case.precision]
    on_cpu = device.type == "cpu"
    if on_cpu:
        limit_memory()
    libraries = psutil.Process().memory_info().rss if on_cpu else 0
    denoiser = random_denoiser(case.family, device=device, dtype=dtype, tiny=case.tiny)
    if case.checkpointing:
        denoiser.unet.enable_gradient_checkpointing()
    nowhere = Path("unused")
    config = training_config(case.method, data=nowhere, base=nowhere, image_encoder=nowhere)
    adapter = initial_adapter(config, denoiser, image_embed_dim=IMAGE_EMBED_DIM, hidden_size=IMAGE_HIDDEN_SIZE)
    module = AdapterStep(
        adapter, denoiser=denoiser, networks=LossNetworks(), settings=config.loss, zero_hidden_states=None
    ).to(device)
    optimizer = torch.optim.AdamW(module.parameters())
    batch = training_batch(denoiser, resolution=case.resolution, timestep=TIMESTEP).to(device)
    # From the second step on AdamW has its moments: a step without gradients makes them.
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    with torch.autocast(device.type, dtype=dtype, enabled=case.precision != "fp32"):
        loss = module(batch, every_term=True)["reconstruction"].mean()
    loss.backward()
    optimizer.step()
    peak = peak_of_process() if on_cpu else torch.cuda.max_memory_allocated()
    unet = sum(parameter.nbytes for parameter in denoiser.unet.parameters())
    trained = 4 * sum(parameter.nbytes for parameter in module.parameters())
    return [peak, unet, trained, libraries, peak - unet - trained - libraries]


if __name__ == "__main__":
    print(json.dumps(_measure(Case(**json.loads(sys.argv[1])))))
