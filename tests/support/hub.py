"""A local HTTP server that speaks as much of Hugging Face's Hub as a download needs, and can be made to fail.

HEAD and GET of /<owner>/<name>/resolve/<revision>/<path> answer as the Hub does for files in Git LFS: the checksum in
X-Linked-Etag, the size in X-Linked-Size, the commit in X-Repo-Commit, and a redirect to another address for the
content, which takes Range requests.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """The server; a context manager.

    Attributes:
        files: content by "<owner>/<name>/<path>", and by any other path for plain downloads.
        status: by the same names, an HTTP status in the place of an answer.
        cut_after: connections end after so many bytes of content; None: they do not.
        pause: seconds between pieces of content, to give a test time.
        etags: by name, what the Hub says in the place of the checksum.
        requests: method, name, and the Range asked for, in their order.
        tokens: Authorization headers, with the path asked for.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
    cut_after: int | None = None
    pause: float = 0.0
    etags: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    tokens: list[tuple[str, str]] = field(default_factory=list)

    def __enter__(self) -> Hub:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                with suppress(ConnectionError):  # a client that is stopped hangs up
                    hub._answer(self)

            do_GET = do_HEAD

            def log_message(self, format: str, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def asked(self, method: str, name: str) -> list[str | None]:
        """The ranges of all requests for a file."""
        return [range_ for how, what, range_ in self.requests if (how, what) == (method, name)]

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", request.path)
        name = f"{match[1]}/{match[2]}" if match else request.path.removeprefix("/cdn").removeprefix("/")
        self.requests.append((request.command, name, request.headers.get("Range")))
        if token := request.headers.get("Authorization"):
            self.tokens.append((request.path, token))
        status = self.status.get(name, 200 if name in self.files else 404)
        if status != 200:
            code = {404: {"X-Error-Code": "EntryNotFound"}}.get(status, {})
            _send(request, status, {**code, "Content-Length": "0"})
        elif match:
            content = self.files[name]
            headers = {
                "X-Repo-Commit": COMMIT,
                "X-Linked-Etag": f'"{self.etags.get(name, hashlib.sha256(content).hexdigest())}"',
                "X-Linked-Size": str(len(content)),
                "ETag": '"of the answer"',
                # Another host, as the Hub's content has: clients do not follow it when they ask for the headers.
                "Location": f"{self.address.replace('127.0.0.1', 'localhost')}/cdn/{name}",
                "Content-Length": "0",
            }
            _send(request, 302, headers)
        else:
            self._send_content(request, self.files[name])

    def _send_content(self, request: BaseHTTPRequestHandler, content: bytes) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range") or "")
        first = int(wanted[1]) if wanted else 0
        headers = {"Content-Length": str(len(content) - first), "Accept-Ranges": "bytes"}
        if wanted:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        _send(request, 206 if wanted else 200, headers)
        if request.command == "HEAD":
            return
        rest = content[first:]
        whole = self.cut_after is None or len(rest) <= self.cut_after
        rest = rest if whole else rest[: self.cut_after]
        step = len(rest) if not self.pause else 1 << 16
        for start in range(0, len(rest), max(step, 1)):
            request.wfile.write(rest[start : start + step])
            time.sleep(self.pause)
        if not whole:
            request.wfile.flush()
            request.close_connection = True


def _send(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.end_headers()


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Raise a TimeoutError unless the condition comes true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the condition did not come true")
        time.sleep(0.02)
