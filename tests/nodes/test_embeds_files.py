"""BoLIDSaveEmbeds and BoLIDLoadEmbeds: where files go, what is loaded, what is refused, and both on a real server."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import folder_paths
import pytest
import torch
from comfyui_client import PromptError

from bolid.models.embeds_file import read_embeds, write_embeds
from bolid.models.pooling import pool
from bolid.models.references import Embeds, ReferenceReport, References
from bolid.nodes.embeds_files import BoLIDLoadEmbeds, BoLIDSaveEmbeds, embeds_files

REPORT = (
    ReferenceReport(photo=1, status="kept", row=1),
    ReferenceReport(photo=2, status="dropped", reason="no face found", faces=0),
    ReferenceReport(photo=3, status="kept", row=2),
)


@pytest.fixture
def base(tmp_path, monkeypatch) -> Path:
    """The folders input and output of a ComfyUI, beside a file that is nobody's business."""
    for name in ("input", "output"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    write_embeds(tmp_path / "secret.safetensors", references())
    return tmp_path


def references() -> References:
    generator = torch.Generator().manual_seed(3)
    return References(image_embeds=torch.randn(2, 8, generator=generator), report=REPORT)


def save(features: Embeds | References, prefix: str = "embeds/BoLID", **inputs: str) -> str:
    with torch.inference_mode():  # as ComfyUI's executor runs nodes
        output = BoLIDSaveEmbeds.execute(features, prefix, **inputs)
    (file,) = output.result
    (saved,) = output.ui["embeds"]
    assert saved["type"] == "output" and file == f"{Path(saved['subfolder'], saved['filename']).as_posix()} [output]"
    assert Path(folder_paths.get_output_directory(), saved["subfolder"], saved["filename"]).is_file()
    return file


def load(file: str):
    assert BoLIDLoadEmbeds.validate_inputs(file) is True
    with torch.inference_mode():
        embeds, found, report = BoLIDLoadEmbeds.execute(file).result
    return embeds, found, json.loads(report)


# There and back


def test_references_come_back(base):
    file = save(references(), person=" Anna ")
    assert file == "embeds/BoLID_00001_.safetensors [output]"
    embeds, found, report = load(file)
    assert torch.equal(found.image_embeds, references().image_embeds) and found.report == REPORT
    assert (report["kind"], report["person"], report["rows"], report["image_embed_dim"]) == ("references", "Anna", 2, 8)
    assert (report["kept"], report["dropped"]) == (2, 1)
    assert [photo["reason"] for photo in report["photos"]] == ["", "no face found", ""]
    assert isinstance(embeds, Embeds)
    assert torch.equal(embeds.image_embeds, pool(references(), "avg").image_embeds)
    assert torch.equal(pool(found, "max").image_embeds, pool(references(), "max").image_embeds)


@pytest.mark.parametrize("method", ["avg", "stack"])
def test_embeds_come_back(method, base):
    given = pool(references(), method, photo_weights=[1, 1, 3] if method == "stack" else None)
    embeds, found, report = load(save(given))
    assert isinstance(embeds, Embeds) and torch.equal(embeds.image_embeds, given.image_embeds)
    assert (embeds.token_weights is None) == (method == "avg")
    assert method == "avg" or torch.equal(embeds.token_weights, given.token_weights)
    assert report["kind"] == "embeds"
    assert found.count == len(given.image_embeds) and {entry.status for entry in found.report} == {"kept"}
    assert torch.equal(pool(found, "stack").image_embeds, given.image_embeds)


# Where files go


def test_files_are_numbered_as_comfyui_numbers_them(base):
    assert save(references(), "anna") == "anna_00001_.safetensors [output]"
    assert save(references(), "anna") == "anna_00002_.safetensors [output]"
    (base / "output" / "anna_00007_.safetensors").touch()
    assert save(references(), "anna") == "anna_00008_.safetensors [output]"
    assert save(references(), "anna_b") == "anna_b_00001_.safetensors [output]"


@pytest.mark.parametrize("prefix", ["家族/安娜", "Ána & Øyvind/it's her", "a b/c.d", "  spaced  ", "\N{GRINNING FACE}"])
def test_any_name_can_be_saved_and_loaded(prefix, base):
    first, second = save(references(), prefix), save(pool(references(), "max"), prefix)
    assert first == f"{prefix.strip()}_00001_.safetensors [output]" and "_00002_" in second
    assert torch.equal(load(first)[1].image_embeds, references().image_embeds)
    assert sorted(embeds_files()) == sorted([first, second])


def test_dates_are_filled_in(base):
    file = save(references(), "%year%/anna")
    assert file.split("/")[0].isdigit()


@pytest.mark.parametrize("prefix", ["", "  ", "/", "..", ".", "./"])
def test_a_prefix_without_a_name(prefix, base):
    with pytest.raises(ValueError, match="^filename_prefix is .*; expected a name such as"):
        BoLIDSaveEmbeds.execute(references(), prefix)


@pytest.mark.parametrize("prefix", ["../anna", "a/../../anna", "/tmp/anna", "a/" * 200 + "b" * 300, "a\0b/c"])
def test_a_prefix_outside_the_output_folder(prefix, base):
    with pytest.raises(
        ValueError, match="^Nothing can be saved under filename_prefix .*inside ComfyUI's output folder"
    ):
        BoLIDSaveEmbeds.execute(references(), prefix)
    assert sorted(path.name for path in base.iterdir()) == ["input", "output", "secret.safetensors"]


# What is offered, and what is loaded


def test_the_list_names_files_of_both_folders(base):
    save(references(), "embeds/b")
    save(references(), "a")
    for name in ("2.safetensors", "sub/1.SAFETENSORS", "photo.png", ".hidden.safetensors"):
        path = base / "input" / name
        path.parent.mkdir(exist_ok=True)
        write_embeds(path.with_suffix(".safetensors"), references())
        path.with_suffix(".safetensors").rename(path)
    assert embeds_files() == [
        "2.safetensors",
        "sub/1.SAFETENSORS",
        "a_00001_.safetensors [output]",
        "embeds/b_00001_.safetensors [output]",
    ]
    assert BoLIDLoadEmbeds.define_schema().inputs[0].options == embeds_files()
    for file in embeds_files():
        assert load(file)[1].count == 2


def test_marks(base):
    write_embeds(base / "input" / "1.safetensors", references())
    write_embeds(base / "output" / "1.safetensors", pool(references(), "avg"))
    for file in ("1.safetensors", "1.safetensors [input]", "1.safetensors[input]", " 1.safetensors "):
        assert load(file)[2]["kind"] == "references"
    for file in ("1.safetensors [output]", "1.safetensors[output]"):
        assert load(file)[2]["kind"] == "embeds"
    assert "is not in ComfyUI's input folder" in BoLIDLoadEmbeds.validate_inputs("1.safetensors [temp]")


ESCAPES = [
    "../secret.safetensors",
    "../secret.safetensors [output]",
    "sub/../../secret.safetensors",
    "sub/../1.safetensors",  # stays inside, but nobody writes that
    "..\\secret.safetensors",
    "C:\\secret.safetensors",
    "C:secret.safetensors",
    "\\\\host\\share\\1.safetensors",
    "/etc/passwd",
    "{base}/secret.safetensors",
    "{base}/input/1.safetensors",
    "link.safetensors",
    "linked/secret.safetensors",
]


@pytest.mark.parametrize("file", ESCAPES)
def test_nothing_outside_the_folders_is_read(file, base):
    (base / "input" / "sub").mkdir()
    write_embeds(base / "input" / "1.safetensors", references())
    os.symlink(base / "secret.safetensors", base / "input" / "link.safetensors")
    os.symlink(base, base / "input" / "linked")
    file = file.replace("{base}", str(base))
    assert "leads out of ComfyUI's" in BoLIDLoadEmbeds.validate_inputs(file)
    for method in (BoLIDLoadEmbeds.execute, BoLIDLoadEmbeds.fingerprint_inputs):
        with pytest.raises(ValueError, match="leads out of ComfyUI's"):
            method(file)


def test_a_link_to_a_file_inside_is_followed(base):
    write_embeds(base / "input" / "1.safetensors", references())
    os.symlink(base / "input" / "1.safetensors", base / "input" / "2.safetensors")
    assert load("2.safetensors")[1].count == 2


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("", "^No embeds file is chosen"),
        ("[output]", "^No embeds file is chosen"),
        ("anna.safetensors", "^The embeds file 'anna.safetensors' is not in ComfyUI's input folder"),
        ("embeds [output]", "^The embeds file 'embeds' is not in ComfyUI's output folder"),
        ("a\0b", "is no usable file name"),
        ("a" * 400, "is no usable file name"),
    ],
)
def test_what_cannot_be_loaded(file, message, base):
    (base / "output" / "embeds").mkdir()
    with pytest.raises(ValueError, match=message):
        BoLIDLoadEmbeds.execute(file)
    assert isinstance(BoLIDLoadEmbeds.validate_inputs(file), str)


