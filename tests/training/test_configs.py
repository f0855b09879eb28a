"""The shipped configs: they parse, they explain every key, they ship, and the small ones run."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from bolid.training.config import AdapterTraining, KeypointTraining, load_config
from bolid.training.train import train

from .conftest import Toy

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {path.stem: path for path in sorted((ROOT / "training" / "configs").iterdir())}
EXPLAINING = ("sd15_ip_adapter", "sd15_bolid", "sd15_keypoints")
"""The files that explain keys; each key in one of them."""

UNSET = "Not set by default."
REQUIRED = "No default."


@dataclass(frozen=True)
class Key:
    """A key of a file, active or commented out, and the comment right above it."""

    name: str
    value: str
    active: bool
    comment: str


def keys(text: str) -> Iterator[Key]:
    section, comment = "", []
    for line in text.splitlines():
        if found := re.fullmatch(r"\[(.+)\]", line):
            section, comment = f"{found[1]}.", []
        elif found := re.fullmatch(r"(# )?([a-z_0-9]+) = (.+)", line):
            yield Key(section + found[2], found[3], not found[1], " ".join(comment))
            comment = []
        else:
            # Another line ends a comment.
            comment = [*comment, line.removeprefix("# ")] if line.startswith("# ") else []


def defaults(section: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Key -> its default in config.py."""
    found: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= defaults(field.annotation, f"{prefix}{name}.")
        else:
            found[prefix + name] = field.default
    return found


KNOWN = defaults(AdapterTraining) | defaults(KeypointTraining)
EXPLAINED = {
    key.name: key
    for name in EXPLAINING
    for key in keys(CONFIGS[name].read_text(encoding="utf-8"))
    if key.comment.endswith((UNSET, REQUIRED)) or "Default: " in key.comment
}


def comments(text: str) -> str:
    return " ".join(re.findall(r"^# ?(.*)$", text, flags=re.MULTILINE))


def test_there_is_a_config_for_every_method_and_size():
    methods = ("ip_adapter", "self_attention", "bolid", "keypoints")
    assert sorted(CONFIGS) == sorted(f"{size}_{method}" for size in ("sd15", "sdxl", "small") for method in methods)


@pytest.mark.parametrize("name", CONFIGS)
def test_it_parses_and_says_what_its_name_says(name: str):
    config = load_config(CONFIGS[name])
    assert name.endswith(config.method)
    assert config.run.output == Path("runs", name)
    paths = [config.data.path, config.base.path, config.base.image_encoder]
    if isinstance(config, AdapterTraining):
        paths += [config.adapter.initial or Path(), config.loss.keypoint_network or Path()]
    assert not [path for path in paths if path.is_absolute()]


DECIDED_BY_INITIAL = ("adapter.kind", "adapter.num_tokens", "adapter.inner_dim", "adapter.depth")
"""What the explained file names, and starts from a file instead."""


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_commented_out_would_parse(name: str):
    for key in keys(CONFIGS[name].read_text(encoding="utf-8")):
        assert key.name in KNOWN
        if key.name in DECIDED_BY_INITIAL:
            with pytest.raises(ValueError, match=f"adapter.initial decides on {key.name}"):
                load_config(CONFIGS[name], [f"{key.name}={key.value}"])
        elif not key.active:
            load_config(CONFIGS[name], [f"{key.name}={key.value}"])


@pytest.mark.parametrize("name", CONFIGS)
def test_comments_name_no_unknown_key_and_no_unknown_file(name: str):
    text = comments(CONFIGS[name].read_text(encoding="utf-8"))
    sections = sorted({key.partition(".")[0] for key in KNOWN if "." in key})
    named = set(re.findall(rf"(?<![\w./-])(?:{'|'.join(sections)})\.[a-z_.]*[a-z_]", text))
    assert not named - set(KNOWN) - {"adapter.safetensors"}
    assert not [file for file in re.findall(r"[\w/]+\.toml", text) if Path(file).stem not in CONFIGS]


def test_every_key_is_explained_once():
    assert set(EXPLAINED) == set(KNOWN)
    explanations = [
        found
        for path in CONFIGS.values()
        for found in re.findall(rf"Default: |{REQUIRED}|{UNSET}", comments(path.read_text(encoding="utf-8")))
    ]
    assert len(explanations) == len(KNOWN)


