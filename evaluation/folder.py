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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..training.files import write_text
from ..training.work_folder import WorkFolder, as_json, changes

FORMAT = 1
RECORD, DRAWN_FROM = "evaluation.json", "drawn_from.json"


class EvaluationError(RuntimeError):
    """An evaluation cannot go on; the message says why and what mends it."""


class OutputFolder(WorkFolder):
    """The folder of an evaluation.

    Args:
        folder: `output`.

    Raises:
        ValueError: it is no folder, or holds something else.
    """

    def __init__(self, folder: Path):
        super().__init__(folder, record=RECORD, format=FORMAT, key="output", what="an evaluation")
        self.pictures, self.measured = folder / "pictures", folder / "measured"

    def start(self, config: dict[str, Any], plan: str) -> None:
        """See `begin`.

        Args:
            plan: see `Plan.record`.
        """
        self.begin(config)
        write_text(self.folder / "plan.jsonl", plan)

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
        changed = changes(before, json.loads(json.dumps(depends_on)))
        if changed:
            raise ValueError(
                f"The pictures in {path.parent} were drawn from something else: {changed}. Set it back, "
                "delete that folder, or give another output: nothing is overwritten."
            )

    def note_drawn_from(self, setting_folder: str, depends_on: Mapping[str, Any]) -> Path:
        """Write down what a setting's pictures are drawn from, before the first of them; returns their folder."""
        folder = self.pictures / setting_folder
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / DRAWN_FROM, as_json(depends_on))
        return folder
