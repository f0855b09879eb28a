"""clients/comfyui_client.py and clients/local_server.py against a real server, on stock nodes."""

from __future__ import annotations

import ast
import io
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from comfyui_client import ComfyUIClient, ExecutionError, PromptError, ServerError
from local_server import LocalServer
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent


def picture_prompt(**changes) -> dict:
    inputs = {"width": 64, "height": 32, "batch_size": 2, "color": 255} | changes
    return {
        "1": {"class_type": "EmptyImage", "inputs": inputs},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "client"}},
    }


@pytest.fixture
def client(server: LocalServer) -> ComfyUIClient:
    return server.client


@pytest.mark.server
def test_run_returns_the_saved_pictures(client: ComfyUIClient):
    pictures = client.run(picture_prompt())
    assert [(picture.node_id, picture.type) for picture in pictures] == [("2", "output")] * 2
    for picture in pictures:
        pixels = np.asarray(Image.open(io.BytesIO(picture.data)))
        assert pixels.shape == (32, 64, 3)
        assert (pixels == (0, 0, 255)).all()


@pytest.mark.server
def test_an_uploaded_photograph_comes_back(client: ComfyUIClient, photographs, tmp_path: Path):
    photo = photographs["astronaut"].resize((40, 30))
    photo.save(tmp_path / "photo.png")
    name = client.upload_image(tmp_path / "photo.png", subfolder="client_test")
    assert name == "client_test/photo.png"
    assert client.upload_image((tmp_path / "photo.png").read_bytes(), name="flat.png") == "flat.png"
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "upload"}},
    }
    (picture,) = client.run(prompt)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(picture.data))), np.asarray(photo))


@pytest.mark.server
def test_progress_is_reported_until_the_prompt_is_done(client: ComfyUIClient):
    seen = []
    prompt_id = client.queue(picture_prompt(color=1, width=2048, height=2048))
    client.wait(prompt_id, progress=seen.append, poll_interval=0.01)
    assert seen
    assert {progress.state for progress in seen} <= {"queued", "running"}
    assert [progress.seconds for progress in seen] == sorted(progress.seconds for progress in seen)


@pytest.mark.server
def test_a_wrong_input_is_named(client: ComfyUIClient):
    with pytest.raises(PromptError) as caught:
        client.queue(picture_prompt(width=-3))
    assert "node 1 (EmptyImage)" in str(caught.value)
    assert "Value -3 smaller than min of 1: width" in str(caught.value)
    assert caught.value.node_errors["1"]["class_type"] == "EmptyImage"


@pytest.mark.server
def test_an_unknown_node_is_named(client: ComfyUIClient):
    with pytest.raises(PromptError, match=r"node 7 \(NoSuchNode\): .*not found"):
        client.queue(picture_prompt() | {"7": {"class_type": "NoSuchNode", "inputs": {}}})


@pytest.mark.server
def test_a_prompt_without_output_is_refused(client: ComfyUIClient):
    prompt = picture_prompt()
    del prompt["2"]
    with pytest.raises(PromptError, match="Prompt has no outputs"):
        client.queue(prompt)


@pytest.mark.server
def test_a_prompt_of_which_the_server_would_run_only_a_part_is_refused(client: ComfyUIClient):
    prompt = picture_prompt() | {"3": {"class_type": "SaveImage", "inputs": {"filename_prefix": "no picture"}}}
    with pytest.raises(PromptError, match=r"node 3 \(SaveImage\): Required input is missing: images"):
        client.queue(prompt)


@pytest.mark.server
def test_a_failing_node_is_named_with_its_message(client: ComfyUIClient):
    prompt = picture_prompt()
    prompt["2"]["inputs"]["filename_prefix"] = "../../outside"
    with pytest.raises(ExecutionError, match=r"node 2 \(SaveImage\) failed with .*outside the output folder") as caught:
        client.run(prompt)
    assert (caught.value.node_id, caught.value.class_type) == ("2", "SaveImage")
    assert "Traceback" in caught.value.traceback or "File" in caught.value.traceback
    assert not caught.value.interrupted
    assert len(client.run(picture_prompt())) == 2


