"""The base model: its loss, the latents it learns from, its file."""

from __future__ import annotations

import contextlib
import itertools
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file

from bolid.models.body_encoder import BodyIDEncoder
from bolid.models.network_file import read_network, write_network
from bolid.training import cache as training_cache
from bolid.training.base import to_latents
from bolid.training.data import Share
from bolid.training.randomness import keyed_generator
from bolid.training.samples import GAP
from bolid.world.networks import base_model
from bolid.world.networks.autoencoder import load_autoencoder
from bolid.world.networks.base_model import BaseTask, Noised, text_encoder
from bolid.world.networks.dataset import Pictures
from bolid.world.networks.recognition import RecognitionTask, load_recogniser
from bolid.world.networks.vocabulary import VOCABULARY_SIZE, Vocabulary
from bolid.world.parts import PARTS

from .conftest import Config, DrawnWorld, write_autoencoder

CPU = torch.device("cpu")
ALONE = Share(process=0, processes=1, batch_size=4)


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Nobody is told."""


@pytest.fixture
def task(config: Config) -> BaseTask:
    task = BaseTask(config("base", base={"drop_text": 0.3}), device=CPU)
    task.load_data(ALONE, silent)
    return task


def generators(count: int, *key: object) -> list[torch.Generator]:
    return [keyed_generator(*key, number) for number in range(count)]


# Loss


def published_alphas() -> np.ndarray:
    """ᾱ_t of Stable Diffusion's schedule, moved to a last one of 0 (https://arxiv.org/abs/2305.08891, algorithm 1)."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    roots = np.cumprod(1 - betas) ** 0.5
    return ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2


def test_the_last_timestep_is_nothing_but_noise(task: BaseTask):
    found = task.module.denoiser.alphas_cumprod.double().numpy()
    assert found[-1] == pytest.approx(0, abs=1e-12) and found[0] == pytest.approx(1 - 0.00085, abs=1e-6)
    np.testing.assert_allclose(found, published_alphas(), atol=1e-6)
    assert task.module.denoiser.prediction_type == "v_prediction"


def test_loss_is_the_error_of_the_velocity_at_all_times_alike(task: BaseTask):
    batch: Noised = task.batch_of(task.training, [0, 5, 9, 20], generators(4, "loss"))
    batch = Noised(**{**vars(batch), "timesteps": torch.tensor([3, 400, 700, 999])})
    with torch.no_grad():
        (found,) = task.module(batch).values()
        kept = torch.from_numpy(published_alphas())[batch.timesteps].float().view(-1, 1, 1, 1)
        noisy = kept.sqrt() * batch.latents + (1 - kept).sqrt() * batch.noise
        text = task.module.text(input_ids=batch.ids).last_hidden_state
        predicted = task.module.unet(noisy, batch.timesteps, text).sample
        velocity = kept.sqrt() * batch.noise - (1 - kept).sqrt() * batch.latents
        error = (predicted - velocity).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(found, error, rtol=1e-3, atol=1e-5)


