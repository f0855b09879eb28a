"""Nothing leaks between prompts of a real server, with its cache off: every picture is what it was the first time."""

from __future__ import annotations

import copy
import io
import json
import time

import numpy as np
import pytest
from comfyui_client import ExecutionError
from local_server import LocalServer
from PIL import Image

from ..conftest import ROOT

pytestmark = pytest.mark.server

WORKFLOW = ROOT / "workflows" / "api" / "many_photos_averaged.json"


@pytest.fixture(scope="module")
def client(comfyui_dir, photographs, tmp_path_factory):
    base_directory = tmp_path_factory.mktemp("no-cache")
    with LocalServer(
        comfyui_dir=comfyui_dir, packs={"bolid": ROOT}, base_directory=base_directory, arguments=["--cache-none"]
    ) as server:
        for name in ("carphone_0", "carphone_2", "carphone_4"):
            data = io.BytesIO()
            photographs[name].save(data, "PNG")
            server.client.upload_image(data.getvalue(), name=f"{name}.png", subfolder="bolid_demo")
        yield server.client


@pytest.fixture
def prompt():
    return json.loads(WORKFLOW.read_text(encoding="utf-8"))


def node_id(prompt, class_type):
    (found,) = [number for number, node in prompt.items() if node["class_type"] == class_type]
    return found


def bypassed(prompt):
    """What the frontend sends for a bypassed BoLIDAdapterApply: its model input goes straight on."""
    prompt = copy.deepcopy(prompt)
    apply = node_id(prompt, "BoLIDAdapterApply")
    upstream = prompt.pop(apply)["inputs"]["model"]
    prompt[node_id(prompt, "KSampler")]["inputs"]["model"] = upstream
    return prompt


def with_apply(prompt, **inputs):
    prompt = copy.deepcopy(prompt)
    prompt[node_id(prompt, "BoLIDAdapterApply")]["inputs"].update(inputs)
    return prompt


def with_second_adapter(prompt):
    prompt = copy.deepcopy(prompt)
    first, sampler = node_id(prompt, "BoLIDAdapterApply"), node_id(prompt, "KSampler")
    prompt["second"] = copy.deepcopy(prompt[first])
    prompt["second"]["inputs"] |= {"model": [first, 0], "face_weight": 0.4, "weight_type": "ease in"}
    prompt[sampler]["inputs"]["model"] = ["second", 0]
    return prompt


def with_second_branch(prompt):
    """Two samplers: one behind the adapter, one on the same upstream MODEL without it."""
    prompt = copy.deepcopy(prompt)
    plain = bypassed(prompt)
    for class_type in ("KSampler", "VAEDecode", "SaveImage"):
        number = node_id(plain, class_type)
        prompt[f"plain_{number}"] = plain[number]
    for node in (node for number, node in prompt.items() if number.startswith("plain_")):
        for name, link in node["inputs"].items():
            if isinstance(link, list) and f"plain_{link[0]}" in prompt:
                node["inputs"][name] = [f"plain_{link[0]}", link[1]]
    return prompt


def pictures(client, prompt):
    return {
        picture.node_id: np.asarray(Image.open(io.BytesIO(picture.data)))
        for picture in client.run(prompt)
        if picture.type == "output"
    }


def picture(client, prompt):
    (pixels,) = pictures(client, prompt).values()
    return pixels


@pytest.fixture(scope="module")
def first_pictures(client):
    prompt = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    plain, adapted = picture(client, bypassed(prompt)), picture(client, prompt)
    assert not np.array_equal(plain, adapted)
    return plain, adapted


@pytest.fixture(autouse=True)
def same_pictures_afterwards(client, prompt, first_pictures):
    yield
    plain, adapted = first_pictures
    assert np.array_equal(picture(client, bypassed(prompt)), plain)
    assert np.array_equal(picture(client, prompt), adapted)


def test_three_re_runs(client, prompt, first_pictures):
    for _ in range(3):
        assert np.array_equal(picture(client, prompt), first_pictures[1])


def test_two_branches_from_one_model(client, prompt, first_pictures):
    both = pictures(client, with_second_branch(prompt))
    for number, pixels in both.items():
        assert np.array_equal(pixels, first_pictures[0 if number.startswith("plain_") else 1])
    assert len(both) == 2


def test_weight_zero(client, prompt, first_pictures):
    assert np.array_equal(picture(client, with_apply(prompt, face_weight=0.0)), first_pictures[0])


def test_two_stacked_adapters(client, prompt, first_pictures):
    stacked = with_second_adapter(prompt)
    once = picture(client, stacked)
    assert not any(np.array_equal(once, other) for other in first_pictures)
    for _ in range(2):
        assert np.array_equal(picture(client, stacked), once)


def test_interrupt_in_the_middle_of_sampling(client, prompt):
    long = copy.deepcopy(prompt)
    long[node_id(long, "KSampler")]["inputs"]["steps"] = 2000
    number = client.queue(long)
    time.sleep(4)
    client.interrupt(number)
    with pytest.raises(ExecutionError) as caught:
        client.wait(number, timeout=60)
    assert caught.value.interrupted
    assert caught.value.class_type == "KSampler"


def test_failed_run(client, prompt):
    failing = with_apply(with_second_branch(prompt), start_percent=0.8, end_percent=0.2)
    with pytest.raises(ExecutionError, match=r"start_percent \(0.8\) is after end_percent \(0.2\)"):
        client.run(failing)
