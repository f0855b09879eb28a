"""What lies in a models folder, by its content, under whatever name; and what is missing or damaged."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from bolid.__main__ import app
from bolid.catalogue.check import check_public_file, check_wanted
from bolid.catalogue.folders import PACK, ModelFolders
from bolid.catalogue.inventory import Item, inventory
from bolid.catalogue.public_files import PUBLIC_FILES, PublicFile, named
from bolid.catalogue.workflows import Wanted
from bolid.models.adapter import AdapterLayout, BodyLayout
from bolid.models.adapter_file import write_adapter
from bolid.models.build import build_adapter

from ..support.adapter_files import (
    SD15_LAYERS,
    SDXL_LAYERS,
    adapter_state_dict,
    write_bin,
    write_safetensors,
    write_truncated,
)

SD15 = [(layer.key, 8) for layer in SD15_LAYERS]
SDXL = [(layer.key, 8) for layer in SDXL_LAYERS]


def adapter(layout: str, *, layers: list[tuple[int, int]] = SD15, width: int = 768) -> dict[str, torch.Tensor]:
    """The real number of layers and tokens, thin layers."""
    return adapter_state_dict(
        layout,
        layers=layers,
        cross_attention_dim=width,
        resampler_width=64 if layout == "plus" else None,
        lora_rank=2,
        dtype=torch.float16,
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with a file of every kind, under names that say nothing, and with files that cannot be read."""
    root = tmp_path_factory.mktemp("comfyui") / "models"
    for folder in ("bolid", "ipadapter/sub", "clip_vision", "mediapipe", "aesthetic", "insightface/models/mine"):
        (root / folder).mkdir(parents=True)
    adapters = root / "ipadapter"
    write_safetensors(adapters / "a.safetensors", adapter("plus"))
    write_bin(adapters / "sub" / "b.bin", adapter("faceid_plus"))
    write_bin(adapters / "c.bin", adapter("faceid_portrait"))
    write_safetensors(adapters / "d.safetensors", adapter("base_bigg", layers=SDXL, width=2048))
    write_safetensors(adapters / "e.safetensors", adapter("full_face"))
    write_truncated(adapters / "cut.safetensors", adapter("base"))
    save_file({"lora_down.weight": torch.zeros(1)}, adapters / "lora.safetensors")
    (adapters / ".hidden.safetensors").write_bytes(b"")
    (adapters / "readme.txt").write_text("no model")
    write_bolid(root / "bolid" / "person.safetensors")
    write_encoder(root / "clip_vision" / "x.safetensors", hidden_size=1280, image_embed_dim=1024)
    write_encoder(root / "clip_vision" / "y.safetensors", hidden_size=1024, image_embed_dim=768)
    write_encoder(root / "clip_vision" / "z.safetensors", hidden_size=640, image_embed_dim=512)
    save_file({"conv.weight": torch.zeros(1)}, root / "clip_vision" / "vae.safetensors")
    with zipfile.ZipFile(root / "mediapipe" / "any.task", "w") as archive:
        for name in ("pose_detector.tflite", "pose_landmarks_detector.tflite"):
            archive.writestr(name, b"network")
    with zipfile.ZipFile(root / "mediapipe" / "face.task", "w") as archive:
        archive.writestr("face_detector.tflite", b"network")
    (root / "mediapipe" / "cut.task").write_bytes(b"PK")
    widths = (768, 1024, 128, 64, 16, 1)
    layers = zip((0, 2, 4, 6, 7), widths, widths[1:], strict=False)
    laion = {
        f"layers.{number}.{part}": tensor
        for number, before, after in layers
        for part, tensor in {"weight": torch.zeros(after, before), "bias": torch.zeros(after)}.items()
    }
    torch.save(laion, root / "aesthetic" / "head.pth")
    save_file({"a.weight": torch.zeros(3, 2), "a.bias": torch.zeros(3)}, root / "aesthetic" / "other.safetensors")
    (root / "insightface" / "models" / "mine" / "det.onnx").write_bytes(b"network")
    deep = root / "insightface" / "models" / "antelopev2" / "antelopev2"
    deep.mkdir(parents=True)
    (deep / "glintr100.onnx").write_bytes(b"network")
    (root / "insightface" / "models" / ".buffalo_l.partial").mkdir()
    return root


def write_bolid(path: Path) -> None:
    layout = AdapterLayout(
        kind="plus",
        cross_attention_dim=768,
        num_tokens=16,
        hidden_size=1280,
        inner_dim=64,
        depth=1,
        layers=dict(SD15),
        aggregator_depth=1,
        body=BodyLayout(hidden_size=1280, dim=64, depth=1, resampler_depth=1),
    )
    write_adapter(path, build_adapter(layout), base_model="sd15", image_encoder="CLIP ViT-H/14")


def write_encoder(path: Path, *, hidden_size: int, image_embed_dim: int) -> None:
    tensors = {
        "vision_model.embeddings.class_embedding": torch.zeros(hidden_size),
        "visual_projection.weight": torch.zeros(image_embed_dim, hidden_size),
    }
    save_file(tensors, path)


