"""Downloads from a local server that speaks the Hub's protocol: whole, cut, wrong, refused, stopped."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import huggingface_hub.file_download
import pytest

from bolid.catalogue import download as download_module
from bolid.catalogue.download import DownloadError, download, with_needed
from bolid.catalogue.folders import ModelFolders
from bolid.catalogue.public_files import RESEARCH_ONLY, Member, PublicFile, named

from ..support.hub import Hub, wait_until

CONTENT = bytes(range(256)) * 4096  # 1 MiB
ON_HUB = "h94/IP-Adapter/models/adapter.safetensors"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The server, as the Hub; nothing waits between attempts."""
    with Hub(files={ON_HUB: CONTENT}) as running:
        template = running.address + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {"ENDPOINT": running.address, "HUGGINGFACE_CO_URL_TEMPLATE": template}.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
            if hasattr(huggingface_hub.file_download, name):
                monkeypatch.setattr(huggingface_hub.file_download, name, value)
        monkeypatch.setattr(huggingface_hub.file_download.time, "sleep", lambda seconds: None)
        # What has arrived of a piece is lost with the connection.
        monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1 << 14)
        yield running


@pytest.fixture
def folders(tmp_path: Path) -> ModelFolders:
    return ModelFolders(models=tmp_path / "models")


def public_file(**changes: Any) -> PublicFile:
    """A file on the Hub."""
    values: dict[str, Any] = {
        "name": "adapter",
        "kind": "adapter",
        "folder": "ipadapter",
        "file": "adapter.safetensors",
        "what": "SD1.5",
        "repository": "h94/IP-Adapter",
        "revision": "main",
        "path": "models/adapter.safetensors",
        "size": len(CONTENT),
        "sha256": sha256(CONTENT),
    }
    return PublicFile(**(values | changes))


def left_over(folders: ModelFolders) -> list[str]:
    return sorted(path.name for path in folders.models.rglob("*") if path.is_file())


def test_a_file_arrives_whole_under_its_name(hub: Hub, folders: ModelFolders):
    told: list[tuple[str, int, int]] = []
    assert download(public_file(), folders, lambda *call: told.append(call)).is_new
    assert (folders.models / "ipadapter" / "adapter.safetensors").read_bytes() == CONTENT
    assert left_over(folders) == ["adapter.safetensors"]
    assert ("downloading adapter", 0, len(CONTENT)) == told[0]
    assert ("downloading adapter", len(CONTENT), len(CONTENT)) in told
    assert told[-1][0].startswith("checking ") and told[-1][1:] == (len(CONTENT), len(CONTENT))
    asked = len(hub.requests)
    assert not download(public_file(), folders).is_new
    assert len(hub.requests) == asked


def test_what_is_not_known_comes_from_the_hub(hub: Hub, folders: ModelFolders):
    file = public_file(size=None, sha256=None)
    assert download(file, folders).is_new
    assert left_over(folders) == ["adapter.safetensors"]
    hub.etags[ON_HUB] = sha256(b"another file")
    (folders.models / "ipadapter" / "adapter.safetensors").unlink()
    with pytest.raises(DownloadError, match="arrived with the checksum"):
        download(file, folders)
    assert left_over(folders) == []


def test_a_cut_connection_goes_on_within_a_run(hub: Hub, folders: ModelFolders):
    hub.cut_after = len(CONTENT) // 3
    assert download(public_file(), folders).is_new
    assert (folders.models / "ipadapter" / "adapter.safetensors").read_bytes() == CONTENT
    ranges = [range_ for range_ in hub.asked("GET", ON_HUB) if range_]
    assert len(set(ranges)) >= 2


def test_a_cut_connection_goes_on_in_the_next_run(hub: Hub, folders: ModelFolders, monkeypatch: pytest.MonkeyPatch):
    hub.cut_after = 100_000
    attempts = iter(range(100))

    def fail_after_two(response: Any) -> None:
        if next(attempts) >= 2:
            raise ConnectionResetError("the cable was pulled")

    real = huggingface_hub.file_download.hf_raise_for_status
    monkeypatch.setattr(
        huggingface_hub.file_download,
        "hf_raise_for_status",
        lambda response: (fail_after_two(response), real(response)),
    )
    with pytest.raises(DownloadError, match=r"the cable was pulled.*the same command goes on from here"):
        download(public_file(), folders)
    (partial,) = left_over(folders)
    have = (folders.models / "ipadapter" / partial).stat().st_size
    assert partial == f".adapter.safetensors.{sha256(CONTENT)[:12]}.partial" and 0 < have < len(CONTENT)
    monkeypatch.setattr(huggingface_hub.file_download, "hf_raise_for_status", real)
    hub.cut_after, hub.requests = None, []
    assert download(public_file(), folders).is_new
    assert (folders.models / "ipadapter" / "adapter.safetensors").read_bytes() == CONTENT
    assert left_over(folders) == ["adapter.safetensors"]
    assert set(hub.asked("GET", ON_HUB)) == {f"bytes={have}-"}


