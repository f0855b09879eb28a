"""Every shipped workflow in its API form on a real server, and what the template browser gets.

The public models are random files of the real layouts (tests/support/public_files.py): what these tests cannot show is
that a picture is good.
"""

from __future__ import annotations

import io
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from comfyui_client import ComfyUIClient, ExecutionError
from local_server import LocalServer
from PIL import Image

from ..support.workflow_server import (
    NAMES,
    PACK_FOLDER,
    PHOTO_FOLDER,
    WORKFLOWS,
    api_form,
    inputs,
    is_demo,
    node_id,
    save_id,
    small,
    ui_form,
    with_photographs,
)

pytestmark = pytest.mark.server

NOTES = {"MarkdownNote", "Note"}
ENCODING = {"MultiRefImageEncoder", "PoolingAggregator", "SelfAttnAggregator", "BodyLandmarkEncoder"}
APPLYING = {"BoLIDAdapterApply", "BoLIDRegion"}
# Half a minute each; plus_sd15 and animation_batch are always run.
SLOW = {"body_controlnet_pose", "faceid_plus_sd15", "sdxl_plus_face", "sdxl_style_transfer"}
DEMO_NAMES = [name for name in NAMES if is_demo(api_form(name))]


@pytest.fixture(scope="module")
def client(workflow_server: LocalServer) -> ComfyUIClient:
    return workflow_server.client


def run(client: ComfyUIClient, prompt: dict[str, Any]) -> tuple[Image.Image, set[str]]:
    """The saved picture, and the ids of the nodes that were not run because nothing of theirs had changed."""
    history = client.wait(client.queue(prompt))
    pictures = {picture.node_id: picture for picture in client.images(history) if picture.type == "output"}
    picture = pictures[save_id(prompt)]
    cached = [data["nodes"] for event, data in history["status"]["messages"] if event == "execution_cached"]
    return Image.open(io.BytesIO(picture.data)), {node for nodes in cached for node in nodes}


def largest_difference(one: Image.Image, other: Image.Image) -> int:
    """Of pictures of one size; 255 for others."""
    if one.size != other.size:
        return 255
    first, second = (np.asarray(picture.convert("RGB"), dtype=np.int16) for picture in (one, other))
    return int(np.abs(first - second).max())


@pytest.mark.slow
def test_the_pose_reaches_the_picture_through_controlnet(client: ComfyUIClient):
    """First in this file: the next test begins with the same photos, which the server has encoded then."""
    prompt = small(api_form("body_controlnet_pose"))
    del inputs(prompt, "BoLIDAdapterApply")["body"]
    posed, _ = run(client, prompt)
    inputs(prompt, "LoadImage")["image"] = f"{PHOTO_FOLDER}/0.png"
    other_pose, cached = run(client, prompt)
    assert largest_difference(posed, other_pose) > 2
    assert node_id(prompt, "MultiRefImageEncoder") in cached
    inputs(prompt, "ControlNetApplyAdvanced")["strength"] = 0.0
    free, _ = run(client, prompt)
    assert largest_difference(other_pose, free) > 2


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in NAMES])
def test_runs_and_follows_the_weight_without_encoding_again(
    name: str, client: ComfyUIClient, workflow_server: LocalServer
):
    prompt = small(api_form(name))
    picture, _ = run(client, prompt)
    size = inputs(prompt, "EmptyLatentImage")
    animated = prompt[save_id(prompt)]["class_type"] == "SaveAnimatedWEBP"
    assert (picture.format, picture.size) == ("WEBP" if animated else "PNG", (size["width"], size["height"]))
    assert getattr(picture, "n_frames", 1) == (size["batch_size"] if animated else 1)
    assert np.asarray(picture).std() > 2, "one colour"
    # The loaders' own words for tensors that a file lacks or that have no place.
    assert not re.search("missing|unexpected", workflow_server.log(), re.IGNORECASE)

    applying = [node for node, given in prompt.items() if given["class_type"] in APPLYING]
    for apply, branch in itertools.product(applying, ("face", "body")):
        if branch not in prompt[apply]["inputs"]:
            continue
        prompt[apply]["inputs"][f"{branch}_weight"] /= 2
        other_picture, cached = run(client, prompt)
        assert largest_difference(picture, other_picture) > 2, branch
        assert {node for node, given in prompt.items() if given["class_type"] in ENCODING} <= cached
        assert apply not in cached
        picture = other_picture


@pytest.mark.parametrize("branch", ["face", "body"])
def test_weight_0_equals_the_graph_without_the_branch(branch: str, client: ComfyUIClient):
    prompt = api_form("nine_photos_self_attention_body")
    both, _ = run(client, prompt)
    apply = inputs(prompt, "BoLIDAdapterApply")
    apply[f"{branch}_weight"] = 0.0
    silent, _ = run(client, prompt)
    del apply[branch]
    absent, _ = run(client, prompt)
    assert largest_difference(silent, absent) == 0
    assert largest_difference(silent, both) > 2


