"""The public files that BoLID works with: where they come from, where they belong, and how a damaged one is told.

Sizes and checksums were taken from manifests that other projects publish of these files, and stand here only where at
least two that do not copy each other agree. What is not known stays None: the Hub then says it before it sends a file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Literal

from ..models.image_encoders import IMAGE_ENCODERS

Kind = Literal["adapter", "image encoder", "insightface pack", "pose model", "aesthetic model"]

RESEARCH_ONLY = "non-commercial research"


@dataclass(frozen=True, kw_only=True)
class Member:
    """A file of a pack; `is_needed`: BoLID does not work without it."""

    file: str
    size: int
    sha256: str
    is_needed: bool = False


@dataclass(frozen=True, kw_only=True)
class PublicFile:
    """One file to be downloaded.

    Attributes:
        name: what the commands call it.
        kind: what it is for.
        folder: where it belongs in ComfyUI's models folder, with forward slashes.
        file: its name there; of a pack the name of its folder.
        what: it is, for people.
        url: where it is, for whatever is not on the Hub.
        repository, revision, path: where it is on Hugging Face's Hub.
        size, sha256: of what is downloaded, which of a pack is its archive; None where they are not known.
        needs: names of the public files that it does not work without.
        licence: where it restricts the use.
        also_called: other file names, without endings, under which it is known to go around.
        members: of a pack: what its archive holds, each to lie in the pack's folder.
    """

    name: str
    kind: Kind
    folder: str
    file: str
    what: str
    url: str = ""
    repository: str = ""
    revision: str = ""
    path: str = ""
    size: int | None = None
    sha256: str | None = None
    needs: tuple[str, ...] = ()
    licence: str = ""
    also_called: tuple[str, ...] = ()
    members: tuple[Member, ...] = ()

    @property
    def source(self) -> str:
        """Its address; on the Hub that of huggingface.co, whatever mirror is set."""
        return self.url or f"https://huggingface.co/{self.repository}/resolve/{self.revision}/{self.path}"

    def target(self, models: Path) -> Path:
        """Where it belongs, in this models folder."""
        return models / self.folder / self.file


def _adapter(
    file: str,
    what: str,
    *,
    repository: str,
    revision: str,
    folder: str = "",
    needs: tuple[str, ...],
    size: int | None = None,
    sha256: str | None = None,
    licence: str = "",
    also_called: tuple[str, ...] = (),
) -> PublicFile:
    return PublicFile(
        name=Path(file).stem,
        kind="adapter",
        folder="ipadapter",
        file=file,
        what=what,
        repository=repository,
        revision=revision,
        path=folder + file,
        needs=needs,
        size=size,
        sha256=sha256,
        licence=licence,
        also_called=also_called,
    )


def _ip_adapter(
    file: str,
    what: str,
    size: int,
    sha256: str,
    *,
    encoder: str = "clip-vit-h",
    also_called: tuple[str, ...] = (),
) -> PublicFile:
    """A file of h94/IP-Adapter (Apache-2.0)."""
    return _adapter(
        file,
        what,
        repository=IP_ADAPTER[0],
        revision=IP_ADAPTER[1],
        folder="sdxl_models/" if "sdxl" in file else "models/",
        needs=(encoder,),
        size=size,
        sha256=sha256,
        also_called=also_called,
    )


def _faceid(
    file: str, what: str, size: int | None = None, sha256: str | None = None, *, encoder: tuple[str, ...] = ()
) -> PublicFile:
    """A file of h94/IP-Adapter-FaceID, whose author gives it for research because insightface's models are."""
    return _adapter(
        file,
        what,
        repository=IP_ADAPTER_FACEID[0],
        revision=IP_ADAPTER_FACEID[1],
        needs=(*encoder, "buffalo_l"),
        size=size,
        sha256=sha256,
        licence=RESEARCH_ONLY,
    )


def _image_encoder(
    name: str,
    file: str,
    size: int,
    sha256: str,
    *,
    repository: tuple[str, str],
    path: str,
    also_called: tuple[str, ...],
) -> PublicFile:
    (encoder,) = [encoder for encoder in IMAGE_ENCODERS if encoder.name == name]
    return PublicFile(
        name=name,
        kind="image encoder",
        folder="clip_vision",
        file=file,
        what=f"{encoder.title}, image encoder",
        repository=repository[0],
        revision=repository[1],
        path=path,
        size=size,
        sha256=sha256,
        also_called=also_called,
    )