def test_files_of_other_kinds_are_named(base):
    (base / "input" / "theirs.ipadpt").write_bytes(b"\x80\x02.")
    (base / "input" / "page.safetensors").write_bytes(b"<html>")
    with pytest.raises(ValueError, match=r"^theirs\.ipadpt is no safetensors file"):
        BoLIDLoadEmbeds.execute("theirs.ipadpt")
    with pytest.raises(ValueError, match=r"^page\.safetensors is not a readable safetensors file"):
        BoLIDLoadEmbeds.execute("page.safetensors")


def test_a_changed_file_is_read_again(base):
    path = base / "input" / "1.safetensors"
    write_embeds(path, references())
    seen = [BoLIDLoadEmbeds.fingerprint_inputs("1.safetensors")]
    assert seen[0] == BoLIDLoadEmbeds.fingerprint_inputs("1.safetensors")
    os.utime(path, ns=(1, 1))
    seen.append(BoLIDLoadEmbeds.fingerprint_inputs("1.safetensors"))
    write_embeds(path, references(), person="a longer name than before")
    os.utime(path, ns=(1, 1))
    seen.append(BoLIDLoadEmbeds.fingerprint_inputs("1.safetensors"))
    assert len(set(seen)) == 3


def test_linked_inputs_are_not_judged_before_the_graph_runs(base):
    assert BoLIDLoadEmbeds.validate_inputs(None) is True
    assert BoLIDLoadEmbeds.fingerprint_inputs(None) == ""