@pytest.fixture(scope="module")
def items(models: Path) -> dict[str, Item]:
    return {f"{item.folder}/{item.name}": item for item in inventory(ModelFolders(models=models))}


WHAT = {
    "bolid/person.safetensors": (
        "BoLID, SD1.5, plus, 16 tokens per photo, self-attention aggregator, body branch",
        ("CLIP ViT-H/14",),
    ),
    "ipadapter/a.safetensors": ("SD1.5, plus, 16 tokens per photo", ("CLIP ViT-H/14",)),
    "ipadapter/sub/b.bin": (
        "SD1.5, FaceID-plus v1 or v2, 4 tokens per photo, LoRA",
        ("CLIP ViT-H/14", "insightface"),
    ),
    "ipadapter/c.bin": ("SD1.5, FaceID-portrait, 16 tokens per photo", ("insightface",)),
    "ipadapter/d.safetensors": ("SDXL, base, 4 tokens per photo", ("CLIP ViT-bigG/14",)),
    "ipadapter/e.safetensors": ("SD1.5, full-face, one token per hidden state", ("CLIP ViT-H/14",)),
    "clip_vision/x.safetensors": ("CLIP ViT-H/14, hidden states 1280, image embeddings 1024", ()),
    "clip_vision/y.safetensors": ("CLIP ViT-L/14, hidden states 1024, image embeddings 768", ()),
    "clip_vision/z.safetensors": ("another image encoder, hidden states 640, image embeddings 512", ()),
    "mediapipe/any.task": ("mediapipe pose landmarker", ()),
    "aesthetic/head.pth": ("LAION's aesthetic predictor", ("CLIP ViT-L/14",)),
    "insightface/models/mine": ("insightface pack of 1 networks", ()),
}
PROBLEMS = {
    "ipadapter/cut.safetensors": "is not a readable safetensors file",
    "ipadapter/lora.safetensors": "it looks like a LoRA, which belongs in models/loras",
    "clip_vision/vae.safetensors": "is no image encoder that BoLID knows; its tensors are named conv.weight",
    "mediapipe/face.task": "is no pose landmarker; it holds face_detector.tflite",
    "mediapipe/cut.task": "is no .task file",
    "aesthetic/other.safetensors": "is no aesthetic model that BoLID knows",
    "insightface/models/antelopev2": "lie one level too deep, in antelopev2",
}


def test_everything_is_listed_once(items: dict[str, Item]):
    assert set(items) == set(WHAT) | set(PROBLEMS)


@pytest.mark.parametrize("name", WHAT)
def test_what_a_file_is_does_not_depend_on_its_name(name: str, items: dict[str, Item]):
    what, needs = WHAT[name]
    facts = items[name].facts
    assert facts is not None and (facts.what, facts.needs) == (what, needs)
    assert items[name].size > 0 and items[name].problem == ""


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_cannot_be_read_is_listed_with_the_reason(name: str, items: dict[str, Item]):
    assert items[name].facts is None and PROBLEMS[name] in items[name].problem


def test_the_lists_of_the_command(models: Path, items: dict[str, Item]):
    answer = CliRunner().invoke(app, ["models", "list", "--models", str(models), "--json"])
    assert answer.exit_code == 0, answer.output
    summary = json.loads(answer.stdout)
    assert summary == {"models": str(models), "files": [item.as_json() for item in items.values()]}
    details = {file["name"]: file["details"] for file in summary["files"] if file["folder"] == "bolid"}
    assert details["person.safetensors"] == {
        "family": "SD1.5",
        "layout": "plus",
        "tokens": 16,
        "features": {"hidden_states": 1280},
        "written_by_bolid": True,
        "aggregator": True,
        "body": True,
        "lora": False,
    }
    told = CliRunner().invoke(app, ["models", "list", "--models", str(models)]).stdout
    assert "ipadapter/sub/b.bin" in told and "cannot be read" in told and "BoLID, SD1.5" in told


# Checking

CONTENT = b"weights" * 1000


def public_file(**changes: Any) -> PublicFile:
    values: dict[str, Any] = {
        "name": "small",
        "kind": "adapter",
        "folder": "ipadapter",
        "file": "small.safetensors",
        "what": "SD1.5",
        "url": "https://example.invalid/small",
        "size": len(CONTENT),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
    }
    return PublicFile(**(values | changes))


@pytest.mark.parametrize(
    ("content", "status", "note"),
    [
        (CONTENT, "there", ""),
        (CONTENT[:-1], "damaged", "it has 6,999 bytes, the public file 7,000"),
        (CONTENT[:-1] + b"+", "damaged", "its checksum is not that of the public file"),
        (None, "missing", ""),
    ],
)
def test_a_public_file_is_compared(content: bytes | None, status: str, note: str, tmp_path: Path):
    path = tmp_path / "ipadapter" / "small.safetensors"
    path.parent.mkdir()
    if content is not None:
        path.write_bytes(content)
    checked = check_public_file(public_file(), ModelFolders(models=tmp_path))
    assert (checked.status, checked.path) == (status, path) and note in checked.note
    assert checked.size == (len(CONTENT) if content is None else len(content))


