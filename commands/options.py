"""Arguments and options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="In the place of what the file says, as in run.steps=2000."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout, and all else to stderr.")]
