"""Weight types against numbers worked out by hand, and the text form of layer weights."""

from __future__ import annotations

import pytest

from bolid.models.cross_attention import CrossAttentionLayer
from bolid.models.layer_weights import WEIGHT_TYPES, layer_weights, opposed_layers, parse_transformer_weights

from ..support.adapter_files import SD15_LAYERS, SDXL_LAYERS

SECTION_SIZES = {"sd15": {"input": 6, "middle": 1, "output": 9}, "sdxl": {"input": 4, "middle": 1, "output": 6}}


def layers_of(family: str) -> list[CrossAttentionLayer]:
    """The layers in the order of the public files, with the order of execution: input, middle, output."""
    layers = {"sd15": SD15_LAYERS, "sdxl": SDXL_LAYERS}[family]
    blocks = list(dict.fromkeys((layer.block, layer.number) for layer in layers))
    executed = [block for section in ("input", "middle", "output") for block in blocks if block[0] == section]
    return [
        CrossAttentionLayer(
            index=layer.key,
            section=layer.block,
            transformer_index=executed.index((layer.block, layer.number)),
            hidden_size=layer.hidden_size,
            cross_attention_dim=768 if family == "sd15" else 2048,
        )
        for layer in layers
    ]


def by_transformer(family: str, **arguments) -> list[float]:
    """One factor per transformer in the order of execution; all layers of a transformer must agree."""
    layers = layers_of(family)
    weights = layer_weights(layers, arguments.pop("weight", 1.0), **arguments)
    assert list(weights) == [layer.index for layer in layers]
    found: dict[int, set[float]] = {}
    for layer in layers:
        found.setdefault(layer.transformer_index, set()).add(weights[layer.index])
    assert all(len(values) == 1 for values in found.values())
    return [found[index].pop() for index in range(len(found))]


