"""Every shipped workflow in its UI form: opened, converted and run by ComfyUI's own frontend."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from local_server import LocalServer
from PIL import Image

from ..support.workflow_server import (
    NAMES,
    PACK_FOLDER,
    SMALL,
    api_form,
    inputs,
    is_demo,
    node_id,
    save_id,
    small,
    ui_form,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.server]

NODES = """() => app.graph._nodes.map((node) => ({
    id: String(node.id),
    type: node.type,
    registered: node.type in LiteGraph.registered_node_types,
    faulty: Boolean(node.has_errors),
    box: [node.pos[0], node.pos[1] - 30, node.pos[0] + node.size[0], node.pos[1] + node.size[1]],
    // A multi-line text keeps the height it was given; the other widgets ask for theirs.
    cut: node.size[1] < node.computeSize()[1],
    widgets: Object.fromEntries((node.widgets ?? []).map((widget) => [widget.name, widget.value])),
}))"""
SET_WIDGETS = """(changes) => {
    for (const [type, values] of Object.entries(changes)) {
        for (const node of app.graph._nodes.filter((node) => node.type === type)) {
            for (const [name, value] of Object.entries(values)) {
                const widget = node.widgets.find((widget) => widget.name === name);
                if (!widget) throw new Error(`${type} has no widget ${name}`);
                widget.value = value;
            }
        }
    }
}"""
NOTE = "MarkdownNote"


def opened(page: Page, name: str) -> dict[str, dict[str, Any]]:
    page.evaluate("(graph) => app.loadGraphData(graph)", ui_form(name))
    return {node["id"]: node for node in page.evaluate(NODES)}


def converted(page: Page) -> dict[str, dict[str, Any]]:
    """The API form, as "Export (API)" writes it, without the titles."""
    return without_titles(page.evaluate("async () => (await app.graphToPrompt()).output"))


def without_titles(prompt: dict[str, Any]) -> dict[str, Any]:
    """Also without the aesthetic model, of which the frontend sends null: there is none to choose from."""
    return {
        node_id: {
            "class_type": node["class_type"],
            "inputs": {
                name: value for name, value in node["inputs"].items() if (name, value) != ("aesthetic_model", None)
            },
        }
        for node_id, node in prompt.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_opens_and_converts(name: str, page: Page):
    nodes, api = opened(page, name), api_form(name)

    assert [node["type"] for node in nodes.values() if not node["registered"] or node["faulty"]] == []
    assert [node["type"] for node in nodes.values() if node["cut"]] == []
    assert {node_id: node["type"] for node_id, node in nodes.items() if node["type"] != NOTE} == {
        node_id: node["class_type"] for node_id, node in api.items()
    }
    for node_id_, node in api.items():
        values = {key: value for key, value in node["inputs"].items() if not isinstance(value, list)}
        assert values.items() <= nodes[node_id_]["widgets"].items(), node["class_type"]
    assert converted(page) == without_titles(api)


# The others draw by models of the real sizes, with random weights: as their API form, which is the same prompt, they
# are run each time.
@pytest.mark.parametrize(
    "name", [name if is_demo(api_form(name)) else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_runs_from_the_frontend(name: str, page: Page, workflow_server: LocalServer):
    opened(page, name)
    api = api_form(name)
    # Another seed than that of the API form, so that the sampler runs here as well.
    changes = {} if is_demo(api) else SMALL
    seed = {"KSampler": {**changes.get("KSampler", {}), "seed": 21}}
    page.evaluate(SET_WIDGETS, {**changes, **seed})
    with page.expect_response(lambda response: response.url.endswith("/prompt")) as answer:
        page.evaluate("() => app.queuePrompt(0)")
    assert answer.value.status == 200, answer.value.text()
    client = workflow_server.client
    history = client.wait(answer.value.json()["prompt_id"])
    expected = small(api)
    inputs(expected, "KSampler")["seed"] = 21
    assert without_titles(history["prompt"][2]) == without_titles(expected)
    saved = [picture for picture in client.images(history) if picture.node_id == save_id(api)]
    size = inputs(expected, "EmptyLatentImage")
    assert pixels(saved[0].data).shape == (size["height"], size["width"], 3)
    cached = [data["nodes"] for event, data in history["status"]["messages"] if event == "execution_cached"]
    assert node_id(api, "KSampler") not in {node for nodes in cached for node in nodes}


def test_a_missing_node_would_be_seen(page: Page):
    graph = ui_form("one_photo")
    graph["nodes"][0]["type"] = "NodeThatNobodyHas"
    page.evaluate("(graph) => app.loadGraphData(graph)", graph)
    assert not all(node["registered"] for node in page.evaluate(NODES))


def test_the_template_browser_offers_them_with_their_pictures(page: Page):
    page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_text(PACK_FOLDER, exact=True).first.click()
    for name in NAMES:
        # Pictures load when they come into view.
        page.get_by_text(name, exact=True).first.scroll_into_view_if_needed()
        picture = f"img[alt='{name}']"
        page.wait_for_function("(picture) => document.querySelector(picture)?.naturalWidth > 0", arg=picture)
    page.get_by_text("one_photo", exact=True).first.click()
    page.wait_for_function("(count) => app.graph._nodes.length === count", arg=len(ui_form("one_photo")["nodes"]))
    assert converted(page) == without_titles(api_form("one_photo"))


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))