def _insightface_pack(name: str, what: str, size: int, sha256: str, members: tuple[Member, ...]) -> PublicFile:
    return PublicFile(
        name=name,
        kind="insightface pack",
        folder="insightface/models",
        file=name,
        what=what,
        url=f"https://github.com/deepinsight/insightface/releases/download/v0.7/{name}.zip",
        size=size,
        sha256=sha256,
        licence=RESEARCH_ONLY,
        members=members,
    )


def _pose_landmarker(variant: str, size: int, sha256: str) -> PublicFile:
    """Version 1 of a model of Google's (Apache-2.0); `latest` in its place may become another file."""
    name = f"pose_landmarker_{variant}"
    return PublicFile(
        name=name,
        kind="pose model",
        folder="mediapipe",
        file=f"{name}.task",
        what=f"mediapipe's pose model, {variant}; for a mediapipe that carries none",
        url=f"https://storage.googleapis.com/mediapipe-models/pose_landmarker/{name}/float16/1/{name}.task",
        size=size,
        sha256=sha256,
    )


IP_ADAPTER = ("h94/IP-Adapter", "018e402774aeeddd60609b4ecdb7e298259dc729")
IP_ADAPTER_FACEID = ("h94/IP-Adapter-FaceID", "43907e6f44d079bf1a9102d9a6e56aef7a219bae")
CLIP_VIT_L = ("openai/clip-vit-large-patch14", "32bd64288804d66eefd0ccbe215aa642df71cc41")

# The packs share three networks, and their detector under two names.
_LANDMARKS_3D = Member(
    file="1k3d68.onnx",
    size=143_607_619,
    sha256="df5c06b8a0c12e422b2ed8947b8869faa4105387f199c477af038aa01f9a45cc",
)
_LANDMARKS_2D = Member(
    file="2d106det.onnx",
    size=5_030_888,
    sha256="f001b856447c413801ef5c42091ed0cd516fcd21f2d6b79635b1e733a7109dbf",
)
_GENDER_AGE = Member(
    file="genderage.onnx",
    size=1_322_532,
    sha256="4fde69b1c810857b88c64a335084f1c3fe8f01246c9a191b48c7bb756d6652fb",
)
_DETECTOR_SIZE = 16_923_827
_DETECTOR_SHA256 = "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91"

