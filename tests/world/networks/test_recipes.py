"""The recipes of the networks that ship, and how recipes are read."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch

from bolid.training.config import AdapterTraining, load_config, resolved
from bolid.training.data import Share
from bolid.world.networks.cards import ROLES
from bolid.world.networks.config import KINDS, HeadName, NetworkTraining
from bolid.world.networks.dataset import HELD_OUT
from bolid.world.networks.train import TASKS, load_network_config, train_network
from bolid.world.pictures import SIDE

from .conftest import DrawnWorld, write_autoencoder

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "world" / "recipes"
RECIPES = sorted(FOLDER.glob("*.toml"))
NAMES = [path.stem for path in RECIPES]


def recipe_of(path: Path, *overrides: str) -> NetworkTraining:
    return load_network_config(path, overrides)


def test_every_kind_of_network_has_a_recipe_and_a_task():
    assert {"autoencoder", "image_encoder", "joints", "metric_joints"} <= set(NAMES)
    assert set(TASKS) == set(KINDS)
    assert {recipe_of(path).network for path in RECIPES} == set(KINDS)


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_recipe_says_what_it_is_and_where_it_writes(path: Path):
    config = recipe_of(path)
    assert path.read_text(encoding="utf-8").startswith("# ")
    assert config.run.output == Path("runs/world") / path.stem
    assert config.run.validate_every <= config.run.steps and config.run.save_every <= config.run.steps
    assert resolved(config)["run"]["steps"] == config.run.steps


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_nothing_is_learned_from_people_who_are_held_out_or_measured(path: Path):
    """Networks that measure learn from people of their own, and from nobody else's; and no other network from them."""
    config = recipe_of(path)
    measures = path.stem.startswith("metric")
    assert config.data.split == ("metrics" if measures else "base")
    assert HELD_OUT == "validation" != config.data.split
    folders = {folder.name for folder in config.data.folders}
    assert ("metrics" if measures else "base") in folders and ("base" if measures else "metrics") not in folders


