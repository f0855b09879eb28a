"""`bolid evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .failures import ended_by, told
from .options import Json, Overrides
from .printing import is_main_process, print_json, print_line, print_table
from .progress_bars import hush_libraries, progress_bar

app = typer.Typer()


@app.command("evaluate")
def evaluate_command(
    config: Annotated[Path, typer.Argument(help="A TOML file; evaluation/configs has examples.")],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Draw people who were held out by several methods, measure the pictures and compare them."""
    with told(extra="evaluate"):
        from ..evaluation.config import load_config

        loaded = load_config(config, overrides or ())
        hush_libraries()
        from ..evaluation.evaluate import evaluate
        from ..evaluation.folder import EvaluationError

        with ended_by(EvaluationError), progress_bar() as progress:
            summary = evaluate(loaded, progress)
    if not is_main_process():
        return
    if as_json:
        print_json(summary)
    else:
        _print_comparison(summary)


def _print_comparison(summary: dict[str, Any]) -> None:
    from rich.table import Table

    columns = list(dict.fromkeys(column for found in summary["summary"].values() for column in found))
    table = Table("", *(column.replace("_", " ") for column in columns))
    for variant, found in summary["summary"].items():
        table.add_row(variant, *(f"{found[column]['mean']:.3f}" if column in found else "" for column in columns))
    if columns:
        print_table(table)
    for warning in summary["warnings"]:
        print_line(f"Note: {warning}")
    print_line(f"Report: {summary['report']}")
