"""Plans for the old nodes that prepare pictures."""

from __future__ import annotations

from typing import Any

from . import other_packs as old
from .graph import Node
from .kinds import BOUNDING_BOX, IMAGE_CROP, IMAGE_SCALE, NOISE_REFERENCE, RESIZE_AND_PAD, NodeKind
from .plans import Made, Note, Replacement, Stays
from .sources import Sources, known

_UPSCALE_METHODS = {
    "LANCZOS": "lanczos",
    "BICUBIC": "bicubic",
    "BILINEAR": "bilinear",
    "BOX": "area",
    "NEAREST": "nearest-exact",
    "HAMMING": "lanczos",
}

_CUTS = {"top": "height", "left": "width"}
"""Side that is left free, by the end of the photo that is kept."""
_CUT_SIDE = 3 * 224
"""Photos of up to 3:1 are not reduced below what the image encoder sees."""


def picture_plan(node: Node, sources: Sources) -> Replacement | None:
    """The plan for a node that prepares pictures; None for any other node."""
    if node.type == old.PREPARE:
        return _prepared(node, sources)
    if node.type == old.NOISE:
        return _noise(node, sources)
    return None


def _prepared(node: Node, sources: Sources) -> Replacement:
    settings = sources.settings(node)
    image = sources.link(node, "image")
    position, interpolation = known(settings, "crop_position"), known(settings, "interpolation")
    if position not in (*_CUTS, "center", "pad"):
        raise Stays(f"no node cuts the {position} square of a photo; it works together with ours as it is")
    if interpolation not in _UPSCALE_METHODS:
        raise Stays(f"its interpolation {interpolation!r} is not known")
    notes = [Note("kept for the same pixels; MultiRefImageEncoder takes photos of any size and shape")]
    method = _UPSCALE_METHODS[interpolation]
    if interpolation != "LANCZOS":
        notes.append(Note(f"{interpolation} became {method}, which computes pixels otherwise", True))
    if settings["sharpening"] != 0:
        notes.append(Note("sharpening is left out", True))
    steps: list[tuple[NodeKind, dict[str, Any]]]
    if position == "pad":
        steps = [(RESIZE_AND_PAD, {"image": image, "interpolation": method})]
        notes.append(Note("padded after it is scaled, so the edges differ a little", True))
    elif position == "center":
        steps = [(IMAGE_SCALE, {"image": image, "upscale_method": method})]
    else:
        # The size of the photo is not known here, so one side is given a size before the rest is cut off.
        sides = {name: 0 if name == _CUTS[position] else _CUT_SIDE for name in ("width", "height")}
        steps = [
            (IMAGE_SCALE, {"image": image, "upscale_method": method, "crop": "disabled", **sides}),
            (BOUNDING_BOX, {"width": _CUT_SIDE, "height": _CUT_SIDE}),
            (IMAGE_CROP, {"image": Made(0), "crop_region": Made(1)}),
            (IMAGE_SCALE, {"image": Made(2), "upscale_method": method}),
        ]
        notes.append(Note("scaled twice on the way, so pixels differ a little", True))
    return Replacement(node=node.id, steps=steps, notes=notes)


def _noise(node: Node, sources: Sources) -> Replacement:
    settings = sources.settings(node)
    inputs = {"kind": known(settings, "type"), "strength": settings["strength"], "blur": settings["blur"]}
    if "image_optional" in node.links:
        inputs["images"] = node.links["image_optional"]
    note = Note("other random numbers than the other pack's: noise of the same kind, not the same noise", True)
    return Replacement(node=node.id, steps=[(NOISE_REFERENCE, inputs)], notes=[note])
