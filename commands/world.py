"""`bolid world`: the people world, and its networks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from .failures import ended_by, told
from .options import Json, Overrides
from .printing import print_json, print_line, print_trained
from .progress_bars import hush_libraries, progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..world.identities import Split

app = typer.Typer(help="The people world: drawn people whose identity and joints are known.", no_args_is_help=True)


@app.command("render")
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
    with told(RuntimeError, extra="world", interrupted="Stopped. Delete the folder to start again."):
        from ..world.render import render

        with progress_bar() as progress:
            summary = render(
                output,
                # It says itself which ones there are.
                splits=cast("Sequence[Split]", splits or ("train", "validation", "test", "demo")),
                people=people,
                pictures=pictures,
                seed=seed,
                size=size,
                workers=workers,
                progress=progress,
            )
    if as_json:
        print_json(summary)
    else:
        print_line(f"{sum(summary['pictures'].values())} pictures in {summary['output']}")


@app.command("train")
def train_command(
    config: Annotated[Path, typer.Argument(help="A TOML file; world/recipes has one for every network.")],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Train one of the world's own networks, or go on with a run that is in its output folder."""
    with told(extra="world"):
        from ..training.run_folder import TrainingError
        from ..world.networks.train import load_network_config, train_network

        loaded = load_network_config(config, overrides or ())
        hush_libraries()
        with ended_by(TrainingError), progress_bar() as progress:
            summary = train_network(loaded, progress)
    print_trained(summary, summary["network"], as_json=as_json)


@app.command("unpack")
def unpack_command(
    output: Annotated[Path, typer.Argument(help="Folder for the models; what is there is replaced.")],
    weights: Annotated[
        Path | None, typer.Option(help="Folder with the networks' files; those that ship with BoLID if not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the world's networks as diffusers, transformers and open_clip read them, for `bolid train`."""
    with told(extra="world"):
        hush_libraries()
        from ..world.networks.unpack import WEIGHTS, unpack

        written = unpack(output, weights or WEIGHTS)
    if as_json:
        print_json(written)
    else:
        for name, folder in written.items():
            print_line(f"{name}: {folder}")


@app.command("cards")
def cards_command(
    weights: Annotated[
        Path | None, typer.Argument(help="Folder with the networks' files; those that ship with BoLID if not given.")
    ] = None,
) -> None:
    """Print the model cards of the world's networks and adapters, in Markdown."""
    with told(extra="world"):
        from ..world.networks.cards import cards
        from ..world.networks.unpack import WEIGHTS

        sys.stdout.write(cards(weights or WEIGHTS))