def test_a_partial_file_that_is_too_long_or_wrong_does_no_harm(hub: Hub, folders: ModelFolders):
    partial = folders.models / "ipadapter" / f".adapter.safetensors.{sha256(CONTENT)[:12]}.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(CONTENT + b"more")
    assert download(public_file(), folders).is_new
    (folders.models / "ipadapter" / "adapter.safetensors").unlink()
    partial.write_bytes(b"x" * 1000)
    with pytest.raises(DownloadError, match=f"arrived with the checksum .*, not {sha256(CONTENT)}; it was deleted"):
        download(public_file(), folders)
    assert left_over(folders) == []
    assert download(public_file(), folders).is_new


@pytest.mark.parametrize("change", [{"sha256": sha256(b"other")}, {"size": 7}])
def test_another_file_on_the_hub_is_not_even_begun(change: dict[str, Any], hub: Hub, folders: ModelFolders):
    with pytest.raises(DownloadError, match=r"is another file than BoLID knows: 1\.05 MB"):
        download(public_file(**change), folders)
    assert not hub.asked("GET", ON_HUB) and left_over(folders) == []


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"wants an account \(HTTP 401\).*HF_TOKEN.*put it into models/ipadapter as adapter\.safetensors"),
        (403, r"wants an account \(HTTP 403\)"),
        (404, r"is not there \(HTTP 404\)"),
        (429, r"too often from here \(HTTP 429\).*Wait some minutes"),
        (500, r"answered with HTTP 500"),
    ],
)
def test_answers_that_are_no_files(status: int, message: str, hub: Hub, folders: ModelFolders):
    hub.status[ON_HUB] = status
    with pytest.raises(DownloadError, match=message):
        download(public_file(), folders)
    assert left_over(folders) == []


def test_no_network(folders: ModelFolders, monkeypatch: pytest.MonkeyPatch):
    with Hub() as gone:
        address = gone.address
    monkeypatch.setattr(huggingface_hub.file_download.time, "sleep", lambda seconds: None)
    file = public_file(url=f"{address}/adapter.safetensors")
    with pytest.raises(DownloadError, match=r"could not be downloaded from .*Check the connection, a proxy"):
        download(file, folders)
    # An empty beginning may stay; the name itself must not.
    assert "adapter.safetensors" not in left_over(folders)


def test_offline_mode_is_respected(hub: Hub, folders: ModelFolders, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match=r"because HF_HUB_OFFLINE is set\. Unset it"):
        download(public_file(), folders)
    assert not hub.requests


def test_no_space(hub: Hub, folders: ModelFolders, monkeypatch: pytest.MonkeyPatch):
    free = SimpleNamespace(free=len(CONTENT) + 1000)
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda folder: free)
    with pytest.raises(DownloadError, match=r"adapter needs 1\.05 MB more, but the disk of .* has 1\.05 MB free"):
        download(public_file(), folders)
    assert not hub.asked("GET", ON_HUB)
    free.free += download_module.SPARE
    assert download(public_file(), folders).is_new


def test_a_disk_that_fills_up(hub: Hub, folders: ModelFolders, monkeypatch: pytest.MonkeyPatch):
    def full(self: Any, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download_module._ToldFile, "write", full)
    with pytest.raises(DownloadError, match="The disk was full before adapter was whole. Make room"):
        download(public_file(), folders)
    assert "adapter.safetensors" not in left_over(folders)


def test_another_file_under_the_name_is_kept(hub: Hub, folders: ModelFolders):
    path = folders.models / "ipadapter" / "adapter.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"is there already, and it has 4 bytes, the public file 1,048,576"):
        download(public_file(), folders)
    assert path.read_bytes() == b"mine" and not hub.requests


def test_a_file_in_another_of_comfyuis_folders_will_do(hub: Hub, folders: ModelFolders, tmp_path: Path):
    path = tmp_path / "shared" / "adapter.safetensors"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    elsewhere = ModelFolders(models=folders.models, extra={"ipadapter": (path.parent,)})
    assert download(public_file(), elsewhere) == (path, False) and not hub.requests
    path.write_bytes(CONTENT[1:])
    with pytest.raises(ValueError, match=f"{path} is there already"):
        download(public_file(), elsewhere)
    # Under another name no graph finds it.
    path.write_bytes(CONTENT)
    path.rename(path.with_name("mine.safetensors"))
    assert download(public_file(), elsewhere) == (folders.models / "ipadapter" / "adapter.safetensors", True)


