"""A small client for programs that call a headless ComfyUI over HTTP.

It needs nothing but `requests` and knows nothing of BoLID: any API-form prompt (the frontend's "Export (API)") runs.

    client = ComfyUIClient("http://127.0.0.1:8188")
    name = client.upload_image("anna.jpg", subfolder="anna")
    prompt["10"]["inputs"]["image"] = name
    for picture in client.run(prompt):
        Path(picture.filename).write_bytes(picture.data)

Only plain HTTP is used, no WebSocket: a program may poll, sleep and come back. comfyui_events.py follows a run step by
step. Routes as in ComfyUI 0.30's server.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import requests

Prompt = Mapping[str, Mapping[str, Any]]
"""API form: node id -> {"class_type": str, "inputs": {...}}."""


class ServerError(RuntimeError):
    """Nothing answers at the address, or the server answers with an error of its own."""


class PromptError(ValueError):
    """The server refused a prompt before running it. The message names every node and input at fault.

    `node_errors` is the server's own answer: node id -> {"class_type": ..., "errors": [...]}.
    """

    def __init__(self, message: str, *, node_errors: Mapping[str, Any]):
        super().__init__(message)
        self.node_errors = node_errors


class ExecutionError(RuntimeError):
    """A node failed, or the run was interrupted. The message carries the node's own.

    `node_id`, `class_type` and `exception_type` are None where the server does not say; `interrupted` tells the two
    cases apart; `traceback` is the server's, as one string.
    """

    def __init__(
        self,
        message: str,
        *,
        node_id: str | None = None,
        class_type: str | None = None,
        exception_type: str | None = None,
        traceback: str = "",
        interrupted: bool = False,
    ):
        super().__init__(message)
        self.node_id = node_id
        self.class_type = class_type
        self.exception_type = exception_type
        self.traceback = traceback
        self.interrupted = interrupted


@dataclass(frozen=True)
class Progress:
    """Where a queued prompt stands: its state, how many prompts run before it, and seconds since `wait` was called."""

    state: Literal["queued", "running"]
    prompts_ahead: int
    seconds: float


@dataclass(frozen=True)
class Picture:
    """One picture that a node saved or previewed. `data` is the file's bytes; `type` is "output" or "temp"."""

    node_id: str
    filename: str
    subfolder: str
    type: str
    data: bytes


@dataclass(frozen=True)
class Text:
    """One text that a node showed: of 'Preview as Text' what came in, such as a report as JSON."""

    node_id: str
    text: str


