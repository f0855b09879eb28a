"""The commands: `bolid prepare`, `bolid train`, `bolid evaluate`, `bolid models`, `bolid workflow` and
`bolid world`.

Each command imports what it needs when it runs, so that --help answers at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

if not __package__:
    # `python FOLDER`: this folder as the package `bolid`, which nobody has to install for that. Its rooms must not be
    # found as modules of their own.
    import importlib.util
    import os

    _folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != _folder]
    _specification = importlib.util.spec_from_file_location(
        "bolid", os.path.join(_folder, "__init__.py"), submodule_search_locations=[_folder]
    )
    sys.modules["bolid"] = importlib.util.module_from_spec(_specification)
    _specification.loader.exec_module(sys.modules["bolid"])
    __package__ = "bolid"

try:
    import typer
    from rich.console import Console
except ImportError as error:
    sys.exit(f"bolid's commands need the packages typer and rich ({error}): pip install typer rich")

from .training.people import PEOPLE_FILE, CaptionSource, MissingCaption, PrepareSettings

if TYPE_CHECKING:
    from .migration.report import Report
    from .training.prepare_report import PrepareReport
    from .training.progress import Progress

INTERRUPTED = 130
"""What shells expect of a command that Ctrl-C ended."""

DEFAULTS = PrepareSettings()

app = typer.Typer(
    help="BoLID on the command line: from folders of photos to an adapter for ComfyUI.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="In the place of what the file says, as in run.steps=2000."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout, and all else to stderr.")]


@app.callback()
def bolid() -> None:
    """Prepare photos, train adapters."""


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
    with _told(RuntimeError):
        from .training.prepare import prepare

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
        with _progress_bar() as progress:
            report = prepare(source, output, settings, workers=workers, progress=progress)
    summary = _summary(report, output.resolve())
    if as_json:
        _print_json(summary)
    else:
        _print_summary(report, summary)


@app.command("train")
def train_command(
    config: Annotated[Path, typer.Argument(help="A TOML file; training/configs has examples for every method.")],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Train an adapter, or go on with a run that is in its output folder."""
    with _told_of_training(extra="train"):
        from .training.config import load_config

        loaded = load_config(config, overrides or ())
        _hush_libraries()
        from .training.train import train

        with _progress_bar() as progress:
            summary = train(loaded, progress)
    _print_result(summary, summary["adapter"], as_json=as_json)


