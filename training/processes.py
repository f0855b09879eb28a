"""Work in several processes, which neither Ctrl-C nor the death of their parent leaves behind."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class ProcessDied(RuntimeError):
    """A process ended by itself.

    Attributes:
        items: one of these was being worked on.
    """

    def __init__(self, items: Sequence[Any]):
        super().__init__(f"A process ended by itself while it worked on one of {items}.")
        self.items = list(items)


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def results_in_processes(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int,
    initializer: Callable[[], object] | None = None,
) -> Generator[Result]:
    """Results as they come, in any order. To be closed where it may not come to its end.

    Args:
        function, initializer: of a module, or a `functools.partial` of such, as new processes have to import them.
        items: each is given to the function once.
        workers: processes at most.
        initializer: called first in every process.

    Raises:
        ProcessDied: a process was killed or crashed.
        Exception: whatever the function raises.
    """
    workers = min(workers, len(items))
    if not workers:
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=(initializer,)
    )
    waiting = iter(items)
    running: dict[Future[Result], Item] = {}
    try:
        with _without_interrupts():
            running |= {pool.submit(function, item): item for item in itertools.islice(waiting, 2 * workers)}
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
                del running[future]
            running |= {pool.submit(function, item): item for item in itertools.islice(waiting, len(done))}
    except BrokenProcessPool as error:
        raise ProcessDied(list(running.values())) from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that start meanwhile never see Ctrl-C, which a terminal sends to all; their parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(initializer: Callable[[], object] | None) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if initializer is not None:
        initializer()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)
