"""Several photos become one set of embeddings."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..models.pooling import POOLING_METHODS, pool
from ..models.references import References
from .reports import report_json
from .types import CATEGORY, EmbedsType, ReferencesType


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
            search_aliases=["average", "combine embeds", "max pooling", "avg", "ip-adapter", "multiple references"],
            inputs=[
                ReferencesType.Input("references", tooltip="From MultiRefImageEncoder."),
                io.Combo.Input(
                    "method",
                    options=list(POOLING_METHODS),
                    default="avg",
                    tooltip="avg: mean over the photos. max: strongest value of every feature. normalised_avg: mean of "
                    "directions, so that no photo dominates by its length. median: robust against a bad photo. stack: "
                    "no pooling, all photos' tokens side by side (sampling gets slower with every photo).",
                ),
                io.String.Input(
                    "photo_weights",
                    default="",
                    optional=True,
                    tooltip="One number ≥ 0 per loaded photo, e.g. 1, 1, 0.5. 0 leaves a photo out; for max and median "
                    "other values only say that it counts. Empty: all photos count the same.",
                ),
                io.Boolean.Input(
                    "rescale_norm",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Bring the result to the photos' mean length: max makes embeddings longer, avg shorter. "
                    "No effect with stack.",
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
        embeds = pool(
            references, method, photo_weights=parse_photo_weights(photo_weights), rescale_norm=rescale_norm
        )
        return io.NodeOutput(embeds, report_json(embeds.report, method=method))


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
