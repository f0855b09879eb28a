"""How commands end that cannot do what they were asked for: one message on stderr, and a code."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import NoReturn

import typer
from rich.console import Console

INTERRUPTED = 130
"""What shells expect of a command that Ctrl-C ended."""

PACKAGE = __package__.rpartition(".")[0]
"""Under whatever name it was imported."""


@contextlib.contextmanager
def told(
    *kinds: type[Exception],
    extra: str | None,
    interrupted: str = "Stopped. The same command goes on from here.",
) -> Iterator[None]:
    """What the user can mend ends the command with one message, and what is logged goes to stderr.

    Args:
        kinds: of errors that users can mend, beside ValueError and OSError.
        extra: with which pip installs what the command needs; None where the missing package alone will do.
        interrupted: what Ctrl-C is answered with.
    """
    _log_to_stderr()
    try:
        with ended_by(ValueError, OSError, *kinds):
            yield
    except ModuleNotFoundError as error:
        install = f"'bolid[{extra}]'" if extra else error.name
        fail(f"this command needs the package {error.name}: pip install {install}")
    except KeyboardInterrupt:
        fail(interrupted, INTERRUPTED)


@contextlib.contextmanager
def ended_by(*kinds: type[Exception]) -> Iterator[None]:
    """Errors of these kinds end the command with their message; inside `told`, where they are imported late."""
    try:
        yield
    except kinds as error:
        fail(str(error))


def fail(message: str, code: int = 2) -> NoReturn:
    """End the command."""
    sys.stderr.write(f"bolid: {message}\n")
    raise typer.Exit(code)


def _log_to_stderr() -> None:
    from rich.logging import RichHandler

    handler = RichHandler(console=Console(stderr=True), show_time=False, show_path=False)
    # Other packages tell a lot that is of no use here.
    handler.addFilter(lambda record: record.levelno >= logging.WARNING or record.name.startswith(PACKAGE))
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
