"""Whatever else is in a graph comes out as it went in."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bolid.migration.convert import convert
from bolid.migration.document import read
from bolid.migration.sources import Options

from . import old_graphs
from .old_graphs import Api, advanced, graph, is_link, loader, node, ui_form, unified
from .test_convert import check_ui, without_links

WIDGETS = old_graphs.OTHERS["Unknown"].widgets
VALUES = st.one_of(
    st.integers(min_value=-(2**63), max_value=2**64),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.booleans(),
    st.none(),
    # Two entries of which the first is text would be a link.
    st.lists(st.integers(), max_size=3),
)
OLD_TYPES = ("IPAdapterAdvanced", "IPAdapterBatch", "IPAdapterMS", "IPAdapterTiled", "IPAdapterPreciseComposition")


@st.composite
def graphs(draw: st.DrawFn) -> Api:
    """Nodes nobody knows, linked at random, around adapters of the other pack that convert or do not."""
    nodes: Api = {"10": draw(st.sampled_from([loader(), loader("kolors.bin"), unified(), unified("nothing")]))}
    model, image, mask = ["1", 0], ["6", 0], None
    for number in range(20, 20 + draw(st.integers(1, 8))):
        if draw(st.booleans()):
            inputs: dict[str, Any] = {name: draw(VALUES) for name in WIDGETS}
            if draw(st.booleans()):
                inputs |= {"image": image, "model": model}
            nodes[str(number)] = node("Unknown", **inputs)
            image, mask = [str(number), 0], [str(number), 2]
            if "model" in inputs and draw(st.booleans()):
                model = [str(number), 1]
        else:
            changes: dict[str, Any] = {"model": model, "image": image, "weight": draw(st.floats(-1, 5))}
            if nodes["10"]["class_type"] != "IPAdapterModelLoader":
                changes["ipadapter"] = ["10", 1]
            if mask and draw(st.booleans()):
                changes["attn_mask"] = mask
            nodes[str(number)] = advanced(draw(st.sampled_from(OLD_TYPES)), **changes)
            model = [str(number), 0]
    return graph(nodes, model=model)


def converted(content: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "old.json")
        path.write_text(json.dumps(content), encoding="utf-8")
        document = read(path)
    convert(document, Options())
    return json.loads(document.text)


def links_of(document: dict[str, Any], kept: set[int]) -> set[tuple[Any, ...]]:
    return {tuple(link) for link in document["links"] if link[1] in kept and link[3] in kept}


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_unknown_nodes_and_their_links_survive(api: Api):
    before, new_api = ui_form(api), converted(copy.deepcopy(api))
    after = converted(copy.deepcopy(before))
    check_ui(after)
    old_nodes = {entry["id"]: entry for entry in before["nodes"]}
    new_nodes = {entry["id"]: entry for entry in after["nodes"]}
    untouched = {number for number, entry in old_nodes.items() if entry["type"] not in old_graphs.OLD}
    assert untouched <= set(new_nodes)
    assert all(without_links(old_nodes[number]) == without_links(new_nodes[number]) for number in untouched)
    assert links_of(before, untouched) <= links_of(after, untouched)
    assert {key: before[key] for key in ("groups", "extra", "config")} == {
        key: after[key] for key in ("groups", "extra", "config")
    }
    gone = set(old_nodes) - set(new_nodes)
    assert gone == {int(number) for number in set(api) - set(new_api)}
    for number, given_node in api.items():
        if given_node["class_type"] not in old_graphs.OLD:
            for name, value in given_node["inputs"].items():
                is_moved = is_link(value) and int(value[0]) in gone
                assert is_moved or new_api[number]["inputs"][name] == value
    # What reads a node is there.
    for given_node in new_api.values():
        for value in given_node["inputs"].values():
            assert not is_link(value) or value[0] in new_api


@settings(max_examples=20, deadline=None)
@given(graphs())
def test_a_second_conversion_changes_nothing(api: Api):
    once = converted(copy.deepcopy(api))
    assert converted(copy.deepcopy(once)) == once
