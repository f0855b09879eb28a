"""What networks say about pictures and texts: asked once, in batches, by all processes, and kept.

A network sees pictures in batches that follow from the whole list alone, and a batch is computed whole or not at all:
so neither an interruption nor the number of processes changes a bit of what it says.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..training.cache import Tensors, TensorStore
from ..training.data import Ahead
from ..training.progress import Progress
from .networks import load_network, load_pair
from .pictures import Shown, as_floats
from .sources import Source

PIXEL_BYTES = 256 << 20
"""Of pictures that stay in memory for the next network: 5,000 of 128 pixels a side."""

Asking = tuple[Callable[[Sequence[str]], Any], Callable[[Any], dict[str, torch.Tensor]]]
"""From the keys of a batch to what is read of them, and from that to tensors [b, ...] by name."""

VERSION = 1
"""To be raised when the same picture and network would give other outputs."""


@dataclass(kw_only=True)
class Outputs:
    """What networks say, by network and by the key of the picture.

    Args:
        folder: where it is kept.
        resolution: side of the pictures.
        batch_size: pictures at once.
        device: where networks compute; each is there only while something is missing.
        progress: told how far it is.
        process, processes: number of this process, of so many; each asks about a part.
        wait: until all processes are here.
    """

    folder: Path
    resolution: int
    batch_size: int
    device: torch.device
    progress: Progress
    process: int = 0
    processes: int = 1
    wait: Callable[[], None] = lambda: None
    _stores: dict[tuple[str, Source], TensorStore] = field(default_factory=dict, repr=False)
    _pixels: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)
    _fingerprints: dict[Source, str] = field(default_factory=dict, repr=False)

    def fill(self, source: Source, pictures: Sequence[Shown]) -> None:
        """Ask a network about pictures that it was not asked about yet."""
        by_key = {shown.key: shown for shown in pictures}

        def read(keys: Sequence[str]) -> torch.Tensor:
            return as_floats(torch.stack([self._pixels_of(by_key[key]) for key in keys]))

        def load(models: ExitStack) -> Asking:
            return read, load_network(source, device=self.device, models=models)

        self.fill_with("pictures", source, list(by_key), load, stage=source.stage)

    def fill_texts(self, source: Source, texts: Sequence[str]) -> None:
        """The same for texts, of a pair."""
        by_key = {_text_key(text): text for text in texts}

        def load(models: ExitStack) -> Asking:
            pair = load_pair(source, device=self.device)
            return tuple, lambda keys: {"embeds": torch.stack([pair.encode_text(by_key[key]) for key in keys])}

        self.fill_with("texts", source, list(by_key), load, stage="texts")

    def _pixels_of(self, shown: Shown) -> torch.Tensor:
        """Of a picture that one network after the other is shown: as many as there is room for are read once."""
        pixels = self._pixels.get(shown.key)
        if pixels is None:
            pixels = shown.pixels(self.resolution)
            if (len(self._pixels) + 1) * pixels.numel() <= PIXEL_BYTES:
                self._pixels[shown.key] = pixels
        return pixels

    def forget_pixels(self) -> None:
        """Give the memory of pictures back, once no network follows."""
        self._pixels.clear()

    def get(self, source: Source, key: str, *, kind: str = "pictures") -> Tensors:
        """What a network says about a picture, see `networks.Network`; without the batch."""
        return self._stores[kind, source].get(key)

    def stacked(self, source: Source, name: str, keys: Sequence[str]) -> torch.Tensor:
        """[n, ...] one of the tensors of n pictures."""
        return torch.stack([self.get(source, key)[name] for key in keys])

    def text(self, source: Source, text: str) -> torch.Tensor:
        """[E] of a text."""
        return self.get(source, _text_key(text), kind="texts")["embeds"]

    def fingerprint(self, source: Source) -> str:
        """See `Source.fingerprint`; read once."""
        if source not in self._fingerprints:
            self._fingerprints[source] = source.fingerprint()
        return self._fingerprints[source]

    def fill_with(
        self,
        kind: str,
        source: Source,
        keys: Sequence[str],
        load: Callable[[ExitStack], Asking],
        *,
        stage: str,
    ) -> None:
        """Ask about keys, with something that is loaded only where some are missing.

        Args:
            kind: of what is asked about; each has a store of its own.
            keys: all of them, each once, in the same order in every process.
            load: gives `Asking`.
            stage: name of the work, for `progress`.
        """
        depends_on: Mapping[str, Any] = {
            "version": VERSION,
            "network": self.fingerprint(source),
            "resolution": self.resolution,
        }
        store = TensorStore(self.folder, f"{source.kind}-{kind}", depends_on)
        self._stores[kind, source] = store
        missing = set(store.missing(keys))
        batches = [keys[first : first + self.batch_size] for first in range(0, len(keys), self.batch_size)]
        mine = [batch for number, batch in enumerate(batches) if number % self.processes == self.process]
        mine = [batch for batch in mine if missing & set(batch)]
        if mine:
            self._ask(store, mine, missing, len(keys) - len(missing), load, stage)
        # Not earlier: another process may have found something missing that this one has just written.
        self.wait()
        store.reload()

    def _ask(
        self,
        store: TensorStore,
        batches: Sequence[Sequence[str]],
        missing: set[str],
        done: int,
        load: Callable[[ExitStack], Asking],
        stage: str,
    ) -> None:
        wanted = [key for batch in batches for key in batch if key in missing]
        total = done + len(wanted)

        def advance() -> None:
            nonlocal done
            done += 1
            self.progress(stage, done, total)

        self.progress(stage, done, total)
        with ExitStack() as models, torch.no_grad():
            rows = _rows(load(models), batches, missing, self.device)
            store.fill(wanted, lambda key: next(rows), advance)
        if self.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()


def _rows(
    asking: Asking, batches: Sequence[Sequence[str]], missing: set[str], device: torch.device
) -> Iterator[Tensors]:
    """What is said about each missing key, in the order of the batches, which are asked about as wholes."""
    read, ask = asking
    ahead = Ahead(lambda number: read(batches[number]) if number < len(batches) else None, device=device)
    for number, batch in enumerate(batches):
        said = {name: tensor.float().cpu() for name, tensor in ask(ahead.get(number)).items()}
        for row, key in enumerate(batch):
            if key in missing:
                yield {name: tensor[row].clone() for name, tensor in said.items()}


def _text_key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
