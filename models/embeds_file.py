"""Embeds files: encoded photos, before or after their aggregation, without an encoder at hand.

One safetensors file with a tensor per field of `Embeds` or `References`, bit for bit. Metadata: `bolid.embeds.format`
(version of this layout) and `bolid.embeds.config` (`EmbedsConfig` as JSON): which of the two it is, of whom, of which
photos, and how wide the encoders' features are. Times, hosts and paths stay out of it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ConfigDict, TypeAdapter

from .checkpoint import read_metadata, read_state_dict
from .files import read_description, write_safetensors
from .pooling import pool
from .references import Embeds, ReferenceReport, References

FORMAT = 1
"""Version of the file layout; a reader refuses files of a later one."""

SUFFIX = ".safetensors"

Kind = Literal["embeds", "references"]
KINDS: dict[Kind, type[Embeds] | type[References]] = {"embeds": Embeds, "references": References}

DIMENSIONS = {
    "image_embeds": 2,
    "hidden_states": 3,
    "zero_hidden_states": 3,
    "face_embeds": 2,
    "has_face": 1,
    "token_weights": 1,
}
"""Of the tensors, which are fields of `Embeds` and `References`. All but zero_hidden_states have a row per photo."""


@dataclass(frozen=True, kw_only=True)
class EmbedsConfig:
    """What an embeds file says about itself.

    Attributes:
        kind: "embeds", ready to be applied, or "references", to be aggregated first.
        person: whose photos they are, for people; may be empty.
        rows: photos or tiles in the features.
        image_embed_dim: width D of the image embeddings; None without them.
        hidden_states: tokens T and width H of the hidden states; None without them.
        face_embed_dim: width of the ArcFace vectors; None without them.
        per_picture: see `Embeds`.
        photos: what became of every photo.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    kind: Kind
    person: str
    rows: int
    image_embed_dim: int | None
    hidden_states: tuple[int, int] | None
    face_embed_dim: int | None
    per_picture: bool = False
    photos: tuple[ReferenceReport, ...]


_CONFIG = TypeAdapter(EmbedsConfig)


@dataclass(frozen=True, kw_only=True)
class EmbedsFile:
    """An embeds file that was read."""

    features: Embeds | References
    config: EmbedsConfig

    @property
    def embeds(self) -> Embeds:
        """The embeds, or the average of the references."""
        return pool(self.features, "avg") if isinstance(self.features, References) else self.features

    @property
    def references(self) -> References:
        """The references, or every row of the embeds as one photo."""
        if isinstance(self.features, References):
            return self.features
        found = self.features
        return References(
            image_embeds=found.image_embeds,
            hidden_states=found.hidden_states,
            zero_hidden_states=found.zero_hidden_states,
            face_embeds=found.face_embeds,
            has_face=None if found.face_embeds is None else torch.ones(self.config.rows, dtype=torch.bool),
            report=tuple(
                ReferenceReport(photo=row, status="kept", reason="saved embeds", row=row)
                for row in range(1, 1 + self.config.rows)
            ),
        )


def write_embeds(path: str | Path, features: Embeds | References, *, person: str = "") -> EmbedsConfig:
    """Write an embeds file; an existing file is replaced in one step, or stays as it was.

    Args:
        path: ends in .safetensors.
        features: at least one photo.
        person: see `EmbedsConfig`.

    Raises:
        ValueError: another ending, or nothing to write.
    """
    named = {name: getattr(features, name, None) for name in DIMENSIONS}
    # Copies: no two tensors of a file may share memory, and aggregators are free to hand out views.
    tensors = {name: tensor.detach().clone() for name, tensor in named.items() if tensor is not None}
    config = _config(tensors, features, person)
    metadata = {"bolid.embeds.format": str(FORMAT), "bolid.embeds.config": _CONFIG.dump_json(config).decode()}
    write_safetensors(path, tensors, metadata=metadata)
    return config


