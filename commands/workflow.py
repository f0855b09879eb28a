"""`bolid workflow`: graphs of other packs become graphs of these nodes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .failures import told
from .options import Json
from .printing import print_json, print_line, print_table

if TYPE_CHECKING:
    from ..migration.report import Report

app = typer.Typer(help="Graphs: those of other packs become graphs of BoLID's nodes.", no_args_is_help=True)


@app.command("convert")
def convert_command(
    graph: Annotated[Path, typer.Argument(help="A graph's JSON file, of ComfyUI's Save or Export (API).")],
    output: Annotated[
        Path | None,
        typer.Option(help="The new file, of the same form; beside the old one and ending in .bolid.json if not given."),
    ] = None,
    base_model: Annotated[
        Literal["sd15", "sdxl"] | None,
        typer.Option(help="For loaders that choose their files by it; guessed from the graph if not given."),
    ] = None,
    middle_block: Annotated[
        bool,
        typer.Option(
            "--middle-block",
            help="The old pictures were made before 13 September 2024, when ComfyUI_IPAdapter_plus still reached the "
            "middle block.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Put BoLID's nodes in the place of ComfyUI_IPAdapter_plus's, and say what became of each.

    Everything else in the graph stays as it is, seeds too; no file is overwritten. Ends with the code 1 if a node of
    another pack is left that has no counterpart.
    """
    with told(extra=None):
        from ..migration.convert import convert_file
        from ..migration.sources import Options

        options = Options(base_model=base_model, middle_block=middle_block)
        report, written = convert_file(graph, output, options)
    if as_json:
        print_json({"output": str(written) if written else None, **report.as_json()})
    else:
        _print_conversion(report, written)
    if not report.complete:
        raise typer.Exit(1)


def _print_conversion(report: Report, written: Path | None) -> None:
    from rich.table import Table

    table = Table("node", "became", "", "notes", show_lines=True)
    for entry in report.entries:
        table.add_row(
            f"{entry.id} {entry.type}",
            "\n".join(f"{new.id} {new.type}" for new in entry.became),
            entry.status.value,
            "\n".join(f"· {note}" for note in entry.notes),
        )
    print_table(table, whole_names=True)
    for remark in report.remarks:
        print_line(remark)
    for file in report.files:
        print_line(f"Model file, by its published name: {file}")
    print_line(f"Nodes that were not touched: {report.untouched}")
    print_line(f"Written: {written}" if written else "Nothing was converted, so no file was written.")
