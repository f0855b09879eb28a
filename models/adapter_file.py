"""The adapter file: one safetensors file with the weights of every branch and a description of itself.

```
image_proj.*, ip_adapter.N.to_{k,v}_ip.weight      face branch, as in the public IP-Adapter files
aggregator.*                                       self-attention aggregator, where there is one
body_encoder.*, body_adapter.N.to_{k,v}.weight     body branch, where there is one
```

Metadata: `bolid.format` (version of this layout), `bolid.config` (`AdapterConfig` as JSON), and `modelspec.*`
(https://github.com/Stability-AI/ModelSpec). Times, hosts and paths stay out of it: the same weights give the same
tensors and the same metadata.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, TypeAdapter
from torch import nn

from .adapter import Adapter, AdapterLayout
from .checkpoint import (
    Lora,
    adapter_from_state_dict,
    adapter_with_weights,
    faceid_lora,
    lora_state_dict,
    read_metadata,
    read_state_dict,
)
from .files import in_precision, read_description, write_safetensors

FORMAT = 1
"""Version of the file layout; a reader refuses files of a later one."""

MODELSPEC_ARCHITECTURES = {"sd15": "stable-diffusion-v1", "sdxl": "stable-diffusion-xl-v1-base"}


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """What a BoLID adapter file says about itself.

    Attributes:
        base_model: family of the UNet: "sd15", "sdxl", or the name of another one.
        image_encoder: the image encoder whose features the adapter reads, for people.
        layout: every size.
        training: summary of the training run, free in form.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    base_model: str
    image_encoder: str
    layout: AdapterLayout
    training: dict[str, Any] = field(default_factory=dict)


_CONFIG = TypeAdapter(AdapterConfig)


@dataclass(frozen=True, kw_only=True)
class AdapterFile:
    """An adapter file that was read.

    Attributes:
        adapter: the module; its weights are memory-mapped where the container allows it.
        lora: see `checkpoint.faceid_lora`.
        config: None for a public IP-Adapter file.
    """

    adapter: Adapter
    lora: Lora
    config: AdapterConfig | None


def write_adapter(
    path: str | Path,
    adapter: Adapter,
    *,
    base_model: str,
    image_encoder: str,
    training: dict[str, Any] | None = None,
    lora: Lora | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write an adapter file; an existing file is replaced in one step, or stays as it was.

    Args:
        path: ends in .safetensors.
        base_model, image_encoder, training: see `AdapterConfig`.
        lora: see `AdapterFile`.
        dtype: of the file's tensors; each as it is if not given.

    Raises:
        ValueError: another ending.
    """
    config = AdapterConfig(
        base_model=base_model, image_encoder=image_encoder, layout=adapter.layout, training=training or {}
    )
    metadata = {
        "bolid.format": str(FORMAT),
        "bolid.config": _CONFIG.dump_json(config).decode(),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{MODELSPEC_ARCHITECTURES.get(base_model, base_model)}/bolid-adapter",
        "modelspec.implementation": "bolid",
        "modelspec.title": "BoLID adapter",
    }
    tensors = adapter.state_dict() | lora_state_dict(lora or {})
    write_safetensors(path, tensors if dtype is None else in_precision(tensors, dtype), metadata=metadata)


def read_adapter(path: str | Path, *, faceid_plus_shortcut: bool = True, operations: Any = nn) -> AdapterFile:
    """Read any adapter file: one of `write_adapter`, or a public IP-Adapter file.

    Args:
        faceid_plus_shortcut: version 2 (True) or 1 of a public FaceID-plus file; a file of `write_adapter` says it
            itself.
        operations: see `build_adapter`.

    Raises:
        ValueError: not a readable adapter file, or one of a later format; the message says what it is.
    """
    name = Path(path).name
    state_dict = read_state_dict(path)
    config = read_description(read_metadata(path), _CONFIG, prefix="bolid", kind="adapter", supported=FORMAT, name=name)
    if config is None and any(key.startswith(("aggregator.", "body_")) for key in state_dict):
        raise ValueError(
            f"{name} has the tensors of a BoLID adapter, but its description of itself is missing: another program may "
            "have written it anew. Use the original file."
        )
    if config is None:
        adapter = adapter_from_state_dict(
            state_dict, name=name, faceid_plus_shortcut=faceid_plus_shortcut, operations=operations
        )
    else:
        adapter = adapter_with_weights(config.layout, state_dict, name=name, operations=operations)
    return AdapterFile(adapter=adapter, lora=faceid_lora(state_dict), config=config)
