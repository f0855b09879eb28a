"""Model cards of the world's networks, from what their files say of themselves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ...models.checkpoint import read_metadata

COMMANDS = {
    "network": "bolid world train world/recipes/{name}.toml",
    "method": "bolid train world/recipes/adapters/{name}.toml",
}
"""By the key of the settings that tells what was trained."""

ROLES = {
    "autoencoder": ("model", "pictures ↔ latents"),
    "base_first": ("model", "the first part of `base`; does not ship"),
    "base": ("model", "denoiser, text encoder, and the start of BoLID's body encoder"),
    "image_encoder": ("encoder", "what adapters read of the references"),
    "joints": ("encoder", "joints in pictures, for `BoLIDDemoPoseDetector`"),
    "keypoints": ("loss", "joints in latents, in the loss of `bolid`"),
    "image_text": ("loss", "pictures beside texts, in the loss of `bolid`"),
    "metric_identity": ("metric", "who is in a picture"),
    "metric_attributes": ("metric", "whether a picture shows what its caption says; features for FID"),
    "metric_joints": ("metric", "joints in pictures"),
    "metric_image_text": ("metric", "pictures beside texts"),
    "ip_adapter": ("adapter", "one photo, or several pooled"),
    "self_attention": ("adapter", "several photos through the aggregator"),
    "bolid": ("adapter", "face and body"),
}
"""By the name of the file: what a network is there for. Nothing that measures is an encoder or in a loss."""

MEASURES = 4
"""Decimals."""


def cards(weights: str | Path) -> str:
    """Markdown: a table of all files, and a section for each.

    Args:
        weights: folder with the networks' and adapters' files.

    Raises:
        FileNotFoundError: no such files there.
        ValueError: a file that does not say how it was trained.
    """
    paths = sorted(Path(weights).glob("*.safetensors"))
    if not paths:
        raise FileNotFoundError(f"There is no .safetensors file in {weights}. Give the folder of the networks' files.")
    found = [_card(path) for path in paths]
    total_size = sum(card["bytes"] for card in found)
    lines = ["| file | role | for | weights | MB |", "|---|---|---|---|---|"]
    for card in found:
        role, purpose = ROLES.get(card["name"], ("", ""))
        lines.append(f"| `{card['name']}` | {role} | {purpose} | {card['weights']:,} | {_megabytes(card['bytes'])} |")
    lines += [f"| together | | | {sum(card['weights'] for card in found):,} | {_megabytes(total_size)} |", ""]
    for card in found:
        lines += _section(card)
    return "\n".join(lines)


def _card(path: Path) -> dict[str, Any]:
    configs = [json.loads(text) for key, text in read_metadata(path).items() if key.endswith(".config")]
    if not configs or not configs[0].get("training"):
        raise ValueError(
            f"{path.name} does not say how it was trained; expected a file that `bolid world train` or `bolid train` "
            "wrote."
        )
    with safe_open(path, framework="pt") as file:
        weights = sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())
    return {"name": path.stem, "bytes": path.stat().st_size, "weights": weights, "training": configs[0]["training"]}


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}"


def _section(card: dict[str, Any]) -> list[str]:
    training = card["training"]
    settings = training["settings"]
    kind = "network" if "network" in settings else "method"
    learned, held_out = (
        f"{part['photos']:,} pictures of {part['people']:,} people" + (f" ({part['split']})" if "split" in part else "")
        for part in (training["train"], training["test"])
    )
    lines = [
        f"## {card['name']}",
        "",
        f"`{COMMANDS[kind].format(name=card['name'])}`, seed {settings['run.seed']}, {training['steps']:,} steps of "
        f"{settings['samples per forward pass']}. Learned from {learned}; held out: {held_out}.",
        "",
        "| on people who were held out | |",
        "|---|---|",
    ]
    lines += [f"| {name.replace('_', ' ')} | {value:.{MEASURES}f} |" for name, value in training["validation"].items()]
    return [*lines, ""]
