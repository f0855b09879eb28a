"""`bolid workflow convert`, as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from .old_graphs import advanced, graph, graphs, loader, node, ui_form

WITHOUT_TORCH = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "numpy", "comfy", "comfy_api", "folder_paths", "diffusers"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refused())
from bolid.__main__ import main
main()
"""


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Where neither torch nor ComfyUI can be imported."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "workflow", "convert", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
    )


def test_a_graph_in_the_form_of_the_frontend(tmp_path: Path):
    (tmp_path / "old.json").write_text(json.dumps(ui_form(graphs()["chained"])))
    answer = run("old.json", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    new = json.loads((tmp_path / "old.bolid.json").read_text())
    assert "BoLIDAdapterApply" in {given["type"] for given in new["nodes"]}
    for told in ("11 IPAdapterFaceID", "BoLIDAdapterApply", "skip_middle is on", "Written: old.bolid.json"):
        assert told in answer.stdout
    assert "ip-adapter-faceid-plusv2_sd15.bin" in answer.stdout
    again = run("old.json", cwd=tmp_path)
    assert again.returncode == 2 and "is not overwritten" in again.stderr and "Traceback" not in again.stderr


def test_json_for_programs_and_the_code_of_what_is_left(tmp_path: Path):
    old = graph({"10": loader(), "11": advanced(), "12": node("ApplyPulid", model=["11", 0])}, model=["12", 0])
    (tmp_path / "old.json").write_text(json.dumps(old))
    answer = run("old.json", "--json", "--output", "new.json", "--base-model", "sdxl", "--middle-block", cwd=tmp_path)
    assert answer.returncode == 1, answer.stderr
    told = json.loads(answer.stdout)
    assert told["output"] == "new.json" and told["form"] == "api" and not told["complete"] and told["changed"]
    assert [(entry["id"], entry["status"]) for entry in told["nodes"]] == [
        ("10", "same"),
        ("11", "same"),
        ("12", "stays"),
    ]
    new = json.loads((tmp_path / "new.json").read_text())
    (apply,) = [given["inputs"] for given in new.values() if given["class_type"] == "BoLIDAdapterApply"]
    assert apply["skip_middle"] is False
    assert {became["type"] for became in told["nodes"][1]["became"]} <= {given["class_type"] for given in new.values()}


def test_what_is_no_graph_ends_with_one_message(tmp_path: Path):
    (tmp_path / "old.json").write_text("{}")
    for name, message in (("old.json", "graph without nodes"), ("none.json", "No such file")):
        answer = run(name, cwd=tmp_path)
        assert answer.returncode == 2 and answer.stdout == ""
        assert answer.stderr.startswith("bolid: ") and message in answer.stderr and "Traceback" not in answer.stderr


def test_nothing_to_do(tmp_path: Path):
    (tmp_path / "old.json").write_text(json.dumps(graph({}, model=["1", 0])))
    answer = run("old.json", cwd=tmp_path)
    assert answer.returncode == 0 and "no file was written" in answer.stdout
    assert not (tmp_path / "old.bolid.json").exists()
