"""Starting networks from principal components, which are known in closed form and learned slowly.

An autoencoder starts as the best linear one: blocks that are not linear begin as the identity, and what is learned from
there on is what no linear autoencoder can do. A transformer starts with patches by their components.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderDC
from torch import nn
from torch.nn import functional

from ...training.randomness import keyed_generator

CELL = 8
"""Pixels per latent along a side."""

SAMPLED_PICTURES = 256
"""At most so many: from them components are taken, and the latents' scale."""

LEVEL_COMPONENTS = 32
"""Kept of every 4×4 pixels: as many as the level has room for."""

ANCHOR = 32.0
"""A constant channel, so large that the last norm divides nearly everything by the same."""

LIFT = 1.5
"""Added before the last activation, which passes only what is positive."""


def sampled_numbers(count: int, *, seed: int) -> list[int]:
    """Some of `count` pictures."""
    generator = keyed_generator(seed, "sampled pictures")
    return torch.randint(count, (min(SAMPLED_PICTURES, count),), generator=generator).tolist()


def principal_components(patches: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean [d] and the first components [d, count] of samples [n, d], orthonormal."""
    patches = patches.double()
    mean = patches.mean(dim=0)
    centred = patches - mean
    _, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    return mean.float(), vectors[:, -count:].flip(1).float()


@torch.no_grad()
def start_linear(autoencoder: AutoencoderDC, pixels: torch.Tensor) -> None:
    """Make an autoencoder the linear one that loses least of some pictures.

    Args:
        autoencoder: of three levels below the picture, with 64, 128 and 128 channels, pixel (un)shuffling between them,
            and at most 32 latent channels.
        pixels: [n, 3, H, W] in -1 to 1, sides multiples of 8.
    """
    for module in autoencoder.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.mul_(0.1)
            if module.bias is not None:
                module.bias.zero_()
        elif type(module).__name__ == "ResBlock":
            module.norm.weight.zero_()
    latent_channels = autoencoder.config.latent_channels
    half = functional.pixel_unshuffle(pixels, 4).movedim(1, -1).flatten(0, -2)
    mean, parts = principal_components(half, LEVEL_COMPONENTS)
    _start_encoder(autoencoder.encoder, mean, parts)
    # What reaches the encoder's last layer, and what the pixels are, cell by cell.
    reached = _cells(_before_last(autoencoder.encoder, pixels))
    cells = functional.pixel_unshuffle(pixels, CELL).movedim(1, -1).flatten(0, -2)
    whole_mean, components = principal_components(cells, latent_channels)
    latents = (cells - whole_mean) @ components
    # Between their own sizes, where fine detail drowns in a diffusion model's noise, and equal ones, where it learns
    # what hardly counts.
    scale = latents.std(dim=0).sqrt()
    matrix, bias = least_squares(reached, latents / scale)
    channels = reached.shape[1]
    average = torch.eye(latent_channels).repeat_interleave(channels // latent_channels, dim=1)
    average = average * latent_channels / channels
    _set(autoencoder.encoder.conv_out, matrix - average, bias)
    _start_decoder(autoencoder.decoder, components * scale, whole_mean, mean, parts)


@torch.no_grad()
def start_patches(embedding: nn.Conv2d, pixels: torch.Tensor) -> None:
    """Make a transformer's embedding of patches tell the principal components of some pictures' patches.

    Args:
        embedding: convolution without bias, as large as a patch, with at most as many outputs as a patch has numbers.
        pixels: [n, 3, H, W], as the embedding will see them.
    """
    size = embedding.kernel_size[0]
    patches = functional.pixel_unshuffle(pixels, size).movedim(1, -1).flatten(0, -2)
    mean, components = principal_components(patches, embedding.out_channels)
    scale = ((patches - mean) @ components).std(dim=0).sqrt()
    embedding.weight.copy_((components / scale).T.view_as(embedding.weight))


def _start_encoder(encoder: Any, mean: torch.Tensor, parts: torch.Tensor) -> None:
    """Pixels are only sorted on the way to the second level, and there 4×4 of them become their components."""
    first = encoder.conv_in.conv
    _set(first, torch.eye(first.out_channels, 3))
    second = encoder.down_blocks[1][-1].conv
    sort = torch.zeros(second.out_channels, second.in_channels)
    sort[12:24, :12] = torch.eye(12)  # beside what the shortcut brings
    _set(second, sort)
    third = encoder.down_blocks[2][-1].conv
    take = torch.zeros(third.out_channels, third.in_channels)
    # Channel 48 + 4 (4 c + p) + q holds the pixel of colour c at place p of the 2×2 at place q; `parts` count pixels of
    # 4×4 row by row.
    for colour in range(3):
        for inner in range(4):
            for outer in range(4):
                take[:, 48 + 4 * (4 * colour + inner) + outer] = parts[16 * colour + _place(inner, outer)]
    _set(third, take, -mean @ parts)


def _place(inner: int, outer: int) -> int:
    """Number among 4×4 pixels, row by row, of the one at place `inner` of the 2×2 at place `outer`."""
    row, column = 2 * (outer // 2) + inner // 2, 2 * (outer % 2) + inner % 2
    return 4 * row + column


def _before_last(encoder: Any, pixels: torch.Tensor) -> torch.Tensor:
    hidden_states = encoder.conv_in(pixels)
    for block in encoder.down_blocks:
        hidden_states = block(hidden_states)
    return hidden_states


def _cells(hidden_states: torch.Tensor) -> torch.Tensor:
    return hidden_states.movedim(1, -1).flatten(0, -2)


def _start_decoder(
    decoder: Any, components: torch.Tensor, whole_mean: torch.Tensor, mean: torch.Tensor, parts: torch.Tensor
) -> None:
    """Latents → components of each 4×4 pixels → these pixels → each 2×2 of them → picture."""
    # Rows of `components` count pixels of 8×8 by colour, row by row.
    index = torch.arange(3 * CELL**2).view(3, 2, 4, 2, 4)  # colour, row of 4×4, row, column of 4×4, column
    quarters = [index[:, outer // 2, :, outer % 2, :].flatten() for outer in range(4)]
    first = decoder.conv_in
    latent_channels = first.in_channels
    matrix = torch.cat([parts.T @ components[quarter] for quarter in quarters])
    bias = torch.cat([parts.T @ (whole_mean[quarter] - mean) for quarter in quarters])
    repeat = torch.eye(latent_channels).repeat_interleave(first.out_channels // latent_channels, dim=0)
    _set(first, matrix - repeat, bias)

    second = decoder.up_blocks[2][0].conv
    matrix, bias = torch.zeros(second.out_channels, second.in_channels), torch.zeros(second.out_channels)
    for outer in range(4):
        rows = torch.arange(48) * 4 + outer
        matrix[rows, outer * LEVEL_COMPONENTS : (outer + 1) * LEVEL_COMPONENTS] = parts
        bias[rows] = mean
    _set(second, matrix - _repeats(second), bias)

    third = decoder.up_blocks[1][0].conv
    matrix, bias = torch.zeros(third.out_channels, third.in_channels), torch.zeros(third.out_channels)
    for colour in range(3):
        for inner in range(4):
            for outer in range(4):
                matrix[(4 * colour + inner) * 4 + outer, 16 * colour + _place(inner, outer)] = 1.0
    anchor = third.out_channels // 4 - 1
    bias[anchor * 4 :] = ANCHOR
    repeats = _repeats(third)
    _set(third, matrix - repeats, bias)

    channels = len(decoder.norm_out.weight)
    decoder.norm_out.weight.fill_(ANCHOR / channels**0.5)
    decoder.norm_out.weight[anchor] = 0.0  # what is constant would make later steps unsteady
    decoder.norm_out.bias.zero_()
    decoder.norm_out.bias[:12] = LIFT
    last = decoder.conv_out.conv
    matrix = torch.zeros(last.out_channels, last.in_channels)
    matrix[:12, :12] = torch.eye(12)
    _set(last, matrix, torch.full((12,), -LIFT))


def _repeats(conv: nn.Conv2d) -> torch.Tensor:
    """What the shortcut around an upsampling convolution adds to its output."""
    return torch.eye(conv.in_channels).repeat_interleave(conv.out_channels // conv.in_channels, dim=0)


def least_squares(inputs: torch.Tensor, outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Matrix and bias of the affine map that fits best."""
    with_one = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1).double()
    size = with_one.shape[1]
    normal = with_one.T @ with_one / len(with_one) + 1e-6 * torch.eye(size, dtype=torch.float64)
    solution = torch.linalg.solve(normal, with_one.T @ outputs.double() / len(with_one)).float()
    return solution[:-1].T, solution[-1]


def _set(conv: nn.Conv2d, matrix: torch.Tensor, bias: torch.Tensor | None = None) -> None:
    """Make a 3×3 convolution apply a matrix to every cell."""
    conv.weight.zero_()
    conv.weight[:, :, 1, 1] = matrix
    if bias is not None:
        conv.bias.copy_(bias)
