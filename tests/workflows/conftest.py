"""The server of the workflows, which tests/browser shares."""

from __future__ import annotations

from pathlib import Path

import pytest
from local_server import LocalServer
from PIL import Image

from ..support.workflow_server import server_with_public_files


@pytest.fixture(scope="session")
def workflow_server(
    request: pytest.FixtureRequest,
    comfyui_dir: Path,
    photographs: dict[str, Image.Image],
    tmp_path_factory: pytest.TempPathFactory,
) -> LocalServer:
    return server_with_public_files(request, comfyui_dir, photographs, tmp_path_factory)
