"""The form that the frontend saves: nodes with places and positional values, links apart from them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from .graph import ACTIVE, Graph, Node, NodeId, Output
from .kinds import NodeKind

TITLE_HEIGHT, GAP = 30, 20
"""Of the frontend, in pixels: a node's title stands above its place; how far apart added nodes are kept."""

SUBGRAPH_INPUTS, SUBGRAPH_OUTPUTS = -10, -20
"""Ids by which links inside a subgraph name its border."""


class UiGraph(Graph):
    """A graph in the frontend's form, or one of its subgraphs; changed in place.

    Args:
        section: {"nodes": […], "links": […], …}.
        next_node_id: gives ids that no node of the whole document has.
    """

    def __init__(self, section: dict[str, Any], next_node_id: Callable[[], int]):
        self._section = section
        self._next_node_id = next_node_id
        self._entries: dict[NodeId, dict[str, Any]] = {entry["id"]: entry for entry in section["nodes"]}
        self._links = [_Link(raw) for raw in section["links"] if raw is not None]
        by_id = {link["id"]: link for link in self._links}
        super().__init__(_node(entry, by_id) for entry in section["nodes"])
        self._vacated: set[NodeId] = set()

    def vacate(self, nodes: Collection[NodeId]) -> None:
        """The places of these nodes may be taken."""
        self._vacated.update(nodes)

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
        node_id = self._next_node_id()
        x, y = _pair(self._entries[near]["pos"])
        # Node ids of the frontend are numbers.
        entry: dict[str, Any] = {
            "id": node_id,
            "type": kind.type,
            "pos": list(self._free_place((x - left, y + below), kind.size)),
            "size": list(kind.size),
            "flags": {},
            "order": max((other.get("order", 0) for other in self._section["nodes"]), default=-1) + 1,
            "mode": mode,
            "inputs": [
                {"name": name, "type": type_, "link": None}
                for name, type_ in kind.sockets.items()
                # A list grows with what it holds.
                if "." not in name or name in inputs
            ],
            "outputs": [{"name": name, "type": type_, "links": None} for name, type_ in kind.outputs.items()],
            "properties": {"Node name for S&R": kind.type},
        }
        if title:
            entry["title"] = title
        if kind.widgets:
            entry["widgets_values"] = [
                default if isinstance(inputs.get(name, default), Output) else inputs.get(name, default)
                for name, default in kind.widgets.items()
            ]
        self._section["nodes"].append(entry)
        self._entries[node_id] = entry
        for name, value in inputs.items():
            if isinstance(value, Output):
                if name in kind.widgets:
                    type_ = self._output_type(value)
                    entry["inputs"].append({"name": name, "type": type_, "widget": {"name": name}, "link": None})
                self._connect(value, entry, name)
        return node_id

    def relink(self, old: Output, new: Output) -> None:
        for link in self._links:
            if (link["origin_id"], link["origin_slot"]) == (old.node, old.slot):
                self._let_go(link)
                link["origin_id"], link["origin_slot"] = new.node, new.slot
                self._hold(link)

    def remove(self, nodes: Collection[NodeId]) -> None:
        gone = [link for link in self._links if link["origin_id"] in nodes or link["target_id"] in nodes]
        for link in gone:
            self._let_go(link)
            target = self._entries.get(link["target_id"])
            for given in (target or {}).get("inputs") or ():
                if given.get("link") == link["id"]:
                    given["link"] = None
        ids = {link["id"] for link in gone}
        self._links = [link for link in self._links if link["id"] not in ids]
        self._section["links"][:] = [link.raw for link in self._links]
        self._section["nodes"][:] = [entry for entry in self._section["nodes"] if entry["id"] not in nodes]
        for node_id in nodes:
            del self._entries[node_id]
        self._forget_in_reroutes(ids)

    # Links

    def _connect(self, output: Output, entry: dict[str, Any], name: str) -> None:
        slot = next(number for number, given in enumerate(entry["inputs"]) if given["name"] == name)
        link = self._new_link(output, entry["id"], slot)
        entry["inputs"][slot]["link"] = link["id"]
        self._links.append(link)
        self._section["links"].append(link.raw)
        self._hold(link)

    def _new_link(self, output: Output, target: NodeId, slot: int) -> _Link:
        values = {
            "id": self._next_link_id(),
            "origin_id": output.node,
            "origin_slot": output.slot,
            "target_id": target,
            "target_slot": slot,
            "type": self._output_type(output),
        }
        as_objects = isinstance(self._section["links"][0], dict) if self._section["links"] else "state" in self._section
        return _Link(values if as_objects else list(values.values()))

    def _next_link_id(self) -> int:
        state, key = self._section, "last_link_id"
        if key not in state:
            state, key = self._section.setdefault("state", {}), "lastLinkId"
        state[key] = max([state.get(key) or 0, *(link["id"] for link in self._links)]) + 1
        return state[key]

    def _hold(self, link: _Link) -> None:
        """Enter a link at the output that it starts from."""
        if link["origin_id"] == SUBGRAPH_INPUTS:
            self._section["inputs"][link["origin_slot"]].setdefault("linkIds", []).append(link["id"])
            return
        outputs = self._entries[link["origin_id"]].get("outputs") or []
        if link["origin_slot"] < len(outputs):
            output = outputs[link["origin_slot"]]
            output["links"] = [*(output.get("links") or ()), link["id"]]

    def _let_go(self, link: _Link) -> None:
        """The opposite, and the same at a subgraph's border."""
        borders = ((SUBGRAPH_INPUTS, "inputs", "origin"), (SUBGRAPH_OUTPUTS, "outputs", "target"))
        for border, key, end in borders:
            if link[f"{end}_id"] == border:
                slot = self._section[key][link[f"{end}_slot"]]
                slot["linkIds"] = [link_id for link_id in slot.get("linkIds", ()) if link_id != link["id"]]
        for output in self._entries.get(link["origin_id"], {}).get("outputs") or ():
            if link["id"] in (output.get("links") or ()):
                output["links"] = [link_id for link_id in output["links"] if link_id != link["id"]]

    def _output_type(self, output: Output) -> str:
        if output.node == SUBGRAPH_INPUTS:
            return self._section["inputs"][output.slot].get("type", "*")
        outputs = self._entries[output.node].get("outputs") or []
        return outputs[output.slot].get("type", "*") if output.slot < len(outputs) else "*"

    def _forget_in_reroutes(self, links: Collection[int]) -> None:
        """The bends that the frontend draws into links name these by id."""
        extra = self._section.get("extra") or {}
        for reroute in [*(self._section.get("reroutes") or ()), *(extra.get("reroutes") or ())]:
            if reroute.get("linkIds"):
                reroute["linkIds"] = [link_id for link_id in reroute["linkIds"] if link_id not in links]
        if extra.get("linkExtensions"):
            extra["linkExtensions"] = [entry for entry in extra["linkExtensions"] if entry.get("id") not in links]

    # Places

    def _free_place(self, wanted: tuple[float, float], size: tuple[int, int]) -> tuple[float, float]:
        """Where a node overlaps no other, as near to the wanted place as steps of `GAP` allow."""
        taken = [_box(entry) for node_id, entry in self._entries.items() if node_id not in self._vacated]
        # Endless rings around a finite number of nodes.
        free = next(
            places
            for ring in _rings(wanted)
            if (places := [place for place in ring if not any(_overlap(_grown(place, size), box) for box in taken)])
        )
        return min(free, key=lambda place: (place[0] - wanted[0]) ** 2 + (place[1] - wanted[1]) ** 2)


