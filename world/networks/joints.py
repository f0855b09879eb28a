"""Networks that find the twelve joints in drawn pictures: mediapipe does not see drawn people."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from ...metrics.poses import pck, torso_length
from ...models.keypoint_network import (
    PIXELS,
    PIXELS_PER_CELL,
    KeypointNetwork,
    KeypointNetworkLayout,
    Keypoints,
    pixels_to_cells,
    write_keypoint_network,
)
from ...training.keypoint_task import TERMS, keypoint_terms, with_joints
from ...training.samples import grid, to_image
from .config import JointTraining
from .dataset import Pictures
from .task import NetworkTask, PictureBatch


@dataclass(frozen=True, kw_only=True)
class Posed(PictureBatch):
    """Pictures and where the joints are.

    Attributes:
        pixels: [b, 3, S, S] in -1 to 1.
        joints: [b, 12, 3] x, y in 0 to 1, and whether they are seen.
    """

    pixels: torch.Tensor
    joints: torch.Tensor


class JointStep(nn.Module):
    """Pictures → terms of the loss, per picture."""

    def __init__(self, network: KeypointNetwork):
        super().__init__()
        self.network = network

    def found(self, batch: Posed) -> Keypoints:
        """What the network says."""
        return self.network(pixels_to_cells(batch.pixels))

    def forward(self, batch: Posed) -> dict[str, torch.Tensor]:
        """[b] values of each term."""
        return keypoint_terms(self.found(batch), batch.joints)


class JointTask(NetworkTask):
    """See `NetworkTask`."""

    terms = TERMS

    def __init__(self, config: JointTraining, *, device: torch.device):
        super().__init__(config, device=device)
        layout = KeypointNetworkLayout(
            latent_channels=3 * PIXELS_PER_CELL**2, width=config.joints.width, depth=config.joints.depth
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            network: Any = KeypointNetwork(layout)
        self.module = JointStep(network.to(memory_format=torch.channels_last))

    def batch_of(self, pictures: Pictures, numbers: list[int], generators: list[torch.Generator]) -> Posed:
        """All of every picture."""
        return Posed(
            names=pictures.names(numbers), pixels=pictures.pixels(numbers), joints=pictures.joints[numbers].float()
        )

    def measures(self, batch: Posed) -> dict[str, torch.Tensor]:
        """Distance of the joints that are seen, in pictures; PCK of the pictures that show a bone; of all joints the
        share that is rightly said to be seen or not."""
        found = self.module.found(batch)
        visible, said = batch.joints[..., 2] > 0, found.logits > 0
        sizes = torch.full((2,), batch.pixels.shape[-1], device=visible.device)
        measurable = torso_length(batch.joints, sizes) > 0
        joints = torch.cat((found.positions, said.unsqueeze(-1).to(found.positions)), dim=-1)
        return {
            "distance": (found.positions - batch.joints[..., :2]).norm(dim=-1)[visible],
            "pck": pck(joints[measurable], batch.joints[measurable], image_sizes=sizes)
            if measurable.any()
            else sizes.new_empty(0),
            "presence_right": (said == visible).float().flatten(),
        }

    @torch.no_grad()
    def sample_grid(self, autocast: Callable[[], AbstractContextManager[None]]) -> Image.Image:
        """Held-out pictures with the true joints (green) and the found ones (red)."""
        rows: list[list[Image.Image]] = []
        names: list[str] = []
        for number in self.held_out.spread(self.config.run.sample_people):
            batch = self.batch_of(self.held_out, [number], []).to(self.device)
            with autocast():
                positions = self.module.found(batch).positions[0]
            image = to_image(batch.pixels[0])
            rows.append([image, with_joints(image, batch.joints[0], positions)])
            names.extend(batch.names)
        return grid(rows, ["picture", "joints"], names)

    def write_result(self, path: Path, training: dict[str, Any]) -> None:
        """Write the network's file."""
        write_keypoint_network(path, self.module.network, latent_space=PIXELS, training=training)
