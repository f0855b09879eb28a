"""No network judges what it has taught or told: encoders and losses of a method are refused as its measure."""

from __future__ import annotations

import logging
from pathlib import Path

from ..models.network_file import read_network
from ..training.config import BaseSettings, LossSettings
from ..training.fingerprint import model_fingerprint
from ..training.image_text import LOCAL, image_text_fingerprint
from .adapters import AdapterFacts, Adapters
from .sources import Source, Sources

logger = logging.getLogger(__name__)

OF_MEASURES = "metrics"
"""The split of the people world on which networks that measure are trained."""


def check_independence(sources: Sources, adapters: Adapters, base: BaseSettings) -> list[str]:
    """Compare the measuring networks with what the adapters read, and with what they were trained by.

    Public adapters do not say what they were trained by.

    Returns:
        What looks wrong without being known to be, a sentence each.

    Raises:
        ValueError: a network measures what it has taught or told.
    """
    for path, facts in adapters.facts.items():
        for source in sources.all:
            _check_losses(source, path, facts)
            _check_encoders(source, path, facts, base)
    doubts = [doubt for source in sources.all if (doubt := _learned_from_others(source))]
    for doubt in doubts:
        logger.warning("%s", doubt)
    return doubts


def _check_losses(source: Source, path: Path, facts: AdapterFacts) -> None:
    key = {"pair": "loss.clip_model", "joints": "loss.keypoint_network"}.get(source.kind, "")
    taught_by = facts.trained_with.get(key)
    if source.kind == "pair":
        own = image_text_fingerprint(LossSettings(clip_model=f"{LOCAL}{source.path}"))
    else:
        own = source.fingerprint() if taught_by else ""
    if taught_by and taught_by == own:
        raise ValueError(
            f"{source.key} is {source.path}, but this network was the loss ({key}) of {path}: it would praise what it "
            "has taught. Measure with another one."
        )


def _check_encoders(source: Source, path: Path, facts: AdapterFacts, base: BaseSettings) -> None:
    read = facts.layout.feature_widths
    if source.kind == "clip" and ("face_embeds" not in read or len(read) > 1 or facts.layout.body is not None):
        key, encoder = "base.image_encoder", base.image_encoder
    elif source.kind == "faces" and "face_embeds" in read:
        key, encoder = "base.face_pack", base.face_pack
    else:
        return
    if source.fingerprint() == model_fingerprint(encoder):
        raise ValueError(
            f"{source.key} is {source.path}, but {path} draws from what this network ({key}) says about the photos: "
            "it would find again what it has told. Measure with another one."
        )


def _learned_from_others(source: Source) -> str:
    """A doubt about networks of the people world that did not learn from the people of the measures."""
    if source.kind != "recognition":
        return ""
    split = read_network(source.path, "recognition").training.get("settings", {}).get("data.split")
    if split in (None, OF_MEASURES):
        return ""
    return (
        f"{source.key}: {source.path.name} learned from the people of the split {split!r}, as encoders and losses do. "
        f"What measures should have seen others ({OF_MEASURES!r})."
    )
