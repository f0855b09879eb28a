"""`bolid prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from ..training.people import PEOPLE_FILE, CaptionSource, MissingCaption, PrepareSettings
from .failures import told
from .options import Json
from .printing import print_json, print_line, print_table
from .progress_bars import progress_bar

if TYPE_CHECKING:
    from ..training.prepare_report import PrepareReport

DEFAULTS = PrepareSettings()

app = typer.Typer()


@app.command("prepare")
def prepare_command(
    source: Annotated[Path, typer.Argument(help="Folder with one folder of photos per person.")],
    output: Annotated[Path, typer.Argument(help="Folder for the prepared data set; a run that is there goes on.")],
    min_side: Annotated[
        int,
        typer.Option(help="Leave out photos with a shorter side, in pixels. 0 keeps all; 1000 suits new sets."),
    ] = DEFAULTS.min_side,
    max_people: Annotated[
        int, typer.Option(help="Leave out photos with more people or faces than this; 0 keeps all.")
    ] = DEFAULTS.max_people,
    near_duplicates: Annotated[
        int,
        typer.Option(
            help="Photos whose fingerprints differ in at most so many of 256 bits are one and the same; -1 compares "
            "contents only."
        ),
    ] = DEFAULTS.near_duplicates,
    test_share: Annotated[
        float, typer.Option(help="Share of the people that training never sees.", show_default="1/3")
    ] = DEFAULTS.test_share,
    seed: Annotated[int, typer.Option(help="Of the split into train and test.")] = DEFAULTS.seed,
    captions: Annotated[
        CaptionSource,
        typer.Option(help="A file beside each photo, one file for all, one text for all, or made by BLIP."),
    ] = DEFAULTS.captions,
    caption_file: Annotated[
        Path | None,
        typer.Option(
            help='For jsonl: a line per photo, {"file": "anna/1.jpg", "text": "..."}. metadata.jsonl in SOURCE if not '
            "given."
        ),
    ] = None,
    caption_template: Annotated[
        str, typer.Option(help="Text for every photo, or for those without a caption.")
    ] = DEFAULTS.caption_template,
    caption_model: Annotated[
        Path | None, typer.Option(help="For blip: folder of a BLIP model in transformers' format.")
    ] = None,
    missing_caption: Annotated[
        MissingCaption, typer.Option(help="What happens to a photo without a caption.")
    ] = DEFAULTS.missing_caption,
    workers: Annotated[
        int | None, typer.Option(help="Processes that look at photos; as many as there are cores if not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find out what is in the photos, leave out what cannot be used, and split the people into train and test."""
    with told(RuntimeError, extra="train"):
        from ..training.prepare import prepare

        settings = _settings(
            min_side=min_side,
            max_people=max_people,
            near_duplicates=near_duplicates,
            test_share=test_share,
            seed=seed,
            captions=captions,
            caption_file=caption_file and caption_file.resolve(),
            caption_template=caption_template,
            caption_model=caption_model and caption_model.resolve(),
            missing_caption=missing_caption,
        )
        with progress_bar() as progress:
            report = prepare(source, output, settings, workers=workers, progress=progress)
    summary = _summary(report, output.resolve())
    if as_json:
        print_json(summary)
    else:
        _print_summary(summary)


def _settings(**values: Any) -> PrepareSettings:
    try:
        return PrepareSettings(**values)
    except ValidationError as error:
        problems = [
            f"--{str(problem['loc'][0]).replace('_', '-')} {problem['input']}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise ValueError("; ".join(problems)) from None


def _summary(report: PrepareReport, output: Path) -> dict[str, Any]:
    return {
        "output": str(output),
        "people_file": str(output / PEOPLE_FILE),
        "photos_found": report.photos_found,
        "photos_kept": report.photos_kept,
        "photos_left_out": report.reasons(),
        "people_found": report.people_found,
        "people_kept": report.people_kept,
        "splits": report.splits,
        "captions_from_template": report.captions_from_template,
        "captions_without_photo": len(report.captions_without_photo),
        "captions_with_name": len(report.captions_with_name),
    }


def _print_summary(summary: dict[str, Any]) -> None:
    from rich.table import Table

    from ..training.prepare_report import REPORT_PAGE

    table = Table("", "found", "kept", "train", "test")
    train, test = summary["splits"]["train"], summary["splits"]["test"]
    for what in ("people", "photos"):
        table.add_row(what, *map(str, (summary[f"{what}_found"], summary[f"{what}_kept"], train[what], test[what])))
    print_table(table)
    for reason, count in summary["photos_left_out"].items():
        print_line(f"left out, {reason}: {count}")
    for key in ("captions_from_template", "captions_without_photo", "captions_with_name"):
        if summary[key]:
            print_line(f"{key.replace('_', ' ')}: {summary[key]}")
    print_line(f"Report: {Path(summary['output'], REPORT_PAGE)}")
