"""Follows a prompt through ComfyUI, node by node and step by step, over the server's WebSocket.

    with PromptRun(client, prompt) as run:
        for event in run:
            match event:
                case Step():
                    print(f"{event.node}: step {event.value:g} of {event.maximum:g}")
                case Failed():
                    print(event.error)
                case Done():
                    pictures = client.images(event.history)

A file of its own beside comfyui_client.py, which needs `requests` and nothing else: this one needs `aiohttp` 3.11 as
well, which ComfyUI itself requires.

The WebSocket brings news, never the outcome: that is read from the server's history over HTTP. A socket that drops, is
taken over or was never let through by a proxy costs steps and previews, not the run. Messages as in ComfyUI 0.30's
execution.py, main.py and comfy_execution/progress.py.
"""

from __future__ import annotations

import asyncio
import json
import queue
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import aiohttp
from comfyui_client import ComfyUIClient, ExecutionError, Prompt, ServerError, describe_node

PREVIEW_WITH_METADATA = 4
"""The binary message that says of which node and prompt a preview is (ComfyUI's protocol.py)."""

CONNECT_TIMEOUT = 10.0
FIRST_RETRY, LAST_RETRY = 0.5, 10.0
LAST_NEWS = 1.0
"""Seconds that messages may arrive later than the end of their run is seen over HTTP."""


@dataclass(frozen=True)
class Node:
    """A node of the prompt. str() of it is 'node 9 (CLIPTextEncode "Prompt")'."""

    id: str
    class_type: str | None
    description: str

    def __str__(self) -> str:
        return self.description


@dataclass(frozen=True)
class Queued:
    """The prompt waits for others. Comes again when their number changes."""

    prompts_ahead: int


@dataclass(frozen=True)
class Started:
    """The server has begun."""


@dataclass(frozen=True)
class NodeCached:
    """The node's results of an earlier run are used."""

    node: Node


@dataclass(frozen=True)
class NodeStarted:
    node: Node


@dataclass(frozen=True)
class Step:
    """Step `value` of `maximum` of a node that counts its work: samplers, the nodes that go through photos.

    The server sends the first, the last and every step with a preview; of others at most ten a second.
    """

    node: Node
    value: float
    maximum: float


@dataclass(frozen=True)
class Preview:
    """The picture as it is at this step; `data` is a file of `media_type`, "image/jpeg" or "image/png"."""

    node: Node
    data: bytes
    media_type: str


@dataclass(frozen=True)
class NodeOutput:
    """What a node saved or showed, as in the history: {"images": [...]}, {"text": [...]}."""

    node: Node
    output: Mapping[str, Any]


@dataclass(frozen=True)
class ConnectionLost:
    """The WebSocket is gone, and is tried again; until then only start and end are told."""

    reason: str


@dataclass(frozen=True)
class Done:
    """The last event of a run that went well. `history` is what `ComfyUIClient.images` and `texts` take."""

    history: dict[str, Any]


@dataclass(frozen=True)
class Failed:
    """The last event of a run in which a node failed, or which was interrupted.

    `error` is what `ComfyUIClient.wait` raises: str() of it is the message with the node, and it has `node_id`,
    `class_type` and `interrupted`.
    """

    error: ExecutionError


Event = Queued | Started | NodeCached | NodeStarted | Step | Preview | NodeOutput | ConnectionLost | Done | Failed

_ENDED = object()
"""In the inbox: the server's word that it has put the run into its history."""


