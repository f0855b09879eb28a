"""`bolid train` from the command line: it learns, survives what kills it, and says what is wrong."""

from __future__ import annotations

import importlib.metadata
import json
import math
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from bolid.models.adapter import AdapterLayout
from bolid.models.adapter_file import read_adapter, write_adapter
from bolid.models.build import build_adapter
from bolid.models.keypoint_network import (
    KeypointNetwork,
    KeypointNetworkLayout,
    read_keypoint_network,
    write_keypoint_network,
)
from bolid.training.base import autoencoder_fingerprint, load_autoencoder
from bolid.training.config import BaseSettings, DataSettings, load_config, resolved
from bolid.training.features import _latents_key, load_people
from bolid.training.people import PreparedPeople

from ..support.adapter_files import adapter_state_dict, write_safetensors
from ..support.runs import assert_refused, assert_same_result, files_of, metadata_of, metrics
from ..support.training_processes import Ended, TrainingProcesses
from .conftest import Toy, write_config

IDENTITY, CLIP = 0.1, 0.02


def steps_of(folder: Path, pattern: str) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in folder.glob(pattern))


# Runs


@pytest.fixture(scope="module")
def processes() -> Iterator[TrainingProcesses]:
    with TrainingProcesses() as running:
        yield running


@pytest.fixture(scope="module")
def keypoint_network(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that has learnt nothing, for the toy's latents."""
    path = tmp_path_factory.mktemp("keypoints") / "random.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = KeypointNetwork(KeypointNetworkLayout(latent_channels=4, width=8, depth=2))
    write_keypoint_network(path, network, latent_space=autoencoder_fingerprint(load_autoencoder(toy.base)))
    return path


Learn = Callable[[str], Path]

METHODS: dict[str, dict[str, Any]] = {
    "base": {"method": "ip_adapter"},
    "plus": {"method": "ip_adapter", "adapter": {"kind": "plus", "inner_dim": 64, "depth": 1}},
    "self_attention": {"method": "self_attention"},
    "bolid": {"method": "bolid"},
    "keypoints": {"method": "keypoints", "network": {"width": 16}},
}
LEARNING_STEPS = 200


@pytest.fixture(scope="module")
def learnt(toy: Toy, processes: TrainingProcesses, tmp_path_factory: pytest.TempPathFactory) -> Learn:
    """Runs of 200 steps by name, each made once: folder of the run, with the command's config beside it."""
    runs: dict[str, Path] = {}

    def learn(name: str) -> Path:
        if name not in runs:
            folder = tmp_path_factory.mktemp(name)
            sections = dict(METHODS[name])
            run = {"steps": LEARNING_STEPS, "log_every": 20, "validate_every": LEARNING_STEPS, "validation_batches": 8}
            if name == "bolid":
                network = learn("keypoints") / "adapter.safetensors"
                sections["loss"] = terms(toy, network)
                run |= {"sample_every": 100, "sample_people": 2, "sample_steps": 4}
            values = toy.values(folder / "run", run=run, **sections)
            if name == "keypoints":
                del values["adapter"]
            ended = processes.run("train", write_config(folder / "config.toml", values))
            assert ended.code == 0, ended
            runs[name] = folder / "run"
        return runs[name]

    return learn


def terms(toy: Toy, network: Path) -> dict[str, Any]:
    return {
        "identity": IDENTITY,
        "keypoint_network": str(network),
        "clip": CLIP,
        "clip_model": f"local-dir:{toy.clip}",
    }


Config = Callable[..., Path]


@pytest.fixture
def config(toy: Toy, tmp_path: Path) -> Config:
    """Writes the config of a run of 6 steps in `tmp_path / "run"`, with these sections changed."""

    def write(**sections: Any) -> Path:
        return write_config(tmp_path / "config.toml", toy.values(tmp_path / "run", **sections))

    return write


# It learns


@pytest.mark.parametrize("name", ["base", "plus", "self_attention", "bolid"])
def test_200_steps_lower_the_validation_loss(learnt: Learn, name: str) -> None:
    """By 10 %, and to 4 % below what the UNet reaches alone; with three seeds it was 17 to 37 % and 11 to 17 %."""
    first, last = metrics(learnt(name), "validation")
    assert (first["step"], last["step"]) == (0, LEARNING_STEPS)
    assert last["loss"] < 0.9 * first["loss"]
    assert last["loss_without_adapter"] == first["loss_without_adapter"]
    assert last["loss"] < 0.96 * last["loss_without_adapter"]


def test_200_steps_teach_the_keypoint_network_where_joints_are(learnt: Learn) -> None:
    """Loss and distance are halved, from latents and from the base's guesses; with three seeds 72 to 77 % were gone."""
    first, last = metrics(learnt("keypoints"), "validation")
    assert last["loss"] < 0.5 * first["loss"]
    assert last["loss_guess"] < 0.5 * first["loss_guess"]
    assert last["distance"] < 0.5 * first["distance"]
    assert last["distance_guess"] < 0.5 * first["distance_guess"]
    assert read_keypoint_network(learnt("keypoints") / "adapter.safetensors").training["steps"] == LEARNING_STEPS


# What a run leaves behind


def test_result_is_an_adapter_file_that_tells_of_its_training(learnt: Learn, toy: Toy) -> None:
    folder = learnt("bolid")
    file = read_adapter(folder / "adapter.safetensors")
    assert file.adapter.body_encoder is not None and file.config.base_model == "custom"
    training = file.config.training
    assert training["steps"] == LEARNING_STEPS
    assert (training["train"], training["test"]) == ({"people": 8, "photos": 48}, {"people": 4, "photos": 24})
    last = metrics(folder, "validation")[-1]
    assert training["validation"] == {key: value for key, value in last.items() if key not in ("step", "kind")}
    assert training["settings"]["optimizer.learning_rate"] == 1e-3 and training["settings"]["loss.clip"] == CLIP
    told = json.dumps(metadata_of(folder / "adapter.safetensors"))
    assert not [path for path in (folder.parent, toy.people, toy.base) if str(path) in told]


def test_log_has_terms_and_the_norms_of_their_gradients(learnt: Learn) -> None:
    folder = learnt("bolid")
    entries = metrics(folder, "train")
    assert [entry["step"] for entry in entries] == list(range(20, LEARNING_STEPS + 1, 20))
    for entry in entries:
        expected = entry["reconstruction"] + IDENTITY * entry["identity"] + CLIP * entry["clip"]
        assert entry["loss"] == pytest.approx(expected, rel=1e-6)
        assert entry["gradient_norm"] > 0 and entry["learning_rate"] == 1e-3
    # Not in a step whose samples are all gated off.
    several = [entry for entry in entries if "gradient_norm_reconstruction" in entry]
    assert len(several) > len(entries) / 2
    for name in ("reconstruction", "identity", "clip"):
        assert all(entry[f"gradient_norm_{name}"] > 0 for entry in several)
    assert [entry["step"] for entry in metrics(folder, "validation")] == [0, LEARNING_STEPS]


def test_tensorboard_shows_the_same(learnt: Learn) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = learnt("bolid")
    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    for kind in ("train", "validation"):
        entries = metrics(folder, kind)
        shown = {event.step: event.value for event in board.Scalars(f"{kind}/loss")}
        assert shown == pytest.approx({entry["step"]: entry["loss"] for entry in entries}, rel=1e-6)
    assert all(event.value > 0 for event in board.Scalars("train/samples_per_second"))
    assert [event.step for event in board.Images("samples")] == [0, 100, LEARNING_STEPS]


def test_samples_show_what_the_adapter_changes(learnt: Learn) -> None:
    samples = learnt("bolid") / "samples"
    assert steps_of(samples, "*.png") == [0, 100, LEARNING_STEPS]
    earlier, later = (np.array(Image.open(samples / f"step-{step:08d}.png")) for step in (100, LEARNING_STEPS))
    columns = np.array_split(np.arange(later.shape[1]), 6)
    assert (later[:, columns[0]] == earlier[:, columns[0]]).all()  # references
    assert (later[:, columns[4]] == earlier[:, columns[4]]).all()  # without the adapter
    assert (later[:, columns[5]] != earlier[:, columns[5]]).any()
    assert (later[:, columns[5]][:, :190] != later[:, columns[4]][:, :190]).any()


def test_config_and_environment_are_written_down(learnt: Learn) -> None:
    folder = learnt("bolid")
    config = resolved(load_config(folder.parent / "config.toml"))
    assert json.loads((folder / "config.json").read_text()) == config
    (start,) = [json.loads(line) for line in (folder / "starts.jsonl").read_text().splitlines()]
    assert start["config"] == config
    assert start["environment"]["packages"]["torch"] == importlib.metadata.version("torch")


def test_output_says_where_the_result_is(toy: Toy, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.toml", toy.values(tmp_path / "run"))
    command = [sys.executable, "-m", "bolid", "train", str(config), "run.steps=2", "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stderr
    summary = json.loads(ended.stdout)
    assert summary == {
        "output": str(tmp_path / "run"),
        "adapter": str(tmp_path / "run" / "adapter.safetensors"),
        "steps": 2,
        "validation": summary["validation"],
    }
    assert summary["validation"].keys() == {"loss", "loss_without_adapter"}
    assert Path(summary["adapter"]).is_file()
    assert "Traceback" not in ended.stderr


# It goes on


@pytest.fixture(scope="module")
def whole(
    toy: Toy, keypoint_network: Path, processes: TrainingProcesses, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run of 8 steps with all that has a state, which nobody interrupted; its config lies beside it."""
    folder = tmp_path_factory.mktemp("whole")
    values = toy.values(
        folder / "run",
        method="bolid",
        run={
            "steps": 8,
            "batch_size": 2,
            "gradient_accumulation": 2,
            "save_every": 3,
            "log_every": 2,
            "validate_every": 3,
            "validation_batches": 1,
            "keep_checkpoints": 1,
        },
        loss=terms(toy, keypoint_network),
        optimizer={"schedule": "cosine", "warmup_steps": 2, "ema_decay": 0.9},
    )
    ended = processes.run("train", write_config(folder / "config.toml", values))
    assert ended.code == 0, ended
    return folder / "run"


@pytest.fixture
def again(whole: Path, processes: TrainingProcesses, tmp_path: Path) -> Callable[..., Ended]:
    """Runs the command of `whole`, or goes on with it, in `tmp_path / "run"`."""

    def run(*overrides: str, fault: str = "") -> Ended:
        config = whole.parent / "config.toml"
        return processes.run("train", config, f"run.output={tmp_path / 'run'}", *overrides, fault=fault)

    return run


KILLS = [
    # where, newest checkpoint that is whole
    ("kill_before_replace run.json", None),
    ("kill_after_replace run.json", None),
    ("kill_at_step 2", None),
    ("kill_in_adapter step-00000003", None),
    ("kill_in_checkpoint step-00000003", None),
    ("kill_before_replace step-00000003.pt", None),
    ("kill_after_replace step-00000003.pt", 3),
    ("kill_at_step 2", 3),
    ("kill_in_checkpoint step-00000006", 3),
    ("kill_after_replace step-00000006.pt", 6),
    ("kill_before_replace metrics.jsonl", 6),
    ("kill_before_replace step-00000008.pt", 6),
    ("kill_after_replace step-00000008.pt", 8),
    ("kill_in_adapter adapter", 8),
]


def test_killed_run_ends_like_one_that_was_not(whole: Path, again: Callable[..., Ended], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for fault, checkpoint in KILLS:
        assert again(fault=fault).killed, fault
        kept = steps_of(folder / "checkpoints", "*.pt")
        assert kept[-1:] == ([] if checkpoint is None else [checkpoint]), fault
        if kept:
            state = torch.load(folder / "checkpoints" / f"step-{checkpoint:08d}.pt", weights_only=True)
            assert state["step"] == checkpoint, fault
        if (folder / "metrics.jsonl").is_file():
            with (folder / "metrics.jsonl").open("a") as file:
                file.write('{"step": 7, "kind": "tra')  # what a kill may leave of a line
        assert not (folder / "adapter.safetensors").exists(), fault
    ended = again()
    assert ended.code == 0, ended
    assert_same_result(folder, whole, name="adapter.safetensors")
    assert steps_of(folder / "adapters", "*.safetensors") == [3, 6, 8]
    assert not list(folder.rglob("*.partial"))


def test_ctrl_c_leaves_a_checkpoint(whole: Path, again: Callable[..., Ended], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ended = again(fault="interrupt_at_step 2")
    assert ended.code == 130, ended
    assert "Stopped. The same command goes on from here." in ended.stderr and "Traceback" not in ended.stderr
    assert steps_of(folder / "checkpoints", "*.pt") == [2]
    assert again(fault="terminate_at_step 3").code == 130
    assert steps_of(folder / "checkpoints", "*.pt") == [5]
    assert again().code == 0
    assert_same_result(folder, whole, name="adapter.safetensors")


def test_full_disk_leaves_the_last_checkpoint(whole: Path, again: Callable[..., Ended], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    file_3 = folder / "checkpoints" / "step-00000003.pt"
    checkpoint = (whole / "checkpoints" / "step-00000008.pt").stat().st_size
    adapter = (whole / "adapter.safetensors").stat().st_size
    assert adapter < checkpoint / 2
    assert_refused(
        again(fault=f"full_disk 4 {checkpoint - 1000}"),
        "checkpoint of step 6 could not be written",
        str(file_3),
        "Make room",
    )
    before = files_of(folder / "checkpoints")
    assert_refused(again(fault=f"full_disk 1 {adapter - 1000}"), "read or written", str(file_3), "make room")
    assert files_of(folder / "checkpoints") == before
    assert not (folder / "adapter.safetensors").exists()
    assert again().code == 0
    assert_same_result(folder, whole, name="adapter.safetensors")


def test_full_disk_for_the_log(whole: Path, again: Callable[..., Ended], tmp_path: Path) -> None:
    assert_refused(again(fault="full_disk 4 100"), "read or written", "step-00000003.pt", "make room")
    assert again().code == 0
    assert_same_result(tmp_path / "run", whole, name="adapter.safetensors")


def test_more_steps_go_on_from_the_end(config: Config, processes: TrainingProcesses, tmp_path: Path) -> None:
    path = config(run={"validate_every": 3})
    assert processes.run("train", path, "run.steps=3").code == 0
    short = files_of(tmp_path / "run")["adapter.safetensors"]
    assert processes.run("train", path, fault="kill_in_adapter adapter").killed
    assert files_of(tmp_path / "run")["adapter.safetensors"] == short
    assert processes.run("train", path).code == 0
    assert processes.run("train", path, f"run.output={tmp_path / 'long'}").code == 0
    assert_same_result(tmp_path / "run", tmp_path / "long", name="adapter.safetensors")

    before = files_of(tmp_path / "run")
    ended = processes.run("train", path)
    assert ended.code == 0 and str(tmp_path / "run" / "adapter.safetensors") in ended.stdout
    assert files_of(tmp_path / "run") == before


# What is not finite


@pytest.mark.parametrize(
    ("fault", "what", "checkpoint"),
    [("bad_weight 4", "the term reconstruction", 3), ("bad_gradient 4", "the gradient", 4)],
)
def test_stops_where_numbers_are_not_finite(
    toy: Toy, config: Config, processes: TrainingProcesses, tmp_path: Path, fault: str, what: str, checkpoint: int
) -> None:
    path = config(run={"save_every": checkpoint, "log_every": 10, "batch_size": 2})
    kept = tmp_path / "run" / "checkpoints" / f"step-{checkpoint:08d}.pt"
    ended = processes.run("train", path, fault=fault)
    assert_refused(ended, f"At step 5 {what} is not finite, for ", str(kept), "learning_rate")
    assert len(photos_named(ended)) == 2 and photos_named(ended) <= set(photos_to_learn_from(toy))
    assert list(kept.parent.iterdir()) == [kept]
    assert not (tmp_path / "run" / "adapter.safetensors").exists()
    assert [entry["step"] for entry in metrics(tmp_path / "run", "validation")] == [0]
    assert processes.run("train", path).code == 0


def test_stops_at_the_photo_whose_latents_are_not_finite(
    toy: Toy, config: Config, processes: TrainingProcesses, tmp_path: Path
) -> None:
    path = config(data={"cache": str(tmp_path / "cache")}, run={"batch_size": 2, "steps": 1})
    assert processes.run("train", path).code == 0
    spoilt = spoil_latents(tmp_path / "cache", toy)
    before = files_of(tmp_path / "run" / "checkpoints")
    ended = processes.run("train", path, "run.steps=20")
    assert_refused(ended, "the term reconstruction is not finite, for ", "step-00000001.pt")
    assert photos_named(ended) <= spoilt
    assert files_of(tmp_path / "run" / "checkpoints") == before


def photos_named(ended: Ended) -> set[str]:
    return set(ended.stderr.split("is not finite, for ")[1].split(". ")[0].split(", "))


def photos_to_learn_from(toy: Toy) -> list[str]:
    people = [person for person in PreparedPeople.read(toy.people).people if person.split == "train"]
    return [photo.file for person in people for photo in person.photos]


def spoil_latents(cache: Path, toy: Toy) -> set[str]:
    """Write NaN into the cached latents of half of the photos to learn from, under manifests that know them so.

    Returns:
        The photos' names.
    """
    base = BaseSettings(path=toy.base, image_encoder=toy.image_encoder, resolution=64)
    people = load_people(DataSettings(path=toy.people), base)
    photos = [photo for person in people.train for photo in person.photos]
    spoilt = {_latents_key(photo): photo.name for photo in photos[::2]}
    (folder,) = cache.glob("latents-*")
    for manifest in folder.glob("shard-*.json"):
        shard, path = json.loads(manifest.read_bytes()), manifest.with_suffix(".safetensors")
        tensors = load_file(path)
        for key in shard["keys"].keys() & spoilt.keys():
            tensors[f"{key}/mean"][0, 0, 0] = math.nan
        save_file(tensors, path)
        manifest.write_text(json.dumps(shard | {"crc32": zlib.crc32(path.read_bytes())}))
    return set(spoilt.values())


# Several processes


def test_two_processes_are_one_with_twice_the_batch(
    toy: Toy, keypoint_network: Path, processes: TrainingProcesses, tmp_path: Path
) -> None:
    values = toy.values(
        tmp_path / "one",
        method="bolid",
        run={"steps": 20, "batch_size": 4, "validate_every": 10},
        loss=terms(toy, keypoint_network),
        dropping={"text": 0.2, "face": 0.2, "body": 0.2, "all": 0.2},
    )
    config = write_config(tmp_path / "config.toml", values)
    assert processes.run("train", config).code == 0
    ended = processes.run_together("train", config, f"run.output={tmp_path / 'two'}", "run.batch_size=2", processes=2)
    assert [process.code for process in ended] == [0, 0], ended
    assert [process.stdout.count("Result: ") for process in ended] == [1, 0]
    gated_off = [entry["identity"] == 0 for entry in metrics(tmp_path / "one", "train")]
    assert any(gated_off) and not all(gated_off)
    for kind in ("train", "validation"):
        one, two = (metrics(tmp_path / name, kind) for name in ("one", "two"))
        assert len(one) == (20 if kind == "train" else 3)
        for expected, entry in zip(one, two, strict=True):
            # The norms of single terms are those of one process.
            compared = [key for key in expected if not key.startswith("gradient_norm_")]
            assert {key: entry.get(key) for key in compared} == pytest.approx(
                {key: expected[key] for key in compared}, abs=1e-5
            )
    one, two = (load_file(tmp_path / name / "adapter.safetensors") for name in ("one", "two"))
    # Measured: 3e-6, after 20 steps of about 1e-3.
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 3e-5


# What cannot be used


@pytest.fixture(scope="module")
def ended_run(toy: Toy, processes: TrainingProcesses, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ended")
    ended = processes.run("train", write_config(folder / "config.toml", toy.values(folder / "run")))
    assert ended.code == 0, ended
    return folder / "run"


@pytest.fixture(scope="module")
def places(
    toy: Toy, ended_run: Path, keypoint_network: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Files that do not fit, by name."""
    folder = tmp_path_factory.mktemp("unfit")
    (folder / "full").mkdir()
    (folder / "full" / "thesis.txt").write_text("mine")
    network = read_keypoint_network(keypoint_network).network
    write_keypoint_network(folder / "other_vae.safetensors", network, latent_space="another")
    layers = [(1, 32), (3, 32), (5, 32), (7, 32)]
    faceid = adapter_state_dict("faceid", layers=layers, cross_attention_dim=32, lora_rank=4)
    write_safetensors(folder / "faceid.safetensors", faceid)
    layout = AdapterLayout(kind="base", cross_attention_dim=16, layers={1: 32}, num_tokens=4, image_embed_dim=64)
    write_adapter(folder / "other_unet.safetensors", build_adapter(layout), base_model="x", image_encoder="x")
    return {"unfit": folder, "run": ended_run, "toy": toy}


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        pytest.param(["run.stepz=3"], ["unknown key run.stepz", "run.steps"], id="unknown key"),
        pytest.param(["base.path={unfit}"], ["base.path is {unfit}", "no folder unet"], id="no base"),
        pytest.param(["data.path={unfit}"], ["{unfit} holds no prepared data set", "bolid prepare"], id="not prepared"),
        pytest.param(["run.output={unfit}/full"], ["{unfit}/full", "holds other files"], id="foreign files"),
        pytest.param(
            ["run.output={run}", "optimizer.learning_rate=0.002"],
            ["{run}", "optimizer.learning_rate was 0.001, now 0.002", "nothing is overwritten"],
            id="another learning rate",
        ),
        pytest.param(["run.output={run}", "run.steps=3"], ["checkpoint of step 6", "run.steps is 3"], id="fewer steps"),
        pytest.param(
            ["loss.identity=0.1", "loss.keypoint_network={unfit}/other_vae.safetensors"],
            ["loss.keypoint_network is {unfit}/other_vae.safetensors", "another VAE"],
            id="network of another VAE",
        ),
        pytest.param(
            ["loss.identity=0.1", "loss.keypoint_network={unfit}/none.safetensors"],
            ["loss.keypoint_network is {unfit}/none.safetensors", "no such file"],
            id="no network file",
        ),
        pytest.param(["loss.identity=0.1"], ["loss.identity needs loss.keypoint_network"], id="no network"),
        pytest.param(
            ["loss.clip=0.1", "loss.clip_model=NoSuchModel"],
            ["loss.clip_model is 'NoSuchModel'", "open_clip does not know"],
            id="no such CLIP",
        ),
        pytest.param(
            ["loss.clip=0.1", "loss.clip_model=local-dir:{unfit}"],
            ["loss.clip_model is 'local-dir:{unfit}'", "no open_clip_config.json"],
            id="no CLIP there",
        ),
        pytest.param(["run.precision=fp16"], ['run.precision "fp16" needs a GPU', "bf16"], id="fp16"),
        pytest.param(["optimizer.name=adamw8bit"], ["needs the package bitsandbytes", "pip install"], id="8 bit"),
        pytest.param(["adapter.initial={unfit}/faceid.safetensors"], ["faceid.safetensors, a FaceID"], id="FaceID"),
        pytest.param(
            ["adapter.initial={unfit}/other_unet.safetensors"],
            ["other_unet.safetensors", "belong to different models"],
            id="adapter of another UNet",
        ),
        pytest.param(
            ["adapter.initial={unfit}/none.safetensors"],
            ["adapter.initial is {unfit}/none.safetensors", "no such file"],
            id="no adapter",
        ),
    ],
)
def test_refuses(
    config: Config,
    processes: TrainingProcesses,
    tmp_path: Path,
    places: dict[str, Any],
    overrides: list[str],
    parts: list[str],
) -> None:
    if "optimizer.name=adamw8bit" in overrides:
        try:
            import bitsandbytes  # noqa: F401
        except ImportError:
            pass
        else:
            pytest.skip("bitsandbytes is there")
    path = config()
    before = files_of(places["run"]), files_of(places["unfit"])
    ended = processes.run("train", path, *[override.format(**places) for override in overrides])
    assert_refused(ended, *[part.format(**places) for part in parts])
    assert list(tmp_path.iterdir()) == [path]
    assert (files_of(places["run"]), files_of(places["unfit"])) == before


def test_refuses_photos_and_caches_that_changed(toy: Toy, processes: TrainingProcesses, tmp_path: Path) -> None:
    prepared = PreparedPeople.read(toy.people)
    source, data, folder = tmp_path / "photos", tmp_path / "prepared", tmp_path / "run"
    shutil.copytree(prepared.source, source)
    data.mkdir()
    prepared.model_copy(update={"source": source}).write(data)
    values = toy.values(folder, data={"path": str(data)}, run={"steps": 1})
    config = write_config(tmp_path / "config.toml", values)
    photo = prepared.people[0].photos[0].file
    content = (source / photo).read_bytes()

    (source / photo).unlink()
    assert_refused(processes.run("train", config), f"{source / photo} is gone", "bolid prepare")
    assert not folder.exists()
    (source / photo).write_bytes(content)
    assert processes.run("train", config).code == 0
    before = files_of(folder)

    (source / photo).write_bytes(content + b"\0")
    ended = processes.run("train", config, "run.steps=12")
    assert_refused(ended, f"{photo} has changed", "bolid prepare")
    assert files_of(folder) == before
    (source / photo).write_bytes(content)

    for shard in (data / "cache").glob("latents-*/*.safetensors"):
        damaged = bytearray(shard.read_bytes())
        damaged[-1] ^= 1
        shard.write_bytes(damaged)
    ended = processes.run("train", config, "run.steps=12")
    assert_refused(ended, f"The cache file {shard.parent}", "Delete it; the same command computes it anew")
    for name in ("adapter.safetensors", "checkpoints/step-00000001.pt", "metrics.jsonl"):
        assert (folder / name).read_bytes() == before[name]
    shutil.rmtree(shard.parent)
    assert processes.run("train", config, "run.steps=12").code == 0


# Settings


def test_settings_of_the_run_do_what_they_say(config: Config, processes: TrainingProcesses, tmp_path: Path) -> None:
    run = {
        "steps": 7,
        "log_every": 2,
        "validate_every": 3,
        "save_every": 2,
        "keep_checkpoints": 2,
        "sample_every": 4,
        "sample_people": 3,
        "sample_steps": 2,
    }
    ended = processes.run("train", config(run=run))
    assert ended.code == 0, ended
    folder = tmp_path / "run"
    assert [entry["step"] for entry in metrics(folder, "train")] == [2, 4, 6]
    assert [entry["step"] for entry in metrics(folder, "validation")] == [0, 3, 6, 7]
    assert steps_of(folder / "adapters", "*") == [2, 4, 6, 7]
    assert steps_of(folder / "checkpoints", "*") == [6, 7]
    assert steps_of(folder / "samples", "*") == [0, 4, 7]
    heights = []
    for people in (2, 3):
        options = (f"run.output={tmp_path / str(people)}", f"run.sample_people={people}", "run.steps=1")
        assert processes.run("train", config(run=run), *options).code == 0
        heights.append(Image.open(tmp_path / str(people) / "samples" / "step-00000001.png").height)
    assert heights[1] == Image.open(folder / "samples" / "step-00000007.png").height > heights[0]
    assert processes.run("train", config(), "run.steps=1", f"run.output={tmp_path / 'none'}").code == 0
    assert not list((tmp_path / "none" / "samples").iterdir())


def test_learning_rate_is_the_length_of_a_step(config: Config, processes: TrainingProcesses, tmp_path: Path) -> None:
    """The first step of AdamW moves every weight that has a gradient by the learning rate: those of V', being zero."""
    weights = []
    for learning_rate in (1e-3, 3e-3):
        folder = tmp_path / f"rate-{learning_rate}"
        optimizer = {"learning_rate": learning_rate, "weight_decay": 0.0}
        ended = processes.run("train", config(run={"output": str(folder), "steps": 1}, optimizer=optimizer))
        assert ended.code == 0, ended
        weights.append(load_file(folder / "adapter.safetensors"))
    slow, fast = weights
    moved = torch.cat([(fast[name] - slow[name]).abs().flatten() for name in slow if name.endswith("to_v_ip.weight")])
    assert float(moved.median()) == pytest.approx(2e-3, rel=0.01)
    assert float(moved.max()) < 2.02e-3


def test_schedule_warms_up_and_falls(config: Config, processes: TrainingProcesses, tmp_path: Path) -> None:
    optimizer = {"learning_rate": 1e-3, "schedule": "cosine", "warmup_steps": 2}
    ended = processes.run("train", config(run={"steps": 6}, optimizer=optimizer))
    assert ended.code == 0, ended
    rates = [entry["learning_rate"] for entry in metrics(tmp_path / "run", "train")]
    cosine = [0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert rates == pytest.approx([1e-3 * factor for factor in (0.0, 0.5, *cosine)])


def test_constant_rate_cools_down(config: Config, processes: TrainingProcesses, tmp_path: Path) -> None:
    """And until it does, neither the number of steps nor the cooldown is settled."""
    optimizer = {"learning_rate": 1e-3, "schedule": "constant", "warmup_steps": 1}
    assert processes.run("train", config(run={"steps": 3}, optimizer=optimizer)).code == 0
    cooled = config(run={"steps": 8}, optimizer={**optimizer, "cooldown_steps": 4})
    ended = processes.run("train", cooled)
    assert ended.code == 0, ended
    rates = [entry["learning_rate"] for entry in metrics(tmp_path / "run", "train")]
    falling = [1 - math.sqrt(step / 4) for step in range(4)]
    assert rates == pytest.approx([1e-3 * factor for factor in (0.0, 1.0, 1.0, 1.0, *falling)])
    metadata = metadata_of(tmp_path / "run" / "adapter.safetensors")
    assert json.loads(metadata["bolid.config"])["training"]["settings"]["optimizer.cooldown_steps"] == 4
    assert_refused(processes.run("train", cooled, "run.steps=20"), "was held until step 4", "until step 16")


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"schedule": "cosine", "cooldown_steps": 2}, 'optimizer.cooldown_steps needs schedule "constant"'),
        ({"warmup_steps": 3, "cooldown_steps": 4}, "are 7 together, more than run.steps (6)"),
    ],
)
def test_cooldowns_that_cannot_be(
    config: Config, processes: TrainingProcesses, optimizer: dict[str, Any], message: str
) -> None:
    assert_refused(processes.run("train", config(run={"steps": 6}, optimizer=optimizer)), message)
