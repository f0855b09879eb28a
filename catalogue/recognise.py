"""What a model file is, by its content. Weights stay on the disk: files are memory-mapped."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from ..models.adapter import AdapterLayout
from ..models.adapter_file import read_adapter
from ..models.checkpoint import read_state_dict
from ..models.image_encoders import IMAGE_ENCODERS, ImageEncoder
from .public_files import PUBLIC_FILES, Kind

FAMILIES = {(16, 768): "SD1.5", (16, 1024): "SD2", (70, 2048): "SDXL"}
"""By the number of cross-attention layers and the width of the text."""

POSE_NETWORKS = ("pose_detector.tflite", "pose_landmarks_detector.tflite")
"""What a pose_landmarker .task file holds."""

_LAYOUTS = {"base": "base", "plus": "plus", "full_face": "full-face", "faceid": "FaceID", "faceid_plus": "FaceID-plus"}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a file is.

    Attributes:
        kind: as in `PublicFile`.
        what: in a line, for people.
        needs: what it does not work without, for people.
        details: the same in parts, for programs.
    """

    kind: Kind
    what: str
    needs: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)


def recognise(path: Path, kind: Kind) -> Facts:
    """What lies there: a file, or of an insightface pack a folder.

    Raises:
        ValueError: nothing of that kind; the message says what it is, or what is wrong.
        OSError: it cannot be read.
    """
    if kind != "adapter":
        return _OTHERS[kind](path)
    file = read_adapter(path)
    is_own = file.config is not None
    return adapter_facts(
        file.adapter.layout, has_lora=bool(file.lora), written_by_bolid=is_own, is_version_known=is_own
    )


def adapter_facts(layout: AdapterLayout, *, has_lora: bool, written_by_bolid: bool, is_version_known: bool) -> Facts:
    """What an adapter is, by its layout.

    Args:
        layout: of the adapter.
        has_lora: whether its file carries FaceID's LoRA.
        written_by_bolid: whether the file describes itself, see `models.adapter_file`.
        is_version_known: whether `layout` says rightly which version of FaceID-plus it is; public files do not.
    """
    family = FAMILIES.get((len(layout.layers), layout.cross_attention_dim), "another model family")
    encoder = _encoder_of(layout)
    needs = [encoder.title if encoder else "the image encoder it was trained with"]
    if layout.image_embed_dim is None and layout.hidden_size is None:
        needs = []
    if layout.face_embed_dim is not None:
        needs.append("insightface")
    parts = {
        "self-attention aggregator": layout.aggregator_depth > 0,
        "body branch": layout.body is not None,
        "LoRA": has_lora,
    }
    tokens = "one token per hidden state" if layout.num_tokens is None else f"{layout.num_tokens} tokens per photo"
    words = (family, _layout_name(layout, is_version_known), tokens, *(part for part, has in parts.items() if has))
    return Facts(
        kind="adapter",
        what=("BoLID, " if written_by_bolid else "") + ", ".join(words),
        needs=tuple(needs),
        details={
            "family": family,
            "layout": layout.kind,
            "tokens": layout.num_tokens,
            "features": layout.feature_widths,
            "written_by_bolid": written_by_bolid,
            "aggregator": layout.aggregator_depth > 0,
            "body": layout.body is not None,
            "lora": has_lora,
        },
    )


def _layout_name(layout: AdapterLayout, is_version_known: bool) -> str:
    name = _LAYOUTS[layout.kind]
    if layout.kind == "faceid" and layout.num_tokens == 16:
        return "FaceID-portrait"
    if layout.kind != "faceid_plus":
        return name
    return f"{name} {'v2' if layout.shortcut else 'v1'}" if is_version_known else f"{name} v1 or v2"


def _encoder_of(layout: AdapterLayout) -> ImageEncoder | None:
    for encoder in IMAGE_ENCODERS:
        if encoder.image_embed_dim == layout.image_embed_dim or encoder.hidden_size == layout.hidden_size:
            return encoder
    return None


