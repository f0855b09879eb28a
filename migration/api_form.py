"""The form that programs send to a server: nodes by id, inputs by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from .graph import ACTIVE, Graph, Node, NodeId, Output
from .kinds import NodeKind


class ApiGraph(Graph):
    """A graph in the API form, changed in place.

    Args:
        document: {id: {"class_type": …, "inputs": {…}}}.
    """

    def __init__(self, document: dict[str, Any]):
        self._document = document
        super().__init__(_node(node_id, entry) for node_id, entry in document.items())
        numbers = [int(node_id.split(":")[0]) for node_id in document if node_id.split(":")[0].isdecimal()]
        self._last = max(numbers, default=0)

    def add(
        self,
        kind: NodeKind,
        inputs: Mapping[str, Any],
        *,
        near: NodeId,
        left: int = 0,
        below: int = 0,
        mode: int = ACTIVE,
        title: str = "",
    ) -> NodeId:
        self._last += 1
        node_id = str(self._last)
        links = {name: [value.node, value.slot] for name, value in inputs.items() if isinstance(value, Output)}
        values = {name: inputs.get(name, default) for name, default in kind.widgets.items()}
        names = [*(name for name in kind.sockets if name in links), *kind.widgets]
        self._document[node_id] = {
            "class_type": kind.type,
            "inputs": {name: links.get(name, values.get(name)) for name in names},
        } | ({"_meta": {"title": title}} if title else {})
        return node_id

    def relink(self, old: Output, new: Output) -> None:
        for entry in self._document.values():
            for name, value in entry["inputs"].items():
                if _link(value) == old:
                    entry["inputs"][name] = [new.node, new.slot]

    def remove(self, nodes: Collection[NodeId]) -> None:
        for node_id in nodes:
            del self._document[str(node_id)]
        for entry in self._document.values():
            for name, value in list(entry["inputs"].items()):
                link = _link(value)
                if link is not None and link.node in nodes:
                    del entry["inputs"][name]


def _node(node_id: str, entry: dict[str, Any]) -> Node:
    links = {name: link for name, value in entry["inputs"].items() if (link := _link(value)) is not None}
    return Node(
        id=node_id,
        type=entry["class_type"],
        title=entry.get("_meta", {}).get("title", ""),
        links=links,
        stored={name: value for name, value in entry["inputs"].items() if name not in links},
    )


def _link(value: Any) -> Output | None:
    """What ComfyUI takes for a link."""
    match value:
        case [str() as node, int() as slot] if not isinstance(slot, bool):
            return Output(node, slot)
    return None