def test_denoiser_and_text_encoder_learn_together(task: BaseTask):
    task.module(task.batch_of(task.training, [0, 5], generators(2)))["reconstruction"].mean().backward()
    unused = {"text.text_model.embeddings.token_embedding.weight"}  # only rows that are used
    still = [name for name, weight in task.module.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert set(still) <= unused
    assert any(name.startswith("text.") for name, _ in task.module.named_parameters())


def test_parts_are_read_off_the_middle(config: Config, tmp_path: Path):
    task = BaseTask(config("base", base={"parts": 0.5}), device=CPU)
    task.load_data(ALONE, silent)
    assert task.terms == {"reconstruction": 1.0, "parts": 0.5}
    batch = task.batch_of(task.training, [0, 5], generators(2))
    parts = task.training.parts([0, 5])
    assert torch.equal(batch.spots[:, 3, 7], parts[:, 14, 30])

    terms = task.module(batch)
    terms["parts"].mean().backward()
    taught = [name for name, weight in task.module.unet.named_parameters() if weight.grad is not None]
    assert any(name.startswith("down_blocks.0") for name in taught)
    assert not any(name.startswith("up_blocks") for name in taught)
    with torch.no_grad():
        task.module.parts.layer.weight.zero_()
        task.module.parts.layer.bias.zero_()
        assert task.module(batch)["parts"].tolist() == pytest.approx([math.log(7)] * 2)
    assert not task.module.unet.mid_block._forward_hooks
    task.write_result(tmp_path / "base.safetensors", {})
    assert {key.split(".")[0] for key in read_network(tmp_path / "base.safetensors", "base").state_dict} == {
        "unet", "text_encoder", "tokens"
    }  # fmt: skip


def test_the_caption_matters(task: BaseTask):
    batch = task.batch_of(task.held_out, [0], generators(1))
    other = Noised(**{**vars(batch), "ids": task._vocabulary.ids(["a photo of a person on the beach, running"])})
    with torch.no_grad():
        assert task.module(batch)["reconstruction"] != task.module(other)["reconstruction"]


# What is drawn


def test_captions_are_dropped_as_often_as_the_config_says(task: BaseTask):
    (empty,) = task._vocabulary.ids([""])
    number, pictures = 5, task.training
    (caption,) = task._vocabulary.ids([pictures.captions[number]])
    batch = task.batch_of(pictures, [number] * 600, generators(600, "dropped"))
    dropped = (batch.ids == empty).all(dim=1)
    assert (batch.ids[~dropped] == caption).all()
    assert float(dropped.float().mean()) == pytest.approx(0.3, abs=0.06)
    held_out = task.batch_of(task.held_out, [number] * 600, generators(600, "dropped"))
    assert (held_out.ids == task._vocabulary.ids([task.held_out.captions[number]])).all()


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 0), (1.0, 40)])
def test_captions_are_never_or_always_dropped(config: Config, rate: float, expected: int):
    task = BaseTask(config("base", base={"drop_text": rate}), device=CPU)
    task.load_data(ALONE, silent)
    ids = task.batch_of(task.training, [3] * 40, generators(40)).ids
    assert int((ids == task._vocabulary.ids([""])).all(dim=1).sum()) == expected


def test_noise_and_timesteps_follow_from_their_generator(task: BaseTask):
    batch = task.batch_of(task.training, [4] * 500, generators(500, "noise"))
    assert batch.noise.shape == (500, 4, 8, 8)
    assert (float(batch.noise.mean()), float(batch.noise.std())) == pytest.approx((0, 1), abs=0.02)
    assert batch.timesteps.min() >= 0 and batch.timesteps.max() <= 999
    assert torch.histc(batch.timesteps.float(), bins=5, min=0, max=1000).min() > 70
    again = task.batch_of(task.training, [9], generators(500, "noise")[7:8])
    assert torch.equal(again.noise[0], batch.noise[7]) and again.timesteps[0] == batch.timesteps[7]


# References


@pytest.fixture
def image_encoder(config: Config, tmp_path: Path) -> Path:
    """The file of one that has learnt nothing, but tells pictures apart."""
    task = RecognitionTask(config("recognition"), device=CPU)
    torch.nn.init.normal_(task.module.recogniser.projection.weight, generator=torch.Generator().manual_seed(1))
    path = tmp_path / "image_encoder.safetensors"
    task.write_result(path, {})
    return path


@pytest.fixture
def referring(config: Config, image_encoder: Path) -> BaseTask:
    """Its held-out pictures are learned from without references, the others always with them."""
    base = {"references": 1.0, "image_encoder": str(image_encoder), "poses": 1.0}
    task = BaseTask(config("base", base=base), device=CPU)
    task.load_data(ALONE, silent)
    return task


