"""Plans → nodes. What several old nodes need alike is made once."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from . import other_packs as old
from .graph import ACTIVE, Graph, Node, NodeId, Output
from .kinds import (
    ADAPTER_LOADER,
    APPLY,
    CLIP_VISION_LOADER,
    CONDITIONING_SET_MASK,
    CREATE_LIST,
    EMPTY_IMAGE,
    ENCODER,
    FACE_ANALYSIS_LOADER,
    NOISE_REFERENCE,
    POOLING,
    SAVE_EMBEDS,
    NodeKind,
)
from .plans import AdapterFile, ApplyPlan, Branch, FaceAnalysis, Made, Photos, Replacement, SavePlan
from .report import Became

GAP = 40
"""Pixels between new nodes that stand side by side."""

LEFT_OF_POOLING = POOLING.size[0] + GAP
LEFT_OF_ENCODER = LEFT_OF_POOLING + ENCODER.size[0] + GAP
LEFT_OF_IMAGES = LEFT_OF_ENCODER + NOISE_REFERENCE.size[0] + GAP


class Builder:
    """Adds nodes to a graph.

    Attributes:
        became: new nodes by the old ones that they replace.
        replaced: new outputs by old ones; what a new output is may have been replaced as well.
        files: model files that new loaders name.
    """

    def __init__(self, graph: Graph):
        self._graph = graph
        self._made: dict[Any, Output] = {}
        self.became: dict[NodeId, dict[NodeId, Became]] = {}
        self.replaced: dict[Output, Output] = {}
        self.files: list[str] = []

    def replace(self, plan: Replacement) -> None:
        """One old node by what does the same."""
        node = self._graph.nodes[plan.node]
        made: list[Output] = []
        for kind, given in plan.steps:
            inputs = {name: made[value.step] if isinstance(value, Made) else value for name, value in given.items()}
            made.append(Output(self._add(kind, inputs, (node.id,), mode=node.mode), 0))
        self.replaced[Output(node.id, 0)] = made[-1]

    def adapter(self, adapter: AdapterFile, version: str) -> Output:
        """The loader of an adapter file."""
        key = ("adapter", adapter.loader, version)
        if key not in self._made:
            node = self._graph.nodes[adapter.loader]
            inputs = {"adapter_name": adapter.name, "faceid_plus_version": version}
            new = self._add(ADAPTER_LOADER, inputs, (node.id,), mode=node.mode, title=own_title(node))
            self._made[key] = Output(new, 0)
            self.files.append(adapter.name)
        return self._made[key]

    def face_analysis(self, analysis: FaceAnalysis) -> Output:
        """The loader of insightface."""
        key = ("face_analysis", analysis.loader)
        if key not in self._made:
            node = self._graph.nodes[analysis.loader]
            inputs = {"model_pack": analysis.model_pack, "provider": analysis.provider}
            below = 2 * (ADAPTER_LOADER.size[1] + GAP) if node.type in old.UNIFIED_LOADERS else 0
            new = self._add(FACE_ANALYSIS_LOADER, inputs, (node.id,), below=below, mode=node.mode)
            self._made[key] = Output(new, 0)
        return self._made[key]

    def apply(self, plan: ApplyPlan, lora_strength: float) -> None:
        """Photos and adapters of one old node."""
        node = self._graph.nodes[plan.node]
        adapter = self.adapter(plan.adapter, plan.faceid_plus_version)
        model = plan.model
        for number, branch in enumerate(plan.branches):
            below = number * (APPLY.size[1] + 2 * GAP)
            references, face = self._embeds(branch.photos, plan.adapter, node, below=below)
            if plan.crops is not None and number == 0:
                self.replaced[plan.crops] = Output(references.node, ENCODER.slot("crops"))
            inputs = {"model": model, "adapter": adapter, "face": face, **_settings(branch)}
            inputs["skip_middle"] = plan.skip_middle
            if plan.adapter.is_faceid:
                inputs["lora_strength"] = lora_strength if number == 0 else 0.0
            if branch.negative is not None:
                below_encoder = below + ENCODER.size[1] + GAP
                inputs["face_negative"] = self._embeds(branch.negative, plan.adapter, node, below=below_encoder)[1]
            title = own_title(node) if number == 0 else ""
            users = (node.id, *branch.photos.sources)
            model = Output(self._add(APPLY, inputs, users, below=below, mode=node.mode, title=title), 0)
        self.replaced[Output(plan.node, 0)] = model

    def save(self, plan: SavePlan) -> None:
        """Photos of one old node, and the file they are written to."""
        node = self._graph.nodes[plan.node]
        embeds = self._embeds(plan.photos, plan.adapter, node)[1]
        inputs = {"embeds": embeds, "filename_prefix": plan.filename_prefix}
        self._add(SAVE_EMBEDS, inputs, (node.id,), mode=node.mode, title=own_title(node))

    def masked_conditioning(
        self, node: Node, conditioning: Output, output: Output, *, strength: Any, below: int = 0
    ) -> None:
        """A conditioning that acts where a region's mask is."""
        inputs = {"conditioning": conditioning, "mask": node.links["mask"], "strength": strength}
        new = self._add(CONDITIONING_SET_MASK, inputs, (node.id,), below=below, mode=node.mode)
        self.replaced[output] = Output(new, 0)

    def link(self) -> None:
        """Whatever still reads the outputs of old nodes reads what they have become."""
        for before, after in self.replaced.items():
            while after in self.replaced:
                after = self.replaced[after]
            self._graph.relink(before, after)

    def _embeds(self, photos: Photos, adapter: AdapterFile, node: Node, *, below: int = 0) -> tuple[Output, Output]:
        """Photos as references and as embeds, for an old node."""
        users = (node.id, *photos.sources)
        place: dict[str, Any] = {"below": below, "mode": node.mode}
        inputs: dict[str, Any] = {"crop": photos.crop, "on_missing": photos.on_missing}
        inputs["images"] = self._images(photos, users, left=LEFT_OF_IMAGES, **place)
        match photos.clip_vision:
            case str() as file:
                inputs["clip_vision"] = self._clip_vision(file, adapter)
            case Output() as output:
                inputs["clip_vision"] = output
        match photos.face_analysis:
            case FaceAnalysis() as analysis:
                inputs["face_analysis"] = self.face_analysis(analysis)
            case Output() as output:
                inputs["face_analysis"] = output
        references = self._once(ENCODER, inputs, users, left=LEFT_OF_ENCODER, **place)
        inputs = {"references": references, "method": photos.method, "photo_weights": photos.photo_weights}
        return references, self._once(POOLING, inputs, users, left=LEFT_OF_POOLING, **place)

    def _images(self, photos: Photos, users: Collection[NodeId], **place: Any) -> Output:
        if len(photos.images) == 1:
            images = photos.images[0]
        elif photos.images:
            listed = dict(zip(CREATE_LIST.sockets, photos.images, strict=False))
            images = self._once(CREATE_LIST, listed, users, **place)
        else:
            images = self._once(EMPTY_IMAGE, {}, users, **place)
        if photos.noise is None:
            return images
        inputs: dict[str, Any] = {"images": images, "kind": "shuffle", "strength": photos.noise}
        return self._once(NOISE_REFERENCE, inputs, users, **place)

    def _clip_vision(self, file: str, adapter: AdapterFile) -> Output:
        for node in self._graph.nodes.values():
            if node.type == CLIP_VISION_LOADER.type and node.mode == ACTIVE and file in _values(node):
                return Output(node.id, 0)
        if file not in self.files:
            self.files.append(file)
        return self._once(
            CLIP_VISION_LOADER, {"clip_name": file}, (adapter.loader,), below=ADAPTER_LOADER.size[1] + GAP
        )

    def _once(self, kind: NodeKind, inputs: dict[str, Any], users: Collection[NodeId], **place: Any) -> Output:
        """A node's first output; the node is added unless there is one with the same inputs."""
        key = (kind.type, *sorted(inputs.items(), key=str), place.get("mode", ACTIVE))
        if key not in self._made:
            self._made[key] = Output(self._add(kind, inputs, users, **place), 0)
        self._note(self._made[key].node, kind, users)
        return self._made[key]

    def _add(self, kind: NodeKind, inputs: dict[str, Any], users: Collection[NodeId], **place: Any) -> NodeId:
        new = self._graph.add(kind, inputs, near=next(iter(users)), **place)
        self._note(new, kind, users)
        return new

    def _note(self, new: NodeId, kind: NodeKind, users: Iterable[NodeId]) -> None:
        for user in users:
            self.became.setdefault(user, {})[new] = Became(id=new, type=kind.type)


def own_title(node: Node) -> str:
    """A title that the user gave; those of the other pack name its nodes."""
    return "" if "ipadapter" in node.title.lower().replace(" ", "") else node.title


def _settings(branch: Branch) -> dict[str, Any]:
    settings = {
        "face_weight": branch.weight,
        "start_percent": branch.start,
        "end_percent": branch.end,
        "weight_type": branch.weight_type,
        "layer_weights": branch.layer_weights,
        "embeds_scaling": branch.embeds_scaling,
    }
    return settings if branch.mask is None else settings | {"attn_mask": branch.mask}


def _values(node: Node) -> list[Any]:
    return node.stored if isinstance(node.stored, list) else list(node.stored.values())
