"""The command `bolid`; what it does stands in `commands/`."""

from __future__ import annotations

import sys

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
    import rich.console  # noqa: F401
    import typer
except ImportError as error:
    sys.exit(f"bolid's commands need the packages typer and rich ({error}): pip install typer rich")

from .commands import evaluate, models, prepare, train, workflow, world

app = typer.Typer(
    help="BoLID on the command line: from folders of photos to an adapter for ComfyUI.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(prepare.app)
app.add_typer(train.app)
app.add_typer(evaluate.app)
app.add_typer(models.app, name="models")
app.add_typer(workflow.app, name="workflow")
app.add_typer(world.app, name="world")


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
