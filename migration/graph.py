"""A graph in either of ComfyUI's JSON forms, seen and changed in one way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

from .kinds import NodeKind

NodeId = int | str

ACTIVE = 0
"""`mode` of a node that runs; the frontend has others for muted and bypassed ones."""

PASSING_ON = "Reroute"
GET, SET = "GetNode", "SetNode"
"""Wires without a line: what goes into a SetNode comes out of every GetNode of the same name (KJNodes)."""


@dataclass(frozen=True)
class Output:
    """An output of a node, which links start from."""

    node: NodeId
    slot: int


@dataclass(frozen=True)
class Reader:
    """An input of a node, which a link ends at."""

    node: NodeId
    input: str


@dataclass(kw_only=True)
class Node:
    """A node as it was in the file.

    Attributes:
        id: unique in its graph.
        type: id of the kind of node.
        title: that the user gave, or none.
        mode: `ACTIVE`, muted or bypassed.
        links: where inputs that are linked come from.
        stored: values of the inputs that are not: by name in the API form, by position in the other.
    """

    id: NodeId
    type: str
    title: str = ""
    mode: int = ACTIVE
    links: dict[str, Output] = field(default_factory=dict)
    stored: Mapping[str, Any] | list[Any] = field(default_factory=dict)


class Graph(ABC):
    """What both forms offer. `nodes` is the graph as it was read; changes go to the document alone."""

    def __init__(self, nodes: Iterable[Node]):
        self.nodes: dict[NodeId, Node] = {node.id: node for node in nodes}
        self._readers: dict[Output, list[Reader]] = {}
        for node in self.nodes.values():
            for name, output in node.links.items():
                self._readers.setdefault(output, []).append(Reader(node.id, name))
        self._check_order()

    @abstractmethod
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
        """Add a node.

        Args:
            inputs: values, or an `Output` where a link is wanted; widgets that are not named get their defaults.
            near: the old node in whose place it stands.
            left, below: by how many pixels it would stand elsewhere, if there is room.
        """

    @abstractmethod
    def relink(self, old: Output, new: Output) -> None:
        """Whatever reads `old` reads `new`."""

    @abstractmethod
    def remove(self, nodes: Collection[NodeId]) -> None:
        """Remove nodes with the links of their inputs; what still reads them is unlinked."""

    def vacate(self, nodes: Collection[NodeId]) -> None:  # noqa: B027 - a form without places has nothing to do
        """The places of these nodes may be taken."""

    def origin(self, output: Output) -> Output:
        """The output itself, where nodes stand before it that only pass on what comes in."""
        while (source := self._passed_on(output)) is not None:
            output = source
        return output

    def readers(self, output: Output) -> Iterator[Reader]:
        """The inputs that read an output, through nodes that only pass it on."""
        for reader in self._readers.get(output, ()):
            node = self.nodes[reader.node]
            if node.type == PASSING_ON:
                yield from self.readers(Output(node.id, 0))
            elif node.type == SET:
                for getter in self._getters(node):
                    yield from self.readers(Output(getter.id, 0))
            else:
                yield reader

    def passing_on(self, output: Output) -> Iterator[NodeId]:
        """The nodes that only pass an output on."""
        for reader in self._readers.get(output, ()):
            node = self.nodes[reader.node]
            if node.type == PASSING_ON:
                found = [node]
            elif node.type == SET:
                found = self._getters(node)
                yield node.id
            else:
                found = []
            for wire in found:
                yield wire.id
                yield from self.passing_on(Output(wire.id, 0))

    def _getters(self, setter: Node) -> list[Node]:
        return [node for node in self.nodes.values() if node.type == GET and _name(node) == _name(setter)]

    def _passed_on(self, output: Output) -> Output | None:
        node = self.nodes.get(output.node)
        if node is None or node.type not in (PASSING_ON, GET):
            return None
        if node.type == GET:
            setters = [other for other in self.nodes.values() if other.type == SET and _name(other) == _name(node)]
            if len(setters) != 1:
                return None
            node = setters[0]
        return next(iter(node.links.values()), None)

    def _check_order(self) -> None:
        sources = {
            node.id: [link.node for link in node.links.values() if link.node in self.nodes]
            for node in self.nodes.values()
        }
        for node in self.nodes.values():
            if node.type == GET:
                sources[node.id] += [
                    other.id for other in self.nodes.values() if other.type == SET and _name(other) == _name(node)
                ]
        try:
            TopologicalSorter(sources).prepare()
        except CycleError as error:
            circle = " → ".join(str(node) for node in reversed(error.args[1]))
            raise ValueError(
                f"The links run in a circle (nodes {circle}), so this graph cannot run. Open it in ComfyUI, remove one "
                "of these links, and save it again."
            ) from None


def _name(node: Node) -> Any:
    """The name that a SetNode and its GetNodes share."""
    stored = node.stored
    return stored[0] if isinstance(stored, list) and stored else None
