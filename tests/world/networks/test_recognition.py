"""Networks that tell who is in a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, ResNetConfig, ResNetModel

from bolid.models.network_file import read_network
from bolid.training.base import encode_image
from bolid.training.data import Share
from bolid.world.networks.config import RecognitionSettings
from bolid.world.networks.dataset import Pictures, load_pictures
from bolid.world.networks.principal import start_patches
from bolid.world.networks.recogniser import Recogniser, read_recogniser
from bolid.world.networks.recognition import (
    TEMPERATURE,
    People,
    RecognitionStep,
    RecognitionTask,
    _area,
    load_recogniser,
    recognition_sizes,
    supervised_contrast,
)

from .conftest import SMALL, Config, DrawnWorld

CPU = torch.device("cpu")
ALONE = Share(process=0, processes=1, batch_size=4)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sizes_of(kind: str) -> dict[str, Any]:
    width = 32 if kind == "transformer" else 16
    return recognition_sizes(RecognitionSettings(kind=kind, dim=24, width=width, depth=1))


def recogniser_of(kind: str) -> Recogniser:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Recogniser(sizes_of(kind)).eval()


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Nobody is told."""


@pytest.mark.parametrize(("contrast", "matters"), [(1.0, True), (0.0, False)])
def test_rows_of_a_process_matter_where_they_are_compared(config: Config, contrast: float, matters: bool):
    task = RecognitionTask(config("recognition", recognition={"contrast": contrast}), device=CPU)
    assert task.result_depends_on().get("run.batch_size") == (4 if matters else None)


# The term that tells people apart


def slow_contrast(embeds: torch.Tensor, people: list[int]) -> list[float]:
    """Equation 2 of https://arxiv.org/abs/2004.11362, number by number."""
    vectors = [[value / math.sqrt(sum(v * v for v in row)) for value in row] for row in embeds.tolist()]
    numbers = range(len(vectors))

    def chance(one: int, other: int) -> float:
        return math.exp(sum(a * b for a, b in zip(vectors[one], vectors[other], strict=True)) / TEMPERATURE)

    losses = []
    for one in numbers:
        others = [other for other in numbers if other != one]
        same = [other for other in others if people[other] == people[one]]
        total = sum(chance(one, other) for other in others)
        losses.append(-sum(math.log(chance(one, other) / total) for other in same) / max(len(same), 1))
    return losses


@pytest.mark.parametrize(
    "people", [[0, 0, 1, 1, 2, 2], [5, 5, 5, 9, 9, 2], [0, 1, 2, 3, 4, 5], [7, 7, 7, 7, 7, 7], [1, 0, 1, 0, 1, 0]]
)
def test_contrast_is_the_published_formula(people: list[int]):
    embeds = random(6, 5)
    found = supervised_contrast(embeds, torch.tensor(people))
    assert found.tolist() == pytest.approx(slow_contrast(embeds, people), rel=1e-4, abs=1e-5)


def test_contrast_falls_as_people_come_apart():
    people = torch.tensor([0, 0, 1, 1, 2, 2])
    apart = torch.eye(3)[people]
    assert supervised_contrast(apart, people).max() < 1e-3
    assert supervised_contrast(apart, torch.tensor([0, 1, 1, 2, 2, 0])).min() > 9
    assert torch.allclose(supervised_contrast(apart * 100, people), supervised_contrast(apart, people))
    alike = supervised_contrast(torch.ones(6, 4), people)
    assert alike.tolist() == pytest.approx([math.log(5)] * 6, rel=1e-5)


def test_a_picture_without_another_of_its_person_costs_nothing():
    embeds = random(4, 5).requires_grad_()
    loss = supervised_contrast(embeds, torch.tensor([0, 1, 0, 2]))
    assert loss[1] == loss[3] == 0 and loss[0] > 0
    loss.sum().backward()
    assert embeds.grad.isfinite().all()
    one = random(1, 5).requires_grad_()
    alone = supervised_contrast(one, torch.tensor([0]))
    alone.sum().backward()
    assert alone.tolist() == [0] and one.grad.isfinite().all()


