"""The config file: every key is known, every message names the key and what to write in its place."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bolid.training import config as config_module
from bolid.training.config import (
    AdapterTraining,
    BodySettings,
    KeypointTraining,
    Section,
    load_config,
    resolved,
)
from bolid.training.people import PrepareSettings

MINIMAL = """
method = "bolid"

[run]
output = "runs/anna"

[data]
path = "people"

[base]
path = "base"
image_encoder = "encoder"
"""


def written(tmp_path: Path, text: str = MINIMAL) -> Path:
    path = tmp_path / "training.toml"
    path.write_text(text, encoding="utf-8")
    return path


def message(tmp_path: Path, *overrides: str, text: str = MINIMAL) -> str:
    """Why a config is refused."""
    path = written(tmp_path, text)
    with pytest.raises(ValueError) as caught:
        load_config(path, overrides)
    assert str(path) in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


def without(text: str, line: str) -> str:
    assert text.count(line) == 1
    return text.replace(line, "")


# Defaults


def test_minimal_config(tmp_path: Path):
    config = load_config(written(tmp_path))
    assert isinstance(config, AdapterTraining)
    assert (config.run.output, config.data.path) == (Path("runs/anna"), Path("people"))
    assert (config.base.path, config.base.image_encoder) == (Path("base"), Path("encoder"))
    assert isinstance(load_config(written(tmp_path), ["method=keypoints"]), KeypointTraining)


def test_defaults_are_those_of_the_methods(tmp_path: Path):
    """docs/ and the docstrings promise these; the probabilities are IP-Adapter's, for each branch."""
    values = resolved(load_config(written(tmp_path)))
    assert values["dropping"] == {
        "text": 0.05,
        "face": 0.05,
        "body": 0.05,
        "all": 0.05,
        "target_pose": 0.5,
        "body_image": 0.1,
    }
    assert values["data"]["references"] == 9  # the places of the aggregator
    assert (values["data"]["crop"], values["data"]["buckets"], values["data"]["cache"]) == ("whole", False, None)
    loss = values["loss"]
    assert (loss["min_snr_gamma"], loss["identity"], loss["clip"], loss["clip_image"]) == (None, 0.0, 0.0, 0.0)
    assert (loss["clip_model"], loss["min_alpha_bar"], loss["start_step"]) == ("EVA02-L-14", 0.5, 0)
    assert values["base"]["resolution"] == 512
    assert (
        values["adapter"]["body"]
        == BodySettings().model_dump()
        == {
            "dim": 512,
            "depth": 2,
            "resampler_depth": 1,
            "num_tokens": 8,
        }
    )
    assert values["optimizer"]["ema_decay"] == 0.0
    assert values["run"]["precision"] == "fp32"
    assert PrepareSettings().test_share == pytest.approx(1 / 3)  # people, train : test = 2 : 1


@pytest.mark.parametrize(
    ("overrides", "depth"),
    [
        (["method=ip_adapter"], 0),
        (["method=self_attention"], 2),
        (["method=bolid"], 0),
        (["method=bolid", "adapter.aggregator_depth=1"], 1),
        (["method=self_attention", "adapter.aggregator_depth=3"], 3),
    ],
)
def test_depth_of_the_aggregator(tmp_path: Path, overrides: list[str], depth: int):
    config = load_config(written(tmp_path), overrides)
    assert config.aggregator_depth == depth
    assert config.has_body == ("method=bolid" in overrides)


@pytest.mark.parametrize("method", ["bolid", "keypoints"])
def test_resolved_config_is_a_config_again(tmp_path: Path, method: str):
    """pydantic does not check defaults; read back, each has to obey its own range."""
    config = load_config(written(tmp_path), [f"method={method}"])
    assert type(config).model_validate(resolved(config)) == config


def test_config_does_not_change(tmp_path: Path):
    config = load_config(written(tmp_path))
    with pytest.raises(ValueError, match="frozen"):
        config.run.steps = 1


SECTIONS = [
    section
    for section in (*vars(config_module).values(), PrepareSettings)
    if isinstance(section, type) and issubclass(section, Section) and section is not Section
]


@pytest.mark.parametrize("section", SECTIONS)
def test_documented_keys_exist(section: type[Section]):
    _, _, attributes = (section.__doc__ or "").partition("Attributes:\n")
    documented = [
        name.strip()
        for names in re.findall(r"^ {8}([a-z_, ]+): ", attributes, flags=re.MULTILINE)
        for name in names.split(",")
    ]
    assert set(documented) <= set(section.model_fields)
    assert documented or "Attributes" not in (section.__doc__ or "")


# Keys that are not known


