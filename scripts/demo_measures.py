"""What the demo measures its pictures with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bolid.detectors.drawn_people import DrawnPersonDetector
from bolid.metrics.poses import pck, pose_accuracy
from bolid.models.keypoints import FIRST_JOINT, JOINTS
from bolid.world.networks.recogniser import read_recogniser

WEIGHTS = Path(__file__).resolve().parent.parent / "world" / "weights"


class Measures:
    """Two networks that learned from other people than everything else here, and are used for nothing else."""

    def __init__(self) -> None:
        self._recogniser = read_recogniser(WEIGHTS / "metric_identity.safetensors")
        self._detector = DrawnPersonDetector(WEIGHTS / "metric_joints.safetensors")

    @torch.no_grad()
    def _embeds(self, pictures: list[np.ndarray]) -> torch.Tensor:
        stacked = torch.from_numpy(np.stack(pictures)).movedim(-1, 1).float() / 127.5 - 1
        return torch.nn.functional.normalize(self._recogniser(stacked), dim=-1)

    def person(self, photos: list[np.ndarray]) -> torch.Tensor:
        """The mean direction [d] of photos of one person."""
        return torch.nn.functional.normalize(self._embeds(photos).mean(dim=0), dim=-1)

    def likeness(self, picture: np.ndarray, who: torch.Tensor) -> float:
        """Cosine, -1 to 1."""
        return round(float(self._embeds([picture])[0] @ who), 3)

    def pose(self, picture: np.ndarray, asked: np.ndarray) -> dict[str, float]:
        """How far the joints are from those of the asked picture: `pose_error` (0 is best) and `pck` (1 is best)."""
        found, wanted = self._joints(picture), self._joints(asked)
        return {
            "pose_error": round(float(pose_accuracy(found, wanted)), 4),
            "pck": round(float(pck(found, wanted, image_sizes=torch.ones(2))), 3),
        }

    def _joints(self, picture: np.ndarray) -> np.ndarray:
        """[12, 3]: x and y in 0 to 1, and how likely it is that the joint is seen."""
        people = self._detector.detect(picture)
        joints = people[0].keypoints[FIRST_JOINT:] if people else np.zeros((len(JOINTS), 3), dtype=np.float32)
        return joints / np.array([*picture.shape[1::-1], 1], dtype=np.float32)
