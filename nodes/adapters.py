"""Loading an adapter and applying it to a model."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from functools import partial

import comfy.model_patcher
import torch
from comfy_api.v0_0_2 import io

from ..catalogue.recognise import FAMILIES
from ..hosts.comfyui import LayerAddress, LoadedAdapter, add_faceid_lora, attach, layer_addresses, load_adapter
from ..models.body import Body
from ..models.branch import Branch, TokenSource
from ..models.cross_attention import EMBEDS_SCALINGS
from ..models.layer_weights import WEIGHT_TYPES, layer_weights, opposed_layers, parse_transformer_weights
from ..models.references import Embeds
from ..models.weight_schedule import WEIGHT_SCHEDULES
from .model_folders import adapter_names, adapter_path, adapter_text, missing_adapter_message
from .node_text import show_text
from .types import CATEGORY, AdapterType, BodyType, EmbedsType


class BoLIDAdapterLoader(io.ComfyNode):
    """Any public IP-Adapter file of SD1.5 or SDXL, or a BoLID adapter."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BoLIDAdapterLoader",
            display_name="Load Adapter (BoLID)",
            category=CATEGORY,
            description="Loads an IP-Adapter (base, plus, plus-face, full-face, FaceID, FaceID-plus; SD1.5 and SDXL) "
            "or a BoLID adapter. The kind is read from the file's tensors, so any file name will do.",
            search_aliases=["ip-adapter", "ipadapter", "faceid", "face adapter", "load ipadapter"],
            inputs=[
                io.Combo.Input(
                    "adapter_name",
                    options=adapter_names(),
                    tooltip="A file in models/bolid or models/ipadapter. If the list is empty, put one there "
                    "and press R.",
                ),
                io.Combo.Input(
                    "faceid_plus_version",
                    options=["v2", "v1"],
                    default="v2",
                    optional=True,
                    advanced=True,
                    tooltip="FaceID-plus files of both versions have the same tensors; this says which one it is. No "
                    "effect on other adapters.",
                ),
            ],
            outputs=[AdapterType.Output("adapter", tooltip="For BoLIDAdapterApply and SelfAttnAggregator.")],
        )

    @classmethod
    def validate_inputs(cls, adapter_name: str | None) -> bool | str:
        if adapter_name is None or adapter_name in adapter_names():
            return True
        return missing_adapter_message(adapter_name)

    @classmethod
    def fingerprint_inputs(cls, adapter_name: str | None, faceid_plus_version: str | None = "v2") -> str:
        # Training writes its adapter under the same name again.
        if adapter_name is None:
            return ""
        status = os.stat(adapter_path(adapter_name))
        return f"{status.st_mtime_ns} {status.st_size} {faceid_plus_version}"

    @classmethod
    def execute(cls, adapter_name: str, faceid_plus_version: str = "v2") -> io.NodeOutput:
        path = adapter_path(adapter_name)
        adapter = load_adapter(path, faceid_plus_shortcut=faceid_plus_version == "v2")
        return io.NodeOutput(adapter, ui=show_text(adapter_text(path, adapter)))