# On a server


@pytest.mark.server
def test_saved_in_one_prompt_and_loaded_in_another(server, photographs):
    data = io.BytesIO()
    photographs["carphone_0"].save(data, "PNG")
    server.client.upload_image(data.getvalue(), name="anna.png", subfolder="embeds_test")

    def saved(prompt):
        identifier = server.client.queue(prompt)
        (found,) = server.client.wait(identifier)["outputs"]["save"]["embeds"]
        path = server.base_directory / "output" / found["subfolder"] / found["filename"]
        return f"{found['subfolder']}/{found['filename']} [{found['type']}]", read_embeds(path)

    encode = {
        "demo": {"class_type": "BoLIDDemoModelLoader", "inputs": {"method": "ip_adapter"}},
        "photos": {"class_type": "BoLIDLoadReferences", "inputs": {"folder": "embeds_test", "files": ""}},
        "encode": {
            "class_type": "MultiRefImageEncoder",
            "inputs": {"images": ["photos", 0], "clip_vision": ["demo", 3], "crop": "whole", "on_missing": "skip"},
        },
        "pool": {"class_type": "PoolingAggregator", "inputs": {"references": ["encode", 0], "method": "avg"}},
    }

    def save_node(link):
        inputs = {"embeds": link, "filename_prefix": "安娜/anna", "person": "安娜"}
        return {"save": {"class_type": "BoLIDSaveEmbeds", "inputs": inputs}}

    pooled, from_pool = saved(encode | save_node(["pool", 0]))
    kept, from_encoder = saved(encode | save_node(["encode", 0]))
    assert from_pool.config.kind == "embeds" and from_encoder.config.kind == "references"
    assert from_pool.config.person == "安娜"
    assert torch.equal(from_pool.features.image_embeds, from_encoder.features.image_embeds)

    def again(file, link):
        load_node = {"load": {"class_type": "BoLIDLoadEmbeds", "inputs": {"file": file}}}
        return load_node | save_node(link)

    _, copied = saved(again(pooled, ["load", 0]))
    assert torch.equal(copied.features.image_embeds, from_pool.features.image_embeds)
    _, copied = saved(again(kept, ["load", 1]))
    assert torch.equal(copied.features.image_embeds, from_encoder.features.image_embeds)

    _, copied = saved(again(kept, ["load", 0]))
    assert copied.config.kind == "embeds"
    assert torch.equal(copied.features.image_embeds, from_pool.features.image_embeds)
    with pytest.raises(PromptError, match="leads out of ComfyUI's output folder"):
        server.client.run(again("../../secret.safetensors [output]", ["load", 0]))
    options = server.client.object_info("BoLIDLoadEmbeds")["input"]["required"]["file"][1]["options"]
    assert {pooled, kept} <= set(options)


@pytest.mark.server
def test_detected_faces_on_a_server(server):
    """In empty pictures there is no face: they are shown, and what comes after `faces` does not run."""
    empty = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 2, "color": 0}}
    detect = {"class_type": "BoLIDDetectFaces", "inputs": {"images": ["empty", 0]}}

    def shown(slot):
        preview = {"class_type": "PreviewImage", "inputs": {"images": ["detect", slot]}}
        pictures = server.client.run({"empty": empty, "detect": detect, "preview": preview})
        return [picture for picture in pictures if picture.node_id == "preview"]

    assert len(shown(0)) == 2
    assert shown(1) == []
