"""Plans for the old nodes that change a MODEL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from . import other_packs as old
from .embeds import encoded_photos, pooling_method
from .graph import Node, NodeId, Output
from .kinds import MAX_WEIGHT
from .plans import AdapterFile, ApplyPlan, Branch, Note, Photos, Stays
from .presets import upstream
from .sources import Context, Options, Sources, known, named, unlinked

_SIMPLE_WEIGHT_TYPES = {"standard": "linear", "prompt is more important": "ease out"}
_RENAMED_WEIGHT_TYPES = {"style transfer (SDXL)": "style transfer", "composition (SDXL)": "composition"}
_FIRST_SCALINGS = {"original": "V only", "linear": "K+V", "channel penalty": "K+mean(V) w/ C penalty"}
_WEIGHT_TYPES = (
    "linear",
    "ease in",
    "ease out",
    "ease in-out",
    "reverse in-out",
    "weak input",
    "weak output",
    "weak middle",
    "strong middle",
    "style transfer",
    "composition",
    "strong style transfer",
    "style and composition",
    "style transfer precise",
    "composition precise",
)
_SCALINGS = ("V only", "K+V", "K+V w/ C penalty", "K+mean(V) w/ C penalty")

_SEVERAL_FACES = Note(
    "of several faces in a photo the largest one counts; the other pack took the one it was surest of (face_choice and "
    "face_index choose)"
)


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A weight in some of the layers."""

    weight: Any
    weight_type: Any
    layer_weights: Any = ""


@dataclass(frozen=True, kw_only=True)
class _Region:
    """A node of regional conditioning, of which an adapter takes photos and mask."""

    node: Node
    settings: dict[str, Any]
    sources: tuple[NodeId, ...]