@pytest.mark.server
def test_a_wait_that_is_too_short_says_so_and_an_interrupt_ends_the_run(client: ComfyUIClient):
    # Nodes that take a while each: the server can be stopped between two of them.
    images = {"1": picture_prompt(width=512, height=512, batch_size=400)["1"]}
    blur = {"blur_radius": 31, "sigma": 10.0}
    chain = {
        str(index): {"class_type": "ImageBlur", "inputs": {"image": [str(index - 1), 0], **blur}}
        for index in range(2, 12)
    }
    save = {"12": {"class_type": "SaveImage", "inputs": {"images": ["11", 0], "filename_prefix": "long"}}}
    prompt_id = client.queue(images | chain | save)
    with pytest.raises(TimeoutError, match=prompt_id):
        client.wait(prompt_id, timeout=0.3)
    client.interrupt(prompt_id)
    with pytest.raises(ExecutionError, match="interrupted in node") as caught:
        client.wait(prompt_id, timeout=60)
    assert caught.value.interrupted


@pytest.mark.server
def test_a_prompt_that_nobody_knows(client: ComfyUIClient):
    with pytest.raises(RuntimeError, match="knows no prompt"):
        client.wait("00000000-0000-0000-0000-000000000000")


@pytest.mark.server
def test_object_info_and_free(client: ComfyUIClient):
    assert {"EmptyImage", "SaveImage", "KSampler"} <= client.object_info().keys()
    assert "images" in client.object_info("SaveImage")["input"]["required"]
    with pytest.raises(ValueError, match="NoSuchNode"):
        client.object_info("NoSuchNode")
    client.free()
    assert len(client.run(picture_prompt())) == 2


def test_nobody_at_the_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(RuntimeError, match=f"no ComfyUI answers at {address}"):
        ComfyUIClient(address).system_stats()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n{", "GET /system_stats at http.*failed"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", "GET /system_stats at http.*failed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", "something that is no JSON .*<html>.*proxy"),
    ],
    ids=["broken off", "broken off in a chunk", "a page"],
)
def test_answers_that_are_none(answer: bytes, message: str):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(10_000)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ServerError, match=message):
            ComfyUIClient(f"http://127.0.0.1:{listener.getsockname()[1]}").system_stats()
        thread.join()


@pytest.mark.parametrize("address", ["127.0.0.1:8188", "localhost", "ftp://host"])
def test_an_address_needs_its_scheme(address: str):
    with pytest.raises(ValueError, match="begins neither with http:// nor with https://"):
        ComfyUIClient(address)


@pytest.mark.server
def test_where_a_prompt_stands_is_told_without_waiting(client: ComfyUIClient):
    prompt_id = client.queue(picture_prompt(color=2), prompt_id="5e1f6c0a-3f6e-4b55-9a57-0d0f4d1c2b3a")
    assert prompt_id == "5e1f6c0a-3f6e-4b55-9a57-0d0f4d1c2b3a"
    client.wait(prompt_id)
    prompts_ahead, history = client.look_up(prompt_id)
    assert prompts_ahead is None
    assert len(client.images(history)) == 2
    with pytest.raises(RuntimeError, match="knows no prompt"):
        client.look_up("00000000-0000-0000-0000-000000000000")


@pytest.mark.server
def test_texts_come_with_the_node_that_showed_them(client: ComfyUIClient):
    shown = {"class_type": "PreviewAny", "inputs": {"source": "two\nlines"}}
    number = {"class_type": "PreviewAny", "inputs": {"source": 3}}
    history = client.wait(client.queue({"10": shown, "2": number}))
    assert [(text.node_id, text.text) for text in client.texts(history)] == [("2", "3"), ("10", "two\nlines")]


