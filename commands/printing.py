"""What commands print to stdout: lines and tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from rich.table import Table


def print_json(summary: Any) -> None:
    """One object, on one line."""
    sys.stdout.write(json.dumps(summary) + "\n")


def print_line(line: str) -> None:
    """As it is: brackets are no markup, and paths are not broken."""
    Console().print(line, highlight=False, markup=False, soft_wrap=True)


def print_table(table: Table, *, whole_names: bool = False) -> None:
    """As wide as the terminal; nothing where it has no rows.

    Args:
        whole_names: where there is no terminal, wide enough for file names to stay whole.
    """
    if not table.row_count:
        return
    console = Console()
    if whole_names and not console.is_terminal:
        console = Console(width=160)
    console.print(table, highlight=False, markup=False)


def is_main_process() -> bool:
    """Of several processes that work together, one is enough to say what came out."""
    from accelerate import PartialState

    return PartialState().is_main_process


def print_trained(summary: dict[str, Any], result: str, *, as_json: bool) -> None:
    """What a training run ended with.

    Args:
        result: the file that was trained.
    """
    if not is_main_process():
        return
    if as_json:
        print_json(summary)
        return
    for name, value in summary["validation"].items():
        print_line(f"validation {name}: {value:.5f}")
    print_line(f"Result: {result}")
