"""Small runs of the demo model for the tests of the clients."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from typing import Any

from comfyui_client import ComfyUIClient
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / "workflows" / "api" / "many_photos_averaged.json"
PHOTOS = ("carphone_0", "carphone_1", "carphone_2")

LOADER, ENCODER, POOLING, PROMPT, SIZE, SAMPLER, SAVER = "5", "6", "7", "9", "11", "12", "14"
REPORT = "report"

# A graph with a seed of its own is never answered from the server's cache.
_seeds = itertools.count(1000)


def small_graph(*, steps: int = 3, **pooling: Any) -> dict[str, Any]:
    """many_photos_averaged at 64 × 64, with its encoder's report. The photos are not set."""
    graph = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    graph[SIZE]["inputs"].update(width=64, height=64)
    graph[SAMPLER]["inputs"].update(steps=steps, seed=next(_seeds))
    graph[POOLING]["inputs"].update(pooling)
    graph[REPORT] = {"class_type": "PreviewAny", "inputs": {"source": [ENCODER, 2]}}
    return graph


def graph_of_uploaded_photos(client: ComfyUIClient, photographs: dict[str, Image.Image], **settings: Any):
    """The same, with photos on the server."""
    graph = small_graph(**settings)
    names = [
        client.upload_image(png(photographs[name]), name=f"{name}.png", subfolder="clients", overwrite=False)
        for name in PHOTOS
    ]
    graph[LOADER]["inputs"].update(folder="", files="\n".join(names))
    return graph


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
