"""A weight that is turned is sampled with at once: ComfyUI runs neither an encoder nor an aggregator again."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from comfyui_client import ComfyUIClient
from local_server import LocalServer
from PIL import Image

from ..support.workflow_server import api_form, inputs, node_id, png, with_photographs

pytestmark = pytest.mark.server

FOLDER = "changed_weights"
AFTERWARDS = {"KSampler", "VAEDecode", "SaveImage"}


@pytest.fixture(scope="module")
def client(server: LocalServer, photographs: dict[str, Image.Image]) -> ComfyUIClient:
    client = server.client
    for index in range(2):
        client.upload_image(png(photographs[f"carphone_{index}"]), name=f"{index}.png", subfolder=FOLDER)
    return client


def with_apply() -> dict[str, Any]:
    """Photos, self-attention, a body."""
    prompt = with_photographs(api_form("nine_photos_self_attention_body"), FOLDER)
    inputs(prompt, "EmptyLatentImage").update(width=64, height=64)
    inputs(prompt, "KSampler")["steps"] = 2
    return prompt


def with_region() -> dict[str, Any]:
    prompt = with_apply()
    number = node_id(prompt, "BoLIDAdapterApply")
    apply, sampler = inputs(prompt, "BoLIDAdapterApply"), inputs(prompt, "KSampler")
    prompt["mask"] = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 64, "height": 64}}
    prompt[number] = {
        "class_type": "BoLIDRegion",
        "inputs": {name: apply[name] for name in ("model", "adapter", "face", "body")}
        | {"positive": sampler["positive"], "prompt": sampler["positive"], "mask": ["mask", 0]},
    }
    sampler["positive"] = [number, 1]
    return prompt


GRAPHS = {"BoLIDAdapterApply": with_apply, "BoLIDRegion": with_region}


def run(client: ComfyUIClient, prompt: dict[str, Any]) -> tuple[set[str], bytes]:
    """The classes of the nodes that were run, those of which ComfyUI's history does not say that they were cached."""
    history = client.wait(client.queue(prompt))
    (cached,) = [data["nodes"] for event, data in history["status"]["messages"] if event == "execution_cached"]
    (picture,) = [picture for picture in client.images(history) if picture.type == "output"]
    return {node["class_type"] for number, node in prompt.items() if number not in cached}, picture.data


@pytest.mark.parametrize(
    ("class_type", "changes"),
    [
        ("BoLIDAdapterApply", {"face_weight": 0.6}),
        ("BoLIDAdapterApply", {"body_weight": 0.4}),
        ("BoLIDAdapterApply", {"weight_type": "ease in", "weight_schedule": "ramp down", "end_percent": 0.9}),
        ("BoLIDRegion", {"face_weight": 0.6}),
        ("BoLIDRegion", {"body_weight": 0.4}),
        ("BoLIDRegion", {"prompt_strength": 2.0}),
    ],
)
def test_a_changed_weight_encodes_nothing(class_type: str, changes: dict[str, Any], client: ComfyUIClient):
    prompt = GRAPHS[class_type]()
    _, before = run(client, prompt)
    changed = copy.deepcopy(prompt)
    inputs(changed, class_type).update(changes)
    executed, after = run(client, changed)
    assert executed == {class_type, *AFTERWARDS}
    assert before != after


@pytest.mark.parametrize("class_type", GRAPHS)
def test_another_setting_of_an_encoder_is_seen(class_type: str, client: ComfyUIClient):
    """What the test above would say of an encoder that runs again."""
    prompt = GRAPHS[class_type]()
    run(client, prompt)
    inputs(prompt, "MultiRefImageEncoder")["on_missing"] = "error"
    executed, _ = run(client, prompt)
    assert executed == {"MultiRefImageEncoder", "SelfAttnAggregator", class_type, *AFTERWARDS}