def test_a_folder_that_may_not_be_written_to(hub: Hub, folders: ModelFolders, monkeypatch: pytest.MonkeyPatch):
    def refuse(source: object, target: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(download_module.os, "replace", refuse)
    with pytest.raises(DownloadError, match=r"cannot be written to .*ipadapter .*Run this as the user"):
        download(public_file(), folders)


def test_two_processes_do_not_write_into_one_file(hub: Hub, folders: ModelFolders):
    partial = folders.models / "ipadapter" / f".adapter.safetensors.{sha256(CONTENT)[:12]}.partial"
    partial.parent.mkdir(parents=True)
    with download_module._alone(partial), pytest.raises(DownloadError, match="Another process is downloading"):
        download(public_file(), folders)
    assert download(public_file(), folders).is_new
    assert left_over(folders) == ["adapter.safetensors"]


def test_other_servers_never_see_the_hubs_token(hub: Hub, folders: ModelFolders, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.files["other/adapter.safetensors"] = CONTENT
    download(public_file(), folders)
    assert hub.tokens and all("/resolve/" in path and token == "Bearer hf_secret" for path, token in hub.tokens)
    hub.tokens = []
    plain = public_file(name="plain", file="plain.safetensors", url=f"{hub.address}/other/adapter.safetensors")
    download(plain, folders)
    assert hub.asked("GET", "other/adapter.safetensors") and not hub.tokens


# Packs

DETECTOR, RECOGNISER = b"detector" * 1000, b"recogniser" * 1000


def archive(*entries: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in entries:
            packed.writestr(name, content)
    return out.getvalue()


def pack(hub: Hub, content: bytes, *, detector: bytes = DETECTOR) -> PublicFile:
    hub.files["packs/buffalo_l.zip"] = content
    return PublicFile(
        name="buffalo_l",
        kind="insightface pack",
        folder="insightface/models",
        file="buffalo_l",
        what="a pack",
        url=f"{hub.address}/packs/buffalo_l.zip",
        size=len(content),
        sha256=sha256(content),
        licence=RESEARCH_ONLY,
        members=(
            Member(file="det_10g.onnx", size=len(detector), sha256=sha256(detector), is_needed=True),
            Member(file="w600k_r50.onnx", size=len(RECOGNISER), sha256=sha256(RECOGNISER), is_needed=True),
        ),
    )


@pytest.mark.parametrize("prefix", ["", "buffalo_l/", "../../../"])
def test_a_pack_is_unpacked_into_its_folder_and_nowhere_else(prefix: str, hub: Hub, folders: ModelFolders):
    content = archive(
        (f"{prefix}det_10g.onnx", DETECTOR), (f"{prefix}w600k_r50.onnx", RECOGNISER), ("../evil.txt", b"evil")
    )
    assert download(pack(hub, content), folders).is_new
    root = folders.models / "insightface" / "models"
    assert left_over(folders) == ["det_10g.onnx", "w600k_r50.onnx"]
    assert (root / "buffalo_l" / "det_10g.onnx").read_bytes() == DETECTOR
    assert [path.name for path in root.iterdir()] == ["buffalo_l"]
    assert not list(folders.models.parent.rglob("evil.txt"))
    assert not download(pack(hub, content), folders).is_new


def test_a_pack_that_lacks_a_file_is_completed(hub: Hub, folders: ModelFolders):
    folder = folders.models / "insightface" / "models" / "buffalo_l"
    folder.mkdir(parents=True)
    (folder / "det_10g.onnx").write_bytes(DETECTOR[:100])
    (folder / "mine.onnx").write_bytes(b"mine")
    content = archive(("det_10g.onnx", DETECTOR), ("w600k_r50.onnx", RECOGNISER))
    assert download(pack(hub, content), folders).is_new
    assert left_over(folders) == ["det_10g.onnx", "mine.onnx", "w600k_r50.onnx"]
    assert (folder / "det_10g.onnx").read_bytes() == DETECTOR


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ((("det_10g.onnx", DETECTOR),), r"has no w600k_r50\.onnx"),
        ((("det_10g.onnx", DETECTOR + b"+"), ("w600k_r50.onnx", RECOGNISER)), r"det_10g\.onnx .*another checksum"),
        ((("det_10g.onnx", b"0" * 10**6), ("w600k_r50.onnx", RECOGNISER)), r"det_10g\.onnx .*another checksum"),
    ],
)
def test_an_archive_of_something_else(entries: Any, message: str, hub: Hub, folders: ModelFolders):
    with pytest.raises(DownloadError, match=message):
        download(pack(hub, archive(*entries)), folders)
    root = folders.models / "insightface" / "models"
    assert [path.name for path in root.iterdir() if path.is_dir()] == []


def test_an_archive_that_is_none(hub: Hub, folders: ModelFolders):
    with pytest.raises(DownloadError, match=r"The archive of buffalo_l is damaged"):
        download(pack(hub, b"no archive"), folders)


def test_a_pack_is_told_to_be_for_research(hub: Hub, folders: ModelFolders, caplog: pytest.LogCaptureFixture):
    download(pack(hub, archive(("det_10g.onnx", DETECTOR), ("w600k_r50.onnx", RECOGNISER))), folders)
    assert "buffalo_l may be used for non-commercial research only" in caplog.text


def test_what_a_file_needs_comes_along():
    files = with_needed([named("ip-adapter-faceid-plusv2_sd15"), named("clip-vit-h")])
    assert [file.name for file in files] == ["ip-adapter-faceid-plusv2_sd15", "clip-vit-h", "buffalo_l"]


# The command


def command(*arguments: object, hub: Hub | None = None, **environment: str) -> subprocess.Popen[str]:
    names = {"HF_ENDPOINT": hub.address} if hub else {}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.Popen(
        [sys.executable, "-m", "bolid", "models", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=kept | names | environment,
    )


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    process = command(*arguments, **options)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


PORTRAIT = named("ip-adapter-faceid-portrait_sd15")
"""The file of which neither size nor checksum is pinned, so that a test can serve any content for it."""

PORTRAIT_ON_HUB = f"{PORTRAIT.repository}/{PORTRAIT.path}"


def test_ctrl_c_leaves_no_half_file_and_the_same_command_goes_on(tmp_path: Path):
    models = tmp_path / "models"
    models.mkdir()
    target = PORTRAIT.target(models)
    content = CONTENT * 40
    with Hub(files={PORTRAIT_ON_HUB: content}, pause=0.01) as hub:
        process = command("download", PORTRAIT.name, "--models", models, hub=hub)
        partials = f".{PORTRAIT.file}.*.partial"
        wait_until(lambda: any(path.stat().st_size for path in target.parent.glob(partials)))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130 and "Stopped. The same command goes on from here." in err
        (partial,) = target.parent.glob(partials)
        have = partial.stat().st_size
        assert not target.exists() and 0 < have < len(content)

        hub.pause, hub.requests = 0.0, []
        answer = run("download", PORTRAIT.name, "--models", models, "--json", hub=hub)
        assert answer.returncode == 0, answer.stderr
        assert json.loads(answer.stdout)["files"] == [
            {"name": PORTRAIT.name, "path": str(target), "downloaded": True, "needs": ["buffalo_l"]}
        ]
        assert "non-commercial research only" in " ".join(answer.stderr.split())
        assert set(hub.asked("GET", PORTRAIT_ON_HUB)) == {f"bytes={have}-"}
    assert target.read_bytes() == content
    assert left_over(ModelFolders(models=models)) == [PORTRAIT.file]


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (("download", PORTRAIT.name), {"HF_HUB_OFFLINE": "1"}, "because HF_HUB_OFFLINE is set"),
        (("download",), {}, "Nothing to download"),
    ],
)
def test_errors_are_one_message(arguments: tuple[str, ...], environment: dict[str, str], message: str, tmp_path: Path):
    answer = run(*arguments, "--models", tmp_path, **environment)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.count("bolid: ") == 1 and message in answer.stderr and "Traceback" not in answer.stderr


def test_without_a_models_folder_the_message_says_what_to_give(tmp_path: Path):
    answer = run("check", COMFYUI_DIR=str(tmp_path))
    assert answer.returncode == 2 and f"COMFYUI_DIR is {tmp_path}, which has no folder models" in answer.stderr


def test_a_clone_runs_without_being_installed(tmp_path: Path):
    """`python FOLDER`, as the nodes' messages say it, in a folder of another name."""
    root = Path(__file__).resolve().parents[2]
    clone = tmp_path / "ComfyUI" / "custom_nodes" / "ComfyUI-BoLID-main"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "tests", "bench", "data", "runs", "weights", "output", "docs")
    shutil.copytree(root, clone, ignore=ignored)
    (tmp_path / "ComfyUI" / "models").mkdir()
    # Isolated, as ComfyUI's portable Python is; the installed package must not help.
    answer = subprocess.run(
        [sys.executable, "-I", str(clone), "models", "check", "clip-vit-h", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "COMFYUI_DIR"},
    )
    assert answer.returncode == 1, answer.stderr
    summary = json.loads(answer.stdout)
    assert summary["models"] == str(tmp_path / "ComfyUI" / "models")
    assert [file["status"] for file in summary["files"]] == ["missing"]