SD15 = {
    "linear": [1.0] * 16,
    # 0.05 + 0.95 · (1 − i / 16)
    "ease in": [1, 0.940625, 0.88125, 0.821875, 0.7625, 0.703125, 0.64375, 0.584375,
                0.525, 0.465625, 0.40625, 0.346875, 0.2875, 0.228125, 0.16875, 0.109375],
    # 0.05 + 0.95 · i / 16
    "ease out": [0.05, 0.109375, 0.16875, 0.228125, 0.2875, 0.346875, 0.40625, 0.465625,
                 0.525, 0.584375, 0.64375, 0.703125, 0.7625, 0.821875, 0.88125, 0.940625],
    # 0.05 + 0.95 · (1 − |i − 8| / 8)
    "ease in-out": [0.05, 0.16875, 0.2875, 0.40625, 0.525, 0.64375, 0.7625, 0.88125,
                    1, 0.88125, 0.7625, 0.64375, 0.525, 0.40625, 0.2875, 0.16875],
    # 0.05 + 0.95 · |i − 8| / 8
    "reverse in-out": [1, 0.88125, 0.7625, 0.64375, 0.525, 0.40625, 0.2875, 0.16875,
                       0.05, 0.16875, 0.2875, 0.40625, 0.525, 0.64375, 0.7625, 0.88125],
    "weak input": [0.2] * 6 + [1.0] * 10,
    "weak middle": [1.0] * 6 + [0.2] + [1.0] * 9,
    "weak output": [1.0] * 7 + [0.2] * 9,
    "strong middle": [0.2] * 6 + [1.0] + [0.2] * 9,
    "style transfer": [1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1],
    "composition": [0, 0, 0, 0, 0.25, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    "strong style transfer": [1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    "style and composition": [1, 1, 1, 1, 0.25, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1],
    "style transfer precise": [1, 1, 1, 1, 0.25, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1],
    "composition precise": [1, 1, 1, 1, 0.25, 1, 0.1, 0.1, 0.1, 1, 1, 1, 1, 1, 1, 1],
}  # fmt: skip
SDXL = {
    "linear": [1.0] * 11,
    "ease in": [0.05 + 0.95 * (11 - i) / 11 for i in range(11)],
    "ease out": [0.05 + 0.95 * i / 11 for i in range(11)],
    "ease in-out": [0.05 + 0.95 * (5.5 - abs(i - 5.5)) / 5.5 for i in range(11)],
    "reverse in-out": [0.05 + 0.95 * abs(i - 5.5) / 5.5 for i in range(11)],
    "weak input": [0.2] * 4 + [1.0] * 7,
    "weak middle": [1.0] * 4 + [0.2] + [1.0] * 6,
    "weak output": [1.0] * 5 + [0.2] * 6,
    "strong middle": [0.2] * 4 + [1.0] + [0.2] * 6,
    "style transfer": [0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0],
    "composition": [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
    "strong style transfer": [1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1],
    "style and composition": [0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0],
    "style transfer precise": [0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0],
    "composition precise": [0.1, 0.1, 0.1, 1, 0.1, 0.1, 1, 0.1, 0.1, 0.1, 0.1],
}


@pytest.mark.parametrize("family", SECTION_SIZES)
def test_the_order_of_execution_used_here(family):
    layers = {layer.transformer_index: layer.section for layer in layers_of(family)}
    sections = [layers[index] for index in range(len(layers))]
    assert {section: sections.count(section) for section in sections} == SECTION_SIZES[family]


@pytest.mark.parametrize("weight_type", WEIGHT_TYPES)
@pytest.mark.parametrize(("family", "expected"), [("sd15", SD15), ("sdxl", SDXL)])
def test_weight_types(family, expected, weight_type):
    assert set(expected) == set(WEIGHT_TYPES)
    assert by_transformer(family, weight_type=weight_type) == pytest.approx(expected[weight_type])
    for weight in (0.5, -1.0):
        weighted = [weight * factor for factor in expected[weight_type]]
        assert by_transformer(family, weight_type=weight_type, weight=weight) == pytest.approx(weighted)


@pytest.mark.parametrize("weight_type", WEIGHT_TYPES)
@pytest.mark.parametrize(("family", "acting", "middle"), [("sd15", 15, 6), ("sdxl", 60, 4)])
def test_skip_middle(family, acting, middle, weight_type):
    plain = by_transformer(family, weight_type=weight_type)
    skipped = by_transformer(family, weight_type=weight_type, skip_middle=True)
    assert skipped == [0.0 if index == middle else factor for index, factor in enumerate(plain)]
    if weight_type == "linear":
        weights = layer_weights(layers_of(family), 1.0, skip_middle=True)
        assert sum(weight != 0 for weight in weights.values()) == acting
        assert all(layer.section == "middle" for layer in layers_of(family) if weights[layer.index] == 0)


@pytest.mark.parametrize(("family", "composition", "transformers"), [("sd15", {4, 5}, 16), ("sdxl", {3}, 11)])
def test_precise_types_oppose_the_rest(family, composition, transformers):
    layers = layers_of(family)
    by_index = {layer.index: layer.transformer_index for layer in layers}
    opposed = {
        weight_type: {by_index[index] for index in opposed_layers(layers, weight_type)} for weight_type in WEIGHT_TYPES
    }
    assert opposed.pop("style transfer precise") == composition
    assert opposed.pop("composition precise") == {*range(transformers)} - composition
    assert not any(opposed.values())


def test_transformer_weights_replace_the_weight_type():
    chosen = {3: 1.0, 6: -2.0, 10: 0.0}
    factors = by_transformer("sdxl", weight=0.5, weight_type="composition", transformer_weights=chosen)
    assert factors == [0, 0, 0, 0.5, 0, 0, -1.0, 0, 0, 0, 0]
    assert by_transformer("sdxl", transformer_weights={4: 1.0}, skip_middle=True) == [0.0] * 11
    assert by_transformer("sd15", transformer_weights={}) == [0.0] * 16


@pytest.mark.parametrize(
    ("family", "index", "last"), [("sd15", 16, 15), ("sdxl", 11, 10), ("sdxl", 15, 10), ("sd15", -1, 15)]
)
def test_a_layer_out_of_range(family, index, last):
    with pytest.raises(ValueError, match=f"names layer {index}, but this model has layers 0 to {last}"):
        layer_weights(layers_of(family), 1.0, transformer_weights={0: 1.0, index: 1.0})


def test_an_unknown_weight_type():
    with pytest.raises(ValueError, match="Unknown weight_type 'ease'; choose one of linear, ease in,"):
        layer_weights(layers_of("sd15"), 1.0, weight_type="ease")


@pytest.mark.parametrize("weight_type", ["style transfer", "composition precise", "strong style transfer"])
def test_a_model_whose_style_layers_nobody_knows(weight_type):
    few = [layer for layer in layers_of("sd15") if layer.transformer_index < 9]
    with pytest.raises(ValueError, match=f"weight_type '{weight_type}' is known for SD1.5 and SDXL only.* 9 "):
        layer_weights(few, 1.0, weight_type=weight_type)
    assert set(layer_weights(few, 1.0).values()) == {1.0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        (" \n ", None),
        (" , ", None),
        ("3:1.0, 6:0.5", {3: 1.0, 6: 0.5}),
        (" 3 : -1e-1 ,", {3: -0.1}),
        ("0:1\n1:.5\n\n", {0: 1.0, 1: 0.5}),
    ],
)
def test_layer_weights_are_read(text, expected):
    assert parse_transformer_weights(text) == expected


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("1.0", "1.0"),
        ("3=1", "3=1"),
        ("3:1, 6", "6"),
        ("3:1, 6:", "6:"),
        (":1", ":1"),
        ("a:1", "a:1"),
        ("3:x", "3:x"),
        ("1.5:1", "1.5:1"),
        ("3:nan", "3:nan"),
        ("3:1, 4:inf", "4:inf"),
        ("3:1:2", "3:1:2"),
        ("3:1; 6:2", "3:1; 6:2"),
    ],
)
def test_text_that_is_no_layer_weights(text, part):
    with pytest.raises(ValueError, match=r"expected pairs of layer number and factor such as '3:1.0, 6:0.5'") as caught:
        parse_transformer_weights(text)
    assert repr(part) in str(caught.value)
