"""A model that needs no download."""

from __future__ import annotations

import torch
from comfy_api.v0_0_2 import io

from .demo_model import demo_adapter, demo_image_encoder, demo_model, demo_text_encoder, demo_vae
from .types import CATEGORY, AdapterType

METHODS = ("ip_adapter", "self_attention", "bolid")
WEIGHTS_SEED = 20


class BoLIDDemoModelLoader(io.ComfyNode):
    """A complete small model with an adapter."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BoLIDDemoModelLoader",
            display_name="Load Demo Model (BoLID)",
            category=CATEGORY,
            description="A small model with an adapter, to try a graph with no download. Its weights are random: it "
            "answers to prompt and photos, but draws patterns, not people. For pictures of people use 'Load "
            "Checkpoint', 'Load CLIP Vision' and 'Load Adapter (BoLID)' instead.",
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
        generator = torch.Generator().manual_seed(WEIGHTS_SEED)
        model = demo_model(generator)
        return io.NodeOutput(
            model,
            demo_text_encoder(generator),
            demo_vae(generator),
            demo_image_encoder(generator),
            demo_adapter(generator, model, method),
        )
