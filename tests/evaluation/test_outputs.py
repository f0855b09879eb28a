"""What networks say: asked once, in whole batches, whoever asks and however often it was interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import bolid.evaluation.outputs as outputs_module
from bolid.evaluation.outputs import Outputs
from bolid.evaluation.pictures import Shown
from bolid.evaluation.sources import Source
from bolid.training.cache import SHARD_ENTRIES

from .conftest import Toy, write_recogniser

CPU = torch.device("cpu")
SMALL = 8


class Spy:
    """A network whose answer tells its batch: the mean of the picture, and how many pictures there were."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.stop_after: int | None = None

    def __call__(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.stop_after == len(self.batches):
            raise KeyboardInterrupt
        self.batches.append(len(pictures))
        means = pictures.mean(dim=(1, 2, 3))
        return {"mean": means, "batch": torch.full((len(pictures),), float(len(pictures)))}


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    network = Spy()
    monkeypatch.setattr(outputs_module, "load_network", lambda source, device, models: network)
    return network


@pytest.fixture
def source(toy: Toy) -> Source:
    return Source("recognition", toy.identity, "measures.identity.a")


def shown(folder: Path, count: int) -> list[Shown]:
    found = []
    for number in range(count):
        path = folder / f"{number}.png"
        Image.fromarray(np.full((SMALL, SMALL, 3), number, dtype=np.uint8)).save(path)
        found.append(Shown(key=f"{number:032x}", path=path))
    return found


def outputs(folder: Path, *, batch_size: int = 4, **values: Any) -> Outputs:
    return Outputs(
        folder=folder,
        resolution=SMALL,
        batch_size=batch_size,
        device=CPU,
        progress=values.pop("progress", lambda *_: None),
        **values,
    )


def values_of(said: Outputs, source: Source, pictures: Sequence[Shown]) -> list[list[float]]:
    return [[said.get(source, each.key)[name].item() for name in ("mean", "batch")] for each in pictures]


def test_every_picture_is_asked_about_once_in_batches(tmp_path: Path, source: Source, spy: Spy) -> None:
    pictures, told = shown(tmp_path, 10), []
    said = outputs(tmp_path / "out", progress=lambda *state: told.append(state))
    said.fill(source, [*pictures, pictures[3]])
    assert spy.batches == [4, 4, 2]
    expected = [[number / 127.5 - 1, 4.0 if number < 8 else 2.0] for number in range(10)]
    assert values_of(said, source, pictures) == [pytest.approx(row) for row in expected]
    assert [state[:3] for state in told] == [("identity", done, 10) for done in range(11)]
    said.fill(source, pictures)
    again = outputs(tmp_path / "out")
    again.fill(source, pictures)
    assert spy.batches == [4, 4, 2]
    assert values_of(again, source, pictures) == values_of(said, source, pictures)


def test_pictures_are_read_once_for_all_networks(tmp_path: Path, toy: Toy, source: Source, spy: Spy) -> None:
    pictures = shown(tmp_path, 5)
    said = outputs(tmp_path / "out")
    said.fill(source, pictures)
    for picture in pictures:
        picture.path.unlink()
    other = Source("recognition", toy.attributes)
    said.fill(other, pictures)
    assert values_of(said, other, pictures) == values_of(said, source, pictures)


def test_pixels_in_memory_are_bounded(
    tmp_path: Path, source: Source, spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs_module, "PIXEL_BYTES", 3 * SMALL**2 * 4)
    said = outputs(tmp_path / "out")
    said.fill(source, shown(tmp_path, 20))
    assert len(said._pixels) == 4
    said.forget_pixels()
    assert not said._pixels


def test_an_interruption_changes_no_batch(tmp_path: Path, source: Source, spy: Spy) -> None:
    count = 2 * SHARD_ENTRIES + 6
    pictures = shown(tmp_path, count)
    whole = outputs(tmp_path / "whole", batch_size=5)
    whole.fill(source, pictures)
    batches = len(spy.batches)
    spy.batches.clear()
    spy.stop_after = SHARD_ENTRIES // 5 + 2
    with pytest.raises(KeyboardInterrupt):
        outputs(tmp_path / "cut", batch_size=5).fill(source, pictures)
    spy.stop_after = None
    asked = len(spy.batches)
    cut = outputs(tmp_path / "cut", batch_size=5)
    cut.fill(source, pictures)
    assert values_of(cut, source, pictures) == values_of(whole, source, pictures)
    # What was stored is not asked about again, but for the batch that was cut through.
    assert len(spy.batches) - asked == batches - SHARD_ENTRIES // 5


def test_two_processes_share_the_batches(tmp_path: Path, source: Source, spy: Spy) -> None:
    pictures = shown(tmp_path, 14)
    alone = outputs(tmp_path / "alone")
    alone.fill(source, pictures)
    spy.batches.clear()
    both = [outputs(tmp_path / "both", process=process, processes=2) for process in (0, 1)]
    parts = []
    for said in both:
        said.fill(source, pictures)
        parts.append(list(spy.batches))
        spy.batches.clear()
    assert parts == [[4, 4], [4, 2]]
    both[0].fill(source, pictures)
    assert spy.batches == []
    for said in both:
        assert values_of(said, source, pictures) == values_of(alone, source, pictures)


def test_another_network_size_or_version_is_asked_anew(
    tmp_path: Path, source: Source, spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = shown(tmp_path, 2)
    said = outputs(tmp_path / "out")
    said.fill(source, pictures)
    said.fill(Source("recognition", write_recogniser(tmp_path / "other.safetensors", seed=8)), pictures)
    larger = outputs(tmp_path / "out")
    larger.resolution = 2 * SMALL
    larger.fill(source, pictures)
    monkeypatch.setattr(outputs_module, "VERSION", 2)
    outputs(tmp_path / "out").fill(source, pictures)
    assert spy.batches == [2, 2, 2, 2]


def test_texts_are_those_of_the_pair(tmp_path: Path, toy: Toy) -> None:
    from bolid.evaluation.networks import load_pair

    pair = Source("pair", toy.pair, "measures.text")
    said = outputs(tmp_path / "out")
    said.fill_texts(pair, ["a person", "a person in a park"])
    network = load_pair(pair, device=CPU)
    for text in ("a person", "a person in a park"):
        torch.testing.assert_close(said.text(pair, text), network.encode_text(text))


def test_a_spoilt_picture_keeps_what_was_said_before(tmp_path: Path, source: Source, spy: Spy) -> None:
    pictures = shown(tmp_path, SHARD_ENTRIES + 4)
    whole = pictures[-1].path.read_bytes()
    pictures[-1].path.write_bytes(b"")
    with pytest.raises(ValueError, match="The picture .*67.png cannot be read"):
        outputs(tmp_path / "out").fill(source, pictures)
    pictures[-1].path.write_bytes(whole)
    spy.batches.clear()
    outputs(tmp_path / "out").fill(source, pictures)
    assert spy.batches == [4]
