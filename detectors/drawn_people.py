"""The people of the people world and their joints, which mediapipe does not see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from ..models.keypoint_network import PIXELS_PER_CELL, pixels_to_cells, read_keypoint_network
from ..models.keypoints import COCO_KEYPOINTS, FIRST_JOINT
from .people import Person, box_around

SIDE = 128
"""Longer side of the pictures that the network has learned from."""

SEEN = 0.5
"""Probability of a joint to be seen, from which on it counts."""


class DrawnPersonDetector:
    """Finds the person in drawn pictures of one person.

    Args:
        weights: file of a keypoint network that reads pixels.

    Raises:
        ValueError: see `read_keypoint_network`.
    """

    def __init__(self, weights: Path):
        self._network = read_keypoint_network(weights).network

    @torch.no_grad()
    def detect(self, image: np.ndarray) -> list[Person]:
        """The person in an RGB picture [H, W, 3] uint8; nobody where no joint is seen."""
        size = image.shape[:2]
        sides = [max(1, round(SIDE * side / max(size) / PIXELS_PER_CELL)) * PIXELS_PER_CELL for side in size]
        pixels = torch.from_numpy(image).movedim(-1, 0)[None].float() / 127.5 - 1
        pixels = functional.interpolate(pixels, size=sides, mode="bilinear", antialias=True, align_corners=False)
        found = self._network(pixels_to_cells(pixels))
        joints = np.concatenate((found.positions[0] * torch.tensor(size[::-1]), found.logits[0, :, None].sigmoid()), 1)
        seen = joints[:, 2] >= SEEN
        if not seen.any():
            return []
        keypoints = np.zeros((len(COCO_KEYPOINTS), 3), dtype=np.float32)
        keypoints[FIRST_JOINT:] = joints
        return [Person(box=box_around(joints[seen, :2], eyes=None, mouth=None, image_size=size), keypoints=keypoints)]