@pytest.mark.parametrize("name", KNOWN)
def test_the_explanation_gives_the_default(name: str):
    default, comment = KNOWN[name], EXPLAINED[name].comment
    if default is PydanticUndefined:
        assert comment.endswith(REQUIRED)
    elif default is None:
        assert comment.endswith(UNSET)
    else:
        (value,) = re.findall(r"Default: (.+)\.$", comment)
        given = tomllib.loads(f"value = {value}")["value"]
        assert given == (list(default) if isinstance(default, tuple) else default)
        assert isinstance(given, type(default)) or isinstance(default, tuple)


@pytest.mark.parametrize("method", ["ip_adapter", "self_attention", "bolid", "keypoints"])
def test_sdxl_fits_the_settings_of_a_small_card(method: str):
    config = load_config(CONFIGS[f"sdxl_{method}"])
    assert (config.run.batch_size, config.run.precision) == (1, "bf16")
    assert config.data.buckets and config.base.resolution == 1024
    if isinstance(config, AdapterTraining):
        assert config.run.gradient_checkpointing and config.optimizer.name == "adamw8bit"
        assert not (config.loss.clip or config.loss.clip_image), "decoding does not fit"


def short_run(name: str, toy: Toy, output: Path, *overrides: str) -> Path:
    """Two steps of a shipped config on the tiny world; returns the file that it made."""
    paths = {
        "run.output": output,
        "data.path": toy.people,
        "base.path": toy.base,
        "base.image_encoder": toy.image_encoder,
    }
    sizes = {"run.steps": 2, "run.validation_batches": 1, "run.sample_people": 1, "run.sample_steps": 2}
    given = [f'{key}="{value}"' for key, value in paths.items()] + [f"{key}={value}" for key, value in sizes.items()]
    config = load_config(CONFIGS[name], [*given, "run.log_every=1", "base.resolution=64", *overrides])
    return Path(train(config)["adapter"])


@pytest.fixture(scope="module")
def small_runs(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Method -> folder of a run of the small config."""
    folder = tmp_path_factory.mktemp("runs")
    files = {
        method: short_run(f"small_{method}", toy, folder / method)
        for method in ("ip_adapter", "self_attention", "keypoints")
    }
    files["bolid"] = short_run(
        "small_bolid",
        toy,
        folder / "bolid",
        f'loss.keypoint_network="{files["keypoints"]}"',
        f'loss.clip_model="local-dir:{toy.clip}"',
        'loss.clip_weights=""',
        "loss.start_step=0",
    )
    return {method: file.parent for method, file in files.items()}


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("method", ["ip_adapter", "self_attention", "bolid", "keypoints"])
def test_the_small_config_runs(small_runs: dict[str, Path], method: str):
    run = small_runs[method]
    assert (run / "adapter.safetensors").is_file()
    assert [entry["step"] for entry in metrics(run) if entry["kind"] == "train"] == [1, 2]
    assert list((run / "samples").glob("*.png"))


def test_the_small_bolid_config_uses_every_term(small_runs: dict[str, Path]):
    assert all({"reconstruction", "identity", "clip"} <= set(entry) for entry in metrics(small_runs["bolid"])[1:3])


# docs/training.md


def test_the_guide_names_every_value_that_a_run_logs(small_runs: dict[str, Path]):
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    named = {
        f"{entry['kind']}/{re.sub(r'_alpha_bar_.*', '_alpha_bar_*', name)}"
        for run in small_runs.values()
        for entry in metrics(run)
        for name in entry
        if name not in ("step", "kind")
    }
    assert len(named) > 15
    assert not [name for name in sorted(named) if f"`{name}`" not in page]


def test_the_guide_names_everything_in_the_folder_of_a_run(small_runs: dict[str, Path]):
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert not [path.name for run in small_runs.values() for path in run.iterdir() if f"`{path.name}" not in page]


def test_the_guide_names_every_config():
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert not [name for name in CONFIGS if f"{name}.toml" not in page]
