"""One real ComfyUI server with everything that workflows/ asks for, for both forms of them."""

from __future__ import annotations

import copy
import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from local_server import LocalServer
from PIL import Image

from .public_files import write_public_files

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = ROOT / "workflows"
PACK_FOLDER = "ComfyUI-BoLID-main"
NAMES = sorted(file.stem for file in (WORKFLOWS / "api").glob("*.json"))
PHOTO_FOLDER = "bolid_demo"
CACHE = ("--cache-ram", "0.1")
"""For `LocalServer`: ComfyUI's default way to cache, but it does not forget the prompt that runs when large models of
other tests leave less than a tenth of the memory."""

# ViT-H and bigG take seconds a photo and a prompt on a CPU: of these workflows the picture and the run are made small.
DEMO_LOADER = "BoLIDDemoModelLoader"
SMALL = {"EmptyLatentImage": {"width": 128, "height": 192}, "KSampler": {"steps": 2}}


@contextmanager
def server_with_public_files(
    comfyui_dir: Path, photographs: dict[str, Image.Image], parent: Path
) -> Iterator[LocalServer]:
    """A server with files of the public names; its folder, some 4 GB inside `parent`, is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="workflows-", dir=parent) as folder:
        base = Path(folder)
        write_public_files(base / "models")
        with LocalServer(
            comfyui_dir=comfyui_dir, packs={PACK_FOLDER: ROOT}, base_directory=base, arguments=CACHE
        ) as server:
            for index in range(2):
                server.client.upload_image(
                    png(photographs[f"carphone_{index}"]), name=f"{index}.png", subfolder=PHOTO_FOLDER
                )
            # The name of the picture that lies in every ComfyUI's input folder.
            server.client.upload_image(png(photographs["astronaut"]), name="example.png")
            yield server


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def api_form(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))


def ui_form(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def is_demo(prompt: dict[str, Any]) -> bool:
    return any(node["class_type"] == DEMO_LOADER for node in prompt.values())


def small(prompt: dict[str, Any]) -> dict[str, Any]:
    """A copy whose run is short; the workflows of the demo model are short as they are."""
    prompt = copy.deepcopy(prompt)
    if not is_demo(prompt):
        for node in prompt.values():
            node["inputs"].update(SMALL.get(node["class_type"], {}))
    return prompt


def with_photographs(prompt: dict[str, Any], folder: str = PHOTO_FOLDER) -> dict[str, Any]:
    """A copy for photographs in the place of drawn people: those of a folder, in which mediapipe finds the bodies."""
    prompt = copy.deepcopy(prompt)
    for node_id, node in list(prompt.items()):
        if node["class_type"] in ("BoLIDDemoPhotos", "BoLIDLoadReferences"):
            node.update(class_type="BoLIDLoadReferences", inputs={"folder": folder, "files": ""})
        elif node["class_type"] == "BoLIDDemoPoseDetector":
            del prompt[node_id]
        elif node["class_type"] == "BodyLandmarkEncoder":
            node["inputs"].pop("pose_keypoint", None)
    return prompt


def node_id(prompt: dict[str, Any], class_type: str) -> str:
    (found,) = [node_id for node_id, node in prompt.items() if node["class_type"] == class_type]
    return found


def save_id(prompt: dict[str, Any]) -> str:
    """The only node that saves pictures."""
    (found,) = [node_id for node_id, node in prompt.items() if node["class_type"] in ("SaveImage", "SaveAnimatedWEBP")]
    return found


def inputs(prompt: dict[str, Any], class_type: str) -> dict[str, Any]:
    """The inputs of the only node of a class."""
    return prompt[node_id(prompt, class_type)]["inputs"]
