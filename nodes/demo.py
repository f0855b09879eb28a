"""A model that needs no download."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..hosts.comfyui import load_adapter
from .types import CATEGORY, AdapterType
from .world_model import WEIGHTS, world_image_encoder, world_model, world_text_encoder, world_vae

METHODS = ("ip_adapter", "self_attention", "bolid")


class BoLIDDemoModelLoader(io.ComfyNode):
    """A complete small model with an adapter."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BoLIDDemoModelLoader",
            display_name="Load Demo Model (BoLID)",
            category=CATEGORY,
            description="A small model of drawn people with an adapter, to try a graph with no download. It knows the "
            "world of 'Demo Photos (BoLID)' alone, in pictures of 128×128. For photos use 'Load Checkpoint', 'Load "
            "CLIP Vision' and 'Load Adapter (BoLID)' instead.",
            search_aliases=["example model", "test model", "tiny model"],
            inputs=[
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="ip_adapter",
                    tooltip="Which adapter comes with the model. ip_adapter: a base IP-Adapter. self_attention: the "
                    "same with an aggregator for SelfAttnAggregator. bolid: with an aggregator and a body branch.",
                )
            ],
            outputs=[
                io.Model.Output("model"),
                io.Clip.Output("clip"),
                io.Vae.Output("vae"),
                io.ClipVision.Output("clip_vision"),
                AdapterType.Output("adapter"),
            ],
        )

    @classmethod
    def execute(cls, method: str) -> io.NodeOutput:
        return io.NodeOutput(
            world_model(),
            world_text_encoder(),
            world_vae(),
            world_image_encoder(),
            load_adapter(WEIGHTS / f"{method}.safetensors"),
        )
