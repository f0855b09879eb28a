"""The commands of clients/examples, as others run them, against a real server."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from comfyui_client import ComfyUIClient, ExecutionError
from local_server import LocalServer
from PIL import Image

from .graphs import ENCODER, LOADER, POOLING, PROMPT, REPORT, ROOT, SAMPLER, SAVER, small_graph

pytestmark = pytest.mark.server

EXAMPLES = ROOT / "clients" / "examples"
PYTHON, CURL = EXAMPLES / "one_person.py", EXAMPLES / "curl.sh"


@pytest.fixture
def client(server: LocalServer) -> ComfyUIClient:
    return server.client


@pytest.fixture
def photos(photographs: dict[str, Image.Image], tmp_path: Path) -> Path:
    """A folder with two photos of one person, one of nobody, and a text."""
    folder = tmp_path / "photos of Anna"
    folder.mkdir()
    photographs["carphone_0"].save(folder / "1.png")
    photographs["carphone_2"].save(folder / "2 (copy).JPG", "JPEG")
    Image.new("RGB", (176, 144), (90, 120, 200)).save(folder / "3.png")
    (folder / "notes.txt").write_text("not a photo")
    return folder


def write_graph(folder: Path, **settings: Any) -> Path:
    graph = small_graph(**settings)
    del graph[REPORT]
    file = folder / "graph.json"
    file.write_text(json.dumps(graph), encoding="utf-8")
    return file


def python_command(photos: Path, output: Path, graph: Path, server: LocalServer, *arguments: object) -> list[str]:
    command = [sys.executable, PYTHON, photos, "--output", output, "--workflow", graph, "--server", server.address]
    return [str(part) for part in (*command, *arguments)]


def run_python(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(python_command(*arguments), capture_output=True, text=True)


def run_curl(
    photos: Path, output: Path, graph: Path, server: LocalServer, *arguments: str
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COMFYUI": server.address, "WORKFLOW": str(graph)}
    return subprocess.run(
        ["bash", str(CURL), str(photos), str(output), *arguments], env=environment, capture_output=True, text=True
    )


COMMANDS = pytest.mark.parametrize("run", [run_python, run_curl], ids=["python", "curl"])


def assert_nothing_left(folder: Path) -> None:
    """Neither results nor a folder of unfinished work."""
    assert sorted(path.name for path in folder.iterdir()) == ["graph.json", "photos of Anna"]


def last_prompt(client: ComfyUIClient) -> dict[str, Any]:
    """The graph of the last run, as the server had it."""
    (entry,) = client._request("GET", "/history", params={"max_items": 1}).json().values()
    return entry["prompt"][2]


def test_one_person_fills_in_the_graph_tells_progress_and_writes_pictures_and_reports(
    client: ComfyUIClient, server: LocalServer, photos: Path, tmp_path: Path
):
    graph = write_graph(tmp_path)
    output = tmp_path / "results" / "anna"
    options = ("--prompt", "a person by the sea", "--weight", 0.25, "--seed", 4711)
    answer = run_python(photos, output, graph, server, *options)
    assert (answer.returncode, answer.stderr) == (0, "")

    told = answer.stdout.splitlines()
    assert told.index("node 12 (KSampler)") < told.index("node 12 (KSampler): step 1 of 3")
    assert told.index("node 12 (KSampler): step 1 of 3") < told.index("node 12 (KSampler): step 3 of 3")

    sent = last_prompt(client)
    assert sent[LOADER]["inputs"] == {
        "folder": "",
        "files": "one_person/1.png\none_person/2 (copy).JPG\none_person/3.png",
    }
    assert sent[PROMPT]["inputs"]["text"] == "a person by the sea"
    assert (sent["8"]["inputs"]["face_weight"], sent[SAMPLER]["inputs"]["seed"]) == (0.25, 4711)

    names = [path.name for path in output.iterdir()]
    (picture,) = [name for name in names if name.startswith(f"{SAVER}_")]
    reports = {f"{ENCODER}_MultiRefImageEncoder_report.json", f"{POOLING}_PoolingAggregator_report.json"}
    assert set(names) == {picture} | reports
    with Image.open(output / picture) as image:
        image.load()
        assert (image.format, image.size) == ("PNG", (64, 64))
    report = json.loads((output / f"{ENCODER}_MultiRefImageEncoder_report.json").read_text(encoding="utf-8"))
    assert report["kept"] == len(report["photos"]) == 3
    assert [path.name for path in output.parent.iterdir()] == ["anna"], "no unfinished work"


def test_one_person_says_which_photo_was_left_out(server: LocalServer, photos: Path, tmp_path: Path):
    graph = json.loads(write_graph(tmp_path).read_text(encoding="utf-8"))
    graph[ENCODER]["inputs"]["crop"] = "face"
    (tmp_path / "graph.json").write_text(json.dumps(graph), encoding="utf-8")
    answer = run_python(photos, tmp_path / "out", tmp_path / "graph.json", server)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("was left out") == 1
    assert "3.png was left out: no face found\n" in answer.stdout


def test_one_person_takes_the_single_photo_and_the_pose_of_other_bundled_graphs(
    client: ComfyUIClient, server: LocalServer, photos: Path, photographs, tmp_path: Path
):
    """body_target_pose itself needs seconds for its bodies: the fields are looked at in what it would send."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        import one_person
    finally:
        sys.path.remove(str(EXAMPLES))
    given = {"prompt": "x", "weight": 0.5, "seed": 1}
    pose = json.loads((ROOT / "workflows" / "api" / "body_controlnet_pose.json").read_text(encoding="utf-8"))
    one_person.fill_in(pose, photos=["a/1.png", "a/2.png"], pose="a/pose.png", **given)
    assert [node["files"] for node in one_person.nodes_of(pose, "BoLIDLoadReferences")] == ["a/1.png\na/2.png"]
    assert [node["image"] for node in one_person.nodes_of(pose, "LoadImage")] == ["a/pose.png"]
    texts = {node["_meta"]["title"]: node["inputs"]["text"] for node in pose.values() if "text" in node["inputs"]}
    assert texts["Prompt"] == "x" != texts["Negative Prompt"], "found behind the ControlNet"
    single = json.loads((ROOT / "workflows" / "api" / "sdxl_style_transfer.json").read_text(encoding="utf-8"))
    one_person.fill_in(single, photos=["a/1.png"], pose=None, **given)
    assert [node["image"] for node in one_person.nodes_of(single, "LoadImage")] == ["a/1.png"]
    with pytest.raises(ValueError, match="takes one photo, there are 2"):
        one_person.fill_in(single, photos=["a/1.png", "a/2.png"], pose=None, **given)


