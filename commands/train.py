"""`bolid train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .failures import ended_by, told
from .options import Json, Overrides
from .printing import print_trained
from .progress_bars import hush_libraries, progress_bar

app = typer.Typer()


@app.command("train")
def train_command(
    config: Annotated[Path, typer.Argument(help="A TOML file; training/configs has examples for every method.")],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Train an adapter, or go on with a run that is in its output folder."""
    with told(extra="train"):
        from ..training.config import load_config

        loaded = load_config(config, overrides or ())
        hush_libraries()
        from ..training.run_folder import TrainingError
        from ..training.train import train

        with ended_by(TrainingError), progress_bar() as progress:
            summary = train(loaded, progress)
    print_trained(summary, summary["adapter"], as_json=as_json)
