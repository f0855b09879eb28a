"""What links of the old graph bring: which adapter, image encoder, insightface, how many pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from . import other_packs as old
from .graph import Graph, Node, Output
from .plans import AdapterFile, FaceAnalysis, Note, Stays
from .presets import BaseModel, guessed_base_model, preset

_PROVIDERS = ("CPU", "CUDA", "ROCM", "DirectML", "CoreML")

_ONE_PICTURE = "LoadImage"
_PICTURE_TO_PICTURE = (old.PREPARE, old.NOISE, "ImageScale", "ImageScaleBy", "ImageCrop", "ImageInvert", "ImageSharpen")

_WEIGHT_LISTS = ("IPAdapterWeights", "IPAdapterWeightsFromStrategy", "IPAdapterCombineWeights")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the files do not tell.

    Attributes:
        base_model: for presets whose file depends on it; None: guessed, or the node stays.
        middle_block: the old pictures were made by versions that reached the middle block.
    """

    base_model: BaseModel | None = None
    middle_block: bool = False


@dataclass(kw_only=True)
class Context:
    """One node that uses an adapter, while its plan is made.

    Attributes:
        clip_vision: a link, or the name of the file that the adapter's loader brings, or None where none is needed.
        face_analysis: likewise.
    """

    node: Node
    settings: dict[str, Any]
    adapter: AdapterFile
    clip_vision: Output | str | None
    face_analysis: Output | FaceAnalysis | None
    notes: list[Note] = field(default_factory=list)

    def note(self, text: str, *, differs: bool = False) -> None:
        """Add a note, once."""
        note = Note(text, differs)
        if note not in self.notes:
            self.notes.append(note)


