"""A tiny world to train in, made once."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ..support.toy_training import write_toy_base, write_toy_clip, write_toy_image_encoder, write_toy_people


@dataclass(frozen=True, kw_only=True)
class Toy:
    """Folders of the tiny world."""

    people: Path
    base: Path
    image_encoder: Path
    clip: Path

    def values(self, output: Path, **sections: dict[str, Any]) -> dict[str, Any]:
        """The values of a config file: a short run on the tiny world, with these sections changed."""
        values: dict[str, Any] = {
            "method": "ip_adapter",
            "run": {"output": str(output), "steps": 6, "log_every": 1, "sample_every": 0, "validation_batches": 2},
            "data": {"path": str(self.people)},
            "base": {"path": str(self.base), "image_encoder": str(self.image_encoder), "resolution": 64},
            "adapter": {"body": {"dim": 64}},
            "optimizer": {"learning_rate": 1e-3},
        }
        for name, section in sections.items():
            values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
        return values


def write_config(path: Path, values: dict[str, Any]) -> Path:
    """Write values as a config file."""

    def table(values: dict[str, Any], name: str) -> Iterator[str]:
        if name:
            yield f"[{name}]"
        yield from (f"{key} = {json.dumps(value)}" for key, value in values.items() if not isinstance(value, dict))
        for key, value in values.items():
            if isinstance(value, dict):
                yield from table(value, f"{name}.{key}" if name else key)

    path.write_text("\n".join(table(values, "")) + "\n", encoding="utf-8")
    return path


@contextmanager
def file_size_limit(bytes_: int) -> Iterator[None]:
    """Writing fails beyond it, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    folder = tmp_path_factory.mktemp("toy")
    return Toy(
        people=write_toy_people(folder / "people"),
        base=write_toy_base(folder / "base"),
        image_encoder=write_toy_image_encoder(folder / "image_encoder"),
        clip=write_toy_clip(folder / "clip"),
    )


@pytest.fixture(autouse=True)
def _separate_runs() -> Iterator[None]:
    """accelerate remembers the first precision of a process."""
    yield
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
