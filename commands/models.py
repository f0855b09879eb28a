"""`bolid models`: model files in ComfyUI's models folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .failures import told
from .options import Json
from .printing import print_json, print_line, print_table
from .progress_bars import bytes_bar

app = typer.Typer(
    help="Model files in ComfyUI's models folder: what is there, what is missing, and getting it.", no_args_is_help=True
)

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


@app.command("list")
def models_list_command(models: ModelsFolder = None, as_json: Json = False) -> None:
    """Say what every adapter, image encoder, insightface pack, pose model and aesthetic model is, by its content."""
    # What these commands need beside typer is in ComfyUI's environment.
    with told(RuntimeError, extra=None):
        from ..catalogue.folders import find_model_folders
        from ..catalogue.inventory import inventory
        from ..catalogue.tables import inventory_table

        folders = find_model_folders(models)
        items = inventory(folders)
    if as_json:
        print_json({"models": str(folders.models), "files": [item.as_json() for item in items]})
        return
    print_line(f"Model files in {folders.models}: {len(items)}")
    print_table(inventory_table(items), whole_names=True)


@app.command("check")
def models_check_command(
    names: PublicNames = None, workflow: Workflow = None, models: ModelsFolder = None, as_json: Json = False
) -> None:
    """Look for public files (all of them if none is named), or for what a workflow names, and compare checksums.

    Ends with the code 1 if something that was asked for is missing, or anything is damaged.
    """
    with told(RuntimeError, extra=None):
        from ..catalogue.check import check_public_file, check_wanted, public_files
        from ..catalogue.folders import download_command, find_model_folders
        from ..catalogue.public_files import PUBLIC_FILES
        from ..catalogue.tables import check_table
        from ..catalogue.workflows import wanted_files

        folders = find_model_folders(models)
        files = public_files(names or [])
        wanted = wanted_files(workflow) if workflow else []
        asked = bool(names or workflow)
        with bytes_bar() as progress:
            found = [check_wanted(one, folders, progress) for one in wanted]
            found += [check_public_file(file, folders, progress) for file in (files if asked else PUBLIC_FILES)]
    if as_json:
        print_json({"models": str(folders.models), "files": [one.as_json() for one in found]})
    else:
        print_line(f"Model files in {folders.models}")
        print_table(check_table(found), whole_names=True)
        missing = [one.file.name for one in found if one.status == "missing" and one.file]
        if missing and asked:
            print_line(f"Download: {download_command(*dict.fromkeys(missing), models=folders.models)}")
    if any(one.status == "damaged" or (asked and one.status == "missing") for one in found):
        raise typer.Exit(1)


@app.command("download")
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
    with told(RuntimeError, extra=None):
        from ..catalogue.check import check_wanted, public_files
        from ..catalogue.download import download, with_needed
        from ..catalogue.folders import find_model_folders
        from ..catalogue.workflows import wanted_files

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
        with bytes_bar() as progress:
            for file in files:
                path, is_new = download(file, folders, progress)
                done.append({"name": file.name, "path": str(path), "downloaded": is_new, "needs": list(file.needs)})
    if as_json:
        print_json({"models": str(folders.models), "files": done})
        return
    for one in done:
        print_line(f"{one['name']}, {'downloaded' if one['downloaded'] else 'was there'}: {one['path']}")
    if not done:
        print_line("Nothing is missing that BoLID knows where to get.")
