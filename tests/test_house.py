"""The rooms, their direction, the package, and the two commands."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HEAVY = ("comfy", "cv2", "diffusers", "insightface", "mediapipe", "onnxruntime", "torch", "transformers")


def rooms() -> list[str]:
    """Every folder of the root that users get as a package, as a dotted name."""
    found = ["bolid"]
    for initial in sorted(ROOT.glob("[a-z]*/**/__init__.py")):
        parts = initial.parent.relative_to(ROOT).parts
        if parts[0] not in ("bench", "tests"):
            found.append(".".join(("bolid", *parts)))
    return found


def checkout_copy(folder: Path) -> Path:
    """The files of this checkout that are code or data, in a folder of another name."""
    ignored = shutil.ignore_patterns(".*", "__pycache__", "output", "build", "data", "runs", "*.egg-info")
    return Path(shutil.copytree(ROOT, folder, ignore=ignored))


def run(*command: object, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )


def test_the_rooms_point_one_way():
    answer = run(Path(sys.executable).with_name("lint-imports"), "--no-logo")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert f"Contracts: {len(PROJECT['tool']['importlinter']['contracts'])} kept, 0 broken" in answer.stdout


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("models", "from ..nodes import types"),
        ("models", "def lazy():\n    import comfy.utils"),
        ("models", "import diffusers"),
        ("hosts", "from ..nodes import types"),
        ("nodes", "import diffusers"),
    ],
)
def test_an_import_against_the_direction_is_found(room: str, line: str, tmp_path: Path):
    copy = checkout_copy(tmp_path / "bolid")
    (copy / room / "against_the_direction.py").write_text(line + "\n")
    # import-linter puts its working directory first on the path, and `bolid` lies in this one.
    answer = run(
        Path(sys.executable).with_name("lint-imports"), "--config", copy / "pyproject.toml", "--no-cache", cwd=tmp_path
    )
    assert answer.returncode == 1, answer.stdout + answer.stderr
    assert f"bolid.{room}.against_the_direction" in answer.stdout


def test_pyproject_lists_every_room():
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(rooms())


def test_the_wheel_holds_every_room_and_nothing_else(tmp_path: Path):
    copy = checkout_copy(tmp_path / "ComfyUI-BoLID")
    answer = run(
        sys.executable, "-m", "uv", "build", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir",
        tmp_path, copy,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout + answer.stderr
    (wheel,) = tmp_path.glob("bolid-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    modules = {name for name in names if name.endswith(".py")}
    expected = {
        (Path("bolid") / file.relative_to(ROOT)).as_posix()
        for room in rooms()
        for file in ROOT.joinpath(*room.split(".")[1:]).glob("*.py")
    }
    assert modules == expected
    data = {
        (Path("bolid") / file.relative_to(ROOT)).as_posix()
        for folder in ("web", "workflows", "training/configs", "evaluation/configs")
        for file in (ROOT / folder).rglob("*")
        if file.is_file()
    }
    assert data <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_installed_metadata_are_those_of_pyproject():
    metadata = importlib.metadata.metadata("bolid")
    assert metadata["Version"] == PROJECT["project"]["version"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata.get_all("Provides-Extra") or ()) == {"evaluate", "faces", "train", "test", "world"}


def test_comfyui_reads_our_entry_for_its_registry():
    from comfy_config.config_parser import extract_node_configuration

    configuration = extract_node_configuration(str(ROOT))
    assert configuration is not None
    assert configuration.project.name == "bolid"
    assert configuration.project.supported_comfyui_version == ">=0.30"
    assert (configuration.tool_comfy.publisher_id, configuration.tool_comfy.display_name) == ("bolid", "BoLID")
    # A web folder given here breaks where the folder of the clone is not called like the project.
    assert configuration.tool_comfy.web is None


def test_importing_the_package_imports_nothing_heavy():
    answer = run(sys.executable, "-c", "import bolid, sys; print(*sys.modules)")
    assert answer.returncode == 0, answer.stderr
    loaded = set(answer.stdout.split())
    assert "bolid" in loaded
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize("room", ["models", "detectors"])
def test_importing_a_room_leaves_detectors_and_diffusers_alone(room: str):
    modules = [f"bolid.{room}.{file.stem}" for file in (ROOT / room).glob("*.py") if file.stem != "__init__"]
    answer = run(sys.executable, "-c", f"import sys, {', '.join(modules)}; print(*sys.modules)")
    assert answer.returncode == 0, answer.stderr
    assert not set(answer.stdout.split()) & (set(HEAVY) - {"torch"})


def test_importing_the_nodes_leaves_detectors_and_diffusers_alone(comfyui_dir: Path):
    code = (
        f"import sys; sys.path.insert(0, {str(comfyui_dir)!r}); from comfy.cli_args import args; args.cpu = True; "
        "import bolid.nodes; print(*sys.modules)"
    )
    answer = run(sys.executable, "-c", code)
    assert answer.returncode == 0, answer.stderr
    loaded = set(answer.stdout.split())
    assert "bolid.nodes.body" in loaded
    assert not loaded & {"diffusers", "insightface", "mediapipe", "onnxruntime"}  # ComfyUI itself loads cv2


def test_ci_runs_the_tests_of_the_readme(tmp_path: Path):
    (tmp_path / ".ci").mkdir()
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    (tmp_path / "scripts" / "test").write_text("#!/bin/sh\necho the tests ran in $PWD\nexit 3\n")
    (tmp_path / "scripts" / "test").chmod(0o755)
    answer = run("bash", tmp_path / ".ci" / "run", cwd=Path("/"))
    assert (answer.returncode, answer.stdout) == (3, f"the tests ran in {tmp_path.resolve()}\n")


@pytest.mark.parametrize("command", ["demo", "test"])
def test_the_commands_explain_themselves_before_they_set_anything_up(command: str, tmp_path: Path):
    answer = run(ROOT / "scripts" / command, "--help", cwd=tmp_path, BOLID_VENV=str(tmp_path / "venv"))
    assert answer.returncode == 0, answer.stderr
    assert f"Usage: scripts/{command}" in answer.stdout
    assert not list(tmp_path.iterdir())


SOURCE_ENVIRONMENT = f"set -euo pipefail; source '{ROOT}/scripts/environment.sh'; "


def test_a_comfyui_that_is_none_is_refused(tmp_path: Path):
    answer = run("bash", "-c", SOURCE_ENVIRONMENT, COMFYUI_DIR=str(tmp_path), BOLID_VENV=sys.prefix)
    assert answer.returncode == 1
    assert f"COMFYUI_DIR={tmp_path} is no ComfyUI" in answer.stderr


def test_an_environment_of_somebody_else_is_never_installed_into(comfyui_dir: Path, tmp_path: Path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    before = sorted(tmp_path.rglob("*"))
    answer = run(
        "bash", "-c", SOURCE_ENVIRONMENT + "bolid_require torch",
        BOLID_VENV=str(tmp_path / "venv"), COMFYUI_DIR=str(comfyui_dir),
    )  # fmt: skip
    assert answer.returncode == 1
    assert "packages are missing" in answer.stderr and "torch" in answer.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_the_pinned_comfyui_is_fetched_by_its_checksum():
    script = (ROOT / "scripts" / "environment.sh").read_text(encoding="utf-8")
    assert "COMFYUI_ARCHIVE_SHA256=de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a" in script
    assert "--require-hashes" in script
