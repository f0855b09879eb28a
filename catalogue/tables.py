"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from .public_files import readable_size

if TYPE_CHECKING:
    from rich.table import Table

    from .check import Checked
    from .inventory import Item


def inventory_table(items: Iterable[Item]) -> Table:
    """What is there."""
    table = _table("file", "size", "what it is", "needs")
    for item in items:
        what = item.facts.what if item.facts else f"cannot be read: {item.problem}"
        needs = ", ".join(item.facts.needs) if item.facts else ""
        table.add_row(f"{item.folder}/{item.name}", readable_size(item.size), what, needs)
    return table


def check_table(found: Iterable[Checked]) -> Table:
    """What is there, what is missing, and where that belongs."""
    table = _table("file", "", "size", "folder", "")
    for one in found:
        notes, folder = [one.note], one.path.parent.name
        if one.file:
            folder = one.file.folder
            if one.status == "missing" and one.name not in (one.file.file, Path(one.file.file).stem):
                notes.append(f"as {one.file.file}")
            if one.file.needs:
                notes.append(f"needs {', '.join(one.file.needs)}")
            notes.append(one.file.licence)
        table.add_row(
            one.name, one.status, readable_size(one.size) if one.size else "", folder, "; ".join(filter(None, notes))
        )
    return table


def _table(*titles: str) -> Table:
    from rich.table import Column, Table

    # Names are of use only when they are whole.
    return Table(*(Column(title, overflow="fold", min_width=12 if title == "file" else None) for title in titles))