@pytest.mark.parametrize("name", ["joints", "image_text"])
def test_networks_that_measure_start_from_other_numbers(name: str):
    assert recipe_of(FOLDER / f"metric_{name}.toml").run.seed != recipe_of(FOLDER / f"{name}.toml").run.seed


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_recipe_names_what_it_lacks(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where nothing was drawn yet, its first folder, and the command that draws."""
    monkeypatch.chdir(tmp_path)
    config = recipe_of(path)
    folder = config.data.folders[0]
    with pytest.raises(ValueError, match=f"^{folder} is no folder of drawn people.*bolid world render {folder}"):
        train_network(config)
    assert list(tmp_path.iterdir()) == []


FEW_PEOPLE = ("run.batch_size=12", "recognition.people_per_batch=3")


def untrained(name: str, folder: Path, *overrides: str) -> Path:
    """A file of the sizes that a recipe names."""
    config, path = recipe_of(FOLDER / f"{name}.toml", *overrides), folder / f"{name}.safetensors"
    TASKS[config.network](config, device=torch.device("cpu")).write_result(path, {})
    return path


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_recipe_can_be_built_and_computes(path: Path, drawn: DrawnWorld, tmp_path: Path):
    """With the sizes it names; on few pictures."""
    overrides = [f'data.folders=["{drawn.large}"]', f'run.output="{tmp_path / "run"}"']
    config = recipe_of(path)
    if config.network == "base":
        if config.base.image_encoder is not None:
            file = untrained("image_encoder", tmp_path, *overrides, *FEW_PEOPLE)
            overrides.append(f'base.image_encoder="{file}"')
        channels = recipe_of(path.with_name("autoencoder.toml")).autoencoder.latent_channels
        file = write_autoencoder(tmp_path / "autoencoder.safetensors", drawn, latent_channels=channels)
        overrides += [f'base.autoencoder="{file}"', f'base.cache="{tmp_path / "cache"}"']
        if config.base.start is not None:
            file = untrained(config.base.start.parent.name, tmp_path, *overrides)
            overrides.append(f'base.start="{file}"')
    if config.network == "recognition":
        overrides += FEW_PEOPLE
    config = recipe_of(path, *overrides)
    task = TASKS[config.network](config, device=torch.device("cpu"))
    rows = config.run.batch_size
    task.load_data(Share(process=0, processes=1, batch_size=rows), lambda *progress: None)
    terms, batch = task.loss_terms(task.module, 0, 0)
    assert set(terms) <= set(task.terms) and len(batch.names) == rows
    assert all(term.shape == (rows,) and term.isfinite().all() for term in terms.values())
    assert any(term.requires_grad for term in terms.values())


ADAPTERS = sorted((FOLDER / "adapters").glob("*.toml"))


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda path: path.stem)
def test_adapters_learn_from_the_train_people_and_from_what_other_recipes_wrote(path: Path):
    config = load_config(path)
    assert path.read_text(encoding="utf-8").startswith("# ")
    assert config.run.output == Path("runs/world") / path.stem
    assert config.data.path == Path("data/people/prepared/training") and config.base.resolution == SIDE
    known = {str(Path("runs/world") / other.stem / "adapter.safetensors") for other in ADAPTERS if other != path}
    if isinstance(config, AdapterTraining):
        given = [file for file in (config.adapter.initial, config.loss.keypoint_network) if file is not None]
        assert known >= set(map(str, given))


def test_adapters_go_on_from_adapters_whose_aggregator_they_keep():
    configs = {path.stem: load_config(path) for path in ADAPTERS}
    for config in configs.values():
        if isinstance(config, AdapterTraining) and config.adapter.initial is not None:
            begun = configs[config.adapter.initial.parent.name]
            assert isinstance(begun, AdapterTraining)
            assert begun.aggregator_depth in (0, config.aggregator_depth)


def test_every_recipe_has_a_card():
    assert set(ROLES) == {*NAMES, *(path.stem for path in ADAPTERS)}


def test_the_image_encoder_knows_all_that_is_in_a_picture():
    assert set(recipe_of(FOLDER / "image_encoder.toml").recognition.heads) == set(get_args(HeadName))


# Reading


def test_problems_are_told_together(tmp_path: Path):
    path = tmp_path / "recipe.toml"
    path.write_text(
        'network = "recognition"\n[run]\nstep = 3\n[data]\nfolders = ["x"]\nsplit = "base"\n[recognition]\n'
    )
    with pytest.raises(ValueError) as told:
        load_network_config(path)
    parts = ("run.output is missing", "unknown key run.step (did you mean run.steps?)", "recognition.kind is missing")
    assert str(told.value).startswith(f"{path}: ") and all(part in str(told.value) for part in parts)


def test_overrides_take_the_place_of_what_the_recipe_says():
    path = FOLDER / "joints.toml"
    config = recipe_of(path, "run.steps=7", "data.split=metrics", "joints.width=64", "run.output=elsewhere")
    assert (config.run.steps, config.data.split, config.joints.width) == (7, "metrics", 64)
    assert config.run.output == Path("elsewhere")
    with pytest.raises(ValueError, match="'run.steps' is no override; expected section.key=value"):
        recipe_of(path, "run.steps")


def test_a_table_that_is_missing_is_told(tmp_path: Path):
    path = tmp_path / "recipe.toml"
    path.write_text('network = "base"\n[run]\noutput = "x"\n[data]\nfolders = ["x"]\nsplit = "base"\n')
    with pytest.raises(ValueError, match="base is missing$"):
        load_network_config(path)
    path.write_text("network = [\n")
    with pytest.raises(ValueError, match="recipe.toml is no TOML file: "):
        load_network_config(path)
    path.write_text("network = 3\n")
    with pytest.raises(ValueError, match="recipe.toml: network must be one of .*, but it is 3\\.$"):
        load_network_config(path)


@pytest.mark.parametrize("split", ["validation", "test", "demo"])
def test_people_who_are_held_out_are_never_learned_from(split: str):
    """What is validated would be what was learned."""
    with pytest.raises(ValueError, match=f"data.split = '{split}'"):
        recipe_of(FOLDER / "joints.toml", f"data.split={split}")