@app.command("evaluate")
def evaluate_command(
    config: Annotated[Path, typer.Argument(help="A TOML file; evaluation/configs has examples.")],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Draw people who were held out by several methods, measure the pictures and compare them."""
    with _told_of_evaluation():
        from .evaluation.config import load_config

        loaded = load_config(config, overrides or ())
        _hush_libraries()
        from .evaluation.evaluate import evaluate

        with _progress_bar() as progress:
            summary = evaluate(loaded, progress)
    _print_comparison(summary, as_json=as_json)


models_app = typer.Typer(
    help="Model files in ComfyUI's models folder: what is there, what is missing, and getting it.", no_args_is_help=True
)
app.add_typer(models_app, name="models")

ModelsFolder = Annotated[
    Path | None,
    typer.Option(
        "--models",
        help="ComfyUI's models folder. If not given: that of COMFYUI_DIR, or of the ComfyUI whose custom_nodes folder "
        "BoLID lies in.",
    ),
]
PublicNames = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]...", help="Of public files, such as ip-adapter-plus_sd15, clip-vit-h, buffalo_l."),
]
Workflow = Annotated[Path | None, typer.Option(help="A workflow's JSON file, of ComfyUI's Save or Export (API).")]


@models_app.command("list")
def models_list_command(models: ModelsFolder = None, as_json: Json = False) -> None:
    """Say what every adapter, image encoder, insightface pack, pose model and aesthetic model is, by its content."""
    with _told_of_models():
        from .catalogue.folders import find_model_folders
        from .catalogue.inventory import inventory
        from .catalogue.tables import inventory_table

        folders = find_model_folders(models)
        items = inventory(folders)
    if as_json:
        _print_json({"models": str(folders.models), "files": [item.as_json() for item in items]})
        return
    _print_table(inventory_table(items), items, f"Model files in {folders.models}: {len(items)}")


@models_app.command("check")
def models_check_command(
    names: PublicNames = None, workflow: Workflow = None, models: ModelsFolder = None, as_json: Json = False
) -> None:
    """Look for public files (all of them if none is named), or for what a workflow names, and compare checksums.

    Ends with the code 1 if something that was asked for is missing, or anything is damaged.
    """
    with _told_of_models():
        from .catalogue.check import check_public_file, check_wanted, public_files
        from .catalogue.folders import download_command, find_model_folders
        from .catalogue.public_files import PUBLIC_FILES
        from .catalogue.tables import check_table
        from .catalogue.workflows import wanted_files

        folders = find_model_folders(models)
        files = public_files(names or [])
        wanted = wanted_files(workflow) if workflow else []
        with _bytes_bar() as progress:
            found = [check_wanted(one, folders, progress) for one in wanted]
            found += [
                check_public_file(file, folders, progress) for file in files or (() if workflow else PUBLIC_FILES)
            ]
    asked = bool(names or workflow)
    if as_json:
        _print_json({"models": str(folders.models), "files": [one.as_json() for one in found]})
    else:
        _print_table(check_table(found), found, f"Model files in {folders.models}")
        missing = [one.file.name for one in found if one.status == "missing" and one.file]
        if missing and asked:
            command = download_command(*dict.fromkeys(missing), models=folders.models)
            Console().print(f"Download: {command}", highlight=False, markup=False, soft_wrap=True)
    if any(one.status == "damaged" or (asked and one.status == "missing") for one in found):
        raise typer.Exit(1)


@models_app.command("download")
def models_download_command(
    names: PublicNames = None,
    workflow: Workflow = None,
    needed: Annotated[
        bool, typer.Option("--needed", help="With what they need: image encoders and insightface packs.")
    ] = False,
    models: ModelsFolder = None,
    as_json: Json = False,
) -> None:
    """Download public files to where they belong; one that was cut off goes on, one that is there stays.

    HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE count as for all that downloads from Hugging Face.
    """
    with _told_of_models():
        from .catalogue.check import check_wanted, public_files
        from .catalogue.download import download, with_needed
        from .catalogue.folders import find_model_folders
        from .catalogue.workflows import wanted_files

        folders = find_model_folders(models)
        files = public_files(names or [])
        if not names and not workflow:
            raise ValueError("Nothing to download: give names of public files, or --workflow FILE.")
        for wanted in wanted_files(workflow) if workflow else ():
            checked = check_wanted(wanted, folders)
            if checked.status == "missing" and checked.file and checked.file not in files:
                files.append(checked.file)
        if needed:
            files = with_needed(files)
        done = []
        with _bytes_bar() as progress:
            for file in files:
                path, is_new = download(file, folders, progress)
                done.append({"name": file.name, "path": str(path), "downloaded": is_new, "needs": list(file.needs)})
    if as_json:
        _print_json({"models": str(folders.models), "files": done})
        return
    for one in done:
        told = "downloaded" if one["downloaded"] else "was there"
        Console().print(f"{one['name']}, {told}: {one['path']}", highlight=False, markup=False, soft_wrap=True)
    if not done:
        Console().print("Nothing is missing that BoLID knows where to get.")


workflow_app = typer.Typer(help="Graphs: those of other packs become graphs of BoLID's nodes.", no_args_is_help=True)
app.add_typer(workflow_app, name="workflow")


@workflow_app.command("convert")
def workflow_convert_command(
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
    with _told(extra=None):
        from .migration.convert import convert_file
        from .migration.sources import Options

        options = Options(base_model=base_model, middle_block=middle_block)
        report, written = convert_file(graph, output, options)
    if as_json:
        _print_json({"output": str(written) if written else None, **report.as_json()})
    else:
        _print_conversion(report, written)
    if not report.complete:
        raise typer.Exit(1)


world_app = typer.Typer(
    help="The people world: drawn people whose identity and joints are known.", no_args_is_help=True
)
app.add_typer(world_app, name="world")


@world_app.command("render")
def render_command(
    output: Annotated[Path, typer.Argument(help="Empty or new folder for pictures, masks, data sets and the oracle.")],
    splits: Annotated[
        list[str] | None,
        typer.Option(
            "--split",
            help="Whom to draw: train, validation, test, demo, metrics, base; may be repeated. The first four if not "
            "given.",
        ),
    ] = None,
    people: Annotated[int | None, typer.Option(help="Only the first so many of each split.")] = None,
    pictures: Annotated[int, typer.Option(help="Of each person; at least 2.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the world; every seed has other people.")] = 0,
    size: Annotated[int, typer.Option(help="Side of the pictures in pixels; at least 64.")] = 128,
    workers: Annotated[
        int | None, typer.Option(help="Processes that draw; as many as there are cores if not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw people: pictures, and everything that is known of them."""
    with _told(RuntimeError, extra="world", interrupted="Stopped. Delete the folder to start again."):
        from .world.render import render

        with _progress_bar() as progress:
            summary = render(
                output,
                splits=splits or ("train", "validation", "test", "demo"),
                people=people,
                pictures=pictures,
                seed=seed,
                size=size,
                workers=workers,
                progress=progress,
            )
    if as_json:
        _print_json(summary)
    else:
        total = sum(summary["pictures"].values())
        Console().print(f"{total} pictures in {summary['output']}", highlight=False, markup=False, soft_wrap=True)


@world_app.command("train")
def train_network_command(
    config: Annotated[Path, typer.Argument(help="A TOML file; world/recipes has one for every network.")],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Train one of the world's own networks, or go on with a run that is in its output folder."""
    with _told_of_training(extra="world"):
        from .world.networks.train import load_network_config, train_network

        loaded = load_network_config(config, overrides or ())
        _hush_libraries()
        with _progress_bar() as progress:
            summary = train_network(loaded, progress)
    _print_result(summary, summary["network"], as_json=as_json)


@world_app.command("unpack")
def unpack_command(
    output: Annotated[Path, typer.Argument(help="Folder for the models; what is there is replaced.")],
    weights: Annotated[
        Path | None, typer.Option(help="Folder with the networks' files; those that ship with BoLID if not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the world's networks as diffusers, transformers and open_clip read them, for `bolid train`."""
    with _told(extra="world"):
        _hush_libraries()
        from .world.networks.unpack import WEIGHTS, unpack

        written = unpack(output, weights or WEIGHTS)
    if as_json:
        _print_json(written)
    else:
        for name, folder in written.items():
            Console().print(f"{name}: {folder}", highlight=False, markup=False, soft_wrap=True)


@world_app.command("cards")
def cards_command(
    weights: Annotated[
        Path | None, typer.Argument(help="Folder with the networks' files; those that ship with BoLID if not given.")
    ] = None,
) -> None:
    """Print the model cards of the world's networks and adapters, in Markdown."""
    with _told(extra="world"):
        from .world.networks.cards import cards
        from .world.networks.unpack import WEIGHTS

        sys.stdout.write(cards(weights or WEIGHTS))


def main() -> None:
    """Run the command line."""
    app()


def _hush_libraries() -> None:
    """Their progress bars would run across ours."""
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def _settings(**values: Any) -> PrepareSettings:
    from pydantic import ValidationError

    try:
        return PrepareSettings(**values)
    except ValidationError as error:
        problems = [
            f"--{str(problem['loc'][0]).replace('_', '-')} {problem['input']}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise ValueError("; ".join(problems)) from None


@contextlib.contextmanager
def _told(
    *kinds: type[Exception],
    extra: str | None = "train",
    interrupted: str = "Stopped. The same command goes on from here.",
) -> Iterator[None]:
    """What the user can mend ends the command with one message, and what is logged goes to stderr.

    Args:
        kinds: of errors that users can mend, beside ValueError and OSError.
        extra: with which pip installs what the command needs; None where the missing package alone will do.
        interrupted: what Ctrl-C is answered with.
    """
    from rich.logging import RichHandler

    handler = RichHandler(console=Console(stderr=True), show_time=False, show_path=False)
    # Other packages tell a lot that is of no use here.
    handler.addFilter(lambda record: record.levelno >= logging.WARNING or record.name.startswith(__package__))
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    try:
        yield
    except ModuleNotFoundError as error:
        install = f"'bolid[{extra}]'" if extra else error.name
        _fail(f"this command needs the package {error.name}: pip install {install}", 2)
    except (ValueError, OSError, *kinds) as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail(interrupted, INTERRUPTED)


@contextlib.contextmanager
def _told_of_training(*, extra: str) -> Iterator[None]:
    """`_told`, of runs that end with checkpoints."""
    with _told(extra=extra):
        from .training.run_folder import TrainingError

        try:
            yield
        except TrainingError as error:
            _fail(str(error), 2)


@contextlib.contextmanager
def _told_of_evaluation() -> Iterator[None]:
    """`_told`, of evaluations."""
    with _told(extra="evaluate"):
        from .evaluation.folder import EvaluationError

        try:
            yield
        except EvaluationError as error:
            _fail(str(error), 2)


@contextlib.contextmanager
def _told_of_models() -> Iterator[None]:
    """`_told`, of model files; what it needs beside typer is in ComfyUI's environment."""
    with _told(RuntimeError, extra=None):
        yield


def _fail(message: str, code: int) -> None:
    sys.stderr.write(f"bolid: {message}\n")
    raise typer.Exit(code)


@contextlib.contextmanager
def _progress_bar() -> Iterator[Progress]:
    """A bar per stage on stderr, with what it has done per second since it started."""
    import time

    from rich import progress

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[speed]}"),
        progress.TextColumn("{task.fields[note]}"),
        progress.TimeRemainingColumn(),
    )
    tasks: dict[str, tuple[progress.TaskID, int, float]] = {}
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:

        def advance(stage: str, done: int, total: int, note: str = "") -> None:
            if stage not in tasks:
                task = bar.add_task(stage, total=total, completed=done, speed="", note=note)
                tasks[stage] = task, done, time.monotonic()
            task, first, start = tasks[stage]
            seconds = time.monotonic() - start
            speed = f"{(done - first) / seconds:.1f} {stage}/s" if done > first else ""
            bar.update(task, completed=done, speed=speed, note=note)

        yield advance


@contextlib.contextmanager
def _bytes_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr for what is being read or downloaded, in bytes."""
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    tasks: dict[str, progress.TaskID] = {}
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total or None, completed=done)
            bar.update(tasks[stage], completed=done, total=total or None)
            if total and done >= total and not stage.startswith("downloading"):
                bar.update(tasks.pop(stage), visible=False)

        yield advance


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


def _print_json(summary: Any) -> None:
    sys.stdout.write(json.dumps(summary) + "\n")


def _print_table(table: Any, rows: Sequence[Any], title: str) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(title, highlight=False, markup=False, soft_wrap=True)
    if rows:
        console.print(table, highlight=False, markup=False)


def _print_result(summary: dict[str, Any], result: str, *, as_json: bool) -> None:
    """What a training run ended with; one of several processes is enough to say it."""
    from accelerate import PartialState

    if not PartialState().is_main_process:
        return
    if as_json:
        _print_json(summary)
        return
    for name, value in summary["validation"].items():
        Console().print(f"validation {name}: {value:.5f}", highlight=False)
    Console().print(f"Result: {result}", highlight=False, markup=False, soft_wrap=True)


def _print_comparison(summary: dict[str, Any], *, as_json: bool) -> None:
    """What an evaluation has found; one of several processes is enough to say it."""
    from accelerate import PartialState
    from rich.table import Table

    if not PartialState().is_main_process:
        return
    if as_json:
        _print_json(summary)
        return
    columns = list(dict.fromkeys(column for found in summary["summary"].values() for column in found))
    table = Table("", *(column.replace("_", " ") for column in columns))
    for variant, found in summary["summary"].items():
        table.add_row(variant, *(f"{found[column]['mean']:.3f}" if column in found else "" for column in columns))
    console = Console()
    if columns:
        console.print(table, highlight=False, markup=False)
    for warning in summary["warnings"]:
        console.print(f"Note: {warning}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"Report: {summary['report']}", highlight=False, markup=False, soft_wrap=True)


def _print_summary(report: PrepareReport, summary: dict[str, Any]) -> None:
    from rich.table import Table

    from .training.prepare_report import REPORT_PAGE

    table = Table("", "found", "kept", "train", "test")
    train, test = report.splits["train"], report.splits["test"]
    for what, found, kept in (
        ("people", report.people_found, report.people_kept),
        ("photos", report.photos_found, report.photos_kept),
    ):
        table.add_row(what, *map(str, (found, kept, train[what], test[what])))
    console = Console()
    console.print(table)
    for reason, count in report.reasons().items():
        console.print(f"left out, {reason}: {count}", highlight=False)
    for key in ("captions_from_template", "captions_without_photo", "captions_with_name"):
        if summary[key]:
            console.print(f"{key.replace('_', ' ')}: {summary[key]}", highlight=False)
    console.print(f"Report: {Path(summary['output'], REPORT_PAGE)}", highlight=False, markup=False, soft_wrap=True)


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
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    if report.entries:
        console.print(table, highlight=False, markup=False)
    files = [f"Model file, by its published name: {file}" for file in report.files]
    for line in (*report.remarks, *files):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(f"Nodes that were not touched: {report.untouched}", highlight=False)
    result = f"Written: {written}" if written else "Nothing was converted, so no file was written."
    console.print(result, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
