"""The experiment: what is trained is what is compared, and every training can start."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bolid.evaluation.config import load_config
from bolid.training.config import load_config as load_training

ROOT = Path(__file__).resolve().parents[2]
SEEDS = range(3)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    specification = importlib.util.spec_from_file_location("experiment", ROOT / "scripts" / "experiment.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules["experiment"] = module  # dataclasses look there
    specification.loader.exec_module(module)
    return module


def test_every_training_can_start_and_goes_on_from_another_one(script: ModuleType):
    keypoints = script.RUNS / "keypoints"
    written = {keypoints / script.RESULT}
    for seed in SEEDS:
        for name, variant in script.VARIANTS.items():
            output = script.RUNS / name / f"seed_{seed}"
            overrides = [f"run.output={output}", *script.settings(variant, seed, keypoints)]
            config = load_training(ROOT / script.RECIPES / f"{variant.recipe}.toml", overrides)
            assert config.run.seed == seed and config.run.output == output
            needed = {config.adapter.initial, config.loss.keypoint_network} - {None}
            assert needed <= written, name
            written.add(output / script.RESULT)


@pytest.mark.parametrize("name", ["experiment", "experiment_frontier"])
def test_what_is_compared_is_trained(script: ModuleType, name: str):
    config = load_config(ROOT / "evaluation" / "configs" / f"{name}.toml")
    assert config.output == Path("runs/evaluation") / name and config.baseline == "base"
    trained = {script.RUNS / variant / f"seed_{seed}" / script.RESULT for variant in script.VARIANTS for seed in SEEDS}
    used = {file for method in config.methods.values() for file in method.adapter_files}
    assert used == trained if name == "experiment" else used < trained
    assert str(config.data.path).endswith("prepared/test")


def test_all_evaluations_are_run(script: ModuleType):
    configs = {path.stem for path in (ROOT / "evaluation" / "configs").glob("experiment*.toml")}
    assert set(script.EVALUATIONS) == configs
