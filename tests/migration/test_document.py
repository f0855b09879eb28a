"""Files that are no graphs, damaged ones, and what the frontend saves beside nodes and links."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from bolid.migration.convert import convert, convert_file
from bolid.migration.document import read
from bolid.migration.report import Status
from bolid.migration.sources import Options

from .old_graphs import advanced, graph, graphs, loader, node, ui_form
from .test_convert import check_ui

OLD = graphs()["loader and advanced"]


def write(folder: Path, content: Any, name: str = "old.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def circle() -> dict[str, Any]:
    return graph(
        {"10": loader(), "11": advanced(model=["12", 0]), "12": node("Other", model=["11", 0])}, model=["12", 0]
    )


def damaged_ui(**changes: Any) -> dict[str, Any]:
    document = ui_form(OLD)
    document["nodes"][3] |= changes
    return document


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON file"),
        ("", "is no JSON file"),
        ("[" * 100_000, "is no JSON file"),
        ("[]", "no graph of ComfyUI"),
        ("7", "no graph of ComfyUI"),
        ({"prompt": OLD}, "no graph of ComfyUI"),
        ({"nodes": [], "edges": []}, "no graph of ComfyUI"),
        ({"app_version": "3.4.0", "steps": 20, "seed": 1}, "no graph of ComfyUI"),
        ({}, "graph without nodes"),
        ({"nodes": [], "links": []}, "graph without nodes"),
        ({"1": {"class_type": "Other"}}, "damaged graph: 1.inputs: Field required"),
        ({"1": {"class_type": 7, "inputs": {}}}, "damaged graph: 1.class_type"),
        ({"nodes": [{"type": "Other", "pos": [0, 0]}], "links": []}, "damaged graph: nodes.0.id"),
        (damaged_ui(pos=[1]), "damaged graph: nodes.3.pos"),
        (damaged_ui(inputs=[{"link": 3}]), "damaged graph: nodes.3.inputs.0.name"),
        ({**ui_form(OLD), "links": [[1, 2, 3]]}, "damaged graph: links.0"),
        (circle(), "run in a circle (nodes 11 → 12 → 11)"),
        (ui_form(graph({"11": node("VAEDecode", samples=["11", 0])}, model=["1", 0])), "(nodes 11 → 11)"),
    ],
)
def test_what_is_no_graph_is_said(content: Any, message: str, tmp_path: Path):
    path = write(tmp_path, content)
    with pytest.raises(ValueError) as raised:
        read(path)
    assert message in str(raised.value)


def test_binary_files_are_no_json(tmp_path: Path):
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    with pytest.raises(ValueError, match="is no JSON file"):
        read(path)


@pytest.mark.parametrize("indent", [None, 2])
def test_files_keep_their_layout(indent: int | None, tmp_path: Path):
    source = write(tmp_path, json.dumps(OLD, indent=indent))
    _, written = convert_file(source, None, Options())
    assert written == tmp_path / "old.bolid.json"
    assert ("\n  " in written.read_text(encoding="utf-8")) == (indent == 2)
    assert json.loads(source.read_text(encoding="utf-8")) == OLD


def test_nothing_is_overwritten(tmp_path: Path):
    source = write(tmp_path, OLD)
    there = write(tmp_path, "mine", "there.json")
    for output in (there, source):
        with pytest.raises(ValueError, match="exists already, and is not overwritten"):
            convert_file(source, output, Options())
    assert there.read_text(encoding="utf-8") == "mine"
    _, written = convert_file(source, tmp_path / "new.json", Options())
    assert read(written).form == "api"


def test_a_graph_that_needs_nothing_is_not_written_again(tmp_path: Path):
    report, written = convert_file(write(tmp_path, graph({}, model=["1", 0])), None, Options())
    assert written is None and not report.changed
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]


# What frontends know beside nodes and links


def entry(document: dict[str, Any], type_: str) -> dict[str, Any]:
    (found,) = [given for given in document["nodes"] if given["type"] == type_]
    return found


def converted(document: dict[str, Any], tmp_path: Path) -> tuple[dict[str, Any], Any]:
    read_again = read(write(tmp_path, document))
    report = convert(read_again, Options())
    return json.loads(read_again.text), report


def insert_on_link(document: dict[str, Any], type_: str, *, before: str, slot: int, **more: Any) -> None:
    """Put a node that passes on what it gets into the link at a node's input."""
    target = entry(document, before)
    old = next(link for link in document["links"] if link[0] == target["inputs"][slot]["link"])
    new_id, new_link = document["last_node_id"] + 1, document["last_link_id"] + 1
    document["nodes"].append(
        {
            "id": new_id,
            "type": type_,
            "pos": [-500, 100 * new_id],
            "size": [75, 26],
            "mode": 0,
            "inputs": [{"name": "", "type": "*", "link": old[0]}],
            "outputs": [{"name": "", "type": old[5], "links": [new_link]}],
            **more,
        }
    )
    target["inputs"][slot]["link"] = new_link
    document["links"].append([new_link, new_id, 0, target["id"], slot, old[5]])
    old[3], old[4] = new_id, 0
    document["last_node_id"], document["last_link_id"] = new_id, new_link


