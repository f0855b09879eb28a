"""What the unified loaders load: the file that belongs to a preset, and the base model it has to fit.

The other pack looks for files by patterns, in the folders of the machine it runs on; here stand the names under which
those files were published.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from .graph import Graph, Node, Output

BaseModel = Literal["sd15", "sdxl"]

VIT_H = "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"
VIT_G = "CLIP-ViT-bigG-14-laion2B-39B-b160k.safetensors"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A choice of a unified loader.

    Attributes:
        files: adapter by base model, where there is one.
        clip_vision: image encoder.
        lora: whether a LoRA was loaded with it.
    """

    files: dict[BaseModel, str]
    clip_vision: str = VIT_H
    lora: bool = False


# By the beginning of the preset's name, longer ones first.
_PRESETS: dict[str, Preset] = {
    "light": Preset(files={"sd15": "ip-adapter_sd15_light_v11.bin"}),
    "standard": Preset(files={"sd15": "ip-adapter_sd15.safetensors", "sdxl": "ip-adapter_sdxl_vit-h.safetensors"}),
    "vit-g": Preset(
        files={"sd15": "ip-adapter_sd15_vit-G.safetensors", "sdxl": "ip-adapter_sdxl.safetensors"}, clip_vision=VIT_G
    ),
    "plus face": Preset(
        files={
            "sd15": "ip-adapter-plus-face_sd15.safetensors",
            "sdxl": "ip-adapter-plus-face_sdxl_vit-h.safetensors",
        }
    ),
    "plus (": Preset(
        files={"sd15": "ip-adapter-plus_sd15.safetensors", "sdxl": "ip-adapter-plus_sdxl_vit-h.safetensors"}
    ),
    "full": Preset(files={"sd15": "ip-adapter-full-face_sd15.safetensors"}),
    "faceid portrait (": Preset(
        files={"sd15": "ip-adapter-faceid-portrait-v11_sd15.bin", "sdxl": "ip-adapter-faceid-portrait_sdxl.bin"}
    ),
    "faceid plus v2": Preset(
        files={"sd15": "ip-adapter-faceid-plusv2_sd15.bin", "sdxl": "ip-adapter-faceid-plusv2_sdxl.bin"}, lora=True
    ),
    "faceid plus -": Preset(files={"sd15": "ip-adapter-faceid-plus_sd15.bin"}, lora=True),
    "faceid": Preset(files={"sd15": "ip-adapter-faceid_sd15.bin", "sdxl": "ip-adapter-faceid_sdxl.bin"}, lora=True),
    "composition": Preset(
        files={"sd15": "ip_plus_composition_sd15.safetensors", "sdxl": "ip_plus_composition_sdxl.safetensors"}
    ),
}

_NAMES: dict[BaseModel, re.Pattern[str]] = {
    "sdxl": re.compile(r"xl|pony|illustrious|noobai", re.IGNORECASE),
    "sd15": re.compile(r"sd[-_ ]?v?1[-_.]?[45]|v1[-_.]?5|[-_.]1[.]5", re.IGNORECASE),
}
_MODEL_FILES = (".safetensors", ".ckpt", ".sft", ".gguf")
_SDXL_AREA, _SD15_AREA = 900_000, 500_000
"""Pixels of a picture at and above, or at and below which a graph without other signs tells its base model."""


def preset(name: str) -> Preset | None:
    """The preset of this name, or None for one that has no counterpart."""
    name = name.lower()
    if name.startswith("faceid portrait unnorm"):
        return None
    return next((found for start, found in _PRESETS.items() if name.startswith(start)), None)


def guessed_base_model(graph: Graph, model: Output | None) -> tuple[BaseModel, str] | None:
    """What a MODEL seems to be, "sd15" or "sdxl", and by which sign; None if nothing tells.

    Args:
        model: where the MODEL comes from.
    """
    for file in _model_files(graph, model):
        for base, pattern in _NAMES.items():
            if pattern.search(file):
                return base, f"the name of {file}"
    for node in graph.nodes.values():
        if "SDXL" in node.type:
            return "sdxl", f"node {node.id} ({node.type})"
    areas = {area for node in graph.nodes.values() if (area := _area(node)) is not None}
    if areas and min(areas) >= _SDXL_AREA:
        return "sdxl", "the size of the picture"
    if areas and max(areas) <= _SD15_AREA:
        return "sd15", "the size of the picture"
    return None


def upstream(graph: Graph, model: Output | None) -> Iterator[Node]:
    """The nodes that a MODEL has come through, the last one first."""
    seen = set()
    while model is not None:
        node = graph.nodes.get(graph.origin(model).node)
        if node is None or node.id in seen:
            return
        seen.add(node.id)
        yield node
        model = node.links.get("model")


def _model_files(graph: Graph, model: Output | None) -> Iterator[str]:
    sources = [node for node in upstream(graph, model) if "model" not in node.links]
    for node in sources:
        for value in _values(node):
            if isinstance(value, str) and value.lower().endswith(_MODEL_FILES):
                yield value


def _area(node: Node) -> int | None:
    if node.type != "EmptyLatentImage":
        return None
    if isinstance(node.stored, list):
        width, height = [*node.stored[:2], None, None][:2]
    else:
        width, height = node.stored.get("width"), node.stored.get("height")
    if isinstance(width, int) and isinstance(height, int):
        return width * height
    return None


def _values(node: Node) -> list[Any]:
    return node.stored if isinstance(node.stored, list) else list(node.stored.values())
