"""The adapters of the methods: whether they can be drawn with, and one of them in memory at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..hosts.diffusers import cross_attention_layers
from ..models.adapter import Adapter, AdapterLayout
from ..models.adapter_file import read_adapter
from ..training.base import Denoiser, image_encoder_config
from ..training.fingerprint import file_hash
from .config import EvaluationSettings, MethodSettings


@dataclass(frozen=True, kw_only=True)
class AdapterFacts:
    """What is known of an adapter file without keeping it in memory.

    Attributes:
        layout: every size.
        sha256: of the file.
        trained_with: settings of its training, by the config's keys; empty where the file does not tell.
    """

    layout: AdapterLayout
    sha256: str
    trained_with: dict[str, Any]


class Adapters:
    """The adapter files of an evaluation.

    Args:
        settings: of the evaluation.

    Raises:
        ValueError: a file that is not there or no adapter, or that lacks what its method needs.
    """

    def __init__(self, settings: EvaluationSettings):
        self._settings = settings
        self.facts: dict[Path, AdapterFacts] = {}
        self._loaded: tuple[Path, Adapter] | None = None
        for name, method in settings.methods.items():
            for path in method.adapter_files:
                self._check(name, method, path)

    @property
    def feature_names(self) -> set[str]:
        """What the face branches of all of them read of a photo."""
        return {name for facts in self.facts.values() for name in facts.layout.feature_widths}

    def has_body(self, method: str) -> bool:
        """Whether a method draws with a body branch."""
        settings = self._settings.methods[method]
        return settings.body_weight > 0 and any(self.facts[path].layout.body for path in settings.adapter_files)

    def get(self, method: str, run: int, *, device: torch.device) -> Adapter | None:
        """The adapter of a run, frozen; it stays in memory until another one is asked for."""
        files = self._settings.methods[method].adapter_files
        if not files:
            return None
        if self._loaded is None or self._loaded[0] != files[run]:
            self._loaded = None
            adapter = read_adapter(files[run]).adapter.float().eval().requires_grad_(False)
            self._loaded = files[run], adapter.to(device)
        return self._loaded[1]

    def check_fit(self, denoiser: Denoiser) -> None:
        """Raise a ValueError if one of them belongs to another base, or to another image encoder."""
        unet, base = denoiser.unet, self._settings.base
        layers = {layer.index: layer.hidden_size for layer in cross_attention_layers(unet)}
        width = unet.config.cross_attention_dim
        if not self.facts:
            return
        encoder = image_encoder_config(base.image_encoder)
        for path, facts in self.facts.items():
            layout = facts.layout
            if layout.layers != layers or layout.cross_attention_dim != width:
                raise ValueError(
                    f"{path} has {len(layout.layers)} layers and reads tokens of width {layout.cross_attention_dim}, "
                    f"but the UNet of base.path has {len(layers)} and {width}: they belong to different models."
                )
            body_width = None if layout.body is None else layout.body.hidden_size
            for name, needed, given in (
                ("image embeddings", layout.image_embed_dim, encoder.projection_dim),
                ("hidden states", layout.hidden_size, encoder.hidden_size),
                ("hidden states", body_width, encoder.hidden_size),
            ):
                if needed not in (None, given):
                    raise ValueError(
                        f"{path} reads {name} of width {needed}, but base.image_encoder gives {given}. Name the image "
                        "encoder that it was trained with."
                    )

    def _check(self, name: str, method: MethodSettings, path: Path) -> None:
        if not path.is_file():
            raise ValueError(f"methods.{name} has the adapter {path}, but there is no such file.")
        file = read_adapter(path)
        if file.lora:
            raise ValueError(
                f"methods.{name} has the adapter {path.name}, a FaceID adapter with a LoRA, which changes the UNet "
                "itself. Only adapters without one can be evaluated."
            )
        if method.aggregation == "self_attention" and file.adapter.aggregator is None:
            raise ValueError(
                f'methods.{name}.aggregation is "self_attention", but {path.name} carries no aggregator. Take "avg", '
                'or an adapter that was trained with method "self_attention" or "bolid".'
            )
        of_the_body = [key for key in ("target_pose", "other_body") if getattr(method, key)]
        if of_the_body and file.adapter.body_encoder is None:
            raise ValueError(
                f"methods.{name}.{of_the_body[0]} is true, but {path.name} has no body branch, which alone would see "
                'it. Leave it out, or take an adapter that was trained with method "bolid".'
            )
        layout = file.adapter.layout
        if layout.face_embed_dim is not None and self._settings.base.face_pack is None:
            raise ValueError(
                f"methods.{name} has the adapter {path.name}, which reads ArcFace vectors: set base.face_pack to the "
                "folder of an insightface pack, such as weights/insightface/models/buffalo_l."
            )
        trained_with = file.config.training.get("settings", {}) if file.config is not None else {}
        self.facts[path] = AdapterFacts(layout=layout, sha256=file_hash(path), trained_with=trained_with)
