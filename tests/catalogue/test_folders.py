"""Where models lie: --models, COMFYUI_DIR, the ComfyUI around the pack, and extra_model_paths.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest

from bolid.catalogue import folders as folders_module
from bolid.catalogue.folders import ModelFolders, download_command, find_model_folders


@pytest.fixture
def comfyui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ComfyUI's folder; this pack does not lie in it."""
    monkeypatch.delenv("COMFYUI_DIR", raising=False)
    monkeypatch.setattr(folders_module, "PACK", tmp_path / "bolid")
    folder = tmp_path / "ComfyUI"
    for name in ("models", "custom_nodes"):
        (folder / name).mkdir(parents=True)
    return folder


@pytest.mark.parametrize("given", ["models", "."])
def test_the_given_folder(given: str, comfyui: Path):
    assert find_model_folders(comfyui / given).models == comfyui / "models"


def test_comfyui_dir(comfyui: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COMFYUI_DIR", str(comfyui))
    assert find_model_folders().models == comfyui / "models"
    monkeypatch.setenv("COMFYUI_DIR", str(comfyui.parent))
    with pytest.raises(ValueError, match=f"COMFYUI_DIR is {comfyui.parent}, which has no folder models"):
        find_model_folders()


@pytest.mark.parametrize("is_link", [False, True])
def test_the_comfyui_around_the_pack(is_link: bool, comfyui: Path, monkeypatch: pytest.MonkeyPatch):
    pack = comfyui / "custom_nodes" / "ComfyUI-BoLID"
    if is_link:
        checkout = comfyui.parent / "checkout"
        checkout.mkdir()
        pack.symlink_to(checkout, target_is_directory=True)
    monkeypatch.setattr(folders_module, "PACK", pack)
    assert find_model_folders().models == comfyui / "models"
    assert "--models" not in download_command("buffalo_l", models=comfyui / "models")
    assert f"--models {comfyui / 'elsewhere'}" in download_command("buffalo_l", models=comfyui / "elsewhere")


def test_no_comfyui_is_an_error_that_says_what_to_give(comfyui: Path):
    with pytest.raises(ValueError, match=r"Which ComfyUI is meant is not known.*--models FOLDER, or set COMFYUI_DIR"):
        find_model_folders()
    with pytest.raises(ValueError, match="There is no folder .*nowhere. Give --models"):
        find_model_folders(comfyui / "nowhere")


EXTRA = """
comfyui:
  base_path: shared
  is_default: true
  ipadapter: models/ipadapter/
  clip_vision: |
    models/clip_vision
    $ELSEWHERE/clip
empty:
without_base:
  ipadapter: local
"""


def test_extra_model_paths_are_read_as_comfyui_reads_them(comfyui: Path):
    (comfyui / "extra_model_paths.yaml").write_text(EXTRA, encoding="utf-8")
    found = find_model_folders(comfyui / "models")
    assert found.of("ipadapter") == (
        comfyui / "models" / "ipadapter",
        comfyui / "shared" / "models" / "ipadapter",
        comfyui / "local",
    )
    assert found.of("clip_vision")[1] == comfyui / "shared" / "models" / "clip_vision"
    assert found.of("bolid") == (comfyui / "models" / "bolid",)


@pytest.mark.parametrize("text", ["comfyui: [", "- a list", "comfyui: text", "comfyui:\n  loras: 3"])
def test_extra_model_paths_that_cannot_be_read(text: str, comfyui: Path):
    (comfyui / "extra_model_paths.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"extra_model_paths\.yaml cannot be read .*\.example shows"):
        find_model_folders(comfyui)


def test_a_name_is_found_inside_the_folders_only(tmp_path: Path):
    inside = tmp_path / "models" / "ipadapter" / "sub" / "a.bin"
    inside.parent.mkdir(parents=True)
    inside.write_bytes(b"")
    (tmp_path / "outside.bin").write_bytes(b"")
    found = ModelFolders(models=tmp_path / "models")
    assert found.find("ipadapter", "sub/a.bin") == found.find("ipadapter", "sub\\a.bin") == inside
    for name in ("../../outside.bin", str(tmp_path / "outside.bin"), "a.bin", ""):
        assert found.find("ipadapter", name) is None
