"""Files of networks that other libraries' classes are built for: their sizes and their weights.

The people world's networks lie in such files: safetensors, half precision, whose metadata say what they are:
`bolid.network.format` (version of this layout), `bolid.network.config` (`NetworkConfig` as JSON), and `modelspec.*`
(https://github.com/Stability-AI/ModelSpec).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, TypeAdapter

from .checkpoint import read_metadata, read_state_dict
from .files import in_precision, read_description, write_safetensors

FORMAT = 1
"""Version of the file layout; a reader refuses files of a later one."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """What the file of a network says about itself.

    Attributes:
        network: its kind.
        sizes: everything that it is built from, as the kind needs it.
        training: summary of the training run, free in form.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    network: str
    sizes: dict[str, Any]
    training: dict[str, Any] = field(default_factory=dict)


_CONFIG = TypeAdapter(NetworkConfig)


@dataclass(frozen=True, kw_only=True)
class NetworkFile:
    """A network that was read.

    Attributes:
        state_dict: its weights, float32.
        sizes, training: see `NetworkConfig`.
    """

    state_dict: dict[str, torch.Tensor]
    sizes: dict[str, Any]
    training: dict[str, Any]

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """The weights whose names begin with `prefix` and a dot, without it."""
        start = f"{prefix}."
        return {key[len(start) :]: tensor for key, tensor in self.state_dict.items() if key.startswith(start)}


def write_network(
    path: str | Path,
    state_dict: dict[str, torch.Tensor],
    *,
    network: str,
    sizes: dict[str, Any],
    training: dict[str, Any] | None = None,
) -> None:
    """Write a network in half precision; an existing file is replaced in one step, or stays as it was.

    Args:
        path: ends in .safetensors.
        state_dict: the weights; whole numbers stay as they are.
        network, sizes, training: see `NetworkConfig`.

    Raises:
        ValueError: another ending.
    """
    config = NetworkConfig(network=network, sizes=sizes, training=training or {})
    metadata = {
        "bolid.network.format": str(FORMAT),
        "bolid.network.config": _CONFIG.dump_json(config).decode(),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"bolid-world-{network}",
        "modelspec.implementation": "bolid",
        "modelspec.title": f"BoLID people world: {network}",
    }
    write_safetensors(path, in_precision(state_dict, torch.float16), metadata=metadata)


def read_network(path: str | Path, network: str) -> NetworkFile:
    """Read a file of `write_network`.

    Args:
        network: the kind that is wanted.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a readable network of that kind, or one of a later format; the message says what it is.
    """
    path = Path(path)
    state_dict, metadata = read_state_dict(path), read_metadata(path)
    config = read_description(
        metadata, _CONFIG, prefix="bolid.network", kind="network", supported=FORMAT, name=path.name
    )
    if config is None or config.network != network:
        found = "no network of the people world" if config is None else f"a network of the kind {config.network!r}"
        raise ValueError(f"{path.name} is {found}; expected one of the kind {network!r}.")
    return NetworkFile(
        state_dict={
            key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in state_dict.items()
        },
        sizes=config.sizes,
        training=config.training,
    )
