"""Files with graphs: which form, is it one at all, and writing it back as it was."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from .api_form import ApiGraph
from .graph import Graph
from .ui_form import UiGraph


class _Shape(BaseModel):
    """Only what conversion relies on is checked."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Pair(_Shape):
    first: float = Field(alias="0")
    second: float = Field(alias="1")


class _UiInput(_Shape):
    name: str
    link: int | None = None
    widget: dict[str, Any] | None = None


class _UiOutput(_Shape):
    links: list[int] | None = None


class _UiNode(_Shape):
    id: int | str
    type: str
    pos: Annotated[list[float], Field(min_length=2)] | _Pair
    size: Annotated[list[float], Field(min_length=2)] | _Pair | None = None
    inputs: list[_UiInput] | None = None
    outputs: list[_UiOutput] | None = None
    widgets_values: list[Any] | dict[str, Any] | None = None


class _UiLink(_Shape):
    id: int
    origin_id: int | str
    origin_slot: int
    target_id: int | str
    target_slot: int
    type: Any = None


class _UiSection(_Shape):
    nodes: list[_UiNode]
    links: list[Annotated[list[Any], Field(min_length=6)] | _UiLink | None]


class _Definitions(_Shape):
    subgraphs: list[_UiSection] = []


class _UiDocument(_UiSection):
    definitions: _Definitions | None = None


class _ApiNode(_Shape):
    class_type: str
    inputs: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Document:
    """A file with a graph.

    Attributes:
        form: of the JSON, "ui" or "api".
        content: the JSON itself.
        indent: how it was laid out.
        graphs: the graph, and with the UI form each subgraph; changes to them change the content.
    """

    form: Literal["ui", "api"]
    content: dict[str, Any]
    indent: int | None
    graphs: tuple[Graph, ...]

    @property
    def text(self) -> str:
        """The file as text."""
        return json.dumps(self.content, ensure_ascii=False, indent=self.indent) + "\n"


def read(path: Path) -> Document:
    """Read a graph as the frontend saves it, or as "Export (API)" does.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no JSON, something else than a graph, without nodes, damaged, or its links run in a circle.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(
            f"{path} is no JSON file ({error}). Save the graph once more in ComfyUI, by 'Save' or 'Export (API)'."
        ) from None
    indent = 2 if text.lstrip()[1:2] in ("\n", "\r") else None
    form = _form(content)
    if form is None:
        raise ValueError(
            f"{path} is JSON, but no graph of ComfyUI: neither an object with 'nodes' and 'links' (what 'Save' writes) "
            "nor one of nodes with a 'class_type' each (what 'Export (API)' writes). Save the graph once more in "
            "ComfyUI."
        )
    if not (content["nodes"] if form == "ui" else content):
        raise ValueError(f"{path} is a graph without nodes, so there is nothing to convert. Was another file meant?")
    _check(path, content, form)
    graphs = tuple(_ui_graphs(content) if form == "ui" else (ApiGraph(content),))
    return Document(form=form, content=content, indent=indent, graphs=graphs)


def _form(content: Any) -> Literal["ui", "api"] | None:
    if not isinstance(content, dict):
        return None
    if isinstance(content.get("nodes"), list) and isinstance(content.get("links"), list):
        return "ui"
    if all(isinstance(node, dict) and "class_type" in node for node in content.values()):
        return "api"
    return None


def _check(path: Path, content: dict[str, Any], form: str) -> None:
    shape: TypeAdapter[Any] = TypeAdapter(_UiDocument if form == "ui" else dict[str, _ApiNode])
    try:
        shape.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"{path} is a damaged graph: {where}: {first['msg']}. Open it in ComfyUI and save it once more."
        ) from None


def _ui_graphs(content: dict[str, Any]) -> Iterator[UiGraph]:
    sections = [content, *((content.get("definitions") or {}).get("subgraphs") or ())]
    ids = [entry["id"] for section in sections for entry in section["nodes"]]
    last = max([content.get("last_node_id") or 0, *(number for number in ids if isinstance(number, int))])
    numbers = itertools.count(last + 1)
    for section in sections:
        yield UiGraph(section, _entered(section, numbers))


def _entered(section: dict[str, Any], numbers: Iterator[int]) -> Callable[[], int]:
    """Gives the next id, and notes it in the section."""

    def next_node_id() -> int:
        number = next(numbers)
        if "state" in section:
            section["state"]["lastNodeId"] = number
        else:
            section["last_node_id"] = number
        return number

    return next_node_id
