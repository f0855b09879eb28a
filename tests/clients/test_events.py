"""clients/comfyui_events.py against a real server, and through a connection that drops, falls silent or is refused."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from comfyui_client import ComfyUIClient, PromptError, ServerError
from comfyui_events import (
    ConnectionLost,
    Done,
    Event,
    Failed,
    NodeCached,
    NodeOutput,
    NodeStarted,
    Preview,
    PromptRun,
    Queued,
    Started,
    Step,
)
from local_server import LocalServer
from PIL import Image

from .graphs import ENCODER, LOADER, POOLING, PROMPT, REPORT, ROOT, SAMPLER, SAVER, graph_of_uploaded_photos

pytestmark = pytest.mark.server

# So many steps of the sampler that whatever a test does at the first one happens in the middle of the run.
MANY = 16
ENDLESS = 5000


@pytest.fixture
def client(server: LocalServer) -> ComfyUIClient:
    return server.client


class Proxy:
    """A connection to the server that can be disturbed; what passes is passed on byte by byte."""

    def __init__(self, port: int):
        self._upstream = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._websockets: list[socket.socket] = []
        self._http: list[socket.socket] = []
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.websockets_seen = 0
        self.lets_websockets_through = True
        self.swallows_messages = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End every WebSocket without a word."""
        for connection in self._websockets:
            shut(connection)
        self._websockets.clear()

    def down(self) -> None:
        """End everything, and listen no more."""
        shut(self._listener)
        self.cut()
        for connection in self._http:
            shut(connection)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        first = connection.recv(65536)
        is_websocket = first.startswith(b"GET /ws")
        if is_websocket:
            self.websockets_seen += 1
            if not self.lets_websockets_through:
                shut(connection)
                return
        (self._websockets if is_websocket else self._http).append(connection)
        upstream = socket.create_connection(("127.0.0.1", self._upstream))
        upstream.sendall(first)
        threading.Thread(target=self._pump, args=(connection, upstream, False), daemon=True).start()
        self._pump(upstream, connection, is_websocket)

    def _pump(self, source: socket.socket, target: socket.socket, messages: bool) -> None:
        try:
            while data := source.recv(65536):
                if not (messages and self.swallows_messages):
                    target.sendall(data)
        except OSError:
            pass
        shut(source)
        shut(target)


def shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    connection.close()


@pytest.fixture
def proxy(server: LocalServer) -> Iterator[Proxy]:
    proxy = Proxy(server.port)
    yield proxy
    proxy.down()


