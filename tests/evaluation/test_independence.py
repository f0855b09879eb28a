"""No network judges what it has taught or told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bolid.evaluation.adapters import Adapters
from bolid.evaluation.independence import check_independence
from bolid.evaluation.sources import Sources
from bolid.models.adapter import AdapterLayout
from bolid.models.adapter_file import write_adapter
from bolid.models.build import build_adapter
from bolid.training.config import LossSettings
from bolid.training.fingerprint import file_hash
from bolid.training.image_text import image_text_fingerprint

from ..support.face_analysis import write_face_analysis_pack
from ..support.toy_training import write_toy_clip
from .conftest import Toy, write_recogniser, write_toy_adapter


def check(toy: Toy, adapter: Path, measures: dict[str, Any], **base: Any) -> list[str]:
    methods = {"m": {"adapter": str(adapter), "references": [1]}}
    settings = toy.settings(toy.folder / "out", methods, measures=measures, base=base)
    return check_independence(Sources.of(settings.measures), Adapters(settings), settings.base)


def test_other_networks_may_measure(toy: Toy) -> None:
    assert check(toy, toy.adapters[0], toy.measures) == []


@pytest.mark.parametrize("key", ["loss.clip_model", "loss.keypoint_network"])
def test_a_loss_is_no_measure(toy: Toy, tmp_path: Path, key: str) -> None:
    taught_by = {
        "loss.clip_model": image_text_fingerprint(LossSettings(clip_model=f"local-dir:{toy.pair}")),
        "loss.keypoint_network": file_hash(toy.joints),
    }
    path = write_toy_adapter(
        tmp_path / "a.safetensors", toy.base, toy.image_encoder, seed=1, training={"settings": {key: taught_by[key]}}
    )
    named = {"loss.clip_model": {"text": str(toy.pair)}, "loss.keypoint_network": {"pose": str(toy.joints)}}
    with pytest.raises(ValueError, match=f"but this network was the loss \\({key}\\) of .*a.safetensors: it would"):
        check(toy, path, named[key])
    # The other one of the two was no loss.
    (other,) = (measures for other_key, measures in named.items() if other_key != key)
    assert check(toy, path, other) == []


def test_another_pair_than_that_of_the_loss_may_measure(toy: Toy, tmp_path: Path) -> None:
    settings = {"loss.clip_model": "of another pair"}
    path = write_toy_adapter(
        tmp_path / "a.safetensors", toy.base, toy.image_encoder, seed=1, training={"settings": settings}
    )
    assert check(toy, path, {"text": str(write_toy_clip(tmp_path / "pair"))}) == []


def test_an_encoder_is_no_measure(toy: Toy, tmp_path: Path) -> None:
    measures = {"identity": {"own": f"clip:{toy.image_encoder}"}}
    with pytest.raises(ValueError, match="draws from what this network \\(base.image_encoder\\) says about the photos"):
        check(toy, toy.adapters[0], measures)
    layout = AdapterLayout(
        kind="faceid", cross_attention_dim=32, num_tokens=4, face_embed_dim=512, inner_dim=64, layers={1: 32}
    )
    reads_faces = tmp_path / "faceid.safetensors"
    write_adapter(reads_faces, build_adapter(layout), base_model="custom", image_encoder="toy")
    pack = str(write_face_analysis_pack(tmp_path))
    assert check(toy, reads_faces, measures, face_pack=pack) == []
    with pytest.raises(ValueError, match="draws from what this network \\(base.face_pack\\) says about the photos"):
        check(toy, reads_faces, {"identity": {"face": f"faces:{pack}"}}, face_pack=pack)
    assert check(toy, toy.adapters[0], {"identity": {"face": f"faces:{pack}"}}, face_pack=pack) == []


def test_networks_that_learned_from_the_people_of_encoders_are_doubted(toy: Toy, tmp_path: Path) -> None:
    path = write_recogniser(tmp_path / "encoder.safetensors", seed=1, split="base")
    (doubt,) = check(toy, toy.adapters[0], {"identity": {"a": str(path)}, "features": {"b": str(toy.identity)}})
    assert doubt.startswith("measures.identity.a: encoder.safetensors learned from the people of the split 'base'")
