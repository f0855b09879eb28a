"""What was trained is what is applied: the file of a run, in the diffusers host and in the nodes of ComfyUI."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import comfy.clip_vision
import folder_paths
import numpy as np
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from PIL import Image, ImageOps
from safetensors.torch import load_file
from transformers import CLIPVisionModelWithProjection

from bolid.hosts.comfyui import LoadedAdapter
from bolid.hosts.diffusers import attach, cross_attention_layers
from bolid.models.adapter_file import read_adapter
from bolid.models.body import Body
from bolid.models.branch import CONDITIONAL, UNCONDITIONAL, Branch
from bolid.models.keypoints import FIRST_JOINT
from bolid.models.layer_weights import layer_weights
from bolid.models.references import Embeds, PhotoReport, References
from bolid.models.self_attention import fill_places
from bolid.nodes.adapters import BoLIDAdapterApply, BoLIDAdapterLoader
from bolid.nodes.aggregation import PoolingAggregator, SelfAttnAggregator
from bolid.nodes.body import BodyLandmarkEncoder
from bolid.nodes.encoding import MultiRefImageEncoder
from bolid.nodes.model_folders import register_model_folders
from bolid.training.adapter_task import AdapterTask, fill_cache
from bolid.training.base import encode_image, load_denoiser, load_image_encoder
from bolid.training.batches import KEEP_ALL, Batch, Batches
from bolid.training.config import AdapterTraining
from bolid.training.data import Share
from bolid.training.features import Features, People, Photo, encoder_pixels, load_people
from bolid.training.leave_one_out import Sample
from bolid.training.people import PrepareSettings
from bolid.training.pictures import placed_joints
from bolid.training.prepare import prepare
from bolid.training.train import train

from ..support.small_models import comfy_model, sample, small_unet
from .conftest import Toy

CPU = torch.device("cpu")
FILL_SEED = 7

RUNS: dict[str, dict[str, Any]] = {
    "bolid": {"method": "bolid", "adapter": {"aggregator_depth": 1, "body": {"dim": 64, "depth": 1}}},
    "plus": {"method": "ip_adapter", "adapter": {"kind": "plus", "inner_dim": 64, "depth": 1}},
}


def assert_close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Largest difference as a fraction of the largest value."""
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * expected.abs().max().item())