def test_contrast_is_computed_in_float32_under_autocast():
    embeds, people = random(8, 64), torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    expected, area = supervised_contrast(embeds, people), _area(embeds, people)
    with torch.autocast("cpu", torch.bfloat16):
        assert (embeds @ embeds.T).dtype == torch.bfloat16
        found = supervised_contrast(embeds, people)
        assert found.dtype == torch.float32 and torch.equal(found, expected)
        assert torch.equal(_area(embeds, people), area)
        halves = supervised_contrast(embeds.bfloat16(), people)
        assert halves.dtype == torch.float32 and torch.allclose(halves, expected, atol=0.05)


# How well they are told apart


def test_area_of_embeddings_that_tell_all_nothing_and_the_opposite():
    people = torch.arange(8).repeat_interleave(4)
    apart = torch.eye(8)[people]
    assert _area(apart + 0.01 * random(32, 8), people).tolist() == [1]
    assert _area(torch.ones(32, 8), people).tolist() == pytest.approx([0.5], abs=0.01)
    others = torch.arange(4).repeat(8)  # those of one person never share a vector
    assert _area(torch.eye(4)[others], people).item() < 0.5
    areas = [_area(random(64, 16, seed=seed), torch.arange(16).repeat_interleave(4)).item() for seed in range(20)]
    assert sum(areas) / 20 == pytest.approx(0.5, abs=0.02)


def test_area_by_hand():
    angles = torch.tensor([0.0, 0.2, 0.5, 1.1])
    embeds = torch.stack((angles.cos(), angles.sin()), dim=1)
    # Within: 0-1 0.2, 2-3 0.6; between: 0-2 0.5, 0-3 1.1, 1-2 0.3, 1-3 0.9. Right: 4 of 4 and 2 of 4.
    assert _area(embeds, torch.tensor([0, 0, 1, 1])).item() == pytest.approx(6 / 8)


# The networks


@pytest.mark.parametrize("kind", ["transformer", "convolutional"])
def test_embeddings_are_of_the_width_that_was_asked_for(kind: str):
    recogniser = recogniser_of(kind)
    with torch.autocast("cpu", torch.bfloat16):
        embeds = recogniser(random(2, 3, 128, 128).clamp(-1, 1))
    assert embeds.shape == (2, 24) and embeds.dtype == torch.float32
    settings = RecognitionSettings(**SMALL["recognition"])
    assert recognition_sizes(settings)["hidden_sizes"] == [16, 32, 64, 128]


def test_the_transformer_sees_pictures_as_image_encoders_do(drawn: DrawnWorld):
    """The adapters' training reads it as a `CLIPVisionModelWithProjection`."""
    pixels = load_pictures([drawn.large], "base").pixels([0])
    recogniser = recogniser_of("transformer")
    with torch.no_grad():
        found = recogniser(pixels)
    expected, _ = encode_image(recogniser.network, (pixels / 2 + 0.5).movedim(1, -1))
    torch.testing.assert_close(found, expected)


@pytest.fixture
def task(config: Config) -> RecognitionTask:
    return RecognitionTask(config("recognition"), device=CPU)


def test_terms_are_weighted_as_the_config_says(config: Config):
    heads = {"heads": ["style", "bones"], "contrast": 0.25}
    task = RecognitionTask(config("recognition", recognition=heads), device=CPU)
    assert task.terms == {"contrast": 0.25, "heads": 1.0}
    terms = task.module(task.batch_of(task.training, [0, 1, 2], []))
    assert set(terms) == {"contrast", "heads"} and all(term.shape == (3,) for term in terms.values())
    task = RecognitionTask(config("recognition", recognition={"heads": []}), device=CPU)
    assert task.terms == {"contrast": 1.0}
    assert set(task.module(task.batch_of(task.training, [0, 1, 2], []))) == {"contrast"}


