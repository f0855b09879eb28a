"""`bolid evaluate` from the command line: it survives what kills it, and says what is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import bolid.__main__
from bolid.detectors.faces import InsightFaceAnalysis
from bolid.evaluation.config import load_config
from bolid.evaluation.evaluate import evaluate
from bolid.evaluation.folder import EvaluationError
from bolid.hosts.diffusers import cross_attention_layers
from bolid.models.adapter import AdapterLayout
from bolid.models.adapter_file import write_adapter
from bolid.models.build import build_adapter
from bolid.models.keypoint_network import PIXELS, read_keypoint_network, write_keypoint_network
from bolid.training.base import load_denoiser

from ..support.face_analysis import write_face_analysis_pack
from ..support.runs import assert_refused, files_of
from ..support.training_processes import Ended, TrainingProcesses
from ..training.conftest import write_config
from .conftest import PEOPLE, Toy

RESULTS = (
    "results.json",
    "summary.csv",
    "differences.csv",
    "people.csv",
    "pictures.csv",
    "plan.jsonl",
    "report.html",
)


@pytest.fixture(scope="module")
def whole(toy: Toy, processes: TrainingProcesses, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation that nobody interrupted; its config lies beside it."""
    folder = tmp_path_factory.mktemp("whole")
    methods = {
        "base": {},
        "mine": {"adapters": [str(path) for path in toy.adapters], "references": [4], "target_pose": True},
    }
    values = toy.values(
        folder / "run", methods, baseline="base", measures=toy.measures, drawing={"steps": 1, "guidance_scales": [2.0]}
    )
    ended = processes.run("evaluate", write_config(folder / "config.toml", values), "--json")
    assert ended.code == 0, ended
    (folder / "said.json").write_text(ended.stdout)
    return folder / "run"


@pytest.fixture
def again(whole: Path, processes: TrainingProcesses, tmp_path: Path) -> Callable[..., Ended]:
    """Runs the command of `whole`, or goes on with it, in `tmp_path / "run"`."""

    def run(fault: str = "") -> Ended:
        config = whole.parent / "config.toml"
        return processes.run("evaluate", config, f"output={tmp_path / 'run'}", fault=fault)

    return run


def drawn(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in files_of(folder / "pictures").items() if name.endswith(".png")}


def assert_same_evaluation(folder: Path, reference: Path) -> None:
    """The same pictures and the same numbers, to the last byte."""
    assert drawn(folder) == drawn(reference) and len(drawn(reference)) == 3 * PEOPLE * 2
    assert [name for name in RESULTS if (folder / name).read_bytes() != (reference / name).read_bytes()] == []


def test_output_says_what_was_found_and_where_it_is(whole: Path) -> None:
    said = json.loads((whole.parent / "said.json").read_text())
    assert said["report"] == str(whole / "report.html") and Path(said["report"]).is_file()
    results = json.loads((whole / "results.json").read_text())
    found = results["variants"][1]["columns"]["likeness"]
    assert said["summary"]["mine, 4 photos, guidance 2"]["likeness"] == {
        key: found[key] for key in ("mean", "low", "high")
    }
    assert said["pictures"] == 3 * PEOPLE * 2


KILLS = [
    # where, pictures that are there afterwards
    ("kill_after_replace evaluation.json", 0),
    ("kill_before_replace person_0701-0.png", 2),
    ("kill_after_replace person_0703-1.png", 8),
    ("kill_after_replace person_0702-0.png", 13),
    ("kill_before_replace depends_on.json", 24),
    ("kill_before_replace results.json", 24),
    ("kill_after_replace results.json", 24),
]


