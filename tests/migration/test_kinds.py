"""The table of placed nodes says what the nodes themselves say."""

from __future__ import annotations

from typing import Any

import pytest

from bolid.migration.kinds import MAX_WEIGHT, PLACED, NodeKind

LINKED_WIDGETS = {("ImageCropV2", "crop_region"), ("CreateList", "inputs")}
"""Inputs that conversion links, though the frontend offers a widget or makes them grow."""


@pytest.fixture(params=PLACED, ids=lambda kind: kind.type)
def kind(request: pytest.FixtureRequest, comfyui) -> NodeKind:
    return request.param


def described(kind: NodeKind) -> tuple[dict[str, Any], list[str], list[str]]:
    """Options of a node's inputs by name, types first; types and names of its outputs."""
    import nodes

    node = nodes.NODE_CLASS_MAPPINGS[kind.type]
    inputs = {name: given for group in node.INPUT_TYPES().values() for name, given in group.items()}
    types = list(node.RETURN_TYPES)
    return inputs, types, list(getattr(node, "RETURN_NAMES", None) or types)


def is_widget(given: Any) -> bool:
    return isinstance(given[0], list) or given[0] in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def test_widgets_come_in_this_order_and_begin_with_these(kind: NodeKind):
    inputs, _, _ = described(kind)
    widgets = [name for name, given in inputs.items() if is_widget(given)]
    assert widgets[: len(kind.widgets)] == list(kind.widgets)
    for name in kind.widgets:
        options = inputs[name][1] if len(inputs[name]) > 1 else {}
        if isinstance(inputs[name][0], list) or inputs[name][0] == "COMBO":
            choices = inputs[name][0] if isinstance(inputs[name][0], list) else options["options"]
            assert kind.widgets[name] in choices or not kind.widgets[name], name
        elif kind.type.startswith("BoLID") and isinstance(kind.widgets[name], float | bool):
            assert kind.widgets[name] == options["default"], name


def test_sockets_and_outputs(kind: NodeKind):
    inputs, types, names = described(kind)
    for name, type_ in kind.sockets.items():
        if (kind.type, name.split(".")[0]) not in LINKED_WIDGETS:
            assert set(type_.split(",")) == set(inputs[name][0].split(",")), name
    assert [name for name in inputs if name not in kind.widgets and not is_widget(inputs[name])] or kind.widgets
    if kind.type != "CreateList":
        assert list(kind.outputs.values()) == types
    if not kind.type.startswith(("Image", "Resize", "Create", "Primitive", "Empty", "CLIP", "Cond")):
        assert list(kind.outputs) == names


def test_what_has_to_be_linked_is_known(kind: NodeKind):
    import nodes

    required = nodes.NODE_CLASS_MAPPINGS[kind.type].INPUT_TYPES().get("required", {})
    known = {*kind.widgets, *(name.split(".")[0] for name in kind.sockets)}
    assert set(required) <= known


def test_the_largest_weight(comfyui):
    from bolid.nodes import BoLIDAdapterApply

    (weight,) = [given for given in BoLIDAdapterApply.GET_SCHEMA().inputs if given.id == "face_weight"]
    assert (weight.min, weight.max) == (-1.0, MAX_WEIGHT)


def test_presets_name_files_that_are_published():
    from bolid.catalogue.public_files import PUBLIC_FILES
    from bolid.migration.presets import VIT_G, VIT_H, preset

    published = {file.file for file in PUBLIC_FILES}
    assert {VIT_H, VIT_G} <= published
    for name in ("LIGHT", "STANDARD", "VIT-G", "PLUS (", "PLUS FACE", "FULL", "FACEID", "FACEID PLUS -"):
        assert set(preset(name).files.values()) <= published
    for name in ("FACEID PLUS V2", "FACEID PORTRAIT ("):
        assert set(preset(name).files.values()) <= published and set(preset(name).files) == {"sd15", "sdxl"}


def test_names_that_are_kept_are_options_of_ours():
    from bolid.migration import planner
    from bolid.migration.embeds import _METHODS
    from bolid.models.cross_attention import EMBEDS_SCALINGS
    from bolid.models.layer_weights import WEIGHT_TYPES
    from bolid.models.pooling import POOLING_METHODS

    assert set(planner._WEIGHT_TYPES) <= set(WEIGHT_TYPES)
    assert set(planner._SCALINGS) == set(EMBEDS_SCALINGS)
    assert set(_METHODS.values()) <= set(POOLING_METHODS)