PUBLIC_FILES: tuple[PublicFile, ...] = (
    _ip_adapter(
        "ip-adapter_sd15.safetensors",
        "SD1.5, base",
        44_642_768,
        "289b45f16d043d0bf542e45831f971dcdaabe18b656f11e86d9dfba7e9ee3369",
    ),
    _ip_adapter(
        "ip-adapter_sd15_light.safetensors",
        "SD1.5, base, light",
        44_642_768,
        "0747d08db670535bfa286452a77d93cebad5c677b46d038543f9f2de8690bb26",
    ),
    _ip_adapter(
        "ip-adapter_sd15_light_v11.bin",
        "SD1.5, base, light, second version",
        44_642_977,
        "350b63a57847c163e2e984b01090f85ffe60eaae20f32b2b2c9e1ccc7ddd972b",
        also_called=("sd15_light_v11",),
    ),
    _ip_adapter(
        "ip-adapter_sd15_vit-G.safetensors",
        "SD1.5, base, for the larger image encoder",
        46_215_640,
        "a26f736af07bb341a83dfea23713531d0575760e8ed947c68cb31a4c62d9c90b",
        encoder="clip-vit-bigg",
    ),
    _ip_adapter(
        "ip-adapter-plus_sd15.safetensors",
        "SD1.5, plus",
        98_183_288,
        "a1c250be40455cc61a43da1201ec3f1edaea71214865fb47f57927e06cbe4996",
    ),
    _ip_adapter(
        "ip-adapter-plus-face_sd15.safetensors",
        "SD1.5, plus, trained on faces",
        98_183_288,
        "1c9edc21af6f737dc1d6e0e734190e976cfacf802d6b024b77aa3be922f7569b",
    ),
    _ip_adapter(
        "ip-adapter-full-face_sd15.safetensors",
        "SD1.5, full-face",
        43_592_352,
        "f4a17fb643bf876235a45a0e87a49da2855be6584b28ca04c62a97ab5ff1c6f3",
        also_called=("full_face_sd15",),
    ),
    _ip_adapter(
        "ip-adapter_sdxl_vit-h.safetensors",
        "SDXL, base",
        698_391_064,
        "ebf05d918348aec7abb02a5e9ecef77e0aaea6914a5c4ea13f50d45eb1681831",
    ),
    _ip_adapter(
        "ip-adapter_sdxl.safetensors",
        "SDXL, base, for the larger image encoder",
        702_585_376,
        "ba1002529e783604c5f326d49f0122025392d1d20ac8d573b3eeb3e6dea4ebb6",
        encoder="clip-vit-bigg",
    ),
    _ip_adapter(
        "ip-adapter-plus_sdxl_vit-h.safetensors",
        "SDXL, plus",
        847_517_512,
        "3f5062b8400c94b7159665b21ba5c62acdcd7682262743d7f2aefedef00e6581",
    ),
    _ip_adapter(
        "ip-adapter-plus-face_sdxl_vit-h.safetensors",
        "SDXL, plus, trained on faces",
        847_517_512,
        "677ad8860204f7d0bfba12d29e6c31ded9beefdf3e4bbd102518357d31a292c1",
    ),
    _faceid(
        "ip-adapter-faceid_sd15.bin",
        "SD1.5, FaceID",
        96_740_574,
        "201344e22e6f55849cf07ca7a6e53d8c3b001327c66cb9710d69fd5da48a8da7",
    ),
    _faceid("ip-adapter-faceid-plus_sd15.bin", "SD1.5, FaceID-plus, version 1", encoder=("clip-vit-h",)),
    _faceid(
        "ip-adapter-faceid-plusv2_sd15.bin",
        "SD1.5, FaceID-plus, version 2",
        156_558_509,
        "26d0d86a1d60d6cc811d3b8862178b461e1eeb651e6fe2b72ba17aa95411e313",
        encoder=("clip-vit-h",),
    ),
    _faceid("ip-adapter-faceid-portrait_sd15.bin", "SD1.5, FaceID-portrait, first version"),
    _faceid(
        "ip-adapter-faceid-portrait-v11_sd15.bin",
        "SD1.5, FaceID-portrait",
        64_586_623,
        "a48cb4f89ed18e02c6000f65aa9efec452e87eaed4a1bc9fcf4a460c8d0e3bc6",
    ),
    _faceid(
        "ip-adapter-faceid_sdxl.bin",
        "SDXL, FaceID",
        None,
        "f455fed24e207c878ec1e0466b34a969d37bab857c5faa4e8d259a0b4ff63d7e",
    ),
    _faceid(
        "ip-adapter-faceid-plusv2_sdxl.bin",
        "SDXL, FaceID-plus, version 2",
        1_487_555_181,
        "c6945d82b543700cc3ccbb98d363b837e9c596281607857c74b713a876daf5fb",
        encoder=("clip-vit-h",),
    ),
    _faceid(
        "ip-adapter-faceid-portrait_sdxl.bin",
        "SDXL, FaceID-portrait",
        749_822_515,
        "5631ce7824cdafd2db37c5e85b985730a95ff59c5b4fc80c2b79b0bee5711512",
    ),
    _image_encoder(
        "clip-vit-h",
        "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors",
        2_528_373_448,
        "6ca9667da1ca9e0b0f75e46bb030f7e011f44f86cbfb8d5a36590fcd7507b030",
        repository=IP_ADAPTER,
        path="models/image_encoder/model.safetensors",
        also_called=("clip-vision_vit-h", "clip_vision_h", "clip_vision_vit_h"),
    ),
    _image_encoder(
        "clip-vit-bigg",
        "CLIP-ViT-bigG-14-laion2B-39B-b160k.safetensors",
        3_689_912_664,
        "657723e09f46a7c3957df651601029f66b1748afb12b419816330f16ed45d64d",
        repository=IP_ADAPTER,
        path="sdxl_models/image_encoder/model.safetensors",
        also_called=("clip-vision_vit-g", "clip-vision_vit-bigg", "clip_vision_vit_bigg"),
    ),
    _image_encoder(
        "clip-vit-l",
        "clip-vit-large-patch14.safetensors",
        1_710_540_580,
        "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
        repository=CLIP_VIT_L,
        path="model.safetensors",
        also_called=("clip-vision_vit-l", "clip_vit_l"),
    ),
    _insightface_pack(
        "buffalo_l",
        "insightface, the pack of the public FaceID adapters",
        288_621_354,
        "80ffe37d8a5940d59a7384c201a2a38d4741f2f3c51eef46ebb28218a7b0ca2f",
        (
            _LANDMARKS_3D,
            _LANDMARKS_2D,
            Member(file="det_10g.onnx", size=_DETECTOR_SIZE, sha256=_DETECTOR_SHA256, is_needed=True),
            _GENDER_AGE,
            Member(
                file="w600k_r50.onnx",
                size=174_383_860,
                sha256="4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
                is_needed=True,
            ),
        ),
    ),
    _insightface_pack(
        "antelopev2",
        "insightface, with a larger recognition network",
        360_662_982,
        "8e182f14fc6e80b3bfa375b33eb6cff7ee05d8ef7633e738d1c89021dcf0c5c5",
        (
            _LANDMARKS_3D,
            _LANDMARKS_2D,
            _GENDER_AGE,
            Member(
                file="glintr100.onnx",
                size=260_665_334,
                sha256="4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf",
                is_needed=True,
            ),
            Member(file="scrfd_10g_bnkps.onnx", size=_DETECTOR_SIZE, sha256=_DETECTOR_SHA256, is_needed=True),
        ),
    ),
    _pose_landmarker("lite", 5_777_746, "59929e1d1ee95287735ddd833b19cf4ac46d29bc7afddbbf6753c459690d574a"),
    _pose_landmarker("full", 9_398_198, "5134a3aad27a58b93da0088d431f366da362b44e3ccfbe3462b3827a839011b1"),
    _pose_landmarker("heavy", 30_664_242, "64437af838a65d18e5ba7a0d39b465540069bc8aae8308de3e318aad31fcbc7b"),
    PublicFile(
        name="laion-aesthetic",
        kind="aesthetic model",
        folder="aesthetic",
        file="sac+logos+ava1-l14-linearMSE.pth",
        what="LAION's aesthetic predictor, for BoLIDRankImages",
        url="https://raw.githubusercontent.com/christophschuhmann/improved-aesthetic-predictor/"
        "6934dd81792f086e613a121dbce43082cb8be85e/sac%2Blogos%2Bava1-l14-linearMSE.pth",
        size=3_714_759,
        sha256="21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
        needs=("clip-vit-l",),
    ),
)

