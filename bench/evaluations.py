"""Timing of several actions in turn, and model evaluations inside ComfyUI's real sampling."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

Evaluate = Callable[[], torch.Tensor]

SIGMA = 5.0
ROUNDS = 40

TRAINING_ROUNDS = 5
"""A training step takes seconds to minutes on a CPU."""

MEMORY_RESERVE = 1_500_000_000
"""Bytes left to the rest of the machine."""


def seconds_in_turns(actions: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Seconds of every action in each round, after one run of each that does not count."""
    seconds: list[list[float]] = [[] for _ in actions]
    for action in actions:  # warm up
        action()
    for number in range(rounds):
        # The order changes from round to round, so that no design always runs on a warmer machine.
        for offset in range(len(actions)):
            position = (number + offset) % len(actions)
            _wait_for_device()
            start = time.perf_counter()
            actions[position]()
            _wait_for_device()
            seconds[position].append(time.perf_counter() - start)
    return seconds


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def interleaved_seconds(models: Sequence[Any], latent_size: int) -> list[list[float]]:
    """Seconds of one evaluation, for every model and round; the models take turns in each of `ROUNDS` rounds."""
    seconds: list[list[float]] = []
    inside_sampling(models, latent_size, lambda evaluations: seconds.extend(seconds_in_turns(evaluations, ROUNDS)))
    return seconds


def counted_operations(models: Sequence[Any], latent_size: int) -> list[int]:
    """Floating-point operations of one evaluation of every model, counted by torch."""
    from torch.utils.flop_counter import FlopCounterMode

    counts: list[int] = []

    def count(evaluations: list[Evaluate]) -> None:
        for evaluate in evaluations:
            with FlopCounterMode(display=False) as counter:
                evaluate()
            counts.append(counter.get_total_flops())

    inside_sampling(models, latent_size, count)
    return counts


def limit_memory() -> None:
    """Make allocations fail where the machine's free memory, less a reserve, would be exceeded: nobody is killed."""
    import resource

    import psutil

    used, available = psutil.Process().memory_info().data, psutil.virtual_memory().available
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used + max(0, available - MEMORY_RESERVE), hard))


def peak_of_process() -> int:
    """Bytes; not by getrusage, which starts with the peak of the process that started this one."""
    return 1024 * int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])


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
