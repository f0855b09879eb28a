"""Start and stop a headless ComfyUI on this machine, for the demo and the tests."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from comfyui_client import ComfyUIClient

# Nothing that a pack or a library does may reach out of this machine.
OFFLINE = {
    "DO_NOT_TRACK": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}


class LocalServer:
    """A ComfyUI server on a free loopback port, as a context manager; CPU only, and offline.

        with LocalServer(comfyui_dir=folder, packs={"ComfyUI-BoLID": pack_folder}) as server:
            server.client.run(prompt)

    Args:
        comfyui_dir: the folder with main.py; pictures, models and settings are kept out of it, in base_directory.
        packs: folder name in custom_nodes -> the node pack's folder, which is linked there. No other pack is loaded.
        base_directory: holds models, custom_nodes, input, output, temp and user; a temporary one by default.
        arguments: further arguments for main.py, e.g. ["--cache-none"].
        python: the interpreter whose environment has ComfyUI's requirements.
        log_file: the server's output; base_directory/comfyui.log by default.
        ready_timeout: seconds that the start may take.

    Raises (on entering):
        ValueError: comfyui_dir is no ComfyUI, or something else stands at a pack's place in custom_nodes.
        RuntimeError: the server ended or was not ready in time, or a pack could not be imported. The message carries
            the last lines of the log.
    """

    def __init__(
        self,
        *,
        comfyui_dir: str | Path,
        packs: Mapping[str, str | Path] | None = None,
        base_directory: str | Path | None = None,
        arguments: Sequence[str] = (),
        python: str | Path = sys.executable,
        log_file: str | Path | None = None,
        ready_timeout: float = 180.0,
    ):
        self.comfyui_dir = Path(comfyui_dir)
        if not (self.comfyui_dir / "main.py").is_file():
            raise ValueError(
                f"comfyui_dir={self.comfyui_dir} has no main.py. Give the folder of a ComfyUI (COMFYUI_DIR for "
                "scripts/demo and scripts/test)."
            )
        self.packs = {name: Path(folder).resolve() for name, folder in (packs or {}).items()}
        self.arguments = list(arguments)
        self.python = python
        self.ready_timeout = ready_timeout
        self._temporary = tempfile.TemporaryDirectory(prefix="comfyui-") if base_directory is None else None
        self.base_directory = Path(self._temporary.name if self._temporary else base_directory).resolve()
        self.log_file = Path(log_file) if log_file else self.base_directory / "comfyui.log"
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> ComfyUIClient:
        """A new client of this server."""
        return ComfyUIClient(self.address)

    def log(self) -> str:
        """Return what the server has written so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace") if self.log_file.exists() else ""

    def __enter__(self) -> LocalServer:
        try:
            self._link_packs()
            self._start()
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server: SIGTERM, and SIGKILL where that does not help within 10 s."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._temporary is not None:
            self._temporary.cleanup()

    def _link_packs(self) -> None:
        custom_nodes = self.base_directory / "custom_nodes"
        custom_nodes.mkdir(parents=True, exist_ok=True)
        for name, folder in self.packs.items():
            link = custom_nodes / name
            if link.is_symlink():
                link.unlink()
            elif link.exists():
                raise ValueError(
                    f"{link} is in the way of the link to {folder}. Move it, or give another base_directory."
                )
            link.symlink_to(folder, target_is_directory=True)

    def _start(self) -> None:
        self.port = _free_port()
        command = [str(self.python), str(self.comfyui_dir / "main.py")]
        command += ["--listen", "127.0.0.1", "--port", str(self.port)]
        command += ["--cpu", "--base-directory", str(self.base_directory), "--database-url", "sqlite:///:memory:"]
        command += ["--disable-auto-launch", "--disable-api-nodes", "--disable-all-custom-nodes"]
        if self.packs:
            command += ["--whitelist-custom-nodes", *self.packs]
        for folder in ("input", "models", "output", "temp", "user"):
            (self.base_directory / folder).mkdir(exist_ok=True)
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                command + self.arguments,
                cwd=self.comfyui_dir,
                env={**os.environ, **OFFLINE},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self.ready_timeout
        while True:
            if self._process.poll() is not None:
                raise self._failure(
                    f"ComfyUI ended at its start (exit code {self._process.returncode}). If a module is missing, "
                    f"install {self.comfyui_dir / 'requirements.txt'} for {self.python}."
                )
            try:
                self.client.system_stats()
                break
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise self._failure(
                        f"ComfyUI was not ready after {self.ready_timeout:g} s. On a slow machine, run it again: the "
                        "second start is faster."
                    ) from None
            time.sleep(0.1)
        failed = re.findall(r"\(IMPORT FAILED\): (.+)", self.log())
        if failed:
            raise self._failure(f"ComfyUI could not import {', '.join(failed)}. The log says why.")
        # Without it the frontend opens its template browser over the graph.
        self.client.set_setting("Comfy.TutorialCompleted", True)

    def _failure(self, message: str) -> RuntimeError:
        tail = "\n".join(self.log().splitlines()[-30:])
        return RuntimeError(f"{message}\nThe last lines of {self.log_file}:\n{tail}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