def test_a_target_pose_changes_the_picture(client: ComfyUIClient):
    prompt = api_form("body_target_pose")
    posed, _ = run(client, prompt)
    del inputs(prompt, "BodyLandmarkEncoder")["target_pose"]
    free, cached = run(client, prompt)
    assert largest_difference(posed, free) > 2
    assert node_id(prompt, "MultiRefImageEncoder") in cached


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("images", "can be used for the body: no person found"),
        ("target_pose", "target_pose shows no person"),
    ],
)
def test_the_drawing_that_comfyui_brings_shows_nobody(
    given: str, message: str, client: ComfyUIClient, comfyui_dir: Path
):
    drawing = client.upload_image(comfyui_dir / "input" / "example.png", name="drawing.png")
    prompt = with_photographs(api_form("nine_photos_self_attention_body"))
    prompt["drawing"] = {"class_type": "LoadImage", "inputs": {"image": drawing}}
    inputs(prompt, "BodyLandmarkEncoder")[given] = ["drawing", 0]
    with pytest.raises(ExecutionError, match=message):
        run(client, prompt)


def test_another_encoding_is_not_taken_for_a_cached_one(client: ComfyUIClient):
    prompt = api_form("many_photos_averaged")
    run(client, prompt)
    inputs(prompt, "MultiRefImageEncoder")["on_missing"] = "error"
    _, cached = run(client, prompt)
    assert {node_id(prompt, "MultiRefImageEncoder"), node_id(prompt, "PoolingAggregator")}.isdisjoint(cached)
    assert node_id(prompt, "BoLIDLoadReferences") in cached


def test_the_demo_workflows_draw_different_pictures(client: ComfyUIClient):
    pictures = [run(client, api_form(name))[0] for name in DEMO_NAMES]
    assert len(pictures) == 10
    for one, other in itertools.combinations(pictures, 2):
        assert largest_difference(one, other) > 2


@pytest.mark.parametrize("name", NAMES)
def test_every_node_exists_with_the_inputs_given(name: str, client: ComfyUIClient):
    nodes = client.object_info()
    for node in api_form(name).values():
        known = nodes[node["class_type"]]["input"]
        required, optional = known.get("required", {}), known.get("optional", {})
        assert node["inputs"].keys() <= required.keys() | optional.keys()
        assert required.keys() <= node["inputs"].keys()


@pytest.mark.parametrize("name", NAMES)
def test_the_forms_are_twins(name: str):
    api, ui = api_form(name), ui_form(name)
    nodes = {str(node["id"]): node["type"] for node in ui["nodes"] if node["type"] not in NOTES}
    assert nodes == {node_id: node["class_type"] for node_id, node in api.items()}
    links = {(str(origin), slot, str(target)) for _, origin, slot, target, _, _ in ui["links"]}
    assert links == {
        (value[0], value[1], target)
        for target, node in api.items()
        for value in node["inputs"].values()
        if isinstance(value, list)
    }


def test_every_ui_form_has_an_api_form_and_a_picture():
    assert sorted(file.stem for file in WORKFLOWS.glob("*.json")) == NAMES
    assert sorted(file.stem for file in WORKFLOWS.glob("*.jpg")) == NAMES
    for file in WORKFLOWS.glob("*.jpg"):
        assert file.stat().st_size <= 100_000
        with Image.open(file) as picture:
            assert (picture.format, picture.width >= 1000) == ("JPEG", True)


@pytest.mark.parametrize("name", NAMES)
def test_a_note_explains_and_no_two_nodes_overlap(name: str):
    nodes = ui_form(name)["nodes"]
    (note,) = [node for node in nodes if node["type"] in NOTES]
    text = note["widgets_values"][0]
    assert ("drawn people" in text) == is_demo(api_form(name))
    # The title bar stands above `pos`.
    boxes = {
        node["id"]: (
            node["pos"][0],
            node["pos"][1] - 30,
            node["pos"][0] + node["size"][0],
            node["pos"][1] + node["size"][1],
        )
        for node in nodes
    }
    for one, (left, top, right, bottom) in boxes.items():
        for other, (other_left, other_top, other_right, other_bottom) in boxes.items():
            apart = right <= other_left or other_right <= left or bottom <= other_top or other_bottom <= top
            assert one == other or apart, f"nodes {one} and {other} overlap"


def test_links_point_to_the_right():
    for name in NAMES:
        graph = ui_form(name)
        left = {node["id"]: node["pos"][0] for node in graph["nodes"]}
        for _, origin, _, target, _, _ in graph["links"]:
            assert left[origin] < left[target], f"{name}: {origin} to {target}"


def test_nothing_of_the_machine_that_made_them_is_left():
    for file in WORKFLOWS.rglob("*.json"):
        text = file.read_text(encoding="utf-8")
        assert "/tmp" not in text and "/home" not in text and "127.0.0.1" not in text
        assert text.endswith("}\n")
    for name in NAMES:
        assert ui_form(name).keys() == {"last_node_id", "last_link_id", "nodes", "links", "groups", "version"}


def test_the_template_browser_lists_and_serves_them(workflow_server: LocalServer):
    listed = requests.get(f"{workflow_server.address}/api/workflow_templates", timeout=30).json()
    assert sorted(listed[PACK_FOLDER]) == NAMES
    for name in NAMES:
        address = f"{workflow_server.address}/api/workflow_templates/{PACK_FOLDER}/{name}"
        graph = requests.get(f"{address}.json", timeout=30)
        assert (graph.status_code, graph.json()) == (200, ui_form(name))
        picture = requests.get(f"{address}.jpg", timeout=30)
        assert (picture.status_code, picture.headers["Content-Type"]) == (200, "image/jpeg")
        assert picture.content == (WORKFLOWS / f"{name}.jpg").read_bytes()
