"""What a converted graph shall hold in the place of an old node, before any of it is there."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from .graph import NodeId, Output
from .kinds import NodeKind

_FACEID = re.compile(r"faceid", re.IGNORECASE)
_PLUS_V2 = re.compile(r"plusv2", re.IGNORECASE)
_READS_HIDDEN_STATES = re.compile(r"plus|full.?face", re.IGNORECASE)
_PUBLISHED = re.compile(r"sd15|sdxl", re.IGNORECASE)
"""Parts of the names of published files. The other pack tells version 2 of FaceID-plus in this way too."""


class Stays(Exception):
    """An old node cannot be converted; the text says why."""


@dataclass(frozen=True)
class Note:
    """Something to know of a node's conversion.

    Attributes:
        differs: whether pictures differ from those of the old graph.
    """

    text: str
    differs: bool = False


@dataclass(frozen=True, kw_only=True)
class FaceAnalysis:
    """An insightface that a loader brings."""

    loader: NodeId
    model_pack: str
    provider: str


@dataclass(frozen=True, kw_only=True)
class AdapterFile:
    """What an IPADAPTER link carries.

    Attributes:
        loader: the old node.
        name: of the file.
        clip_vision: name of the image encoder that the loader brings, or None.
        face_analysis: likewise.
        lora: strength of the LoRA that the loader applies to its MODEL, or None.
    """

    loader: NodeId
    name: str
    clip_vision: str | None = None
    face_analysis: FaceAnalysis | None = None
    lora: float | None = None

    @property
    def is_faceid(self) -> bool:
        return bool(_FACEID.search(self.name))

    @property
    def reads_hidden_states(self) -> bool | None:
        """As plus and full-face adapters do; None if the name does not tell."""
        if _READS_HIDDEN_STATES.search(self.name):
            return True
        return False if _PUBLISHED.search(self.name) else None

    @property
    def is_faceid_plus(self) -> bool:
        return self.is_faceid and bool(self.reads_hidden_states)

    @property
    def faceid_plus_version(self) -> str:
        return "v1" if self.is_faceid_plus and not _PLUS_V2.search(self.name) else "v2"


@dataclass(frozen=True, kw_only=True)
class Photos:
    """References as they are encoded and combined.

    Attributes:
        images: links to pictures; several of them become a list; none: one black picture.
        photo_weights: of `PoolingAggregator`.
        noise: strength with which shuffled noise pictures are made of the images, or None.
        sources: old nodes that the photos were taken from, beside the one that applied them.
    """

    images: tuple[Output, ...]
    clip_vision: Output | str | None = None
    face_analysis: Output | FaceAnalysis | None = None
    crop: str = "whole"
    on_missing: str = "skip"
    method: str = "stack"
    photo_weights: str = ""
    noise: float | None = None
    sources: tuple[NodeId, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Branch:
    """One `BoLIDAdapterApply`: a value, or an `Output` where the old node had a link."""

    photos: Photos
    negative: Photos | None = None
    weight: Any = 1.0
    start: Any = 0.0
    end: Any = 1.0
    weight_type: Any = "linear"
    layer_weights: Any = ""
    embeds_scaling: Any = "V only"
    mask: Output | None = None


@dataclass(kw_only=True)
class ApplyPlan:
    """One old node that changes a MODEL.

    Attributes:
        branches: applied one after the other.
        skip_middle: as of `BoLIDAdapterApply`.
        loads_lora: whether the loader's LoRA comes with this node, the first one on the way of its MODEL.
        crops: the old node's output that gives the pictures as the image encoder sees them.
    """

    node: NodeId
    model: Output
    adapter: AdapterFile
    faceid_plus_version: str
    branches: list[Branch]
    skip_middle: bool
    loads_lora: bool = False
    crops: Output | None = None
    notes: list[Note] = field(default_factory=list)


@dataclass(kw_only=True)
class SavePlan:
    """One old node that writes embeds to a file."""

    node: NodeId
    adapter: AdapterFile
    photos: Photos
    filename_prefix: Any
    notes: list[Note] = field(default_factory=list)


@dataclass(frozen=True)
class Made:
    """The output of an earlier step, by its number."""

    step: int


@dataclass(kw_only=True)
class Replacement:
    """One old node whose only output becomes that of one or several new nodes.

    Attributes:
        steps: kind and inputs of the new nodes; the last one gives the output.
    """

    node: NodeId
    steps: list[tuple[NodeKind, dict[str, Any]]]
    notes: list[Note] = field(default_factory=list)