_BY_NAME = {name.lower(): file for file in PUBLIC_FILES for name in (file.name, file.file)}


def named(name: str) -> PublicFile | None:
    """The public file that a command's argument means: its short name or its file name, in any case."""
    return _BY_NAME.get(name.lower())


def probable(name: str, kind: Kind) -> PublicFile | None:
    """The public file that a file name in a graph probably means.

    Folders, the ending, the order of the words and what is between them do not count: SD1.5/IPAdapter_plus_sd15.bin is
    ip-adapter-plus_sd15.safetensors.
    """
    exact = named(_basename(name))
    if exact is not None and exact.kind == kind:
        return exact
    wanted = _words(name)
    for file in PUBLIC_FILES:
        if file.kind == kind and any(_words(known) == wanted for known in (file.name, file.file, *file.also_called)):
            return file
    return None


def _basename(name: str) -> str:
    # Graphs come from Windows as well; its rules take both kinds of slashes.
    return PureWindowsPath(name).name


def _words(name: str) -> frozenset[str]:
    stem = re.sub(r"\.(safetensors|sft|bin|pth|pt|ckpt|task)$", "", _basename(name).lower())
    stem = re.sub(r"\s*\(\d+\)$", "", stem)  # how browsers name a second download
    return frozenset(re.split(r"[-_. +]+", re.sub(r"ip[-_ ]?adapter", "ipadapter", stem)))


def readable_size(size: int | None) -> str:
    """98183288 → "98.2 MB"."""
    if size is None:
        return "size not known"
    value = float(size)
    for unit in ("bytes", "kB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"