class Sources:
    """Reads the settings and links of one graph's nodes."""

    def __init__(self, graph: Graph, options: Options):
        self.graph = graph
        self._options = options

    def settings(self, node: Node) -> dict[str, Any]:
        """See `other_packs.settings`."""
        try:
            return old.settings(node, self.graph)
        except ValueError as error:
            raise Stays(str(error)) from None

    def link(self, node: Node, name: str) -> Output:
        """Where an input comes from that has to come from somewhere."""
        if name not in node.links:
            raise Stays(unlinked(name))
        return node.links[name]

    def context(self, node: Node) -> Context:
        """A node with its adapter, and with what its adapter needs."""
        adapter = self.adapter(node)
        return Context(
            node=node,
            settings=self.settings(node),
            adapter=adapter,
            clip_vision=self.clip_vision(node, adapter),
            face_analysis=self._face_analysis_of(node, adapter),
        )

    # Loaders

    def adapter_file(self, node: Node) -> AdapterFile:
        """What a loader loads."""
        settings = self.settings(node)
        if node.type == old.LOADER:
            adapter = AdapterFile(loader=node.id, name=known(settings, "ipadapter_file"))
            self._refuse_unknown_layouts(adapter.name)
            if not adapter.name:
                raise Stays("it names no file")
            return adapter
        name = known(settings, "preset")
        found = preset(name)
        if found is None:
            raise Stays(f"the preset {name!r} has no counterpart")
        if "model" not in node.links:
            raise Stays(unlinked("model"))
        base = self._base_model(node, found.files)[0]
        if base not in found.files:
            raise Stays(f"the preset {name!r} has no file for {base}")
        file = found.files[base]
        faceid = node.type == old.UNIFIED_FACEID
        return AdapterFile(
            loader=node.id,
            name=file,
            clip_vision=found.clip_vision,
            face_analysis=FaceAnalysis(
                loader=node.id, model_pack="buffalo_l", provider=_provider(known(settings, "provider"))
            )
            if faceid
            else None,
            lora=known(settings, "lora_strength") if faceid and found.lora else None,
        )

    def loader_notes(self, node: Node) -> list[Note]:
        """What to know of a loader's counterpart."""
        settings = self.settings(node)
        notes = []
        if node.type in old.UNIFIED_LOADERS:
            found = preset(settings["preset"])
            base, sign = self._base_model(node, found.files if found else {})
            if sign:
                notes.append(Note(f"{base} by {sign}; --base-model says otherwise"))
        provider = settings.get("provider", "CPU")
        if provider not in _PROVIDERS:
            notes.append(Note(f"provider {provider} is not offered: CPU, which finds the same"))
        return notes

    def _base_model(self, node: Node, files: dict[BaseModel, str]) -> tuple[BaseModel, str]:
        """The base model, and by which sign it was guessed, if it was."""
        if self._options.base_model is not None:
            return self._options.base_model, ""
        if len(files) == 1:
            return next(iter(files)), ""
        guess = guessed_base_model(self.graph, node.links.get("model"))
        if guess is None:
            raise Stays("nothing in the graph tells whether the model is SD1.5 or SDXL: give --base-model")
        return guess

    def face_analysis(self, node: Node) -> FaceAnalysis:
        """What a loader of insightface loads."""
        settings = self.settings(node)
        return FaceAnalysis(
            loader=node.id,
            model_pack=known(settings, "model_name") if "model_name" in settings else "buffalo_l",
            provider=_provider(known(settings, "provider")),
        )

    @staticmethod
    def _refuse_unknown_layouts(name: str) -> None:
        if "unnorm" in name.lower():
            raise Stays(f"{name} was trained on face vectors that are not normalised, which BoLID does not give")
        if "kolors" in name.lower():
            raise Stays("Kolors is no SD1.5 or SDXL model")

    def adapter(self, node: Node) -> AdapterFile:
        """The adapter of a node."""
        loader = self.loader(node)
        if loader is None or loader.type not in (old.LOADER, *old.UNIFIED_LOADERS):
            raise Stays(f"its adapter comes from {named(loader)}, which is not known")
        try:
            return self.adapter_file(loader)
        except Stays as reason:
            raise Stays(f"its adapter comes from {named(loader)}: {reason}") from None

    def loader(self, node: Node) -> Node | None:
        """The node that the adapter of a node comes from."""
        return self.node(self.link(node, "ipadapter"))

    def clip_vision(self, node: Node, adapter: AdapterFile) -> Output | str | None:
        """The image encoder of a node."""
        if adapter.is_faceid and not adapter.is_faceid_plus:
            return None
        if "clip_vision" in node.links:
            return node.links["clip_vision"]
        if adapter.clip_vision is not None:
            return adapter.clip_vision
        if "image" in node.links or "ipadapter_params" in node.links:
            raise Stays("no image encoder comes with its adapter, and none is linked to it")
        return None

    def _face_analysis_of(self, node: Node, adapter: AdapterFile) -> Output | FaceAnalysis | None:
        if not adapter.is_faceid:
            return None
        if "insightface" not in node.links:
            if adapter.face_analysis is None:
                raise Stays(f"{adapter.name} is a FaceID adapter, but there is no insightface")
            return adapter.face_analysis
        loader = self.node(node.links["insightface"])
        if loader is not None and loader.type in old.INSIGHTFACE_LOADERS:
            return self.face_analysis(loader)
        return node.links["insightface"]

    # Links

    def node(self, output: Output) -> Node | None:
        """The node that a link comes from in the end."""
        return self.graph.nodes.get(self.graph.origin(output).node)

    def is_single(self, image: Output) -> bool:
        """Whether it is certain that there is one picture."""
        node = self.node(image)
        while node is not None and node.type in _PICTURE_TO_PICTURE:
            link = node.links.get("image", node.links.get("image_optional"))
            if node.type == old.NOISE and link is None:
                return True
            node = self.node(link) if link is not None else None
        return node is not None and node.type == _ONE_PICTURE

    def refuse_lists(self, weight: Any) -> None:
        """Weights per frame are no weight."""
        node = self.node(weight) if isinstance(weight, Output) else None
        if node is not None and node.type in _WEIGHT_LISTS:
            raise Stays(f"its weight is a list of {named(node)}, one for each frame of an animation")


def known(settings: dict[str, Any], name: str) -> Any:
    """A setting that decides which nodes there will be."""
    if isinstance(settings[name], Output):
        raise Stays(f"its {name} comes from another node, and has to be known")
    return settings[name]


def _provider(name: str) -> str:
    return name if name in _PROVIDERS else "CPU"


def unlinked(name: str) -> str:
    """Why a node stays whose input gets nothing."""
    return f"nothing is linked to its {name} (nodes that link without lines are not followed)"


def named(node: Node | None) -> str:
    """A node, for messages."""
    return f"node {node.id} ({node.type})" if node is not None else "outside this graph"
