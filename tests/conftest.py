"""Fixtures: a real ComfyUI in this process and as a server, and real photographs.

`scripts/test` sets up what they need. The import of this file makes ComfyUI importable (CPU, folders of its own),
because `--cpu` must be set before anything else of ComfyUI is imported.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_server import LocalServer
from photographs import PHOTOGRAPHS, carphone_frames, photograph
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent


def find_comfyui() -> Path:
    if folder := os.environ.get("COMFYUI_DIR"):
        return Path(folder)
    found = sorted((ROOT / ".comfyui").glob("ComfyUI-*/main.py"))
    if not found:
        pytest.exit("no ComfyUI: scripts/test fetches it; run that once, or set COMFYUI_DIR.", returncode=2)
    return found[-1].parent


def check_package() -> None:
    specification = importlib.util.find_spec("bolid")
    origin = Path(specification.origin or "").resolve() if specification else None
    if origin != ROOT / "__init__.py":
        pytest.exit(
            f"`import bolid` finds {origin}, not this checkout. Run scripts/test, which installs it into its "
            f"environment, or `uv pip install --no-deps --editable {ROOT}`.",
            returncode=2,
        )


def make_comfyui_importable(comfyui: Path) -> None:
    # First on the path: the checkout, where `python -m pytest` is run, has a folder `nodes` as well.
    sys.path.insert(0, str(comfyui))
    from comfy.cli_args import args

    args.cpu = True
    base = Path(tempfile.mkdtemp(prefix="bolid-tests-"))
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    args.base_directory = str(base)
    import folder_paths

    for name in ("input", "output", "temp", "user"):
        (base / name).mkdir(exist_ok=True)
    assert Path(folder_paths.get_input_directory()) == base / "input"


check_package()
COMFYUI = find_comfyui()
make_comfyui_importable(COMFYUI)


@pytest.fixture(scope="session")
def comfyui_dir() -> Path:
    """The folder of the ComfyUI that the tests use."""
    return COMFYUI


@pytest.fixture(scope="session")
def server(comfyui_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A real ComfyUI server with this pack, under a folder name that is not the project's. Mark the test `server`."""
    from .support.workflow_server import CACHE

    base_directory = tmp_path_factory.mktemp("comfyui")
    with LocalServer(
        comfyui_dir=comfyui_dir,
        packs={"ComfyUI-BoLID-main": ROOT},
        base_directory=base_directory,
        arguments=CACHE,
    ) as running:
        yield running


@pytest.fixture(scope="session")
def workflow_server(
    comfyui_dir: Path, photographs: dict[str, Image.Image], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalServer]:
    """A real ComfyUI server with everything that the files of workflows/ ask for."""
    from .support.workflow_server import server_with_public_files

    with server_with_public_files(comfyui_dir, photographs, tmp_path_factory.getbasetemp()) as running:
        yield running


@pytest.fixture(scope="session")
def photographs() -> dict[str, Image.Image]:
    """Name -> RGB picture: the names of `scripts/photographs.py`, and `carphone_0` to `carphone_4` of one person."""
    pictures = {name: photograph(name) for name in PHOTOGRAPHS}
    return pictures | {f"carphone_{index}": frame for index, frame in enumerate(carphone_frames(5))}
