"""The nodes: this file is their table of contents."""

from comfy_api.v0_0_2 import ComfyExtension, io

from .adapters import BoLIDAdapterApply, BoLIDAdapterLoader
from .aggregation import PoolingAggregator, SelfAttnAggregator
from .body import BodyLandmarkEncoder
from .demo import BoLIDDemoModelLoader
from .demo_people import BoLIDDemoPhotos, BoLIDDemoPoseDetector
from .embeds_files import BoLIDLoadEmbeds, BoLIDSaveEmbeds
from .encoding import MultiRefImageEncoder
from .faces import BoLIDDetectFaces, BoLIDFaceAnalysisLoader
from .model_folders import register_model_folders
from .noise import BoLIDNoiseReference
from .photos import BoLIDLoadReferences
from .ranking import BoLIDRankImages
from .regions import BoLIDRegion

NODES: list[type[io.ComfyNode]] = [
    BoLIDLoadReferences,
    BoLIDFaceAnalysisLoader,
    BoLIDDetectFaces,
    MultiRefImageEncoder,
    PoolingAggregator,
    SelfAttnAggregator,
    BoLIDSaveEmbeds,
    BoLIDLoadEmbeds,
    BoLIDNoiseReference,
    BodyLandmarkEncoder,
    BoLIDAdapterLoader,
    BoLIDAdapterApply,
    BoLIDRegion,
    BoLIDRankImages,
    BoLIDDemoModelLoader,
    BoLIDDemoPhotos,
    BoLIDDemoPoseDetector,
]


class BolidExtension(ComfyExtension):
    """What ComfyUI loads."""

    async def on_load(self) -> None:
        register_model_folders()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