class BoLIDAdapterApply(io.ComfyNode):
    """Decoupled cross-attention: text, and the person."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        percent = {"min": 0.0, "max": 1.0, "step": 0.001}
        return io.Schema(
            node_id="BoLIDAdapterApply",
            display_name="Apply Adapter (BoLID)",
            category=CATEGORY,
            description="Adds the person in the reference photos to a model: the face, the body, or both. Nothing is "
            "computed until sampling starts, so changing a weight never encodes again.",
            search_aliases=["ip-adapter", "apply ipadapter", "faceid", "person", "identity", "face", "body", "pose"],
            inputs=[
                io.Model.Input("model", tooltip="An SD1.5 or SDXL model. It is not changed."),
                AdapterType.Input("adapter", tooltip="From BoLIDAdapterLoader; for the same base model family."),
                EmbedsType.Input(
                    "face", optional=True, tooltip="The photos, from PoolingAggregator or SelfAttnAggregator."
                ),
                io.Float.Input(
                    "face_weight",
                    default=1.0,
                    min=-1.0,
                    max=3.0,
                    step=0.05,
                    tooltip="How strongly the photos at 'face' act next to the text. 0: exactly as without them.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    tooltip="Where the face begins to act: 0 is pure noise, 1 the finished picture. Later: freer "
                    "composition. The body has a start of its own.",
                    **percent,
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    tooltip="Where the face ceases to act: 0 is pure noise, 1 the finished picture. Earlier: freer "
                    "details. The body has an end of its own.",
                    **percent,
                ),
                io.Mask.Input(
                    "attn_mask",
                    optional=True,
                    advanced=True,
                    tooltip="Where in the picture the face acts (white). One mask, or one per picture of the batch.",
                ),
                io.Combo.Input(
                    "weight_type",
                    options=list(WEIGHT_TYPES),
                    default="linear",
                    optional=True,
                    advanced=True,
                    tooltip="How face_weight is spread over the model's layers. 'style transfer' and 'composition' act "
                    "in the layers known for them only; the precise ones also lead away from the photos in the others "
                    "(cfg above 1).",
                ),
                io.String.Input(
                    "layer_weights",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Factor of face_weight per layer, e.g. 3:1.0, 6:0.5 (SD1.5: 0 to 15, SDXL: 0 to 10, in the "
                    "order in which they run). Replaces weight_type; layers that are not named get 0.",
                ),
                io.Combo.Input(
                    "embeds_scaling",
                    options=list(EMBEDS_SCALINGS),
                    default="V only",
                    optional=True,
                    advanced=True,
                    tooltip="What the weights multiply, in both branches. 'V only' is the published form; the others "
                    "also change how sharply the model looks at the photos ('C penalty': less in narrow layers).",
                ),
                io.Boolean.Input(
                    "skip_middle",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Leave out the middle block, in both branches: reproduces pictures made with "
                    "ComfyUI_IPAdapter_plus, which has not reached it since September 2024.",
                ),
                io.Float.Input(
                    "lora_strength",
                    default=1.0,
                    min=-2.0,
                    max=2.0,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip="Strength of the LoRA inside FaceID files; no separate LoRA file is needed. It acts during "
                    "the whole sampling run (start and end percent do not reach it) and is left out at face_weight 0.",
                ),
                BodyType.Input(
                    "body",
                    optional=True,
                    tooltip="The person's body, from BodyLandmarkEncoder. Needs an adapter with a body branch.",
                ),
                io.Float.Input(
                    "body_weight",
                    default=1.0,
                    min=-1.0,
                    max=3.0,
                    step=0.05,
                    optional=True,
                    tooltip="How strongly the body acts next to text and face. 0: exactly as without it.",
                ),
                io.Float.Input(
                    "body_start_percent",
                    default=0.0,
                    optional=True,
                    advanced=True,
                    tooltip="Where the body begins to act: 0 is pure noise, 1 the finished picture.",
                    **percent,
                ),
                io.Float.Input(
                    "body_end_percent",
                    default=1.0,
                    optional=True,
                    advanced=True,
                    tooltip="Where the body ceases to act: 0 is pure noise, 1 the finished picture. Body and pose are "
                    "settled early: an early end leaves details to text and face.",
                    **percent,
                ),
                io.Mask.Input(
                    "body_attn_mask",
                    optional=True,
                    advanced=True,
                    tooltip="Where in the picture the body acts (white). One mask, or one per picture of the batch.",
                ),
                io.Combo.Input(
                    "body_weight_type",
                    options=list(WEIGHT_TYPES),
                    default="linear",
                    optional=True,
                    advanced=True,
                    tooltip="How body_weight is spread over the model's layers, as weight_type does for the face.",
                ),
                io.String.Input(
                    "body_layer_weights",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Factor of body_weight per layer, as layer_weights does for the face.",
                ),
                io.Combo.Input(
                    "weight_schedule",
                    options=list(WEIGHT_SCHEDULES),
                    default="constant",
                    optional=True,
                    advanced=True,
                    tooltip="How the face's weight changes over the steps between start and end: 'ramp up' and 'ease "
                    "in' rise from 0, 'ramp down' and 'ease out' fall to 0 (straight or smooth), 'ease in-out' is "
                    "strongest in the middle, 'reverse in-out' weakest.",
                ),
                io.Combo.Input(
                    "body_weight_schedule",
                    options=list(WEIGHT_SCHEDULES),
                    default="constant",
                    optional=True,
                    advanced=True,
                    tooltip="How the body's weight changes from step to step, as weight_schedule does for the face.",
                ),
                EmbedsType.Input(
                    "face_negative",
                    optional=True,
                    advanced=True,
                    tooltip="Photos to lead away from: they take the place of the empty image on the unconditional "
                    "side. Made as those at 'face'. No effect at cfg 1.",
                ),
            ],
            outputs=[io.Model.Output("model", tooltip="For a sampler, or for another adapter.")],
        )

    @classmethod
    def execute(
        cls,
        model: comfy.model_patcher.ModelPatcher,
        adapter: LoadedAdapter,
        face_weight: float,
        start_percent: float,
        end_percent: float,
        face: Embeds | None = None,
        attn_mask: torch.Tensor | None = None,
        weight_type: str = "linear",
        layer_weights: str = "",
        embeds_scaling: str = "V only",
        skip_middle: bool = False,
        lora_strength: float = 1.0,
        body: Body | None = None,
        body_weight: float = 1.0,
        body_start_percent: float = 0.0,
        body_end_percent: float = 1.0,
        body_attn_mask: torch.Tensor | None = None,
        body_weight_type: str = "linear",
        body_layer_weights: str = "",
        weight_schedule: str = "constant",
        body_weight_schedule: str = "constant",
        face_negative: Embeds | None = None,
    ) -> io.NodeOutput:
        return io.NodeOutput(
            apply_adapter(
                model,
                adapter,
                face=face,
                face_settings=BranchSettings(
                    weight=face_weight,
                    start_percent=start_percent,
                    end_percent=end_percent,
                    mask=attn_mask,
                    weight_type=weight_type,
                    layer_weights=layer_weights,
                    weight_schedule=weight_schedule,
                ),
                face_negative=face_negative,
                body=body,
                body_settings=BranchSettings(
                    weight=body_weight,
                    start_percent=body_start_percent,
                    end_percent=body_end_percent,
                    mask=body_attn_mask,
                    weight_type=body_weight_type,
                    layer_weights=body_layer_weights,
                    weight_schedule=body_weight_schedule,
                ),
                embeds_scaling=embeds_scaling,
                skip_middle=skip_middle,
                lora_strength=lora_strength,
            )
        )


@dataclass(frozen=True, kw_only=True)
class BranchSettings:
    """What the inputs of a node say about one branch, see the inputs of BoLIDAdapterApply."""

    weight: float
    start_percent: float
    end_percent: float
    mask: torch.Tensor | None = None
    weight_type: str = "linear"
    layer_weights: str = ""
    weight_schedule: str = "constant"


def apply_adapter(
    model: comfy.model_patcher.ModelPatcher,
    adapter: LoadedAdapter,
    *,
    face: Embeds | None,
    face_settings: BranchSettings,
    face_negative: Embeds | None = None,
    body: Body | None,
    body_settings: BranchSettings,
    embeds_scaling: str = "V only",
    skip_middle: bool = False,
    lora_strength: float = 1.0,
) -> comfy.model_patcher.ModelPatcher:
    """A clone of `model` that samples with the face, the body, or both.

    Raises:
        ValueError: something is missing, does not fit, or would never act; the message says what mends it.
    """
    if face is None and body is None:
        raise ValueError(
            "Nothing to apply: connect the embeds of PoolingAggregator or SelfAttnAggregator to 'face', the body "
            "of BodyLandmarkEncoder to 'body', or both."
        )
    check_finite(lora_strength=lora_strength)
    _check_settings("", "face_weight", face_settings)
    _check_settings("body_", "body_weight", body_settings)
    addresses = layer_addresses(model)
    _check_model(adapter, addresses)
    make_branch = partial(_branch, addresses=addresses, skip_middle=skip_middle, embeds_scaling=embeds_scaling)
    module = adapter.adapter
    branches = []
    if face is not None:
        module.check_features(face)
    if face_negative is not None:
        face_negative = _negative(adapter, face, face_negative)
    if face is not None:
        tokens = partial(module.face_tokens, face, face_negative)
        branches.append(make_branch("face", tokens, module.ip_adapter, face_settings, prefix=""))
    if body is not None:
        _check_body_branch(adapter)
        module.check_body(body)
        tokens = partial(module.body_tokens, body)
        branches.append(make_branch("body", tokens, module.body_adapter, body_settings, prefix="body_"))
    model = attach(model, adapter, addresses, branches)
    if adapter.lora and lora_strength != 0 and face is not None and face_settings.weight != 0:
        add_faceid_lora(model, adapter, addresses, lora_strength)
    return model


def _branch(
    name: str,
    tokens: TokenSource,
    projections: torch.nn.ModuleDict,
    settings: BranchSettings,
    *,
    prefix: str,
    addresses: list[LayerAddress],
    skip_middle: bool,
    embeds_scaling: str,
) -> Branch:
    layers = [address.layer for address in addresses]
    transformer_weights = parse_transformer_weights(settings.layer_weights, prefix=prefix)
    return Branch(
        name=name,
        tokens=tokens,
        projections=projections,
        layer_weights=layer_weights(
            layers,
            settings.weight,
            weight_type=settings.weight_type,
            transformer_weights=transformer_weights,
            skip_middle=skip_middle,
            prefix=prefix,
        ),
        opposed_layers=opposed_layers(layers, settings.weight_type) if transformer_weights is None else frozenset(),
        start_percent=settings.start_percent,
        end_percent=settings.end_percent,
        weight_schedule=settings.weight_schedule,
        mask=masks(settings.mask),
        embeds_scaling=embeds_scaling,
    )


def masks(mask: torch.Tensor | None) -> torch.Tensor | None:
    """[m, H, W] of a mask that may lack its first dimension."""
    return None if mask is None else mask.reshape(-1, *mask.shape[-2:])


def _check_settings(prefix: str, weight: str, settings: BranchSettings) -> None:
    start, end = settings.start_percent, settings.end_percent
    check_finite(**{weight: settings.weight, f"{prefix}start_percent": start, f"{prefix}end_percent": end})
    if start > end:
        raise ValueError(
            f"{prefix}start_percent ({start}) is after {prefix}end_percent ({end}), so the branch "
            f"would never act. Exchange the two, or set {weight} to 0."
        )
    schedule = settings.weight_schedule
    if schedule not in WEIGHT_SCHEDULES:
        raise ValueError(f"Unknown {prefix}weight_schedule {schedule!r}; choose one of {', '.join(WEIGHT_SCHEDULES)}.")


def _negative(adapter: LoadedAdapter, face: Embeds | None, face_negative: Embeds) -> Embeds:
    """Photos to lead away from, as the adapter reads them: where it reads more than a face, nobody need be in them."""
    if face is None:
        raise ValueError(
            "face_negative is connected, but 'face' is not: there are photos to lead away from and none to lead to. "
            "Connect 'face' too, or disconnect face_negative."
        )
    layout = adapter.adapter.layout
    reads_both = layout.face_embed_dim is not None and layout.hidden_size is not None
    if reads_both and face_negative.face_embeds is None and face_negative.hidden_states is not None:
        nobody = torch.zeros(face_negative.hidden_states.shape[0], layout.face_embed_dim)
        face_negative = replace(face_negative, face_embeds=nobody)
    try:
        adapter.adapter.check_features(face_negative)
    except ValueError as error:
        raise ValueError(f"face_negative: {error}") from None
    return face_negative


def _check_body_branch(adapter: LoadedAdapter) -> None:
    if adapter.adapter.layout.body is None:
        raise ValueError(
            f"{adapter.name} has no body branch (it is a face adapter, as all public IP-Adapter files are), but a body "
            "is connected. Load a BoLID adapter with a body branch in BoLIDAdapterLoader, or disconnect 'body'."
        )


def check_finite(**numbers: float) -> None:
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise ValueError(f"{name} must be a finite number, got {number}.")


def _check_model(adapter: LoadedAdapter, addresses: list[LayerAddress]) -> None:
    layout = adapter.adapter.layout
    layers = {address.layer.index: address.layer.hidden_size for address in addresses}
    width = addresses[0].layer.cross_attention_dim
    if layers != layout.layers or width != layout.cross_attention_dim:
        raise ValueError(
            f"{adapter.name} was made for {_family(len(layout.layers), layout.cross_attention_dim)}, but the connected "
            f"model is {_family(len(layers), width)}. Choose an adapter for this model in BoLIDAdapterLoader, or load "
            "another checkpoint."
        )


def _family(layers: int, cross_attention_dim: int) -> str:
    name = FAMILIES.get((layers, cross_attention_dim), "another model family")
    return f"{name} ({layers} cross-attention layers, text width {cross_attention_dim})"
