"""Which model files a workflow names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .folders import PACKS

NOTHING = {"bundled", "None", "none", ""}
"""What stands in a choice of files and is none."""

MUTED, BYPASSED = 2, 4
"""Modes of nodes that do not run."""


@dataclass(frozen=True, kw_only=True)
class Widget:
    """A choice of a node that names a file.

    Attributes:
        position: among the values that the interface's form of a workflow stores.
        folders: in which ComfyUI looks, by its names; a file that is missing belongs into the last.
    """

    position: int
    folders: tuple[str, ...]


_POSE_MODEL = ("mediapipe",)
WIDGETS: dict[str, dict[str, Widget]] = {
    "BoLIDAdapterLoader": {"adapter_name": Widget(position=0, folders=("bolid", "ipadapter"))},
    "BoLIDFaceAnalysisLoader": {"model_pack": Widget(position=0, folders=(PACKS,))},
    "BodyLandmarkEncoder": {"pose_model": Widget(position=3, folders=_POSE_MODEL)},
    "BoLIDRankImages": {
        "pose_model": Widget(position=5, folders=_POSE_MODEL),
        "aesthetic_model": Widget(position=6, folders=("aesthetic",)),
    },
    "CLIPVisionLoader": {"clip_name": Widget(position=0, folders=("clip_vision",))},
    "CheckpointLoaderSimple": {"ckpt_name": Widget(position=0, folders=("checkpoints",))},
    "ControlNetLoader": {"control_net_name": Widget(position=0, folders=("controlnet",))},
    "LoraLoader": {"lora_name": Widget(position=0, folders=("loras",))},
    "LoraLoaderModelOnly": {"lora_name": Widget(position=0, folders=("loras",))},
    "VAELoader": {"vae_name": Widget(position=0, folders=("vae",))},
    "IPAdapterModelLoader": {"ipadapter_file": Widget(position=0, folders=("ipadapter",))},
}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A file that a workflow names.

    Attributes:
        name: as it stands there.
        folders: in which ComfyUI looks.
        url: where it comes from, if the workflow says so.
    """

    name: str
    folders: tuple[str, ...]
    url: str = ""

    @property
    def folder(self) -> str:
        """Where it belongs."""
        return self.folders[-1]


def wanted_files(path: Path) -> list[Wanted]:
    """Every file that a workflow names, in the interface's form or in that of the API, each once.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no workflow.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Give the JSON file of a workflow.")
    try:
        workflow = json.loads(path.read_bytes())
        found = list(_of_interface(workflow)) if "nodes" in workflow else list(_of_api(workflow))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} is no workflow ({error}). Give a JSON file of ComfyUI's Save or Export (API)."
        ) from error
    return list({(wanted.folders, wanted.name): wanted for wanted in reversed(found)}.values())[::-1]


def _of_api(prompt: dict[str, Any]) -> Iterator[Wanted]:
    nodes = prompt.get("prompt", prompt)
    for node in nodes.values():
        for name, widget in WIDGETS.get(node["class_type"], {}).items():
            yield from _wanted(node["inputs"].get(name), widget)


def _of_interface(workflow: dict[str, Any]) -> Iterator[Wanted]:
    for node in workflow["nodes"]:
        if node.get("mode") in (MUTED, BYPASSED):
            continue
        values = node.get("widgets_values") or []
        urls = {model["name"]: model["url"] for model in node.get("properties", {}).get("models") or ()}
        for name, widget in WIDGETS.get(node["type"], {}).items():
            if isinstance(values, dict):
                value = values.get(name)
            else:
                value = values[widget.position] if widget.position < len(values) else None
            yield from _wanted(value, widget, urls)
    for subgraph in workflow.get("definitions", {}).get("subgraphs") or ():
        yield from _of_interface(subgraph)


def _wanted(value: object, widget: Widget, urls: dict[str, str] | None = None) -> Iterator[Wanted]:
    # A value that comes from another node is known when the graph runs.
    if isinstance(value, str) and value not in NOTHING:
        yield Wanted(name=value, folders=widget.folders, url=(urls or {}).get(value, ""))