def test_references_are_other_pictures_of_the_person(referring: BaseTask, image_encoder: Path):
    pictures = referring.training
    embeds = load_recogniser(image_encoder).recogniser(pictures.pixels(range(len(pictures))))
    others = [other for other in pictures.pictures_of[int(pictures.people[5])] if other != 5]
    means = {
        chosen: embeds[list(chosen)].mean(dim=0)
        for count in range(1, len(others) + 1)
        for chosen in itertools.combinations(others, count)
    }
    seen = set()
    for found in referring.batch_of(pictures, [5] * 60, generators(60, "references")).image_embeds:
        distances = {chosen: float((found - mean).abs().max()) for chosen, mean in means.items()}
        nearest = min(distances, key=distances.get)
        assert distances[nearest] < 5e-3
        seen.add(nearest)
    assert {len(chosen) for chosen in seen} == {1, 2, 3}


def test_poses_are_the_joints_that_are_seen(referring: BaseTask):
    numbers = list(range(len(referring.training)))
    known, given = referring.training.joints, referring.batch_of(referring.training, numbers, generators(24)).joints
    seen = known[..., 2] > 0
    assert 0 < seen.float().mean() < 1
    assert torch.equal(given[seen], known[seen]) and not given[~seen].any()


@pytest.mark.parametrize("what", ["referenced", "posed"])
def test_what_is_not_shown_changes_nothing(what: str, referring: BaseTask):
    batch = referring.batch_of(referring.training, [0, 5], generators(2))
    assert batch.referenced.tolist() == batch.posed.tolist() == [1, 1]
    nothing = torch.tensor([0, 0])
    one_shown = replace(batch, **{"referenced": nothing, "posed": nothing, what: torch.tensor([0, 1])})
    with torch.no_grad():
        silent_terms = referring.module(replace(batch, image_embeds=None, joints=None))["reconstruction"]
        terms = referring.module(one_shown)["reconstruction"]
    torch.testing.assert_close(terms[0], silent_terms[0])
    assert (terms[1] - silent_terms[1]).abs() > 1e-5


def test_held_out_pictures_are_validated_without_and_with_what_is_shown(referring: BaseTask):
    batch = referring.batch_of(referring.held_out, [0, 5], generators(2))
    assert batch.referenced.tolist() == batch.posed.tolist() == [0, 0]
    with torch.no_grad():
        silent_terms, measures = referring.module(batch), referring.measures(batch)
    assert set(measures) == {"reconstruction_with_references", "reconstruction_with_poses"}
    for with_it in measures.values():
        assert not torch.allclose(with_it, silent_terms["reconstruction"])


def test_what_reads_references_and_poses_learns_and_the_latter_is_kept(referring: BaseTask, tmp_path: Path):
    referring.module(referring.batch_of(referring.training, [0, 5], generators(2)))["reconstruction"].mean().backward()
    assert all(weight.grad.any() for weight in referring.module.references.parameters())
    assert all(weight.grad is not None for weight in referring.module.poses.parameters())
    referring.write_result(tmp_path / "base.safetensors", {})
    file = read_network(tmp_path / "base.safetensors", "base")
    parts = {key.split(".")[0] for key in file.state_dict}
    assert parts == {"unet", "text_encoder", "tokens", "body_encoder"}
    encoder = BodyIDEncoder(hidden_size=192, **file.sizes["body_encoder"])
    assert encoder.load_state_dict(file.part("body_encoder"), strict=False).missing_keys == [
        "grid_in.weight", "grid_in.bias"
    ]  # fmt: skip
    # Proportions and what photos show: nothing was told of them, and nothing is made of them yet.
    joints = referring.batch_of(referring.training, [0, 5], generators(2)).joints
    told = {"target_pose": joints, "hidden_states": None}
    tokens = [
        encoder(proportions=torch.full((2, 7, 2), value), seen=joints[..., 2] > 0, **told) for value in (0.0, 1.3)
    ]
    assert torch.equal(*tokens)
    torch.testing.assert_close(
        tokens[0],
        referring.module.poses(proportions=torch.zeros(2, 7, 2), seen=torch.zeros(2, 12, dtype=torch.bool), **told),
        atol=2e-2,
        rtol=2e-2,
    )


def test_samples_have_a_column_for_everything_that_is_shown(referring: BaseTask, task: BaseTask):
    widths = [each.sample_grid(contextlib.nullcontext).width for each in (task, referring)]
    assert widths[1] == 2 * widths[0] - GAP


