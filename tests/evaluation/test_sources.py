"""Names of networks in the config, and what tells networks apart."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from bolid.evaluation.config import MeasureSettings
from bolid.evaluation.sources import Source, Sources

from .conftest import Toy, write_recogniser


def sources(**values: Any) -> Sources:
    return Sources.of(MeasureSettings.model_validate(values))


def test_one_network_for_two_measures_is_asked_once(toy: Toy) -> None:
    found = sources(**{**toy.measures, "identity": {"a": str(toy.identity), "b": str(toy.identity)}})
    assert found.identity["a"] == found.identity["b"] == Source("recognition", toy.identity)
    assert found.features["world"] == found.attributes
    assert [source.kind for source in found.all] == ["recognition", "pair", "recognition", "joints"]
    assert sources().all == []


def test_kinds_are_named_before_the_path(tmp_path: Path) -> None:
    for name, file in (("clip", "config.json"), ("dino", "config.json"), ("faces", "det.onnx")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
    (tmp_path / "inception.pt").touch()
    (tmp_path / "pose.task").touch()
    found = sources(
        identity={kind: f"{kind}:{tmp_path / kind}" for kind in ("clip", "dino", "faces")},
        features={"published": f"inception:{tmp_path / 'inception.pt'}"},
        pose=f"mediapipe:{tmp_path / 'pose.task'}",
        lpips="squeeze",
    )
    assert [(source.kind, source.path) for source in found.all] == [
        ("clip", tmp_path / "clip"),
        ("dino", tmp_path / "dino"),
        ("faces", tmp_path / "faces"),
        ("mediapipe", tmp_path / "pose.task"),
        ("inception", tmp_path / "inception.pt"),
    ]
    assert sources(pose="mediapipe").pose == Source("mediapipe", None)
    assert found.lpips.name == "lpips squeeze"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"identity": {"a": "nowhere.safetensors"}},
            "measures.identity.a is nowhere.safetensors, but there is no such",
        ),
        (
            {"identity": {"a": "resnet:folder"}},
            "no such file. Networks of other kinds are named kind:path, with one of",
        ),
        (
            {"identity": {"a": "clip:nowhere"}},
            "measures.identity.a is nowhere, which is no folder of a network of the kind clip: it has no config.json",
        ),
        ({"identity": {"a": "clip:"}}, "measures.identity.a is 'clip:', which names no file or folder after the colon"),
        (
            {"identity": {"a": "inception:file"}},
            'a network of the kind inception cannot measure this. Give the file of a recognition .* or "clip:…"',
        ),
        ({"features": {"a": "faces:folder"}}, "a network of the kind faces cannot measure this"),
        ({"pose": "dino:folder"}, 'cannot measure this. Give the file of a joints network .* or "mediapipe:…"'),
        ({"text": "nowhere"}, "measures.text is nowhere, which is no folder of a network of the kind pair"),
    ],
)
def test_networks_that_are_not_there(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sources(**values)


def test_fingerprints_are_of_content(toy: Toy, tmp_path: Path) -> None:
    copied = Path(shutil.copy(toy.identity, tmp_path / "other_name.safetensors"))
    other = write_recogniser(tmp_path / "other.safetensors", seed=9)
    prints = [Source("recognition", path).fingerprint() for path in (toy.identity, copied, other)]
    assert prints[0] == prints[1] != prints[2]
    pair = Path(shutil.copytree(toy.pair, tmp_path / "pair"))
    assert Source("pair", pair).fingerprint() == Source("pair", toy.pair).fingerprint()
    (pair / "open_clip_config.json").write_text("{}")
    assert Source("pair", pair).fingerprint() != Source("pair", toy.pair).fingerprint()
    named = {Source("mediapipe", None).fingerprint(), Source("lpips", Path("alex")).fingerprint()}
    assert len({*named, Source("lpips", Path("vgg")).fingerprint()}) == 3