def of(kind: type, events: list[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def follow(run: PromptRun, *, at_first_step=lambda: None) -> list[Event]:
    """All events; does something when the sampler has made its first step."""
    events, waiting = [], True
    for event in run:
        events.append(event)
        if waiting and isinstance(event, Step) and event.node.id == SAMPLER:
            waiting = False
            at_first_step()
    assert sum(isinstance(event, Done | Failed) for event in events) == 1
    assert isinstance(events[-1], Done | Failed)
    return events


def pictures_of(client: ComfyUIClient, history: dict[str, Any]) -> list[Image.Image]:
    return [Image.open(io.BytesIO(picture.data)) for picture in client.images(history) if picture.node_id == SAVER]


def test_a_run_is_told_from_its_start_to_its_picture(client: ComfyUIClient, photographs):
    graph = graph_of_uploaded_photos(client, photographs, steps=5)
    graph[PROMPT]["inputs"]["text"] = f"told from its start {time.time()}"
    with PromptRun(client, graph, preview_method="latent2rgb") as run:
        events = follow(run)
    assert isinstance(events[0], Started)
    assert not of(ConnectionLost, events)

    # Every node is told of once, either way, and after what it needs.
    begun = [event.node.id for event in of(NodeStarted, events)]
    cached = {event.node.id for event in of(NodeCached, events)}
    assert sorted([*begun, *cached]) == sorted(graph)
    for node_id, node in graph.items():
        for value in node["inputs"].values():
            if isinstance(value, list) and node_id in begun and value[0] in begun:
                assert begun.index(value[0]) < begun.index(node_id)
    assert str(next(event.node for event in of(NodeStarted, events) if event.node.id == PROMPT)) == (
        'node 9 (CLIPTextEncode "Prompt")'
    )

    # With previews every step is told, and each has its picture.
    start = events.index(next(event for event in of(NodeStarted, events) if event.node.id == SAMPLER))
    steps = of(Step, events[start:])
    assert [(step.node.class_type, step.value, step.maximum) for step in steps] == [
        ("KSampler", value, 5) for value in range(1, 6)
    ]
    previews = of(Preview, events)
    assert len(previews) == 5
    assert {(preview.node.id, preview.media_type) for preview in previews} == {(SAMPLER, "image/jpeg")}
    assert {Image.open(io.BytesIO(preview.data)).format for preview in previews} == {"JPEG"}

    # What was told on the way is what stands in the history: pictures and reports.
    history = events[-1].history
    assert {event.node.id: event.output for event in of(NodeOutput, events)} == history["outputs"]
    (picture,) = pictures_of(client, history)
    assert picture.size == (64, 64)
    (text,) = [text.text for text in client.texts(history) if text.node_id == REPORT]
    report = json.loads(text)
    assert (report["kept"], report["dropped"]) == (3, 0)
    assert [photo["photo"] for photo in report["photos"]] == [1, 2, 3]


def test_without_previews_first_and_last_step_are_told_and_what_is_known_is_not_computed_again(
    client: ComfyUIClient, photographs
):
    graph = graph_of_uploaded_photos(client, photographs)
    follow(PromptRun(client, graph))
    graph[SAMPLER]["inputs"]["seed"] += 500
    events = follow(PromptRun(client, graph))
    assert not of(Preview, events)
    steps = [event.value for event in of(Step, events)]
    assert (steps[0], steps[-1]) == (1, 3) and steps == sorted(steps)
    assert [event.node.id for event in of(NodeStarted, events)] == [SAMPLER, "13", SAVER]
    assert {LOADER, ENCODER, POOLING} <= {event.node.id for event in of(NodeCached, events)}
    assert json.loads(client.texts(events[-1].history)[0].text)["kept"] == 3, "a cached report is there as well"


def test_a_failing_node_is_the_last_event(client: ComfyUIClient, photographs):
    graph = graph_of_uploaded_photos(client, photographs, photo_weights="1, 2")
    graph[POOLING]["_meta"] = {"title": "All of Anna"}
    events = follow(PromptRun(client, graph))
    error = events[-1].error
    assert (error.node_id, error.class_type, error.interrupted) == (POOLING, "PoolingAggregator", False)
    assert str(error).startswith('node 7 (PoolingAggregator "All of Anna") failed with ValueError: photo_weights has 2')
    # The report of the encoder came before: what went well is not lost.
    assert REPORT in {event.node.id for event in of(NodeOutput, events)} | {
        event.node.id for event in of(NodeCached, events)
    }


def test_a_refused_prompt_names_the_node_and_leaves_nothing_behind(client: ComfyUIClient, photographs):
    graph = graph_of_uploaded_photos(client, photographs)
    graph[PROMPT]["inputs"]["clip"] = [LOADER, 0]
    graph["8"]["inputs"]["face_weight"] = 9
    with pytest.raises(PromptError) as caught:
        PromptRun(client, graph)
    assert 'node 9 (CLIPTextEncode "Prompt"): Return type mismatch' in str(caught.value)
    assert "node 8 (BoLIDAdapterApply): Value 9.0 bigger than max of 3.0: face_weight" in str(caught.value)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("comfyui-")]


def test_an_interrupted_run_ends_as_interrupted(client: ComfyUIClient, photographs):
    graph = graph_of_uploaded_photos(client, photographs, steps=ENDLESS)
    with PromptRun(client, graph) as run:
        events = follow(run, at_first_step=lambda: client.interrupt(run.prompt_id))
    assert events[-1].error.interrupted
    assert events[-1].error.node_id == SAMPLER
    assert "interrupted in node 12 (KSampler)" in str(events[-1].error)


def test_several_prompts_wait_for_each_other_and_hear_only_of_themselves(client: ComfyUIClient, photographs):
    graphs = [graph_of_uploaded_photos(client, photographs, steps=steps) for steps in (1000, 4, 5)]
    client.run(graph_of_uploaded_photos(client, photographs))  # so that the first one is soon at its steps
    # The server tells everybody of the steps of a prompt without a client id.
    first = client.queue(graphs[0])
    second, third = (PromptRun(client, graph, poll_interval=0.1) for graph in graphs[1:])
    assert second.client_id != third.client_id
    time.sleep(1.0)
    assert next(iter(second)) == Queued(1)
    assert next(iter(third)) == Queued(2)
    client.cancel(third.prompt_id)
    with pytest.raises(RuntimeError, match=f"knows no prompt {third.prompt_id}: it was cancelled"):
        list(third)
    client.cancel(first)
    events = follow(second)
    assert isinstance(events[-1], Done)
    assert {event.maximum for event in of(Step, events) if event.node.id == SAMPLER} == {4}


def test_a_run_that_takes_too_long_says_so_and_goes_on(client: ComfyUIClient, photographs):
    graph = graph_of_uploaded_photos(client, photographs, steps=ENDLESS)
    run = PromptRun(client, graph, timeout=1.0)
    with pytest.raises(TimeoutError, match=rf"prompt {run.prompt_id} is still (running|queued) after 1 s"):
        list(run)
    position, history = client.look_up(run.prompt_id)
    assert (position, history) == (0, None)
    client.cancel(run.prompt_id)


def test_a_run_that_ended_in_time_is_told_of_in_full_when_somebody_asks_late(client: ComfyUIClient, photographs):
    graph = graph_of_uploaded_photos(client, photographs)
    run = PromptRun(client, graph, timeout=0.5)
    client.wait(run.prompt_id)
    time.sleep(0.6)
    events = follow(run)
    assert isinstance(events[-1], Done)
    assert [step.value for step in of(Step, events) if step.node.id == SAMPLER][-1] == 3
    assert SAVER in {event.node.id for event in of(NodeOutput, events)}


def test_a_websocket_that_drops_is_connected_again(proxy: Proxy, photographs):
    client = ComfyUIClient(proxy.address)
    graph = graph_of_uploaded_photos(client, photographs, steps=ENDLESS)
    run = PromptRun(client, graph)
    events: list[Event] = []
    for event in run:
        events.append(event)
        if isinstance(event, Step) and event.node.id == SAMPLER:
            if of(ConnectionLost, events):
                client.interrupt(run.prompt_id)
            else:
                proxy.cut()
    assert len(of(ConnectionLost, events)) == 1
    assert proxy.websockets_seen == 2
    # What the server repeats to somebody who comes back is no news.
    begun = [event.node.id for event in of(NodeStarted, events)]
    assert len(begun) == len(set(begun))
    assert events[-1].error.interrupted, "steps were told again after the connection was lost"


def test_a_websocket_that_stays_away_does_not_keep_the_result(proxy: Proxy, photographs):
    client = ComfyUIClient(proxy.address)
    graph = graph_of_uploaded_photos(client, photographs, steps=MANY)

    def cut_for_good():
        proxy.lets_websockets_through = False
        proxy.cut()

    events = follow(PromptRun(client, graph, preview_method="latent2rgb"), at_first_step=cut_for_good)
    assert of(ConnectionLost, events)
    assert max(step.value for step in of(Step, events) if step.node.id == SAMPLER) < MANY
    assert len(pictures_of(client, events[-1].history)) == 1


def test_a_websocket_that_falls_silent_does_not_keep_the_result(proxy: Proxy, photographs):
    client = ComfyUIClient(proxy.address)
    graph = graph_of_uploaded_photos(client, photographs, steps=MANY)
    run = PromptRun(client, graph, preview_method="latent2rgb", poll_interval=0.1)
    events = follow(run, at_first_step=lambda: setattr(proxy, "swallows_messages", True))
    assert not of(ConnectionLost, events)
    assert max(step.value for step in of(Step, events) if step.node.id == SAMPLER) < MANY
    assert len(pictures_of(client, events[-1].history)) == 1


def test_without_any_websocket_start_and_end_are_told(proxy: Proxy, photographs):
    proxy.lets_websockets_through = False
    client = ComfyUIClient(proxy.address)
    graph = graph_of_uploaded_photos(client, photographs, steps=MANY)
    events = follow(PromptRun(client, graph, poll_interval=0.02))
    assert [type(event) for event in events] == [ConnectionLost, Started, Done]
    failing = graph_of_uploaded_photos(client, photographs, photo_weights="1, 2")
    assert follow(PromptRun(client, failing))[-1].error.node_id == POOLING


def test_a_server_that_is_gone_is_not_waited_for(proxy: Proxy, client: ComfyUIClient, photographs):
    graph = graph_of_uploaded_photos(client, photographs, steps=ENDLESS)
    run = PromptRun(ComfyUIClient(proxy.address), graph, patience=0.5, poll_interval=0.1)
    start = time.monotonic()
    with pytest.raises(ServerError, match=f"no ComfyUI answers at {proxy.address}"):
        follow(run, at_first_step=proxy.down)
    assert time.monotonic() - start < 60
    client.cancel(run.prompt_id)


def test_nobody_at_the_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(ServerError, match=f"no ComfyUI answers at {address}"):
        PromptRun(ComfyUIClient(address), {})


def test_the_client_alone_needs_no_aiohttp():
    code = "import sys; sys.modules['aiohttp'] = None; import comfyui_client, local_server"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "clients", check=True)
