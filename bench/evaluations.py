"""Model evaluations inside ComfyUI's real sampling, one at a time, of several models in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

Evaluate = Callable[[], torch.Tensor]

SIGMA = 5.0


def inside_sampling(models: Sequence[Any], latent_size: int, action: Callable[[list[Evaluate]], None]) -> None:
    """Open one sampling run per model, nested, and call `action` with one evaluation function for each.

    An evaluation is what a sampler does in a step: both halves of classifier-free guidance for one picture.
    """
    import comfy.samplers

    from .models import UNET_CONFIGS

    width = UNET_CONFIGS["sd15"]["context_dim"]
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(1, 4, latent_size, latent_size, generator=generator)
    texts = [[[torch.randn(1, 77, width, generator=generator), {}]] for _ in range(2)]
    evaluations: list[Evaluate] = []

    class Opened(comfy.samplers.Sampler):
        def __init__(self, rest: Sequence[Any]):
            self.rest = rest

        def sample(self, model_wrap: Any, sigmas: Any, extra_args: dict, *_: Any, **__: Any) -> torch.Tensor:
            sigma = torch.full((1,), SIGMA)
            evaluations.append(lambda: model_wrap(noise, sigma, **extra_args))
            if self.rest:
                start(self.rest)
            else:
                action(evaluations)
            return noise

    def start(remaining: Sequence[Any]) -> None:
        guider = comfy.samplers.CFGGuider(remaining[0])
        guider.set_conds(*texts)
        guider.set_cfg(5.0)
        guider.sample(noise, torch.zeros_like(noise), Opened(remaining[1:]), torch.tensor([SIGMA, 0.0]), seed=0)

    with torch.inference_mode():
        start(models)