def test_reroutes_are_followed_and_those_of_old_types_go(tmp_path: Path):
    document = ui_form(OLD)
    names = [given["name"] for given in entry(document, "IPAdapterAdvanced")["inputs"]]
    for name in ("ipadapter", "image", "model"):
        insert_on_link(document, "Reroute", before="IPAdapterAdvanced", slot=names.index(name))
    insert_on_link(document, "Reroute", before="KSampler", slot=0)
    new, report = converted(document, tmp_path)
    assert report.complete
    reroutes = [given for given in new["nodes"] if given["type"] == "Reroute"]
    assert len(reroutes) == 3, "that of the IPADAPTER is gone"
    apply = entry(new, "BoLIDAdapterApply")
    links = {link[0]: link for link in new["links"]}
    assert links[apply["inputs"][0]["link"]][1] in {given["id"] for given in reroutes}
    assert {links[given["inputs"][0]["link"]][1] for given in reroutes} == {1, 6, apply["id"]}


def test_set_and_get_nodes_are_followed(tmp_path: Path):
    document = ui_form(OLD)
    names = [given["name"] for given in entry(document, "IPAdapterAdvanced")["inputs"]]
    insert_on_link(document, "SetNode", before="IPAdapterAdvanced", slot=names.index("ipadapter"))
    setter = document["nodes"][-1]
    setter["widgets_values"] = ["adapter"]
    link = document["links"][-1]
    getter = {**copy.deepcopy(setter), "id": setter["id"] + 1, "type": "GetNode", "inputs": [], "pos": [-900, 0]}
    setter["outputs"][0]["links"] = []
    link[1] = getter["id"]
    document["nodes"].append(getter)
    document["last_node_id"] = getter["id"]
    new, report = converted(document, tmp_path)
    assert report.complete and not {"SetNode", "GetNode"} & {given["type"] for given in new["nodes"]}


def test_primitives_give_their_value_or_stay_linked(tmp_path: Path):
    document = ui_form(graph({"10": loader(), "11": advanced(weight=["5", 0], weight_type=["5", 0])}, model=["11", 0]))
    for number, (name, value) in enumerate((("weight", 0.4), ("weight_type", "ease in"))):
        given = next(given for given in entry(document, "IPAdapterAdvanced")["inputs"] if given["name"] == name)
        link = next(link for link in document["links"] if link[0] == given["link"])
        latent = entry(document, "EmptyLatentImage")["outputs"][0]
        latent["links"] = [link_id for link_id in latent["links"] if link_id != link[0]]
        link[1] = 50 + number
        document["nodes"].append(
            {
                "id": 50 + number,
                "type": "PrimitiveNode",
                "pos": [-900, 200 * number],
                "size": [210, 82],
                "mode": 0,
                "inputs": [],
                "outputs": [{"name": "FLOAT", "type": "FLOAT", "links": [link[0]], "widget": {"name": name}}],
                "widgets_values": [value, "fixed"],
            }
        )
    new, report = converted(document, tmp_path)
    assert report.complete
    apply = entry(new, "BoLIDAdapterApply")
    assert apply["widgets_values"][3] == "ease in"
    (weight,) = [given for given in apply["inputs"] if given.get("widget")]
    assert weight["widget"] == {"name": "face_weight"}
    assert next(link for link in new["links"] if link[0] == weight["link"])[1] == 50


@pytest.mark.parametrize("mode", [2, 4])
def test_muted_and_bypassed_nodes_stay_so(mode: int, tmp_path: Path):
    document = ui_form(OLD)
    entry(document, "IPAdapterAdvanced")["mode"] = mode
    new, _ = converted(document, tmp_path)
    modes = {given["type"]: given["mode"] for given in new["nodes"]}
    assert modes["BoLIDAdapterApply"] == modes["MultiRefImageEncoder"] == modes["PoolingAggregator"] == mode
    assert modes["BoLIDAdapterLoader"] == modes["KSampler"] == 0


def test_titles_of_the_user_are_kept(tmp_path: Path):
    document = ui_form(OLD)
    entry(document, "IPAdapterAdvanced")["title"] = "Anna's face"
    entry(document, "IPAdapterModelLoader")["title"] = "IPAdapter Model Loader"
    new, report = converted(document, tmp_path)
    assert entry(new, "BoLIDAdapterApply")["title"] == "Anna's face"
    assert "title" not in entry(new, "BoLIDAdapterLoader")
    assert {found.title for found in report.entries} == {"Anna's face", "IPAdapter Model Loader"}


