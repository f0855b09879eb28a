"""Which files a workflow names, in the interface's form and in that of the API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bolid.catalogue.workflows import WIDGETS, Wanted, wanted_files
from bolid.nodes import NODES, register_model_folders

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
STORED = {"COMBO", "STRING", "INT", "FLOAT", "BOOLEAN"}
FILES = {"adapter_name", "model_pack", "pose_model", "aesthetic_model"}


def write(path: Path, workflow: object) -> Path:
    path.write_text(json.dumps(workflow), encoding="utf-8")
    return path


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_positions_are_those_of_the_schema(node: Any):
    register_model_folders()
    inputs = [given.id for given in node.GET_SCHEMA().inputs if given.get_io_type() in STORED]
    files = {name: inputs.index(name) for name in inputs if name in FILES}
    assert {name: widget.position for name, widget in WIDGETS.get(node.__name__, {}).items()} == files


@pytest.mark.parametrize("name", sorted(path.stem for path in (WORKFLOWS / "api").glob("*.json")))
def test_both_forms_of_a_workflow_name_the_same_files(name: str):
    drawn, api = (wanted_files(folder / f"{name}.json") for folder in (WORKFLOWS, WORKFLOWS / "api"))
    assert {(wanted.folders, wanted.name) for wanted in drawn} == {(wanted.folders, wanted.name) for wanted in api}


def test_the_files_of_a_shipped_workflow():
    wanted = wanted_files(WORKFLOWS / "faceid_plus_sd15.json")
    assert {(one.folder, one.name) for one in wanted} == {
        ("checkpoints", "v1-5-pruned-emaonly-fp16.safetensors"),
        ("clip_vision", "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"),
        ("ipadapter", "ip-adapter-faceid-plusv2_sd15.bin"),
        ("insightface/models", "buffalo_l"),
    }
    (checkpoint,) = [one for one in wanted if one.folder == "checkpoints"]
    assert checkpoint.url.startswith("https://huggingface.co/")


def loader(name: str, **changes: Any) -> dict[str, Any]:
    return {"type": "BoLIDAdapterLoader", "widgets_values": [name, "v2"], "mode": 0} | changes


def test_what_does_not_run_is_left_out_and_subgraphs_count(tmp_path: Path):
    workflow = {
        "nodes": [
            loader("a.bin"),
            loader("a.bin"),
            loader("muted.bin", mode=2),
            loader("bypassed.bin", mode=4),
            {"type": "CLIPVisionLoader", "widgets_values": {"clip_name": "by_name.safetensors"}},
            {"type": "BodyLandmarkEncoder", "widgets_values": [0.5, "skip"]},
            {"type": "BodyLandmarkEncoder", "widgets_values": [0.5, "skip", 0, "bundled"]},
            {"type": "Note", "widgets_values": ["b.bin"]},
        ],
        "definitions": {"subgraphs": [{"nodes": [loader("inside.bin")]}]},
    }
    assert [one.name for one in wanted_files(write(tmp_path / "w.json", workflow))] == [
        "a.bin",
        "by_name.safetensors",
        "inside.bin",
    ]


def test_linked_values_are_left_out_and_wrapped_prompts_read(tmp_path: Path):
    nodes = {
        "1": {"class_type": "BoLIDAdapterLoader", "inputs": {"adapter_name": ["7", 0]}},
        "2": {"class_type": "BoLIDRankImages", "inputs": {"pose_model": "p.task", "aesthetic_model": "h.pth"}},
    }
    expected = [Wanted(name="p.task", folders=("mediapipe",)), Wanted(name="h.pth", folders=("aesthetic",))]
    assert wanted_files(write(tmp_path / "a.json", nodes)) == expected
    assert wanted_files(write(tmp_path / "b.json", {"prompt": nodes, "client_id": "1"})) == expected


@pytest.mark.parametrize("content", ["{", "[]", '"text"', "3", '{"nodes": 3}', '{"1": {"inputs": {}}}', '{"1": 2}'])
def test_what_is_no_workflow(content: str, tmp_path: Path):
    path = tmp_path / "w.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"w\.json is no workflow .*Export \(API\)"):
        wanted_files(path)
    with pytest.raises(FileNotFoundError, match="There is no file"):
        wanted_files(tmp_path / "nowhere.json")
