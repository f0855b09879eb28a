"""How strongly a branch acts in each step of a sampling run."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch


def _ease(progress: torch.Tensor) -> torch.Tensor:
    """From 0 to 1, flat at both ends."""
    return (1 - torch.cos(math.pi * progress)) / 2


WEIGHT_SCHEDULES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "constant": torch.ones_like,
    "ramp up": lambda progress: progress,
    "ramp down": lambda progress: 1 - progress,
    "ease in": _ease,
    "ease out": lambda progress: 1 - _ease(progress),
    "ease in-out": lambda progress: _ease(1 - (2 * progress - 1).abs()),
    "reverse in-out": lambda progress: _ease((2 * progress - 1).abs()),
}
"""Factor of a branch's output by its progress, 0 where the branch begins to act and 1 where it ceases to."""


def schedule_factor(
    schedule: str, sigma: torch.Tensor, sigmas: torch.Tensor, *, sigma_start: float, sigma_end: float
) -> torch.Tensor:
    """Factor of a branch's output in one evaluation of the model, on the device and without a synchronisation.

    The progress is that of the middle of the step: 4 steps stand at 1/8, 3/8, 5/8 and 7/8, a single one at 1/2. All
    steps of a run count the same, however much noise they remove, and a run that starts from a picture has its own.

    Args:
        schedule: one of `WEIGHT_SCHEDULES`.
        sigma: noise level of the evaluation, without dimension.
        sigmas: [n + 1] noise levels of the run's n steps, in order, and the one it ends at.
        sigma_start, sigma_end: noise levels between which the branch acts.

    Returns:
        A tensor without dimension, 0 to 1.
    """

    def steps_before(level: torch.Tensor | float) -> torch.Tensor:
        # 0 / 0 is a level that stands between two equal ones.
        return ((sigmas[:-1] - level) / (sigmas[:-1] - sigmas[1:])).clamp(0, 1).nansum()

    # A run from a picture to noise comes to the end first.
    limits = torch.stack((steps_before(sigma_start), steps_before(sigma_end)))
    progress = (steps_before(sigma) + 0.5 - limits.min()) / (limits.max() - limits.min()).clamp(min=1)
    return WEIGHT_SCHEDULES[schedule](progress.clamp(0, 1))