def test_parts_are_read_off_the_patches_of_their_place(drawn: DrawnWorld, tmp_path: Path):
    recognition = {"kind": "transformer", "width": 32, "parts": 0.5, "contrast": 0.0}
    data = {"folders": [str(drawn.large)]}
    task = RecognitionTask(drawn.config("recognition", tmp_path, data=data, recognition=recognition), device=CPU)
    assert task.terms == {"contrast": 0.0, "heads": 1.0, "parts": 0.5}
    batch = task.batch_of(task.training, [0, 5], [])
    parts = task.training.parts([0, 5])
    assert batch.spots.shape == (2, 32, 32) and torch.equal(batch.spots[:, 3, 7], parts[:, 14, 30])

    head = task.module.parts
    with torch.no_grad():
        head.layer.weight.zero_()
        head.layer.weight[:, 0] = 1.0
        head.layer.bias.copy_(torch.arange(7 * 16) / 1000)
    features = torch.zeros(1, 32, 8, 8)
    features[0, 0] = torch.arange(64).view(8, 8)
    maps = head(features)
    assert maps.shape == (1, 7, 32, 32)
    for part, row, column in ((0, 0, 0), (3, 5, 30), (6, 31, 17)):
        place = 4 * (row % 4) + column % 4
        expected = 8 * (row // 4) + column // 4 + (16 * part + place) / 1000
        assert maps[0, part, row, column].item() == pytest.approx(expected, abs=1e-4)

    with torch.no_grad():
        head.layer.weight.zero_()
        head.layer.bias.zero_()
        terms, measures = task.module(batch), task.measures(batch)
    assert terms["parts"].tolist() == pytest.approx([math.log(7)] * 2)
    # Of what is not background, and all are told to be background now.
    assert len(measures["parts_right"]) == (batch.spots > 0).sum() and not measures["parts_right"].any()
    path = tmp_path / "network.safetensors"
    task.write_result(path, {})
    assert not [name for name in read_network(path, "recognition").state_dict if name.startswith("parts")]
    load_recogniser(path)


def test_only_transformers_have_tokens(config: Config):
    with pytest.raises(ValueError, match="parts"):
        config("recognition", recognition={"kind": "convolutional", "parts": 1.0})


def test_transformers_start_with_patches_by_their_components():
    embedding = torch.nn.Conv2d(3, 20, 16, stride=16, bias=False)
    pixels = random(40, 3, 64, 64) + random(40, 3, 1, 1, seed=1) * 2 + random(1, 1, 64, 64, seed=2)
    start_patches(embedding, pixels)
    with torch.no_grad():
        found = embedding(pixels).movedim(1, -1).flatten(0, -2)
    patches = pixels.unfold(2, 16, 16).unfold(3, 16, 16).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)
    centred = (patches - patches.mean(dim=0)).double().numpy()
    sizes = np.linalg.svd(centred, compute_uv=False)
    sizes /= (len(centred) - 1) ** 0.5
    reached = (found - found.mean(dim=0)).double().numpy()
    # Between their own sizes and equal ones; independent of each other.
    np.testing.assert_allclose(reached.std(axis=0, ddof=1), sizes[:20] ** 0.5, rtol=1e-3)
    correlation = np.corrcoef(reached.T)
    assert np.abs(correlation - np.eye(20)).max() < 1e-3


def test_batches_hold_the_truth_of_their_pictures(task: RecognitionTask):
    for pictures in (task.training, task.held_out):
        batch = task.batch_of(pictures, [7, 2], [])
        assert batch.names == pictures.names([7, 2])
        assert batch.people.tolist() == [1, 0]
        assert torch.equal(batch.pixels, pictures.pixels([7, 2]))
        framings = ("full body", "half body", "portrait")
        assert [framings[number] for number in batch.truths["framing"].tolist()] == [
            pictures.attributes[number]["framing"] for number in (7, 2)
        ]
        assert batch.truths["bones"].shape == (2, 7)


