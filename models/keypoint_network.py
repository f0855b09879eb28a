"""The keypoint network: finds the twelve joints in a picture's latents, so that gradients reach the latents.

It is trained for the latents of one VAE and lies in a safetensors file of its own, whose metadata say so:
`bolid.keypoints.format` (version of this layout), `bolid.keypoints.config` (`KeypointNetworkConfig` as JSON), and
`modelspec.*` (https://github.com/Stability-AI/ModelSpec).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, TypeAdapter
from torch import nn
from torch.nn import functional

from .checkpoint import read_metadata, read_state_dict
from .files import in_precision, read_description, tensor_problems, write_safetensors
from .keypoints import JOINTS

FORMAT = 1
"""Version of the file layout; a reader refuses files of a later one."""

CHANNELS_PER_GROUP = 8
"""Of every GroupNorm (https://arxiv.org/abs/1803.08494)."""

PIXELS = "pixels"
"""The latent space of networks that look at pictures themselves, in the form of `pixels_to_cells`."""

PIXELS_PER_CELL = 4

MAX_WIDENING = 4
MAX_CHANNELS, MAX_DEPTH, MAX_UPSCALE = 4096, 8, 8


@dataclass(frozen=True, kw_only=True)
class KeypointNetworkLayout:
    """Every size of a keypoint network: what its file says, and what it is built from.

    Attributes:
        latent_channels: channels C of the latents; 4 for SD1.5 and SDXL.
        width: channels of the first level, a multiple of 8; twice of it in the second level, four times below.
        depth: levels, 1 to 8. Each has half the rows and columns of the one above. With 4 a heatmap's cell sees
            about 60 latent cells in every direction, with 3 about 30.
        upscale: rows and columns of the heatmaps per latent cell, 1 to 8.

    Raises:
        ValueError: a size that cannot be.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    latent_channels: int
    width: int = 64
    depth: int = 4
    upscale: int = 2

    def __post_init__(self) -> None:
        if (
            not 1 <= self.latent_channels <= MAX_CHANNELS
            or not 1 <= self.width <= MAX_CHANNELS
            or self.width % CHANNELS_PER_GROUP
            or not 1 <= self.depth <= MAX_DEPTH
            or not 1 <= self.upscale <= MAX_UPSCALE
        ):
            raise ValueError(
                f"{self} cannot be built: expected 1 to {MAX_CHANNELS} latent_channels, a width up to {MAX_CHANNELS} "
                f"that is a multiple of {CHANNELS_PER_GROUP}, depth 1 to {MAX_DEPTH} and upscale 1 to {MAX_UPSCALE}."
            )


@dataclass(frozen=True, kw_only=True)
class Keypoints:
    """What the network says about a batch of pictures, in float32.

    Attributes:
        positions: [b, 12, 2] x, y in 0 to 1 of the picture's width and height, in the order of `keypoints.JOINTS`.
        logits: [b, 12] logits of the joint being in the picture.
        log_heatmaps: [b, 12, H, W] logarithm of the probability of every cell to hold the joint; `positions` are its
            `soft_argmax`.
    """

    positions: torch.Tensor
    logits: torch.Tensor
    log_heatmaps: torch.Tensor


class ResidualBlock(nn.Module):
    """Two pre-activated 3×3 convolutions beside a shortcut: [b, in, h, w] → [b, out, h, w]."""

    def __init__(self, *, in_channels: int, out_channels: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(in_channels // CHANNELS_PER_GROUP, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(out_channels // CHANNELS_PER_GROUP, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = self.conv1(functional.silu(self.norm1(hidden_states)))
        residual = self.conv2(functional.silu(self.norm2(residual)))
        return self.shortcut(hidden_states) + residual


class KeypointNetwork(nn.Module):
    """A small U-Net (https://arxiv.org/abs/1505.04597) with a heatmap for every joint.

    Nothing in it depends on the other samples of a batch.

    Args:
        layout: every size.
    """

    def __init__(self, layout: KeypointNetworkLayout):
        super().__init__()
        self.layout = layout
        widths = [layout.width * min(2**level, MAX_WIDENING) for level in range(layout.depth)]
        self.latents_in = nn.Conv2d(layout.latent_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            ResidualBlock(in_channels=above, out_channels=here) for above, here in pairwise([widths[0], *widths])
        )
        self.middle = ResidualBlock(in_channels=widths[-1], out_channels=widths[-1])
        self.up = nn.ModuleList(
            ResidualBlock(in_channels=below + here, out_channels=here)
            for here, below in reversed(list(pairwise(widths)))
        )
        self.norm_out = nn.GroupNorm(widths[0] // CHANNELS_PER_GROUP, widths[0])
        # Of every joint a heatmap, and a map of what each cell says about the joint being in the picture.
        self.maps_out = nn.Conv2d(widths[0], 2 * len(JOINTS) * layout.upscale**2, 3, padding=1)

    def forward(self, latents: torch.Tensor) -> Keypoints:
        """Find the joints.

        Args:
            latents: [b, C, h, w] clean latents of any size and precision, scaled as the UNet sees them.

        Raises:
            ValueError: latents of another shape.
        """
        if latents.ndim != 4 or latents.shape[1] != self.layout.latent_channels:
            raise ValueError(
                f"The latents are {list(latents.shape)}, but this keypoint network reads "
                f"[b, {self.layout.latent_channels}, h, w]: it was trained for another VAE. Train one for this base "
                'model with method = "keypoints".'
            )
        hidden_states = self.latents_in(latents.to(self.latents_in.weight.dtype))
        levels: list[torch.Tensor] = []
        for block in self.down:
            if levels:
                # The last cell of an odd row is the mean of what is there.
                hidden_states = functional.avg_pool2d(hidden_states, 2, ceil_mode=True)
            hidden_states = block(hidden_states)
            levels.append(hidden_states)
        hidden_states = self.middle(levels.pop())
        for block in self.up:
            above = levels.pop()
            height, width = above.shape[-2:]
            enlarged = functional.interpolate(hidden_states, scale_factor=2, mode="nearest")
            hidden_states = block(torch.cat((enlarged[..., :height, :width], above), dim=1))
        maps = self.maps_out(functional.silu(self.norm_out(hidden_states)))
        heat, presence = functional.pixel_shuffle(maps, self.layout.upscale).float().chunk(2, dim=1)
        log_heatmaps = heat.flatten(2).log_softmax(dim=-1).view_as(heat)
        return Keypoints(
            positions=soft_argmax(log_heatmaps),
            logits=(log_heatmaps.exp() * presence).sum(dim=(-2, -1)),
            log_heatmaps=log_heatmaps,
        )


def pixels_to_cells(pixels: torch.Tensor) -> torch.Tensor:
    """Pictures [b, 3, H, W] in -1 to 1 as latents [b, 48, H/4, W/4]: each cell holds the pixels that lie in it."""
    return functional.pixel_unshuffle(pixels, PIXELS_PER_CELL)


def soft_argmax(log_heatmaps: torch.Tensor) -> torch.Tensor:
    """The expected place: [..., H, W] → [..., 2] x, y in 0 to 1 (https://arxiv.org/abs/1711.08229).

    Cell i of n lies at (i + 0.5) / n.

    Args:
        log_heatmaps: logarithm of probabilities whose sum over H and W is 1.
    """
    heatmaps = log_heatmaps.exp()
    y, x = (_cell_centres(size, like=heatmaps) for size in heatmaps.shape[-2:])
    # No matrix product, which autocast would compute in half precision.
    return torch.stack(((heatmaps.sum(dim=-2) * x).sum(dim=-1), (heatmaps.sum(dim=-1) * y).sum(dim=-1)), dim=-1)


def heatmap_divergence(log_heatmaps: torch.Tensor, positions: torch.Tensor, *, sigma: float = 1.0) -> torch.Tensor:
    """[b, 12] Jensen-Shannon divergence, 0 to log 2, of the heatmaps from Gaussians around the true positions.

    The regularisation of DSNT (https://arxiv.org/abs/1801.07372, section 3.3): the expected place alone is right for
    heatmaps of any shape. In float32.

    Args:
        log_heatmaps: [b, 12, H, W] of `Keypoints`.
        positions: [b, 12, 2] true x, y in 0 to 1; any finite numbers where the caller masks the joint.
        sigma: standard deviation of the Gaussians, in cells of the heatmaps.
    """
    log_heatmaps, positions = log_heatmaps.float(), positions.float()
    height, width = log_heatmaps.shape[-2:]
    x, y = ((centre * size).unsqueeze(-1) for centre, size in zip(positions.unbind(-1), (width, height), strict=True))
    columns, rows = (_cell_centres(size, like=log_heatmaps) * size for size in (width, height))
    squared = (columns - x).square().unsqueeze(-2) + (rows - y).square().unsqueeze(-1)
    log_gaussians = (squared / (-2 * sigma**2)).flatten(-2).log_softmax(dim=-1)
    log_heatmaps = log_heatmaps.flatten(-2)
    log_mean = torch.logaddexp(log_heatmaps, log_gaussians) - math.log(2)
    both = torch.stack((log_heatmaps, log_gaussians))
    return functional.kl_div(log_mean.expand_as(both), both, reduction="none", log_target=True).sum(dim=-1).mean(dim=0)


def _cell_centres(size: int, *, like: torch.Tensor) -> torch.Tensor:
    return (torch.arange(size, device=like.device, dtype=like.dtype) + 0.5) / size


@dataclass(frozen=True, kw_only=True)
class KeypointNetworkConfig:
    """What a keypoint network's file says about itself.

    Attributes:
        latent_space: name or fingerprint of the VAE whose latents the network reads.
        layout: every size.
        training: summary of the training run, free in form.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    latent_space: str
    layout: KeypointNetworkLayout
    training: dict[str, Any] = field(default_factory=dict)


_CONFIG = TypeAdapter(KeypointNetworkConfig)


@dataclass(frozen=True, kw_only=True)
class KeypointNetworkFile:
    """A keypoint network that was read.

    Attributes:
        network: in float32 and evaluation mode, without gradients for its weights.
        latent_space, training: see `KeypointNetworkConfig`.
    """

    network: KeypointNetwork
    latent_space: str
    training: dict[str, Any]


def write_keypoint_network(
    path: str | Path, network: KeypointNetwork, *, latent_space: str, training: dict[str, Any] | None = None
) -> None:
    """Write a keypoint network in half precision; an existing file is replaced in one step, or stays as it was.

    Args:
        path: ends in .safetensors.
        latent_space, training: see `KeypointNetworkConfig`.

    Raises:
        ValueError: another ending.
    """
    config = KeypointNetworkConfig(latent_space=latent_space, layout=network.layout, training=training or {})
    metadata = {
        "bolid.keypoints.format": str(FORMAT),
        "bolid.keypoints.config": _CONFIG.dump_json(config).decode(),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "bolid-keypoint-network",
        "modelspec.implementation": "bolid",
        "modelspec.title": "BoLID keypoint network",
    }
    write_safetensors(path, in_precision(network.state_dict(), torch.float16), metadata=metadata)


def read_keypoint_network(path: str | Path) -> KeypointNetworkFile:
    """Read a file of `write_keypoint_network`.

    Raises:
        ValueError: not a readable keypoint network, or one of a later format; the message says what it is.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path.name} is not a keypoint network: these are .safetensors files, which a training run with "
            'method = "keypoints" writes.'
        )
    state_dict, metadata = read_state_dict(path), read_metadata(path)
    config = read_description(
        metadata, _CONFIG, prefix="bolid.keypoints", kind="keypoint network", supported=FORMAT, name=path.name
    )
    if config is None:
        raise ValueError(
            f"{path.name} is not a keypoint network: {_what_it_looks_like(state_dict, metadata)} Give the file that a "
            'training run with method = "keypoints" wrote.'
        )
    with torch.device("meta"):
        network = KeypointNetwork(config.layout)
    try:
        network.load_state_dict(state_dict, strict=True, assign=True)
    except RuntimeError as error:
        raise ValueError(
            f"{path.name} describes a keypoint network that its tensors do not fit: {tensor_problems(error)} Get the "
            "file again."
        ) from error
    return KeypointNetworkFile(
        network=network.float().eval().requires_grad_(False), latent_space=config.latent_space, training=config.training
    )


def _what_it_looks_like(state_dict: dict[str, torch.Tensor], metadata: dict[str, str]) -> str:
    if "bolid.format" in metadata or any(key.startswith("ip_adapter.") for key in state_dict):
        return "it is an adapter, for BoLIDAdapterLoader."
    if {"latents_in.weight", "maps_out.weight"} <= set(state_dict):
        return "it has the tensors of one, but its description of itself is missing; another program wrote it anew."
    return f"its tensors are named {', '.join(sorted(state_dict)[:4]) or 'nothing at all'} …"