class ComfyUIClient:
    """Talks to one ComfyUI server.

    Args:
        address: e.g. "http://127.0.0.1:8188".
        timeout: seconds that one HTTP request may take (not a whole run: see `wait`).

    Raises:
        ValueError: the address has neither http:// nor https://.

    Every method raises ServerError when nothing answers at the address or the server answers with an error.
    """

    def __init__(self, address: str, *, timeout: float = 30.0):
        if urlsplit(address).scheme not in ("http", "https"):
            raise ValueError(
                f"address {address!r} begins neither with http:// nor with https://. Give http://host:port."
            )
        self.address = address.rstrip("/")
        self.timeout = timeout
        # A proxy from the environment cannot reach this machine's loopback.
        self.trust_env = urlsplit(self.address).hostname not in ("127.0.0.1", "localhost", "::1")
        self._session = requests.Session()
        self._session.trust_env = self.trust_env

    def upload_image(
        self, image: bytes | str | Path, *, name: str | None = None, subfolder: str = "", overwrite: bool = True
    ) -> str:
        """Put an image file into the server's input folder.

        Args:
            image: the bytes of an image file, or its path.
            name: file name on the server; needed for bytes, else the path's own name.
            subfolder: below the input folder, e.g. "anna".
            overwrite: replace a file of that name; otherwise the server chooses another name.

        Returns:
            The value for a loader node: "subfolder/name", or "name" without a subfolder.
        """
        if not isinstance(image, bytes):
            path = Path(image)
            name = name or path.name
            image = path.read_bytes()
        if not name:
            raise ValueError("upload_image was given bytes without a name. Pass name='photo.png'.")
        answer = self._answer(
            "POST",
            "/upload/image",
            files={"image": (name, image)},
            data={"type": "input", "subfolder": subfolder, "overwrite": "true" if overwrite else "false"},
        )
        return f"{answer['subfolder']}/{answer['name']}" if answer["subfolder"] else answer["name"]

    def queue(
        self,
        prompt: Prompt,
        *,
        client_id: str | None = None,
        prompt_id: str | None = None,
        extra_data: Mapping[str, Any] | None = None,
    ) -> str:
        """Queue a prompt and return its prompt_id.

        Args:
            prompt: the graph in API form.
            client_id: whose WebSocket is told of the run.
            prompt_id: a UUID of your own, in lower case; the server makes one otherwise.
            extra_data: what else the server takes, e.g. {"preview_method": "latent2rgb"}.

        Raises:
            PromptError: the server found a node or an input at fault. Also where only some outputs are concerned: the
                server starts on the others, and what is left of them is cancelled.
        """
        given = {"client_id": client_id, "prompt_id": prompt_id, "extra_data": extra_data}
        body = {"prompt": prompt, **{name: value for name, value in given.items() if value is not None}}
        response = self._request("POST", "/prompt", json=body, accept=(200, 400))
        answer = _json(response)
        if not isinstance(answer, dict):
            raise ServerError(f"{self.address}/prompt answered HTTP {response.status_code}: {response.text[:500]}")
        node_errors = answer.get("node_errors") or {}
        if response.status_code == 200 and not node_errors:
            return answer["prompt_id"]
        if response.status_code == 200:
            self.cancel(answer["prompt_id"])
        raise PromptError(_describe_refusal(answer, prompt), node_errors=node_errors)

    def wait(
        self,
        prompt_id: str,
        *,
        timeout: float = 600.0,
        progress: Callable[[Progress], None] | None = None,
        poll_interval: float = 0.1,
    ) -> dict[str, Any]:
        """Wait until a queued prompt is done.

        Args:
            prompt_id: what `queue` returned.
            timeout: seconds; the prompt goes on after it (see `cancel`).
            progress: called at every poll until the prompt is done.
            poll_interval: seconds between two polls.

        Returns:
            The history entry: {"outputs": {node id: {"images": [...]}}, "status": {...}, ...}.

        Raises:
            ExecutionError: a node failed, or the run was interrupted.
            TimeoutError: it took longer than `timeout`.
            RuntimeError: the server knows no such prompt (it was cancelled, or the server started anew).
        """
        start = time.monotonic()
        while True:
            position, history = self.look_up(prompt_id)
            if history is not None:
                return history
            seconds = time.monotonic() - start
            if seconds > timeout:
                raise TimeoutError(
                    f"prompt {prompt_id} is still {'running' if position == 0 else 'queued'} after {timeout:g} s. "
                    "Wait longer (timeout=...), or end it with cancel(prompt_id)."
                )
            if progress is not None:
                progress(Progress("running" if position == 0 else "queued", position, seconds))
            time.sleep(poll_interval)

    def look_up(self, prompt_id: str) -> tuple[int | None, dict[str, Any] | None]:
        """Say where a prompt stands, without waiting.

        Returns:
            The number of prompts that run before it (0: it runs itself) and None; or None and its history entry, once
            it is done.

        Raises:
            ExecutionError: a node failed, or the run was interrupted.
            RuntimeError: the server knows no such prompt (it was cancelled, or the server started anew).
        """
        # The queue is asked first: a prompt that ends between the two requests is then found in the history.
        position = self._position(prompt_id)
        history = self._answer("GET", f"/history/{prompt_id}")
        if prompt_id in history:
            _raise_if_failed(history[prompt_id])
            return None, history[prompt_id]
        if position is None:
            raise RuntimeError(
                f"{self.address} knows no prompt {prompt_id}: it was cancelled, or the server was started anew. "
                "Queue it again."
            )
        return position, None

    def images(self, history: Mapping[str, Any]) -> list[Picture]:
        """Fetch every picture of a history entry (what `wait` returns), in the order of node id and of the batch."""
        pictures = []
        for node_id, output in sorted(history["outputs"].items(), key=lambda item: _node_order(item[0])):
            for entry in output.get("images", ()):
                query = {"filename": entry["filename"], "subfolder": entry["subfolder"], "type": entry["type"]}
                data = self._request("GET", "/view", params=query).content
                pictures.append(Picture(node_id, entry["filename"], entry["subfolder"], entry["type"], data))
        return pictures

    def texts(self, history: Mapping[str, Any]) -> list[Text]:
        """List every text of a history entry, in the order of node id. Nothing is fetched: texts stand in the entry."""
        outputs = sorted(history["outputs"].items(), key=lambda item: _node_order(item[0]))
        return [Text(node_id, str(text)) for node_id, output in outputs for text in output.get("text", ())]

    def run(
        self, prompt: Prompt, *, timeout: float = 600.0, progress: Callable[[Progress], None] | None = None
    ) -> list[Picture]:
        """Queue a prompt, wait for it, and fetch its pictures: `queue`, `wait` and `images` in one."""
        return self.images(self.wait(self.queue(prompt), timeout=timeout, progress=progress))

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Interrupt the prompt that runs now; with a prompt_id only if it is that one."""
        self._request("POST", "/interrupt", json={} if prompt_id is None else {"prompt_id": prompt_id})

    def cancel(self, prompt_id: str) -> None:
        """End a prompt, whether it is still queued or already runs. One that is done stays done."""
        self._request("POST", "/queue", json={"delete": [prompt_id]})
        self.interrupt(prompt_id)

    def free(self, *, unload_models: bool = True, free_memory: bool = True) -> None:
        """Have the server unload its models and drop its cached results, before its next prompt at the latest."""
        self._request("POST", "/free", json={"unload_models": unload_models, "free_memory": free_memory})

    def object_info(self, class_type: str | None = None) -> dict[str, Any]:
        """Describe all nodes (class_type -> inputs, outputs, ...), or the one that is named.

        Raises:
            ValueError: the server has no node of that class_type.
        """
        if class_type is None:
            return self._answer("GET", "/object_info")
        answer = self._answer("GET", f"/object_info/{class_type}")
        if class_type not in answer:
            raise ValueError(
                f"{self.address} has no node {class_type!r}. Is its pack in custom_nodes, and did it load? The "
                "server's log says so at its start."
            )
        return answer[class_type]

    def set_setting(self, name: str, value: Any) -> None:
        """Set one setting of the frontend, e.g. "Comfy.TutorialCompleted"."""
        self._request("POST", "/api/settings", json={name: value})

    def system_stats(self) -> dict[str, Any]:
        """Return the server's versions, devices and memory; the cheapest way to see whether it is up."""
        return self._answer("GET", "/system_stats")

    def _position(self, prompt_id: str) -> int | None:
        """0 while the prompt runs, else the number of prompts before it, or None when it is in no queue."""
        queue = self._answer("GET", "/queue")
        running = [item[1] for item in queue["queue_running"]]
        if prompt_id in running:
            return 0
        pending = [item[1] for item in sorted(queue["queue_pending"], key=lambda item: item[0])]
        return len(running) + pending.index(prompt_id) if prompt_id in pending else None

    def _answer(self, method: str, route: str, **arguments: Any) -> Any:
        """The JSON of an answer."""
        response = self._request(method, route, **arguments)
        try:
            return response.json()
        except requests.JSONDecodeError as error:
            raise ServerError(
                f"{self.address} answered {method} {route} with something that is no JSON "
                f"({response.text.strip()[:200]!r}). Is it a ComfyUI, and does a proxy ask for a password?"
            ) from error

    def _request(self, method: str, route: str, *, accept: tuple[int, ...] = (200,), **arguments: Any):
        try:
            response = self._session.request(method, self.address + route, timeout=self.timeout, **arguments)
        except requests.ConnectionError as error:
            raise ServerError(
                f"no ComfyUI answers at {self.address} ({method} {route}). Start it (python main.py --port ...), or "
                "check the address."
            ) from error
        except requests.Timeout as error:
            raise ServerError(
                f"{self.address} took longer than {self.timeout:g} s to answer {method} {route}. Is it overloaded? "
                "ComfyUIClient(..., timeout=...) waits longer."
            ) from error
        except requests.RequestException as error:
            raise ServerError(f"{method} {route} at {self.address} failed: {error}") from error
        if response.status_code not in accept:
            raise ServerError(
                f"{self.address} answered HTTP {response.status_code} to {method} {route}: "
                f"{response.text.strip()[:500] or response.reason}"
            )
        return response


