"""What the tasks of all of the world's networks share: their pictures, and how they are asked about them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import nn

from ...training.data import Ahead, Share, Totals
from ...training.progress import Progress
from .dataset import HELD_OUT, PictureDraws, Pictures, load_pictures

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class PictureBatch:
    """b pictures.

    Attributes:
        names: files, for messages.
    """

    names: tuple[str, ...]

    def to(self, device: torch.device) -> Self:
        """The same elsewhere."""
        changes: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, torch.Tensor):
                changes[field.name] = value.to(device)
            elif isinstance(value, dict):
                changes[field.name] = {key: tensor.to(device) for key, tensor in value.items()}
        return replace(self, **changes)


class NetworkTask:
    """What `training.loop` trains, for one of the world's networks.

    A kind of network says what it is (`module`, `terms`), what it is shown (`batch_of`), how good it is (`measures`),
    and how it is written.

    Args:
        config: of the run.
        device: where everything computes once `load_data` was called.

    Attributes:
        module: `PictureBatch` → [b] values of each term.
        terms: names of the loss's terms, and their λ.
        people_per_batch: see `PictureDraws`.
        compares_rows: whether the loss compares the rows of a process with one another, so that it matters how many
            there are.
        training, held_out: pictures to learn from, and those of people who are held out.
    """

    module: Any
    terms: dict[str, float]
    people_per_batch = 0
    compares_rows = False

    def __init__(self, config: Any, *, device: torch.device):
        self.config = config
        self.device = device
        self.training = load_pictures(config.data.folders, config.data.split)
        self.held_out = load_pictures(config.data.folders, HELD_OUT)

    def result_depends_on(self) -> dict[str, Any]:
        """What the result depends on beside `loop.settings_that_matter`."""
        found: dict[str, Any] = {"data.folders": f"{self.training.fingerprint} {self.held_out.fingerprint}"}
        if self.compares_rows:
            found["run.batch_size"] = self.config.run.batch_size
        return found

    def load_data(self, share: Share, progress: Progress) -> None:
        """Get ready: compute what is computed once, and move to the device."""
        self.module.to(self.device)
        self._draws = self._draws_of(self.training, share)
        self._held_out_draws = self._draws_of(self.held_out, share)
        self._ahead = Ahead(lambda number: self.batch(self._draws, number), device=self.device)

    def _draws_of(self, pictures: Pictures, share: Share) -> PictureDraws:
        return PictureDraws(pictures, share=share, seed=self.config.run.seed, people_per_batch=self.people_per_batch)

    def batch(self, draws: PictureDraws, number: int) -> PictureBatch:
        """Batch `number` of this process."""
        pictures = self.training if draws is self._draws else self.held_out
        return self.batch_of(pictures, draws.batch(number), draws.generators(number))

    def batch_of(self, pictures: Pictures, numbers: list[int], generators: list[torch.Generator]) -> Any:
        """What the module is shown of some pictures."""
        raise NotImplementedError

    def measures(self, batch: Any) -> dict[str, torch.Tensor]:
        """[n] values of what is validated, beside the terms; n may be the pictures, or parts of them that count."""
        raise NotImplementedError

    def data_summary(self) -> dict[str, Any]:
        """How much there is to learn from, and held out."""
        return {
            "train": {"split": self.config.data.split, **self.training.summary()},
            "test": {"split": HELD_OUT, **self.held_out.summary()},
        }

    def loss_terms(self, module: nn.Module, number: int, step: int) -> tuple[dict[str, torch.Tensor], PictureBatch]:
        """[b] values of every term for this process's rows of forward pass `number`."""
        batch = self._ahead.get(number).to(self.device)
        return module(batch), batch

    @torch.no_grad()
    def validation_values(self, autocast: Callable[[], AbstractContextManager[None]]) -> Totals:
        """Sum and number [2] of every term and measure over this process's rows of the fixed validation batches."""
        totals = Totals()
        self.module.eval()
        for number in range(self.config.run.validation_batches):
            batch = self.batch(self._held_out_draws, number).to(self.device)
            with autocast():
                values = {**self.module(batch), **self.measures(batch)}
            for name, rows in values.items():
                totals.add(name, rows.float())
        self.module.train()
        return totals

    def sample_grid(self, autocast: Callable[[], AbstractContextManager[None]]) -> Image.Image:
        """A picture of what the network does with held-out people."""
        raise NotImplementedError

    def write_result(self, path: Path, training: dict[str, Any]) -> None:
        """Write the network's file."""
        raise NotImplementedError
