"""How work tells how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told what is being done, how much of it is done and how much there is, and what else one may want to know.

    It is told for the first time before any is done.
    """

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None: ...