def _image_encoder(path: Path) -> Facts:
    tensors = read_state_dict(path)
    # transformers' names, and open_clip's with the projection the other way round.
    hidden_size = _width(tensors, r"vision_model\.embeddings\.class_embedding", -1)
    hidden_size = hidden_size or _width(tensors, r"visual\.class_embedding", -1)
    embed_dim = _width(tensors, r"visual_projection\.weight", 0) or _width(tensors, r"visual\.proj", 1)
    if hidden_size is None:
        if any(".patch_embed" in key for key in tensors):
            return Facts(kind="image encoder", what="an image encoder that no public IP-Adapter reads")
        names = ", ".join(sorted(tensors)[:4]) or "nothing at all"
        raise ValueError(f"{path.name} is no image encoder that BoLID knows; its tensors are named {names} …")
    title = next(
        (
            encoder.title
            for encoder in IMAGE_ENCODERS
            if encoder.hidden_size == hidden_size and embed_dim in (None, encoder.image_embed_dim)
        ),
        "another image encoder",
    )
    widths = f"hidden states {hidden_size}" + (f", image embeddings {embed_dim}" if embed_dim else "")
    return Facts(
        kind="image encoder",
        what=f"{title}, {widths}",
        details={"encoder": title, "hidden_size": hidden_size, "image_embed_dim": embed_dim},
    )


def _width(tensors: Mapping[str, torch.Tensor], name: str, axis: int) -> int | None:
    found = (tensor.shape for key, tensor in tensors.items() if re.search(rf"(?:^|\.){name}$", key))
    return next((shape[axis] for shape in found if shape), None)


def _insightface_pack(folder: Path) -> Facts:
    files = sorted(path.name for path in folder.glob("*.onnx"))
    if not files:
        below = sorted(path.parent.name for path in folder.glob("*/*.onnx"))
        if below:
            raise ValueError(
                f"The files of the insightface pack {folder.name} lie one level too deep, in {below[0]}. Move them up."
            )
        raise ValueError(f"The insightface pack {folder.name} has no .onnx files. Download the pack again.")
    public = next((file for file in PUBLIC_FILES if file.kind == "insightface pack" and file.file == folder.name), None)
    for member in public.members if public else ():
        if member.file not in files and member.is_needed:
            raise ValueError(f"The insightface pack {folder.name} lacks {member.file}. Download the pack again.")
        if member.file not in files:
            continue
        size = (folder / member.file).stat().st_size
        if size != member.size:
            raise ValueError(
                f"{member.file} of the insightface pack {folder.name} has {size:,} bytes, not {member.size:,}: it may "
                "be an incomplete download. Download the pack again."
            )
    return Facts(
        kind="insightface pack",
        what=public.what if public else f"insightface pack of {len(files)} networks",
        details={"files": files},
    )


def _pose_model(path: Path) -> Facts:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"{path.name} is no .task file ({error}). It may be an incomplete download: it has "
            f"{path.stat().st_size:,} bytes; download it again."
        ) from error
    if not set(POSE_NETWORKS) <= set(names):
        raise ValueError(f"{path.name} is no pose landmarker; it holds {', '.join(names[:4])}.")
    return Facts(kind="pose model", what="mediapipe pose landmarker")


def _aesthetic_model(path: Path) -> Facts:
    # The weights of LAION's predictors, in the order of the layers; nodes/aesthetic_head.py reads them.
    tensors = read_state_dict(path)
    weights = [tensor.shape for key, tensor in sorted(tensors.items(), key=_layer) if tensor.ndim == 2]
    fit = all(first[0] == second[1] for first, second in pairwise(weights))
    if len(weights) not in (1, 5) or len(tensors) != 2 * len(weights) or not fit or weights[-1][0] != 1:
        names = ", ".join(sorted(tensors)[:4]) or "nothing at all"
        raise ValueError(f"{path.name} is no aesthetic model that BoLID knows; its tensors are named {names} …")
    width = weights[0][1]
    encoder = next((encoder.title for encoder in IMAGE_ENCODERS if encoder.image_embed_dim == width), None)
    return Facts(
        kind="aesthetic model",
        what="LAION's aesthetic predictor" if len(weights) == 5 else "aesthetic model of one layer",
        needs=(encoder or f"an image encoder with embeddings of width {width}",),
        details={"image_embed_dim": width},
    )


def _layer(item: tuple[str, torch.Tensor]) -> tuple[int, str]:
    """Sorts layers.10 after layers.2."""
    number = re.search(r"(\d+)", item[0])
    return (int(number[1]) if number else 0, item[0])


_OTHERS: dict[str, Callable[[Path], Facts]] = {
    "image encoder": _image_encoder,
    "insightface pack": _insightface_pack,
    "pose model": _pose_model,
    "aesthetic model": _aesthetic_model,
}
