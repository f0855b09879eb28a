"""The nodes: this file is their table of contents."""

from comfy_api.v0_0_2 import ComfyExtension, io

from .adapters import BoLIDAdapterApply, BoLIDAdapterLoader
from .aggregation import PoolingAggregator, SelfAttnAggregator
from .body import BodyLandmarkEncoder
from .demo import BoLIDDemoModelLoader
from .encoding import BoLIDFaceAnalysisLoader, MultiRefImageEncoder
from .model_folders import register_model_folders
from .photos import BoLIDLoadReferences
from .ranking import BoLIDRankImages

NODES: list[type[io.ComfyNode]] = [
    BoLIDLoadReferences,
    BoLIDFaceAnalysisLoader,
    MultiRefImageEncoder,
    PoolingAggregator,
    SelfAttnAggregator,
    BodyLandmarkEncoder,
    BoLIDAdapterLoader,
    BoLIDAdapterApply,
    BoLIDRankImages,
    BoLIDDemoModelLoader,
]


class BolidExtension(ComfyExtension):
    """What ComfyUI loads."""

    async def on_load(self) -> None:
        register_model_folders()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
