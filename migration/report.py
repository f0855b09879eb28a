"""What became of every old node."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from .graph import NodeId
from .plans import Note


class Status(str, Enum):
    """What became of one old node."""

    SAME = "same"
    """Converted; pictures are those of the old graph, up to rounding."""
    DIFFERS = "differs"
    """Converted; pictures differ, and the notes say why."""
    STAYS = "stays"
    """Not converted."""
    FITS = "fits"
    """Not converted, because it works together with ours as it is."""


@dataclass(frozen=True, kw_only=True)
class Became:
    """A new node."""

    id: NodeId
    type: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One old node.

    Attributes:
        graph: number of the graph in its file: 0, or that of a subgraph from 1.
        became: the new nodes that do what it did, or nothing.
    """

    graph: int
    id: NodeId
    type: str
    title: str
    status: Status
    became: tuple[Became, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(kw_only=True)
class Report:
    """What became of a graph.

    Attributes:
        form: "ui" or "api".
        entries: the nodes of the packs that are known; all others are untouched.
        untouched: how many others there are.
        remarks: on the graph as a whole.
        files: model files that the new loaders name.
    """

    form: str
    entries: list[Entry] = field(default_factory=list)
    untouched: int = 0
    remarks: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return any(entry.status in (Status.SAME, Status.DIFFERS) for entry in self.entries)

    @property
    def complete(self) -> bool:
        """Whether nothing is left that needs the other packs."""
        return not any(entry.status is Status.STAYS for entry in self.entries)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "form": self.form,
            "complete": self.complete,
            "changed": self.changed,
            "nodes": [asdict(entry) | {"status": entry.status.value} for entry in self.entries],
            "untouched": self.untouched,
            "remarks": self.remarks,
            "files": self.files,
        }


def status_of(notes: list[Note]) -> Status:
    """Of a converted node."""
    return Status.DIFFERS if any(note.differs for note in notes) else Status.SAME
