"""Photos behind embeds: the old nodes that encode, combine and save them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import other_packs as old
from .graph import Node, NodeId, Output
from .kinds import LIST_LENGTH
from .plans import Photos, SavePlan, Stays
from .sources import Context, Sources, known, named

_METHODS = {"concat": "stack", "average": "avg", "norm average": "normalised_avg", "max": "max", "add": "avg"}
_WITHOUT_COUNTERPART = ("subtract", "min")


@dataclass(frozen=True, kw_only=True)
class _Encoded:
    """A node that encodes pictures."""

    node: Node
    images: tuple[Output, ...]
    weights: tuple[Any, ...]
    clip_vision: Output | str
    noise: float | None = None


def pooling_method(name: str, context: Context, *, single: bool) -> str:
    """The method of `PoolingAggregator` for a way to combine photos."""
    if name in _WITHOUT_COUNTERPART and not single:
        raise Stays(f"{name} has no counterpart among the methods of PoolingAggregator")
    if name == "add" and not single:
        context.note("add became avg: the sum was as many times longer as there are photos", differs=True)
    if name == "norm average" and not single:
        context.note(
            "norm average became normalised_avg, which divides by every photo's own length; the other pack divided "
            "by the length over all photos",
            differs=True,
        )
    if name not in (*_METHODS, *_WITHOUT_COUNTERPART):
        raise Stays(f"its way to combine photos, {name!r}, is not known")
    return _METHODS.get(name, "avg")


def save_plan(node: Node, sources: Sources) -> SavePlan:
    """The plan for a node that writes embeds to a file."""
    embeds = sources.link(node, "embeds")
    encoder = sources.node(embeds)
    while encoder is not None and old.kind_of(encoder) == old.COMBINE_EMBEDS and "embed1" in encoder.links:
        encoder = sources.node(encoder.links["embed1"])
    if encoder is None or old.kind_of(encoder) != old.ENCODER:
        raise Stays(f"its embeds come from {named(encoder)}, whose photos are not known")
    settings = sources.settings(node)
    adapter = sources.adapter(encoder)
    context = Context(node=node, settings=settings, adapter=adapter, clip_vision=None, face_analysis=None)
    photos = encoded_photos(embeds, context, sources)
    return SavePlan(
        node=node.id, adapter=adapter, photos=photos, filename_prefix=settings["filename_prefix"], notes=context.notes
    )


def encoded_photos(output: Output, context: Context, sources: Sources) -> Photos:
    """The pictures behind an EMBEDS link, and how they are combined."""
    encoded, method, nodes = _encoders(output, sources)
    if len({entry.clip_vision for entry in encoded}) > 1:
        raise Stays("its embeds come from several image encoders")
    images = tuple(image for entry in encoded for image in entry.images)
    if len(images) > LIST_LENGTH:
        raise Stays(f"its embeds come from {len(images)} pictures; 'Create List' takes {LIST_LENGTH}")
    single = len(images) == 1 and sources.is_single(images[0])
    noises = {entry.noise for entry in encoded}
    if noises != {None}:
        raise Stays("its encoder adds noise, which has no counterpart where embeds are encoded apart")
    return Photos(
        images=images,
        clip_vision=encoded[0].clip_vision,
        method=pooling_method(method, context, single=single),
        photo_weights=_photo_weights(encoded, context, sources),
        sources=nodes,
    )


def _photo_weights(encoded: list[_Encoded], context: Context, sources: Sources) -> str:
    weights = [weight for entry in encoded for weight in entry.weights]
    if all(weight == 1 for weight in weights):
        return ""
    if any(isinstance(weight, Output) or weight < 0 for weight in weights):
        raise Stays("a weight of its encoders is negative or comes from another node")
    if not all(sources.is_single(image) for entry in encoded for image in entry.images):
        context.note("the encoders' weights are left out: how many photos each has is not known", differs=True)
        return ""
    context.note("the encoders' weights became photo_weights, which keep the length of the features", differs=True)
    return ", ".join(f"{weight:g}" for weight in weights)


def _encoders(output: Output, sources: Sources) -> tuple[list[_Encoded], str, tuple[NodeId, ...]]:
    """The nodes that encoded, how what they gave was combined, and every old node on the way."""
    source = sources.graph.origin(output)
    node = sources.node(output)
    kind = old.kind_of(node) if node is not None else None
    if kind == old.ENCODER:
        if source != old.output(node, "pos_embed"):
            raise Stays("it takes the encoding of a black picture for a photo")
        return [_encoded(node, sources)], "concat", (node.id,)
    if kind == old.FIRST_ENCODER:
        return [_first_encoded(node, sources)], "concat", (node.id,)
    if kind not in (old.COMBINE_EMBEDS, old.BATCH_EMBEDS):
        raise Stays(f"its embeds come from {named(node)}, whose photos are not known")
    method = known(sources.settings(node), "method") if kind == old.COMBINE_EMBEDS else "concat"
    encoded: list[_Encoded] = []
    nodes = [node.id]
    for number in range(1, 6):
        if f"embed{number}" in node.links:
            found, inner, before = _encoders(node.links[f"embed{number}"], sources)
            if inner != "concat":
                raise Stays("its embeds are combined twice, in ways that do not add up to one")
            encoded += found
            nodes += before
    if not encoded:
        raise Stays(f"{named(node)} combines nothing")
    return encoded, method, tuple(dict.fromkeys(nodes))


def _encoded(node: Node, sources: Sources) -> _Encoded:
    if "mask" in node.links:
        raise Stays(f"{named(node)} blanks a part of the photo by its mask, which has no counterpart")
    clip_vision = sources.clip_vision(node, sources.adapter(node))
    return _Encoded(
        node=node,
        images=(sources.link(node, "image"),),
        weights=(sources.settings(node)["weight"],),
        clip_vision=clip_vision,
    )


def _first_encoded(node: Node, sources: Sources) -> _Encoded:
    settings = sources.settings(node)
    numbers = [number for number in range(1, 5) if f"image_{number}" in node.links]
    weights = [settings[f"weight_{number}"] for number in numbers]
    return _Encoded(
        node=node,
        images=tuple(node.links[f"image_{number}"] for number in numbers),
        # That is how the node itself turned its weights.
        weights=tuple(weight if isinstance(weight, Output) else weight * weight for weight in weights),
        clip_vision=sources.link(node, "clip_vision"),
        noise=settings["noise"] or None,
    )
