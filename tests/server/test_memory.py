"""A server that draws for hours with its cache off: its memory stays where it was, and so do its pictures."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from comfyui_client import ComfyUIClient
from local_server import LocalServer
from PIL import Image

from ..conftest import ROOT
from ..support.workflow_server import api_form, inputs, png, with_photographs

pytestmark = [pytest.mark.server, pytest.mark.slow]

MEGABYTE = 2**20
# Another adapter, another aggregator, with a body and without one: what is loaded changes with every prompt.
SETTINGS = {
    "nine_photos_self_attention_body": {"face_weight": 0.8, "body_weight": 0.7},
    "many_photos_max": {"face_weight": 0.5, "weight_type": "ease in", "start_percent": 0.3},
}
# After these the memory is read: by the first everything that is kept has been loaded.
PROMPTS = (20, 100, 200)
GROWTH = 50 * MEGABYTE
# Freed memory goes back to the system at once. By default glibc keeps some of it, more with every load of a model of
# another size, and what is kept cannot be told from what leaks.
MALLOC = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def small_prompt(name: str, **apply: Any) -> dict[str, Any]:
    prompt = with_photographs(api_form(name))
    inputs(prompt, "EmptyLatentImage").update(width=64, height=64)
    inputs(prompt, "KSampler").update(steps=2)
    inputs(prompt, "BoLIDAdapterApply").update(apply)
    return prompt


@pytest.fixture
def server(
    comfyui_dir: Path, photographs: dict[str, Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LocalServer]:
    for name, value in MALLOC.items():
        monkeypatch.setenv(name, value)
    with LocalServer(
        comfyui_dir=comfyui_dir,
        packs={"bolid": ROOT},
        base_directory=tmp_path,
        arguments=["--cache-none"],
    ) as server:
        for index in range(3):
            server.client.upload_image(
                png(photographs[f"carphone_{index}"]), name=f"{index}.png", subfolder="bolid_demo"
            )
        yield server


def process_of(server: LocalServer) -> psutil.Process:
    (process,) = [child for child in psutil.Process().children() if str(server.port) in child.cmdline()]
    return process


def drawn(client: ComfyUIClient, prompt_id: str) -> bytes:
    history = client.wait(prompt_id, timeout=3600, poll_interval=0.5)
    (picture,) = [picture for picture in client.images(history) if picture.type == "output"]
    return picture.data


def test_two_hundred_prompts_leave_nothing_behind(server: LocalServer, capsys: pytest.CaptureFixture[str]):
    client, process = server.client, process_of(server)
    prompts = [small_prompt(name, **apply) for name, apply in SETTINGS.items()]
    pictures: list[set[bytes]] = [set() for _ in prompts]
    resident: dict[int, int] = {}
    done = 0
    for count in PROMPTS:
        queued = [
            (number % len(prompts), client.queue(prompts[number % len(prompts)])) for number in range(done, count)
        ]
        for setting, prompt_id in queued:
            pictures[setting].add(drawn(client, prompt_id))
        done, resident[count] = count, process.memory_info().rss
        with capsys.disabled():
            sys.stdout.write(f"\nresident memory after {count} prompts: {resident[count] / MEGABYTE:.1f} MiB\n")

    assert [len(different) for different in pictures] == [1, 1]
    assert pictures[0] != pictures[1]
    assert abs(resident[PROMPTS[-1]] - resident[PROMPTS[0]]) < GROWTH
