"""The demo as a newcomer runs it, and that pictures show whom they are to show: by a network that no method knows."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comfyui_client import ComfyUIClient
from local_server import LocalServer
from PIL import Image
from torch.nn.functional import normalize

from bolid.nodes.demo_people import PEOPLE, PHOTOS
from bolid.nodes.world_model import WEIGHTS
from bolid.world.networks.recogniser import Recogniser, read_recogniser

from ..support.workflow_server import api_form, save_id

pytestmark = pytest.mark.server
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return read_recogniser(WEIGHTS / "metric_identity.safetensors")


def embeds(recogniser: Recogniser, pictures: np.ndarray) -> torch.Tensor:
    """[n, d] of pictures [n, 128, 128, 3]."""
    return normalize(recogniser(torch.from_numpy(pictures).movedim(-1, 1).float() / 127.5 - 1), dim=1)


def likeness(recogniser: Recogniser, picture: np.ndarray, person: str) -> float:
    """Cosine with the mean of the person's pictures."""
    strip = np.array(Image.open(PEOPLE / f"{person}.png").convert("RGB"))
    mean = normalize(embeds(recogniser, np.stack(np.split(strip, PHOTOS, axis=1))).mean(dim=0), dim=0)
    return float(embeds(recogniser, picture[None])[0] @ mean)


def drawn(client: ComfyUIClient, prompt: dict[str, Any]) -> np.ndarray:
    """[b, H, W, 3] saved pictures."""
    pictures = [picture for picture in client.run(prompt) if picture.node_id == save_id(prompt)]
    return np.stack([np.array(Image.open(io.BytesIO(picture.data)).convert("RGB")) for picture in pictures])


def test_the_demo_draws_the_persons_whose_photos_it_gets(comfyui_dir: Path):
    result = subprocess.run(
        [sys.executable, ROOT / "scripts" / "demo.py"],
        env={**os.environ, "COMFYUI_DIR": str(comfyui_dir)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    summary = json.loads((ROOT / "output" / "summary.json").read_text(encoding="utf-8"))
    means = summary["mean_identity_similarity"]
    assert means["no_adapter"] + 0.2 < min(means["averaged"], means["self_attention"], means["bolid"])
    assert max(means["averaged"], means["self_attention"]) < means["real"] + 0.05
    # A tenth of the picture, as a root mean square: elsewhere, or in another pose, people are several tenths away.
    assert max(found["bolid"]["pose_error"] for found in summary["people"].values()) < 0.01
    with Image.open(ROOT / "output" / "demo.png") as sheet:
        assert sheet.width > 1000


def test_regions_show_each_person_where_they_were_asked_for(server: LocalServer, recogniser: Recogniser):
    prompt = api_form("two_people_regions")
    prompt["11"]["inputs"]["batch_size"] = 4
    left_person, right_person = (
        next(node["inputs"]["person"] for node in prompt.values() if node.get("_meta", {}).get("title") == title)
        for title in ("Photos of the Left Person", "Photos of the Right Person")
    )
    scores = np.array(
        [
            [
                [likeness(recogniser, np.ascontiguousarray(half), person) for person in (left_person, right_person)]
                for half in np.split(picture, 2, axis=1)
            ]
            for picture in drawn(server.client, prompt)
        ]
    ).mean(axis=0)
    assert scores[0, 0] > scores[0, 1] + 0.1, scores
    assert scores[1, 1] > scores[1, 0] + 0.1, scores