def test_killed_evaluation_ends_like_one_that_was_not(whole: Path, again: Callable[..., Ended], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    written: dict[Path, int] = {}
    for fault, pictures in KILLS:
        assert again(fault).killed, fault
        found = {path: path.stat().st_mtime_ns for path in (folder / "pictures").rglob("*.png")}
        assert len([path for path in found if not path.name.startswith(".")]) == pictures, fault
        assert {path: found[path] for path in written} == written, f"{fault}: drawn twice"
        written = found
        assert not (folder / "report.html").exists(), fault
    measured = {path: path.stat().st_mtime_ns for path in (folder / "measured").rglob("*.safetensors")}
    assert len(measured) == 5, "a shard of each network, and one of the texts"
    ended = again()
    assert ended.code == 0, ended
    assert_same_evaluation(folder, whole)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert {path: path.stat().st_mtime_ns for path in (folder / "measured").rglob("*.safetensors")} == measured
    assert not list(folder.rglob("*.partial"))


def test_two_processes_find_what_one_finds(whole: Path, processes: TrainingProcesses, tmp_path: Path) -> None:
    config = whole.parent / "config.toml"
    ended = processes.run_together("evaluate", config, f"output={tmp_path / 'run'}", processes=2)
    assert [each.code for each in ended] == [0, 0], ended
    # One of them says it, for both.
    assert [("Report:" in each.stdout) for each in ended].count(True) == 1
    assert_same_evaluation(tmp_path / "run", whole)
    manifests = list((tmp_path / "run" / "measured").glob("recognition-*/shard-*.json"))
    assert len(manifests) == 4, "each process asked two networks about its part"


def test_refusals_end_with_one_message(whole: Path, processes: TrainingProcesses, tmp_path: Path) -> None:
    config, output = whole.parent / "config.toml", f"output={tmp_path / 'run'}"
    ended = processes.run("evaluate", config, output, "baseline=bsae")
    assert_refused(ended, f"{config}: baseline is 'bsae'", "base, mine")
    ended = processes.run("evaluate", config, output, "measures.identity.likeness=dino:nowhere")
    assert_refused(ended, "measures.identity.likeness is nowhere, which is no folder of a network of the kind dino")
    assert not (tmp_path / "run").exists()


# In this process


def small(toy: Toy, folder: Path, *, methods: dict[str, Any] | None = None, **sections: Any) -> Path:
    """The config of an evaluation of a picture each of two people."""
    drawing = {"steps": 1, "pictures": 1, "people": 2}
    values = toy.values(folder / "run", methods or {"base": {}}, **{"drawing": drawing, **sections})
    return write_config(folder / "config.toml", values)


def test_a_table_for_people(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    path = small(toy, tmp_path, measures={"pose": str(toy.joints), "identity": {"likeness": str(toy.identity)}})
    ended = CliRunner().invoke(bolid.__main__.app, ["evaluate", str(path)])
    assert ended.exit_code == 0, ended.output
    assert "base, guidance 3" in ended.output and "likeness" in ended.output
    assert f"Report: {tmp_path / 'run' / 'report.html'}" in ended.output


def test_a_spoilt_picture_is_named_and_drawn_again(toy: Toy, tmp_path: Path) -> None:
    config = load_config(small(toy, tmp_path, measures={"identity": {"likeness": str(toy.identity)}}))
    evaluate(config)
    numbers, before = (tmp_path / "run" / "people.csv").read_bytes(), drawn(tmp_path / "run")
    (spoilt,) = (tmp_path / "run" / "pictures").rglob("person_0701-0.png")
    spoilt.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=f"The picture {spoilt} cannot be read .*the same command draws it again"):
        evaluate(config)
    spoilt.unlink()
    evaluate(config)
    assert drawn(tmp_path / "run") == before
    assert (tmp_path / "run" / "people.csv").read_bytes() == numbers


def test_photos_without_a_face_are_no_references_of_an_adapter_that_reads_faces(toy: Toy, tmp_path: Path) -> None:
    unet = load_denoiser(toy.base, dtype=torch.float32).unet
    layers = {layer.index: layer.hidden_size for layer in cross_attention_layers(unet)}
    layout = AdapterLayout(
        kind="faceid", cross_attention_dim=32, num_tokens=4, face_embed_dim=512, inner_dim=64, layers=layers
    )
    adapter = tmp_path / "faceid.safetensors"
    write_adapter(adapter, build_adapter(layout), base_model="custom", image_encoder="toy")
    pack = str(write_face_analysis_pack(tmp_path))
    methods = {"face": {"adapter": str(adapter), "references": [1]}}
    changes: dict[str, Any] = {"base": {"face_pack": pack}, "data": {"cache": str(tmp_path / "cache")}}
    path = small(toy, tmp_path, methods=methods, **changes)
    # The generated pack sees faces where it is bright, so not in everybody's photos.
    faces = InsightFaceAnalysis(root=tmp_path, model_pack="generated")
    photos = sorted((toy.world / "photos" / "person_0700").glob("*.png"))
    found = [bool(faces.detect(np.asarray(Image.open(photo).convert("RGB")))) for photo in photos]
    assert {True, False} == set(found)
    evaluate(load_config(path))
    plan = [json.loads(line) for line in (tmp_path / "run" / "plan.jsonl").read_text().splitlines()]
    (line,) = [line for line in plan if line["person"] == "person_0700"]
    named = {photo.name for photo, is_found in zip(photos, found, strict=True) if is_found}
    assert {Path(name).name for name in (*line["references"], *line["compared_with"])} == named
    with pytest.raises(ValueError, match="people have too few photos for 6 references"):
        evaluate(load_config(path, ["methods.face.references=[6]", f"output={tmp_path / 'other'}"]))


def test_without_measures_there_are_pictures_to_look_at(toy: Toy, tmp_path: Path) -> None:
    found = evaluate(load_config(small(toy, tmp_path)))
    assert found["summary"] == {"base, guidance 3": {}} and found["pictures"] == 2
    page = Path(found["report"]).read_text()
    assert "No measure of single pictures was asked for" in page and page.count("data:image/jpeg") >= 2


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (KeyboardInterrupt(), 130, "Stopped. The same command goes on from here."),
        (EvaluationError("The device has too little memory"), 2, "bolid: The device has too little memory"),
        (OSError(28, "No space left on device"), 2, "No space left on device"),
    ],
)
def test_how_it_stops(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, told: str
) -> None:
    from bolid.evaluation import evaluate as module

    def stop(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(module, "write_report", stop)
    ended = CliRunner().invoke(bolid.__main__.app, ["evaluate", str(small(toy, tmp_path))])
    assert (ended.exit_code, told in ended.output) == (code, True), ended.output
    assert len(drawn(tmp_path / "run")) == 2, "what was drawn stays"
    monkeypatch.undo()
    ended = CliRunner().invoke(bolid.__main__.app, ["evaluate", str(tmp_path / "config.toml"), "--json"])
    assert ended.exit_code == 0, ended.output


def test_too_little_memory_is_told(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bolid.evaluation import evaluate as module

    def full(*arguments: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module.Drawer, "draw", full)
    with pytest.raises(EvaluationError, match="too little memory .*Lower drawing.batch_size or measures.batch_size"):
        evaluate(load_config(small(toy, tmp_path)))


@pytest.fixture
def blind(toy: Toy, tmp_path: Path) -> Path:
    """A joints network that never sees anybody."""
    network = read_keypoint_network(toy.joints).network
    with torch.no_grad():
        network.maps_out.weight.zero_()
        network.maps_out.bias.fill_(-9.0)
    write_keypoint_network(tmp_path / "blind.safetensors", network, latent_space=PIXELS)
    return tmp_path / "blind.safetensors"


def test_nobody_is_found_anywhere(toy: Toy, tmp_path: Path, blind: Path) -> None:
    evaluate(load_config(small(toy, tmp_path, measures={"pose": str(blind)})))
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    columns = results["variants"][0]["columns"]
    assert {name: found["mean"] for name, found in columns.items()} == pytest.approx(
        {"person_found": 0, "joints_found": 0, "pck": 0, "oks": 0, "pose_error": 2, "bone_error": 0.6931472}
    )
    assert results["bounds"]["person_found"]["real"]["mean"] == 0
    (warning,) = results["warnings"]
    assert warning.startswith("person_found: not even in the photos is anybody found")


def test_nobody_is_in_the_photos(toy: Toy, tmp_path: Path) -> None:
    prepared = json.loads((toy.world / "prepared" / "test" / "people.json").read_text())
    for person in prepared["people"]:
        for photo in person["photos"]:
            photo |= {"keypoints": [[0.0, 0.0, 0.0]] * 17, "person_box": None, "face_box": None}
    (tmp_path / "people.json").write_text(json.dumps(prepared))
    path = small(toy, tmp_path, data={"path": str(tmp_path)}, measures={"pose": str(toy.joints)})
    evaluate(load_config(path))
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert list(results["variants"][0]["columns"]) == ["person_found"]
    asked = [warning for warning in results["warnings"] if "nobody can be asked this" in warning]
    assert [warning.split(":")[0] for warning in asked] == ["joints_found", "pck", "oks", "pose_error", "bone_error"]


def test_photos_that_changed_are_refused(toy: Toy, tmp_path: Path) -> None:
    world = Path(shutil.copytree(toy.world, tmp_path / "world"))
    prepared = json.loads((world / "prepared" / "test" / "people.json").read_text())
    prepared["source"] = str(world / "photos")
    (world / "prepared" / "test" / "people.json").write_text(json.dumps(prepared))
    (world / "photos" / "person_0701" / "2.png").write_bytes(b"another picture")
    path = small(toy, tmp_path, data={"path": str(world / "prepared" / "test"), "cache": str(tmp_path / "cache")})
    with pytest.raises(
        ValueError, match="The photos are no longer those that were prepared: person_0701/2.png has chan"
    ):
        evaluate(load_config(path))


def test_help_answers_without_torch() -> None:
    code = (
        "import sys, bolid.__main__ as m\ntry: m.app(['evaluate', '--help'])\nfinally: sys.exit('torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0 and "Draw people who were held out" in ended.stdout, ended.stderr
