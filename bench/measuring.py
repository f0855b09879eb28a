"""What `bolid evaluate` takes to measure pictures that are there, beside its networks alone, and in how much memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .evaluations import TRAINING_ROUNDS, peak_of_process, seconds_in_turns
from .models import folder_for_files
from .tables import median_and_range, megabytes, print_table, ratios

if TYPE_CHECKING:
    from ..evaluation.config import EvaluationSettings
    from ..evaluation.sources import Source

PEOPLE, PHOTOS = 40, 12
PICTURES = 2000
NETWORKS = ("metric_identity", "metric_attributes", "metric_joints", "metric_image_text")
WORLD, SMALL_WORLD, MODELS = "world", "small_world", "models"
GREY = (128, 128, 128)


def run(rounds: int = TRAINING_ROUNDS, tiny: bool = False) -> None:
    people, pictures = (4, 16) if tiny else (PEOPLE, PICTURES)
    counts = [pictures // 4, pictures // 2, pictures, 2 * pictures]
    with folder_for_files() as name:
        folder = Path(name)
        _write_world(folder, people=people)
        for count in counts:
            _write_pictures(folder, count, people=people)
        alone, whole = seconds_in_turns(
            [_networks_alone(folder, pictures, people), _evaluations(folder, pictures, people)], rounds
        )
        peaks = [_peak(folder, count, people) for count in counts]
    shown = pictures + people * PHOTOS
    print(
        f"{pictures} pictures and {people * PHOTOS} photos of {people} people, 128×128; four networks of the sizes of "
        "world/recipes with random weights: identity, attributes (whose features are also those of the distances of "
        f"sets), joints and text; {rounds} interleaved rounds; median, smallest and largest.\n"
        if not tiny
        else "Few pictures: only to see that it runs.\n"
    )
    print_table(
        ["", "seconds", f"pictures per second (of {shown})", "ratio of paired rounds to the networks alone"],
        [
            [name, median_and_range(seconds), f"{shown / sorted(seconds)[len(seconds) // 2]:.0f}", ratio]
            for name, seconds, ratio in (
                ("networks alone, pictures in memory", alone, "1"),
                ("bolid evaluate, from files to report", whole, median_and_range(ratios(whole, alone))),
            )
        ],
    )
    print()
    print_table(
        ["pictures", "peak memory of a process that measures them"],
        [[count, megabytes(peak)] for count, peak in zip(counts, peaks, strict=True)],
    )


def _write_world(folder: Path, *, people: int) -> None:
    """People, and models and networks of the sizes of the recipes that have learnt nothing."""
    from ..training.data import Share
    from ..world.networks.train import TASKS, load_network_config
    from ..world.networks.unpack import unpack
    from ..world.render import render

    render(folder / WORLD, splits=["test"], people=people, pictures=PHOTOS)
    render(folder / SMALL_WORLD, splits=["train", "validation"], people=4, pictures=2)
    recipes, weights = Path(__file__).parent.parent / "world" / "recipes", folder / "weights"
    weights.mkdir()
    for name in ("autoencoder", "base", "image_encoder", *NETWORKS):
        overrides = [f"data.folders={json.dumps([str(folder / SMALL_WORLD)])}", 'data.split="train"']
        if name == "base":
            file = json.dumps(str(weights / "autoencoder.safetensors"))
            overrides += [f"base.autoencoder={file}", f"base.cache={json.dumps(str(folder / 'cache'))}"]
        if name in ("image_encoder", "metric_identity", "metric_attributes"):
            overrides += ["run.batch_size=4", "recognition.people_per_batch=2"]
        config = load_network_config(recipes / f"{name}.toml", overrides)
        task = TASKS[config.network](config, device=torch.device("cpu"))
        task.load_data(Share(process=0, processes=1, batch_size=4), _silent)
        task.write_result(weights / f"{name}.safetensors", {})
    unpack(folder / MODELS, weights)


def _settings(folder: Path, pictures: int, people: int, output: Path) -> EvaluationSettings:
    from ..evaluation.config import EvaluationSettings

    weights, models = folder / "weights", folder / MODELS
    recognises = str(weights / "metric_attributes.safetensors")
    return EvaluationSettings.model_validate(
        {
            "output": output,
            "data": {"path": folder / WORLD / "prepared" / "test", "cache": folder / "photos"},
            "base": {"path": models / "base", "image_encoder": models / "image_encoder", "resolution": 128},
            "drawing": {"pictures": pictures // people},
            "measures": {
                "identity": {"identity": str(weights / "metric_identity.safetensors")},
                "attributes": {"network": recognises, "oracle": folder / WORLD / "oracle.jsonl"},
                "features": {"world": recognises},
                "pose": str(weights / "metric_joints.safetensors"),
                "text": models / "metric_image_text",
            },
            "methods": {"given": {"pictures": folder / f"pictures_{pictures}"}},
        }
    )


def _write_pictures(folder: Path, count: int, *, people: int) -> None:
    """As many drawn ones: photos of others, no two of them alike."""
    from PIL import Image

    from ..evaluation.plan import Plan
    from ..training.features import load_people

    settings = _settings(folder, count, people, folder / "unused")
    given = settings.methods["given"].pictures
    given.mkdir()
    plan = Plan(load_people(settings.data, settings.base, to_train=False).test, settings)
    for number, request in enumerate(plan.requests):
        with Image.open(request.model.path) as image:
            image.paste(GREY, (number % 128, number // 128, number % 128 + 1, number // 128 + 1))
            image.save(given / request.file)


def _networks_alone(folder: Path, pictures: int, people: int) -> Callable[[], None]:
    """Every network asked about every picture, in batches of the same size, from floats that are in memory."""
    from ..evaluation.networks import load_network
    from ..evaluation.pictures import Shown, as_floats, shown_photo
    from ..evaluation.sources import Sources
    from ..training.features import load_people

    settings = _settings(folder, pictures, people, folder / "unused")
    photos = [
        shown_photo(photo).pixels(128)
        for person in load_people(settings.data, settings.base, to_train=False).test
        for photo in person.photos
    ]
    given = sorted(settings.methods["given"].pictures.iterdir())
    drawn = [Shown(key=path.name, path=path).pixels(128) for path in given]
    batches = torch.stack([*drawn, *photos]).split(settings.measures.batch_size)
    sources: list[Source] = Sources.of(settings.measures).all

    @torch.no_grad()
    def ask() -> None:
        for source in sources:
            with ExitStack() as models:
                network = load_network(source, device=torch.device("cpu"), models=models)
                for batch in batches:
                    network(as_floats(batch))

    return ask


def _evaluations(folder: Path, pictures: int, people: int) -> Callable[[], None]:
    """The whole command's work, into a new folder each time."""
    from ..evaluation.evaluate import evaluate

    started = 0

    def action() -> None:
        nonlocal started
        started += 1
        evaluate(_settings(folder, pictures, people, folder / f"evaluation_{started}"))

    return action


def _peak(folder: Path, pictures: int, people: int) -> int:
    """Bytes of a process that measures so many pictures."""
    command = [sys.executable, "-m", f"{__package__}.measuring", str(folder), str(pictures), str(people)]
    child = subprocess.run(command, capture_output=True, text=True)
    if child.returncode:
        raise RuntimeError(f"Measuring {pictures} pictures ended with {child.returncode}: {child.stderr}")
    return int(child.stdout.splitlines()[-1])


def _silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Tell nobody."""


if __name__ == "__main__":
    from ..evaluation.evaluate import evaluate

    where, count, persons = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    evaluate(_settings(where, count, persons, where / f"memory_{count}"))
    print(peak_of_process())