@pytest.mark.parametrize(
    ("override", "key", "nearest"),
    [
        ("run.stpes=5", "run.stpes", "run.steps"),
        ("optimizer.learning-rate=1e-4", "optimizer.learning-rate", "optimizer.learning_rate"),
        ("adapter.body.tokens=4", "adapter.body.tokens", "adapter.body.num_tokens"),
        ("optimiser.name=adamw", "optimiser", "optimizer"),
        # In the wrong table, also where a key there looks alike.
        ("optimizer.batch_size=4", "optimizer.batch_size", "run.batch_size"),
        ("optimizer.steps=5", "optimizer.steps", "run.steps"),
        ("run.learning_rate=1e-4", "run.learning_rate", "optimizer.learning_rate"),
        ("steps=5", "steps", "run.steps"),
        ("adapter.dim=64", "adapter.dim", "adapter.body.dim"),
        ("run.method=bolid", "run.method", "method"),
    ],
)
def test_unknown_key_names_the_one_that_was_meant(tmp_path: Path, override: str, key: str, nearest: str):
    assert message(tmp_path, override) == f"unknown key {key} (did you mean {nearest}?)"


def test_unknown_key_without_a_likeness(tmp_path: Path):
    assert message(tmp_path, "optimizer.colour=1") == "unknown key optimizer.colour"


def test_keys_of_another_method_are_unknown(tmp_path: Path):
    assert "unknown key adapter" in message(tmp_path, "method=keypoints", "adapter.depth=2")
    assert "unknown key network" in message(tmp_path, "network.width=64")
    assert "did you mean network.width?" in message(tmp_path, "method=keypoints", "optimizer.width=64")


def test_all_problems_are_named_at_once(tmp_path: Path):
    problems = message(tmp_path, "run.stpes=5", "run.batch_size=0", text=without(MINIMAL, 'path = "people"'))
    assert [problem.split(" ")[0] for problem in problems.split("; ")] == ["run.batch_size", "unknown", "data.path"]


# Values that cannot be


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("run.steps=many", "run.steps = 'many': input should be a valid integer"),
        ("run.steps=1.5", "run.steps = 1.5: input should be a valid integer"),
        ("run=5", "run = 5: input should be a valid dictionary"),
        ("data.buckets=perhaps", "data.buckets = 'perhaps': input should be a valid boolean"),
        ("data.references=0", "data.references = 0: input should be greater than or equal to 1"),
        ("base.resolution=500", "base.resolution = 500: input should be a multiple of 8"),
        ("dropping.text=1.5", "dropping.text = 1.5: input should be less than or equal to 1"),
        ("optimizer.learning_rate=0", "optimizer.learning_rate = 0: input should be greater than 0"),
        ("optimizer.learning_rate=nan", "optimizer.learning_rate = nan: input should be a finite number"),
        ("optimizer.max_grad_norm=inf", "optimizer.max_grad_norm = inf: input should be a finite number"),
        ("optimizer.betas=[0.9, 1.0]", "optimizer.betas.1 = 1.0: input should be less than 1"),
        ("optimizer.betas=[0.9]", "optimizer.betas.1 is missing"),
        ("optimizer.name=sgd", "optimizer.name = 'sgd': input should be 'adamw' or 'adamw8bit'"),
        ("adapter.body.dim=100", "adapter.body.dim = 100: input should be a multiple of 64"),
    ],
)
def test_value_that_cannot_be(tmp_path: Path, override: str, expected: str):
    assert message(tmp_path, override).startswith(expected)


@pytest.mark.parametrize(
    ("line", "expected"),
    [('output = "runs/anna"', "run.output"), ('path = "people"', "data.path"), ('image_encoder = "encoder"', None)],
)
def test_missing_key(tmp_path: Path, line: str, expected: str | None):
    assert message(tmp_path, text=without(MINIMAL, line)) == f"{expected or 'base.image_encoder'} is missing"


def test_missing_table(tmp_path: Path):
    assert message(tmp_path, text=without(without(MINIMAL, "[data]"), 'path = "people"')) == "data is missing"


def test_method_missing_or_unknown(tmp_path: Path):
    methods = "method must be one of ip_adapter, self_attention, bolid, keypoints, but it is"
    assert message(tmp_path, text=without(MINIMAL, 'method = "bolid"')) == f"{methods} missing."
    assert message(tmp_path, "method=dreambooth") == f"{methods} 'dreambooth'."