def test_measures_are_of_pictures_that_were_not_learned_from(task: RecognitionTask):
    task.load_data(ALONE, silent)
    before = {name: tensor.clone() for name, tensor in task.module.state_dict().items()}
    totals = task.validation_values(torch.no_grad)
    assert {"contrast", "heads", "auc", "framing", "freckles", "bones_error"} <= set(totals)
    assert totals["framing"][1] == totals["contrast"][1] == 2 * 4 and totals["auc"][1] == 2
    # Batch norm neither learns from them, nor depends on who else is in the batch.
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.module.state_dict().items())
    assert task.module.training
    numbers = [number for batch in range(2) for number in task._held_out_draws.batch(batch)]
    task.module.eval()
    right = 0
    for number in numbers:
        batch = task.batch_of(task.held_out, [number], [])
        with torch.no_grad():
            said = task.module.heads(task.module.recogniser(batch.pixels))["framing"]
        right += int(said.argmax() == batch.truths["framing"])
    assert totals["framing"][0] == right


def test_nobody_asks_who_it_is_without_the_term(config: Config):
    task = RecognitionTask(config("recognition", recognition={"contrast": 0.0}), device=CPU)
    task.module.eval()
    assert "auc" not in task.measures(task.batch_of(task.held_out, [0, 1], []))


# Files


@pytest.mark.parametrize("kind", ["transformer", "convolutional"])
def test_file_gives_the_same_network_in_half_precision(drawn: DrawnWorld, tmp_path: Path, kind: str):
    sections = {"width": 32} if kind == "transformer" else {}
    config = drawn.config(
        "recognition", tmp_path, data={"folders": [str(drawn.large)]}, recognition={"kind": kind, **sections}
    )
    task = RecognitionTask(config, device=CPU)
    task.module(task.batch_of(task.training, [0, 1, 2, 3], []))  # batch norm has seen something
    path = tmp_path / "network.safetensors"
    task.write_result(path, {"steps": 3})
    file = read_network(path, "recognition")
    assert file.training == {"steps": 3} and file.sizes["heads"] == SMALL["recognition"]["heads"]
    read = load_recogniser(path)
    assert isinstance(read, RecognitionStep) and not read.training
    assert not any(parameter.requires_grad for parameter in read.parameters())
    for name, tensor in task.module.state_dict().items():
        expected = tensor.half().float() if tensor.is_floating_point() else tensor
        assert torch.equal(read.state_dict()[name], expected), name
    batch: People = task.batch_of(task.held_out, [0, 1, 2, 3], [])
    task.module.eval()
    with torch.no_grad():
        for name, term in task.module(batch).items():
            torch.testing.assert_close(read(batch)[name], term, rtol=0.02, atol=0.02)
        assert torch.equal(read_recogniser(path)(batch.pixels), read.recogniser(batch.pixels))

    sizes = {key: value for key, value in file.sizes["recogniser"].items() if key != "kind"}
    if kind == "transformer":
        network: Any = CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes))
    else:
        del sizes["projection_dim"]
        network = ResNetModel(ResNetConfig(**sizes, layer_type="basic"))
    network.load_state_dict(file.part("recogniser.network"), strict=True)


def test_another_kind_of_file_is_refused(drawn: DrawnWorld):
    with pytest.raises(ValueError, match="autoencoder.safetensors is a network of the kind 'autoencoder'; expected"):
        load_recogniser(drawn.autoencoder)


@pytest.fixture(scope="module")
def held_out(drawn: DrawnWorld) -> Pictures:
    return load_pictures([drawn.pictures], "validation")


def test_samples_show_each_picture_before_its_nearest(task: RecognitionTask, held_out: Pictures):
    task.load_data(ALONE, silent)
    sheet = task.sample_grid(torch.no_grad)
    assert task.module.training
    # Four rows of six cells: the first is the picture itself, which nothing is nearer to.
    assert sheet.width > 6 * 190 and sheet.height > 4 * 190
    for row in range(4):
        shown = sheet.crop((4, 20 + row * 212, 4 + 192, 20 + row * 212 + 192))
        (expected,) = held_out.pixels([row * len(held_out) // 4])
        seen = torch.tensor(np.asarray(shown.resize((64, 64)))).movedim(-1, 0) / 127.5 - 1
        assert (seen - expected).abs().mean() < 0.05
