"""Several photos become one set of embeddings."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..hosts.comfyui import LoadedAdapter, loaded_device
from ..models.pooling import POOLING_METHODS, pool
from ..models.references import References
from ..models.self_attention import PHOTOS, aggregate
from .reports import report_json
from .types import CATEGORY, AdapterType, EmbedsType, ReferencesType


class PoolingAggregator(io.ComfyNode):
    """Pool reference photos without training."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PoolingAggregator",
            display_name="Pool Reference Photos (BoLID)",
            category=CATEGORY,
            description="Combines the encoded photos of one person into one set of embeddings. Needs no training and "
            "works with every IP-Adapter.",
            search_aliases=[
                "average",
                "combine embeds",
                "max pooling",
                "avg",
                "ip-adapter",
                "multiple references",
                "unfold batch",
                "ipadapter batch",
                "animation",
            ],
            inputs=[
                ReferencesType.Input("references", tooltip="From MultiRefImageEncoder."),
                io.Combo.Input(
                    "method",
                    options=list(POOLING_METHODS),
                    default="avg",
                    tooltip="avg: mean over the photos. max: strongest value of every feature. normalised_avg: mean of "
                    "directions, so that no photo dominates by its length. median: robust against a bad photo. stack: "
                    "no pooling, all photos' tokens side by side (sampling gets slower with every photo). per_picture: "
                    "one photo for each picture of the batch, as for animation; the last one serves all that follow.",
                ),
                io.String.Input(
                    "photo_weights",
                    default="",
                    optional=True,
                    tooltip="One number ≥ 0 per loaded photo, e.g. 1, 1, 0.5. 0 leaves a photo out; for max, median "
                    "and per_picture other values only say that it counts. Empty: all photos count the same.",
                ),
                io.Boolean.Input(
                    "rescale_norm",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Bring the result to the photos' mean length: max makes embeddings longer, avg shorter. "
                    "No effect with stack and per_picture.",
                ),
            ],
            outputs=[
                EmbedsType.Output("embeds", tooltip="For BoLIDAdapterApply."),
                io.String.Output("report", tooltip="JSON: what became of every photo."),
            ],
        )

    @classmethod
    def execute(
        cls, references: References, method: str, photo_weights: str = "", rescale_norm: bool = False
    ) -> io.NodeOutput:
        embeds = pool(references, method, photo_weights=parse_photo_weights(photo_weights), rescale_norm=rescale_norm)
        return io.NodeOutput(embeds, report_json(embeds.report, method=method))


class SelfAttnAggregator(io.ComfyNode):
    """Combine reference photos by trained self-attention."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SelfAttnAggregator",
            display_name="Self-Attention over Photos (BoLID)",
            category=CATEGORY,
            description=f"Combines the encoded photos of one person by self-attention over {PHOTOS} photos: the "
            "trained alternative to pooling. The adapter file must carry an aggregator.",
            search_aliases=["self-attention", "combine embeds", "aggregator", "ip-adapter", "multiple references"],
            inputs=[
                ReferencesType.Input("references", tooltip="From MultiRefImageEncoder."),
                AdapterType.Input("adapter", tooltip="From BoLIDAdapterLoader: the one that is applied afterwards."),
                io.Int.Input(
                    "fill_seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    step=1,
                    optional=True,
                    tooltip=f"The aggregator has {PHOTOS} places. With fewer photos the others are filled with "
                    "repetitions, drawn with this seed; of more photos the first ones are used.",
                ),
            ],
            outputs=[
                EmbedsType.Output("embeds", tooltip="For BoLIDAdapterApply, with the same adapter."),
                io.String.Output("report", tooltip="JSON: which photos were kept, repeated and dropped."),
            ],
        )

    @classmethod
    def execute(cls, references: References, adapter: LoadedAdapter, fill_seed: int = 0) -> io.NodeOutput:
        module = adapter.adapter
        if module.aggregator is None:
            raise ValueError(
                f"{adapter.name} carries no self-attention aggregator (public IP-Adapter files never do). Load a BoLID "
                "adapter that was trained with one in BoLIDAdapterLoader, or use PoolingAggregator instead."
            )
        module.check_features(references)
        embeds = aggregate(references, module.aggregator, fill_seed=fill_seed, device=loaded_device(adapter))
        return io.NodeOutput(embeds, report_json(embeds.report, fill_seed=fill_seed))


def parse_photo_weights(text: str) -> list[float] | None:
    """Parse "1, 1, 0.5"; None for an empty text.

    Raises:
        ValueError: something else than numbers.
    """
    parts = text.replace(",", " ").replace(";", " ").split()
    try:
        return [float(part) for part in parts] or None
    except ValueError:
        raise ValueError(f"photo_weights must be numbers such as '1, 1, 0.5', got {text!r}.") from None