def _json(response: requests.Response) -> Any:
    try:
        return response.json()
    except requests.JSONDecodeError:
        return None


def _node_order(node_id: str) -> tuple[int, str]:
    return (int(node_id), "") if node_id.isdigit() else (0, node_id)


def describe_node(prompt: Mapping[str, Any], node_id: str | None, class_type: str | None = None) -> str:
    """Return 'node 9 (CLIPTextEncode "Prompt")': id, class, and the title that the graph's author gave it, if any."""
    node = prompt.get(str(node_id), {})
    class_type = class_type or node.get("class_type")
    title = (node.get("_meta") or {}).get("title")
    named = class_type if title in (None, "", class_type) else f'{class_type} "{title}"'
    return f"node {node_id} ({named})"


def _sentence(message: str, details: str) -> str:
    return f"{message}: {details}" if details and details != message else message


def _describe_refusal(answer: Mapping[str, Any], prompt: Prompt) -> str:
    """Turn the JSON of a refused /prompt into lines that a person can act on."""
    lines = []
    for node_id, node in (answer.get("node_errors") or {}).items():
        for error in node["errors"]:
            sentence = _sentence(error["message"], error.get("details", ""))
            lines.append(f"{describe_node(prompt, node_id, node['class_type'])}: {sentence}")
    error = answer.get("error")
    if isinstance(error, dict) and not lines:
        where = error.get("extra_info", {})
        sentence = _sentence(error["message"], error.get("details", ""))
        if "node_id" in where:
            sentence = f"{describe_node(prompt, where['node_id'], where.get('class_type'))}: {sentence}"
        lines.append(sentence)
    elif error and not lines:
        lines.append(str(error))
    return f"ComfyUI refused the prompt of {len(prompt)} nodes:\n" + "\n".join(f"  {line}" for line in lines)


def _raise_if_failed(history: Mapping[str, Any]) -> None:
    status = history.get("status") or {}
    if status.get("status_str") != "error":
        return
    # (number, prompt_id, prompt, extra_data, output nodes)
    prompt = history["prompt"][2]
    for event, data in status.get("messages", ()):
        where = describe_node(prompt, data.get("node_id"), data.get("node_type"))
        if event == "execution_interrupted":
            raise ExecutionError(
                f"the run was interrupted in {where}.",
                node_id=data.get("node_id"),
                class_type=data.get("node_type"),
                interrupted=True,
            )
        if event == "execution_error":
            raise ExecutionError(
                f"{where} failed with {data['exception_type']}: {data['exception_message'].strip()}",
                node_id=data["node_id"],
                class_type=data["node_type"],
                exception_type=data["exception_type"],
                traceback="".join(data["traceback"]),
            )
    raise ExecutionError("the run failed, and the server does not say in which node: see its log.")