@pytest.fixture(scope="module")
def values(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Config values on a base whose UNet has the topology of SD1.5, so that ComfyUI can run it, and an image encoder
    whose weights do not change in half precision, in which ComfyUI holds them."""
    folder = tmp_path_factory.mktemp("models")
    base = Path(shutil.copytree(toy.base, folder / "base"))
    shutil.rmtree(base / "unet")
    small_unet("sd15", seed=1, cross_attention_dim=32).save_pretrained(base / "unet")
    encoder = CLIPVisionModelWithProjection.from_pretrained(toy.image_encoder)
    encoder.half().float().save_pretrained(folder / "image_encoder")
    models = {"path": str(base), "image_encoder": str(folder / "image_encoder")}

    def make(output: Path, **sections: Any) -> dict[str, Any]:
        return toy.values(output, **{**sections, "base": {**models, **sections.get("base", {})}})

    return make


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run.

    Attributes:
        file: its adapter.
        task: as the loop had it after the last step.
        people, features: what it was trained on.
    """

    config: AdapterTraining
    file: Path
    task: AdapterTask
    people: People
    features: Features


def opened(config: AdapterTraining) -> tuple[People, Features]:
    people = load_people(config.data, config.base)
    features = Features(folder=config.data.path / "cache", base=config.base, device=CPU, progress=lambda *_, **__: None)
    kind = config.adapter.kind
    fill_cache(config, people, features, feature_names=("hidden_states" if kind == "plus" else "image_embeds",))
    return people, features


@pytest.fixture(scope="module", params=RUNS)
def run(request: pytest.FixtureRequest, values: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    output = tmp_path_factory.mktemp("runs") / request.param
    short = {"run": {"steps": 3, "validation_batches": 1}, "optimizer": {"learning_rate": 1e-2}}
    config = AdapterTraining(**values(output, **RUNS[request.param], **short))
    result = train(config)
    people, features = opened(config)
    task = AdapterTask(config, denoiser=load_denoiser(config.base.path, dtype=torch.float32), device=CPU)
    task.load_data(people, features, Share(process=0, processes=1, batch_size=2))
    fresh = {name: tensor.clone() for name, tensor in task.module.state_dict().items()}
    (checkpoint,) = (output / "checkpoints").glob("*.pt")
    trained = torch.load(checkpoint, weights_only=True)["module"]
    assert not [name for name, tensor in trained.items() if torch.equal(tensor, fresh[name])]
    task.module.load_state_dict(trained)
    return Run(config=config, file=Path(result["adapter"]), task=task, people=people, features=features)


@pytest.fixture
def models_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty models folder of ComfyUI."""
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", {})
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    register_model_folders()
    return tmp_path


# One person, as the trainer and as the nodes see them


SAMPLE = Sample(person=0, target=2, references=(4, 0, 5, 1))


def photos_of(run: Run) -> list[Photo]:
    """The references of `SAMPLE`, a held-out person."""
    return [run.people.test[SAMPLE.person].photos[number] for number in SAMPLE.references]


def trainers_batch(run: Run, rows: int = 1) -> Batch:
    """`SAMPLE` without any dropping, with the aggregator's places as a node fills them."""
    batches = Batches(run.config, run.features, feature_names=tuple(run.task.module.adapter.layout.feature_widths))
    batch = batches.batch(run.people.test, [SAMPLE] * rows, ["key"] * rows, KEEP_ALL).to(CPU)
    return replace(batch, places=fill_places(len(SAMPLE.references), seed=FILL_SEED).expand(rows, -1))


def node_references(run: Run) -> References:
    photos = photos_of(run)
    names = run.task.module.adapter.layout.feature_widths
    return References(
        **{name: torch.stack([run.features.reference(name, photo) for photo in photos]).float() for name in names},
        zero_hidden_states=run.features.zero_image("hidden_states").float().unsqueeze(0)
        if "hidden_states" in names
        else None,
        report=tuple(PhotoReport(photo=number + 1, status="kept") for number in range(len(photos))),
    )


def node_body(run: Run) -> Body | None:
    if not run.config.has_body:
        return None
    photos, target = photos_of(run), run.people.test[SAMPLE.person].photos[SAMPLE.target]
    grids = [run.features.image("hidden_states", photo, photo.body_crop) for photo in photos]
    return Body(
        keypoints=torch.tensor([photo.prepared.keypoints[FIRST_JOINT:] for photo in photos]),
        image_sizes=torch.tensor([(photo.prepared.height, photo.prepared.width) for photo in photos]),
        hidden_states=torch.stack(grids).float(),
        target_pose=placed_joints(target.prepared, target.placement),
    )


def aggregated(run: Run, adapter: LoadedAdapter) -> Embeds:
    if run.config.aggregator_depth:
        return SelfAttnAggregator.execute(node_references(run), adapter, fill_seed=FILL_SEED).result[0]
    return PoolingAggregator.execute(node_references(run), "avg").result[0]


def loaded_by_the_node(run: Run, models_dir: Path) -> LoadedAdapter:
    (models_dir / "bolid").mkdir()
    shutil.copy(run.file, models_dir / "bolid" / "mine.safetensors")
    assert BoLIDAdapterLoader.define_schema().inputs[0].options == ["mine.safetensors"]
    assert BoLIDAdapterLoader.validate_inputs("mine.safetensors") is True
    return BoLIDAdapterLoader.execute("mine.safetensors").result[0]


# Tests


def test_the_file_holds_what_was_trained(run: Run) -> None:
    file = read_adapter(run.file)
    trained = run.task.module.adapter
    assert file.adapter.layout == trained.layout and not file.lora
    found = file.adapter.state_dict()
    assert set(found) == set(trained.state_dict())
    for name, tensor in trained.state_dict().items():
        assert found[name].dtype == torch.float32 and torch.equal(found[name], tensor), name
    config = file.config
    assert config.base_model == "custom" and config.image_encoder == "an image encoder of width 64"
    assert config.training["steps"] == run.config.run.steps
    assert config.training["train"]["people"] == len(run.people.train)
    assert config.training["settings"]["method"] == run.config.method


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_the_file_may_have_another_precision(run: Run, tmp_path: Path, precision: str, dtype: torch.dtype) -> None:
    adapter = run.config.adapter.model_copy(update={"save_precision": precision})
    task, path = copy.copy(run.task), tmp_path / "mine.safetensors"
    task._config = run.config.model_copy(update={"adapter": adapter})
    task.write_result(path, {})
    found = read_adapter(path).adapter.state_dict()
    for name, tensor in task.module.adapter.state_dict().items():
        assert tensor.dtype == torch.float32
        assert found[name].dtype == dtype and torch.equal(found[name], tensor.to(dtype)), name


def test_the_loader_lists_and_loads_the_file(run: Run, models_dir: Path) -> None:
    loaded = loaded_by_the_node(run, models_dir)
    trained = run.task.module.adapter
    assert loaded.adapter.layout == trained.layout and loaded.name == "mine.safetensors" and not loaded.lora
    for name, tensor in trained.state_dict().items():
        assert torch.equal(loaded.adapter.state_dict()[name], tensor), name


@torch.no_grad()
def test_the_diffusers_host_predicts_what_the_trainer_predicts(run: Run, models_dir: Path) -> None:
    adapter = read_adapter(run.file).adapter
    embeds, body = aggregated(run, loaded_by_the_node(run, models_dir)), node_body(run)
    adapter.check_features(embeds)
    denoiser = load_denoiser(run.config.base.path, dtype=torch.float32)
    weights = layer_weights(cross_attention_layers(denoiser.unet), 1.0)
    sources = [(partial(adapter.face_tokens, embeds), adapter.ip_adapter)]
    if body is not None:
        adapter.check_body(body)
        sources.append((partial(adapter.body_tokens, body), adapter.body_adapter))
    branches = [
        Branch(tokens=tokens, projections=projections, layer_weights=weights) for tokens, projections in sources
    ]
    with attach(denoiser.unet) as attached:
        for roles in ((CONDITIONAL,), (UNCONDITIONAL,), (UNCONDITIONAL, CONDITIONAL)):
            batch = trainers_batch(run, rows=len(roles))
            kept = torch.tensor(roles) == CONDITIONAL
            batch = replace(batch, has_face=kept, has_body=kept & run.config.has_body)
            noisy, expected = run.task.module.predict(batch)
            inputs = {"text": batch.text, "pooled_text": batch.pooled_text, "time_ids": batch.time_ids}
            found = []
            for number in range(len(branches) + 1):
                attached.condition(branches[:number], roles=roles)
                found.append(denoiser.predict(noisy, batch.timesteps, **inputs))
            assert_close(found[-1], expected, 1e-5)
            if CONDITIONAL in roles:  # every branch says something
                assert all((one - other).abs().max() > 1e-2 for one, other in pairwise(found))


@torch.no_grad()
def test_the_nodes_sample_with_what_the_trainer_predicts(run: Run, models_dir: Path) -> None:
    """From the loader to the sampler, both sides of guidance; the trainer's branches on what went into the UNet."""
    adapter = loaded_by_the_node(run, models_dir)
    unet = load_denoiser(run.config.base.path, dtype=torch.float32).unet
    applied = BoLIDAdapterApply.execute(
        comfy_model(unet, "sd15"), adapter, 1.0, 0.0, 1.0, face=aggregated(run, adapter), body=node_body(run)
    ).result[0]
    seen: list[tuple[Any, ...]] = []

    def note(executor: Any, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor, *rest: Any, **named: Any):
        output = executor(x, timesteps, context, *rest, **named)
        roles = next(given for given in rest if isinstance(given, dict))["cond_or_uncond"]
        seen.append((x.clone(), timesteps, context, output.clone(), roles))
        return output

    applied.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", note)
    batch = trainers_batch(run, rows=2)
    sample(
        applied,
        positive=[[batch.text[:1], {}]],
        negative=[[run.features.text("")["text"].float().unsqueeze(0), {}]],
        latent_shape=(1, 4, 8, 8),
        seed=1,
        steps=2,
    )
    step = run.task.module
    for x, timesteps, context, output, roles in seen:
        assert sorted(roles) == [0, 1]
        kept = torch.tensor(roles) == 0  # ComfyUI's numbers: 0 is the positive side
        assert torch.equal(context[kept], batch.text[:1])
        rows = replace(batch, text=context, has_face=kept, has_body=kept & run.config.has_body)
        step.set_branches(rows)
        expected = step.denoise(rows, x, timesteps)
        step.set_branches(None)
        without = step.denoise(rows, x, timesteps)
        assert (expected - without).flatten(1).abs().amax(dim=1).min() > 1e-2
        assert_close(output, expected, 1e-4)
    assert len(seen) == 2


# The image encoder


@pytest.fixture(scope="module")
def comfy_encoder(values: Callable[..., Any]) -> comfy.clip_vision.ClipVisionModel:
    """The same weights as ComfyUI's CLIP_VISION: its loader knows the public sizes only, its class takes any."""
    folder = Path(values(Path("run"))["base"]["image_encoder"])
    config = json.loads((folder / "config.json").read_text())
    encoder = comfy.clip_vision.ClipVisionModel({**config, "model_type": "clip_vision_model"})
    missing, unexpected = encoder.load_sd(load_file(folder / "model.safetensors"))
    assert not missing and not unexpected
    return encoder


@dataclass(frozen=True, kw_only=True)
class RealPeople:
    """Photographs as `bolid prepare` hands them to the trainer.

    Attributes:
        images: the same as ComfyUI's Load Image gives them, [1, H, W, 3], in the order of `photos`.
    """

    config: AdapterTraining
    people: People
    features: Features
    photos: list[Photo]
    images: list[torch.Tensor]


@pytest.fixture(scope="module")
def real(
    values: Callable[..., Any], photographs: dict[str, Image.Image], tmp_path_factory: pytest.TempPathFactory
) -> RealPeople:
    folder = tmp_path_factory.mktemp("real")
    (folder / "photos" / "somebody").mkdir(parents=True)
    bus = photographs["bus"].reduce(2)
    width, height = bus.size
    pictures = {"1": bus, "2": ImageOps.mirror(bus).crop((0, height // 8, width, height))}
    for name, picture in pictures.items():
        picture.save(folder / "photos" / "somebody" / f"{name}.png")
    settings = PrepareSettings(max_people=0, test_share=0.0)
    prepare(folder / "photos", folder / "prepared", settings, workers=1)
    sections = {"data": {"path": str(folder / "prepared"), "crop": "person"}, **RUNS["bolid"]}
    config = AdapterTraining(**values(folder / "run", **sections))
    people, features = opened(config)
    photos = people.photos
    images = [
        torch.from_numpy(np.array(pictures[Path(photo.name).stem])).float().div(255).unsqueeze(0) for photo in photos
    ]
    assert [photo.name for photo in photos] == ["somebody/1.png", "somebody/2.png"]
    return RealPeople(config=config, people=people, features=features, photos=photos, images=images)


@pytest.mark.parametrize("crop", ["whole", "person"])
def test_the_trainer_encodes_photos_as_the_encoding_node_does(
    crop: str, real: RealPeople, comfy_encoder: comfy.clip_vision.ClipVisionModel
) -> None:
    encoder = load_image_encoder(real.config.base.image_encoder)
    references, crops, _ = MultiRefImageEncoder.execute(
        real.images, [crop], ["error"], clip_vision=[comfy_encoder]
    ).result
    photos = [replace(photo, face_crop=photo.body_crop if crop == "person" else None) for photo in real.photos]
    assert crop == "whole" or all(photo.body_crop is not None for photo in photos)
    for name in ("image_embeds", "hidden_states"):
        real.features.fill_image(name, [(photo, photo.face_crop) for photo in photos])
    for number, photo in enumerate(photos):
        pixels = encoder_pixels(photo, photo.face_crop, size=encoder.config.image_size)
        assert torch.equal(pixels[0], crops[number])
        image_embeds, hidden_states = encode_image(encoder, pixels)
        assert_close(references.image_embeds[number : number + 1], image_embeds, 1e-5)
        assert_close(references.hidden_states[number : number + 1], hidden_states, 1e-5)
        # The cache is half precision.
        for name in ("image_embeds", "hidden_states"):
            cached = real.features.reference(name, photo)
            assert cached.dtype == torch.float16
            assert_close(cached.float(), getattr(references, name)[number], 1e-3)
    _, zero = encode_image(encoder, None)
    assert_close(references.zero_hidden_states, zero, 1e-5)
    assert_close(real.features.zero_image("hidden_states").float(), references.zero_hidden_states[0], 1e-3)
    distances = torch.cdist(references.image_embeds, references.image_embeds).fill_diagonal_(9)
    assert distances.min() > 1e-2  # the photos are told apart


@torch.no_grad()
def test_the_trainer_sees_a_body_as_the_body_node_does(
    real: RealPeople, comfy_encoder: comfy.clip_vision.ClipVisionModel
) -> None:
    """The first photo describes the second one, whose joints are the pose."""
    body = BodyLandmarkEncoder.execute(
        real.images[:1], [0.5], ["error"], clip_vision=[comfy_encoder], target_pose=[real.images[1]]
    ).result[0]
    batches = Batches(real.config, real.features, feature_names=("image_embeds",))
    batch = batches.batch(real.people.train, [Sample(person=0, target=1, references=(0,))], ["key"], KEEP_ALL)
    batch = batch.to(CPU)
    assert torch.equal(batch.seen[0], body.seen) and batch.seen.sum() == 12
    assert_close(batch.proportions[0], body.proportions, 1e-3)
    assert_close(batch.body_image[0], body.hidden_states.flatten(0, 1), 1e-3)
    assert batch.body_image_in_use.all() and batch.has_body.all()
    # The trainer's pose is that in the picture which is drawn, here cut to a square.
    photo = real.photos[1]
    (height, width), (resized_height, resized_width) = photo.placement.size, photo.placement.resized
    x = (body.target_pose[:, 0] * resized_width - photo.placement.left) / width
    y = (body.target_pose[:, 1] * resized_height - photo.placement.top) / height
    shown = batch.target_pose[0, :, 2] > 0
    seen = body.target_pose[:, 2] >= 0.5
    assert shown[:2].all() and not (shown & ~seen).any()
    inside = seen & (x >= 0) & (x <= 1) & (y >= 0) & (y <= 1)
    assert torch.equal(shown, inside)
    torch.testing.assert_close(batch.target_pose[0, shown, :2], torch.stack((x, y), dim=-1)[shown], rtol=0, atol=1e-3)


# Settings of a run


def metrics(folder: Path) -> dict[int, dict[str, float]]:
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {entry["step"]: entry for entry in entries if entry["kind"] == "train"}


def test_gradient_checkpointing_gives_the_same_run_and_terms_begin_at_their_step(toy: Toy, tmp_path: Path) -> None:
    """Two steps of reconstruction alone, then L_clip too, through the VAE."""
    results = {}
    for saving in (False, True):
        folder = tmp_path / f"run_{saving}"
        config = AdapterTraining(
            **toy.values(
                folder,
                method="bolid",
                run={"steps": 4, "gradient_checkpointing": saving, "validation_batches": 1},
                loss={"clip": 1.0, "clip_image": 0.5, "clip_model": f"local-dir:{toy.clip}", "start_step": 2},
            )
        )
        adapter = read_adapter(train(config)["adapter"]).adapter.state_dict()
        results[saving] = metrics(folder), adapter
    (plain, adapter), (saved, saved_adapter) = results.values()
    assert [sorted(step for step in plain if name in plain[step]) for name in ("clip", "clip_image")] == [[3, 4]] * 2
    for step, named in plain.items():
        assert named.pop("kind") == saved[step].pop("kind")
        assert saved[step] == pytest.approx(named, rel=1e-4)
        expected = named["reconstruction"] + 1.0 * named.get("clip", 0) + 0.5 * named.get("clip_image", 0)
        assert named["loss"] == pytest.approx(expected)
        assert named.get("gradient_norm_clip", 1.0) > 0
    for name, tensor in adapter.items():
        torch.testing.assert_close(saved_adapter[name], tensor, rtol=1e-3, atol=1e-5)
