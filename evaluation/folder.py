"""What an evaluation leaves behind: its folder, and of what the pictures in it were drawn.

```
evaluation.json     says that this is an evaluation
config.json         the resolved config of the last start
starts.jsonl        when it was started, with which config and in which environment
plan.jsonl          a line per picture of every setting: whom, with which text, from which photos
pictures/           drawn pictures, a folder per setting with a drawn_from.json each
measured/           what the networks said about pictures
results.json        all results; also as summary.csv, differences.csv, people.csv, pictures.csv and report.html
```
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..training.files import PARTIAL, write_text
from ..training.run_folder import environment

FORMAT = 1
RECORD, LOCK, DRAWN_FROM = "evaluation.json", ".lock", "drawn_from.json"


class EvaluationError(RuntimeError):
    """An evaluation cannot go on; the message says why and what mends it."""


class OutputFolder:
    """The folder of an evaluation.

    Args:
        folder: `output`.

    Raises:
        ValueError: it is no folder, or holds something else.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.pictures, self.measured = folder / "pictures", folder / "measured"
        self._lock = FileLock(folder / LOCK)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"output is {folder}, which is a file. Give a folder.")
        record = folder / RECORD
        if record.is_file():
            try:
                found = json.loads(record.read_bytes()).get("format")
            except (ValueError, AttributeError) as error:
                raise ValueError(f"{record} is damaged ({error}). Give another output.") from None
            if found != FORMAT:
                raise ValueError(
                    f"{folder} holds an evaluation of another version of BoLID (format {found}; this one has "
                    f"{FORMAT}). Give another output."
                )
        elif folder.is_dir() and any(not path.name.startswith((LOCK, f".{RECORD}.")) for path in folder.iterdir()):
            raise ValueError(
                f"output is {folder}, which holds other files and no evaluation. Give a new one: nothing is "
                "overwritten."
            )

    def start(self, config: dict[str, Any], plan: str) -> None:
        """Write down that the evaluation is started, or goes on; until `close` no other process can.

        Args:
            config: resolved.
            plan: see `Plan.record`.

        Raises:
            ValueError: another process is at it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"Another process is evaluating into {self.folder}. Wait for it, stop it, or give another output."
            ) from None
        # First: without it the folder would be taken for somebody else's.
        write_text(self.folder / RECORD, json.dumps({"format": FORMAT}) + "\n")
        for left in self.folder.rglob(f".*{PARTIAL}"):
            left.unlink()
        write_text(self.folder / "config.json", json.dumps(config, indent=1) + "\n")
        write_text(self.folder / "plan.jsonl", plan)
        with (self.folder / "starts.jsonl").open("a", encoding="utf-8") as file:
            entry = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "config": config, "environment": environment()}
            file.write(json.dumps(entry) + "\n")

    def close(self) -> None:
        """Let other processes go on with the evaluation."""
        self._lock.release()

    def check_drawn_from(self, setting_folder: str, depends_on: Mapping[str, Any]) -> None:
        """Make sure that the pictures of a setting, where there are any, are those that would be drawn now.

        Raises:
            ValueError: they were drawn from something else; the message names all of it.
        """
        path = self.pictures / setting_folder / DRAWN_FROM
        if not path.is_file():
            return
        try:
            before = dict(json.loads(path.read_bytes()))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}). Delete {path.parent}: it is drawn anew.") from None
        now = json.loads(json.dumps(depends_on))
        changed = [
            f"{key} was {json.dumps(before.get(key))}, now {json.dumps(now.get(key))}"
            for key in sorted({*before, *now})
            if before.get(key) != now.get(key)
        ]
        if changed:
            raise ValueError(
                f"The pictures in {path.parent} were drawn from something else: {'; '.join(changed)}. Set it back, "
                "delete that folder, or give another output: nothing is overwritten."
            )

    def note_drawn_from(self, setting_folder: str, depends_on: Mapping[str, Any]) -> Path:
        """Write down what a setting's pictures are drawn from, before the first of them; returns their folder."""
        folder = self.pictures / setting_folder
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / DRAWN_FROM, json.dumps(depends_on, indent=1) + "\n")
        return folder
