"""What the nodes say of files that are missing, and what the loader says of the one it has loaded."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import folder_paths
import pytest
from comfy_execution.utils import CurrentNodeContext

from bolid.catalogue.folders import PACK
from bolid.nodes.adapters import BoLIDAdapterLoader
from bolid.nodes.model_folders import (
    aesthetic_model_path,
    insightface_packs,
    missing_adapter_message,
    pose_model_path,
    register_model_folders,
)

from ..support.adapter_files import SD15_LAYERS, adapter_state_dict, write_bin, write_safetensors


@pytest.fixture
def models_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty models folder."""
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", {})
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    register_model_folders()
    return tmp_path


def command_in(message: str) -> list[str]:
    return shlex.split(message.partition("To download it: ")[2])


def test_a_missing_adapter_names_the_public_file_its_size_its_folder_and_the_command(models_dir: Path):
    message = BoLIDAdapterLoader.validate_inputs("SD1.5\\IPAdapter_plus_sd15.bin")
    assert (
        "It is probably the public file ip-adapter-plus_sd15.safetensors (98.2 MB), which belongs into "
        f"{models_dir / 'ipadapter'}. It needs clip-vit-h beside it." in message
    )
    expected = [sys.executable, str(PACK), "models", "download", "ip-adapter-plus_sd15", "--models", str(models_dir)]
    assert command_in(message) == expected


@pytest.mark.parametrize("name", ["my_person.safetensors", "", None])
def test_a_file_of_ones_own_is_not_taken_for_a_public_one(name: str | None, models_dir: Path):
    assert "public file" not in missing_adapter_message(name)


def test_missing_pose_and_aesthetic_models_name_the_public_file(models_dir: Path):
    with pytest.raises(FileNotFoundError, match=r"public file pose_landmarker_full\.task \(9\.4 MB\)") as caught:
        pose_model_path("pose_landmarker_full.task")
    assert "pose_landmarker_full" in command_in(str(caught.value))
    with pytest.raises(
        FileNotFoundError, match=r"public file sac\+logos.*\.pth \(3\.71 MB\).*needs clip-vit-l"
    ) as caught:
        aesthetic_model_path("sac+logos+ava1-l14-linearMSE.safetensors")
    assert "laion-aesthetic" in command_in(str(caught.value))


def test_a_pack_that_is_being_unpacked_is_no_pack(models_dir: Path):
    for name in (".buffalo_l.partial", "mine"):
        (models_dir / "insightface" / "models" / name).mkdir(parents=True)
    assert insightface_packs() == ["buffalo_l", "antelopev2", "mine"]


def state_dict(layout: str) -> dict[str, Any]:
    layers = [(layer.key, 8) for layer in SD15_LAYERS]
    return adapter_state_dict(layout, layers=layers, cross_attention_dim=768, resampler_width=64, lora_rank=2)


def test_the_loader_says_what_the_file_is(models_dir: Path, monkeypatch: pytest.MonkeyPatch):
    folder = models_dir / "ipadapter"
    folder.mkdir()
    write_safetensors(folder / "a.safetensors", state_dict("plus"))
    write_bin(folder / "b.bin", state_dict("faceid_plus"))
    output = BoLIDAdapterLoader.execute("a.safetensors")
    text = "SD1.5, plus, 16 tokens per photo\nneeds CLIP ViT-H/14"
    assert output.ui.as_dict() == {"text": (text,)}

    sent: list[tuple[str, str]] = []
    instance = SimpleNamespace(send_progress_text=lambda *call: sent.append(call))
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)))
    with CurrentNodeContext(prompt_id="1", node_id="7"):
        BoLIDAdapterLoader.execute("b.bin", "v1")
    (told,) = sent
    assert told == (
        "SD1.5, FaceID-plus v1, 4 tokens per photo, LoRA\nneeds CLIP ViT-H/14, insightface",
        "7",
    )
