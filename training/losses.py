"""The terms of the loss, per sample.

Every function returns one value per sample, so that terms that are gated off for some samples of a batch are averaged
over all of them, and two processes with half the batch give the mean that one process gives.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from ..models.keypoints import BONES

MIN_BONE = 0.02
"""Shorter bones, in picture heights, are as good as not there: errors of a hundredth are common."""


def alpha_bar(alphas_cumprod: torch.Tensor, timesteps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """ᾱ_t of timesteps [b], shaped to multiply with `like` [b, ...]."""
    values = alphas_cumprod.to(like.device)[timesteps].to(like.dtype)
    return values.view(-1, *[1] * (like.ndim - 1))


def add_noise(
    latents: torch.Tensor, noise: torch.Tensor, alphas_cumprod: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """x_t = √ᾱ_t · x_0 + √(1 - ᾱ_t) · ε (DDPM, equation 4, https://arxiv.org/abs/2006.11239)."""
    kept = alpha_bar(alphas_cumprod, timesteps, latents)
    return kept.sqrt() * latents + (1 - kept).sqrt() * noise


def shifted(timesteps: torch.Tensor, shift: float, *, number: int) -> torch.Tensor:
    """Timesteps moved towards noise: u → s·u / (1 + (s - 1)·u) (equation 23 of https://arxiv.org/abs/2403.03206).

    Args:
        timesteps: [...] whole, from 0 to `number` - 1.
        shift: s; 1 moves nothing, 3 takes the middle to three quarters.
        number: of timesteps that there are.
    """
    places = (timesteps + 0.5) / number
    return (number * shift * places / (1 + (shift - 1) * places)).long()


def training_target(
    latents: torch.Tensor,
    noise: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    timesteps: torch.Tensor,
    *,
    prediction_type: str,
) -> torch.Tensor:
    """What the UNet shall predict: ε, or v = √ᾱ_t · ε - √(1 - ᾱ_t) · x_0 (https://arxiv.org/abs/2202.00512)."""
    if prediction_type == "epsilon":
        return noise
    kept = alpha_bar(alphas_cumprod, timesteps, latents)
    return kept.sqrt() * noise - (1 - kept).sqrt() * latents


def predicted_latents(
    prediction: torch.Tensor,
    noisy: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    timesteps: torch.Tensor,
    *,
    prediction_type: str,
) -> torch.Tensor:
    """x̂_0 from the UNet's prediction at x_t."""
    kept = alpha_bar(alphas_cumprod, timesteps, noisy)
    if prediction_type == "epsilon":
        return (noisy - (1 - kept).sqrt() * prediction) / kept.sqrt()
    return kept.sqrt() * noisy - (1 - kept).sqrt() * prediction


def reconstruction_loss(
    prediction: torch.Tensor,
    target: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    timesteps: torch.Tensor,
    *,
    prediction_type: str,
    min_snr_gamma: float | None = None,
    cell_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """[b] mean squared error, weighted by min(SNR, γ) / SNR for ε, / (SNR + 1) for v (https://arxiv.org/abs/2303.09556).

    Args:
        min_snr_gamma: γ; None: no weighting.
        cell_weights: [b, h, w] of the latents' cells, whose mean is weighted by them; None: all count alike.
    """
    squared = functional.mse_loss(prediction.float(), target.float(), reduction="none").mean(dim=1)
    if cell_weights is None:
        error = squared.mean(dim=(1, 2))
    else:
        error = (squared * cell_weights).sum(dim=(1, 2)) / cell_weights.sum(dim=(1, 2))
    if min_snr_gamma is None:
        return error
    kept = alphas_cumprod.to(error.device)[timesteps].float()
    snr = kept / (1 - kept)
    capped = snr.clamp(max=min_snr_gamma)
    return error * capped / (snr + (prediction_type == "v_prediction"))


def gate(alphas_cumprod: torch.Tensor, timesteps: torch.Tensor, *, min_alpha_bar: float) -> torch.Tensor:
    """[b] weight of the terms on x̂_0: ᾱ_t where it is above the gate, else 0. At small ᾱ_t x̂_0 is a guess."""
    kept = alphas_cumprod[timesteps.to(alphas_cumprod.device)].float()
    return torch.where(kept > min_alpha_bar, kept, 0.0).to(timesteps.device)


def joint_error(positions: torch.Tensor, joints: torch.Tensor) -> torch.Tensor:
    """[b] mean over visible joints of ‖p_gen - p_ref‖², x in widths and y in heights; 0 for a sample without any.

    Args:
        positions: [b, 12, 2] predicted x, y in 0 to 1.
        joints: [b, 12, 3] true x, y, and visibility; 0 where not seen.
    """
    visible = joints[..., 2] > 0
    squared = (positions - joints[..., :2]).square().sum(dim=-1) * visible
    return squared.sum(dim=1) / visible.sum(dim=1).clamp(min=1)


def bone_ratio_error(positions: torch.Tensor, joints: torch.Tensor, *, aspect: float) -> torch.Tensor:
    """[b] how much the ratios of the bones differ: the variance over bones of log(length / true length).

    The true lengths are those in the target picture. It shows the same person as the references, in the pose that is
    being drawn, so its bones are foreshortened as the predicted ones have to be; the references' are not. Only ratios
    count: a factor common to all bones cancels, up to `MIN_BONE`, which keeps short bones from mattering. 0 for a
    sample with fewer than two visible bones.

    Args:
        positions, joints: see `joint_error`.
        aspect: the picture's width divided by its height.
    """
    starts, ends = zip(*(pair for pairs in BONES.values() for pair in pairs), strict=True)
    scale = joints.new_tensor((aspect, 1.0))

    def lengths(points: torch.Tensor) -> torch.Tensor:
        # Not zero: its logarithm and the norm's gradient would be infinite.
        squared = ((points[:, starts, :] - points[:, ends, :]) * scale).square().sum(dim=-1)
        return (squared + MIN_BONE**2).sqrt()

    visible = joints[..., 2] > 0
    both = (visible[:, starts] & visible[:, ends]).float()
    count = both.sum(dim=1).clamp(min=1)
    difference = (lengths(positions) / lengths(joints[..., :2])).log()
    mean = (difference * both).sum(dim=1) / count
    return ((difference - mean.unsqueeze(1)).square() * both).sum(dim=1) / count
