"""Results that are kept one by one while a long command runs."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from types import TracebackType
from typing import Any

logger = logging.getLogger(__name__)


class Journal:
    """A file of JSON objects, one per line; it may have been cut off at any byte.

    `entries` are those that were there when the journal was opened. As a context manager it appends.

    Args:
        path: of the file; it is created when it is entered.
    """

    def __init__(self, path: Path):
        self._path = path
        content = path.read_bytes() if path.is_file() else b""
        # What follows the last line break was cut off while it was written.
        self._length = content.rfind(b"\n") + 1
        self.entries: list[dict[str, Any]] = []
        damaged = []
        for number, line in enumerate(content[: self._length].splitlines(), start=1):
            try:
                entry = json.loads(line)
            except ValueError:
                entry = None
            if isinstance(entry, dict):
                self.entries.append(entry)
            else:
                damaged.append(number)
        if damaged:
            logger.warning(
                "%s: %d damaged lines are made anew (the first is line %d).", path.name, len(damaged), damaged[0]
            )

    def __enter__(self) -> Journal:
        self._file = self._path.open("ab")
        if self._file.tell() != self._length:
            os.truncate(self._path, self._length)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, entry: dict[str, Any]) -> None:
        """Write one line; it is there even if the process is killed right afterwards."""
        self._file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