def test_curl_uploads_runs_and_downloads(client: ComfyUIClient, server: LocalServer, photos: Path, tmp_path: Path):
    output = tmp_path / "results" / "anna"
    answer = run_curl(photos, output, write_graph(tmp_path), server, 'a "person" by the sea')
    assert (answer.returncode, answer.stderr) == (0, "")
    sent = last_prompt(client)
    assert sent[LOADER]["inputs"]["files"].splitlines() == [
        "one_person/1.png",
        "one_person/2 (copy).JPG",
        "one_person/3.png",
    ]
    assert sent[PROMPT]["inputs"]["text"] == 'a "person" by the sea'
    picture, report = sorted(output.iterdir())
    assert picture.name.startswith(f"{SAVER}_")
    with Image.open(picture) as image:
        image.load()
        assert image.size == (64, 64)
    assert json.loads(report.read_text(encoding="utf-8"))["kept"] == 3
    assert [path.name for path in output.parent.iterdir()] == ["anna"], "no unfinished work"


@COMMANDS
def test_a_refused_graph_is_explained_node_by_node(run, server: LocalServer, photos: Path, tmp_path: Path):
    graph = json.loads(write_graph(tmp_path).read_text(encoding="utf-8"))
    graph["8"]["inputs"]["face_weight"] = 9
    graph[SAMPLER]["inputs"]["sampler_name"] = "guesswork"
    (tmp_path / "graph.json").write_text(json.dumps(graph), encoding="utf-8")
    answer = run(photos, tmp_path / "out", tmp_path / "graph.json", server)
    assert answer.returncode == 2
    lines = [line.strip() for line in answer.stderr.splitlines()]
    assert "node 8 (BoLIDAdapterApply): Value 9.0 bigger than max of 3.0: face_weight" in lines
    (line,) = [line for line in lines if line.startswith("node 12 (KSampler)")]
    assert "Value not in list: sampler_name: 'guesswork'" in line
    assert_nothing_left(tmp_path)


@COMMANDS
def test_a_failing_node_is_named_with_its_message(run, server: LocalServer, photos: Path, tmp_path: Path):
    answer = run(photos, tmp_path / "out", write_graph(tmp_path, photo_weights="1, 2"), server)
    assert answer.returncode == 1
    (line,) = [line for line in answer.stderr.splitlines() if line.startswith("node 7 (PoolingAggregator)")]
    assert "photo_weights has 2 values, but MultiRefImageEncoder was given 3 photos" in line
    assert "Traceback" not in answer.stderr
    assert_nothing_left(tmp_path)