# Settings that do not fit together


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["dropping.text=0.5", "dropping.all=0.5"], "text, face, body and all of dropping add up to 1.1"),
        (["method=ip_adapter", "adapter.aggregator_depth=1"], 'not "ip_adapter"'),
        (["method=self_attention", "adapter.aggregator_depth=0"], "trains an aggregator"),
        (["method=self_attention", "data.references=10"], "data.references is 10, but the aggregator has 9 places"),
        (["data.other_people=5"], "data.other_people is 5, but of 9 references more than half have to show the person"),
        (["loss.identity=0.1"], "loss.identity needs loss.keypoint_network"),
    ],
)
def test_settings_that_do_not_fit_together(tmp_path: Path, overrides: list[str], expected: str):
    assert expected in message(tmp_path, *overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        # Without a body branch its probability does not count.
        ["method=ip_adapter", "dropping.text=0.5", "dropping.face=0.3", "dropping.body=0.5", "dropping.all=0.2"],
        # In binary these add up to more than 1.
        ["dropping.text=0.55", "dropping.face=0.34", "dropping.body=0", "dropping.all=0.11"],
        ["dropping.text=0", "dropping.face=0.33", "dropping.body=0.56", "dropping.all=0.11"],
        ["method=self_attention", "data.references=9"],
        ["method=bolid", "data.references=64"],
        ["loss.identity=0.1", "loss.keypoint_network=network.safetensors"],
    ],
)
def test_settings_that_fit_together(tmp_path: Path, overrides: list[str]):
    load_config(written(tmp_path), overrides)


# Overrides


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("run.steps=2_000", "run", "steps", 2000),
        ("run.steps = 7", "run", "steps", 7),
        ("run.output=/somewhere/else", "run", "output", Path("/somewhere/else")),
        ('run.output="with = sign"', "run", "output", Path("with = sign")),
        ("base.family=a = b", "base", "family", "a = b"),
        ("base.family=", "base", "family", ""),
        ("run.gradient_checkpointing=true", "run", "gradient_checkpointing", True),
        ("optimizer.learning_rate=2e-5", "optimizer", "learning_rate", 2e-5),
        ("optimizer.betas=[0.8, 0.99]", "optimizer", "betas", (0.8, 0.99)),
        ("adapter.body={dim = 64, depth = 1}", "adapter", "body", BodySettings(dim=64, depth=1)),
        ("adapter.body.dim=128", "adapter", "body", BodySettings(dim=128)),
    ],
)
def test_overrides(tmp_path: Path, override: str, section: str, key: str, value: Any):
    assert getattr(getattr(load_config(written(tmp_path), [override]), section), key) == value


def test_overrides_replace_what_the_file_says(tmp_path: Path):
    text = MINIMAL + "[adapter]\nkind = 'plus'\n[adapter.body]\ndim = 64\ndepth = 3\n"
    config = load_config(written(tmp_path, text), ["adapter.body.dim=128", "adapter.body.dim=192", "method=bolid"])
    assert config.adapter.body == BodySettings(dim=192, depth=3)
    assert config.adapter.kind == "plus"


@pytest.mark.parametrize("override", ["run.steps", "--steps", "=5", "run.=5", ""])
def test_malformed_override(tmp_path: Path, override: str):
    with pytest.raises(ValueError, match=re.escape(f"{override!r} is no override; expected section.key=value")):
        load_config(written(tmp_path), [override])


def test_override_of_a_key_in_a_value(tmp_path: Path):
    with pytest.raises(ValueError, match=re.escape("'run.output.path=1': output is a value and has no keys")):
        load_config(written(tmp_path), ["run.output.path=1"])


# Files that cannot be read


def test_no_file(tmp_path: Path):
    with pytest.raises(ValueError, match=re.escape(f"There is no config file {tmp_path / 'none.toml'}")):
        load_config(tmp_path / "none.toml")


@pytest.mark.parametrize("content", [b"method: bolid", b"method = 'bolid", b'method = "bolid"\nmethod = "bolid"'])
def test_no_toml(tmp_path: Path, content: bytes):
    path = tmp_path / "training.toml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path} is no TOML file: ") + "."):
        load_config(path)


def test_not_utf8(tmp_path: Path):
    path = tmp_path / "training.toml"
    path.write_bytes(MINIMAL.replace("anna", "zoë").encode("latin-1"))
    with pytest.raises(ValueError, match=re.escape(f"{path} is no TOML file: ") + ".*utf-8"):
        load_config(path)


def test_byte_order_mark_of_windows_editors(tmp_path: Path):
    path = tmp_path / "training.toml"
    path.write_text(MINIMAL, encoding="utf-8-sig")
    assert load_config(path).method == "bolid"


# Speed


@pytest.mark.parametrize(
    "arguments",
    [("-m", "bolid", "--help"), ("-m", "bolid", "train", "--help"), ("-c", "import bolid.training.config")],
)
def test_help_imports_no_torch(tmp_path: Path, arguments: tuple[str, ...]):
    command = [sys.executable, "-X", "importtime", *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    imported = {line.split("|")[-1].strip().split(".")[0] for line in result.stderr.splitlines() if "|" in line}
    assert "pydantic" in imported
    assert not imported & {"torch", "numpy", "diffusers", "transformers", "accelerate"}