class Planner:
    """Plans for one graph's nodes that change a MODEL."""

    def __init__(self, sources: Sources, options: Options):
        self._sources = sources
        self._options = options
        self._branches: dict[str, Callable[[Context], list[Branch]]] = {
            "IPAdapter": self._simple,
            "IPAdapterAdvanced": self._advanced,
            "IPAdapterBatch": self._advanced,
            "IPAdapterFaceID": self._advanced,
            "IPAAdapterFaceIDBatch": self._advanced,
            "IPAdapterTiled": self._tiled,
            "IPAdapterTiledBatch": self._tiled,
            "IPAdapterEmbeds": self._embeds,
            "IPAdapterEmbedsBatch": self._embeds,
            "IPAdapterStyleComposition": self._style_composition,
            "IPAdapterStyleCompositionBatch": self._style_composition,
            "IPAdapterMS": self._advanced,
            "IPAdapterClipVisionEnhancer": self._enhanced,
            "IPAdapterClipVisionEnhancerBatch": self._enhanced,
            "IPAdapterFromParams": self._from_params,
            "IPAdapterPreciseStyleTransfer": self._precise_style,
            "IPAdapterPreciseStyleTransferBatch": self._precise_style,
            "IPAdapterPreciseComposition": self._precise_composition,
            "IPAdapterPreciseCompositionBatch": self._precise_composition,
            "IPAdapterApply": self._first,
            "IPAdapterApplyFaceID": self._first,
            "IPAdapterApplyEncoded": self._first_encoded,
        }

    def changes_model(self, node: Node) -> bool:
        """Whether `apply_plan` knows this kind of node."""
        return old.kind_of(node) in self._branches

    def apply_plan(self, node: Node) -> ApplyPlan:
        """The plan for a node that changes a MODEL."""
        needed = old.KINDS[node.type].needed
        # A pack of 2023 has another node of the name IPAdapter, whose inputs share only some names with these.
        for name in needed:
            if name not in node.links:
                raise Stays(unlinked(name))
        context = self._sources.context(node)
        settings, adapter = context.settings, context.adapter
        version = adapter.faceid_plus_version
        if "faceid_v2" in settings and adapter.is_faceid_plus:
            version = "v2" if known(settings, "faceid_v2") else "v1"
        branches = self._branches[node.type](context)
        self._note_faceid(context, version)
        model = self._sources.link(node, "model")
        return ApplyPlan(
            node=node.id,
            model=model,
            adapter=adapter,
            faceid_plus_version=version,
            branches=branches,
            skip_middle=not self._options.middle_block and node.type not in old.FIRST_NODES,
            loads_lora=self._loads_lora(node, adapter),
            crops=self._crops(node),
            notes=context.notes,
        )

    def _simple(self, context: Context) -> list[Branch]:
        weight_type = known(context.settings, "weight_type")
        weight_type = (
            "style transfer" if weight_type.startswith("style") else _SIMPLE_WEIGHT_TYPES.get(weight_type, weight_type)
        )
        return self._spread(context, context.settings["weight"], weight_type)

    def _advanced(self, context: Context) -> list[Branch]:
        return self._spread(context, context.settings["weight"], known(context.settings, "weight_type"))

    def _tiled(self, context: Context) -> list[Branch]:
        node = context.node
        if _is_unfolded(context):
            raise Stays("tiles of one photo per picture have no counterpart")
        if list(self._sources.graph.readers(old.output(node, "masks"))):
            raise Stays("another node reads its masks, which have no counterpart")
        if context.adapter.is_faceid:
            raise Stays("faces are not cut into tiles")
        context.note(
            "every tile acted in its own part of the picture only; with crop = tiles all of them act everywhere",
            differs=True,
        )
        if context.settings["sharpening"] != 0:
            context.note("sharpening is left out", differs=True)
        branches = self._advanced(context)
        return [replace(branch, photos=replace(branch.photos, crop="tiles", method="stack")) for branch in branches]

    def _enhanced(self, context: Context) -> list[Branch]:
        if context.settings["enhance_tiles"] != 1:
            context.note("enhance_tiles is left out: the photos are encoded once, as wholes", differs=True)
        return self._advanced(context)

    def _style_composition(self, context: Context) -> list[Branch]:
        """Style and composition act in different layers, so that two adapters are what one was."""
        node, settings = context.node, context.settings
        style = "strong style transfer" if known(settings, "expand_style") else "style transfer"
        composition = node.links.get("image_composition", node.links["image_style"])
        return [
            *self._spread(context, settings["weight_style"], style, image=node.links["image_style"]),
            *self._spread(context, settings["weight_composition"], "composition", image=composition),
        ]

    def _precise_style(self, context: Context) -> list[Branch]:
        return self._boosted(context, "style_boost", "style transfer", "style transfer precise")

    def _precise_composition(self, context: Context) -> list[Branch]:
        return self._boosted(context, "composition_boost", "composition", "composition precise")

    def _boosted(self, context: Context, name: str, plain: str, precise: str) -> list[Branch]:
        """The plain part at one weight and the rest opposed at another: a precise adapter and the difference."""
        weight, boost = context.settings["weight"], context.settings[name]
        if weight == boost:
            return self._spread(context, weight, precise)
        if boost == 0:
            return self._spread(context, weight, plain)
        if isinstance(weight, Output) or isinstance(boost, Output):
            raise Stays(f"its weight or {name} comes from another node, and has to be known to be divided")
        if context.settings["embeds_scaling"] != "V only":
            context.note(f"{name} beside another weight is exact with embeds_scaling 'V only' alone", differs=True)
        difference = round(weight - boost, 6)
        return [*self._spread(context, boost, precise), *self._spread(context, difference, plain)]

    def _from_params(self, context: Context) -> list[Branch]:
        branches = []
        for region in self._regions(context, context.node.links["ipadapter_params"]):
            branches += self._spread(
                replace(context, settings={**context.settings, **region.settings}),
                region.settings["image_weight"],
                known(region.settings, "weight_type"),
                image=self._sources.link(region.node, "image"),
                mask=region.node.links.get("mask"),
                sources=region.sources,
            )
        return branches

    def _first(self, context: Context) -> list[Branch]:
        """Nodes of the pack's first form, until March 2024."""
        settings = context.settings
        settings["embeds_scaling"] = _first_scaling(known(settings, "weight_type"))
        noise = settings["noise"]
        branches = self._spread(context, settings["weight"], "linear")
        if noise != 0:
            if isinstance(noise, Output):
                raise Stays("its noise comes from another node, and has to be known")
            branches = [self._with_first_noise(context, branch, noise) for branch in branches]
        return branches

    def _with_first_noise(self, context: Context, branch: Branch, noise: float) -> Branch:
        if context.adapter.is_faceid:
            if context.adapter.is_faceid_plus:
                context.note("noise is left out of FaceID-plus", differs=True)
            return branch
        context.note("noise became a noise picture at face_negative, of the same kind but not the same", differs=True)
        method = branch.photos.method if branch.photos.method == "per_picture" else "stack"
        return replace(branch, negative=replace(branch.photos, noise=round(1 - noise, 6), method=method))

    def _first_encoded(self, context: Context) -> list[Branch]:
        context.settings["embeds_scaling"] = _first_scaling(known(context.settings, "weight_type"))
        return self._of_embeds(context, context.node.links["embeds"], None, "linear")

    # Photos, weights, masks

    def _spread(
        self,
        context: Context,
        weight: Any,
        weight_type: str,
        *,
        image: Output | None = None,
        mask: Output | None = None,
        sources: tuple[NodeId, ...] = (),
        photos: Photos | None = None,
        negative: Photos | None = None,
    ) -> list[Branch]:
        """The branches of one set of photos: one, or two where a weight type has weights of its own."""
        node, settings = context.node, context.settings
        self._sources.refuse_lists(weight)
        start, end = settings.get("start_at", 0.0), settings.get("end_at", 1.0)
        never = not isinstance(start, Output) and not isinstance(end, Output) and start > end
        if never:
            context.note(f"start_at {start} is after end_at {end}, so it never acted: its weight is 0 now")
            start, end = 0.0, 1.0
        scaling = known(settings, "embeds_scaling") if "embeds_scaling" in settings else "V only"
        if scaling not in _SCALINGS:
            raise Stays(f"its embeds_scaling {scaling!r} is not known")
        if photos is None:
            photos = replace(self._photos(context, image or self._sources.link(node, "image")), sources=sources)
        if scaling.startswith("K+mean(V)") and photos.method == "stack" and not self._is_one_photo(photos):
            context.note("the mean of V is that of all photos; the other pack took each photo's own", differs=True)
        branch = Branch(
            photos=photos,
            negative=negative or self._negative(context, photos),
            start=start,
            end=end,
            embeds_scaling=scaling,
            mask=mask or node.links.get("attn_mask"),
        )
        layer_weights = settings.get("layer_weights", "")
        parts = _parts(weight, weight_type, layer_weights)
        if weight_type.endswith("precise") and parts[0].layer_weights != "":
            context.note("layer_weights replace the weight type, and with it what was opposed", differs=True)
        return [
            replace(
                branch,
                weight=0.0 if never else _in_range(context, part.weight),
                weight_type=part.weight_type,
                layer_weights=part.layer_weights,
            )
            for part in parts
        ]

    def _is_one_photo(self, photos: Photos) -> bool:
        return len(photos.images) == 1 and self._sources.is_single(photos.images[0])

    def _photos(self, context: Context, image: Output) -> Photos:
        faceid = context.adapter.is_faceid
        return Photos(
            images=(image,),
            clip_vision=context.clip_vision,
            face_analysis=context.face_analysis,
            crop="face" if faceid else "whole",
            on_missing="error" if faceid else "skip",
            method=self._method(context, image),
        )

    def _method(self, context: Context, image: Output) -> str:
        if _is_unfolded(context):
            context.note("one photo per picture of the batch; more photos than pictures are an error here")
            return "per_picture"
        name = known(context.settings, "combine_embeds") if "combine_embeds" in context.settings else "concat"
        return pooling_method(name, context, single=self._sources.is_single(image))

    def _negative(self, context: Context, photos: Photos) -> Photos | None:
        """What the unconditional side sees."""
        image = context.node.links.get("image_negative")
        adapter = context.adapter
        if adapter.is_faceid and not adapter.is_faceid_plus:
            return None
        if adapter.is_faceid_plus:
            if "sdxl" in adapter.name.lower():
                context.note("the other pack cut faces of SDXL models a little wider", differs=True)
            photos = replace(photos, face_analysis=None, crop="whole", on_missing="skip")
        method = "per_picture" if photos.method == "per_picture" else "stack"
        if image is not None:
            if not self._sources.is_single(image):
                context.note(
                    "all pictures at image_negative count; the other pack took the first one, or as many as there are "
                    "photos",
                    differs=True,
                )
            return replace(photos, images=(image,), method=method, sources=())
        if adapter.reads_hidden_states is None:
            context.note(
                f"the name {adapter.name} does not tell whether this is a plus adapter; if it is, the unconditional "
                "side saw black in the other pack (a black picture at face_negative), and sees grey here",
                differs=True,
            )
        if not adapter.reads_hidden_states:
            return None
        return replace(photos, images=(), method="stack", photo_weights="", sources=())

    @staticmethod
    def _note_faceid(context: Context, version: str) -> None:
        if not context.adapter.is_faceid:
            return
        context.notes.append(_SEVERAL_FACES)
        if not context.adapter.is_faceid_plus or version == "v1":
            return
        own = next((name for name in ("weight_faceidv2", "weight_v2") if name in context.settings), None)
        weight = context.settings[own or "weight"] if own or "weight" in context.settings else 1.0
        if own is None and not isinstance(weight, Output):
            # The other pack doubles the weight where a node has no setting for it.
            weight = 2 * weight
        by = own or "twice its weight"
        if weight != 1:
            given = "another node's value" if isinstance(weight, Output) else f"{weight:g}"
            context.note(f"the likeness of FaceID-plus v2 was weighted by {by} ({given}); here it is 1", differs=True)

    # Embeds

    def _embeds(self, context: Context) -> list[Branch]:
        links = context.node.links
        return self._of_embeds(
            context, links["pos_embed"], links.get("neg_embed"), known(context.settings, "weight_type")
        )

    def _of_embeds(self, context: Context, positive: Output, negative: Output | None, weight_type: str) -> list[Branch]:
        if context.adapter.is_faceid:
            raise Stays("FaceID adapters read no embeds")
        photos = encoded_photos(positive, context, self._sources)
        if _is_unfolded(context) and photos.method == "stack":
            photos = replace(photos, method="per_picture")
        source = self._sources.graph.origin(negative) if negative is not None else None
        node = self._sources.graph.nodes.get(source.node) if source is not None else None
        unconditional = None
        if node is not None and node.type == old.ENCODER and source == old.output(node, "neg_embed"):
            photos = replace(photos, sources=tuple(dict.fromkeys((*photos.sources, node.id))))
        elif negative is not None:
            unconditional = encoded_photos(negative, context, self._sources)
        return self._spread(context, context.settings["weight"], weight_type, photos=photos, negative=unconditional)

    # Regions

    def _regions(self, context: Context, output: Output) -> Iterator[_Region]:
        node = self._sources.node(output)
        if node is not None and node.type == old.REGION:
            yield _Region(node=node, settings=self._sources.settings(node), sources=(node.id,))
        elif node is not None and node.type == old.COMBINE_PARAMS:
            for number in range(1, 6):
                if f"params_{number}" in node.links:
                    for region in self._regions(context, node.links[f"params_{number}"]):
                        yield replace(region, sources=(*region.sources, node.id))
        else:
            raise Stays(f"its parameters come from {named(node)}, which is not known")

    # Links

    def _loads_lora(self, node: Node, adapter: AdapterFile) -> bool:
        """Whether a loader's LoRA reaches the MODEL by way of this node, and of no other before it."""
        if adapter.lora is None:
            return False
        for before in upstream(self._sources.graph, node.links["model"]):
            if before.id == adapter.loader:
                return True
            if self.changes_model(before) and "ipadapter" in before.links:
                loader = self._sources.loader(before)
                if loader is not None and loader.id == adapter.loader:
                    return False
        return False

    @staticmethod
    def _crops(node: Node) -> Output | None:
        for name in ("face_image", "tiles"):
            if name in old.KINDS[node.type].outputs:
                return old.output(node, name)
        return None