def read_embeds(path: str | Path) -> EmbedsFile:
    """Read a file of `write_embeds`. Nothing in it is executed.

    Raises:
        ValueError: another kind of file, one of a later format, or a damaged one; the message says which.
    """
    path = Path(path)
    if path.suffix.lower() != SUFFIX:
        raise ValueError(
            f"{path.name} is no safetensors file. BoLID reads embeds that BoLIDSaveEmbeds wrote; those of other packs "
            "(.ipadpt) are pickles, which can run code when they are opened: encode the photos again."
        )
    tensors = read_state_dict(path)
    config = read_description(
        read_metadata(path), _CONFIG, prefix="bolid.embeds", kind="embeds file", supported=FORMAT, name=path.name
    )
    if config is None:
        raise ValueError(
            f"{path.name} is no embeds file of BoLID (tensors {', '.join(sorted(tensors)[:3]) or 'none'}). Choose one "
            "that BoLIDSaveEmbeds wrote; adapters belong to BoLIDAdapterLoader."
        )
    problem = _problem(tensors, config)
    if problem:
        raise ValueError(
            f"{path.name} is an embeds file of BoLID, but its tensors do not fit its description ({problem}). Another "
            "program may have changed it; get the file again, or encode the photos again."
        )
    # Copies: the file may be replaced or deleted while they are in use.
    contents: dict[str, Any] = {name: tensor.clone() for name, tensor in tensors.items()}
    if config.kind == "embeds":
        contents["per_picture"] = config.per_picture
    return EmbedsFile(features=KINDS[config.kind](**contents, report=config.photos), config=config)


def _config(tensors: dict[str, torch.Tensor], features: Embeds | References, person: str) -> EmbedsConfig:
    """The description of a file of these features.

    Raises:
        ValueError: no features in them.
    """
    rows = _rows(tensors)
    if not rows or not any(rows.values()):
        raise ValueError(
            "There is nothing to save: these embeds have no features of any photo. See the report of "
            "MultiRefImageEncoder."
        )
    return EmbedsConfig(
        kind="references" if isinstance(features, References) else "embeds",
        person=person,
        rows=max(rows.values()),
        **_sizes(tensors),
        per_picture=isinstance(features, Embeds) and features.per_picture,
        photos=tuple(ReferenceReport(**asdict(entry)) for entry in features.report),
    )


def _rows(tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    return {name: tensor.shape[0] for name, tensor in tensors.items() if name != "zero_hidden_states"}


def _sizes(tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Sizes of the features, by the names that they have in `EmbedsConfig`."""
    hidden_states = tensors.get("hidden_states", tensors.get("zero_hidden_states"))
    return {
        "image_embed_dim": tensors["image_embeds"].shape[-1] if "image_embeds" in tensors else None,
        "hidden_states": None if hidden_states is None else (hidden_states.shape[-2], hidden_states.shape[-1]),
        "face_embed_dim": tensors["face_embeds"].shape[-1] if "face_embeds" in tensors else None,
    }


def _problem(tensors: dict[str, torch.Tensor], config: EmbedsConfig) -> str:
    """Where the tensors of a file and its description contradict each other, or what they lack; nothing if all fits."""
    known = DIMENSIONS.keys() & {field.name for field in fields(KINDS[config.kind])}
    for name, tensor in tensors.items():
        if name not in known:
            return f"{config.kind} have no {name}"
        fits = tensor.dtype == torch.bool if name == "has_face" else tensor.is_floating_point()
        if tensor.ndim != DIMENSIONS[name] or not fits:
            return f"{name} is {tensor.dtype} {list(tensor.shape)}"
    rows = _rows(tensors)
    if not rows.keys() & {"image_embeds", "hidden_states", "face_embeds"}:
        return "there are no features"
    if set(rows.values()) != {config.rows}:
        return f"rows are {rows}, described are {config.rows}"
    for name, size in _sizes(tensors).items():
        if size != getattr(config, name):
            return f"{name} is {size}, described is {getattr(config, name)}"
    zero = tensors.get("zero_hidden_states")
    if zero is not None and (zero.shape[0], zero.shape[1:]) != (1, tensors.get("hidden_states", zero).shape[1:]):
        return f"zero_hidden_states is {list(zero.shape)}"
    kept = sum(entry.status == "kept" for entry in config.photos)
    if config.kind == "references" and kept != config.rows:
        return f"the report keeps {kept} photos, there are {config.rows}"
    if config.kind == "references" and ("face_embeds" in tensors) != ("has_face" in tensors):
        return "face_embeds and has_face go together"
    return ""