def test_the_result_depends_on_the_image_encoder(referring: BaseTask, config: Config):
    assert "base.image_encoder" in referring.result_depends_on()
    with pytest.raises(ValueError, match="references need an image_encoder"):
        config("base", base={"references": 0.5})


# Latents


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def base_of(config: Config, cache: Path, **sections: dict[str, object]) -> BaseTask:
    """With its latents in this cache."""
    base = {"cache": str(cache), **sections.pop("base", {})}
    task = BaseTask(config("base", base=base, **sections), device=CPU)
    task.load_data(ALONE, silent)
    return task


def test_latents_are_the_scaled_ones_of_the_pictures(task: BaseTask, drawn: DrawnWorld):
    autoencoder = load_autoencoder(drawn.autoencoder)
    for pictures in (task.training, task.held_out):
        batch = task.batch_of(pictures, [7, 2], generators(2))
        with torch.no_grad():
            expected, _ = to_latents(autoencoder, pictures.pixels([7, 2]))
        torch.testing.assert_close(batch.latents, expected, atol=2e-3, rtol=2e-3)
        assert float(expected.std()) == pytest.approx(1, abs=0.3)
        assert batch.latents.dtype == torch.float32 and batch.names == pictures.names([7, 2])


def test_latents_are_computed_once(
    config: Config, drawn: DrawnWorld, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    encoded: list[int] = []

    def counted(autoencoder: object, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        encoded.append(len(pixels))
        return to_latents(autoencoder, pixels)

    monkeypatch.setattr(base_model, "to_latents", counted)
    task = base_of(config, cache)
    files = {path: path.stat().st_mtime_ns for path in cache.glob("*/*")}
    shards = [path for path in files if path.suffix == ".safetensors"]
    assert sum(encoded) == 48 and len(shards) == 2
    assert all(tensor.dtype == torch.float16 for shard in shards for tensor in load_file(shard).values())

    encoded.clear()
    again = base_of(config, cache)
    assert encoded == [] and {path: path.stat().st_mtime_ns for path in cache.glob("*/*")} == files
    batches = [one.batch_of(one.training, [3], generators(1)).latents for one in (task, again)]
    assert torch.equal(*batches)

    base_of(config, cache, data={"split": "metrics"})
    assert sum(encoded) == 24  # those of the people who are held out are there

    encoded.clear()
    other = write_autoencoder(tmp_path / "other.safetensors", drawn, seed=1)
    stages: list[tuple[str, int, int]] = []
    base = {"autoencoder": str(other), "cache": str(cache)}
    BaseTask(config("base", base=base), device=CPU).load_data(
        ALONE, lambda stage, done, total, note="": stages.append((stage, done, total))
    )
    assert sum(encoded) == 48 and stages == [("latents", 24, 24)] * 2
    assert len(list(cache.iterdir())) == 5


def test_latents_go_on_after_a_kill(config: Config, cache: Path, monkeypatch: pytest.MonkeyPatch):
    """What is there already is not computed again, and all are the same."""
    monkeypatch.setattr(base_model, "ENCODED_AT_ONCE", 6)
    monkeypatch.setattr(training_cache, "SHARD_ENTRIES", 2)
    whole = base_of(config, cache)
    batch = whole.batch_of(whole.training, [0, 7, 15, 23], generators(4)).latents
    shutil.rmtree(cache)

    encoded: list[int] = []

    def killed(autoencoder: object, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if len(encoded) == 3:
            raise KeyboardInterrupt
        encoded.append(len(pixels))
        return to_latents(autoencoder, pixels)

    monkeypatch.setattr(base_model, "to_latents", killed)
    with pytest.raises(KeyboardInterrupt):
        base_of(config, cache)
    assert len(list(cache.glob("*/*.safetensors"))) == 1  # of two chunks; the third was not written yet

    def counted(autoencoder: object, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        encoded.append(len(pixels))
        return to_latents(autoencoder, pixels)

    encoded.clear()
    monkeypatch.setattr(base_model, "to_latents", counted)
    again = base_of(config, cache)
    assert encoded == [6] * 6  # two of the training pictures' four chunks, and the four of those who are held out
    latents = again.batch_of(again.training, [0, 7, 15, 23], generators(4)).latents
    assert torch.equal(latents, batch) and latents.stride() == batch.stride()


def test_damaged_latents_are_told_by_their_file(config: Config, cache: Path):
    base_of(config, cache)
    damaged = min(cache.glob("*/*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(Exception, match=f"{damaged.name} is damaged .*Delete it"):
        base_of(config, cache)


def test_computed_and_cached_latents_lie_alike_in_memory(config: Config, cache: Path):
    """Otherwise other convolutions run, and the same command gives other bits."""
    task = base_of(config, cache)
    again = base_of(config, cache)
    one, two = (each.batch_of(each.training, [3], generators(1)).latents for each in (task, again))
    assert one.is_contiguous() and two.is_contiguous()


def test_latents_of_another_scale_are_others(task: BaseTask, config: Config, drawn: DrawnWorld, tmp_path: Path):
    file, other = read_network(drawn.autoencoder, "autoencoder"), tmp_path / "other.safetensors"
    file.sizes["autoencoder"]["scaling_factor"] *= 2
    write_network(other, file.state_dict, network="autoencoder", sizes=file.sizes)
    rescaled = BaseTask(config("base", base={"autoencoder": str(other)}), device=CPU)
    rescaled.load_data(ALONE, silent)
    one, two = (each.batch_of(each.training, [3], generators(1)).latents for each in (task, rescaled))
    torch.testing.assert_close(two, 2 * one, atol=4e-3, rtol=2e-3)


def test_many_pictures_are_encoded_in_parts(
    task: BaseTask, config: Config, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(base_model, "ENCODED_AT_ONCE", 7)
    again = base_of(config, cache)
    numbers = list(range(24))
    for pictures, known in ((again.training, task.training), (again.held_out, task.held_out)):
        latents = again.batch_of(pictures, numbers, generators(24)).latents
        expected = task.batch_of(known, numbers, generators(24)).latents
        torch.testing.assert_close(latents, expected, atol=2e-3, rtol=2e-3)


def test_the_result_depends_on_the_autoencoder_and_the_pictures(config: Config, drawn: DrawnWorld, tmp_path: Path):
    def depends_on(**sections: dict[str, object]) -> dict[str, str]:
        return BaseTask(config("base", **sections), device=CPU).result_depends_on()

    known = depends_on()
    copied = tmp_path / "copied.safetensors"
    copied.write_bytes(drawn.autoencoder.read_bytes())
    assert depends_on(base={"autoencoder": str(copied)}) == known
    other = write_autoencoder(tmp_path / "other.safetensors", drawn, seed=1)
    changed = depends_on(base={"autoencoder": str(other)})
    assert changed["base.autoencoder"] != known["base.autoencoder"]
    assert changed["data.folders"] == known["data.folders"]
    changed = depends_on(data={"split": "metrics"})
    assert changed["data.folders"] != known["data.folders"]


# Files


def test_file_builds_the_librarys_classes(task: BaseTask, tmp_path: Path):
    path = tmp_path / "network.safetensors"
    task.write_result(path, {"steps": 2})
    stored = load_file(path)
    assert {tensor.dtype for name, tensor in stored.items() if name != "tokens"} == {torch.float16}
    file = read_network(path, "base")
    assert file.training == {"steps": 2}
    unet = UNet2DConditionModel(**file.sizes["unet"]).eval()
    unet.load_state_dict(file.part("unet"), strict=True)
    vocabulary = Vocabulary(file.state_dict["tokens"].tolist())
    small = text_encoder(file.sizes["text_encoder"], len(vocabulary)).eval()
    small.load_state_dict(file.part("text_encoder"), strict=True)
    assert len(file.part("unet")) + len(file.part("text_encoder")) + 1 == len(file.state_dict)
    scheduler = DDPMScheduler(**file.sizes["schedule"])
    assert torch.equal(scheduler.alphas_cumprod, task.module.denoiser.alphas_cumprod)

    task.module.eval()
    batch = task.batch_of(task.held_out, [0, 8], generators(2))
    with torch.no_grad():
        text = small(input_ids=vocabulary.ids([task.held_out.captions[number] for number in (0, 8)])).last_hidden_state
        torch.testing.assert_close(text, task.module.text(batch.ids).last_hidden_state, atol=5e-3, rtol=5e-3)
        expected = task.module.denoise(batch.noise, batch.timesteps, text, None)
        torch.testing.assert_close(unet(batch.noise, batch.timesteps, text).sample, expected, atol=5e-3, rtol=5e-3)


def test_text_encoder_reads_clips_numbers_once_its_table_is_spread(task: BaseTask):
    captions = [*task.held_out.captions[:3], "a zebra by the sea", ""]
    table = "embeddings.token_embedding.weight"
    state_dict = task.module.text.state_dict()
    (key,) = [name for name in state_dict if name.endswith(table)]
    sizes = base_model.text_encoder_sizes(task.config.base)
    large = text_encoder(sizes, VOCABULARY_SIZE).eval()
    large.load_state_dict({**state_dict, key: task._vocabulary.spread(state_dict[key])}, strict=True)
    ours = task._vocabulary.ids(captions)
    clips = Vocabulary(range(VOCABULARY_SIZE)).ids(captions) - 1
    task.module.eval()
    with torch.no_grad():
        expected = task.module.text(input_ids=ours)
        found = large(input_ids=clips)
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state)
    torch.testing.assert_close(found.pooler_output, expected.pooler_output)


def test_another_kind_of_file_is_no_autoencoder(task: BaseTask, config: Config, tmp_path: Path):
    path = tmp_path / "base.safetensors"
    task.write_result(path, {})
    with pytest.raises(ValueError, match="base.safetensors is a network of the kind 'base'; expected.*'autoencoder'"):
        BaseTask(config("base", base={"autoencoder": str(path)}), device=CPU)
    with pytest.raises(FileNotFoundError, match="none.safetensors"):
        BaseTask(config("base", base={"autoencoder": str(tmp_path / "none.safetensors")}), device=CPU)


# Going on from a base model


def test_learning_goes_on_from_a_file(task: BaseTask, config: Config, tmp_path: Path):
    start = tmp_path / "start.safetensors"
    with torch.no_grad():
        for weight in task.module.parameters():
            weight.add_(0.01)
    task.write_result(start, {})
    again = BaseTask(config("base", base={"start": str(start)}), device=CPU)
    known = task.module.state_dict()
    for name, weight in again.module.state_dict().items():
        torch.testing.assert_close(weight, known[name], atol=2e-3, rtol=2e-3)
    depends_on = again.result_depends_on()
    assert "base.start" not in task.result_depends_on()
    moved = start.rename(tmp_path / "moved.safetensors")
    assert BaseTask(config("base", base={"start": str(moved)}), device=CPU).result_depends_on() == depends_on


@pytest.mark.parametrize(
    ("base", "different"),
    [
        ({"layers_per_block": 2}, "unet"),
        ({"text_layers": 2}, "text_encoder"),
        ({"text_layers": 2, "layers_per_block": 2}, "unet and text_encoder"),
    ],
)
def test_a_start_that_does_not_fit(
    task: BaseTask,
    config: Config,
    tmp_path: Path,
    base: dict[str, object],
    different: str,
):
    start = tmp_path / "start.safetensors"
    task.write_result(start, {})
    with pytest.raises(ValueError, match=f"start.safetensors has another {different} than this config"):
        BaseTask(config("base", base={**base, "start": str(start)}), device=CPU)


def test_words_that_a_start_has_not_read_are_new(task: BaseTask, config: Config, tmp_path: Path):
    start = tmp_path / "start.safetensors"
    task.write_result(start, {})
    again = BaseTask(config("base", base={"start": str(start), "looks": 0.5}), device=CPU)
    fresh = BaseTask(config("base", base={"looks": 0.5}), device=CPU)
    tables = [
        dict(zip((-1, *one._vocabulary.tokens), one.module.text.get_input_embeddings().weight, strict=True))
        for one in (task, again, fresh)
    ]
    old, found, random = tables
    assert len(found) > len(old) and set(old) < set(found)
    for token, row in found.items():
        torch.testing.assert_close(row, old.get(token, random[token]), atol=1e-4, rtol=1e-3)


# Looks


def test_some_captions_go_on_with_looks(config: Config):
    task = BaseTask(config("base", base={"looks": 0.4, "drop_text": 0.0}), device=CPU)
    task.load_data(ALONE, silent)
    pictures, number = task.training, 5
    (plain,) = task._vocabulary.ids([pictures.captions[number]])
    batch = task.batch_of(pictures, [number] * 400, generators(400, "looks"))
    with_more = ~(batch.ids == plain).all(dim=1)
    assert float(with_more.float().mean()) == pytest.approx(0.4, abs=0.08)
    assert len({tuple(row) for row in batch.ids[with_more].tolist()}) > 100
    assert (batch.ids > 0).all()  # every word has a number
    held_out = task.batch_of(task.held_out, [number] * 50, generators(50, "looks"))
    assert (held_out.ids == task._vocabulary.ids([task.held_out.captions[number]])).all()


# What counts more


def test_person_and_head_count_more(config: Config):
    settings = {"person_weight": 3.0, "head_weight": 2.0}
    task = BaseTask(config("base", base=settings), device=CPU)
    task.load_data(ALONE, silent)
    batch = task.batch_of(task.training, [0, 5], generators(2))
    assert batch.spots is None
    parts = task.training.parts([0, 5])[:, 2::4, 2::4]
    weights = torch.ones(parts.shape)
    weights[parts > 0] = 3
    weights[(parts == PARTS.index("face")) | (parts == PARTS.index("hair"))] = 6
    side = batch.latents.shape[-1]
    cells = weights.unflatten(2, (side, -1)).unflatten(1, (side, -1))
    torch.testing.assert_close(batch.cell_weights, cells.mean(dim=(2, 4)))
    assert 1 in weights and 3 in weights and 6 in weights
    with torch.no_grad():
        (found,) = task.module(batch).values()
        (plain,) = task.module(replace(batch, cell_weights=None)).values()
        (even,) = task.module(replace(batch, cell_weights=torch.full_like(batch.cell_weights, 5.0))).values()
    torch.testing.assert_close(plain, even)
    assert (found - plain).abs().min() > 1e-4


def test_shifted_timesteps_of_training(config: Config):
    plain, moved = (BaseTask(config("base", base={"timestep_shift": shift}), device=CPU) for shift in (1.0, 3.0))
    for task in (plain, moved):
        task.load_data(ALONE, silent)
    numbers = [1, 2, 3]
    first, second = (task.batch_of(task.training, numbers, generators(3)).timesteps for task in (plain, moved))
    assert (second > first).all()
    first, second = (task.batch_of(task.held_out, numbers, generators(3)).timesteps for task in (plain, moved))
    assert torch.equal(first, second)


def test_samples_are_drawn_beside_their_pictures(config: Config):
    run = {"sample_people": 2, "sample_steps": 2}
    task = BaseTask(config("base", run=run), device=CPU)
    task.load_data(ALONE, silent)
    sheet = task.sample_grid(torch.no_grad)
    # Of the two captions the longer one takes some lines more.
    row_height, rest = divmod(sheet.height - 16, 2)
    lines, no_part = divmod(row_height - 212, 12)
    assert sheet.width == 2 * 196 + 4 and (rest, no_part) == (0, 0) and 0 <= lines < 4
    assert np.array_equal(np.asarray(sheet), np.asarray(task.sample_grid(torch.no_grad)))
    held_out: Pictures = task.held_out
    for row, number in enumerate((0, len(held_out) // 2)):
        top = 20 + row * row_height
        shown = sheet.crop((4, top, 196, top + 192)).resize((64, 64))
        seen = torch.tensor(np.asarray(shown)).movedim(-1, 0) / 127.5 - 1
        assert (seen - held_out.pixels([number])[0]).abs().mean() < 0.05