def test_a_public_file_is_found_under_another_name_and_in_other_folders(tmp_path: Path):
    elsewhere = tmp_path / "elsewhere" / "sub"
    elsewhere.mkdir(parents=True)
    (elsewhere / "renamed.bin").write_bytes(CONTENT)
    folders = ModelFolders(models=tmp_path / "models", extra={"ipadapter": (tmp_path / "elsewhere",)})
    checked = check_public_file(public_file(), folders)
    assert (checked.status, checked.path) == ("there", elsewhere / "renamed.bin")
    assert checked.note == "under the name sub/renamed.bin"


def test_a_pack_is_compared_file_by_file(tmp_path: Path):
    pack = named("antelopev2")
    folder = tmp_path / "insightface" / "models" / "antelopev2"
    folders = ModelFolders(models=tmp_path)
    assert check_public_file(pack, folders).status == "missing"
    (folder / "antelopev2").mkdir(parents=True)
    (folder / "antelopev2" / "glintr100.onnx").write_bytes(b"network")
    assert "one level too deep" in check_public_file(pack, folders).note
    (folder / "glintr100.onnx").write_bytes(b"network")
    checked = check_public_file(pack, folders)
    assert checked.status == "damaged"
    assert checked.note == "scrfd_10g_bnkps.onnx is missing; glintr100.onnx has 7 bytes, not 260,665,334"


@pytest.mark.parametrize(
    ("folders", "name", "status", "public", "note"),
    [
        (("bolid", "ipadapter"), "a.safetensors", "there", None, ""),
        (("bolid", "ipadapter"), "person.safetensors", "there", None, ""),
        (("bolid", "ipadapter"), "sub\\b.bin", "there", None, ""),
        (("bolid", "ipadapter"), "cut.safetensors", "damaged", None, "incomplete download"),
        (("bolid", "ipadapter"), "../bolid/person.safetensors", "missing", None, ""),
        (("bolid", "ipadapter"), "ip-adapter_sd15.safetensors", "missing", "ip-adapter_sd15", ""),
        (("bolid", "ipadapter"), "IPAdapter_sd15.bin", "missing", "ip-adapter_sd15", "probably ip-adapter_sd15.s"),
        (("clip_vision",), "x.safetensors", "there", None, ""),
        (("clip_vision",), "vae.safetensors", "damaged", None, "no image encoder"),
        (("mediapipe",), "pose_landmarker_full.task", "missing", "pose_landmarker_full", ""),
        (("insightface/models",), "mine", "there", None, ""),
        (("insightface/models",), "buffalo_l", "missing", "buffalo_l", ""),
        (("insightface/models",), "theirs", "missing", None, ""),
        (("checkpoints",), "base.safetensors", "missing", None, "the workflow names https://example.invalid"),
    ],
)
def test_what_a_workflow_names(
    folders: tuple[str, ...], name: str, status: str, public: str | None, note: str, models: Path
):
    wanted = Wanted(name=name, folders=folders, url="https://example.invalid" if folders == ("checkpoints",) else "")
    checked = check_wanted(wanted, ModelFolders(models=models))
    assert (checked.status, checked.file.name if checked.file else None) == (status, public)
    assert note in checked.note
    if checked.file:
        assert checked.path == checked.file.target(models)


def test_a_file_that_only_has_a_public_name_is_told(tmp_path: Path):
    path = tmp_path / "ipadapter" / "ip-adapter-plus_sd15.safetensors"
    path.parent.mkdir()
    write_safetensors(path, adapter("plus"))
    checked = check_wanted(Wanted(name=path.name, folders=("bolid", "ipadapter")), ModelFolders(models=tmp_path))
    assert checked.status == "damaged" and "the public file 98,183,288" in checked.note


def test_the_command_checks_a_workflow(models: Path, tmp_path: Path):
    workflow = tmp_path / "workflow.json"
    nodes = {
        "1": {"class_type": "BoLIDAdapterLoader", "inputs": {"adapter_name": "a.safetensors"}},
        "2": {"class_type": "CLIPVisionLoader", "inputs": {"clip_name": "x.safetensors"}},
    }
    workflow.write_text(json.dumps(nodes))
    arguments = ["models", "check", "--models", str(models), "--workflow", str(workflow)]
    answer = CliRunner().invoke(app, [*arguments, "--json"])
    assert answer.exit_code == 0, answer.output
    assert [file["status"] for file in json.loads(answer.stdout)["files"]] == ["there", "there"]
    nodes["3"] = {"class_type": "BoLIDFaceAnalysisLoader", "inputs": {"model_pack": "buffalo_l"}}
    workflow.write_text(json.dumps(nodes))
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 1
    assert "289 MB" in answer.stdout
    assert f"{PACK} models download buffalo_l --models {models}\n" in answer.stdout
    answer = CliRunner().invoke(app, ["models", "check", "--models", str(models), "--json"])
    assert answer.exit_code == 1  # a pack lies one level too deep
    assert [file["name"] for file in json.loads(answer.stdout)["files"]] == [file.name for file in PUBLIC_FILES]
