"""What an evaluation is told: values that fit, and messages for those that do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bolid.evaluation.config import EvaluationSettings, load_config

from ..training.conftest import write_config

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "evaluation" / "configs").glob("*.toml"))


def values(**sections: Any) -> dict[str, Any]:
    return {
        "output": "out",
        "data": {"path": "people"},
        "base": {"path": "base", "image_encoder": "encoder"},
        "methods": {"base": {}, "mine": {"adapter": "mine.safetensors", "references": [1, 4]}},
        **sections,
    }


def test_overrides_reach_methods_and_measures(tmp_path: Path) -> None:
    path = write_config(tmp_path / "config.toml", values(measures={"identity": {"likeness": "one.safetensors"}}))
    overrides = [
        "methods.mine.references=[9]",
        "measures.identity.dino=dino:weights/dinov2",
        "measures.text=pair",
        "drawing.seeds=[1, 2]",
        "baseline=base",
    ]
    settings = load_config(path, overrides)
    assert settings.methods["mine"].references == (9,)
    assert settings.measures.identity == {"likeness": "one.safetensors", "dino": "dino:weights/dinov2"}
    assert (settings.measures.text, settings.drawing.seeds, settings.baseline) == (Path("pair"), (1, 2), "base")


def test_numbers_of_photos_and_runs() -> None:
    methods = {
        "base": {},
        "one": {"adapter": "a", "references": [1, 4]},
        "three": {"adapters": ["a", "b", "c"]},
        "given": {"pictures": "folder", "references": [5]},
    }
    found = EvaluationSettings.model_validate(values(methods=methods)).methods
    assert {name: method.photo_counts for name, method in found.items()} == {
        "base": (0,),
        "one": (1, 4),
        "three": (9,),
        "given": (5,),
    }
    assert {name: method.runs for name, method in found.items()} == {"base": 1, "one": 1, "three": 3, "given": 1}
    assert EvaluationSettings.model_validate(values()).most_references == 4
    assert EvaluationSettings.model_validate(values(methods={"base": {}})).most_references == 1


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"baseline": "bsae"}, "baseline is 'bsae', which is none of the methods base, mine"),
        ({"methods": {"m": {"compare_with": ["n"]}}}, "methods.m.compare_with has 'n'; expected others"),
        ({"methods": {"m": {"compare_with": ["m"]}}}, "methods.m.compare_with has 'm'"),
        ({"baseline": "m", "methods": {"m": {}, "n": {"compare_with": ["m"]}}}, "without the baseline"),
        ({"drawing": {"step": 3}}, "unknown key drawing.step \\(did you mean drawing.steps\\?\\)"),
        ({"measure": {}}, "unknown key measure \\(did you mean measures\\?\\)"),
        ({"methods": {"m": {"adaptor": "a"}}}, "unknown key methods.m.adaptor"),
        ({"methods": {}}, "methods = {}"),
        ({"methods": {"m": {"adapter": "a", "pictures": "b"}}}, "a method has adapter and pictures; give one of them"),
        ({"methods": {"m": {"target_pose": True}}}, "methods.m has no adapter, so target_pose would change nothing"),
        ({"methods": {"m": {"references": [3]}}}, "methods.m has no adapter, so references would change nothing"),
        (
            {"methods": {"m": {"pictures": "b", "aggregation": "max"}}},
            "methods.m has no adapter, so aggregation would change nothing",
        ),
        (
            {"methods": {"m": {"pictures": "b", "references": [1, 9]}}},
            "methods.m.references has 2 numbers, but pictures were drawn from one",
        ),
        ({"methods": {"m": {"adapter": "a", "references": [1, 1]}}}, "methods.m.references names a number twice"),
        (
            {"methods": {"m": {"adapter": "a", "references": [3], "other_people": 3}}},
            "other_people is 3, but of 3 references at least one has to show the person",
        ),
        ({"data": {"path": "people", "buckets": True}}, "data.buckets is true, but all methods draw square pictures"),
        (
            {
                "drawing": {"prompts": ["a person"]},
                "measures": {"attributes": {"network": "n", "oracle": "o"}},
            },
            "measures.attributes needs the captions of the photos",
        ),
        ({"measures": {"identity": {"text": "n"}}}, "measures.identity.text: other measures have columns of that name"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    path = write_config(tmp_path / "config.toml", values(**sections))
    with pytest.raises(ValueError, match=message) as told:
        load_config(path)
    assert str(told.value).startswith(f"{path}: ") and "\n" not in str(told.value)


@pytest.mark.parametrize("section", [{"methods": {"../m": {}}}, {"measures": {"identity": {"Like Ness": "n"}}}])
def test_names_are_those_of_folders_and_columns(section: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="String should match pattern"):
        EvaluationSettings.model_validate(values(**section))


def test_no_config_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no config file .*nowhere.toml. Examples are in evaluation/configs"):
        load_config(tmp_path / "nowhere.toml")
    (tmp_path / "bad.toml").write_text("output = ")
    with pytest.raises(ValueError, match="bad.toml is no TOML file"):
        load_config(tmp_path / "bad.toml")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_parse_and_every_method_is_compared(path: Path) -> None:
    settings = load_config(path)
    assert settings.baseline in settings.methods
    assert settings.measures.identity and settings.measures.text and settings.measures.pose


def test_there_are_examples() -> None:
    assert "people_world" in [path.stem for path in EXAMPLES]
