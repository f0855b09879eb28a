"""Pairs of encoders for pictures and captions."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from bolid.models.network_file import read_network
from bolid.training.data import Share
from bolid.world.networks.image_text import Captioned, ImageTextTask, image_text_model
from bolid.world.networks.vocabulary import Vocabulary

from .conftest import Config

CPU = torch.device("cpu")
KINDS = ("transformer", "convolutional")


@pytest.fixture(params=KINDS)
def task(config: Config, request: pytest.FixtureRequest) -> ImageTextTask:
    return ImageTextTask(config("image_text", image_text={"kind": request.param}), device=CPU)


@pytest.fixture
def transformer(config: Config) -> ImageTextTask:
    return ImageTextTask(config("image_text"), device=CPU)


def fixed(task: ImageTextTask, logits: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """These logits, whatever the pictures."""
    monkeypatch.setattr(task.module, "logits", lambda batch: logits)


def batch_of(captions: list[int]) -> Captioned:
    count = len(captions)
    return Captioned(
        names=tuple(map(str, range(count))),
        pixels=torch.zeros(count, 3, 1, 1),
        ids=torch.zeros(count, 77),
        captions=torch.tensor(captions),
    )


def slow_contrast(logits: list[list[float]], captions: list[int]) -> list[float]:
    """Mean of both directions' cross-entropies, number by number; equal captions share the right answer."""

    def direction(rows: list[list[float]]) -> list[float]:
        losses = []
        for row, own in zip(rows, captions, strict=True):
            total = math.log(sum(math.exp(value) for value in row))
            right = [value for value, caption in zip(row, captions, strict=True) if caption == own]
            losses.append(sum(total - value for value in right) / len(right))
        return losses

    both = direction(logits), direction([list(column) for column in zip(*logits, strict=True)])
    return [(one + other) / 2 for one, other in zip(*both, strict=True)]


@pytest.mark.parametrize("captions", [[0, 1, 2], [4, 4, 4], [0, 7, 0]])
def test_contrast_by_its_formula(transformer: ImageTextTask, captions: list[int], monkeypatch: pytest.MonkeyPatch):
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(1)) * 3
    fixed(transformer, logits, monkeypatch)
    (found,) = transformer.module(batch_of(captions)).values()
    assert found.tolist() == pytest.approx(slow_contrast(logits.tolist(), captions), rel=1e-5)


def test_nearest_is_own(transformer: ImageTextTask, monkeypatch: pytest.MonkeyPatch):
    logits = torch.tensor([[0.0, 2.0, 1.0], [0.0, 5.0, 1.0], [9.0, 0.0, 1.0]])
    fixed(transformer, logits, monkeypatch)
    assert transformer.measures(batch_of([0, 1, 2]))["nearest_is_own"].tolist() == [0, 1, 0]
    # The third picture's nearest caption is the first's, which says the same.
    assert transformer.measures(batch_of([5, 1, 5]))["nearest_is_own"].tolist() == [0, 1, 1]


@torch.no_grad()
def test_logits_are_scaled_cosines(task: ImageTextTask):
    task.module.eval()
    batch = task.batch_of(task.training, [0, 5, 9, 14], [])
    model = task.module.model
    pictures, texts = model.encode_image(batch.pixels), model.encode_text(batch.ids)
    cosines = functional.cosine_similarity(pictures[:, None], texts[None], dim=-1)
    torch.testing.assert_close(task.module.logits(batch), model.logit_scale.exp() * cosines, rtol=1e-3, atol=1e-3)
    model.logit_scale.fill_(9.0)
    assert float(task.module.logits(batch).abs().max()) <= 100.001  # the scale is bounded


def test_batches_hold_pictures_and_their_captions(transformer: ImageTextTask):
    numbers = list(range(24))
    batch = transformer.batch_of(transformer.training, numbers, [])
    assert torch.equal(batch.pixels, transformer.training.pixels(numbers))
    captions = [transformer.training.captions[number] for number in numbers]
    assert torch.equal(batch.ids, Vocabulary.of(transformer.training.captions).ids(captions))
    for one, number in zip(captions, batch.captions.tolist(), strict=True):
        assert [same == number for same in batch.captions.tolist()] == [other == one for other in captions]
    both = transformer.batch_of(transformer.held_out, numbers, []).captions
    shared = set(captions) & {transformer.held_out.captions[number] for number in numbers}
    assert bool(set(both.tolist()) & set(batch.captions.tolist())) == bool(shared)


def test_it_learns_which_caption_belongs_to_which_picture(task: ImageTextTask):
    task.load_data(Share(process=0, processes=1, batch_size=8), lambda stage, done, total, note="": None)
    batch = task.batch_of(task.training, list(range(0, 24, 3)), [])
    optimizer = torch.optim.AdamW(task.module.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = task.module(batch)["contrast"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 1.5 and losses[-1] < 0.5 * losses[0]


@torch.no_grad()
def test_file_builds_the_librarys_class(task: ImageTextTask, tmp_path: Path):
    path = tmp_path / "network.safetensors"
    task.write_result(path, {"steps": 3})
    file = read_network(path, "image_text")
    assert file.training == {"steps": 3}
    tokens = file.state_dict.pop("tokens")
    model = image_text_model(file.sizes, len(tokens) + 1).eval()
    model.load_state_dict(file.state_dict, strict=True)
    task.module.eval()
    batch = task.batch_of(task.held_out, [1, 2], [])
    for name in ("encode_image", "encode_text"):
        given = batch.pixels if name == "encode_image" else batch.ids
        found, expected = (getattr(each, name)(given, normalize=True) for each in (model, task.module.model))
        torch.testing.assert_close(found, expected, atol=5e-3, rtol=5e-3)


def test_samples_show_a_picture_over_a_caption(transformer: ImageTextTask):
    picture = transformer.sample_grid(contextlib.nullcontext)
    assert picture.width > 100 and picture.height > 8 * 100
    assert transformer.module.training
