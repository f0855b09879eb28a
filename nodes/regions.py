"""One person in one part of the picture."""

from __future__ import annotations

from typing import Any

import comfy.model_patcher
import torch
from comfy_api.v0_0_2 import io
from node_helpers import conditioning_set_values

from ..hosts.comfyui import LoadedAdapter
from ..models.body import Body
from ..models.references import Embeds
from .adapters import BranchSettings, apply_adapter, check_finite, masks
from .types import CATEGORY, AdapterType, BodyType, EmbedsType


class BoLIDRegion(io.ComfyNode):
    """A person, and what is said about this person, inside a mask; several in a row make a group."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        weight = {"default": 1.0, "min": -1.0, "max": 3.0, "step": 0.05, "optional": True}
        percent = {"min": 0.0, "max": 1.0, "step": 0.001, "optional": True, "advanced": True}
        return io.Schema(
            node_id="BoLIDRegion",
            display_name="Person in a Region (BoLID)",
            category=CATEGORY,
            description="Puts one person into one part of the picture, with a prompt of their own. Several in a row, "
            "each with its mask, draw several persons.",
            search_aliases=["regional", "two people", "several persons", "couple", "mask", "ip-adapter"],
            inputs=[
                io.Model.Input("model", tooltip="An SD1.5 or SDXL model, or that of the region before. Not changed."),
                AdapterType.Input("adapter", tooltip="From BoLIDAdapterLoader. Regions may share one."),
                io.Conditioning.Input(
                    "positive", tooltip="The prompt of the whole picture, or the positive of the region before."
                ),
                io.Mask.Input(
                    "mask",
                    tooltip="Where this person is (white). One mask, or one per picture of the batch. Where regions "
                    "overlap, both persons act.",
                ),
                io.Conditioning.Input(
                    "prompt",
                    optional=True,
                    tooltip="What is said about this person alone: acts inside the mask, beside the prompt of the "
                    "whole picture.",
                ),
                EmbedsType.Input(
                    "face", optional=True, tooltip="The photos, from PoolingAggregator or SelfAttnAggregator."
                ),
                BodyType.Input(
                    "body",
                    optional=True,
                    tooltip="The person's body, from BodyLandmarkEncoder. Needs an adapter with a body branch.",
                ),
                io.Float.Input(
                    "face_weight",
                    tooltip="How strongly the photos at 'face' act inside the mask. 0: exactly as without them.",
                    **weight,
                ),
                io.Float.Input(
                    "body_weight",
                    tooltip="How strongly the body acts inside the mask. 0: exactly as without it.",
                    **weight,
                ),
                io.Float.Input(
                    "prompt_strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    optional=True,
                    tooltip="Share of 'prompt' inside the mask; the prompt of the whole picture has 1. At 1 each has "
                    "half, at 3 this one has three quarters, at 0 it is left out.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    tooltip="Where the person begins to act: 0 is pure noise, 1 the finished picture. Not the prompt.",
                    **percent,
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    tooltip="Where the person ceases to act: 0 is pure noise, 1 the finished picture. Not the prompt.",
                    **percent,
                ),
            ],
            outputs=[
                io.Model.Output("model", tooltip="For a sampler, or for the next region."),
                io.Conditioning.Output("positive", tooltip="For the same sampler, or for the same next region."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: comfy.model_patcher.ModelPatcher,
        adapter: LoadedAdapter,
        positive: list[list[Any]],
        mask: torch.Tensor,
        prompt: list[list[Any]] | None = None,
        face: Embeds | None = None,
        body: Body | None = None,
        face_weight: float = 1.0,
        body_weight: float = 1.0,
        prompt_strength: float = 1.0,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
    ) -> io.NodeOutput:
        if not bool((mask > 0).any()):
            raise ValueError(
                "The mask of this region is empty, so the person would be nowhere. Paint a part of it white, or "
                "connect another mask: that of 'Load Image' is empty for a picture without transparency."
            )
        check_finite(prompt_strength=prompt_strength)
        mask = masks(mask)
        face_settings, body_settings = (
            BranchSettings(weight=weight, start_percent=start_percent, end_percent=end_percent, mask=mask)
            for weight in (face_weight, body_weight)
        )
        applied = apply_adapter(
            model,
            adapter,
            face=face,
            face_settings=face_settings,
            body=body,
            body_settings=body_settings,
        )
        if prompt is not None and prompt_strength != 0:
            # As 'Conditioning (Set Mask)' and 'Conditioning (Combine)' do.
            values = {"mask": mask, "set_area_to_bounds": False, "mask_strength": prompt_strength}
            positive = positive + conditioning_set_values(prompt, values)
        return io.NodeOutput(applied, positive)