class _Link:
    """A link, which files hold as a list or as an object."""

    KEYS = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")

    def __init__(self, raw: list[Any] | dict[str, Any]):
        self.raw = raw

    def __getitem__(self, key: str) -> Any:
        return self.raw[key] if isinstance(self.raw, dict) else self.raw[self.KEYS.index(key)]

    def __setitem__(self, key: str, value: Any) -> None:
        if isinstance(self.raw, dict):
            self.raw[key] = value
        else:
            self.raw[self.KEYS.index(key)] = value


def _node(entry: dict[str, Any], links: Mapping[int, _Link]) -> Node:
    linked = {}
    for given in entry.get("inputs") or ():
        link = links.get(given.get("link"))
        if link is not None:
            name = (given.get("widget") or {}).get("name") or given["name"]
            linked[name] = Output(link["origin_id"], link["origin_slot"])
    return Node(
        id=entry["id"],
        type=entry["type"],
        title=entry.get("title") or "",
        mode=entry.get("mode", ACTIVE),
        links=linked,
        stored=entry.get("widgets_values") or [],
    )


def _pair(value: Any) -> tuple[float, float]:
    """Two numbers, which older files hold by "0" and "1"."""
    first, second = (value["0"], value["1"]) if isinstance(value, dict) else value[:2]
    return float(first), float(second)


def _box(entry: Mapping[str, Any]) -> tuple[float, float, float, float]:
    (x, y), (width, height) = _pair(entry["pos"]), _pair(entry.get("size") or (200, 100))
    return x, y - TITLE_HEIGHT, x + width, y + height


def _grown(place: tuple[float, float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    x, y = place
    return x - GAP, y - TITLE_HEIGHT - GAP, x + size[0] + GAP, y + size[1] + GAP


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _rings(centre: tuple[float, float]) -> Iterator[list[tuple[float, float]]]:
    """Places around a place, further and further away."""
    x, y = centre
    yield [centre]
    radius = 0
    while True:
        radius += 1
        steps = range(-radius, radius + 1)
        yield [
            (x + GAP * right, y + GAP * down)
            for right in steps
            for down in (steps if abs(right) == radius else (-radius, radius))
        ]
