"""Graphs that `bolid workflow convert` writes, as ComfyUI's frontend reads them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bolid.migration.convert import convert
from bolid.migration.document import read
from bolid.migration.sources import Options

from ..migration.old_graphs import graphs, ui_form

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.server]

GRAPHS = graphs()
for graph in GRAPHS.values():
    # JavaScript holds no more than 53 bits exactly.
    graph["7"]["inputs"]["seed"] = 20
STATE = """async (graph) => {
    await app.loadGraphData(graph);
    return {
        unknown: app.graph._nodes.filter((node) => !(node.type in LiteGraph.registered_node_types)).map((n) => n.type),
        prompt: (await app.graphToPrompt()).output,
    };
}"""


def converted(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    path = folder / "old.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    document = read(path)
    convert(document, Options())
    return copy.deepcopy(document.content)


@pytest.mark.parametrize("name", ["regions", "prepared", "embeds", "chained", "mask and linked weight"])
def test_the_frontend_sends_what_the_other_form_says(name: str, page: Page, tmp_path: Path):
    state = page.evaluate(STATE, converted(ui_form(GRAPHS[name]), tmp_path))
    assert state["unknown"] == []
    sent = {node_id: (node["class_type"], node["inputs"]) for node_id, node in state["prompt"].items()}
    expected = converted(copy.deepcopy(GRAPHS[name]), tmp_path)
    assert set(sent) == set(expected)
    for node_id, node in expected.items():
        type_, inputs = sent[node_id]
        # The frontend adds the widgets that conversion leaves at their defaults.
        assert type_ == node["class_type"]
        assert {name: inputs.get(name) for name in node["inputs"]} == node["inputs"], type_