def test_bends_of_removed_links_are_forgotten(tmp_path: Path):
    document = ui_form(OLD)
    given = entry(document, "IPAdapterAdvanced")["inputs"]
    removed = next(link["link"] for link in given if link["name"] == "ipadapter")
    kept = entry(document, "VAEDecode")["inputs"][0]["link"]
    document["extra"]["reroutes"] = [{"id": 1, "pos": [0, 0], "linkIds": [removed, kept]}]
    document["extra"]["linkExtensions"] = [{"id": removed, "parentId": 1}, {"id": kept, "parentId": 1}]
    new, _ = converted(document, tmp_path)
    assert new["extra"]["reroutes"][0]["linkIds"] == [kept]
    assert new["extra"]["linkExtensions"] == [{"id": kept, "parentId": 1}]


def as_subgraph(document: dict[str, Any]) -> dict[str, Any]:
    """The same nodes as the inside of a subgraph whose photo comes from outside and whose picture goes there."""
    inside = copy.deepcopy(document)
    photo = entry(inside, "LoadImage")
    inside["nodes"].remove(photo)
    links = []
    for link in inside["links"]:
        keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        links.append(dict(zip(keys, link, strict=True)))
        if link[1] == photo["id"]:
            links[-1] |= {"origin_id": -10, "origin_slot": 0}
    from_outside = [link["id"] for link in links if link["origin_id"] == -10]
    decoded = entry(inside, "VAEDecode")
    out = {"id": 900, "origin_id": decoded["id"], "origin_slot": 0, "target_id": -20, "target_slot": 0, "type": "IMAGE"}
    decoded["outputs"][0]["links"].append(900)
    subgraph = {
        "id": "0b7b5f0e",
        "version": 1,
        "state": {"lastNodeId": inside["last_node_id"], "lastLinkId": 900},
        "inputs": [{"id": "a", "name": "image", "type": "IMAGE", "linkIds": from_outside}],
        "outputs": [{"id": "b", "name": "IMAGE", "type": "IMAGE", "linkIds": [900]}],
        "nodes": inside["nodes"],
        "links": [*links, out],
    }
    outside = {"id": 1, "type": "0b7b5f0e", "pos": [0, 0], "size": [200, 100], "inputs": [], "outputs": []}
    return {
        "last_node_id": 1,
        "last_link_id": 0,
        "nodes": [outside],
        "links": [],
        "definitions": {"subgraphs": [subgraph]},
        "version": 0.4,
    }


def test_subgraphs_are_converted_too(tmp_path: Path):
    new, report = converted(as_subgraph(ui_form(OLD)), tmp_path)
    assert report.complete and {found.graph for found in report.entries} == {1}
    (inside,) = new["definitions"]["subgraphs"]
    encoder = next(given for given in inside["nodes"] if given["type"] == "MultiRefImageEncoder")
    links = {link["id"]: link for link in inside["links"]}
    photo = links[encoder["inputs"][0]["link"]]
    assert (photo["origin_id"], photo["origin_slot"], photo["type"]) == (-10, 0, "IMAGE")
    assert inside["inputs"][0]["linkIds"] == [photo["id"]]
    assert inside["outputs"][0]["linkIds"] == [900]
    ids = [given["id"] for given in inside["nodes"]]
    assert len(set(ids)) == len(ids) and inside["state"]["lastNodeId"] == max(ids)
    assert inside["state"]["lastLinkId"] == max(links)


def test_what_comes_into_a_subgraph_from_outside_is_not_known(tmp_path: Path):
    document = as_subgraph(ui_form(OLD))
    (inside,) = document["definitions"]["subgraphs"]
    old_loader = next(given for given in inside["nodes"] if given["type"] == "IPAdapterModelLoader")
    inside["nodes"].remove(old_loader)
    for link in inside["links"]:
        if link["origin_id"] == old_loader["id"]:
            link |= {"origin_id": -10, "origin_slot": 0}
    _, report = converted(document, tmp_path)
    (found,) = report.entries
    assert found.status is Status.STAYS and "outside this graph" in found.notes[0]


def test_group_nodes_are_named(tmp_path: Path):
    document = ui_form(graph({}, model=["1", 0]))
    document["extra"]["groupNodes"] = {"faces": {"nodes": [{"type": "IPAdapterAdvanced"}]}, "other": {"nodes": []}}
    _, report = converted(document, tmp_path)
    (found,) = report.entries
    assert found.id == "faces" and found.status is Status.STAYS and not report.complete


def test_links_to_nodes_that_are_not_there(tmp_path: Path):
    """Old files have them; the frontend drops them."""
    document = ui_form(OLD)
    document["links"].append([800, 777, 0, entry(document, "SaveImage")["id"], 5, "IMAGE"])
    document["links"].append(None)
    new, report = converted(document, tmp_path)
    assert report.complete and [800, 777, 0, 9, 5, "IMAGE"] in new["links"]
    new["links"] = [link for link in new["links"] if link and link[0] != 800]
    check_ui(new)


def test_ids_of_flattened_subgraphs(tmp_path: Path):
    """ "Export (API)" names nodes of subgraphs by the ids of both."""
    text = json.dumps(OLD)
    for number in ("10", "11"):
        text = text.replace(f'"{number}"', f'"57:{number}"')
    new, report = converted(json.loads(text), tmp_path)
    assert report.complete and "58" in new