class PromptRun:
    """Queues a prompt and tells what happens to it: an iterator of events. The last one is `Done` or `Failed`.

    Args:
        client: the server.
        prompt: the graph in API form.
        timeout: seconds from here to the end of the run, the queue included.
        preview_method: "latent2rgb" or "taesd" asks for previews; None leaves it to the server, which makes none unless
            it was started with --preview-method.
        extra_data: see `ComfyUIClient.queue`.
        poll_interval: seconds without a message after which the state is asked over HTTP.
        patience: seconds that the server may be out of reach over HTTP as well.

    Every run has a `client_id` and a WebSocket of its own, so that several can be followed side by side, each in a
    thread or one after the other: the server works on one prompt at a time, and messages wait here.

    Leaving the `with` block, or `close`, stops listening. The run goes on: `client.cancel(run.prompt_id)` ends it.

    Raises:
        PromptError: the server refused the prompt. Nothing runs.
        ServerError: nothing answers.

    Raises while iterating:
        TimeoutError: it took longer than `timeout`.
        ServerError: the server was out of reach for longer than `patience`.
        RuntimeError: the server knows the prompt no longer (it was cancelled in the queue, or the server started anew).
    """

    def __init__(
        self,
        client: ComfyUIClient,
        prompt: Prompt,
        *,
        timeout: float = 600.0,
        preview_method: str | None = None,
        extra_data: Mapping[str, Any] | None = None,
        poll_interval: float = 0.5,
        patience: float = 10.0,
    ):
        self.client = client
        self.prompt = prompt
        self.client_id = uuid.uuid4().hex
        # Chosen here, so that messages can be told apart before the answer to the request is there.
        self.prompt_id = str(uuid.uuid4())
        self._timeout = timeout
        self._poll_interval = poll_interval
        self._patience = patience
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._told: dict[type, Event] = {}
        self._socket = _Socket(client, self.client_id, on_message=self._receive, on_lost=self._lost)
        try:
            self._socket.wait_until_ready()
            extra_data = dict(extra_data or {})
            if preview_method is not None:
                extra_data["preview_method"] = preview_method
            client.queue(prompt, client_id=self.client_id, prompt_id=self.prompt_id, extra_data=extra_data)
        except BaseException:
            self.close()
            raise
        self._start = self._heard = time.monotonic()
        self._events = self._follow()

    def __iter__(self) -> Iterator[Event]:
        return self._events

    def __enter__(self) -> PromptRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening. The run goes on."""
        self._socket.close()

    def _follow(self) -> Iterator[Event]:
        try:
            while True:
                left = self._start + self._timeout - time.monotonic()
                # A run that ended in time is told of in full, however late somebody asks.
                message = self._next(min(self._poll_interval, left)) if left > 0 else None
                event = self._look() if message in (None, _ENDED) else message
                if isinstance(event, Done | Failed):
                    if message is None:
                        yield from self._last_news()
                    yield event
                    return
                if left <= 0:
                    raise TimeoutError(
                        f"prompt {self.prompt_id} is still {'running' if Started in self._told else 'queued'} after "
                        f"{self._timeout:g} s. Wait longer (timeout=...), or end it with cancel(prompt_id)."
                    )
                if event is not None and self._is_news(event):
                    yield event
        finally:
            self.close()

    def _next(self, seconds: float) -> Any:
        """The next message, or None where none comes in time."""
        try:
            message = self._inbox.get(timeout=seconds)
        except queue.Empty:
            return None
        if not isinstance(message, ConnectionLost):
            self._heard = time.monotonic()
        return message

    def _look(self) -> Event | None:
        """The state of the run over HTTP; None while nothing answers."""
        try:
            prompts_ahead, history = self.client.look_up(self.prompt_id)
        except ExecutionError as error:
            return Failed(error)
        except ServerError:
            if time.monotonic() - self._heard > self._patience:
                raise
            return None
        self._heard = time.monotonic()
        if history is not None:
            return Done(history)
        return Queued(prompts_ahead) if prompts_ahead else Started()

    def _last_news(self) -> Iterator[Event]:
        """What is still on its way when HTTP says first that the run is over."""
        deadline = time.monotonic() + LAST_NEWS
        while True:
            message = self._next(max(0.0, deadline - time.monotonic()) if self._socket.connected else 0.0)
            if message in (None, _ENDED):
                return
            if self._is_news(message):
                yield message

    def _is_news(self, event: Event) -> bool:
        """HTTP and a new connection repeat what is known."""
        repeated = isinstance(event, Queued | Started | NodeStarted) and self._told.get(type(event)) == event
        self._told[type(event)] = event
        return not repeated

    # What follows runs in the socket's thread.

    def _lost(self, reason: str) -> None:
        self._inbox.put(ConnectionLost(reason))

    def _receive(self, message: dict[str, Any] | bytes) -> None:
        for event in self._preview(message) if isinstance(message, bytes) else self._news(message):
            self._inbox.put(event)

    def _news(self, message: dict[str, Any]) -> Iterator[Any]:
        kind, data = message.get("type"), message.get("data")
        # To a client that comes back, the server names the node that runs, without the prompt.
        if not isinstance(data, dict) or data.get("prompt_id", self.prompt_id) != self.prompt_id:
            return
        if kind == "execution_start":
            yield Started()
        elif kind == "execution_cached":
            yield from (NodeCached(self._node(node_id)) for node_id in data["nodes"])
        elif kind == "executing" and data["node"] is None:
            yield _ENDED
        elif kind == "executing":
            yield NodeStarted(self._node(data["node"]))
        elif kind == "progress" and data["node"] is not None:
            yield Step(self._node(data["node"]), data["value"], data["max"])
        elif kind == "executed" and data["output"]:
            yield NodeOutput(self._node(data["node"]), data["output"])

    def _preview(self, message: bytes) -> Iterator[Preview]:
        if len(message) < 8 or struct.unpack_from(">I", message)[0] != PREVIEW_WITH_METADATA:
            return
        start = 8 + struct.unpack_from(">I", message, 4)[0]
        metadata = json.loads(message[8:start])
        if metadata.get("prompt_id") == self.prompt_id:
            yield Preview(self._node(metadata["node_id"]), message[start:], metadata["image_type"])

    def _node(self, node_id: str) -> Node:
        # A node that expands into others numbers them 5.0.0.1 and so on; the prompt knows the first part.
        if node_id not in self.prompt:
            node_id = node_id.partition(".")[0]
        class_type = self.prompt.get(node_id, {}).get("class_type")
        return Node(node_id, class_type, describe_node(self.prompt, node_id))


class _Socket:
    """A WebSocket that is read in a thread of its own, and connected again when it drops.

    A thread, because ComfyUI serves its clients one after the other and waits for one that does not read: a program
    that is busy with an event must hold up nobody.
    """

    def __init__(
        self,
        client: ComfyUIClient,
        client_id: str,
        *,
        on_message: Callable[[dict[str, Any] | bytes], None],
        on_lost: Callable[[str], None],
    ):
        self.connected = False
        self._url = f"{client.address}/ws?clientId={client_id}"
        self._trust_env = client.trust_env
        self._on_message = on_message
        self._on_lost = on_lost
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self._read())
        self._thread = threading.Thread(target=self._work, name=f"comfyui-{client_id}", daemon=True)
        self._thread.start()

    def wait_until_ready(self) -> None:
        """Wait until messages can come, or the first attempt has failed."""
        self._ready.wait(CONNECT_TIMEOUT)

    def close(self) -> None:
        if self._thread.is_alive():
            # The thread may end, and close its loop, in between.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join(CONNECT_TIMEOUT)

    def _work(self) -> None:
        try:
            with suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._task)
        finally:
            self.connected = False
            self._ready.set()
            self._loop.close()

    async def _read(self) -> None:
        retry = None
        async with aiohttp.ClientSession(trust_env=self._trust_env) as session:
            while True:
                try:
                    reason = await self._read_until_it_drops(session)
                except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
                    reason = str(error) or type(error).__name__
                if self.connected or retry is None:
                    self._on_lost(reason)
                    retry = FIRST_RETRY
                self.connected = False
                self._ready.set()
                await asyncio.sleep(retry)
                retry = min(2 * retry, LAST_RETRY)

    async def _read_until_it_drops(self, session: aiohttp.ClientSession) -> str:
        # Errors and outputs of nodes may be of any length; a server that vanished without a word is found by its pings.
        connecting = session.ws_connect(
            self._url, heartbeat=30.0, max_msg_size=0, timeout=aiohttp.ClientWSTimeout(ws_close=1.0)
        )
        async with await asyncio.wait_for(connecting, CONNECT_TIMEOUT) as socket:
            self.connected = True
            # The answer to this shows that the server has taken note, before a prompt is queued.
            await socket.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
            async for message in socket:
                if message.type == aiohttp.WSMsgType.BINARY:
                    self._on_message(message.data)
                elif message.type == aiohttp.WSMsgType.TEXT:
                    content = json.loads(message.data)
                    if content.get("type") == "feature_flags":
                        self._ready.set()
                    self._on_message(content)
            return f"closed with code {socket.close_code}"
