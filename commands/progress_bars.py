"""How far work is, as bars on stderr."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import ProgressColumn, Task

    from ..training.progress import Progress


@contextlib.contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar per stage, with what it has done per second since it started."""
    from rich.progress import MofNCompleteColumn, TextColumn

    speed_and_note = TextColumn("{task.fields[speed]}"), TextColumn("{task.fields[note]}", markup=False)
    with _bars(MofNCompleteColumn(), *speed_and_note) as bars:

        def advance(stage: str, done: int, total: int, note: str = "") -> None:
            task = _task(bars, stage, done, total, first=done, speed="", note=note)
            since_start = done - task.fields["first"]
            # Some systems' clocks move every 16 ms only.
            speed = f"{since_start / task.elapsed:.1f} {stage}/s" if since_start > 0 and task.elapsed else ""
            bars.update(task.id, completed=done, speed=speed, note=note)

        yield advance


@contextlib.contextmanager
def bytes_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for what is being read or downloaded, in bytes."""
    from rich.progress import DownloadColumn, TransferSpeedColumn

    with _bars(DownloadColumn(), TransferSpeedColumn()) as bars:

        def advance(stage: str, done: int, total: int) -> None:
            task = _task(bars, stage, done, total or None)
            bars.update(task.id, completed=done, total=total or None)
            if total and done >= total and not stage.startswith("downloading"):
                bars.update(task.id, visible=False)

        yield advance


def hush_libraries() -> None:
    """Their progress bars would run across ours."""
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def _bars(*columns: ProgressColumn) -> Bars:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    description = TextColumn("{task.description}", markup=False)
    return Progress(description, BarColumn(), *columns, TimeRemainingColumn(), console=Console(stderr=True))


def _task(bars: Bars, stage: str, done: int, total: int | None, **fields: Any) -> Task:
    """The visible bar of a stage; one that begins here where there is none."""
    for task in bars.tasks:
        if task.description == stage and task.visible:
            return task
    bars.add_task(stage, completed=done, total=total, **fields)
    return bars.tasks[-1]