def _parts(weight: Any, weight_type: str, layer_weights: Any) -> list[_Part]:
    weight_type = _RENAMED_WEIGHT_TYPES.get(weight_type, weight_type)
    if weight_type not in _WEIGHT_TYPES:
        raise Stays(f"its weight_type {weight_type!r} is not known")
    if isinstance(layer_weights, Output) or layer_weights.strip():
        return [_Part(weight=weight, weight_type="linear", layer_weights=layer_weights)]
    if weight_type == "style and composition" and weight != 1:
        # There the weight was the style's alone, and the composition's was always 1.
        return [_Part(weight=weight, weight_type="style transfer"), _Part(weight=1.0, weight_type="composition")]
    return [_Part(weight=weight, weight_type=weight_type)]


def _in_range(context: Context, weight: Any) -> Any:
    if isinstance(weight, Output) or -1 <= weight <= MAX_WEIGHT:
        return weight
    inside = min(max(weight, -1.0), MAX_WEIGHT)
    context.note(f"weight {weight:g} is beyond what face_weight takes: {inside:g}", differs=True)
    return inside


def _is_unfolded(context: Context) -> bool:
    """Whether every picture of the batch has a photo of its own."""
    if "unfold_batch" in context.settings:
        return known(context.settings, "unfold_batch")
    return context.node.type.endswith("Batch")


def _first_scaling(weight_type: str) -> str:
    if weight_type not in _FIRST_SCALINGS:
        raise Stays(f"its weight_type {weight_type!r} is not known")
    return _FIRST_SCALINGS[weight_type]