@COMMANDS
def test_results_that_are_there_are_not_overwritten(run, server: LocalServer, photos: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.png").write_bytes(b"")
    answer = run(photos, tmp_path / "out", write_graph(tmp_path), server)
    assert answer.returncode == 2
    assert str(tmp_path / "out") in answer.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["precious.png"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--server", "127.0.0.1:8188"], 2, "begins neither with http:// nor with https://"),
        (["--server", "http://127.0.0.1:9"], 1, "no ComfyUI answers at http://127.0.0.1:9"),
        (["--workflow", str(ROOT / "workflows" / "one_photo.json")], 2, "no graph in API form"),
        (["--pose", "no such.png"], 2, "no such.png"),
        ([], 2, "has no photo"),
    ],
    ids=["address", "server", "workflow", "pose", "photos"],
)
def test_one_person_explains_what_is_wrong_with_its_arguments(
    arguments: list[str], code: int, message: str, server: LocalServer, photos: Path, tmp_path: Path
):
    if not arguments:
        for file in photos.iterdir():
            file.rename(file.with_suffix(".txt"))
    answer = run_python(photos, tmp_path / "out", write_graph(tmp_path), server, *arguments)
    assert answer.returncode == code, answer.stderr
    assert message in answer.stderr and "Traceback" not in answer.stderr
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize("command", [PYTHON, CURL], ids=["python", "curl"])
def test_ctrl_c_ends_the_run_as_well(
    command: Path, client: ComfyUIClient, server: LocalServer, photos: Path, tmp_path: Path
):
    graph = write_graph(tmp_path, steps=5000)
    if command == PYTHON:
        arguments, sign = python_command(photos, tmp_path / "out", graph, server), "node 12 (KSampler): step 1"
    else:
        arguments, sign = ["bash", str(CURL), str(photos), str(tmp_path / "out")], "queued: "
    process = subprocess.Popen(
        arguments,
        env=os.environ | {"COMFYUI": server.address, "WORKFLOW": str(graph)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    assert any(line.startswith(sign) for line in process.stdout)
    running = the_running_prompt(client)
    # As a terminal does it: to everything that runs in it.
    os.killpg(process.pid, signal.SIGINT)
    # Both of curl.sh's last requests may take a minute.
    _, errors = process.communicate(timeout=150)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    with pytest.raises(ExecutionError, match="interrupted in node"):
        client.wait(running, timeout=60)
    assert_nothing_left(tmp_path)


def the_running_prompt(client: ComfyUIClient) -> str:
    """Waits until the server has begun with something, and returns its prompt_id."""
    while True:
        running = client._request("GET", "/queue").json()["queue_running"]
        if running:
            return running[0][1]
        time.sleep(0.05)


# docs/api.md


@pytest.fixture
def reader(photographs: dict[str, Image.Image], tmp_path: Path) -> Path:
    """The working directory of somebody who follows the page; the graph is the bundled one, made small."""
    (tmp_path / "photos").mkdir()
    for number, name in ((1, "carphone_0"), (2, "carphone_2")):
        photographs[name].save(tmp_path / "photos" / f"{number}.jpg")
    graph = write_graph(tmp_path)
    (tmp_path / "workflows" / "api").mkdir(parents=True)
    graph.rename(tmp_path / "workflows" / "api" / "many_photos_averaged.json")
    return tmp_path


def blocks(language: str, title: str) -> str:
    """The code of a language under a heading of docs/api.md, one block after the other."""
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    section = page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    found = re.findall(rf"^```{language}\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)
    assert found
    return "\n".join(found)


def assert_picture_and_report(folder: Path) -> None:
    (picture,) = folder.glob("*.png")
    with Image.open(picture) as image:
        image.load()
        assert image.size == (64, 64)
    assert json.loads((folder / f"{REPORT}.json").read_text(encoding="utf-8"))["kept"] == 2


def test_the_session_of_the_page_runs(server: LocalServer, reader: Path):
    session = blocks("sh", "The routes, in order")
    assert session.count("http://127.0.0.1:8188") == 1
    # Other tests upload other photos of these names to the same server.
    session = session.replace("http://127.0.0.1:8188", shlex.quote(server.address)).replace("anna", "of_the_page")
    answer = subprocess.run(["bash", "-euo", "pipefail", "-c", session], cwd=reader, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert '"name": "1.jpg", "subfolder": "of_the_page", "type": "input"' in answer.stdout
    assert_picture_and_report(reader)


def test_the_program_of_the_page_runs(server: LocalServer, reader: Path):
    program = blocks("python", "In Python")
    assert program.count("http://127.0.0.1:8188") == 1
    answer = subprocess.run(
        [sys.executable, "-c", program.replace("http://127.0.0.1:8188", server.address)],
        cwd=reader,
        env=os.environ | {"PYTHONPATH": str(ROOT / "clients")},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    assert "node 12 (KSampler): step 3 of 3" in answer.stdout
    assert_picture_and_report(reader)


def test_the_commands_of_the_page_are_those_of_the_examples(server: LocalServer):
    page = blocks("sh", "Ready-made")
    given = shlex.split(page.splitlines()[0])[1:]
    known = subprocess.run([sys.executable, PYTHON, "--help"], capture_output=True, text=True).stdout
    assert {option for option in given if option.startswith("--")} <= set(re.findall(r"--[a-z]+", known))
    assert {word for word in shlex.split(page) if "/examples/" in word} == {
        path.relative_to(ROOT).as_posix() for path in (PYTHON, CURL)
    }


def test_the_shell_script_has_no_errors_that_bash_finds():
    subprocess.run(["bash", "-n", str(CURL)], check=True)
    assert all(os.access(file, os.X_OK) for file in (PYTHON, CURL))
