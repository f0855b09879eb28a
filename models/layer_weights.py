"""How strongly an adapter acts in each cross-attention layer.

The weight types and the numbering of layers are those that artists know from ComfyUI_IPAdapter_plus; the style and
composition layers of SDXL were found by InstantStyle (https://arxiv.org/abs/2404.02733). The precise types keep what
they are after by acting against the rest: in the opposed layers the photos stand on the unconditional side, from which
guidance leads away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from .cross_attention import CrossAttentionLayer

SDXL_TRANSFORMERS = 11
SD15_TRANSFORMERS = 16

_COMPOSITION = {SDXL_TRANSFORMERS: {3: 1.0}, SD15_TRANSFORMERS: {4: 0.25, 5: 1.0}}
_STYLE = {
    SDXL_TRANSFORMERS: {6: 1.0},
    SD15_TRANSFORMERS: dict.fromkeys((0, 1, 2, 3, 9, 10, 11, 12, 13, 14, 15), 1.0),
}
_STYLE_AND_COMPOSITION = {transformers: _STYLE[transformers] | _COMPOSITION[transformers] for transformers in _STYLE}

# Factor by transformer index; every transformer that is not named gets 0.
_SELECTED_TRANSFORMERS: dict[str, dict[int, dict[int, float]]] = {
    "style transfer": _STYLE,
    "composition": _COMPOSITION,
    "strong style transfer": {
        transformers: {index: 1.0 for index in range(transformers) if index not in composition}
        for transformers, composition in _COMPOSITION.items()
    },
    "style and composition": _STYLE_AND_COMPOSITION,
    "style transfer precise": _STYLE_AND_COMPOSITION,
    "composition precise": {
        transformers: dict.fromkeys(range(transformers), 0.1) | known
        for transformers, known in _STYLE_AND_COMPOSITION.items()
    },
}


def _ramp(shape: Callable[[float], float]) -> Callable[[CrossAttentionLayer, int], float]:
    """A factor between 0.05 and 1 from the transformer's position in [0, 1)."""
    return lambda layer, transformers: 0.05 + 0.95 * shape(layer.transformer_index / transformers)


def _weak(*sections: str) -> Callable[[CrossAttentionLayer, int], float]:
    return lambda layer, transformers: 0.2 if layer.section in sections else 1.0


_FACTORS: dict[str, Callable[[CrossAttentionLayer, int], float]] = {
    "linear": lambda layer, transformers: 1.0,
    "ease in": _ramp(lambda position: 1 - position),
    "ease out": _ramp(lambda position: position),
    "ease in-out": _ramp(lambda position: 1 - abs(2 * position - 1)),
    "reverse in-out": _ramp(lambda position: abs(2 * position - 1)),
    "weak input": _weak("input"),
    "weak middle": _weak("middle"),
    "weak output": _weak("output"),
    "strong middle": _weak("input", "output"),
}

WEIGHT_TYPES = (*_FACTORS, *_SELECTED_TRANSFORMERS)


def layer_weights(
    layers: Sequence[CrossAttentionLayer],
    weight: float,
    *,
    weight_type: str = "linear",
    transformer_weights: Mapping[int, float] | None = None,
    skip_middle: bool = False,
    prefix: str = "",
) -> dict[int, float]:
    """Weight by layer index N.

    Args:
        layers: every cross-attention layer of the UNet.
        weight: weight of the whole branch.
        weight_type: one of `WEIGHT_TYPES`.
        transformer_weights: factor by transformer index; replaces `weight_type`, transformers that are not named get 0.
        skip_middle: leave out the middle block.
        prefix: of the names of the inputs, for messages.

    Raises:
        ValueError: unknown weight type, one that this UNet has no layers for, or a transformer index out of range.
    """
    transformers = 1 + max(layer.transformer_index for layer in layers)
    if transformer_weights is not None:
        unknown = sorted(index for index in transformer_weights if not 0 <= index < transformers)
        if unknown:
            raise ValueError(
                f"{prefix}layer_weights names layer {unknown[0]}, but this model has layers 0 to {transformers - 1}."
            )
        factor = _selected(transformer_weights)
    elif weight_type in _FACTORS:
        factor = _FACTORS[weight_type]
    elif weight_type in _SELECTED_TRANSFORMERS:
        by_transformers = _SELECTED_TRANSFORMERS[weight_type]
        if transformers not in by_transformers:
            raise ValueError(
                f"{prefix}weight_type {weight_type!r} is known for SD1.5 and SDXL only; this model has {transformers} "
                f"transformer blocks. Use another {prefix}weight_type, or {prefix}layer_weights."
            )
        factor = _selected(by_transformers[transformers])
    else:
        raise ValueError(f"Unknown {prefix}weight_type {weight_type!r}; choose one of {', '.join(WEIGHT_TYPES)}.")
    return {
        layer.index: 0.0 if skip_middle and layer.section == "middle" else weight * factor(layer, transformers)
        for layer in layers
    }


def opposed_layers(layers: Sequence[CrossAttentionLayer], weight_type: str) -> frozenset[int]:
    """Index N of the layers in which a precise weight type acts against the photos; of other types there are none.

    Args:
        layers: every cross-attention layer of the UNet, one that `layer_weights` has accepted.
        weight_type: one of `WEIGHT_TYPES`.
    """
    if not weight_type.endswith(" precise"):
        return frozenset()
    composition = _COMPOSITION[1 + max(layer.transformer_index for layer in layers)]
    keeps_composition = weight_type == "composition precise"
    return frozenset(layer.index for layer in layers if (layer.transformer_index in composition) != keeps_composition)


def _selected(factors: Mapping[int, float]) -> Callable[[CrossAttentionLayer, int], float]:
    return lambda layer, transformers: factors.get(layer.transformer_index, 0.0)


def parse_transformer_weights(text: str, *, prefix: str = "") -> dict[int, float] | None:
    """Parse "3:1.0, 6:0.5" (transformer index : factor); None for an empty text.

    Args:
        prefix: of the name of the input, for messages.

    Raises:
        ValueError: the text has another form, or a factor that is not finite.
    """
    if not text.strip():
        return None
    factors = {}
    for part in text.replace("\n", ",").split(","):
        if not part.strip():
            continue
        index, separator, factor = part.partition(":")
        try:
            factors[int(index)] = float(factor)
        except ValueError:
            separator = ""
        if not separator or not math.isfinite(factors[int(index)]):
            raise ValueError(
                f"{prefix}layer_weights has {part.strip()!r}; expected pairs of layer number and factor such as "
                "'3:1.0, 6:0.5'."
            )
    return factors or None
