"""Converting graphs of either form, and ComfyUI's own judgement of the result."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import folder_paths
import pytest
from PIL import Image

from bolid.migration.convert import convert
from bolid.migration.document import Document, read
from bolid.migration.report import Report
from bolid.migration.sources import Options

from .old_graphs import SD15, SDXL, VIT_H

Convert = Callable[..., tuple[dict[str, Any], Report]]


@pytest.fixture
def converted(tmp_path: Path) -> Convert:
    """Converts a graph by way of a file: (new graph, report)."""

    def run(graph: dict[str, Any], **options: Any) -> tuple[dict[str, Any], Report]:
        path = tmp_path / "old.json"
        path.write_text(json.dumps(graph), encoding="utf-8")
        document: Document = read(path)
        report = convert(document, Options(**options))
        return json.loads(document.text), report

    return run


@pytest.fixture(scope="module")
def comfyui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[dict[str, Any]], list[Any]]]:
    """What ComfyUI says against a graph before it runs it: nothing, for one that it takes.

    All files that the graphs name are there, empty.
    """
    from comfy_extras.nodes_images import BoundingBox, ImageCropV2, ResizeAndPadImage
    from comfy_extras.nodes_mask import MaskToImage, SolidMask
    from comfy_extras.nodes_primitive import Float
    from comfy_extras.nodes_toolkit import CreateList
    from execution import validate_prompt

    import nodes
    from bolid.nodes import NODES, register_model_folders

    core = (BoundingBox, ImageCropV2, ResizeAndPadImage, MaskToImage, SolidMask, Float, CreateList)
    models = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(nodes, "NODE_CLASS_MAPPINGS", dict(nodes.NODE_CLASS_MAPPINGS))
        patched.setattr(folder_paths, "folder_names_and_paths", dict(folder_paths.folder_names_and_paths))
        patched.setattr(folder_paths, "filename_list_cache", {})
        register_model_folders()
        for node in (*NODES, *core):
            nodes.NODE_CLASS_MAPPINGS[node.GET_SCHEMA().node_id] = node

        def put(folder: str, *names: str) -> None:
            place = models / folder
            place.mkdir(exist_ok=True)
            for name in names:
                (place / name).touch()
            folder_paths.folder_names_and_paths[folder] = ([str(place)], set(folder_paths.supported_pt_extensions))

        put("checkpoints", SD15, SDXL)
        put("clip_vision", VIT_H, "CLIP-ViT-bigG-14-laion2B-39B-b160k.safetensors")
        put("loras", "faceid.safetensors")
        put("bolid")
        put("ipadapter")
        patched.setattr(folder_paths, "input_directory", str(models))
        for name in ("anna.png", "beth.png"):
            Image.new("RGB", (8, 8)).save(models / name)

        def judge(graph: dict[str, Any]) -> list[Any]:
            files = [given["inputs"].get("adapter_name") for given in graph.values()]
            put("ipadapter", *(file for file in files if file))
            folder_paths.filename_list_cache.clear()
            valid, error, _, node_errors = asyncio.run(validate_prompt("test", graph, None))
            assert valid or error
            return [] if valid and not node_errors else [error, node_errors]

        yield judge