@pytest.mark.server
def test_a_message_names_the_title_that_tells_nodes_of_a_class_apart(client: ComfyUIClient):
    prompt = picture_prompt(width=-3)
    prompt["1"]["_meta"] = {"title": "Blue"}
    with pytest.raises(PromptError, match=r'node 1 \(EmptyImage "Blue"\): Value -3'):
        client.queue(prompt)
    prompt = picture_prompt()
    prompt["2"]["inputs"]["filename_prefix"] = "../../outside"
    prompt["2"]["_meta"] = {"title": "Blue"}
    with pytest.raises(ExecutionError, match=r'node 2 \(SaveImage "Blue"\) failed with'):
        client.run(prompt)


def test_bytes_need_a_name():
    with pytest.raises(ValueError, match="without a name"):
        ComfyUIClient("http://127.0.0.1:1").upload_image(b"")


@pytest.mark.parametrize("file", sorted((ROOT / "clients").rglob("*.py")), ids=lambda file: file.name)
def test_a_client_imports_nothing_of_this_project_and_only_requests_beside_the_standard_library(file: Path):
    needs = {
        "comfyui_events.py": {"aiohttp", "comfyui_client"},
        "local_server.py": {"comfyui_client"},
        "one_person.py": {"comfyui_client", "comfyui_events"},
    }
    imported = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).split(".")[0])
    assert imported - sys.stdlib_module_names <= needs.get(file.name, {"requests"})


def stand_in(folder: Path, code: str) -> Path:
    """A folder that passes for a ComfyUI whose main.py runs `code`: the ways to fail, without the long start."""
    folder.mkdir()
    (folder / "main.py").write_text(textwrap.dedent(code))
    return folder


def test_a_server_that_ends_at_its_start_shows_its_log(tmp_path: Path):
    comfyui = stand_in(tmp_path / "comfyui", "raise SystemExit('No module named torchsde')")
    with pytest.raises(RuntimeError, match=r"(?s)exit code 1.*requirements\.txt.*No module named torchsde"):
        LocalServer(comfyui_dir=comfyui).__enter__()


def test_a_server_that_does_not_get_ready_is_ended(tmp_path: Path):
    code = """
        import os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        print(os.getpid(), "loading", flush=True)
        time.sleep(60)
    """
    server = LocalServer(
        comfyui_dir=stand_in(tmp_path / "comfyui", code), base_directory=tmp_path / "base", ready_timeout=1.5
    )
    with pytest.raises(RuntimeError, match=r"(?s)not ready after 1\.5 s.*loading"):
        server.__enter__()
    with pytest.raises(ProcessLookupError):
        os.kill(int(server.log().split()[0]), 0)


def test_no_comfyui(tmp_path: Path):
    with pytest.raises(ValueError, match="COMFYUI_DIR"):
        LocalServer(comfyui_dir=tmp_path)


def test_a_folder_in_the_way_of_a_pack_stays_as_it_is(comfyui_dir: Path, tmp_path: Path):
    (tmp_path / "custom_nodes" / "Pack").mkdir(parents=True)
    with pytest.raises(ValueError, match="is in the way"):
        LocalServer(comfyui_dir=comfyui_dir, packs={"Pack": ROOT}, base_directory=tmp_path).__enter__()
    assert (tmp_path / "custom_nodes" / "Pack").is_dir()


@pytest.mark.server
def test_a_pack_that_cannot_be_imported_is_reported_and_the_port_is_free_afterwards(comfyui_dir: Path, tmp_path: Path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "__init__.py").write_text("import no_such_module_anywhere\n")
    server = LocalServer(
        comfyui_dir=comfyui_dir, packs={"Broken": tmp_path / "broken"}, base_directory=tmp_path / "base"
    )
    with pytest.raises(RuntimeError, match=r"(?s)could not import .*Broken.*no_such_module_anywhere"):
        server.__enter__()
    time.sleep(0.1)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0


def test_the_clients_load_without_the_package(tmp_path: Path):
    code = "import comfyui_client, local_server, sys; sys.exit('bolid' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "clients")}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
